"""STAMP's files: `feats` float16 and `coords` in micrometres; level-0 pixels come with the slide's mpp.

A tile is ceil(tile_size_um / mpp) level-0 pixels wide, so its true side is a little more than the attribute says.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np

from histojax.common.errors import UserError
from histojax.features.hdf5 import attributes, dataset
from histojax.features.layout import Asked, Layout, matrix, pairs, size_of, values_of, whole_pixels
from histojax.features.stored import Geometry, Header, Origin, StoredFeatures

OFF_GRID = 0.1  # level-0 pixels that a corner may lie beside the grid; float32 micrometres of a large slide need 0.03
UNSAID = "weights and preprocessing are not stored"
NO_MPP = "coordinates are micrometres and the slide's mpp is not stored; give it to have level-0 pixels"


def _recognises(file: h5py.File) -> bool:
    return dataset(file, "feats") is not None and bool({"stamp_version", "extractor", "tile_size_um"} & set(file.attrs))


def _header(file: h5py.File, path: Path, asked: Asked) -> Header:
    features, facts = matrix(file, ("feats",)), attributes(file)
    assert features is not None
    if facts.get("feat_type", "tile") != "tile":
        raise UserError(f"{path}: holds {facts['feat_type']} features of STAMP, expected those of tiles")
    micrometres, tile_px = facts.get("tile_size_um"), facts.get("tile_size_px")
    footprint = None if not asked.slide_mpp or not micrometres else math.ceil(micrometres / asked.slide_mpp)
    side = micrometres if footprint is None else footprint * asked.slide_mpp
    geometry = Geometry(
        None if tile_px is None else int(tile_px),
        side / tile_px if side and tile_px else None,
        footprint,
        0 if tile_px else None,
        asked.slide_mpp,
        "given" if asked.slide_mpp else "",
    )
    version = str(facts.get("stamp_version", "")).strip()
    return Header(
        path,
        "stamp",
        path.stem,
        *size_of(features),
        features.dtype,
        geometry,
        Origin(f"STAMP {version}".strip(), str(facts.get("extractor", "")), notes=_notes(facts, asked)),
    )


def _notes(facts: dict, asked: Asked) -> tuple[str, ...]:
    if asked.slide_mpp:
        return (UNSAID,)
    rounded = f"tile_size_um {facts.get('tile_size_um')} is nominal: tiles are whole level-0 pixels, rounded up"
    return (UNSAID, NO_MPP, rounded)


def _arrays(file: h5py.File, header: Header) -> StoredFeatures:
    features, coords = matrix(file, ("feats",)), dataset(file, "coords")
    assert features is not None
    values = values_of(features)
    if coords is None:
        return StoredFeatures(header, values)
    stored, unit = pairs(coords).astype(np.float64), str(attributes(file).get("unit", ""))
    if unit != "um":
        said = (*header.origin.notes, f"the unit of the coordinates is not known (unit={unit!r})")
        header = replace(header, origin=replace(header.origin, notes=said))
        return StoredFeatures(header, values, None, stored, unit)
    return StoredFeatures(header, values, _level0(header, stored), stored, "um")


def _level0(header: Header, micrometres: np.ndarray) -> np.ndarray | None:
    """(n, 2) int64 level-0 pixels; raises UserError for an mpp that cannot be this slide's."""
    mpp, step = header.geometry.slide_mpp, header.geometry.footprint_px
    if mpp is None:
        return None
    values = micrometres / mpp
    beside = np.abs(values - (np.rint(values / step) * step if step else np.rint(values)))
    if len(beside) and beside.max() > OFF_GRID:
        raise UserError(
            f"{header.path}: {mpp:g} mpp is not that of this slide: corners lie up to {beside.max():.3g} px beside a "
            f"grid of {step:g} px; give the mpp that its features were made with"
        )
    return whole_pixels(values)


LAYOUT = Layout("stamp", _recognises, _header, _arrays)
