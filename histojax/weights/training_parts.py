"""The parts that a training goes on from: backbones and heads of teacher and student, out of the files it left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from histojax.common.errors import UserError
from histojax.weights import own
from histojax.weights.backbone import backbone_at, open_backbone, search_file
from histojax.weights.checks import value_faults
from histojax.weights.containers import open_tensors
from histojax.weights.layouts.dinov2 import read_head
from histojax.weights.search import BACKBONE, DINO_HEAD, IBOT_HEAD, SIDES, Place, choose_place
from histojax.weights.strangers import refuse_folder
from histojax.weights.tensors import TensorFile
from histojax.weights.trees import flatten

_BOTH = "says neither teacher nor student: used for both"


def read_training_parts(*paths: str | Path) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Return ({"teacher": {"backbone": ..., "dino_head": ..., "ibot_head": ...}, "student": ...}, notes).

    Only what the files hold is there. Files say by their top-level key or their names which side they are: the
    training's own `teacher_checkpoint.pth`, `student_checkpoint.pth` and `*_dino_head_checkpoint.pth` (Roth, Koch
    et al. 2024), or a full `model_*.rank_0.pth`. A file without a side (a released backbone) starts both sides.

    Raises:
        UserError: as backbone.open_backbone, or when two files hold the same part of a side with other numbers.
    """
    sides: dict[str, dict[str, Any]] = {}
    notes: list[str] = []
    for path in paths:
        file = open_tensors(path)
        if own.FAMILY in file.metadata:
            tree, _, how = open_backbone(path, family="vit").read_to_train()
            for side in SIDES:
                _add(sides.setdefault(side, {}), side, BACKBONE, tree, path)
            notes += [f"{Path(path).name}: {note}" for note in (*how, _BOTH)]
            continue
        tensors, places, how = search_file(file)
        found = {place.side for place in places} - {""}
        how += [] if found else [_BOTH]
        for kind in (BACKBONE, DINO_HEAD, IBOT_HEAD):
            for side in sorted(found) or [""]:
                here = [place for place in places if place.kind == kind and place.side in (side, "")]
                if (place := _the_place(file, here, places, kind)) is None:
                    continue
                tree, more = _read_part(file, tensors, place, places)
                how += [note for note in more if note not in how]
                for one in [side] if side else SIDES:
                    _add(sides.setdefault(one, {}), one, kind, tree, path)
        if not sides:
            raise UserError(f"{path}: no ViT and no projection head in it")
        notes += [f"{Path(path).name}: {note}" for note in how]
    return sides, notes


def _the_place(file: TensorFile, here: Sequence[Place], places: Sequence[Place], kind: str) -> Place | None:
    """Return the one place of a kind, None if there is none."""
    if kind == BACKBONE:
        return choose_place(here, family="vit")[0]
    if len(here) > 1:
        raise UserError(f"{file.path}: holds several heads: {', '.join(place.title for place in here)}")
    return here[0] if here else None


def _read_part(
    file: TensorFile, tensors: Mapping[str, Any], place: Place, places: Sequence[Place]
) -> tuple[dict[str, Any], list[str]]:
    if place.kind == BACKBONE:
        tree, _, notes = backbone_at(file, tensors, place, places, family="vit").read_to_train()
        return tree, notes
    tree, report = read_head({name: tensors[place.prefix + name] for name in place.names})
    report.problems += value_faults(flatten(tree), report.origin)
    report.raise_if_bad(None, f"{file.path} ({place.kind})")
    return tree, []


def _add(parts: dict[str, Any], side: str, name: str, tree: dict[str, Any], path: str | Path) -> None:
    """Put a part among those of its side; the same one may come twice, as the paper's files have the heads."""
    if name in parts and not _equal(parts[name], tree):
        raise UserError(f"{path}: a second {side} {name} with other numbers; give each part in one file only")
    parts[name] = tree


def _equal(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    left, right = flatten(a), flatten(b)
    return left.keys() == right.keys() and all(np.array_equal(left[name], right[name]) for name in left)


def training_files(folder: str | Path) -> list[Path]:
    """Return the files of a folder that hold a training's teacher, student or heads, by their usual names.

    Those are `*teacher*checkpoint*` and `*student*checkpoint*` (.pth or .safetensors) of the paper's code and of
    ours. Raises UserError if there are none.
    """
    found = [path for path in sorted(Path(folder).iterdir()) if _is_training_file(path.name)]
    if not found:
        refuse_folder(Path(folder))
        raise UserError(f"{folder}: no teacher_checkpoint or student_checkpoint (.pth, .safetensors) in this folder")
    return found


def _is_training_file(name: str) -> bool:
    sided = "checkpoint" in name and ("teacher" in name or "student" in name)
    return sided and name.endswith((".pth", ".safetensors")) and not name.startswith(".")
