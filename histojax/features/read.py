"""`read_features` and `read_header`: feature files of histojax, TRIDENT, CLAM, STAMP and HistoBistro, told apart alone.

Units and order come out the same for all: x and y of a tile's upper left corner in level-0 pixels, where the file
allows that. What a format leaves open is a note in `origin.notes`, never a guess. Each format is a row of `LAYOUTS`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np

from histojax.common.errors import UserError
from histojax.common.files import expanded
from histojax.features import clam, feature_file, histobistro, plain, stamp, trident
from histojax.features.hdf5 import dataset, opened
from histojax.features.layout import Asked, Layout
from histojax.features.stored import Geometry, Header, StoredFeatures

LAYOUTS: tuple[Layout, ...] = (  # the first one that recognises a file reads it
    Layout("histojax", feature_file.is_ours, lambda f, p, _: feature_file.header_of(f, p), feature_file.arrays_of),
    stamp.LAYOUT,
    trident.LAYOUT,
    histobistro.LAYOUT,
    clam.LAYOUT,
    plain.LAYOUT,
)

TENSORS = (".pt", ".pth")


class EmptyFile(UserError):
    """A feature file that is whole and has no tiles, as some programs write for a slide without tissue."""


def read_features(
    path: str | os.PathLike, slide_mpp: float | None = None, patches: str | os.PathLike | None = None
) -> StoredFeatures:
    """The arrays of a feature file with everything that it says about itself.

    Args:
        path: an .h5 of any of the programs, or CLAM's .pt.
        slide_mpp: micrometres per level-0 pixel of the slide, where the file does not say: STAMP and HistoBistro
            coordinates need it to become level-0 pixels, TRIDENT's and CLAM's tiles to have a resolution.
        patches: CLAM's file of coordinates, if it does not lie where CLAM puts it.

    Raises:
        UserError: no such file, damaged, of another kind, or with values that no features have (NaN, lengths that
            differ, no rows); it names the file.
    """
    asked = Asked(slide_mpp, None if patches is None else expanded(patches))
    path = expanded(path)
    if path.suffix.lower() in TENSORS:
        return _checked(clam.read_pt(path, asked))
    with _recognised(path) as (file, layout):
        header = layout.header(file, path, asked)
        _refuse_empty(header)
        return _checked(layout.arrays(file, header))


def read_header(
    path: str | os.PathLike, slide_mpp: float | None = None, patches: str | os.PathLike | None = None
) -> Header:
    """What a feature file says about itself, without its features; arguments and errors as of `read_features`."""
    asked = Asked(slide_mpp, None if patches is None else expanded(patches))
    path = expanded(path)
    if path.suffix.lower() in TENSORS:
        return clam.pt_header(path, asked)
    with _recognised(path) as (file, layout):
        header = layout.header(file, path, asked)
        _refuse_empty(header)
        return header


def read_tokens(path: str | os.PathLike, rows: slice = slice(None)) -> np.ndarray:
    """(n, P, D) float32 patch tokens of a file of ours, of some rows; raises UserError if it has none."""
    with opened(path) as file:
        tokens = dataset(file, "patch_tokens")
        if tokens is None:
            raise UserError(f"{path}: holds no patch tokens; extract with --patch-tokens")
        return tokens[rows].astype(np.float32)


def read_coords(path: str | os.PathLike) -> tuple[np.ndarray, Geometry]:
    """((n, 2) int64 level-0 pixels, geometry) of a file of coordinates, TRIDENT's or CLAM's, or of any feature file."""
    path = expanded(path)
    with opened(path) as file:
        coords = dataset(file, "coords")
        if coords is not None and trident.knows_coords(coords):
            return trident.pixels(coords, path), trident.geometry_of(coords, None)
        if coords is not None and clam.knows_coords(coords):
            return trident.pixels(coords, path), clam.geometry_of(coords, None)
    found = read_features(path)
    if found.coords is None:
        raise UserError(f"{path}: holds no coordinates in level-0 pixels")
    return found.coords, found.geometry


@contextmanager
def _recognised(path: Path) -> Iterator[tuple[h5py.File, Layout]]:
    with opened(path) as file:
        for layout in LAYOUTS:
            if layout.recognises(file):
                yield file, layout
                return
        names = ", ".join(list(file)[:8]) or "nothing"
        only = "coordinates alone: give the file of features" if "coords" in file else "no features that are known"
        raise UserError(f"{path}: holds {only} (it has {names}); expected a dataset `features` or `feats`")


def _refuse_empty(header: Header) -> None:
    if not header.tiles or not header.width:
        raise EmptyFile(f"{header.path}: holds {header.tiles} tiles of {header.width} numbers; extract it again")


def _checked(found: StoredFeatures) -> StoredFeatures:
    """The same; raises UserError for arrays that do not belong together and for numbers that are not finite."""
    path, count = found.header.path, len(found.features)
    for key in ("coords", "stored_coords", "scenes", "names", "labels", "groups"):
        value = getattr(found, key)
        if value is not None and len(value) != count:
            raise UserError(f"{path}: {len(value)} {key.replace('_', ' ')} for {count} features; extract it again")
    if found.augmented is not None and found.augmented.shape[1:] != found.features.shape:
        shape, wanted = found.augmented.shape, found.features.shape
        raise UserError(f"{path}: augmented features {shape} do not fit the features {wanted}; extract it again")
    finite = np.isfinite(found.features).all(1)
    if not finite.all():
        first = int(np.argmin(finite))
        raise UserError(
            f"{path}: {int((~finite).sum())} of {count} tiles have features that are not finite (the first is row "
            f"{first}); extract it again"
        )
    wide = found.features.astype(np.float32, copy=False) if found.features.dtype == np.float16 else found.features
    return replace(found, features=wide)
