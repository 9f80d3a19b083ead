"""CLAM's files: `features` and bare `coords`, or the tensor of a .pt; tile sizes lie in the file of patches.

CLAM knows no mpp: coordinates are level-0 pixels, sizes are pixels of the level that patches were cut at.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np

from histojax.common.errors import UserError
from histojax.features.hdf5 import attributes, dataset, opened
from histojax.features.layout import (
    FARTHEST,
    Asked,
    Layout,
    matrix,
    number,
    pairs,
    size_of,
    values_of,
    whole,
    whole_pixels,
)
from histojax.features.stored import Geometry, Header, Origin, StoredFeatures
from histojax.weights.containers import open_array, open_tensors

UNSAID = "CLAM stores neither encoder, weights and preprocessing nor mpp"
NO_PATCHES = (
    "the size of the tiles is in CLAM's file of patches, which was not found or is not whole; give it as patches="
)


INSIDE = "the unit of the coordinates in the .pt is not stored; they are taken as level-0 pixels"


def knows_coords(coords: h5py.Dataset) -> bool:
    """Whether coordinates have the attributes of CLAM's file of patches."""
    return {"patch_size", "patch_level"} <= set(coords.attrs)


def _recognises(file: h5py.File) -> bool:
    coords = dataset(file, "coords")
    return dataset(file, "features") is not None and coords is not None and coords.dtype.kind in "iu"


def geometry_of(coords: h5py.Dataset, slide_mpp: float | None) -> Geometry:
    """What the attributes of a file of patches say."""
    facts = attributes(coords)
    tile_px, lowest = whole(facts["patch_size"]) or None, whole(facts["patch_level"]) == 0
    factor = number(np.atleast_1d(facts.get("downsample", 1.0 if lowest else 0.0))[:1])
    size = np.ravel(facts.get("level_dim", ()) if lowest else ())  # of the level, not of level 0
    return Geometry(
        tile_px,
        slide_mpp * factor if slide_mpp and factor else None,
        tile_px * factor if tile_px and factor else None,
        None,
        slide_mpp,
        "given" if slide_mpp else "",
        (int(size[0]), int(size[1])) if len(size) == 2 else None,
    )


def _header(file: h5py.File, path: Path, asked: Asked) -> Header:
    features, coords = matrix(file), dataset(file, "coords")
    assert features is not None and coords is not None
    header = Header(path, "clam", path.stem, *size_of(features), features.dtype)
    if knows_coords(coords):  # older CLAM keeps everything in one file
        return _with(header, geometry_of(coords, asked.slide_mpp))
    found = _patches_of(path, asked, whole_pixels(pairs(coords)))
    return _with(header, None if found is None else found[1])


def _with(header: Header, geometry: Geometry | None) -> Header:
    notes = (UNSAID,) if geometry is not None else (UNSAID, NO_PATCHES)
    return replace(header, geometry=geometry or Geometry(), origin=Origin("CLAM", notes=notes))


def _arrays(file: h5py.File, header: Header) -> StoredFeatures:
    features, coords = matrix(file), dataset(file, "coords")
    assert features is not None and coords is not None
    found = whole_pixels(pairs(coords))
    return StoredFeatures(header, values_of(features), found, found.astype(np.float64), "level-0 px")


def _patches_of(path: Path, asked: Asked, coords: np.ndarray | None) -> tuple[np.ndarray, Geometry] | None:
    """(coordinates, geometry) in the file of patches of the same slide, None if none is found.

    One that is given must hold the same coordinates; one that merely lies there and does not is left alone.
    """
    places = [asked.patches] if asked.patches is not None else _places(path)
    for place in places:
        if asked.patches is None and not place.is_file():
            continue
        try:
            with opened(place) as file:
                found = dataset(file, "coords")
                if found is not None and knows_coords(found):
                    there = whole_pixels(pairs(found))
                    if coords is None or np.array_equal(there, coords):
                        return there, geometry_of(found, asked.slide_mpp)
        except UserError:
            if asked.patches is not None:
                raise
        if asked.patches is not None:
            raise UserError(f"{place}: not the patches of {path}: its coordinates are others; give those of this slide")
    return None


def _places(path: Path) -> list[Path]:
    """Where CLAM's file of patches may lie: RESULTS/patches beside RESULTS/features/h5_files, or beside the file."""
    name = f"{path.stem}.h5"
    near = [folder / "patches" / name for folder in list(path.parents)[:3]]
    beside = path.with_name(name.replace("feat", "patches", 1))
    return [*near, path.with_name(f"{path.stem}_patches.h5"), *([beside] if beside != path else [])]


def pt_header(path: Path, asked: Asked) -> Header:
    """The header of a .pt, the bare tensor that CLAM writes beside its .h5."""
    return read_pt(path, asked).header


def read_pt(path: Path, asked: Asked) -> StoredFeatures:
    """Features of a .pt, with the coordinates of the .h5 or of the patches of the same slide if they are found."""
    values = open_array(path)
    values = values[0] if values.ndim == 3 and len(values) == 1 else values
    if values.ndim != 2 or values.dtype.kind not in "fV":
        raise UserError(f"{path}: holds {values.dtype} {values.shape}, expected features (tiles, width)")
    dtype = values.dtype
    values = values if values.dtype in (np.float32, np.float64) else values.astype(np.float32)
    header = Header(path, "clam", path.stem, len(values), values.shape[1], dtype)
    inside = _coords_inside(path, len(values))
    coords = _coords_beside(path, len(values)) if inside is None else inside
    found = _patches_of(path, asked, coords)
    if coords is None and found is not None and len(found[0]) == len(values):
        coords = found[0]
    stored = None if coords is None else coords.astype(np.float64)
    unit = "" if coords is None else "level-0 px"
    header = _with(header, None if found is None else found[1])
    if inside is not None:
        header = replace(header, origin=replace(header.origin, notes=(*header.origin.notes, INSIDE)))
    return StoredFeatures(header, values, coords, stored, unit)


def _coords_inside(path: Path, count: int) -> np.ndarray | None:
    """Coordinates in the .pt itself, which some programs write as {"features": ..., "coords": ...}."""
    try:
        found = open_tensors(path).tensors.get("coords")
    except UserError:  # a bare tensor
        return None
    if found is None or tuple(found.shape) != (count, 2):
        return None
    values = np.asarray(found.numpy(), np.float64)
    return whole_pixels(values) if np.isfinite(values).all() and np.abs(values).max(initial=0) < FARTHEST else None


def _coords_beside(path: Path, count: int) -> np.ndarray | None:
    """Coordinates in CLAM's h5_files/NAME.h5, or in NAME.h5 beside the .pt; it writes both in one order."""
    for place in (path.parent.parent / "h5_files" / f"{path.stem}.h5", path.with_suffix(".h5")):
        if place.is_file():
            with opened(place) as file:
                coords = dataset(file, "coords")
                if coords is not None and coords.ndim == 2 and len(coords) == count:
                    return whole_pixels(pairs(coords))
    return None


LAYOUT = Layout("clam", _recognises, _header, _arrays)
