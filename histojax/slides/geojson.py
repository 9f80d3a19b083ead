"""Annotations and masks as QuPath's GeoJSON: polygons with holes in level-0 pixels.

Read are whole exports (FeatureCollection, bare list of features, GeometryCollection, plain or gzipped) of
annotations; detections and cells are left out. Written is a FeatureCollection, a polygon a piece of the mask.
"""

from __future__ import annotations

import dataclasses
import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from histojax.common.errors import UserError
from histojax.common.files import write_atomic

NO_AREAS = ("Point", "MultiPoint", "LineString", "MultiLineString")
NO_ANNOTATIONS = ("detection", "cell", "tile", "tma_core", "root")
OLD_IDS = ("PathDetectionObject", "PathCellObject", "PathTileObject", "PathRootObject", "TMACoreObject")


@dataclasses.dataclass(frozen=True)
class Polygon:
    """One area: rings (n, 2) float of x, y in level-0 pixels, the outer one first, and the name of its class."""

    rings: tuple[np.ndarray, ...]
    name: str = ""


@dataclasses.dataclass(frozen=True)
class Polygons:
    """The areas of a file.

    Args:
        areas: those asked for.
        names: every class in the file and how many areas it has, "" for those without one.
        left_out: features that are no areas (points, lines) or no annotations (detections, cells).
    """

    areas: tuple[Polygon, ...]
    names: dict[str, int] = dataclasses.field(default_factory=dict)
    left_out: int = 0

    def __len__(self) -> int:
        return len(self.areas)


# reading


def read_geojson(path: str | Path, classification: str | None = None) -> Polygons:
    """The areas of a GeoJSON file; with `classification`, those of this class (capitals do not matter).

    A class that the file does not have gives no areas: a slide without artefacts is none the worse. Raises
    UserError for a file that cannot be read: path, feature, what was expected.
    """
    path = Path(path)
    areas: list[Polygon] = []
    left_out = 0
    for number, feature in enumerate(_features(path, _loaded(path))):
        where = f"{path}: feature {number}"
        name = _class_of(where, feature)
        found = [] if _no_annotation(feature) else list(_polygons(where, feature.get("geometry")))
        left_out += not found
        areas += [Polygon(rings, name) for rings in found]
    names: dict[str, int] = {}
    for area in areas:
        names[area.name] = names.get(area.name, 0) + 1
    wanted = areas if classification is None else [a for a in areas if a.name.casefold() == classification.casefold()]
    return Polygons(tuple(wanted), names, left_out)


def _loaded(path: Path) -> Any:
    data = b""
    try:
        data = path.read_bytes()
        return json.loads(gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data)
    except UnicodeDecodeError:
        raise UserError(
            f"{path}: no GeoJSON and no text (a mask as a picture?): export annotations as GeoJSON"
        ) from None
    except (OSError, EOFError, ValueError, RecursionError) as error:
        why = "an empty file" if not data and not isinstance(error, OSError) else "XML" if data[:1] == b"<" else error
        raise UserError(f"{path}: cannot be read as GeoJSON ({why}); export annotations as GeoJSON") from error


def _features(path: Path, content: Any) -> Iterator[dict[str, Any]]:
    """The features of any of the forms that QuPath writes; a bare geometry becomes a feature."""
    kind = content.get("type") if isinstance(content, dict) else None
    features = content.get("features") if kind == "FeatureCollection" else content
    if isinstance(features, list):
        for number, feature in enumerate(features):
            if not isinstance(feature, dict):
                raise UserError(f"{path}: feature {number} is {type(feature).__name__}, expected a GeoJSON feature")
            yield feature if "geometry" in feature else {"geometry": feature}
    elif kind == "Feature":
        yield content
    elif isinstance(kind, str) and kind != "FeatureCollection":
        yield {"geometry": content}
    else:
        raise UserError(f"{path}: no GeoJSON: expected a FeatureCollection or a list of features, as QuPath exports")


def _properties(feature: dict[str, Any]) -> dict[str, Any]:
    found = feature.get("properties")
    return found if isinstance(found, dict) else {}


def _class_of(where: str, feature: dict[str, Any]) -> str:
    """The class as QuPath writes it, or as other tools do: a bare name."""
    found = _properties(feature).get("classification")
    if isinstance(found, dict):
        found = found.get("name") or ": ".join(map(str, found.get("names") or ()))
    if found is None or isinstance(found, str):
        return found or ""
    raise UserError(f"{where}: its classification is {found!r:.40}, expected a name")


def _no_annotation(feature: dict[str, Any]) -> bool:
    kind = _properties(feature).get("objectType") or _properties(feature).get("object_type")
    return str(kind).lower() in NO_ANNOTATIONS or str(feature.get("id")) in OLD_IDS


def _polygons(where: str, geometry: Any) -> Iterator[tuple[np.ndarray, ...]]:
    """The rings of each polygon of a geometry."""
    if geometry is None:
        return
    kind = geometry.get("type") if isinstance(geometry, dict) else None
    if kind == "GeometryCollection":
        for part in _listed(where, geometry.get("geometries")):
            yield from _polygons(where, part)
    elif kind == "Polygon":
        yield _rings(where, geometry.get("coordinates"))
    elif kind == "MultiPolygon":
        for part in _listed(where, geometry.get("coordinates")):
            yield _rings(where, part)
    elif kind not in NO_AREAS:
        raise UserError(f"{where}: its geometry is of type {kind!r:.40}, expected Polygon or MultiPolygon")


def _listed(where: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise UserError(f"{where}: its geometry holds {value!r:.40}, expected a list")
    return value


def _rings(where: str, coordinates: Any) -> tuple[np.ndarray, ...]:
    """The rings of one polygon; a third coordinate (the plane) is dropped."""
    rings = []
    for ring in _listed(where, coordinates):
        try:
            points = np.array([point[:2] for point in ring], np.float64)
        except (TypeError, ValueError, IndexError):
            points = np.empty(0)
        if points.ndim != 2 or points.shape[1] != 2 or len(points) < 3 or not np.isfinite(points).all():
            raise UserError(f"{where}: a ring of its polygon is {ring!r:.60}, expected 3 or more points [x, y]")
        rings.append(points)
    if not rings:
        raise UserError(f"{where}: its polygon has no ring")
    return tuple(rings)


# polygons to masks


def rasterise(polygons: Polygons, shape: tuple[int, int], scale: float) -> np.ndarray:
    """`shape` (h, w) bool: the pixels whose centre lies in an area; `scale` level-0 pixels each."""
    mask = np.zeros(shape, bool)
    for area in polygons.areas:
        _fill(mask, [ring / scale for ring in area.rings])
    return mask


def _fill(mask: np.ndarray, rings: list[np.ndarray]) -> None:
    """Adds a polygon by the even-odd rule, which takes holes out: each edge flips all centres to the right of it."""
    height, width = mask.shape
    start = np.concatenate(rings)
    end = np.concatenate([np.roll(ring, -1, axis=0) for ring in rings])
    upper, lower = np.minimum(start[:, 1], end[:, 1]), np.maximum(start[:, 1], end[:, 1])
    first, last = (np.clip(np.ceil(y - 0.5), 0, height).astype(int) for y in (upper, lower))
    crossed = last - first  # rows of centres that an edge passes; the lower end is not part of it
    if not crossed.any():
        return
    edge = np.repeat(np.arange(len(start)), crossed)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(crossed) - crossed, crossed) + first[edge]
    (x0, y0), (x1, y1) = start[edge].T, end[edge].T
    x = x0 + (row + 0.5 - y0) * (x1 - x0) / (y1 - y0)
    column = np.clip(np.ceil(x - 0.5), 0, width).astype(int)
    top, bottom, left, right = row.min(), row.max() + 1, column.min(), column.max()
    flips = np.zeros((bottom - top, right - left + 1), np.int64)
    np.add.at(flips, (row - top, column - left), 1)
    mask[top:bottom, left:right] |= (flips.cumsum(axis=1)[:, :-1] & 1).astype(bool)


# masks to polygons


def write_geojson(path: str | Path, mask: np.ndarray, scale: float, name: str = "Tissue") -> int:
    """Writes the pieces of a mask (h, w) bool as annotations of class `name` and returns how many there are."""
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [_closed(ring * scale) for ring in area.rings]},
            "properties": {"objectType": "annotation", "classification": {"name": name}},
        }
        for area in trace(mask)
    ]
    write_atomic(path, json.dumps({"type": "FeatureCollection", "features": features}))
    return len(features)


def _closed(ring: np.ndarray) -> list[list[float]]:
    points = np.round(ring, 2).tolist()
    return [*points, points[0]]


def trace(mask: np.ndarray) -> list[Polygon]:
    """The pieces of a mask (pixels that share a side) along the edges of its pixels, in pixels of the mask."""
    _, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    outer: dict[int, np.ndarray] = {}
    holes: dict[int, list[np.ndarray]] = {}
    for ring, label in _loops(labels):
        if _area(ring) > 0:
            outer[label] = ring
        else:
            holes.setdefault(label, []).append(ring)
    return [Polygon((ring, *holes.get(label, []))) for label, ring in sorted(outer.items())]


def _area(ring: np.ndarray) -> float:
    x, y = ring.T
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum()) / 2


def _loops(labels: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
    """(corners (n, 2) of a closed loop, label of the piece to its right hand as x goes right and y down)."""
    following = _edges(labels)
    label = 0
    while following:
        ring: list[tuple[int, int]] = []
        at: Edge | None = next(iter(following))
        while at is not None:
            ring.append(at[0])
            there, label = following.pop(at)
            at = _turn(following, there, at[1])
        yield _corners_only(np.array(ring, np.float64)), label


Edge = tuple[tuple[int, int], int]  # of a pixel: the corner where it starts, its heading
# right, down, left, up: y goes down, so a turn to the right adds one
HEADINGS = ((1, 0), (0, 1), (-1, 0), (0, -1))


def _turn(following: dict, there: tuple[int, int], heading: int) -> Edge | None:
    """The edge that goes on from a corner: to the right first, which keeps pixels that share a corner apart."""
    return next((k for k in ((there, (heading + t) % 4) for t in (1, 0, 3)) if k in following), None)


def _edges(labels: np.ndarray) -> dict[Edge, tuple[tuple[int, int], int]]:
    """{(corner, heading): (next corner, label)} of every pixel side between a piece and something else.

    Pieces lie to the right hand of their edges.
    """
    padded = np.pad(labels, 1)
    inner = padded[1:-1, 1:-1]
    sides = (  # heading, what lies beyond the side, corner it starts from
        (0, padded[:-2, 1:-1], (0, 0)),
        (1, padded[1:-1, 2:], (1, 0)),
        (2, padded[2:, 1:-1], (1, 1)),
        (3, padded[1:-1, :-2], (0, 1)),
    )
    edges: dict[Edge, tuple[tuple[int, int], int]] = {}
    for heading, beyond, (dx, dy) in sides:
        rows, columns = np.nonzero((inner > 0) & (beyond != inner))
        step_x, step_y = HEADINGS[heading]
        for x, y, label in zip((columns + dx).tolist(), (rows + dy).tolist(), inner[rows, columns].tolist()):
            edges[(x, y), heading] = (x + step_x, y + step_y), label
    return edges


def _corners_only(ring: np.ndarray) -> np.ndarray:
    """The ring without points in the middle of straight lines."""
    before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    return ring[(before != after).any(axis=1)]
