"""Feature and coordinate files of other programs: what our readers make of them, beside plain h5py lines.

A set has files of any slides under any names; what wrote a file is told by what is in it. Files of one slide end in the
same `__<slide>`; those are held against each other, too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import h5py
import numpy as np

from histojax.common.errors import UserError
from histojax.features.read import read_coords, read_features, read_header
from parity_cases.check import Check, compare, failed, same
from parity_cases.golden import FeatureFile, Folder

STEP = 1e-3  # level-0 pixels that a corner may lie beside its grid


def cases(file: FeatureFile, folder: Folder) -> Iterator[tuple[str, Callable]]:
    """An .h5 with features or coordinates, or a .pt beside such a one."""
    if file.path.suffix == ".pt":
        file.used = True
        yield f"{file.name} .pt", partial(_tensor, f"{file.name} .pt", file)
        return
    raw = _raw(file)
    if "coords" in raw and not {"features", "feats"} & set(raw):
        file.used = True
        yield file.name, partial(_coords_alone, file.name, file, raw)
    elif {"features", "feats"} & set(raw):
        kind = read_header(file.path).kind
        file.used = True
        yield file.name, partial(_READERS.get(kind, _pixels), file.name, file, raw, folder)


def _raw(file: FeatureFile) -> dict[str, Any]:
    """Every dataset of a file, by plain h5py."""
    with h5py.File(file.path) as opened:
        return {name: data[()] for name, data in opened.items() if isinstance(data, h5py.Dataset)}


def _attributes(file: FeatureFile, name: str = "") -> dict[str, Any]:
    with h5py.File(file.path) as opened:
        return dict(opened[name].attrs if name else opened.attrs)


def _slide(file: FeatureFile) -> str:
    return file.path.stem.rpartition("__")[2]


def _coords_alone(name: str, file: FeatureFile, raw: dict[str, Any]) -> Iterator[Check]:
    """The file of patches of TRIDENT or CLAM."""
    coords, geometry = read_coords(file.path)
    attrs = _attributes(file, "coords")
    yield compare(name, "coordinates", coords, raw["coords"])
    footprint = attrs.get("patch_size_level0")
    if footprint is None:
        footprint = attrs["patch_size"] * attrs["downsample"][0]
    yield compare(name, "footprint in level-0 px", geometry.footprint_px, footprint)
    yield same(name, "corners inside the slide", _outside(coords, geometry.slide_size))


def _outside(coords: np.ndarray, size: tuple[int, int] | None) -> list:
    """Corners that lie on no pixel of the slide; far corners may."""
    wrong = (coords < 0).any(1) | (False if size is None else (coords >= np.array(size)).any(1))
    return coords[wrong].tolist()


def _pixels(name: str, file: FeatureFile, raw: dict[str, Any], folder: Folder) -> Iterator[Check]:
    """TRIDENT, CLAM and files without attributes: numbers and level-0 pixels as they are stored."""
    found = read_features(file.path)
    yield compare(name, f"features ({found.header.kind})", found.features, raw.get("features", raw.get("feats")))
    if "coords" in raw:
        yield compare(name, "coordinates", found.coords, raw["coords"])
    if found.geometry.slide_size and found.coords is not None:
        yield same(name, "corners inside the slide", _outside(found.coords, found.geometry.slide_size))
    if found.header.kind == "trident":
        g = found.geometry
        step = (g.tile_px - g.overlap_px) * g.footprint_px / g.tile_px
        yield compare(name, "corners on the grid", found.coords % step, np.zeros_like(found.coords), atol=STEP)
    partner = _patches(file, folder)
    if partner is not None:
        coords, geometry = read_coords(partner.path)
        yield compare(name, f"coordinates of {partner.name}", found.coords, coords)
        yield compare(name, f"footprint of {partner.name}", found.geometry.footprint_px, geometry.footprint_px)


def _patches(file: FeatureFile, folder: Folder) -> FeatureFile | None:
    """The file of patches that the features were made from."""
    wanted = file.path.name.replace("feat", "patches", 1)
    return next((one for one in folder.features if one.path.name == wanted and one is not file), None)


def _stamp(name: str, file: FeatureFile, raw: dict[str, Any], folder: Folder) -> Iterator[Check]:
    """STAMP: micrometres; level-0 pixels with the mpp of the slide, which the set does not hold: one that fits."""
    found = read_features(file.path)
    yield compare(name, "features (stamp)", found.features, raw["feats"].astype(np.float32))
    yield compare(name, "coordinates in um", found.stored_coords, raw["coords"].astype(np.float64))
    yield same(name, "level-0 px without the slide's mpp", [] if found.coords is None else ["given"])
    tile_um = float(_attributes(file)["tile_size_um"])
    fitting = _named_mpp(file) or _fitting_mpp(raw["coords"].astype(np.float64), tile_um)
    if fitting is None:
        yield failed(name, "no mpp fits the grid of the file")
        return
    found = read_features(file.path, slide_mpp=fitting)
    step = np.ceil(tile_um / fitting)
    yield compare(name, f"level-0 px at {fitting:.6g} mpp", found.coords, raw["coords"] / fitting, atol=2e-2)
    yield compare(name, f"corners on a grid of {step:g} px", found.coords % int(step), np.zeros_like(found.coords))
    try:
        read_features(file.path, slide_mpp=fitting * 1.037)
        yield failed(name, "an mpp that is not the slide's was taken")
    except UserError:
        yield same(name, "another mpp refused", [])


def _named_mpp(file: FeatureFile) -> float | None:
    """The mpp in a slide's name: mpp025 is 0.25."""
    said = re.search(r"mpp(\d)(\d\d)", _slide(file))
    return float(f"{said[1]}.{said[2]}") if said else None


def _fitting_mpp(coords: np.ndarray, tile_um: float) -> float | None:
    """An mpp for which ceil(tile / mpp) pixels are the step of the grid; the roundest of several."""
    gaps = np.concatenate([np.diff(np.unique(column)) for column in coords.T])
    if not len(gaps):
        return None
    step = float(gaps.min())
    found = [step / k for k in range(420, 2600) if np.ceil(tile_um / (step / k) - 1e-6) == k]
    return min(found, key=lambda mpp: abs(mpp * 1000 - round(mpp * 1000)), default=None)


def _histobistro(name: str, file: FeatureFile, raw: dict[str, Any], folder: Folder) -> Iterator[Check]:
    """HistoBistro: [scene, row, column] of the downscaled scene."""
    found = read_features(file.path)
    yield compare(name, "features (histobistro)", found.features, raw.get("feats", raw.get("features")))
    coords = raw["coords"]
    yield compare(name, "x is the column, y the row", found.stored_coords, coords[:, [-1, -2]])
    if coords.shape[1] == 3:
        yield compare(name, "scenes", found.scenes, coords[:, 0])
    for key in ("feats_aug", "histaugan", "augmented"):
        if key in raw:
            yield compare(name, key, found.augmented, raw[key])
    if "slide_sizes" in raw and found.geometry.mpp:
        sizes, mpp = raw["slide_sizes"], found.geometry.mpp
        scaled = read_features(file.path, slide_mpp=mpp / 2)  # the scene was read at half its size
        scenes = coords[:, 0].astype(int)
        factors = sizes / (sizes // 2)
        wanted = coords[:, [2, 1]] * factors[scenes]
        yield compare(name, "level-0 px at twice the resolution", scaled.coords, np.rint(wanted))


def _tensor(name: str, file: FeatureFile) -> Iterator[Check]:
    """CLAM's .pt beside its .h5: one order."""
    ours, theirs = read_features(file.path), read_features(file.path.with_suffix(".h5"))
    yield compare(name, "features as in the .h5", ours.features, theirs.features)
    yield compare(name, "coordinates as in the .h5", ours.coords, theirs.coords)


_READERS: dict[str, Callable] = {"stamp": _stamp, "histobistro": _histobistro}
