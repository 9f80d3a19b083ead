"""The folder that CLAM's training takes, beside TRIDENT's: clam_ENCODER/{h5_files/SLIDE.h5,pt_files/SLIDE.pt}."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np

from histojax.common.errors import UserError
from histojax.common.files import advice, reason, replacing, write_atomic
from histojax.features.folder import JobFolder
from histojax.features.read import read_features
from histojax.weights.torch_write import torch_bytes


def write_clam(folder: JobFolder, encoder: str, slide: str) -> None:
    """Links the feature file of a slide and writes its features as a tensor, float32; what is there is left alone.

    Raises UserError for something else of that name, and where nothing can be written.
    """
    features = folder.features(encoder, slide)
    base = folder.base / f"clam_{encoder}"
    link, tensor = base / "h5_files" / features.name, base / "pt_files" / f"{features.stem}.pt"
    try:
        for path in (link, tensor):
            path.parent.mkdir(parents=True, exist_ok=True)
        _link(link, features)
    except OSError as error:
        raise UserError(f"{link}: cannot be made ({reason(error)}){advice(error)}") from None
    data = torch_bytes(np.asarray(read_features(features).features, np.float32), features.stem)
    if not tensor.exists():
        write_atomic(tensor, data)
    elif tensor.read_bytes() != data:
        raise UserError(f"{tensor}: has other features than {features}; move it away and run again")


def _link(link: Path, features: Path) -> None:
    if link.is_symlink() or link.exists():
        if not link.exists() or not (link.samefile(features) or link.read_bytes() == features.read_bytes()):
            raise UserError(f"{link}: is not {features}; move it away and run again")
        return
    try:
        link.symlink_to(os.path.relpath(features, link.parent))
    except FileExistsError:  # of another job
        return
    except OSError:  # a drive without links
        with replacing(link) as partial:
            shutil.copyfile(features, partial)
