"""Weight files in, the trees that training starts from out. Other networks are read by histojax.weights.read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from histojax.common.errors import UserError
from histojax.weights.containers import read_tensors
from histojax.weights.detect import the_layout
from histojax.weights.layouts.dinov2 import read_head
from histojax.weights.mapping import Report, flatten
from histojax.weights.read import modules_of, open_weights
from histojax.weights.unwrap import SIDES, sides_of
from histojax.weights.vit_tree import positions_of, with_class_row


def load_backbone(
    path: str | Path,
    which: str | None = None,
    *,
    layout: str | None = None,
    expected: Mapping[str, Any] | None = None,
) -> tuple[dict[str, Any], Report, list[str]]:
    """Return (backbone tree, Report, notes on every step taken) of a ViT's weight file, to train on.

    The position embedding comes out with a class row, and a mask token is there, whatever the file's layout; the
    grid keeps its size (see pos_embed.resample_grid).

    Args:
        path: file or folder, see containers.read_tensors.
        which: "teacher" or "student" where the file has both (default: teacher).
        layout: name of the layout ("meta", "timm", "hf"); None recognises it by the names.
        expected: shapes the tree must have; None checks completeness only.

    Raises:
        UserError: as read.read_tree.
    """
    found = open_weights(path, family="vit", layout=layout, which=which)
    tree, report, notes = found.read()
    tree, more = _trainable(tree)
    report.shapes = {leaf: value.shape for leaf, value in flatten(tree).items()}
    report.raise_if_bad(expected, path)
    return tree, report, notes + more


def load_ssl(*paths: str | Path) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Return ({"teacher": {"backbone": ..., "dino_head": ..., "ibot_head": ...}, "student": ...}, notes).

    Only what the files hold is there. Files say by their top-level key or their names which side they are: the
    training's own `teacher_checkpoint.pth`, `student_checkpoint.pth` and `*_dino_head_checkpoint.pth` (Roth, Koch
    et al. 2024), or a full `model_*.rank_0.pth`. A file without a side (a released backbone) starts both sides.

    Raises:
        UserError: as load_backbone, or when two files hold the same part of the same side with other numbers.
    """
    sides: dict[str, dict[str, Any]] = {}
    notes: list[str] = []
    for path in paths:
        found = sides_of(read_tensors(path))
        if not found:
            notes.append(f"{Path(path).name}: says neither teacher nor student: used for both")
        for side in found or SIDES:
            side_of_file = side if found else None
            modules, more = modules_of(read_tensors(path, which=side_of_file), side_of_file)
            notes += [f"{Path(path).name}: {note}" for note in more if note not in notes]
            for name, tensors in modules.items():
                if name != "rest":
                    _add(sides.setdefault(side, {}), side, name, _read_module(name, tensors, path), path)
    return sides, notes


def _add(parts: dict[str, Any], side: str, name: str, tree: dict[str, Any], path: str | Path) -> None:
    """Put a module among the parts of its side; the same one may come twice, as the paper's files have the heads."""
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
        raise UserError(f"{folder}: no teacher_checkpoint or student_checkpoint (.pth, .safetensors) in this folder")
    return found


def _is_training_file(name: str) -> bool:
    sided = "checkpoint" in name and ("teacher" in name or "student" in name)
    return sided and name.endswith((".pth", ".safetensors")) and not name.startswith(".")


def _read_module(name: str, tensors: Mapping[str, Any], path: str | Path) -> dict[str, Any]:
    if name != "backbone":
        tree, report = read_head(tensors)
        report.raise_if_bad(None, f"{path} ({name})")
        return tree
    layout, _ = the_layout(tensors, family="vit", file=path)
    tree, report = layout.read(tensors)
    report.raise_if_bad(None, f"{path} ({name})")
    return _trainable(tree)[0]


def _trainable(tree: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return (tree, notes) with a class row and a mask token, as the training's network has them."""
    notes = []
    if positions_of(tree) != "cls":
        notes.append(f"pos_embed had rows for {positions_of(tree)}: rewritten as class row + patches")
        tree = with_class_row(tree)
    if "mask_token" not in tree:
        notes.append("no mask token in the file: zeros, its initial value")
        tree = tree | {"mask_token": np.zeros((1, tree["cls_token"].shape[-1]), np.float32)}
    return tree, notes
