"""The replay of the reference's generator of masks, bit by bit."""

import random
from pathlib import Path

import numpy as np
import pytest
from parity_cases.reference_masks import reference_block_mask

GOLDEN = np.load(Path(__file__).parent / "golden" / "dinov2" / "masking.npz")
GRIDS = sorted(int(n[4:-8]) for n in GOLDEN.files if n.startswith("grid") and n.endswith("/targets"))


@pytest.mark.parametrize("side", GRIDS)
def test_reference_generator_is_exact(side):
    seeds, targets = GOLDEN[f"grid{side}/exact_seeds"], GOLDEN[f"grid{side}/exact_targets"]
    for seed, target, expected in zip(seeds, targets, GOLDEN[f"grid{side}/exact_masks"]):
        ours = reference_block_mask(random.Random(int(seed)), (side, side), int(target))
        np.testing.assert_array_equal(ours, expected)
