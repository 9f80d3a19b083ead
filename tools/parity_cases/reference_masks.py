"""Block masks from Python's random numbers, drawn in the order of the reference, for replays of what it recorded."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np

from histojax.ssl.masks import ASPECT, MIN_AREA, TRIES, block_cap, ratio_edges


def reference_masks(
    rng: random.Random,
    crops: int,
    grid: tuple[int, int],
    ratio: tuple[float, float] = (0.1, 0.5),
    probability: float = 0.5,
) -> np.ndarray:
    """(crops, N) bool: the masks of one batch exactly as the reference draws them from Python's generator.

    Rows are in the reference's order, all crops of the first view and then all of the second.
    """
    edges = ratio_edges(crops, ratio, probability)
    patches = np.float32(grid[0] * grid[1])
    masks = []
    for low, high in itertools.pairwise(edges):
        share = low + (high - low) * np.float32(rng.random())
        masks.append(reference_block_mask(rng, grid, int(patches * share)))
    masks += [np.zeros(grid, bool) for _ in range(crops - len(masks))]
    rng.shuffle(masks)
    return np.stack(masks).reshape(crops, -1)


def reference_block_mask(rng: random.Random, grid: tuple[int, int], request: int) -> np.ndarray:
    """(rows, columns) bool: one block mask exactly as the reference draws it from Python's generator."""
    mask = np.zeros(grid, bool)
    while (missing := request - int(mask.sum())) > 0:
        if not any(_reference_block(rng, mask, min(missing, block_cap(grid))) for _ in range(TRIES)):
            break
    return mask


def _reference_block(rng: random.Random, mask: np.ndarray, room: int) -> bool:
    """Whether a drawn block fits; then it is set in `mask`."""
    area = rng.uniform(MIN_AREA, room)
    aspect = math.exp(rng.uniform(math.log(ASPECT), math.log(1 / ASPECT)))
    height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
    if height >= mask.shape[0] or width >= mask.shape[1]:
        return False
    top, left = rng.randint(0, mask.shape[0] - height), rng.randint(0, mask.shape[1] - width)
    block = mask[top : top + height, left : left + width]
    if not 0 < block.size - block.sum() <= room:
        return False
    block[:] = True
    return True
