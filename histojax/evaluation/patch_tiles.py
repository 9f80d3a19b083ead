"""Tiles of folders, tables, zips and stores as `PatchSet`s: features are computed first, with the tiles at hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from histojax.common.errors import UserError
from histojax.common.progress import Progress
from histojax.data.hash_sources import hash_source
from histojax.data.sources import open_source
from histojax.data.tiles import Source
from histojax.evaluation.histogram import colour_histogram
from histojax.evaluation.patch_input import PatchSet, read_patches
from histojax.features.asked import Asked, Wanted, folder_names, run_here
from histojax.features.finished import patch_name
from histojax.features.folder import JobFolder, geometry_name
from histojax.slides.settings import PRESETS

HISTOGRAM = "colour_histogram"


@dataclasses.dataclass(frozen=True)
class Computing:
    """How features are computed, see features.asked.Asked."""

    workers: int = 0
    dtype: str = "float32"
    batch_size: int | None = None
    pooling: str | None = None
    which: str | None = None
    commercial: bool = False
    offline: bool = False


@dataclasses.dataclass(frozen=True)
class Tiles:
    """The pixels of tiles by name."""

    source: Source

    @cached_property
    def numbers(self) -> dict[str, int]:
        """{name: number in the source}."""
        return {patch_name(self.source, i): i for i in range(len(self.source))}

    def hashes(self, names: np.ndarray, spec: str, folder: Path, workers: int = 0) -> np.ndarray:
        """(n,) data.hashes.ROW of tiles by name; those of all tiles are kept in `folder`."""
        progress = Progress(len(self.source), unit="tile", items="tiles")
        try:
            rows = hash_source(spec, self.source, folder, workers, progress, 0).rows()
        finally:
            progress.close()
        return rows[[self.numbers[str(name)] for name in names]]

    def of(self, names: np.ndarray) -> Callable[[int], np.ndarray | None]:
        """A function from the row of `names` to its tile; None for a name that the source does not have."""

        def tile(row: int) -> np.ndarray | None:
            number = self.numbers.get(str(names[row]))
            return None if number is None else self.source.read(number)

        return tile


@dataclasses.dataclass(frozen=True)
class Extracted:
    """Features of the tiles of `spec`, in files: {name of the encoder: folder}."""

    spec: str
    folders: dict[str, Path]
    tiles: Tiles
    workers: int = 0

    def read(self, name: str, table: str | Path | None = None, hashes: Path | None = None) -> PatchSet:
        """The labelled tiles by one encoder; with their hashes, which are kept in that folder, if one is given."""
        found = read_patches([self.folders[name]], table)
        rows = None if hashes is None else self.tiles.hashes(found.names, self.spec, hashes, self.workers)
        return dataclasses.replace(found, where=self.spec, tile=self.tiles.of(found.names), hashes=rows)


def extract_patches(spec: str, encoders: Sequence[Wanted], out: Path, how: Computing) -> Extracted:
    """Features of the tiles of `spec`, whatever `histojax train` takes as data.

    Feature files are written below `out`; those that are there are taken. Raises UserError as the extraction does, for
    slides, and where no tile of `spec` can be read.
    """
    chosen = {key: value for key, value in vars(how).items() if key != "workers"}
    asked = Asked(tuple(encoders), (spec,), str(out), PRESETS["extract"], **chosen)
    work = asked.work()
    if work.settings is not None and not work.sources:
        raise UserError(f"{spec}: holds slides; give tiles (a folder with one sub-folder a class), or feature files")
    summary = run_here(asked, workers=how.workers)
    if not any(report.tiles for report in summary.reports):
        raise UserError(f"{spec}: no tile could be read; see {summary.base / 'failed.csv'}")
    folder = JobFolder(out, geometry_name(work.geometry))
    folders = {name: out / folder.within(name) for name in folder_names(encoders)}
    return Extracted(spec, folders, Tiles(open_source(spec)), how.workers)


def histogram_patches(one: PatchSet) -> PatchSet:
    """The same tiles by their joint colour histogram: what colour alone can do. Raises UserError without pixels."""
    rows = []
    progress = Progress(len(one), unit="tile")
    try:
        for row in range(len(one)):
            pixels = None if one.tile is None else one.tile(row)
            if pixels is None:
                raise UserError(f"{one.where}: the pixels of {one.names[row]} are not at hand for a colour histogram")
            rows.append(colour_histogram(pixels[None])[0])
            progress.update(row + 1)
    finally:
        progress.close()
    return dataclasses.replace(one, features=np.stack(rows), headers=())
