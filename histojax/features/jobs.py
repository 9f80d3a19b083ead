"""What there is to extract: one job a slide, or one for patches that belong to no slide."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from openslide import OpenSlide

from histojax.common.errors import UserError
from histojax.common.files import expanded
from histojax.data.find import is_of_store
from histojax.data.formats import is_tile_name
from histojax.data.slide_bytes import bytes_of, sample_of
from histojax.data.slide_list import SlideEntry, find_slides
from histojax.data.slide_marks import NO_MARKS, Marks, check_marks, marks_digest
from histojax.data.slide_table import TABLES
from histojax.data.slide_tiles import SlideTiles
from histojax.data.sources import open_source
from histojax.data.store import StoredTiles
from histojax.data.subset import Subset
from histojax.data.tiles import Joined, Source
from histojax.features.reading import Chunk, Plan, chunks_of
from histojax.features.stored import NOT_KNOWN, Geometry
from histojax.slides.settings import TileSettings, settings_from


@dataclass(frozen=True)
class Job:
    """One file of features to be.

    Args:
        name: of the slide, or of the folder of patches.
        path: where it is read from, for messages and tables.
        entry: the slide, where its tiles are read from itself.
        source: the source of its tiles, else; `numbers` are those of its tiles in there.
        coords: (n, 2) level-0 pixels, where they are known before the slide is opened.
        geometry: of its tiles, as far as that is known.
        labelled: whether names, labels and groups of the source are kept.
        rejected: places that became no tile when a store was cut.
        patient, label: of the slide, where a table or store tells them.
    """

    name: str
    path: str
    entry: SlideEntry | None = None
    source: int = 0
    numbers: np.ndarray | None = None
    coords: np.ndarray | None = None
    geometry: Geometry = NOT_KNOWN
    labelled: bool = False
    rejected: int = 0
    patient: str = ""
    label: str = ""

    @property
    def planned(self) -> bool:
        """Whether its tiles are known already."""
        return self.numbers is not None or self.coords is not None

    @property
    def count(self) -> int:
        """Its tiles, if they are known."""
        known = self.coords if self.numbers is None else self.numbers
        return 0 if known is None else len(known)

    def with_plan(self, plan: Plan, settings: TileSettings) -> Job:
        """The same job with the tiles that were chosen."""
        geometry = geometry_of(settings, plan.mpp, plan.mpp_from, plan.size, plan.footprint, plan.slide_bytes)
        marked = replace(geometry, slide_sample=plan.slide_sample, annotations=plan.annotations)
        return replace(self, coords=plan.coords, geometry=marked)

    def known(self, made: Geometry, mpp: float | None, marks: Marks) -> Geometry:
        """What is known now, without opening the slide, of what `made` says of it; `mpp` is what --mpp gave.

        Raises BadSlide for annotations that are missing.
        """
        if self.entry is None or self.planned or not self.entry.path.exists():
            return self.geometry
        path, given = self.entry.path, self.entry.mpp
        if given is None:
            given = mpp if made.slide_mpp_from == "given" else made.slide_mpp
        return replace(
            self.geometry,
            slide_bytes=bytes_of(path),
            slide_sample=sample_of(path),
            slide_mpp=given,
            annotations=marks_digest(marks, self.entry),
        )

    def chunks(self, number: int, mpp: float | None, size: int) -> Iterator[Chunk]:
        """The units of work, of so many tiles, of the job with that number."""
        for part in chunks_of(self.count, size):
            count = part.stop - part.start
            if self.entry is not None:
                coords = None if self.coords is None else self.coords[part]
                yield Chunk(number, part.start, count, self.entry, mpp, coords)
            else:
                assert self.numbers is not None
                yield Chunk(number, part.start, count, source=self.source, numbers=self.numbers[part])


def geometry_of(
    settings: TileSettings,
    mpp: float | None = None,
    mpp_from: str = "",
    size: tuple[int, int] | None = None,
    footprint: float | None = None,
    slide_bytes: int | None = None,
) -> Geometry:
    """The geometry of tiles cut with these settings from a slide."""
    return Geometry(settings.tile_px, settings.mpp, footprint, settings.overlap_px, mpp, mpp_from, size, slide_bytes)


@dataclass(frozen=True)
class Work:
    """All jobs of an extraction, and how their tiles are read.

    Args:
        jobs: in the order given, with different names.
        sources: that they take tiles from.
        settings: that the tiles were or will be chosen with; None for patches of unknown making.
        check: whether tiles read from slides still have to pass the checks of their pixels.
        mpp: of slides that do not tell theirs, given.
        marks: annotations that slides are cut by.
        read_from: "slides", "store (jpeg 90)", "patches": part of what decides the features.
        notes: what has to be said.
    """

    jobs: tuple[Job, ...]
    sources: tuple[Source, ...] = ()
    settings: TileSettings | None = None
    check: bool = True
    mpp: float | None = None
    marks: Marks = NO_MARKS
    read_from: str = "slides"
    notes: tuple[str, ...] = ()
    left_out: tuple[tuple[str, str], ...] = field(default=())
    kept: str = ""  # digest of the tiles that a list keeps of stores

    @cached_property
    def geometry(self) -> Geometry:
        """What all jobs have in common."""
        return Geometry() if self.settings is None else geometry_of(self.settings)

    def selection(self) -> dict[str, Any]:
        """What decides the tiles, JSON values."""
        settings = {} if self.settings is None else self.settings.as_dict()
        kept = {"kept": self.kept} if self.kept else {}
        return {**settings, **asdict(self.marks), **kept, "read_from": self.read_from}

    @property
    def selection_sha256(self) -> str:
        """Digest of the settings that chose the tiles, "" for patches."""
        if self.settings is None:
            return ""
        if self.marks == NO_MARKS and not self.kept:
            return self.settings.digest()
        facts = {**self.settings.as_dict(), **asdict(self.marks)} | ({"kept": self.kept} if self.kept else {})
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def total(self) -> int | None:
        """Tiles of all jobs; None if slides have to be opened to know."""
        return sum(job.count for job in self.jobs) if all(job.planned for job in self.jobs) else None


KINDS = ("auto", "slides", "stores", "patches")


def find_work(
    specs: Sequence[str],
    settings: TileSettings,
    mpp: float | None = None,
    kind: str = "auto",
    marks: Marks = NO_MARKS,
    slides_dir: str | None = None,
) -> Work:
    """What `--input` names: stores, or folders, tables and archives of patches, or slides in any of their ways.

    `settings`, `mpp` and `marks` are for slides; a store has its own. `slides_dir` is where the files of a table lie.
    Raises UserError for inputs of several kinds, for names that occur twice, and as the openers do.
    """
    kinds = {_kind(spec, slides_dir) for spec in specs} if kind == "auto" else {kind}
    if len(kinds) > 1:
        raise UserError(f"--input: {' and '.join(sorted(kinds))} together: extract them one after the other")
    if kinds == {"slides"}:
        work = replace(_of_slides(specs, settings, mpp, slides_dir), marks=marks)
        check_marks(marks, len(work.jobs))
        return work
    sources = tuple(open_source(spec) for spec in specs)
    parts = [_stores_in(source) for source in sources]
    return _of_stores([pair for part in parts for pair in part]) if all(parts) else _of_patches(specs, sources)


def _stores_in(source: Source) -> list[tuple[Any, np.ndarray | None]]:
    """The stores of slides that tiles are taken from, with the numbers of those taken (None: all); [] for patches."""
    if isinstance(source, Joined):
        parts = [_stores_in(one) for one in source.sources]
        return [pair for part in parts for pair in part] if all(parts) else []
    if isinstance(source, Subset):  # of an audit: slides stay apart
        return [(store, source.chosen) for store, chosen in _stores_in(source.source) if chosen is None]
    is_store = isinstance(source, (StoredTiles, SlideTiles)) and source.index.plan.get("settings") is not None
    return [(source, None)] if is_store else []


def _kind(spec: str, slides_dir: str | None) -> str:
    """stores, patches or slides: by looking at what it is, not at its name alone."""
    path = expanded(spec)
    if path.is_dir() and any(is_of_store(inner.name) for inner in path.iterdir()):
        return "stores"
    if path.suffix.lower() == ".zip" or (not path.exists() and spec.startswith(("synthetic", "tfds:"))):
        return "patches"
    if path.is_file() and path.suffix.lower() not in TABLES:
        return "slides"
    try:
        slides = find_slides([spec], slides_dir).entries
    except UserError:
        return "slides" if not path.exists() or _patches_of(spec) is None else "patches"
    pictures = all(entry.path.is_file() and is_tile_name(entry.path.name) for entry in slides)
    if not pictures or any(OpenSlide.detect_format(entry.path) for entry in slides[:4]):
        return "slides"
    return "slides" if _patches_of(spec) is None else "patches"


def _patches_of(spec: str) -> Source | None:
    try:
        return open_source(spec)
    except UserError:
        return None


def _of_slides(specs: Sequence[str], settings: TileSettings, mpp: float | None, slides_dir: str | None) -> Work:
    found = find_slides(specs, slides_dir)
    jobs = tuple(
        Job(entry.name, str(entry.path), entry, patient=entry.patient, label=entry.label) for entry in found.entries
    )
    notes, left_out = tuple(found.notes), tuple(found.left_out)
    return Work(jobs, (), settings, True, mpp, notes=notes, left_out=left_out)


def _of_stores(parts: Sequence[tuple[Any, np.ndarray | None]]) -> Work:
    """Stores of tiles that were cut with the same settings, all of their tiles or some; one job a slide."""
    sources = [source for source, _ in parts]
    made = [source.index.plan for source in sources]
    names = tuple(Marks.__dataclass_fields__)
    keys = ("settings", "image", "quality", *names)
    for source, plan in zip(sources, made):
        if any(plan.get(key) != made[0].get(key) for key in keys):
            raise UserError(
                f"{source.index.root}: was cut with other settings than "
                f"{sources[0].index.root}; extract them one after the other"
            )
    settings = settings_from(made[0]["settings"])
    jobs = tuple(job for number, part in enumerate(parts) for job in _slides_of(*part, number, settings))
    _check_names(jobs)
    image, quality = made[0].get("image"), made[0].get("quality")
    how = "slides" if isinstance(sources[0], SlideTiles) else f"store ({image}{f' {quality}' if quality else ''})"
    marks = Marks(**{name: made[0].get(name) for name in names})
    kept = b"".join(chosen.tobytes() for _, chosen in parts if chosen is not None)
    return Work(
        jobs,
        tuple(sources),
        settings,
        False,
        None,
        marks,
        how,
        kept=hashlib.sha256(kept).hexdigest()[:16] if kept else "",
    )


def _slides_of(source: Any, chosen: np.ndarray | None, number: int, settings: TileSettings) -> Iterator[Job]:
    """The jobs of one store, or of the tiles chosen in it, slides in the order of the store."""
    index = source.index
    taken = np.arange(len(source)) if chosen is None else chosen
    numbers = index.slide_names.numbers[taken]
    order = np.argsort(numbers, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(numbers[order]) != 0]) if len(order) else np.zeros(0, int)
    coords = index.coords
    for places in sorted(np.split(order, starts[1:]) if len(order) else [], key=lambda places: places[0]):
        rows = taken[places]
        name = str(index.slide_names[int(rows[0])])
        facts = index.slides.get(name, {})
        geometry = geometry_of(settings, **_facts(facts, settings))
        where = coords[rows] if coords is not None else None
        rejected = sum(int(count) for title, count in facts.items() if title.startswith("rejected") and count)
        known: dict[str, Any] = {"coords": where, "geometry": geometry, "rejected": rejected}
        known |= {key: facts.get(key, "") for key in ("patient", "label")}
        if isinstance(source, StoredTiles):
            path = facts.get("path") or source.root
            yield Job(name or Path(source.root).name, path, source=number, numbers=rows, **known)
        else:
            entry = SlideEntry(source.slide_path(name), name, mpp=geometry.slide_mpp)
            yield Job(name, str(entry.path), entry, number, **known)


def _facts(row: dict[str, str], settings: TileSettings) -> dict[str, Any]:
    """The arguments of `geometry_of` in a row of slides.csv."""
    mpp = float(row["mpp"]) if row.get("mpp") else None
    footprint = float(row["footprint"]) if row.get("footprint") else None
    if footprint is None and mpp:
        footprint = settings.tile_px * settings.mpp / mpp
    return {
        "mpp": mpp,
        "mpp_from": row.get("mpp_from", ""),
        "size": (int(row["width"]), int(row["height"])) if row.get("width") and row.get("height") else None,
        "footprint": footprint,
        "slide_bytes": int(row["file_bytes"]) if row.get("file_bytes") else None,
    }


def _of_patches(specs: Sequence[str], sources: Sequence[Source]) -> Work:
    """Patches of folders, tables and archives: a job for each of these."""
    jobs = []
    for number, (spec, source) in enumerate(zip(specs, sources)):
        path = expanded(spec)
        name = (path.resolve().name if path.is_dir() else path.stem) if path.exists() else spec.replace(":", "_")
        jobs.append(Job(name, str(spec), None, number, np.arange(len(source)), None, Geometry(), True))
    _check_names(jobs)
    notes = tuple(note for source in sources for note in source.facts.notes)
    left_out = tuple(one for source in sources for one in source.facts.left_out)
    return Work(tuple(jobs), tuple(sources), None, False, read_from="patches", notes=notes, left_out=left_out)


def _check_names(jobs: Sequence[Job]) -> None:
    """Raises UserError if two jobs would write one file."""
    seen: dict[str, str] = {}
    for job in jobs:
        if job.name in seen:
            raise UserError(
                f"--input: two slides or folders are called {job.name} ({seen[job.name]} and {job.path}); rename one, "
                "or extract them into different folders"
            )
        seen[job.name] = job.path
