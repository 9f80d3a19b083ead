"""What a report shows of the features themselves: PCA, nearest neighbours and worst mistakes as images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from histojax.evaluation.results import TEST, Predictions, Results
from histojax.report.figures import scatter_figure
from histojax.report.page import Picture, Table
from histojax.report.tiles import Tile, tile_grid

NEIGHBOURS, EXAMPLES, MISTAKES, MISTAKE_ROWS = 6, 12, 24, 8  # how many are shown
ACROSS = 8  # mistakes in a line
BASELINES = ("knn", "mean")  # votes of neighbours are too coarse to tell the surest mistakes
TRAIN = "train"
PCA_ROWS = 20_000  # fit on at most so many, which changes nothing that can be seen


@dataclass(frozen=True)
class Pictures:
    """What is needed beyond results to show features as pictures; None leaves a part of the report out.

    Args:
        features: (n, d) of the units of the test part.
        units: (n,) their names, as in the predictions.
        labels: (n,) class numbers, or None.
        classes: names of the classes.
        centres: (n,) str of each unit, "" unknown.
        neighbours: (n, k) rows of the training set, the nearest first.
        train_labels: (m,) class numbers of the training set.
        tile: image (h, w, 3) uint8 of a row of "train" or "test", None where it cannot be had.
        distance: what nearest means, in words.
    """

    features: np.ndarray
    units: np.ndarray
    labels: np.ndarray | None = None
    classes: tuple[str, ...] = ()
    centres: np.ndarray | None = None
    neighbours: np.ndarray | None = None
    train_labels: np.ndarray | None = None
    tile: Callable[[str, int], np.ndarray | None] | None = None
    distance: str = "Euclidean"

    def image(self, part: str, row: int) -> np.ndarray | None:
        """The image of a row, None where it cannot be had."""
        return None if self.tile is None else self.tile(part, row)


@dataclass(frozen=True)
class Mistake:
    """A unit that was given a wrong name: its number among the predictions, and the probability it was given."""

    unit: str
    group: str
    truth: int
    predicted: int
    stated: float
    of_truth: float


def principal_components(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n, 2) the first two components of centred features (n, d), and (2,) their shares of the variance."""
    from sklearn.decomposition import PCA

    x = np.asarray(features, np.float32)
    count = min(2, len(x), x.shape[1])
    chosen = np.random.default_rng(0).permutation(len(x))[:PCA_ROWS]
    fitted = PCA(count, random_state=0).fit(x[chosen])
    points, shares = np.zeros((len(x), 2)), np.zeros(2)
    points[:, :count], shares[:count] = fitted.transform(x), np.nan_to_num(fitted.explained_variance_ratio_)
    return points, shares


def pca_pictures(pictures: Pictures) -> Iterator[Picture]:
    """The features on their two principal components, in the colours of classes and of centres."""
    if len(pictures.features) < 3:
        return
    points, shares = principal_components(pictures.features)
    axes = tuple(f"component {i + 1} ({share:.0%} of the variance)" for i, share in enumerate(shares))
    if pictures.labels is not None:
        yield _scatter(points, pictures.labels, pictures.classes, "classes", axes)
    if pictures.centres is not None:
        names, numbers = np.unique([str(one) or "unknown" for one in pictures.centres], return_inverse=True)
        if len(names) > 1:
            yield _scatter(points, numbers, names.tolist(), "centres", axes)


def _scatter(points: np.ndarray, labels: np.ndarray, names: Sequence[str], what: str, axes: tuple) -> Picture:
    known = labels >= 0
    drawn = scatter_figure(points[known], labels[known], names, f"Features by {what}", axes)
    caption = f"Test units on the first two principal components of their features, coloured by {what}."
    return Picture(drawn.png, f"principal components by {what}", caption, drawn.width)


# mistakes


def spokesman(results: Results) -> str:
    """The evaluator whose mistakes are shown: the first with probabilities, better none of BASELINES; or ""."""
    names = [p.evaluator for p in results.predictions if p.part == TEST and p.probabilities is not None]
    return next((name for name in names if not name.startswith(BASELINES)), names[0] if names else "")


def worst_mistakes(predictions: Sequence[Predictions], most: int = MISTAKES) -> list[Mistake]:
    """Those made with the highest probability, of all folds; a unit that several models spoke of appears once."""
    found: dict[str, Mistake] = {}
    for one in predictions:
        if one.probabilities is None:
            continue
        for i in np.flatnonzero(one.predicted != one.truth):
            truth, said = int(one.truth[i]), int(one.predicted[i])
            group = "" if one.groups is None else str(one.groups[i])
            shares = one.probabilities[i]
            mistake = Mistake(str(one.units[i]), group, truth, said, float(shares[said]), float(shares[truth]))
            known = found.get(mistake.unit)
            if known is None or mistake.stated > known.stated:
                found[mistake.unit] = mistake
    return sorted(found.values(), key=lambda one: (-one.stated, one.of_truth, one.unit))[:most]


def mistake_table(mistakes: Sequence[Mistake], classes: Sequence[str]) -> Table:
    """The mistakes in words."""
    titles = ["unit", "group", "true", "predicted", "probability", "of the true class"]
    rows = [
        [one.unit, one.group, classes[one.truth], classes[one.predicted], f"{one.stated:.3f}", f"{one.of_truth:.3f}"]
        for one in mistakes
    ]
    if all(one.group in ("", one.unit) for one in mistakes):
        for row in (titles, *rows):
            del row[1]
    return Table(titles, rows)


def mistake_picture(mistakes: Sequence[Mistake], pictures: Pictures) -> Picture | None:
    """The mistakes as images; None where there are none to be had."""
    rows = {str(unit): row for row, unit in enumerate(pictures.units)}
    tiles = []
    for one in mistakes:
        if one.unit in rows:
            words = (f"true {pictures.classes[one.truth]}", f"said {pictures.classes[one.predicted]} {one.stated:.2f}")
            tiles.append(Tile(pictures.image(TEST, rows[one.unit]), words, False))
    if not any(tile.image is not None for tile in tiles):
        return None
    grid = tile_grid([tiles[i : i + ACROSS] for i in range(0, len(tiles), ACROSS)])
    return Picture(grid.jpeg, "the worst mistakes", "", grid.width)


# neighbours


def neighbour_pictures(pictures: Pictures, mistakes: Sequence[Mistake]) -> Iterator[Picture]:
    """Test tiles with their nearest training tiles: one of each class drawn at random, then the worst mistakes."""
    if pictures.neighbours is None or pictures.labels is None:
        return
    rng = np.random.default_rng(0)
    drawn = [int(rng.choice(rows)) for c in range(len(pictures.classes)) if len(rows := _of_class(pictures, c))]
    chosen = drawn[:EXAMPLES]
    yield from _neighbour_picture(pictures, chosen, "A tile of each class, drawn at random, and its nearest")
    numbers = {str(unit): row for row, unit in enumerate(pictures.units)}
    wrong = [numbers[one.unit] for one in mistakes if one.unit in numbers][:MISTAKE_ROWS]
    yield from _neighbour_picture(pictures, wrong, "The worst mistakes and their nearest")


def _of_class(pictures: Pictures, number: int) -> np.ndarray:
    assert pictures.labels is not None
    return np.flatnonzero(pictures.labels == number)


def _neighbour_picture(pictures: Pictures, rows: Sequence[int], what: str) -> Iterator[Picture]:
    cells = [list(_line(pictures, row)) for row in rows]
    if not any(tile.image is not None for line in cells for tile in line):
        return
    caption = f"{what} training tiles ({pictures.distance}); green: of the same class as the tile on the left."
    grid = tile_grid(cells, first_apart=True)
    yield Picture(grid.jpeg, what, caption, grid.width)


def _line(pictures: Pictures, row: int) -> Iterator[Tile]:
    assert pictures.labels is not None and pictures.neighbours is not None
    truth = int(pictures.labels[row])
    yield Tile(pictures.image(TEST, row), (pictures.classes[truth],))
    for near in pictures.neighbours[row][:NEIGHBOURS]:
        label = None if pictures.train_labels is None else int(pictures.train_labels[near])
        words = () if label is None else (pictures.classes[label],)
        yield Tile(pictures.image(TRAIN, int(near)), words, None if label is None else label == truth)
