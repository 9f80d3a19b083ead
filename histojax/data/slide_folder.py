"""The slides in a folder and below: by suffix, with what belongs to a slide told from what is one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from histojax.common.errors import UserError
from histojax.data.find import DRAWINGS, DRAWN, HIDDEN, LOOPS, is_of_store, is_system
from histojax.data.formats import OTHER, is_tile_name, suffix_of
from histojax.slides.dicom_folder import series_uid

SLIDE_SUFFIXES = frozenset(OTHER["whole slides: cut them into tiles"])  # some OpenSlide does not read: said at opening
DICOM = (".dcm", ".dicom")
TIFF = (".tif", ".tiff")
PARTS = (".dat", ".ini", ".opt", ".vmh")  # what lies beside slides of MIRAX and Hamamatsu and belongs to them
NOT_SLIDES, STORES, IMAGES = (
    "not slides",
    "tile stores",
    "plain images beside slides: name them one by one, or by a pattern",
)


@dataclass
class FoundSlides:
    """Slides in the order of their paths; (path, reason) of what was left out; what has to be said."""

    slides: list[Path] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def find_in_folder(folder: Path) -> FoundSlides:
    """The slides of a folder, linked folders included.

    Files with a slide format's suffix; without any the TIFFs, without these the other images. DICOM files count once
    a series: as their folder if it holds one series and no other slide, else by their first file.
    """
    found = FoundSlides()
    tiers: tuple[list[Path], list[Path], list[Path]] = ([], [], [])
    for place, files in _walk(folder, found):
        series: dict[str, Path] = {}
        slides = []
        for name in files:
            path, suffix = place / name, suffix_of(name)
            if suffix in DICOM:
                series.setdefault(series_uid(path) or f"unknown {name}", path)
            elif suffix in SLIDE_SUFFIXES:
                slides.append(path)
            elif is_image(name):
                tiers[1 if suffix in TIFF else 2].append(path)
            elif suffix not in PARTS:
                found.left_out.append((str(path), NOT_SLIDES))
        tiers[0].extend(slides + ([place] if len(series) == 1 and not slides else list(series.values())))
    kept = next((tier for tier in tiers if tier), [])
    found.slides = sorted(kept)
    found.left_out += [(str(path), IMAGES) for tier in tiers if tier is not kept for path in sorted(tier)]
    if kept and kept is not tiers[0]:
        found.notes.append(
            f"{folder}: holds no file in a slide format: its {len(kept)} plain images are taken as slides"
        )
    return found


def is_image(name: str) -> bool:
    """Whether a file of this name is a plain image, which may be a slide of one level."""
    return is_tile_name(name)


def is_mirax_data(folder: Path) -> bool:
    """Whether a folder holds the data of the MIRAX slide beside it."""
    return folder.with_name(f"{folder.name}.mrxs").exists() or (folder / "Slidedat.ini").exists()


def _walk(folder: Path, found: FoundSlides) -> Iterator[tuple[Path, list[str]]]:
    """(folder, names of the files in it) of all folders that may hold slides, each once."""
    seen: set[str] = set()
    home = os.path.realpath(folder)
    for place, folders, files in os.walk(folder, followlinks=True, onerror=_refused):
        real = os.path.realpath(place)
        # a link to a folder around this one would lead through everything, and back here
        if real in seen or (place != str(folder) and home.startswith(real.rstrip(os.sep) + os.sep)):
            found.left_out.append((place, LOOPS))
            folders.clear()
            continue
        seen.add(real)
        if any(map(is_of_store, files)):
            if Path(place) == folder:
                raise UserError(f"{folder}: a tile store, not slides: name the folder of its slides")
            found.left_out.append((place, STORES))
            folders.clear()
            continue
        kept = []
        for name in sorted(folders):
            path = Path(place) / name
            if is_system(f"{name}/"):
                found.left_out.append((str(path), HIDDEN))
            elif name.lower() in DRAWINGS:
                found.left_out.append((str(path), DRAWN))
            elif not is_mirax_data(path):
                kept.append(name)
        folders[:] = kept
        hidden = {name for name in files if is_system(name)}
        found.left_out += [(os.path.join(place, name), HIDDEN) for name in sorted(hidden)]
        yield Path(place), sorted(set(files) - hidden)


def _refused(error: OSError) -> None:
    raise UserError(f"{error.filename}: this folder cannot be read ({error.strerror}): correct its permissions")
