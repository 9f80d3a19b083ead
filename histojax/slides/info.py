"""What is known of a slide without reading it: for people as text, for programs as a dictionary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from histojax.common.files import expanded
from histojax.slides.bad_slide import BadSlide
from histojax.slides.direct_reader import DirectReader
from histojax.slides.jpeg_tiles import compressions
from histojax.slides.levels import make_levels
from histojax.slides.mpp import find_mpp
from histojax.slides.open_file import SlideFile, open_file
from histojax.slides.openslide_file import OpenslideFile
from histojax.slides.slide import slide_name

LABELS = "labels may show a patient's name"


def describe(path: Path, mpp: float | str | None = None) -> dict[str, Any]:
    """The facts of a slide, JSON's types only; where its mpp is not known they say why. Raises BadSlide."""
    file = open_file(path)
    try:
        facts = {
            "path": str(path),
            "name": slide_name(expanded(path)),
            "format": file.vendor,
            "bytes": _bytes(expanded(path)),
            "width": file.sizes[0][0],
            "height": file.sizes[0][1],
            **_resolution(path, file, mpp),
            "objective_power": _number(file.properties.get("openslide.objective-power")),
        }
        facts["levels"] = _levels(file, facts["mpp"])
        facts["decoder"] = "decoded as a whole"
        if isinstance(file, OpenslideFile):
            direct = DirectReader(file)
            facts["decoder"] = direct.describe()
            direct.close()
        facts["associated"] = {name: list(size) for name, size in sorted(file.associated().items())}
    finally:
        file.close()
    return facts


def _resolution(path: Path, file: SlideFile, given: float | str | None) -> dict[str, Any]:
    try:
        found = find_mpp(str(path), file.properties, given)
    except BadSlide as error:
        return {"mpp": None, "mpp_from": "", "notes": [error.reason]}
    return {"mpp": found.value, "mpp_from": found.origin, "notes": list(found.notes)}


def _levels(file: SlideFile, mpp: float | None) -> list[dict[str, Any]]:
    codes = compressions(file.path, file.sizes) if isinstance(file, OpenslideFile) else [""]
    found = []
    for i, (level, code) in enumerate(zip(make_levels(file.sizes), codes)):
        sides = (file.properties.get(f"openslide.level[{i}].tile-{side}") for side in ("width", "height"))
        tile = [int(side) for side in sides if side]
        found.append({
            "width": level.width, "height": level.height, "downsample": level.downsample,
            "mpp": None if mpp is None else mpp * level.downsample, "tile": tile or None, "compression": code,
        })  # fmt: skip
    return found


def _bytes(path: Path) -> int:
    """Of a file, or of the files of a DICOM folder; the data folder beside a .mrxs is not counted."""
    if path.is_dir():
        return sum(part.stat().st_size for part in path.iterdir() if part.is_file())
    return path.stat().st_size


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None


def page(facts: dict[str, Any]) -> str:
    """Everything about one slide, a line a subject."""
    mpp, power = facts["mpp"], facts["objective_power"]
    size = f"{facts['width']}x{facts['height']} px"
    if mpp is not None:
        size += f", {facts['width'] * mpp / 1000:.2f} x {facts['height'] * mpp / 1000:.2f} mm"
    images = ", ".join(f"{name} {w}x{h} px" for name, (w, h) in facts["associated"].items())
    rows = [
        ("name", facts["name"]),
        ("file", f"{facts['path']}, {facts['bytes'] / 1e6:,.1f} MB"),
        ("format", facts["format"]),
        ("size", size),
        ("mpp", "unknown" if mpp is None else f"{mpp:g}, {facts['mpp_from']}"),
        ("objective", "unknown" if power is None else f"{power:g}x"),
        *((f"level {i}", _level(level)) for i, level in enumerate(facts["levels"])),
        ("decoder", facts["decoder"]),
        ("associated", f"{images} ({LABELS})" if "label" in images or "macro" in images else images or "none"),
        *(("note", note) for note in facts["notes"]),
    ]
    return "\n".join(f"{name:10s}  {value}" for name, value in rows)


def _level(level: dict[str, Any]) -> str:
    parts = [f"{level['width']}x{level['height']} px", f"downsample {level['downsample']:.6g}"]
    if level["mpp"] is not None:
        parts.append(f"{level['mpp']:.4g} mpp")
    if level["tile"]:
        parts.append(f"tiles of {'x'.join(map(str, level['tile']))} px")
    return ", ".join(parts + [level["compression"]] * bool(level["compression"]))


def overview(slides: list[dict[str, Any]]) -> str:
    """A table of a line a slide, then the notes."""
    rows = [("name", "format", "size", "mpp", "from", "objective", "downsamples", "decoder", "associated")]
    for facts in slides:
        rows.append((
            facts["name"], facts["format"], f"{facts['width']}x{facts['height']}",
            "unknown" if facts["mpp"] is None else f"{facts['mpp']:.5g}", facts["mpp_from"] or "-",
            "-" if facts["objective_power"] is None else f"{facts['objective_power']:g}x",
            " ".join(f"{level['downsample']:.4g}" for level in facts["levels"]),
            facts["decoder"].partition(" (")[0], " ".join(facts["associated"]) or "-",
        ))  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return "\n".join(lines + [f"{facts['name']}: {note}" for facts in slides for note in facts["notes"]])
