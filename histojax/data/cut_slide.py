"""One slide into its part of a tile store, pictures beside it; a slide is cut by whoever holds its lock."""

from __future__ import annotations

import dataclasses
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from PIL import Image

from histojax.common.files import replacing
from histojax.common.locks import try_lock
from histojax.data.decode import BadTile, encode_png
from histojax.data.slide_bytes import bytes_of, sample_of
from histojax.data.slide_list import SlideEntry
from histojax.data.slide_marks import NO_MARKS, Marks, marks_digest, read_marks
from histojax.data.store import COORDINATES, PIXELS, Tile, part_done, part_facts, write_part
from histojax.data.store_parts import change_part, check_plan, file_stem, part_path, shard_is_whole
from histojax.slides.choose import Choice, check_tile, choose_tiles
from histojax.slides.geojson import write_geojson
from histojax.slides.mpp import REMEDY, UNKNOWN
from histojax.slides.picture import background_of, qc_picture
from histojax.slides.settings import TileSettings
from histojax.slides.slide import BadSlide, Slide, open_slide
from histojax.slides.stain import normaliser

IMAGES = ("jpeg", "png")
LOCKS, PICTURES, OUTLINES = ".locks", "qc", "contours_geojson"
STATES = DONE, BEFORE, FAILED, QUARANTINED, ELSEWHERE = "done", "done before", "failed", "quarantined", "elsewhere"


@dataclass(frozen=True)
class Cut:
    """How the slides of a store are cut. `mpp` is for slides of which neither a table nor their metadata tell it."""

    out: str
    settings: TileSettings
    coordinates: bool = False
    image: str = "jpeg"
    quality: int = 90
    mpp: float | None = None
    marks: Marks = NO_MARKS

    def plan(self) -> dict[str, Any]:
        """What decides the tiles, for store.json."""
        plan: dict[str, Any] = {"settings": self.settings.as_dict(), "groups": "patient"}
        if not self.coordinates:
            plan |= {"image": self.image} | ({"quality": self.quality} if self.image == "jpeg" else {})
        return plan | dataclasses.asdict(self.marks)


@dataclass(frozen=True)
class Report:
    """What became of one slide. Pixels of `tiles` are in the store; `rejected` counts places by reason."""

    slide: str
    state: str
    tiles: int = 0
    rejected: dict[str, int] = dataclasses.field(default_factory=dict)
    unreadable: int = 0
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    why: str = ""
    path: str = ""

    @property
    def no_tile(self) -> str:
        """Why a slide without a tile has none, in words."""
        counts = sorted(self.rejected.items(), key=lambda one: -one[1])
        return ", ".join(f"{count} {why}" for why, count in counts) or "it is smaller than a tile"


def cut_slide(unit: tuple[Cut, SlideEntry]) -> Report:
    """The report of one slide, once its part is in the store: the work of one process. Raises BadSlide, UserError."""
    cut, entry = unit
    out, began = Path(cut.out), time.monotonic()
    lock = try_lock(out / LOCKS / f"{file_stem(entry.name)}.lock")
    if lock is None:
        return Report(entry.name, ELSEWHERE, path=str(entry.path))
    notes: tuple[str, ...] = ()
    with lock:
        _check_plan(cut)
        there = part_done(out, entry.name)
        damaged = there and not shard_is_whole(out, entry.name)
        state = BEFORE if there and not damaged else DONE
        if state == DONE:
            with opened(entry, cut.mpp) as slide:
                _write_slide(out, cut, entry, slide)
            notes = ("its shard in the store was damaged: cut again",) * damaged
        else:
            notes = brought_up_to_date(out, cut, entry)
        done = part_facts(out, entry.name)
    facts = done["facts"]
    return Report(
        entry.name,
        state,
        done["tiles"],
        facts["rejected"],
        len(done["skipped"]),
        (*facts["notes"], *notes),
        0.0 if state == BEFORE else time.monotonic() - began,
        path=str(entry.path),
    )


def brought_up_to_date(out: Path, cut: Cut, entry: SlideEntry) -> tuple[str, ...]:
    """Notes on a patient or label that the tiles of a slide were given anew, as they are said otherwise by now.

    Raises BadSlide if they would have to be cut anew: for another file, mpp or annotation.
    """
    facts = part_facts(out, entry.name)["facts"]
    remedy = f"use another store, or remove {part_path(out, entry.name)} and it is cut anew"
    if facts["file_bytes"] != bytes_of(entry.path) or facts.get("file_sample") != sample_of(entry.path):
        other = f"another slide of this name, or an older state of it ({facts['path']}, {facts['file_bytes']} bytes)"
        raise BadSlide(entry.path, f"the store has {other}: {remedy}")
    mpp = entry.mpp if entry.mpp is not None else cut.mpp if facts["mpp_from"] == "given" else facts["mpp"]
    if mpp != facts["mpp"]:
        now = "none is given" if mpp is None else f"{mpp:g} is given"
        raise BadSlide(
            entry.path, f"it was cut with mpp {facts['mpp']:g} ({facts['mpp_from']}), and {now} now: {remedy}"
        )
    if facts.get("annotations", "") != marks_digest(cut.marks, entry):
        raise BadSlide(entry.path, f"its annotations have changed since it was cut: {remedy}")
    told = {name: getattr(entry, name) or facts[name] for name in ("patient", "label")}
    changed = [name for name, value in told.items() if value != facts[name]]
    if changed:
        change_part(out, entry.name, **told)
    return tuple(f"its {name} was {facts[name] or 'unknown'} and is {told[name]} now" for name in changed)


def opened(entry: SlideEntry, mpp: float | None = None) -> Slide:
    """The slide, with the mpp of its table, else of its metadata if they tell it, else the given one.

    Raises BadSlide.
    """
    if entry.mpp is not None or mpp is None:
        return open_slide(entry.path, entry.mpp)
    try:
        return open_slide(entry.path)
    except BadSlide as error:
        if not error.reason.endswith((UNKNOWN, REMEDY)):
            raise
        return open_slide(entry.path, mpp)


def _write_slide(out: Path, cut: Cut, entry: SlideEntry, slide: Slide) -> None:
    """The part of a slide; its pictures are written before it, so that a part that is there has them."""
    slide.check_mpp(cut.settings.mpp)  # places that no pixels are asked for would pass, and be read by nobody later
    choice = choose_tiles(slide, cut.settings, *read_marks(slide, cut.marks, entry))
    facts = _facts(cut, entry, slide, choice)
    write_part(out, entry.name, _tiles(out, cut, entry, slide, choice, facts), facts, coordinates=cut.coordinates)


def _tiles(
    out: Path, cut: Cut, entry: SlideEntry, slide: Slide, choice: Choice, facts: dict[str, Any]
) -> Iterator[Tile | BadTile]:
    """The tiles of a slide in the order of the grid; at their end `facts` are complete and the pictures written."""
    normalise = normaliser(cut.settings.stain)
    reasons: list[str] = []  # one a place, "" where a tile is kept
    unread: list[BadTile] = []
    for place, pixels in zip(_places(entry, choice), _pixels(cut, slide, choice)):
        if isinstance(pixels, BadSlide):
            reasons.append("unreadable")
            unread.append(BadTile(place.name or f"{entry.path} (x={place.x}, y={place.y})", pixels.reason))
            yield unread[-1]
            continue
        reasons.append("" if pixels is None else check_tile(pixels, cut.settings))
        if not reasons[-1]:
            if not cut.coordinates and pixels is not None:
                place = dataclasses.replace(place, data=_encoded(cut, normalise(pixels)))
            yield place
    if unread and len(unread) == len(reasons):
        raise BadSlide(entry.path, f"none of its {len(unread)} tiles can be read, the first: {unread[0].reason}")
    counts = Counter(choice.rejected) + Counter(reason for reason in reasons if reason and reason != "unreadable")
    facts["rejected"] = dict(sorted(counts.items()))
    facts["notes"] = list(slide.notes)
    _draw(out, entry, slide, choice, reasons)
    _check_plan(cut)


def _check_plan(cut: Cut) -> None:
    """Raises UserError if a command with other settings has taken the folder over: two plans are never mixed."""
    check_plan(Path(cut.out), cut.plan(), COORDINATES if cut.coordinates else PIXELS)


def _places(entry: SlideEntry, choice: Choice) -> Iterator[Tile]:
    for (x, y), share in zip(choice.coords.tolist(), choice.shares.tolist()):
        yield Tile(b"", "", entry.name, x, y, entry.label, entry.patient, share)


def _pixels(cut: Cut, slide: Slide, choice: Choice) -> Iterator[np.ndarray | BadSlide | None]:
    """The pixels of every place; None where nobody needs them."""
    if cut.coordinates and not cut.settings.reads_pixels:
        return iter([None] * len(choice.coords))
    return slide.tiles(choice.coords, cut.settings.tile_px, cut.settings.mpp)


def _encoded(cut: Cut, tile: np.ndarray) -> bytes:
    """The file of a tile."""
    if cut.image == "png":
        return encode_png(tile)
    return bytes(imagecodecs.jpeg8_encode(np.ascontiguousarray(tile), cut.quality, subsampling="444"))


def _draw(out: Path, entry: SlideEntry, slide: Slide, choice: Choice, reasons: Sequence[str]) -> None:
    stem = file_stem(entry.name)
    write_geojson(out / OUTLINES / f"{stem}.geojson", choice.mask, choice.scale)
    picture = qc_picture(choice, reasons, entry.name, slide.mpp, background_of(slide, choice))
    with replacing(out / PICTURES / f"{stem}.jpg") as partial:
        Image.fromarray(picture).save(partial, "JPEG", quality=88)


def _facts(cut: Cut, entry: SlideEntry, slide: Slide, choice: Choice) -> dict[str, Any]:
    """What is known of a slide, as columns of slides.csv."""
    width, height = slide.size
    mask_um2 = float(choice.mask.sum()) * (choice.scale * slide.mpp) ** 2
    return {
        "slide": entry.name,
        "path": os.path.abspath(entry.path),
        "file_bytes": bytes_of(entry.path),
        "file_sample": sample_of(entry.path),
        "patient": entry.patient,
        "label": entry.label,
        "mpp": slide.mpp,
        "mpp_from": slide.mpp_from,
        "width": width,
        "height": height,
        "footprint": choice.footprint,
        "tissue_mm2": round(mask_um2 / 1e6, 4),
        "tissue_from": choice.mask_from,
    } | ({"annotations": marks_digest(cut.marks, entry)} if cut.marks != NO_MARKS else {})
