"""Micrometres per pixel of a slide: from its metadata or from its owner, checked, never guessed."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import NamedTuple

from histojax.common.errors import UserError
from histojax.slides.bad_slide import BadSlide

FINEST, COARSEST = 0.05, 20.0  # a 200x objective; coarser than any scanner's overview
SQUARE = 0.03  # how far the two axes may differ
SCREENS = (72, 96, 100, 144, 150, 200, 300, 400, 600)  # dots per inch
AGREE = 0.05  # how far a given mpp may be from the metadata's without a note
UNKNOWN = "its metadata give no mpp (micrometres per pixel): give it with --mpp or in an mpp column"
REMEDY = "give the right one with --mpp or in an mpp column"
UNITS = re.compile(r"\s*(mpp|([uµμ]m|microns?|micromet(re|er)s?)(\s*(/|per)\s*(px|pix|pixels?))?)$", re.IGNORECASE)
FIELDS = (("openslide.mpp-x", "openslide.mpp-y"), ("aperio.MPP", "aperio.MPP"))  # in order of preference


class Mpp(NamedTuple):
    """What is known of a slide's resolution."""

    value: float
    origin: str  # "metadata (openslide.mpp-x)" or "given"
    notes: tuple[str, ...] = ()  # what the caller should warn of


def find_mpp(path: str, properties: Mapping[str, str], given: float | str | None = None) -> Mpp:
    """The mpp of the slide `path`: the given one if there is one, else the metadata's.

    `properties` are named as OpenSlide names them. A given mpp wins; metadata that say otherwise by more than 5 % are
    a note. Raises BadSlide if no mpp is known, or if the one that would be used is implausible.
    """
    if given is not None:
        value, wrong = parse_mpp(given)
        if wrong:
            raise BadSlide(path, f"mpp {given} (given) {wrong}")
        return Mpp(value, "given", _disagreement(value, properties))
    found = _stated(properties)
    if found is None:
        raise BadSlide(path, UNKNOWN)
    value, field, wrong = found
    if wrong:
        raise BadSlide(path, f"{wrong}; {REMEDY}")
    return Mpp(value, f"metadata ({field})")


def mpp_of_flag(text: str | None, flag: str = "--mpp") -> float | None:
    """The mpp that a flag gives, None without; raises UserError if it is implausible."""
    if text is None:
        return None
    value, wrong = parse_mpp(text)
    if wrong:
        raise UserError(f"{flag} {text} {wrong}")
    return value


def parse_mpp(text: float | str) -> tuple[float, str]:
    """The number, and what is wrong with it as an mpp ("" if nothing); "0,25" and "0.25 um/px" are understood.

    What is wrong reads as the end of a sentence: "mpp 250 ...".
    """
    try:
        value = float(UNITS.sub("", str(text).strip()).replace(",", "."))
    except ValueError:
        return math.nan, "is no number: expected micrometres per pixel, such as 0.25"
    if not math.isfinite(value) or value <= 0:
        return value, "is no length: expected micrometres per pixel, such as 0.25"
    if not FINEST <= value <= COARSEST:
        return value, f"is not between {FINEST} and {COARSEST:g} micrometres per pixel{unit_mistake(value)}"
    return value, ""


def unit_mistake(value: float) -> str:
    """A hint at the unit in which `value` would make a plausible mpp, "" if none."""
    dots = 25400 / value
    if any(abs(dots / usual - 1) < 0.005 for usual in SCREENS):
        return f" ({dots:.0f} dots per inch: a screen's or a printer's resolution, not a scanner's)"
    as_units = (
        ("metres", value * 1e6),
        ("millimetres", value * 1e3),
        ("nanometres", value / 1e3),
        ("dots per inch", dots),
        ("pixels per centimetre", 10000 / value),
        ("pixels per millimetre", 1000 / value),
    )
    for name, mpp in as_units:
        if 0.1 <= mpp <= 10:  # tighter than the bounds: a hint should be probable
            return f" (are these {name}? then it is {mpp:.4g})"
    return ""


def _stated(properties: Mapping[str, str]) -> tuple[float, str, str] | None:
    """The metadata's (mpp, field, what is wrong); None if they state nothing."""
    for field_x, field_y in FIELDS:
        stated = {field: properties[field] for field in (field_x, field_y) if str(properties.get(field, "")).strip()}
        if not stated:
            continue
        values = []
        for field, text in stated.items():
            value, wrong = parse_mpp(text)
            if wrong:
                return value, field, f"its metadata say mpp {text} ({field}), which {wrong}"
            values.append(value)
        if max(values) > (1 + SQUARE) * min(values):
            said = " and ".join(f"{value:g} ({field})" for field, value in zip(stated, values))
            return values[0], field_x, f"its metadata say mpp {said}: pixels that are not square are not read"
        return sum(values) / len(values), next(iter(stated)), ""
    return None


def _disagreement(given: float, properties: Mapping[str, str]) -> tuple[str, ...]:
    found = _stated(properties)
    if found is None:
        return ()
    value, field, wrong = found
    if wrong:
        return (f"mpp {given:g} was given; {wrong}",)
    if abs(given / value - 1) > AGREE:
        return (f"mpp {given:g} was given, but its metadata say {value:g} ({field})",)
    return ()
