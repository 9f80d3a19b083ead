"""`open_source`: what a data setting means, found by looking."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from histojax.common.errors import UserError
from histojax.common.files import expanded
from histojax.data.files import open_csv, open_folder, open_zip
from histojax.data.find import is_of_store
from histojax.data.formats import OTHER_OF, SUFFIXES
from histojax.data.subset import is_subset, open_subset
from histojax.data.synthetic import SyntheticTissue
from histojax.data.tiles import Joined, Source

ACCEPTED = (
    "accepted are an image folder (class sub-folders optional), a CSV list (header: file,label,patient), a zip of "
    "images, a tile store, tfds:NAME:SPLIT, synthetic[:N], or several of these separated by commas"
)


def open_source(spec: str | Path | Sequence, **options: Any) -> Source:
    """The source that `spec` names; several (a sequence, or text with commas) are joined.

    Options: `data_dir` for TFDS, and `tile_px`, `seed`, `classes`, `patients` for synthetic tissue; a kind of
    source ignores the others' options. Raises UserError naming the path and what is accepted when it is
    missing, unknown or empty.
    """
    parts = _split(spec)
    if not parts:
        raise UserError(f"no data given: {ACCEPTED}")
    unknown = set(options) - {"data_dir", "tile_px", "seed", "classes", "patients"}
    if unknown:
        raise TypeError(f"open_source: unknown options {sorted(unknown)}")
    sources = [_open_one(part, options) for part in parts]
    return sources[0] if len(sources) == 1 else Joined(sources)


def _split(spec: str | Path | Sequence) -> list[str]:
    if isinstance(spec, Path) or (isinstance(spec, str) and os.path.exists(spec)):
        return [str(spec)]  # a file name may contain a comma
    if isinstance(spec, str):
        # a comma inside tfds:...[...] separates nothing
        return [part.strip() for part in re.split(r",(?![^\[]*\])", spec) if part.strip()]
    return [part for item in spec for part in _split(item)]


def _open_one(spec: str, options: dict[str, Any]) -> Source:
    if spec == "synthetic" or spec.startswith("synthetic:"):
        return _open_synthetic(spec, {k: v for k, v in options.items() if k != "data_dir"})
    if spec.startswith("tfds:"):
        from histojax.data.tfds_source import open_tfds

        return open_tfds(spec.removeprefix("tfds:"), options.get("data_dir"))
    try:
        return _open_path(spec)
    except OSError as error:
        where = error.filename or spec
        raise UserError(f"{where}: cannot be read ({error.strerror or error}); correct its permissions") from None


def _open_path(spec: str) -> Source:
    path = expanded(spec)
    if not path.exists():
        where = "patterns are not expanded: name the folder" if set(spec) & set("*?") else f"looked in {Path.cwd()}"
        raise UserError(f"{spec}: does not exist ({where}); {ACCEPTED}")
    if path.is_dir():
        return _open_directory(path)
    if path.suffix.lower() == ".csv" and is_subset(path):
        return open_subset(path, open_source)
    opener = {".csv": open_csv, ".tsv": open_csv, ".zip": open_zip}.get(path.suffix.lower())
    if opener is None:
        what = what_ending_in(path.suffix.lower())
        raise UserError(f"{spec}: a file ending in {path.suffix!r} is not a source of tiles{what}; {ACCEPTED}")
    return opener(path)


def what_ending_in(suffix: str) -> str:
    """What a file with this suffix is, and what to do with it, in brackets; "" where it is not known."""
    if suffix in SUFFIXES:
        return " (one image: name its folder)"
    if suffix in (".xlsx", ".xls", ".ods", ".parquet", ".feather", ".json", ".jsonl", ".txt", ".dat"):
        return " (a table? save it as .csv)"
    return f" ({OTHER_OF[suffix]})" if suffix in OTHER_OF else ""


def _open_directory(path: Path) -> Source:
    if any(map(is_of_store, os.listdir(path))):
        from histojax.data.store import open_store

        return open_store(path)
    return open_folder(path)


def _open_synthetic(spec: str, options: dict[str, Any]) -> Source:
    count = spec.partition(":")[2] or "2000"
    if not count.isdigit() or int(count) < 1:
        raise UserError(f"{spec}: expected synthetic or synthetic:N with N tiles, for example synthetic:500")
    return SyntheticTissue(int(count), **options)
