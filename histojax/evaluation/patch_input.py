"""Labelled tiles by their features: what the patch protocol reads, from feature files of any program or plain arrays.

Labels, patients and centres come from the file (histojax extract keeps those of folders and tables) or from a table
beside it: a row a tile (its name in the file) or a row a slide (the name of its feature file).
"""

from __future__ import annotations

import dataclasses
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from histojax.common.errors import UserError
from histojax.common.files import expanded
from histojax.data.audit import plain_unit
from histojax.data.columns import CENTRE, LABEL, PATIENT, SLIDE, by_value, is_nothing, plain
from histojax.data.columns import FILE as TILE
from histojax.data.workbook import read_sheet
from histojax.features.read import read_features
from histojax.features.stored import Header, StoredFeatures, check_mixable

SUFFIXES = (".h5", ".hdf5", ".pt", ".pth", ".npz")
ARRAYS = "features (n, d), labels (n,), and optionally groups, centres, names (n,)"


@dataclass(frozen=True)
class PatchSet:
    """Features of n labelled tiles and what is known of each.

    Args:
        features: (n, d) float32, finite.
        labels: (n,) int64, numbers of `classes`.
        classes: names, in the order of the numbers.
        names: (n,) str, different ones.
        groups: (n,) str, patient or slide, "" where unknown; None where no one's is known.
        group_kind: what groups are: patient, slide, sample, group.
        centres: (n,) str, centre or scanner, "" where unknown, or None.
        headers: of the feature files; () for plain arrays.
        where: as the user named it.
        left_out: {reason: tiles}.
        notes: sentences.
        hashes: (n,) data.hashes.ROW of the tiles, where their pixels were read for them, or None.
        tile: the pixels of a tile by its row, (h, w, 3) uint8, or None where they are not at hand.
    """

    features: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    names: np.ndarray
    groups: np.ndarray | None = None
    group_kind: str = ""
    centres: np.ndarray | None = None
    headers: tuple[Header, ...] = ()
    where: str = ""
    left_out: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    hashes: np.ndarray | None = None
    tile: Callable[[int], np.ndarray | None] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: np.ndarray) -> PatchSet:
        """The tiles of these rows, in this order."""
        picked: dict[str, Any] = {
            key: None if (value := getattr(self, key)) is None else value[rows]
            for key in ("features", "labels", "names", "groups", "centres", "hashes")
        }
        tile = None if self.tile is None else _renumbered(self.tile, rows)
        return dataclasses.replace(self, **picked, tile=tile)

    def counts(self) -> dict[str, int]:
        """{class: tiles}."""
        each = np.bincount(self.labels, minlength=len(self.classes))
        return {name: int(count) for name, count in zip(self.classes, each)}


def read_patches(paths: Sequence[str | Path], table: str | Path | None = None) -> PatchSet:
    """The labelled tiles of feature files (or folders of them), their rows one file after the other.

    Args:
        paths: .h5 of histojax, TRIDENT, CLAM, STAMP ...; .npz with `features`, `labels` and, if known, `groups`,
            `centres`, `names`; folders, searched with their sub-folders.
        table: csv or xlsx with the columns tile or slide, label, and, if known, patient and centre; what it says of
            a tile wins over the file.

    Raises UserError for files of different encoders, for tiles without any label, for numbers that are not finite.
    """
    files = [file for path in paths for file in _files(expanded(path))]
    parts = [_read(file) for file in files]
    notes = check_mixable([header for part in parts for header in part.headers])
    if table is not None:
        parts = _with_table(parts, expanded(table))
    joined = _joined(parts, many=len(files) > 1)
    known = joined.labels >= 0
    if not known.any():
        raise UserError(
            f"{files[0]}: no tile has a label; extract from a folder with one sub-folder a class or from a table with "
            "a label column, or give a table with --labels"
        )
    left = Counter(joined.left_out)
    if not known.all():
        left["without a label"] += int((~known).sum())
    where = ", ".join(str(path) for path in paths)
    kept = dataclasses.replace(joined, where=where, left_out=dict(left), notes=(*joined.notes, *notes))
    return without_unused(kept.take(np.flatnonzero(known)))


def of_one_mind(train: PatchSet, test: PatchSet) -> tuple[PatchSet, PatchSet]:
    """Both with the same class numbers (names in alphabetical order, numbers by value).

    Raises UserError if the widths differ, if their features must not be mixed, or if a class of the test does not
    occur in training. A class of the training that the test lacks is a note.
    """
    if train.features.shape[1] != test.features.shape[1]:
        raise UserError(
            f"{train.where} has {train.features.shape[1]} numbers a tile and {test.where} "
            f"{test.features.shape[1]}: features of one encoder are needed"
        )
    notes = check_mixable([*train.headers, *test.headers])
    unknown = sorted(set(test.classes) - set(train.classes))
    if unknown:
        raise UserError(
            f"{test.where}: class {unknown[0]!r} does not occur in {train.where} (classes there: "
            f"{', '.join(train.classes)}); rename it with --labels, or leave its tiles out"
        )
    lacking = sorted(set(train.classes) - set(test.classes))
    if lacking:
        notes.append(f"{test.where} has no tile of {', '.join(lacking)}: balanced accuracy is over the other classes")
    classes = tuple(sorted(train.classes, key=by_value))
    first, second = _renamed(train, classes), _renamed(test, classes)
    return dataclasses.replace(first, notes=(*first.notes, *notes)), second


def _renamed(one: PatchSet, classes: tuple[str, ...]) -> PatchSet:
    numbers = np.array([classes.index(name) for name in one.classes], np.int64)
    return dataclasses.replace(one, labels=numbers[one.labels], classes=classes)


def _files(path: Path) -> list[Path]:
    if path.is_file():
        if path.suffix.lower() not in SUFFIXES:
            raise UserError(f"{path}: no feature file ({', '.join(SUFFIXES)}); for tiles give --encoder, too")
        return [path]
    if not path.is_dir():
        raise UserError(f"{path}: no such file or folder")
    found = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
    found = [p for p in found if not p.stem.endswith("_patches")]
    encoders = sorted({str(p.parent) for p in found if p.parent.name.startswith("features_")})
    if len(encoders) > 1:
        raise UserError(
            f"{path}: holds features of several encoders ({', '.join(encoders)}); give one of these folders"
        )
    if not found:
        raise UserError(f"{path}: holds no feature file ({', '.join(SUFFIXES)}); for tiles give --encoder, too")
    return found


def _read(path: Path) -> PatchSet:
    """One file; labels are -1 where unknown, class names text."""
    if path.suffix.lower() == ".npz":
        return _of_arrays(path)
    found = read_features(path)
    header, count = found.header, len(found.features)
    labels = np.full(count, -1, np.int64) if found.labels is None else found.labels.astype(np.int64)
    names = _names(found, count)
    groups, kind = found.groups, header.group_kind
    left = {"unreadable when features were made": header.skipped} if header.skipped else {}
    return PatchSet(
        np.asarray(found.features, np.float32), labels, header.classes, names, groups, kind, headers=(header,),
        where=str(path), left_out=left, notes=header.origin.notes,
    )  # fmt: skip


def _names(found: StoredFeatures, count: int) -> np.ndarray:
    if found.names is not None:
        return np.asarray(found.names, str)
    if found.coords is not None:
        return np.array([f"{found.header.name} ({x}, {y})" for x, y in found.coords])
    return np.array([f"{found.header.name} row {i}" for i in range(count)])


def _of_arrays(path: Path) -> PatchSet:
    try:
        file = np.load(path, allow_pickle=False)
        if isinstance(file, np.ndarray):
            raise ValueError("one array alone")
        with file:
            arrays = {key: file[key] for key in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: cannot be read as arrays ({error}); expected {ARRAYS}") from error
    features = arrays.get("features")
    if features is None or features.ndim != 2 or not np.issubdtype(features.dtype, np.number) or not features.size:
        raise UserError(f"{path}: has {', '.join(arrays) or 'nothing'}; expected {ARRAYS}")
    count = len(features)
    for key in ("labels", "groups", "centres", "names"):
        if key in arrays and arrays[key].shape != (count,):
            raise UserError(f"{path}: {key} {arrays[key].shape} for {count} features; expected {ARRAYS}")
    with np.errstate(over="ignore"):
        features = features.astype(np.float32)  # what is too large for it is told below
    if not np.isfinite(features).all():
        bad = int((~np.isfinite(features).all(1)).sum())
        raise UserError(f"{path}: {bad} of {count} tiles have features that are not finite as float32")
    texts = {key: _as_text(path, key, arrays[key]) for key in ("labels", "groups", "centres", "names") if key in arrays}
    classes, labels = _coded(texts.pop("labels")) if "labels" in texts else ((), np.full(count, -1))
    names = texts.pop("names", np.array([f"{path.stem} row {i}" for i in range(count)]))
    return PatchSet(
        features, labels, classes, names, texts.get("groups"), "group", texts.get("centres"), where=str(path)
    )


def _as_text(path: Path, key: str, values: np.ndarray) -> np.ndarray:
    """(n,) str; whole numbers are written without a point (the class 1.0 of one file is the 1 of another)."""
    if np.issubdtype(values.dtype, np.floating):
        return np.array([str(int(x)) if float(x).is_integer() else str(x) for x in values])
    try:
        return np.char.decode(values, "utf-8") if values.dtype.kind == "S" else values.astype(str)
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: {key} are no text in UTF-8 ({error}); write them as str") from error


def _coded(texts: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
    """(class names, numbers); what says "unknown" is -1."""
    names = tuple(sorted({str(text) for text in texts if not is_nothing(str(text))}, key=by_value))
    numbers = {name: i for i, name in enumerate(names)}
    return names, np.array([numbers.get(str(text), -1) for text in texts], np.int64)


def _joined(parts: Sequence[PatchSet], many: bool) -> PatchSet:
    """One set of all; names get their file in front where two would be equal."""
    classes = tuple(sorted({name for part in parts for name in part.classes}, key=by_value))
    labels = []
    for part in parts:
        numbers = np.array([classes.index(name) for name in part.classes] or [-1], np.int64)
        labels.append(np.where(part.labels >= 0, numbers[np.maximum(part.labels, 0)], -1))
    names = np.concatenate([part.names for part in parts])
    if many and len(np.unique(names)) < len(names):
        names = np.concatenate([np.char.add(f"{Path(part.where).stem}/", part.names.astype(str)) for part in parts])
    if len(np.unique(names)) < len(names):
        twice = Counter(names.tolist()).most_common(1)[0][0]
        raise UserError(f"{parts[0].where}: tile {twice} occurs more than once; name each tile once")
    left: Counter[str] = Counter()
    for part in parts:
        left.update(part.left_out)
    return PatchSet(
        np.concatenate([part.features for part in parts]),
        np.concatenate(labels),
        classes,
        names,
        _texts([part.groups for part in parts], parts),
        next((part.group_kind for part in parts if part.group_kind), ""),
        _texts([part.centres for part in parts], parts),
        tuple(header for part in parts for header in part.headers),
        left_out=dict(left),
        notes=tuple(dict.fromkeys(note for part in parts for note in part.notes)),
    )


def _texts(values: Sequence[np.ndarray | None], parts: Sequence[PatchSet]) -> np.ndarray | None:
    if all(value is None or not (value != "").any() for value in values):
        return None
    filled = [np.full(len(part), "") if value is None else value.astype(str) for value, part in zip(values, parts)]
    return np.concatenate(filled)


def _with_table(parts: Sequence[PatchSet], path: Path) -> list[PatchSet]:
    """The parts with what a table says of their tiles or slides."""
    titles, rows = read_sheet(
        path, "no labels; expected the columns tile or slide, label, and if known patient, centre"
    )
    place = {role: _column(titles, known) for role, known in _ROLES.items()}
    key = "tile" if place["tile"] is not None else "slide"
    at = place[key]
    if at is None or place["label"] is None:
        raise UserError(
            f"{path}: has the columns {', '.join(titles)}; expected tile (or slide) and label, and if known patient, "
            "centre"
        )
    said: dict[str, list[str]] = {}
    for line, row in rows:
        name = row[at]
        if name in said and said[name] != row:
            raise UserError(f"{path}: line {line} names {name} a second time, otherwise; keep one row")
        said[name] = row
    found = [_labelled(part, said, place, key) for part in parts]
    used = sum(one[1] for one in found)
    if not used:
        raise UserError(
            f"{path}: none of its {len(said)} {key}s is in the features (the table has {next(iter(said), '')!r}, the "
            f"features {parts[0].names[0] if key == 'tile' else _slide(parts[0])!r})"
        )
    return [one[0] for one in found]


_ROLES = {"tile": TILE, "slide": SLIDE, "label": LABEL, "patient": PATIENT, "centre": CENTRE}


def _column(titles: Sequence[str], known: Sequence[str]) -> int | None:
    spelled = [plain(title) for title in titles]
    return next((spelled.index(name) for name in known if name in spelled), None)


def _slide(part: PatchSet) -> str:
    return part.headers[0].name if part.headers else Path(part.where).stem


def _labelled(
    part: PatchSet, said: Mapping[str, Sequence[str]], place: Mapping[str, int | None], key: str
) -> tuple[PatchSet, int]:
    """(the part with the table's values, tiles that the table speaks of)."""
    keys = part.names if key == "tile" else np.full(len(part), _slide(part))
    rows = [said.get(str(one)) for one in keys]
    if key == "slide" and rows and rows[0] is None:  # a table that names slide files, or writes in other case
        same = [row for name, row in said.items() if plain_unit(name, "slide") == plain_unit(_slide(part), "slide")]
        rows = [same[0] if len(same) == 1 else None] * len(rows)

    def values(role: str, old: Callable[[int], str]) -> np.ndarray:
        at = place[role]
        return np.array([old(i) if row is None or at is None else row[at] for i, row in enumerate(rows)], dtype=str)

    def of(array: np.ndarray | None) -> Callable[[int], str]:
        return lambda i: "" if array is None else str(array[i])

    old = [part.classes[label] if label >= 0 else "" for label in part.labels]
    classes, labels = _coded(values("label", lambda i: old[i]))
    groups, kind = values("patient", of(part.groups)), part.group_kind
    if place["patient"] is not None:
        kind = "patient"
    elif key == "tile" and place["slide"] is not None and not (groups != "").any():
        groups, kind = values("slide", of(None)), "slide"
    elif not (groups != "").any() and part.headers and key == "slide":
        groups, kind = np.full(len(part), _slide(part)), "slide"
    changed = dataclasses.replace(
        part, classes=classes, labels=labels, groups=groups, group_kind=kind, centres=values("centre", of(part.centres))
    )
    return changed, sum(row is not None for row in rows)


def without_unused(one: PatchSet) -> PatchSet:
    """Classes that no tile has are gone."""
    used = np.unique(one.labels)
    numbers = np.full(len(one.classes), -1, np.int64)
    numbers[used] = np.arange(len(used))
    return dataclasses.replace(one, labels=numbers[one.labels], classes=tuple(one.classes[i] for i in used))


def _renumbered(tile: Callable[[int], np.ndarray | None], rows: np.ndarray) -> Callable[[int], np.ndarray | None]:
    return lambda row: tile(int(rows[row]))
