"""Where the cases of a leakage check come from: feature files, sets of tiles, training runs, lists of names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from histojax.common.errors import UserError
from histojax.common.files import expanded, read_json
from histojax.common.progress import Progress
from histojax.data.audit import PATIENT, SLIDE, units_of
from histojax.data.columns import PATIENT as PATIENT_TITLES
from histojax.data.columns import SLIDE as SLIDE_TITLES
from histojax.data.columns import plain
from histojax.data.hash_sources import hash_source
from histojax.data.patients import patient_of
from histojax.data.sources import open_source
from histojax.data.table import read_table
from histojax.data.tiles import Source
from histojax.evaluation.leakage import Cases
from histojax.features.stored import StoredFeatures

CONFIG = "config.json"  # of a training run


def cases_of_features(name: str, files: Sequence[StoredFeatures]) -> Cases:
    """What feature files tell of patients and slides; their features know copies of tiles.

    A file with coordinates is a slide of its own; groups are what the file calls them (patient, slide).
    """
    patients: list[str] = []
    slides: list[str] = []
    tiles: list[str] = []
    for one in files:
        groups = [] if one.groups is None else np.unique(one.groups).tolist()
        if one.header.group_kind == SLIDE:
            slides += groups
        else:
            patients += groups
        if one.coords is not None or one.stored_coords is not None:
            slides.append(one.header.name)
        names = range(len(one.features)) if one.names is None else one.names.tolist()
        tiles += [f"{one.header.name}: {tile}" for tile in names]
    widths = {one.features.shape[1] for one in files}
    features = np.concatenate([one.features for one in files]) if len(widths) == 1 else None
    return Cases(name, [p for p in patients if p], slides, None, features, tiles)


def cases_of_source(name: str, source: Source, spec: str = "", hashes: Path | None = None) -> Cases:
    """What a set of tiles tells; with a folder for `hashes` its tiles are read and hashed (kept there)."""
    units = units_of(source)
    patients, slides = (units[kind].used() if kind in units else [] for kind in (PATIENT, SLIDE))
    if hashes is None:
        return Cases(name, patients, slides)
    progress = Progress(len(source), unit="tile", items="tiles")
    rows = hash_source(spec, source, hashes, 0, progress, 0).rows()
    progress.close()
    return Cases(name, patients, slides, rows, None, [source.name(i) for i in range(len(source))])


def ssl_cases(spec: str, hashes: Path | None = None) -> tuple[list[Cases], list[str]]:
    """(what an encoder was made of, sentences on what could not be opened).

    Args:
        spec: a run's folder, or one below it (an export): its training tiles, and those that chose its checkpoint; a
            list of patients or slides (.txt: a name a line; a table with a column patient or slide and no tiles);
            else any set of tiles that `histojax train` takes.
        hashes: a folder to keep hashes of tiles in; None: names alone are compared.

    Raises:
        UserError: for a spec that is none of these.
    """
    path = expanded(spec)
    if run := _run_above(path):
        return _of_run(run, hashes)
    if path.suffix.lower() == ".txt" and path.is_file():
        names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        return [_named(f"the list {spec}", [name for name in names if name])], []
    if path.suffix.lower() in (".csv", ".tsv") and path.is_file():
        listed = _listed(spec, path)
        if listed is not None:
            return [listed], []
    return [cases_of_source(f"the tiles of {spec}", open_source(spec), spec, hashes)], []


def _run_above(path: Path) -> Path | None:
    """The folder of the training run that a path is or lies in."""
    for folder in (path, *path.parents)[:4]:
        if (folder / CONFIG).is_file() and (folder / "provenance.json").is_file():
            return folder
    return None


def _of_run(run: Path, hashes: Path | None) -> tuple[list[Cases], list[str]]:
    config: dict[str, Any] = read_json(run / CONFIG).get("config", {})
    roles = (
        (config.get("data", {}).get("train"), f"the training tiles of {run}"),
        (config.get("eval", {}).get("data"), f"the tiles that chose the checkpoint of {run}"),
    )
    found, notes = [], []
    for spec, name in roles:
        if spec:
            try:
                source, where = _opened(spec, run)
                found.append(cases_of_source(name, source, where, hashes))
            except UserError as error:
                notes.append(f"{name} were not compared: {error}")
    if not found and not notes:
        notes.append(f"{run}: its {CONFIG} names no tiles, nothing was compared")
    return found, notes


def _opened(spec: str | Sequence[str], run: Path) -> tuple[Source, str]:
    """A run's tiles: paths as its config has them, from here or from a folder above the run. Raises UserError."""
    names = [spec] if isinstance(spec, str) else list(spec)
    failed: UserError | None = None
    for base in (None, *run.resolve().parents[:3]):
        placed = ",".join(name if base is None or ":" in name else str(base / expanded(name)) for name in names)
        try:
            return open_source(placed), placed
        except UserError as error:
            failed = failed or error
    assert failed is not None
    raise failed


def _named(name: str, names: Sequence[str]) -> Cases:
    """Names that may be of patients or slides: taken for both, since either is a leak."""
    return Cases(name, [patient_of(one) or one for one in names], names)


def _listed(spec: str, path: Path) -> Cases | None:
    """A table of patients or slides; None if it has no such column, or lists tiles, too."""
    titles, rows = read_table(path, "no rows below the header")
    keys = [plain(title) for title in titles]
    columns = {
        kind: next((keys.index(key) for key in known if key in keys), None)
        for kind, known in ((PATIENT, PATIENT_TITLES), (SLIDE, SLIDE_TITLES))
    }
    others = {"file", "path", "tile", "image", "filename", "filepath"} & set(keys)
    if others or all(place is None for place in columns.values()):
        return None
    patients, slides = ([] if place is None else [row[place] for _, row in rows] for place in columns.values())
    return Cases(f"the list {spec}", patients, slides)
