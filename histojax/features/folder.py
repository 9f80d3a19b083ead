"""The output of an extraction: a job folder as TRIDENT's, with two tables and the settings beside.

    OUT/10x_256px_0px_overlap/
      patches/SLIDE_patches.h5        coordinates of the tiles
      features_ENCODER/SLIDE.h5       their features (feature_file.py)
      clam_ENCODER/                   on request, what CLAM's training takes (clam_folder.py)
      visualization/SLIDE.jpg         of slides that were read themselves: what became of their tiles
      contours_geojson/SLIDE.geojson  and the outlines of their tissue
      extract.json                    what chose the tiles, and the encoders with their hashes
      slides.csv                      a row a slide: tiles, skipped, rejected, state, reason, patient, label
      failed.csv                      the rows of those that gave no features

Patches without a slide have no magnification: their files lie in OUT/features_ENCODER.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from histojax.common.errors import UserError
from histojax.common.files import make_folder, read_json, write_atomic
from histojax.common.locks import say_if_without_locks, wait_for_lock
from histojax.common.tables import csv_text
from histojax.data.store_parts import file_stem
from histojax.features.stored import Geometry

FORMAT = 1
LOCKS, PATCHES, PICTURES, OUTLINES = ".locks", "patches", "visualization", "contours_geojson"
DONE, EMPTY, FAILED, QUARANTINED, WAITING = "done", "no tile", "failed", "quarantined", "waiting"
BAD = (FAILED, QUARANTINED)


@dataclass(frozen=True)
class Report:
    """What became of a slide: a row of slides.csv. `state` is one of the five above; `reason` says why not done."""

    slide: str
    path: str
    tiles: int = 0
    skipped: int = 0
    rejected: int = 0
    state: str = DONE
    reason: str = ""
    patient: str = ""
    label: str = ""


def geometry_name(geometry: Geometry) -> str:
    """TRIDENT's name of a tile size: 10x_256px_0px_overlap; 1.14 mpp is 8.77x. "" where that is not known."""
    if geometry.mpp is None or geometry.tile_px is None:
        return ""
    magnification = f"{10 / geometry.mpp:.2f}".rstrip("0").rstrip(".")
    return f"{magnification}x_{geometry.tile_px}px_{round(geometry.overlap_px or 0)}px_overlap"


@dataclass(frozen=True)
class JobFolder:
    """Where the files of an extraction lie; `inner` is the `geometry_name` of its tiles."""

    out: Path
    inner: str = ""

    @property
    def base(self) -> Path:
        """The folder of the tables."""
        return self.out / self.inner

    def within(self, encoder: str) -> str:
        """The folder of an encoder's features within the output, for the attribute savetodir."""
        return f"{self.inner}/features_{encoder}" if self.inner else f"features_{encoder}"

    def features(self, encoder: str, slide: str) -> Path:
        """The feature file of a slide."""
        return self.out / self.within(encoder) / f"{file_stem(slide)}.h5"

    def patches(self, slide: str) -> Path:
        """The file of a slide's coordinates."""
        return self.base / PATCHES / f"{file_stem(slide)}_patches.h5"

    def picture(self, slide: str) -> Path:
        """The picture of a slide and its tiles."""
        return self.base / PICTURES / f"{file_stem(slide)}.jpg"

    def outlines(self, slide: str) -> Path:
        """The outlines of a slide's tissue."""
        return self.base / OUTLINES / f"{file_stem(slide)}.geojson"

    def lock(self, name: str) -> Path:
        """The lock of a slide."""
        return self.base / LOCKS / f"{file_stem(name)}.lock"

    def make(self, encoders: Iterable[str], with_patches: bool, with_pictures: bool = False) -> None:
        """Makes the folders; raises UserError where that is not possible."""
        folders = [self.base / LOCKS, *(self.out / self.within(name) for name in encoders)]
        beside = [PATCHES] * with_patches + [PICTURES, OUTLINES] * with_pictures
        for folder in [*folders, *(self.base / name for name in beside)]:
            make_folder(folder)
        say_if_without_locks(self.base / LOCKS)

    def remove_leftovers(self, slide: str, encoders: Iterable[str]) -> None:
        """Temporary files that a killed writer left; only for the owner of the slide's lock."""
        ours = [self.patches(slide), self.picture(slide), self.outlines(slide)]
        for path in [*ours, *(self.features(name, slide) for name in encoders)]:
            if path.parent.is_dir():
                start = f".{path.name}."
                for name in os.listdir(path.parent):
                    if name.startswith(start) and name.endswith(".tmp"):
                        (path.parent / name).unlink(missing_ok=True)

    @contextmanager
    def alone(self) -> Any:
        """Only one job at a time is within this block."""
        with wait_for_lock(self.base / LOCKS / "tables.lock"):
            yield

    def begin(self, selection: Mapping[str, Any], encoders: Mapping[str, Mapping[str, Any]]) -> None:
        """Writes extract.json, or adds encoders to it; raises UserError if it was begun with anything else.

        Args:
            selection: what decides the tiles and the numbers beside the encoder, JSON values.
            encoders: {name: what decides its features}, the hashes among it.
        """
        path = self.base / "extract.json"
        with self.alone():
            _read(self.base / "slides.csv")  # what cannot be added to is said now, not at the end
            content: dict[str, Any] = {"format": FORMAT, "selection": dict(selection), "encoders": {}}
            if path.exists():
                content = read_json(path)
                _refuse_another(path, "selection", content.get("selection", {}), selection)
            known = content.setdefault("encoders", {})
            for name, facts in encoders.items():
                if name in known:
                    _refuse_another(path, name, known[name], facts)
                known[name] = dict(facts)
            text = json.dumps(content, indent=1, sort_keys=True) + "\n"
            if not path.exists() or path.read_text() != text:
                write_atomic(path, text)

    def summarise(self, reports: Iterable[Report]) -> list[Report]:
        """All rows of slides.csv, once those of this job are in it; failed.csv has those without features."""
        path = self.base / "slides.csv"
        with self.alone():
            rows = {row.slide: row for row in _read(path)}
            for report in reports:
                if report.state != WAITING or report.slide not in rows:
                    rows[report.slide] = report
            ordered = [rows[name] for name in sorted(rows)]
            write_atomic(path, _csv(ordered))
            write_atomic(self.base / "failed.csv", _csv([row for row in ordered if row.state != DONE]))
        return ordered


def _refuse_another(path: Path, what: str, was: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    now = json.loads(json.dumps(now))
    differs = [key for key in sorted({*was, *now}) if was.get(key) != now.get(key)]
    if differs:
        shown = "; ".join(f"{key} was {was.get(key)!r} and is {now.get(key)!r}" for key in differs[:4])
        raise UserError(
            f"{path}: this folder was begun with another {what} ({shown}); use the same one, another --out, or another "
            "name for the encoder (--encoder NAME=PATH)"
        )


def _csv(rows: Iterable[Report]) -> str:
    return csv_text(tuple(Report.__dataclass_fields__), (tuple(asdict(row).values()) for row in rows))


def _read(path: Path) -> list[Report]:
    """The rows of slides.csv, none if there is no such file."""
    if not path.exists():
        return []
    try:
        with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
        if not {"slide", "path"} <= set(reader.fieldnames or ()):
            raise ValueError("no columns slide and path")
        numbers = ("tiles", "skipped", "rejected")
        return [Report(**{k: int(v) if k in numbers else v for k, v in row.items()}) for row in rows]  # type: ignore
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); move it away and run again") from None
