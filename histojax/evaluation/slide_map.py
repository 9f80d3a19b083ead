"""What heads of multiple-instance learning say of each tile of a slide, ready to be drawn over it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from histojax.common.errors import UserError
from histojax.common.files import make_folder, replacing, write_atomic
from histojax.common.tables import write_table
from histojax.evaluation.mil.bags import Bag
from histojax.evaluation.mil.head import Head
from histojax.evaluation.mil.predict import attention, predict, tile_scores
from histojax.evaluation.mil.tasks import probabilities
from histojax.features.stored import Header, StoredFeatures
from histojax.report.heatmap import Layer, Place, heatmap_figure, write_tile_geojson
from histojax.report.tiles import Tile, tile_grid
from histojax.slides.bad_slide import BadSlide
from histojax.slides.slide import Slide, open_slide

BACKGROUND_PX = 2400  # long side of the thumbnail that is drawn on
ACROSS = 8  # tiles in a line of the most attended ones
ATTENTION = "attention"
_SAME = ("weights_sha256", "preprocess_sha256", "encoder")  # of the features that a head was trained on


@dataclass(frozen=True)
class SlideMap:
    """Values of the tiles of a slide.

    Args:
        name: of the slide.
        place: where the tiles lie, with the slide's picture if it is at hand.
        layers: attention first.
        said: what the heads say of the whole slide: {class or "value": number}, the mean over the heads.
        heads: how many.
        notes: what had to be taken for granted.
    """

    name: str
    place: Place
    layers: tuple[Layer, ...]
    said: Mapping[str, float]
    heads: int
    notes: tuple[str, ...] = ()

    def words(self) -> str:
        """What is said of the slide, for people."""
        said = ", ".join(f"{name}: {value:.3f}" for name, value in self.said.items())
        return f"{said} (mean of {self.heads} heads)" if self.heads > 1 else said


def map_slide(stored: StoredFeatures, heads: Sequence[Head], slide: Slide | None = None) -> SlideMap:
    """The mean over `heads` of their attention and of their scores of each tile alone.

    Raises UserError for features without coordinates or of another encoder than the heads', and for heads of different
    questions.
    """
    header = stored.header
    _check_heads(heads)
    for head in heads:
        check_made_for(head, header)
    if stored.coords is None:
        raise UserError(
            f"{header.path}: holds no coordinates in level-0 pixels; give --mpp if the file counts in micrometres, "
            "else extract again"
        )
    footprint, notes = footprint_of(stored)
    x, first = stored.features, heads[0]
    weights = np.mean([attention(head, x) for head in heads], axis=0)
    scores = np.mean([tile_scores(head, x) for head in heads], axis=0)
    logits = [predict(head, [Bag(header.name, lambda: x, len(x))]) for head in heads]
    whole = np.mean([probabilities(y) if first.task == "classification" else y for y in logits], axis=0)[0]
    layers = (Layer(ATTENTION, weights, "share"), *_score_layers(first, scores))
    said = dict(zip(_classes(first, len(whole)), map(float, whole)))
    place, more = _place(stored.coords, footprint, slide, stored.geometry.slide_mpp)
    return SlideMap(header.name, place, layers, said, len(heads), (*notes, *more))


def _check_heads(heads: Sequence[Head]) -> None:
    for head in heads:
        if (head.task, head.classes) != (heads[0].task, heads[0].classes):
            raise UserError(
                f"the heads answer different questions: {heads[0].task} {', '.join(heads[0].classes)} and {head.task} "
                f"{', '.join(head.classes)}; give the heads of one evaluation"
            )
        if head.settings.model != heads[0].settings.model:
            raise UserError(
                f"the heads are of different models, {heads[0].settings.model} and {head.settings.model}; attention "
                "has no common mean; give those of one: heads/transformer-fold*.safetensors"
            )


def check_made_for(head: Head, header: Header) -> None:
    """Raises UserError for features of another width, encoder, weights or preprocessing than the head's."""
    if header.width != head.settings.inputs:
        raise UserError(
            f"{header.path}: {header.width} numbers a tile, and the head takes {head.settings.inputs}; give features "
            "of the encoder that it was trained with"
        )
    known: Any = head.facts.get("features")
    for key in _SAME if isinstance(known, Mapping) else ():
        was, now = known.get(key), getattr(header.origin, key)
        if was and now and was != now:
            raise UserError(
                f"{header.path}: its {key} is {now}, and the head was trained on features of {was}; give features of "
                "the encoder that it was trained with"
            )


def _classes(head: Head, count: int) -> tuple[str, ...]:
    """Names of the numbers that a head says; a published one may have classes without names."""
    if head.task == "classification":
        return head.classes or tuple(f"class {i}" for i in range(count))
    return ("risk" if head.task == "survival" else "value",)


def _score_layers(head: Head, scores: np.ndarray) -> Iterator[Layer]:
    """Of two classes the second one's probability, as that of the first says the same."""
    names = _classes(head, scores.shape[1])
    for number, name in enumerate(names):
        if number or len(names) != 2:
            yield Layer(name, scores[:, number], "probability" if head.task == "classification" else "number")


def footprint_of(stored: StoredFeatures) -> tuple[float, tuple[str, ...]]:
    """The side of a tile in level-0 pixels, and a note where it is taken from the distance of neighbours."""
    if stored.geometry.footprint_px:
        return float(stored.geometry.footprint_px), ()
    assert stored.coords is not None
    gaps = [np.diff(np.unique(stored.coords[:, axis])) for axis in (0, 1)]
    steps = np.concatenate(gaps)
    if not len(steps):
        raise UserError(f"{stored.header.path}: neither the file nor its tiles say how large a tile is; extract again")
    side = float(np.median(steps))
    return side, (f"the file does not say how large tiles are; {side:g} px, the distance of neighbours, is taken",)


def _place(
    coords: np.ndarray, footprint: float, slide: Slide | None, mpp: float | None
) -> tuple[Place, tuple[str, ...]]:
    if slide is None:
        return Place(coords, footprint, mpp=mpp), ("without the slide, only the tiles are drawn",)
    beyond = int((coords + footprint / 2 > np.array(slide.size)).any(1).sum())
    if beyond:
        raise UserError(
            f"{slide.path}: {beyond} of {len(coords)} tiles lie outside of its {slide.size[0]} x {slide.size[1]} px; "
            "is it the slide of these features?"
        )
    background, scale = slide.thumbnail(slide.mpp * max(slide.size) / BACKGROUND_PX)
    return Place(coords, footprint, background, scale, slide.mpp), ()


# files


def write_map(
    folder: Path, found: SlideMap, slide: Slide | None = None, tile_px: int = 224, top: int = 24
) -> list[Path]:
    """The files written: a PNG a layer, GeoJSON for QuPath, a table, and if the slide is at hand its most attended
    tiles. Raises UserError."""
    make_folder(folder)
    files = []
    for layer in found.layers:
        path = folder / f"{found.name}_{_file_name(layer.name)}.png"
        title = f"{found.name}: {layer.name}. The slide: {found.words()}"
        write_atomic(path, heatmap_figure(found.place, layer, title).png)
        files.append(path)
    place = found.place
    geojson, table = folder / f"{found.name}.geojson", folder / f"{found.name}.csv"
    write_tile_geojson(geojson, place.coords, place.footprint, found.layers)
    titles = ["x", "y", *(layer.name for layer in found.layers)]
    rows = zip(*place.coords.T.tolist(), *(np.asarray(layer.values, float).tolist() for layer in found.layers))
    write_table(table, titles, rows)
    files += [geojson, table]
    if slide is not None and top:
        files.append(folder / f"{found.name}_top.jpg")
        _write_top(files[-1], found, slide, tile_px, top)
    return files


def _write_top(path: Path, found: SlideMap, slide: Slide, tile_px: int, top: int) -> None:
    weights = np.asarray(found.layers[0].values)
    order = np.argsort(-weights, kind="stable")[:top]
    mpp = max(found.place.footprint * slide.mpp / tile_px, slide.mpp)
    pixels = max(1, round(found.place.footprint * slide.mpp / mpp))
    cells = []
    for row, image in zip(order, slide.tiles(found.place.coords[order], pixels, mpp)):
        words = [f"{weights[row] * len(weights):.3g} x even share"]
        words += [f"{one.name} {one.values[row]:.2f}" for one in found.layers[1:3]]
        cells.append(Tile(None if isinstance(image, BadSlide) else image, tuple(words)))
    grid = tile_grid([cells[i : i + ACROSS] for i in range(0, len(cells), ACROSS)])
    with replacing(path) as temporary:
        temporary.write_bytes(grid.jpeg)


def _file_name(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "._-+" else "_" for letter in name)


def opened_slide(path: Path | None, stored: StoredFeatures, mpp: float | None) -> Slide | None:
    """The slide, its resolution as given or as the feature file knows it; raises UserError."""
    if path is None:
        return None
    try:
        return open_slide(path, mpp or stored.geometry.slide_mpp)
    except BadSlide as error:
        raise UserError(str(error)) from error


def facts_of(found: SlideMap) -> dict[str, Any]:
    """What is said of the slide, as JSON."""
    return {"slide": found.name, "tiles": len(found.place.coords), **found.said}
