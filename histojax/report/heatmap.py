"""Values of tiles drawn over their slide, and as GeoJSON for QuPath."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from histojax.common.files import write_atomic
from histojax.report.figures import CSS_DPI, SHARP, Drawn

Kind = Literal["share", "probability", "number"]
LONG_SIDE = 1160  # of a slide in the picture, CSS pixels, of both panels together
OPAQUE = 0.62  # how much of a value's colour covers the slide
EMPTY = 244  # grey of a slide that is not at hand
QUANTILES = (0, 0.25, 0.5, 0.75, 1)  # that the colour bar of ranks is labelled at
_MAPS: dict[Kind, str] = {"share": "magma", "probability": "coolwarm", "number": "viridis"}


@dataclass(frozen=True)
class Layer:
    """A value for each tile.

    Args:
        name: "attention", "MSI".
        values: (n,) float.
        kind: "share": parts of 1, coloured by rank; "probability": from 0 to 1; "number": from the least to the most.
    """

    name: str
    values: np.ndarray
    kind: Kind = "number"

    def unit(self) -> np.ndarray:
        """(n,) from 0 to 1, by which they are coloured."""
        values = np.asarray(self.values, np.float64)
        if self.kind == "probability":
            return np.clip(values, 0, 1)
        if self.kind == "share":
            return _ranks(values)
        low, high = values.min(), values.max()
        return (values - low) / (high - low) if high > low else np.full(len(values), 0.5)

    def colours(self) -> np.ndarray:
        """(n, 3) uint8."""
        return (colormaps[_MAPS[self.kind]](self.unit())[:, :3] * 255).round().astype(np.uint8)

    def ticks(self) -> tuple[list[float], list[str], str]:
        """Places from 0 to 1 on the colour bar, the words at them, and its title."""
        if self.kind == "probability":
            places = [0, 0.25, 0.5, 0.75, 1]
            return places, [f"{place:g}" for place in places], f"probability of {self.name}"
        if self.kind == "share":
            even = np.quantile(self.values, QUANTILES) * len(self.values)
            return list(QUANTILES), [f"{value:.3g}" for value in even], f"{self.name}, 1: an even share (colour: rank)"
        low, high = float(np.min(self.values)), float(np.max(self.values))
        return [0, 0.5, 1], [f"{value:.3g}" for value in (low, (low + high) / 2, high)], self.name


@dataclass(frozen=True)
class Place:
    """Where tiles lie.

    Args:
        coords: (n, 2) x, y of the upper left corner, level-0 pixels.
        footprint: side of a tile, level-0 pixels.
        background: (h, w, 3) uint8 of the whole slide, or None.
        scale: level-0 pixels per pixel of the background.
        mpp: micrometres per level-0 pixel, None if unknown.
    """

    coords: np.ndarray
    footprint: float
    background: np.ndarray | None = None
    scale: float = 1.0
    mpp: float | None = None


def _ranks(values: np.ndarray) -> np.ndarray:
    """(n,) from 0 to 1: the share of values below, ties alike."""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    below = np.cumsum(counts) - counts
    return (below[which] + (counts[which] - 1) / 2) / max(len(values) - 1, 1)


def heatmap_figure(place: Place, layer: Layer, title: str) -> Drawn:
    """The slide, and beside or below it the same with its tiles in the colours of their values."""
    picture, scale = _canvas(place)
    covered = overlay(picture, place, scale, layer.colours())
    panels = [picture, covered] if place.background is not None else [covered]
    high, wide = picture.shape[:2]
    across = high > 0.75 * wide
    rows, columns = (1, len(panels)) if across else (len(panels), 1)
    factor = LONG_SIDE / max(wide * columns, high * rows)
    width, height = wide * columns * factor / CSS_DPI, high * rows * factor / CSS_DPI
    layout = ConstrainedLayoutEngine(wspace=0.03)
    figure = Figure(figsize=(max(width, 4.6) + 0.2, height + 1.25), layout=layout)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax, image in zip(axes, panels):
        ax.imshow(image, interpolation="antialiased")
        ax.set_axis_off()
        ax.set_ylim(high + 0.035 * max(high, wide), -0.5)  # room for the bar, and panels at one height
    _scale_bar(axes[0], picture.shape, scale, place.mpp)
    figure.suptitle(_plain(title), fontsize=11, x=0.02, ha="left")
    _colour_bar(figure, axes, layer)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=CSS_DPI * SHARP, metadata={"Software": None})
    return Drawn(file.getvalue(), round(figure.get_figwidth() * CSS_DPI))


def _canvas(place: Place) -> tuple[np.ndarray, float]:
    """What is drawn on, its long side LONG_SIDE * SHARP pixels, and level-0 pixels per pixel of it."""
    if place.background is not None:
        factor = LONG_SIDE * SHARP / max(place.background.shape[:2])
        size = tuple(max(1, round(side * factor)) for side in place.background.shape[1::-1])
        method = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
        return cv2.resize(np.ascontiguousarray(place.background), size, interpolation=method), place.scale / factor
    extent = place.coords.max(0) + place.footprint
    scale = float(extent.max()) / (LONG_SIDE * SHARP)
    wide, high = np.maximum(np.ceil(extent / scale), 1).astype(int)
    return np.full((high, wide, 3), EMPTY, np.uint8), scale


def overlay(picture: np.ndarray, place: Place, scale: float, colours: np.ndarray) -> np.ndarray:
    """A copy of a picture (h, w, 3) at `scale` with tiles in their colours (n, 3); the mean where they overlap."""
    total = np.zeros(picture.shape, np.float32)
    count = np.zeros(picture.shape[:2], np.float32)
    start = np.maximum(np.round(place.coords / scale).astype(int), 0)
    end = np.maximum(np.round((place.coords + place.footprint) / scale).astype(int), start + 1)
    for (left, top), (right, bottom), colour in zip(start.tolist(), end.tolist(), colours.astype(np.float32)):
        total[top:bottom, left:right] += colour
        count[top:bottom, left:right] += 1
    there, opaque = count > 0, 1.0 if place.background is None else OPAQUE
    shown = picture.copy()
    mean = total[there] / count[there][:, None]
    shown[there] = (opaque * mean + (1 - opaque) * picture[there]).round().astype(np.uint8)
    return shown


def _scale_bar(ax: Axes, shape: tuple[int, ...], scale: float, mpp: float | None) -> None:
    """A bar of a round length below the picture, at most a quarter of it."""
    if mpp is None:
        return
    most = shape[1] * scale * mpp / 4
    length = next((n for n in (10_000, 5000, 2000, 1000, 500, 200, 100, 50, 20) if n <= most), 10)
    end = length / mpp / scale
    y = shape[0] + 0.02 * max(shape[:2])
    ax.plot([0, end], [y, y], color="#1b1f24", linewidth=2, clip_on=False, solid_capstyle="butt")
    words = f"{length / 1000:g} mm" if length >= 1000 else f"{length} µm"
    ax.text(end + 0.01 * shape[1], y, words, fontsize=8.5, va="center", clip_on=False)


def _colour_bar(figure: Figure, axes: Any, layer: Layer) -> None:
    places, words, title = layer.ticks()
    mapped = ScalarMappable(Normalize(0, 1), colormaps[_MAPS[layer.kind]])
    bar = figure.colorbar(mapped, ax=axes.tolist(), location="bottom", fraction=0.04, aspect=42, pad=0.02, shrink=0.7)
    bar.set_ticks(places, labels=words)
    bar.ax.tick_params(labelsize=8.5, length=3)
    bar.set_label(_plain(title), fontsize=9)
    bar.outline.set_visible(False)


def _plain(text: str) -> str:
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace").replace("$", r"\$")


# GeoJSON


def write_tile_geojson(
    path: str | Path, coords: np.ndarray, footprint: float, layers: Sequence[Layer], coloured: int = 0
) -> int:
    """How many tiles were written: QuPath tile objects in level-0 pixels, each with all values as measurements.

    They have the colours of the layer number `coloured`; in QuPath, Measure > Show measurement maps shows the others.
    Raises UserError if the file cannot be written.
    """
    colours = layers[coloured].colours().tolist()
    named = {_measurement(layer): np.asarray(layer.values, np.float64).tolist() for layer in layers}
    features = list(_tile_features(coords.tolist(), float(footprint), colours, named))
    write_atomic(path, json.dumps({"type": "FeatureCollection", "features": features}))
    return len(features)


def _measurement(layer: Layer) -> str:
    return f"p {layer.name}" if layer.kind == "probability" else layer.name


def _tile_features(
    coords: list, side: float, colours: list, named: Mapping[str, list[float]]
) -> Iterator[dict[str, Any]]:
    for i, (x, y) in enumerate(coords):
        right, bottom = round(x + side, 2), round(y + side, 2)
        ring = [[x, y], [right, y], [right, bottom], [x, bottom], [x, y]]
        yield {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [ring]},
            "properties": {
                "objectType": "tile",
                "name": f"{x}, {y}",
                "color": colours[i],
                "measurements": {name: values[i] for name, values in named.items()},
            },
        }
