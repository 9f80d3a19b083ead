"""The files of a slide that is done: writing them, and telling on the next start that they are what is wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from histojax import __version__
from histojax.common.errors import UserError
from histojax.data.tiles import Source
from histojax.features.collect import BAD, GOOD, REJECTED, Gathered, Picked
from histojax.features.device import Model
from histojax.features.drawing import write_drawing
from histojax.features.feature_file import Rows, write_coords, write_features
from histojax.features.folder import DONE, JobFolder, Report
from histojax.features.hdf5 import DamagedFile
from histojax.features.jobs import Job, Work
from histojax.features.read import read_coords, read_header
from histojax.features.reading import Plan
from histojax.features.stored import Header, Origin
from histojax.slides.slide import BadSlide

Found = TypeVar("Found")


def asides(path: Path) -> Iterator[Path]:
    """Names for a damaged file, which no program takes for features."""
    return (path.with_name(f"{path.name}.damaged{number or ''}") for number in count())


@dataclass(frozen=True)
class Written:
    """Where files are written, and how: `save` is the dtype of the numbers, `dtype` that of the matrix products.

    `notes` has a sentence on each file that was found damaged and moved aside.
    """

    folder: JobFolder
    work: Work
    save: str = "float32"
    dtype: str = "float32"
    notes: list[str] = field(default_factory=list, compare=False)

    def origin(self, model: Model) -> Origin:
        """Who makes the features of an encoder."""
        encoder, settings = model.encoder, self.work.settings
        return Origin(
            f"histojax {__version__}",
            encoder.record.name,
            encoder.weights,
            encoder.weights_sha256,
            encoder.preprocess_hash,
            encoder.record.pooling,
            self.dtype,
            "none" if settings is None else settings.stain,
            self.work.selection_sha256,
            self.work.read_from,
            encoder.licences,
        )

    def facts(self, model: Model) -> dict[str, Any]:
        """What decides the features of an encoder, for extract.json."""
        origin = self.origin(model)
        return {
            "encoder": origin.encoder,
            "weights": origin.weights,
            "weights_sha256": origin.weights_sha256,
            "preprocess_sha256": origin.preprocess_sha256,
            "preprocess": model.encoder.preprocess.describe(),
            "pooling": origin.pooling,
            "compute_dtype": self.dtype,
            "save": self.save,
            "patch_tokens": model.tokens,
            "width": model.encoder.features,
            "licences": [one.terms() for one in origin.licences],
        }

    def has(self, model: Model, job: Job) -> bool:
        """Whether the features of an encoder are there and whole, or of another kind, which `look` refuses."""
        path = self.folder.features(model.name, job.name)
        try:
            return path.exists() and bool(read_header(path))
        except DamagedFile:
            return False
        except UserError:
            return True

    def whole(self, path: Path, read: Callable[[Path], Found]) -> Found | None:
        """What `read` finds in a file, None if it is missing or damaged; a damaged one is moved aside and noted.

        Only for the owner of the slide's lock. Raises UserError for a file of another kind.
        """
        if not path.exists():
            return None
        try:
            return read(path)
        except DamagedFile as error:
            aside = next(one for one in asides(path) if not one.exists())
            path.rename(aside)
            self.notes.append(f"{error.what}: moved to {aside.name} and made anew")
            return None

    def begin(self, models: Sequence[Model]) -> None:
        """Makes the folders and extract.json; raises UserError if they are of another extraction."""
        with_patches = any(not job.labelled for job in self.work.jobs)
        with_pictures = any(not job.planned for job in self.work.jobs)
        self.folder.make([model.name for model in models], with_patches, with_pictures)
        self.folder.begin(self.work.selection(), {model.name: self.facts(model) for model in models})


def write_job(
    written: Written, job: Job, models: Sequence[Model], gathered: Gathered, planned_out: int, plan: Plan | None = None
) -> Report:
    """Writes the files of a slide: its picture, its coordinates, then features of each encoder that lacks them."""
    good, bad = gathered.rows(GOOD), gathered.rows(BAD)
    folder = written.folder
    draw(folder, job, plan, gathered)
    if job.coords is not None:
        _write_patches(written, job, job.coords[np.sort(np.r_[good, bad])])
    rejected = planned_out + len(gathered.rows(REJECTED))
    for number, model in enumerate(models):
        path = folder.features(model.name, job.name)
        if path.exists():  # of an encoder that was done when another one was added
            continue
        tokens = gathered.tokens[number]
        rows = replace(
            _rows(written.work, job, good, bad, gathered),
            features=gathered.features[number][good],
            tokens=None if tokens is None else Picked(tokens, good),
            grid=model.grid,
            rejected=rejected,
        )
        inside = folder.within(model.name)
        write_features(path, job.name, rows, job.geometry, written.origin(model), written.save, inside)
    return Report(job.name, job.path, len(good), len(bad), rejected)


def draw(folder: JobFolder, job: Job, plan: Plan | None, gathered: Gathered) -> None:
    """Writes the picture and the outlines of a slide whose tiles were chosen now."""
    if plan is None or plan.drawing is None:
        return
    why = {row: "unreadable" if gathered.state[row] == BAD else reason for row, reason in gathered.reasons.items()}
    reasons = [why.get(row, "") for row in range(gathered.count)]
    write_drawing(plan.drawing, job.name, reasons, folder.picture(job.name), folder.outlines(job.name))


def _write_patches(written: Written, job: Job, coords: np.ndarray) -> None:
    """The coordinates of a slide, or the check that those that are there are the same."""
    path = written.folder.patches(job.name)
    there = written.whole(path, read_coords)
    if there is not None:
        if not np.array_equal(there[0], coords):
            raise UserError(
                f"{path}: holds other tiles than were chosen now ({len(there[0])} and {len(coords)}); were they chosen "
                "by another program or version? Take another --out"
            )
        return
    write_coords(path, job.name, coords, job.geometry, written.folder.inner)


def _rows(work: Work, job: Job, good: np.ndarray, bad: np.ndarray, gathered: Gathered) -> Rows:
    """What is known of the tiles of a job, without features."""
    where = np.full((gathered.count, 2), -1) if job.coords is None else job.coords
    reasons = gathered.reasons
    skipped = tuple((int(where[row][0]), int(where[row][1]), _reason(work, job, int(row), reasons)) for row in bad)
    coords = None if job.coords is None else job.coords[good]
    empty = np.zeros((0, 0), np.float32)
    if not job.labelled:
        return Rows(empty, coords, skipped=skipped)
    assert job.numbers is not None
    source, numbers = work.sources[job.source], job.numbers[good]
    return Rows(
        empty,
        coords,
        names=np.array([patch_name(source, int(number)) for number in numbers]),
        labels=source.labels[numbers] if source.classes else None,
        classes=tuple(source.classes),
        groups=None if source.groups is None else np.asarray(source.groups[numbers]),
        group_kind=source.facts.group_kind,
        skipped=skipped,
    )


def _reason(work: Work, job: Job, row: int, reasons: dict[int, str]) -> str:
    """Why a tile has no features, with its name where it has no place."""
    if not job.labelled or job.numbers is None:
        return reasons[row]
    return f"{patch_name(work.sources[job.source], int(job.numbers[row]))}: {reasons[row]}"


def patch_name(source: Source, number: int) -> str:
    """The name of a patch within its folder or archive."""
    root, name = str(getattr(source, "root", "")), source.name(number)
    return name.removeprefix(f"{root}/") if root else name


def look(written: Written, job: Job, models: Sequence[Model]) -> Report | None:
    """The report of a slide whose files are all there, None if some are missing.

    Raises UserError for a file that was made with another encoder, weights, preprocessing or selection, or that has
    not as many rows as it should: it is never overwritten. One that is damaged is moved aside and missing then. Raises
    BadSlide for a slide that is not the one whose features are there.
    """
    headers = []
    for model in models:
        header = written.whole(written.folder.features(model.name, job.name), read_header)
        if header is not None:
            headers.append(header)
            _refuse_other(headers[-1], written, model)
            _refuse_changed(headers[-1], written, job)
    if not headers:
        return None
    for header in headers:
        _check_rows(header, written, job)
    placed = job.coords is not None or not job.planned
    if len(headers) < len(models) or (placed and not written.folder.patches(job.name).exists()):
        return None
    header = headers[0]
    return Report(job.name, job.path, header.tiles, header.skipped or 0, header.rejected or 0, DONE)


def _refuse_other(header: Header, written: Written, model: Model) -> None:
    if header.kind != "histojax":
        raise UserError(
            f"{header.path}: was written by {header.origin.producer or 'another program'}; take another --out"
        )
    wanted, found = written.origin(model), header.origin
    geometry, made = written.work.geometry, header.geometry
    pairs = [
        ("encoder", found.encoder, wanted.encoder),
        ("weights", found.weights_sha256, wanted.weights_sha256),
        ("preprocessing", found.preprocess_sha256, wanted.preprocess_sha256),
        ("feature", found.pooling, wanted.pooling),
        ("arithmetic", found.compute_dtype, wanted.compute_dtype),
        ("stain", found.stain, wanted.stain),
        ("selection of tiles", found.selection_sha256, wanted.selection_sha256),
        ("way of reading", found.read_from, wanted.read_from),
        ("tile size", made.tile_px, geometry.tile_px),
        ("resolution", made.mpp, geometry.mpp),
        ("type of numbers", header.dtype.name, written.save),
        ("width", header.width, model.encoder.features),
        ("patch tokens", header.tokens is not None, model.tokens),
    ]
    for what, was, now in pairs:
        if was != now:
            raise UserError(
                f"{header.path}: was extracted with another {what}: {was}, now {now}; take another --out, or another "
                "name for the encoder (--encoder NAME=PATH)"
            )


def _refuse_changed(header: Header, written: Written, job: Job) -> None:
    """Raises BadSlide if the features are of another slide of that name, or of the slide as it was read otherwise."""
    was, work = header.geometry, written.work
    now = job.known(was, work.mpp, work.marks)
    for what, before, after in (
        ("the bytes of its file", was.slide_bytes, now.slide_bytes),
        ("its content", was.slide_sample, now.slide_sample),
        ("its mpp", was.slide_mpp, now.slide_mpp),
        ("its annotations", was.annotations, now.annotations),
    ):
        if before != after and before not in (None, "") and after not in (None, ""):
            raise BadSlide(
                Path(job.path),
                f"{header.path} has features of another slide called {job.name}, or of an older state of it ({what}: "
                f"{before}, now {after}); rename the slide, take another --out, or move the old file away",
            )


def _check_rows(header: Header, written: Written, job: Job) -> None:
    """Raises UserError if a file has not the rows that the slide has tiles."""
    rows = header.tiles + (header.skipped or 0)
    patches = written.folder.patches(job.name)
    expected = job.count if job.planned and not written.work.check else None
    if expected is None and (there := written.whole(patches, read_coords)) is not None:
        expected = len(there[0])
    if expected is not None and rows != expected:
        raise UserError(
            f"{header.path}: has {rows} rows (skipped tiles included), but there are {expected} tiles: was it made "
            "from other data? Move it away and run again, or take another --out"
        )
