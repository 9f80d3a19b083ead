"""Files of nobody in particular: `features` or `feats`, with or without `coords`, without attributes."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from histojax.features.hdf5 import dataset, strings
from histojax.features.layout import Asked, Layout, matrix, pairs, size_of, values_of, whole_pixels
from histojax.features.stored import Geometry, Header, Origin, StoredFeatures

NAMES = ("metadata", "names", "filenames", "tile_names")
UNSAID = "the file does not say who made it, with which encoder, weights and preprocessing"
PIXELS = "the unit of the coordinates is not stored; whole numbers are taken as level-0 pixels"


def _recognises(file: h5py.File) -> bool:
    return dataset(file, "features") is not None or dataset(file, "feats") is not None


def _header(file: h5py.File, path: Path, asked: Asked) -> Header:
    features = matrix(file)
    assert features is not None
    notes = (UNSAID,) if dataset(file, "coords") is None else (UNSAID, PIXELS)
    geometry = Geometry(slide_mpp=asked.slide_mpp, slide_mpp_from="given" if asked.slide_mpp else "")
    name = path.parent.name if path.stem in ("features", "feats") else path.stem
    return Header(path, "plain", name, *size_of(features), features.dtype, geometry, Origin(notes=notes))


def _arrays(file: h5py.File, header: Header) -> StoredFeatures:
    features, coords = matrix(file), dataset(file, "coords")
    assert features is not None
    names = next((d for name in NAMES if (d := dataset(file, name)) is not None and d.dtype.kind == "O"), None)
    found = None if coords is None else whole_pixels(pairs(coords))
    return StoredFeatures(
        header,
        values_of(features),
        found,
        None if found is None else found.astype(np.float64),
        "" if found is None else "level-0 px",
        names=None if names is None else strings(names),
    )


LAYOUT = Layout("plain", _recognises, _header, _arrays)
