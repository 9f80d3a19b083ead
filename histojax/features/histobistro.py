"""HistoBistro's files (specs/mil.md section 1): `feats`, `coords` [scene, x, y] with x = row and y = column.

Coordinates are pixels of the scene as it was read, smaller by the factor scene width // scaling; they become level-0
pixels where that factor is known: from the file (downscaling_factor), or from the slide's mpp. Older files call the
features `features`, the changed copies `histaugan` or `augmented`, and have no column for the scene.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from histojax.common.errors import UserError
from histojax.features.hdf5 import dataset, plain
from histojax.features.layout import Asked, Layout, matrix, number, pairs, size_of, values_of, whole, whole_pixels
from histojax.features.stored import Geometry, Header, Origin, StoredFeatures

AUGMENTED = ("feats_aug", "histaugan", "augmented")
OWN = ("args", "slide_sizes", "model_name", *AUGMENTED)
UNSAID = "weights and preprocessing are not stored"
NO_SCALE = "coordinates are pixels of the downscaled scene; give the slide's mpp to have level-0 pixels"
SCENES = "coordinates are within the scene of each tile, not within the whole slide"


def _recognises(file: h5py.File) -> bool:
    if dataset(file, "features") is None and dataset(file, "feats") is None:
        return False
    coords = dataset(file, "coords")
    return any(name in file for name in OWN) or (
        coords is not None and (coords.dtype.kind == "f" or coords.shape[-1] == 3)
    )


def _header(file: h5py.File, path: Path, asked: Asked) -> Header:
    features, facts = matrix(file), _args(file)
    assert features is not None
    tile_px, mpp = whole(facts.get("patch_size")) or None, number(facts.get("resolution_in_mpp"))
    factors = _factors(file, asked)
    factor = None if factors is None else float(factors[0, 0])
    geometry = Geometry(
        tile_px,
        asked.slide_mpp * factor if asked.slide_mpp and factor else mpp,
        tile_px * factor if tile_px and factor else None,
        None,
        asked.slide_mpp,
        "given" if asked.slide_mpp else "",
        _slide_size(file),
    )
    name = dataset(file, "model_name")
    notes = [UNSAID] + [NO_SCALE] * (factors is None) + [SCENES] * (len(_scene_sizes(file)) > 1)
    return Header(
        path,
        "histobistro",
        path.stem,
        *size_of(features),
        features.dtype,
        geometry,
        Origin("HistoBistro", "" if name is None else str(plain(name[()])), notes=tuple(notes)),
    )


def _args(file: h5py.File) -> dict[str, Any]:
    """The options that the file was made with, {} if they are not stored or not understood."""
    text = dataset(file, "args")
    try:
        found = json.loads(plain(text[()])) if text is not None else {}
    except (ValueError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def _scene_sizes(file: h5py.File) -> np.ndarray:
    """(scenes, 2) int64 width and height at full resolution, none if they are not stored."""
    sizes = dataset(file, "slide_sizes")
    return np.zeros((0, 2), np.int64) if sizes is None else np.asarray(sizes[()], np.int64).reshape(-1, 2)


def _slide_size(file: h5py.File) -> tuple[int, int] | None:
    sizes = _scene_sizes(file)
    return (int(sizes[0, 0]), int(sizes[0, 1])) if len(sizes) == 1 else None


def _factors(file: h5py.File, asked: Asked) -> np.ndarray | None:
    """(scenes, 2) level-0 pixels per stored pixel, along x and y; None if the scaling is not known."""
    facts, sizes = _args(file), _scene_sizes(file)
    scaling, mpp = number(facts.get("downscaling_factor")), number(facts.get("resolution_in_mpp"))
    if scaling is None and asked.slide_mpp and mpp:
        scaling = mpp / asked.slide_mpp
    if scaling is None:
        return None
    read = sizes // scaling  # the scene is read at a whole number of pixels
    return sizes / np.maximum(read, 1) if len(sizes) else np.full((1, 2), scaling)


def _arrays(file: h5py.File, header: Header) -> StoredFeatures:
    features, coords = matrix(file), dataset(file, "coords")
    assert features is not None
    changed = next((data for name in AUGMENTED if (data := dataset(file, name)) is not None), None)
    augmented = None if changed is None else np.asarray(changed[()])
    if coords is None:
        return StoredFeatures(header, values_of(features), augmented=augmented)
    values = pairs(coords, (3, 2)).astype(np.float64)
    scenes = whole_pixels(values[:, 0]) if values.shape[1] == 3 else None
    stored = values[:, ::-1][:, :2].copy()  # [scene,] row, column -> x, y
    factors = _factors(file, Asked(header.geometry.slide_mpp))
    mpp = number(_args(file).get("resolution_in_mpp"))
    unit = f"px at {mpp:g} mpp" if mpp else "px of the downscaled scene"
    level0 = None
    if factors is not None:
        which = np.zeros(len(values), np.int64) if scenes is None or len(factors) == 1 else scenes
        if len(which) and not 0 <= which.min() <= which.max() < len(factors):
            raise UserError(
                f"{header.path}: coords name the scenes {which.min()} to {which.max()}, but slide_sizes has "
                f"{len(factors)}; extract it again"
            )
        level0 = whole_pixels(stored * factors[which])
    return StoredFeatures(header, values_of(features), level0, stored, unit, scenes, augmented=augmented)


LAYOUT = Layout("histobistro", _recognises, _header, _arrays)
