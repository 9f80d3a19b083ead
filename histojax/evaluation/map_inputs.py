"""What `histojax heatmap` draws: the features of each slide, and the slide, found by their names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from histojax.common.errors import UserError
from histojax.common.files import expanded
from histojax.data.decode import BadTile, decode_tile
from histojax.data.formats import is_tile_name
from histojax.data.slide_folder import find_in_folder
from histojax.features.asked import Asked, Wanted, run_here
from histojax.slides.bad_slide import BadSlide
from histojax.slides.settings import TileSettings
from histojax.slides.slide import open_slide, slide_name

FEATURES = (".h5", ".hdf5", ".pt", ".pth")
Region = tuple[int, int, int, int]  # x, y, width, height in level-0 pixels


@dataclass(frozen=True)
class Pair:
    """The features of a slide, and the slide if it is at hand."""

    features: Path
    slide: Path | None


def is_features(path: Path) -> bool:
    """Whether a path is meant as a feature file."""
    return path.suffix.lower() in FEATURES


def find_pairs(inputs: Sequence[str], features: str | None, slides: str | None) -> list[Pair]:
    """A pair for each input, a feature file or a slide; raises UserError where the other one is not to be found.

    `features` and `slides` are files or folders; names must be equal. A feature file does without its slide.
    """
    pairs = []
    for text in inputs:
        path = expanded(text)
        if not path.exists():
            raise UserError(f"{text}: no such file or folder")
        if is_features(path):
            pairs.append(Pair(path, _slide_of(path, slides)))
        else:
            pairs.append(Pair(_features_of(path, features), path))
    return pairs


def _features_of(slide: Path, where: str | None) -> Path:
    if where is None:
        raise UserError(f"{slide}: a slide; give its features (--features DIR), or an encoder to compute them")
    folder, name = expanded(where), slide_name(slide)
    if folder.is_file():
        return folder
    found = [path for path in sorted(folder.rglob("*")) if is_features(path) and path.stem == name]
    if len(found) != 1:
        several = ", ".join(str(path) for path in found[:3])
        said = f"several files of this name ({several}); give one of them" if found else f"no features {name}.h5"
        raise UserError(f"{where}: {said}")
    return found[0]


def _slide_of(features: Path, where: str | None) -> Path | None:
    if where is None:
        return None
    place = expanded(where)
    if place.is_file():
        return place
    if not place.is_dir():
        raise UserError(f"{where}: no such file or folder")
    found = [path for path in find_in_folder(place).slides if slide_name(path).casefold() == features.stem.casefold()]
    if len(found) != 1:
        several = ", ".join(str(path) for path in found[:3])
        raise UserError(
            f"{where}: {f'several slides {several}' if found else f'no slide {features.stem}'}; give a file"
        )
    return found[0]


def extracted(slides: Sequence[str], encoder: Wanted, out: Path, settings: TileSettings, mpp: float | None) -> str:
    """The folder with the features of slides, computed where they are not there yet; raises UserError."""
    asked = Asked((encoder,), tuple(slides), str(out), settings, mpp=mpp, kind="slides")
    summary = run_here(asked, workers=0)
    for report in summary.reports:
        if not report.tiles:
            raise UserError(f"{report.path}: gave no features ({report.state}: {report.reason})")
    return str(summary.base)


def read_place(path: Path, region: Region | None, mpp: float | None, target_mpp: float | None) -> np.ndarray:
    """(h, w, 3) uint8: a tile's image, or a region of a slide at `target_mpp` (its own without); raises UserError."""
    if region is None and is_tile_name(path.name):
        try:
            return decode_tile(path.read_bytes(), str(path))
        except BadTile as error:
            raise UserError(str(error)) from error
    if region is None:
        raise UserError(f"{path}: a slide; say which part of it: --region X,Y,WIDTH,HEIGHT in level-0 pixels")
    x, y, width, height = region
    try:
        with open_slide(path, mpp) as slide:
            at = target_mpp or slide.mpp
            side = max(width, height) * slide.mpp / at
            image = slide.tile(x, y, round(side), at)
            return image[: round(height * slide.mpp / at), : round(width * slide.mpp / at)]
    except BadSlide as error:
        raise UserError(str(error)) from error
