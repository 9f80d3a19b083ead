"""Our feature file: HDF5, one a slide or one for a folder of patches, with TRIDENT's names and what it leaves out.

    features       (n, d) float32 or float16      attributes encoder, name, savetodir
    coords         (n, 2) int64, level-0 pixels   attributes as TRIDENT writes them: patch_size, patch_size_level0
    patch_tokens   (n, P, D)                        on request; attribute grid (rows, columns)
    labels, names, groups                           of patches without a slide; class names in the attribute `classes`
    skipped_coords, skipped                         tiles that could not be read, and why

The file's own attributes say who made it: encoder, weights, hashes, geometry, licences (FIELDS). No times, no absolute
paths: the same features of the same slide are the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from histojax.common.errors import UserError
from histojax.features.hdf5 import attributes, dataset, put, put_texts, strings, written
from histojax.features.stored import Geometry, Header, Origin, StoredFeatures
from histojax.weights.licence import as_rows, chain_of_card

FORMAT = "histojax features 1"
SAVED = ("float32", "float16")
_TEXTS = (  # attributes of the file that are fields of Origin
    *("producer", "encoder", "weights", "weights_sha256", "preprocess_sha256", "pooling", "compute_dtype", "stain"),
    *("selection_sha256", "read_from"),
)
# nominal magnification of a slide by its mpp, as TRIDENT bins it
_MAGNIFICATIONS = ((0.16, 80), (0.2, 60), (0.3, 40), (0.6, 20), (1.2, 10), (2.4, 5))


@dataclass(frozen=True)
class Rows:
    """What is written of the tiles of a file, in its order.

    Args:
        features: (n, d).
        coords: (n, 2) level-0 pixels, or None.
        names, groups: (n,) str, or None.
        labels: (n,) int, -1 unlabelled, or None; numbers of `classes`.
        classes: names of the classes.
        group_kind: what the groups are (patient, slide, sample, group).
        tokens: (n, P, D), anything that can be sliced, or None.
        grid: (rows, columns) of the tokens.
        skipped: (x, y, reason) of each tile that could not be read; -1 where there are no coordinates.
        rejected: places that became no tile: no tissue, blurred ...
    """

    features: np.ndarray
    coords: np.ndarray | None = None
    names: np.ndarray | None = None
    labels: np.ndarray | None = None
    classes: tuple[str, ...] = ()
    groups: np.ndarray | None = None
    group_kind: str = ""
    tokens: Any = None
    grid: tuple[int, int] | None = None
    skipped: tuple[tuple[int, int, str], ...] = ()
    rejected: int = 0


def write_features(
    path: Path, name: str, rows: Rows, geometry: Geometry, origin: Origin, save: str = "float32", folder: str = ""
) -> None:
    """Writes one file, whole or not at all.

    Args:
        path: of the file.
        name: of the slide or folder.
        rows: its tiles.
        geometry, origin: what all its tiles have in common.
        save: "float32" or "float16", of features and tokens.
        folder: the job's folder that it lies in, for TRIDENT's attribute savetodir.

    Raises:
        UserError: no tiles, arrays of different lengths, numbers that are not finite as saved, a full disk.
    """
    features = _checked(path, rows, save)
    with written(path) as file:
        for key, value in _file_attributes(name, geometry, origin).items():
            file.attrs[key] = value
        file.attrs["rejected"] = rows.rejected
        put(file, "features", features, {"encoder": origin.encoder, "name": name, "savetodir": folder})
        if rows.coords is not None:
            where = folder.rpartition("/")[0]
            put(file, "coords", rows.coords.astype(np.int64), coords_attributes(name, geometry, where))
        for key in ("names", "groups"):
            if (texts := getattr(rows, key)) is not None:
                put_texts(file, key, texts)
        _put_labels(file, rows)
        if rows.tokens is not None:
            put(file, "patch_tokens", rows.tokens, {"grid": np.array(rows.grid, np.int64)}, save)
        if rows.skipped:
            put(file, "skipped_coords", np.array([one[:2] for one in rows.skipped], np.int64), {})
            put_texts(file, "skipped", np.array([one[2] for one in rows.skipped]))


def write_coords(path: Path, name: str, coords: np.ndarray, geometry: Geometry, folder: str = "") -> None:
    """Writes the `<slide>_patches.h5` of TRIDENT: coordinates (n, 2) in level-0 pixels without features."""
    with written(path) as file:
        put(file, "coords", coords.astype(np.int64), coords_attributes(name, geometry, folder))


def _checked(path: Path, rows: Rows, save: str) -> np.ndarray:
    """The features as they are saved."""
    count = len(rows.features)
    if not count:
        raise UserError(f"{path}: no tile has features, so there is nothing to write")
    for key in ("coords", "names", "labels", "groups", "tokens"):
        value = getattr(rows, key)
        if value is not None and len(value) != count:
            raise UserError(f"{path}: {len(value)} {key} for {count} features; they must be one a tile")
    with np.errstate(over="ignore"):
        features = np.asarray(rows.features).astype(save)
    finite = np.isfinite(features).all(1)
    if not finite.all():
        where = int(np.argmin(finite))
        large = np.isfinite(rows.features[where]).all()
        fix = "save them as float32 (--save float32)" if large else "compute in float32 and look at the weights"
        raise UserError(f"{path}: the features of {int((~finite).sum())} of {count} tiles are not finite; {fix}")
    return features


def coords_attributes(name: str, geometry: Geometry, folder: str) -> dict[str, Any]:
    """What TRIDENT writes beside coordinates; what is not known is left out."""
    size = geometry.slide_size or (None, None)
    level0 = None if geometry.slide_mpp is None else nominal_magnification(geometry.slide_mpp)
    facts = {
        "patch_size": geometry.tile_px,
        "patch_size_level0": None if geometry.footprint_px is None else np.float64(geometry.footprint_px),
        "level0_magnification": level0,
        "target_magnification": None if geometry.mpp is None else np.float64(10 / geometry.mpp),
        "overlap": None if geometry.overlap_px is None else round(geometry.overlap_px),
        "level0_width": size[0],
        "level0_height": size[1],
        "name": name,
        "savetodir": folder,
    }
    return {key: value for key, value in facts.items() if value is not None}


def nominal_magnification(mpp: float) -> int:
    """What a scanner would call this resolution: 0.25 mpp is 40."""
    return next((nominal for limit, nominal in _MAGNIFICATIONS if mpp < limit), max(1, round(10 / mpp)))


def _file_attributes(name: str, geometry: Geometry, origin: Origin) -> dict[str, Any]:
    """Everything that is known, as attributes of the file; what is not known is left out."""
    facts: dict[str, Any] = {"format": FORMAT, "name": name}
    facts |= {key: getattr(origin, key) for key in _TEXTS}
    facts["licences"] = json.dumps(as_rows(origin.licences), sort_keys=True)
    for field in fields(Geometry):
        value = getattr(geometry, field.name)
        if value is not None and value != "":
            facts[field.name] = np.array(value, np.int64) if isinstance(value, tuple) else value
    return facts


def _put_labels(file: h5py.File, rows: Rows) -> None:
    if rows.labels is not None:
        put(file, "labels", np.asarray(rows.labels, np.int64), {})
        kind = h5py.string_dtype("utf-8")
        file["labels"].attrs.create("classes", np.array(rows.classes, object), dtype=kind)
    if rows.groups is not None:
        file["groups"].attrs["kind"] = rows.group_kind


def is_ours(file: h5py.File) -> bool:
    """Whether histojax wrote a file; raises UserError for a format that is newer than this program."""
    said = str(attributes(file).get("format", ""))
    if said.startswith("histojax features ") and said != FORMAT:
        raise UserError(f"{file.filename}: written by a newer histojax ({said}; this one reads {FORMAT}); update it")
    return said == FORMAT


def header_of(file: h5py.File, path: Path) -> Header:
    """The header of a file of ours."""
    facts = attributes(file)
    found = {name: dataset(file, name) for name in ("features", "patch_tokens", "labels", "skipped", "groups")}
    features, tokens = found["features"], found["patch_tokens"]
    if features is None or features.ndim != 2:
        raise UserError(f"{path}: damaged: it has no features (n, d); delete it and extract again")
    grid = None if tokens is None else tuple(int(n) for n in tokens.attrs["grid"])
    labels, skipped, groups = found["labels"], found["skipped"], found["groups"]
    return Header(
        path,
        "histojax",
        str(facts.get("name", path.stem)),
        features.shape[0],
        features.shape[1],
        features.dtype,
        _geometry(facts),
        _origin(facts),
        () if labels is None else tuple(str(one) for one in labels.attrs["classes"]),
        "" if groups is None else str(groups.attrs.get("kind", "")),
        None if tokens is None else tokens.shape[1:],
        (grid[0], grid[1]) if grid else None,
        0 if skipped is None else len(skipped),
        int(facts.get("rejected", 0)),
    )


def _geometry(facts: Mapping[str, Any]) -> Geometry:
    found = {field.name: facts[field.name] for field in fields(Geometry) if field.name in facts}
    if "slide_size" in found:
        found["slide_size"] = tuple(int(n) for n in found["slide_size"])
    return Geometry(**found)


def _origin(facts: Mapping[str, Any]) -> Origin:
    links = chain_of_card({"licences": json.loads(facts.get("licences", "[]"))})
    texts: dict[str, Any] = {key: str(facts.get(key, "")) for key in _TEXTS}
    return Origin(**texts, licences=links)


def arrays_of(file: h5py.File, header: Header) -> StoredFeatures:
    """The arrays of a file of ours, without its patch tokens, see `read_tokens`."""
    found = {name: dataset(file, name) for name in ("features", "coords", "names", "labels", "groups")}
    read = {name: None if data is None else data[()] for name, data in found.items() if name not in ("names", "groups")}
    coords = read["coords"]
    return StoredFeatures(
        header,
        np.asarray(read["features"], np.float32),
        coords,
        None if coords is None else coords.astype(np.float64),
        "" if coords is None else "level-0 px",
        names=None if found["names"] is None else strings(found["names"]),
        labels=read["labels"],
        groups=None if found["groups"] is None else strings(found["groups"]),
    )
