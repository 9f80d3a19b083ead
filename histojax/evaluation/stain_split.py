"""Tiles parted by their stain, for sets of which neither patients nor slides are known.

Tiles of one slide are stained alike, so a random split leaves tiles of most slides on both sides, and neighbours then
find the slide instead of the tissue. Here the tiles of each class are parted into clusters of like stain (k-means of
the mean optical density of the three channels), and whole clusters go to the test. A cluster need not be a slide: this
makes a split hard and honest, it does not make it one by patient.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from histojax.common.errors import UserError
from histojax.data.decode import BadTile
from histojax.data.tiles import UNLABELLED, Source

CLUSTERS = 5  # of each class
THREADS = 8


@dataclass(frozen=True)
class StainSplit:
    """Tile numbers of a labelled source, ascending: to fit on, to test on, and those that cannot be read.

    `centres` (classes, clusters, 3) are mean optical densities, NaN where a class has fewer clusters; `held`
    (classes, clusters) says which of them are the test's; `classes` are the names in their order.
    """

    fit: np.ndarray
    test: np.ndarray
    unreadable: np.ndarray
    centres: np.ndarray
    held: np.ndarray
    classes: tuple[str, ...]


def mean_densities(source: Source, numbers: np.ndarray) -> np.ndarray:
    """(n, 3) float32: mean optical density, -log10((I + 1) / 256), of each channel; NaN for unreadable tiles."""
    of_level = -np.log10((np.arange(256) + 1) / 256)

    def of_one(number: int) -> np.ndarray:
        try:
            tile = source.read(number)
        except BadTile:
            return np.full(3, np.nan)
        counts = np.stack([np.bincount(tile[..., channel].ravel(), minlength=256) for channel in range(3)])
        return counts @ of_level / (tile.shape[0] * tile.shape[1])

    with ThreadPoolExecutor(THREADS) as pool:
        return np.array(list(pool.map(of_one, map(int, numbers))), np.float32).reshape(-1, 3)


def split_by_stain(source: Source, share: float, clusters: int = CLUSTERS, seed: int = 0) -> StainSplit:
    """The labelled tiles of a source in two parts that share no cluster of stain; about `share` of each class is test.

    Of each class the test gets those clusters that hold nearest to `share` of its tiles, at least one and not all.
    Raises UserError where nothing is labelled, or a class has fewer tiles than two clusters need.
    """
    from sklearn.cluster import KMeans

    labelled = np.flatnonzero(source.labels != UNLABELLED)
    if not labelled.size:
        raise UserError("no tile is labelled: a split by stain needs class folders, or a table with labels")
    densities = mean_densities(source, labelled)
    readable = np.isfinite(densities).all(1)
    labels = source.labels[labelled]
    centres = np.full((len(source.classes), clusters, 3), np.nan)
    held = np.zeros(centres.shape[:2], bool)
    tested = np.zeros(len(labelled), bool)
    for label, name in enumerate(source.classes):
        rows = np.flatnonzero(readable & (labels == label))
        count = min(clusters, len(rows) // 2)
        if count < 2:
            raise UserError(f"class {name}: {len(rows)} readable tiles do not part into two clusters of stain")
        found = KMeans(count, n_init=10, random_state=seed).fit(densities[rows])
        sizes = np.bincount(found.labels_, minlength=count)
        chosen = _nearest_share(sizes, share)
        centres[label, :count], held[label, chosen] = found.cluster_centers_, True
        tested[rows] = held[label, found.labels_]
    fit, test = labelled[readable & ~tested], labelled[tested]
    return StainSplit(fit, test, labelled[~readable], centres, held, source.classes)


def _nearest_share(sizes: np.ndarray, share: float) -> list[int]:
    """Which clusters together hold nearest to that share of the tiles; the first of equals."""
    total = sizes.sum()
    every = [list(some) for count in range(1, len(sizes)) for some in combinations(range(len(sizes)), count)]
    return min(every, key=lambda some: abs(sizes[some].sum() / total - share))


def outside_test(split: StainSplit, source: Source) -> np.ndarray:
    """(n,) bool: which tiles of another source lie in no cluster of the test, so that training may see them.

    A tile belongs to the nearest cluster of its class, and one without a class of the split to the nearest of all.
    What cannot be read is left in: training counts it.
    """
    densities = mean_densities(source, np.arange(len(source)))
    names = np.array([*source.classes, ""], object)[source.labels]
    label = np.array([split.classes.index(name) if name in split.classes else -1 for name in names], np.int64)
    distances = np.linalg.norm(densities[:, None, None] - split.centres[None], axis=-1)
    own = np.arange(len(split.classes)) == label[:, None]
    distances[np.where((label < 0)[:, None], False, ~own)] = np.inf
    flat = np.where(np.isnan(distances), np.inf, distances).reshape(len(densities), -1)
    return ~split.held.ravel()[flat.argmin(1)] | ~np.isfinite(densities).all(1)
