"""TRIDENT's files: `features` and `coords` with attributes on them; level-0 pixels; the resolution is not stored."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from histojax.features.hdf5 import attributes, dataset
from histojax.features.layout import Asked, Layout, matrix, number, pairs, size_of, values_of, whole, whole_pixels
from histojax.features.stored import Geometry, Header, Origin, StoredFeatures

NOMINAL = "mpp is not stored, only the nominal magnification; give the slide's mpp to have that of the tiles"
OWN = {"patch_size_level0", "target_magnification", "level0_magnification"}
UNSAID = "weights and preprocessing are not stored"


def knows_coords(coords: h5py.Dataset) -> bool:
    """Whether coordinates, or their file as copies of it may have it, have TRIDENT's attributes."""
    return bool(OWN & {*coords.attrs, *coords.file.attrs})


def _recognises(file: h5py.File) -> bool:
    features, coords = _features(file), dataset(file, "coords")
    return features is not None and ("encoder" in features.attrs or (coords is not None and knows_coords(coords)))


def _features(file: h5py.File) -> h5py.Dataset | None:
    return next((found for name in ("features", "feats") if (found := dataset(file, name)) is not None), None)


def geometry_of(coords: h5py.Dataset | None, slide_mpp: float | None) -> Geometry:
    """What the attributes of coordinates say; the mpp of the tiles follows from that of the slide."""
    facts = {} if coords is None else attributes(coords.file) | attributes(coords)
    tile_px, footprint = whole(facts.get("patch_size")) or None, number(facts.get("patch_size_level0"))
    width, height = whole(facts.get("level0_width")), whole(facts.get("level0_height"))
    target, level0 = number(facts.get("target_magnification")), number(facts.get("level0_magnification"))
    if footprint is None and tile_px and target and level0:  # of older versions
        footprint = tile_px * level0 / target
    return Geometry(
        tile_px,
        slide_mpp * footprint / tile_px if slide_mpp and footprint and tile_px else None,
        footprint,
        whole(facts.get("overlap")),
        slide_mpp,
        "given" if slide_mpp else "",
        (width, height) if width and height else None,
        magnification=target,
    )


def pixels(coords: h5py.Dataset, path: Path) -> np.ndarray:
    """(n, 2) int64 level-0 pixels."""
    return whole_pixels(pairs(coords))


def _header(file: h5py.File, path: Path, asked: Asked) -> Header:
    features, coords = matrix(file), dataset(file, "coords")
    assert features is not None
    said = attributes(features)
    notes = (UNSAID,) if asked.slide_mpp else (UNSAID, NOMINAL)
    return Header(
        path,
        "trident",
        str(said.get("name", path.stem)),
        *size_of(features),
        features.dtype,
        geometry_of(coords, asked.slide_mpp),
        Origin("TRIDENT", str(said.get("encoder", "")), notes=notes),
    )


def _arrays(file: h5py.File, header: Header) -> StoredFeatures:
    features, coords = matrix(file), dataset(file, "coords")
    assert features is not None
    found = None if coords is None else pixels(coords, header.path)
    stored = None if found is None else found.astype(np.float64)
    return StoredFeatures(header, values_of(features), found, stored, "" if found is None else "level-0 px")


LAYOUT = Layout("trident", _recognises, _header, _arrays)
