"""Annotations that say where tiles of a slide may lie: which file is a slide's, and whether it fits the slide."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from histojax.common.errors import UserError
from histojax.common.files import expanded, reason
from histojax.data.slide_list import SlideEntry
from histojax.slides.geojson import Polygons, read_geojson
from histojax.slides.slide import BadSlide, Slide


@dataclass(frozen=True)
class Marks:
    """GeoJSON files, or folders with one NAME.geojson a slide; of their annotations those of a class count, or all."""

    include: str | None = None
    exclude: str | None = None
    include_class: str | None = None
    exclude_class: str | None = None


NO_MARKS = Marks()
OFFSET = (
    "its scanned area does not begin at the corner of level 0, from which annotations count here; QuPath may count "
    "from the scanned area: compare a tile of qc/ with what you drew"
)


def check_marks(marks: Marks, slides: int) -> None:
    """Raises UserError if there are several slides and the annotations of one, or a class and no annotations."""
    for flag, where, kind in (
        ("--include", marks.include, marks.include_class),
        ("--exclude", marks.exclude, marks.exclude_class),
    ):
        if where is None and kind is not None:
            raise UserError(f"{flag}-class {kind}: of which annotations? Name them with {flag}")
        if where is not None and slides > 1 and not expanded(where).is_dir():
            raise UserError(
                f"{flag} {where}: expected a folder with one SLIDE.geojson for each of the {slides} slides: places on "
                "one slide are none on another"
            )


def read_marks(slide: Slide, marks: Marks, entry: SlideEntry) -> tuple[Polygons | None, Polygons | None]:
    """The areas to include and to exclude, None without; what does not fit the slide becomes one of its notes.

    Raises BadSlide for a file that is missing or cannot be read.
    """
    found: list[Polygons | None] = []
    for flag, kind, path in _files_of(marks, entry):
        if path is None:
            found.append(None)
            continue
        try:
            areas = read_geojson(path, kind)
        except UserError as error:
            raise BadSlide(entry.path, str(error)) from error
        slide.notes += tuple(_doubts(flag, kind, areas, slide.size))
        if _begins_aside(slide) and OFFSET not in slide.notes:
            slide.notes += (OFFSET,)
        found.append(areas)
    return found[0], found[1]


def _begins_aside(slide: Slide) -> bool:
    """Whether the scanned area of a slide (MIRAX, some others) begins away from the corner of level 0."""
    return any(slide.properties.get(f"openslide.bounds-{axis}", "0") not in ("", "0") for axis in "xy")


def marks_digest(marks: Marks, entry: SlideEntry) -> str:
    """16 hex digits over the annotations of a slide, "" without any. Raises BadSlide for a file that is missing."""
    digest = hashlib.sha256()
    paths = [path for _, _, path in _files_of(marks, entry)]
    for path in paths:
        try:
            digest.update(b"-" if path is None else hashlib.sha256(path.read_bytes()).digest())
        except OSError as error:
            raise BadSlide(entry.path, f"{path}: cannot be read ({reason(error)})") from error
    return digest.hexdigest()[:16] if any(paths) else ""


def _files_of(marks: Marks, entry: SlideEntry) -> Iterator[tuple[str, str | None, Path | None]]:
    """(include or exclude, class, file) of both; a slide of a folder may have no file that excludes."""
    for flag, where, kind in (
        ("include", marks.include, marks.include_class),
        ("exclude", marks.exclude, marks.exclude_class),
    ):
        path = None if where is None else expanded(where)
        if path is not None and path.is_dir():
            path = path / f"{entry.name}.geojson"
            if not path.exists() and flag == "exclude":
                path = None
        if path is not None and not path.exists():
            raise BadSlide(entry.path, f"has no annotation {path}: write one, or leave --{flag} out")
        yield flag, kind, path


def _doubts(flag: str, kind: str | None, areas: Polygons, size: tuple[int, int]) -> Iterator[str]:
    """Sentences on annotations that may not be what somebody meant."""
    if areas.left_out:
        yield f"{areas.left_out} annotations to {flag} are no areas (points, lines, detections) and count for nothing"
    if not areas.names and flag == "include":
        yield "its annotations to include have no area: no tile lies in them"
    elif kind is not None and not areas.areas:
        names = ", ".join(sorted(name or "unclassified" for name in areas.names)) or "none"
        yield f"no annotation to {flag} is of the class {kind} (there are: {names})"
    outer = [area.rings[0] for area in areas.areas]
    beyond = sum(bool((ring.min(0) >= size).any() or (ring.max(0) <= 0).any()) for ring in outer)
    if beyond:
        yield (
            f"{beyond} of its {len(areas)} annotations to {flag} lie beyond the slide of {size[0]}x{size[1]} px: are "
            "they of another slide, or not in level-0 pixels?"
        )
