"""Any weight file in, the parameter tree of its network out: containers, wrappers, layouts and the strict report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from histojax.common.errors import UserError
from histojax.weights import own
from histojax.weights.checks import value_faults
from histojax.weights.containers import read_tensors
from histojax.weights.detect import FAMILIES, check_family, the_layout, title
from histojax.weights.layouts import Layout
from histojax.weights.lazy import Checkpoint
from histojax.weights.mapping import Report, flatten, ghost, is_ghost, shape_of
from histojax.weights.unwrap import clean_names, is_aside, sides_of, split_modules
from histojax.weights.vit_tree import grid_of, positions_of, with_class_row, without_class_row

_TOKENS = ("cls_token", "register_tokens", "pos_embed")
_SHOWN = 6


class Weights(NamedTuple):
    """What `read_tree` returns."""

    family: str  # a key of detect.FAMILIES
    layout: str
    tree: dict[str, Any]
    report: Report
    notes: list[str]


@dataclass(frozen=True)
class Found:
    """A weight file that was opened and recognised; its tensors are still in it."""

    path: Path
    container: str
    layout: Layout
    tensors: Mapping[str, Any]  # of the backbone, under clean names
    notes: tuple[str, ...]  # every step taken, and why
    unused: tuple[str, ...] = ()  # names outside the backbone that nothing is known of
    aside: tuple[str, ...] = ()  # those that are known and not needed
    sides: tuple[str, ...] = ()  # those of teacher and student that the file has

    @property
    def family(self) -> str:
        """The network it is for, a key of detect.FAMILIES."""
        return self.layout.family

    def shapes(self, expected: Mapping[str, Any] | None = None) -> tuple[dict[str, Any], Report]:
        """Return (tree, Report) whose leaves have shapes and no content; nothing is read. Arguments as of `read`."""
        ghosts = {name: ghost(tensor.shape) for name, tensor in self.tensors.items()}
        tree, report, _ = self._read(ghosts, None, expected)
        return tree, report

    def position_grid(self) -> int | None:
        """Return the side of a ViT's position grid in patches; None where a file has no positions."""
        shapes = self.shapes()[0]
        try:
            return grid_of(shapes) if self.family == "vit" and "pos_embed" in shapes else None
        except UserError as error:
            raise UserError(f"{self.path}: {error}") from None

    def read(
        self, expected: Mapping[str, Any] | None = None, ignore: Sequence[str] = ()
    ) -> tuple[dict[str, Any], Report, list[str]]:
        """Return (tree, Report, notes); see `read_tree`. All is checked by shapes before a tensor is read."""
        self._check(self.shapes(expected)[1], expected, ignore)
        tree, report, notes = self._read(self.tensors, np.float32, expected)
        if faults := value_faults(flatten(tree), report.origin):
            more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
            raise UserError(f"{self.path}: {'; '.join(faults[:3])}{more}. Get the file anew from its authors")
        report.unused, report.ignored = [], sorted({*report.ignored, *report.unused})
        return tree, report, [*self.notes, *notes]

    def _read(
        self, tensors: Mapping[str, Any], dtype: Any, expected: Mapping[str, Any] | None
    ) -> tuple[dict[str, Any], Report, list[str]]:
        tree, report = self.layout.read(tensors, dtype=dtype, expected=expected)
        report.unused = sorted({*report.unused, *self.unused})
        report.ignored = sorted({*report.ignored, *self.aside})
        notes: list[str] = []
        if self.family == "vit" and expected is not None and not report.missing and not report.problems:
            tree, notes = _fit_vit(tree, flatten(expected), dtype or "V0")
            report.shapes = {path: leaf.shape for path, leaf in flatten(tree).items()}
        return tree, report, notes

    def _check(self, report: Report, expected: Mapping[str, Any] | None, ignore: Sequence[str]) -> None:
        what = f"{self.path}: read as {title(self.layout)}"
        report.raise_if_bad(expected, what)
        extra = [name for name in report.unused if not any(fnmatchcase(name, pattern) for pattern in ignore)]
        if extra:
            more = f" and {len(extra) - _SHOWN} more" if len(extra) > _SHOWN else ""
            raise UserError(
                f"{what}: {len(extra)} tensors have no place in this network: {', '.join(extra[:_SHOWN])}{more}. The "
                "file is of a variant that is not known here; if they may be left out, say so with convert's --ignore"
            )


def read_tree(
    path: str | Path,
    *,
    family: str | None = None,
    layout: str | None = None,
    which: str | None = None,
    expected: Mapping[str, Any] | None = None,
    ignore: Sequence[str] = (),
) -> Weights:
    """Return (family, layout, tree, Report, notes) of a weight file of any kind.

    The tree has the shapes of the network's own: positions as the file has them, unless `expected` has the same
    ones in another form (with or without a class row, with rows for registers); a mask token is made of zeros if
    `expected` has one and the file has not. The grid of positions keeps its size.

    Args:
        path: file, index of shards, or folder; see containers.read_tensors.
        family: the network it is for (a key of detect.FAMILIES); None recognises it.
        layout: the layout's name ("meta", "timm", "hf" ...); None recognises it by the names.
        which: "teacher" or "student" where the file has both (default: teacher), or the key of the tensors wanted.
        expected: the network's tree (leaves with a shape); its spare parts (a classifier) are read only if it has
            them. None checks completeness alone.
        ignore: shell patterns of names that may be left out though nothing is known of them.

    Raises:
        UserError: unreadable file, unknown or ambiguous layout, another architecture, and every tensor that is
            missing, misshapen or left over.
    """
    found = open_weights(path, family=family, layout=layout, which=which)
    tree, report, notes = found.read(expected, ignore)
    return Weights(found.family, found.layout.name, tree, report, notes)


def open_weights(
    path: str | Path, *, family: str | None = None, layout: str | None = None, which: str | None = None
) -> Found:
    """Return the opened file with what was recognised; arguments and errors as of `read_tree`."""
    check_family(family)
    checkpoint = read_tensors(path, which=which)
    if own.FAMILY in checkpoint.metadata:
        return _open_own(checkpoint, family, layout)
    modules, notes = modules_of(checkpoint, which)
    if "backbone" not in modules:
        raise UserError(f"{path}: holds a projection head and no backbone; give the backbone's file")
    tensors = modules.pop("backbone")
    chosen, why = the_layout(tensors, family=family, want=layout, file=path)
    rest = modules.pop("rest", {})
    aside = {name for name in rest if is_aside(name)}
    counts = {name: len(part) for name, part in modules.items()} | ({"other modules": len(aside)} if aside else {})
    if counts:
        notes.append("left aside: " + ", ".join(f"{count} tensors of {name}" for name, count in counts.items()))
    heads = [f"{module}.{name}" for module, part in modules.items() for name in part]
    return Found(
        checkpoint.path,
        checkpoint.container,
        chosen,
        tensors,
        (*notes, f"layout {title(chosen)}: {why}"),
        unused=tuple(sorted(set(rest) - aside)),
        aside=(*sorted(aside), *heads),
        sides=sides_of(checkpoint),
    )


def modules_of(checkpoint: Checkpoint, which: str | None) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Return the flat dicts of a file's modules under clean names (see unwrap.split_modules), and notes."""
    notes = [checkpoint.container + (f", key {checkpoint.wrapper!r}" if checkpoint.wrapper else "")]
    try:
        tensors, more = clean_names(checkpoint.tensors, which)
    except UserError as error:
        raise UserError(f"{checkpoint.path}: {error}") from None
    return split_modules(tensors), notes + checkpoint.notes + more


def _fit_vit(tree: dict[str, Any], expected: Mapping[str, Any], dtype: Any) -> tuple[dict[str, Any], list[str]]:
    """Return (tree, notes) with positions in the form that `expected` has, and with its mask token."""
    notes: list[str] = []
    wanted = shape_of(expected["pos_embed"])[1] if "pos_embed" in expected else None
    if wanted is not None and tree["pos_embed"].shape[1] != wanted:
        for change, form in ((with_class_row, "class row + patches"), (without_class_row, "patches alone")):
            changed = _changed(tree, change)
            if changed["pos_embed"].shape[1] == wanted:
                notes.append(f"pos_embed had rows for {positions_of(tree)}: rewritten as {form}")
                tree = changed
                break
    if "mask_token" in expected and "mask_token" not in tree:
        tree = tree | {"mask_token": np.zeros((1, tree["cls_token"].shape[-1]), dtype)}
        notes.append("no mask token in the file: zeros, its initial value")
    return tree, notes


def _changed(tree: dict[str, Any], change: Callable[[dict], dict]) -> dict[str, Any]:
    """Return the tree after a change of its tokens; of one without content, the shapes."""
    if not is_ghost(tree["pos_embed"]):
        return change(tree)
    tokens = {name: np.zeros(tree[name].shape, np.float32) for name in _TOKENS if name in tree}
    return tree | {name: ghost(array.shape) for name, array in change(tokens).items()}


def _open_own(checkpoint: Checkpoint, family: str | None, layout: str | None) -> Found:
    found = checkpoint.metadata[own.FAMILY]
    if layout not in (None, own.NAME):
        raise UserError(f"{checkpoint.path}: has histojax's own layout, not {layout!r}; leave --layout out")
    if family not in (None, found) or found not in FAMILIES:
        raise UserError(
            f"{checkpoint.path}: these are weights of another architecture, {FAMILIES.get(found, found)}; expected "
            f"{FAMILIES.get(family or '', 'one of ' + ', '.join(FAMILIES))}"
        )
    chosen = own.layout_of(found, own.names_in(checkpoint.metadata))
    notes = (checkpoint.container, f"layout {title(chosen)}: its metadata says {own.FAMILY}={found}")
    return Found(checkpoint.path, checkpoint.container, chosen, checkpoint.tensors, notes)
