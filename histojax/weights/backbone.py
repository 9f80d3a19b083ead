"""Any weight file in, the parameter tree of its network out: the one way in, for encoders and for training."""

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
from histojax.weights.containers import open_tensors
from histojax.weights.detect import the_layout
from histojax.weights.families import FAMILIES, check_family, title
from histojax.weights.layouts import Layout
from histojax.weights.report import Report
from histojax.weights.search import (
    SIDES,
    WHOLE,
    Place,
    choose_place,
    clean_names,
    find_places,
    is_aside,
    list_other_keys,
    sort_others,
    tensors_at,
    whole_level,
)
from histojax.weights.strangers import known_stranger
from histojax.weights.tensors import TensorFile
from histojax.weights.trees import flatten, ghost, is_ghost, shape_of
from histojax.weights.vit_tree import grid_of, positions_of, with_class_row, without_class_row

_TOKENS = ("cls_token", "register_tokens", "pos_embed")
_SHOWN = 6


class Weights(NamedTuple):
    """What was read of a file."""

    tree: dict[str, Any]
    report: Report
    notes: list[str]  # every step taken, and why


@dataclass(frozen=True)
class Backbone:
    """The network of a weight file that was opened and recognised; its tensors are still in the file."""

    path: Path
    container: str
    layout: Layout
    tensors: Mapping[str, Any]  # under clean names, without prefix
    notes: tuple[str, ...] = ()
    place: Place = WHOLE
    unused: tuple[str, ...] = ()  # names beside the network that nothing is known of
    aside: tuple[str, ...] = ()  # those that are known and not needed
    sides: tuple[str, ...] = ()  # those of teacher and student that the file has

    @property
    def family(self) -> str:
        """The network it is for, a key of families.FAMILIES."""
        return self.layout.family

    def shapes(self, expected: Mapping[str, Any] | None = None) -> tuple[dict[str, Any], Report]:
        """Return (tree, Report) whose leaves have shapes and no content; nothing is read. Arguments as of `read`."""
        ghosts = {name: ghost(tensor.shape) for name, tensor in self.tensors.items()}
        return self._read(ghosts, None, expected)[:2]

    def position_grid(self) -> int | None:
        """Return the side of a ViT's position grid in patches; None where a file has no positions."""
        shapes = self.shapes()[0]
        try:
            return grid_of(shapes) if self.family == "vit" and "pos_embed" in shapes else None
        except UserError as error:
            raise UserError(f"{self.path}: {error}") from None

    def read(self, expected: Mapping[str, Any] | None = None, ignore: Sequence[str] = ()) -> Weights:
        """Return (tree, Report, notes). All is checked by shapes before a tensor is read, and then by its numbers.

        The tree has the shapes of the network's own: positions as the file has them, unless `expected` has the same
        ones in another form (with or without a class row, with rows for registers); a mask token is made of zeros if
        `expected` has one and the file has not. The grid of positions keeps its size.

        Args:
            expected: the network's tree (leaves with a shape); its spare parts (a classifier) are read only if it
                has them. None checks completeness alone.
            ignore: shell patterns of names that may be left out though nothing is known of them.

        Raises:
            UserError: another architecture, every tensor that is missing, misshapen or left over, and numbers that
                were never trained (see checks.value_faults).
        """
        self._check(self.shapes(expected)[1], expected, ignore)
        tree, report, notes = self._read(self.tensors, np.float32, expected)
        if faults := value_faults(flatten(tree), report.origin):
            more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
            raise UserError(f"{self.path}: {'; '.join(faults[:3])}{more}. Get the file anew from its authors")
        report.unused, report.ignored = [], sorted({*report.ignored, *report.unused})
        return Weights(tree, report, [*self.notes, *notes])

    def read_to_train(self, expected: Mapping[str, Any] | None = None) -> Weights:
        """Return `read` of a ViT with a class row and a mask token, as the training's network has them."""
        tree, report, notes = self.read()
        wanted = {
            **tree,
            "mask_token": (1, tree["cls_token"].shape[-1]),
            "pos_embed": with_class_row(tree)["pos_embed"],
        }
        tree, more = _fit_vit(tree, wanted, np.float32)
        report.shapes = {path: leaf.shape for path, leaf in flatten(tree).items()}
        report.raise_if_bad(expected, self.path)
        return Weights(tree, report, notes + more)

    def _read(self, tensors: Mapping[str, Any], dtype: Any, expected: Mapping[str, Any] | None) -> Weights:
        tree, report = self.layout.read(tensors, dtype=dtype, expected=expected)
        aside = {name for name in report.unused if is_aside(name, self.place)}
        report.unused = sorted({*report.unused, *self.unused} - aside)
        report.ignored = sorted({*report.ignored, *self.aside, *aside})
        notes: list[str] = []
        if self.family == "vit" and expected is not None and not report.missing and not report.problems:
            tree, notes = _fit_vit(tree, flatten(expected), dtype or "V0")
            report.shapes = {path: leaf.shape for path, leaf in flatten(tree).items()}
        return Weights(tree, report, notes)

    def _check(self, report: Report, expected: Mapping[str, Any] | None, ignore: Sequence[str]) -> None:
        what = f"{self.path}: read as {title(self.layout)}"
        report.raise_if_bad(expected, what)
        extra = [name for name in report.unused if not any(fnmatchcase(name, pattern) for pattern in ignore)]
        if extra:
            more = f" and {len(extra) - _SHOWN} more" if len(extra) > _SHOWN else ""
            known = known_stranger(extra)
            raise UserError(
                f"{what}: {len(extra)} tensors have no place in this network: {', '.join(extra[:_SHOWN])}{more}. "
                f"{f'This looks like {known}' if known else 'The file is of a variant that is not known here'}; if "
                "they may be left out, say so with convert's --ignore"
            )


def open_backbone(
    path: str | Path, *, family: str | None = None, layout: str | None = None, which: str | None = None
) -> Backbone:
    """Return the network in a weight file of any kind, with what was recognised.

    Args:
        path: file, index of shards, or folder; see containers.open_tensors.
        family: the network it is for (a key of families.FAMILIES); None recognises it.
        layout: the layout's name ("meta", "timm", "hf" ...); None recognises it by the names.
        which: "teacher" or "student" where the file has both (default: teacher), or a prefix of the tensors wanted.

    Raises:
        UserError: unreadable file, no network or several in it, unknown or ambiguous layout, another architecture.
    """
    check_family(family)
    file = open_tensors(path)
    if own.FAMILY in file.metadata:
        if which not in (None, *SIDES):
            raise UserError(
                f"{file.path}: no network under {which!r}; histojax's own files hold one: leave --which out"
            )
        return _open_own(file, family, layout)
    tensors, places, notes = search_file(file)
    try:
        place, more = choose_place(places, which, family)
    except UserError as error:
        raise UserError(f"{file.path}: {error}") from None
    if place is None and places:
        raise UserError(f"{path}: holds a projection head and no backbone; give the backbone's file")
    place = place or whole_level(tensors, strip=layout is not None)
    return backbone_at(file, tensors, place, places, [*notes, *more], family, layout)


def search_file(file: TensorFile) -> tuple[dict[str, Any], list[Place], list[str]]:
    """Return (tensors under clean names, the networks and heads among them, notes) of a file."""
    try:
        tensors, notes = clean_names(file.tensors)
    except UserError as error:
        raise UserError(f"{file.path}: {error}") from None
    return tensors, find_places(tensors), notes


def backbone_at(
    file: TensorFile,
    tensors: Mapping[str, Any],
    place: Place,
    places: Sequence[Place],
    notes: Sequence[str] = (),
    family: str | None = None,
    layout: str | None = None,
) -> Backbone:
    """Return the network at a place of a file; other arguments as of open_backbone, errors too."""
    inner = tensors_at(tensors, place, places)
    chosen, why = the_layout(inner, family=family, want=layout, file=file.path)
    aside, unknown = sort_others(tensors, place, places)
    aside += [place.prefix + name for name in place.names if name not in inner]
    left = [f"{len(aside)} tensors of other modules"] if aside else []
    left += list_other_keys(tensors, file.other, place)
    named = sorted(file.named)
    told = [file.container, *notes]
    told += [f"left aside: {_listing(left)}"] if left else []
    told += [f"named in the file and not run: {_listing(named)}"] if named else []
    sides = tuple(sorted({one.side for one in places} - {""}))
    told.append(f"layout {title(chosen)}: {why}")
    return Backbone(file.path, file.container, chosen, inner, tuple(told), place, tuple(unknown), tuple(aside), sides)


def _listing(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


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


def _open_own(file: TensorFile, family: str | None, layout: str | None) -> Backbone:
    found = file.metadata[own.FAMILY]
    if layout not in (None, own.NAME):
        raise UserError(f"{file.path}: has histojax's own layout, not {layout!r}; leave --layout out")
    if family not in (None, found) or found not in FAMILIES:
        what = FAMILIES[found].title if found in FAMILIES else found
        wanted = FAMILIES[family].title if family else f"one of {', '.join(FAMILIES)}"
        raise UserError(f"{file.path}: these are weights of another architecture, {what}; expected {wanted}")
    chosen = own.layout_of(found, own.names_in(file.metadata))
    notes = (file.container, f"layout {title(chosen)}: its metadata says {own.FAMILY}={found}")
    return Backbone(file.path, file.container, chosen, file.tensors, notes)
