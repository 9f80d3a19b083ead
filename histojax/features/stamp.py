"""STAMP's files: `feats` float16 and `coords` in micrometres; level-0 pixels come with the slide's mpp.

A tile is ceil(tile_size_um / mpp) level-0 pixels wide, so its true side is a little more than the attribute says.
STAMP 2.0 calls tile_size_um tile_size; STAMP 1 has neither, nor a unit: its coordinates are pixels of a slide that was
shrunk until 256 um were 224 px, which level-0 pixels follow from to a few pixels.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from histojax.common.errors import UserError
from histojax.features.hdf5 import attributes, dataset
from histojax.features.layout import Asked, Layout, matrix, number, pairs, size_of, values_of, whole, whole_pixels
from histojax.features.stored import Geometry, Header, Origin, StoredFeatures

OFF_GRID = 0.1  # level-0 pixels that a corner may lie beside the grid; float32 micrometres of a large slide need 0.03
OLD_PX, OLD_UM = 224, 256.0  # of the tiles of STAMP 1
OLD = "coordinates are of a slide shrunk to 256/224 mpp (STAMP 1): those in level-0 pixels are right to a few pixels"
OWN = {"stamp_version", "extractor", "tile_size_um", "feat_type"}
UNSAID = "weights and preprocessing are not stored"
NO_MPP = "coordinates are micrometres and the slide's mpp is not stored; give it to have level-0 pixels"


def _recognises(file: h5py.File) -> bool:
    if dataset(file, "feats") is None:
        return False
    changed = dataset(file, "augmented")  # of STAMP 1: whether a row is of a changed copy of a tile
    own = OWN | ({"encoder"} if "precision" in file.attrs else set())
    return bool(own & set(file.attrs)) or (changed is not None and changed.ndim == 1)


def _facts(file: h5py.File) -> dict[str, Any]:
    """The attributes of the file as STAMP calls them today; "old" is whether STAMP 1 wrote it."""
    facts, coords = attributes(file), dataset(file, "coords")
    facts.setdefault("feat_type", "slide" if "encoder" in facts and coords is None else "tile")
    if facts.get("unit") == "um":
        facts.setdefault("tile_size_um", facts.get("tile_size"))
    elif coords is not None and "tile_size_um" not in facts and number(facts.get("tile_size", OLD_PX)) == OLD_PX:
        facts["old"] = not (pairs(coords) % OLD_PX).any()
        if facts["old"]:
            facts |= {"tile_size_um": OLD_UM, "tile_size_px": OLD_PX}
    return facts


def _header(file: h5py.File, path: Path, asked: Asked) -> Header:
    facts = _facts(file)
    if facts["feat_type"] != "tile":
        raise UserError(f"{path}: holds {facts['feat_type']} features of STAMP, expected those of tiles")
    features, changed = matrix(file, ("feats",)), dataset(file, "augmented")
    assert features is not None
    if changed is not None and changed[()].any():
        copies = f"{int(np.count_nonzero(changed[()]))} of {len(changed)} rows are of changed copies of tiles"
        raise UserError(f"{path}: {copies} (dataset augmented); give the file without them")
    micrometres, tile_px = number(facts.get("tile_size_um")), whole(facts.get("tile_size_px")) or None
    footprint = None if not asked.slide_mpp or not micrometres else math.ceil(micrometres / asked.slide_mpp)
    side = footprint * asked.slide_mpp if footprint and asked.slide_mpp else micrometres
    geometry = Geometry(
        tile_px,
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
    if facts.get("old"):
        return (UNSAID, OLD) if asked.slide_mpp else (UNSAID, OLD, NO_MPP)
    if asked.slide_mpp or facts.get("unit") != "um":
        return (UNSAID,)
    rounded = f"tile_size_um {facts.get('tile_size_um')} is nominal: tiles are whole level-0 pixels, rounded up"
    return (UNSAID, NO_MPP, rounded)


def _arrays(file: h5py.File, header: Header) -> StoredFeatures:
    features, coords = matrix(file, ("feats",)), dataset(file, "coords")
    assert features is not None
    values = values_of(features)
    if coords is None:
        return StoredFeatures(header, values)
    facts, stored = _facts(file), pairs(coords).astype(np.float64)
    unit, mpp = str(facts.get("unit", "")), header.geometry.slide_mpp
    if facts.get("old"):
        stored = stored * OLD_UM / OLD_PX
        return StoredFeatures(header, values, None if mpp is None else whole_pixels(stored / mpp), stored, "um")
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
