"""Block masks: bit-exact replay of the reference's generator, and the device generator against its statistics."""

import random
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parity_cases.reference_masks import reference_block_mask, reference_masks
from scipy import stats

from histojax.ssl import masks as m

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "dinov2" / "masking.npz")
GRIDS = sorted(int(n[4:-8]) for n in GOLDEN.files if n.startswith("grid") and n.endswith("/targets"))


@pytest.fixture(scope="module", params=GRIDS)
def many(request):
    """(side, targets, masks (targets, draws, side, side)): as many draws of each target as were recorded."""
    side = request.param
    targets = GOLDEN[f"grid{side}/targets"]
    draws = int(GOLDEN[f"grid{side}/draws_per_target"])
    requests = jnp.asarray(np.repeat(targets, draws), jnp.int32)
    drawn = jax.jit(lambda k: m.block_masks(k, requests, (side, side)))(jax.random.key(11))
    return side, targets, np.asarray(drawn).reshape(len(targets), draws, side, side)


def test_reference_batch_and_its_packing_are_exact():
    expected = GOLDEN["collate_exact/collated_masks"]
    side = int(expected.shape[1] ** 0.5)
    ours = reference_masks(random.Random(int(GOLDEN["collate_exact/seed"])), len(expected), (side, side))
    np.testing.assert_array_equal(ours, expected)
    bound = m.upper_bound(*expected.shape)
    assert bound == GOLDEN["collate_exact/upperbound"]
    packed = jax.jit(m.pack, static_argnums=1)(jnp.asarray(ours)[None], bound)
    n = int(GOLDEN["collate_exact/n_masked_patches"][0])
    assert packed.count.tolist() == [n]
    np.testing.assert_array_equal(packed.indices[0, :n], GOLDEN["collate_exact/mask_indices_list"])
    np.testing.assert_allclose(packed.weights[0, :n], GOLDEN["collate_exact/masks_weight"], rtol=1e-7)
    assert (np.asarray(packed.weights[0, n:]) == 0).all()


def test_cap_is_the_references_expression():
    for patch in (14, 16):
        for side in range(1, 40):
            image = side * patch
            assert m.block_cap((side, side)) == 0.5 * image // patch * image // patch
    for side in GRIDS:
        assert m.block_cap((side, side)) == GOLDEN[f"grid{side}/max_num_patches"]


@pytest.mark.parametrize("images", [4, 32, 256])
def test_upper_bound_is_recorded_one(images):
    assert set(GOLDEN[f"collate_batch{images}/rows"][:, 1]) == {m.upper_bound(2 * images, 256)}


def two_samples(a, b):
    """p-value of a chi-square test that two histograms have one source; bins with few counts are joined."""
    table = np.stack([a, b]).astype(float)
    rare = table.sum(0) < 16
    table = np.column_stack([table[:, ~rare], table[:, rare].sum(1)])
    table = table[:, table.sum(0) > 0]
    return 1.0 if table.shape[1] < 2 else stats.chi2_contingency(table).pvalue


def test_masked_counts_follow_the_recorded_histograms(many):
    side, targets, drawn = many
    recorded = GOLDEN[f"grid{side}/hist_of_masked_count"]
    counts = drawn.sum((2, 3))
    assert (counts <= targets[:, None]).all()
    for target, ours, expected in zip(targets, counts, recorded):
        p = two_samples(np.bincount(ours, minlength=side * side + 1), expected)
        assert p > 1e-3, (side, target, p)


def test_shortfall_is_that_of_the_reference(many):
    side, targets, drawn = many
    recorded = GOLDEN[f"grid{side}/hist_of_masked_count"] @ np.arange(side * side + 1)
    short = targets - drawn.sum((2, 3)).mean(1)
    expected = targets - recorded / drawn.shape[1]
    spread = drawn.sum((2, 3)).std(1) * np.sqrt(2 / drawn.shape[1])
    assert (np.abs(short - expected) <= 4.5 * spread + 1e-9).all()
    if side == 16:
        assert short.max() < 0.3


def test_cells_are_masked_as_often_as_recorded(many):
    side, targets, drawn = many
    n = drawn.shape[1]
    ours, expected = drawn.sum(1), GOLDEN[f"grid{side}/per_cell_count"]
    share = (ours + expected) / (2 * n)
    z = (ours - expected) / np.sqrt(np.maximum(2 * n * share * (1 - share), 1e-9))
    assert np.abs(z).max() < 5
    assert np.mean(z[targets > 0] ** 2) < 1.5


@pytest.mark.parametrize(("side", "request_"), [(4, 6), (5, 8), (7, 12)])
def test_small_grids_have_the_shapes_of_the_reference(side, request_):
    """On small grids a block is often as high or wide as the grid, which the reference does not allow."""
    draws = 3000
    ours = np.asarray(jax.jit(lambda k: m.block_masks(k, jnp.full(draws, request_), (side, side)))(jax.random.key(3)))
    rng = random.Random(0)
    theirs = np.stack([reference_block_mask(rng, (side, side), request_) for _ in range(draws)])

    def shapes(masks):
        """Codes of (rows touched, columns touched)."""
        return masks.any(2).sum(1) * (side + 1) + masks.any(1).sum(1)

    a, b = (np.bincount(shapes(masks), minlength=(side + 1) ** 2) for masks in (ours, theirs))
    assert two_samples(a, b) > 1e-3


SAMPLE = jax.jit(m.sample_masks, static_argnums=(1, 2, 3))


@pytest.mark.parametrize("grid, crops", [((4, 4), 8), ((5, 5), 2), ((7, 7), 13), ((16, 16), 8), ((5, 9), 12)])
def test_batch_is_consistent(grid, crops):
    n = grid[0] * grid[1]
    batch = SAMPLE(jax.random.key(crops), 3, crops, grid)
    masks = np.asarray(batch.masks)
    assert masks.shape == (3, crops, n) and masks.dtype == bool
    bound = m.upper_bound(crops, n)
    assert batch.indices.shape == batch.weights.shape == (3, bound)
    for shard in range(3):
        count = int(batch.count[shard])
        per_crop = masks[shard].sum(1)
        assert count == per_crop.sum() <= bound
        places = np.flatnonzero(masks[shard])
        np.testing.assert_array_equal(batch.indices[shard, :count], places)
        np.testing.assert_allclose(batch.weights[shard, :count], 1 / per_crop[places // n], rtol=1e-6)
        assert (np.asarray(batch.weights[shard, count:]) == 0).all()
        assert (np.asarray(batch.indices[shard, count:]) == 0).all()
        assert np.isclose(batch.weights[shard].sum(), (per_crop > 0).sum(), atol=1e-4)
        assert (per_crop > 0).sum() <= crops // 2


def test_no_masks_at_probability_zero():
    batch = m.sample_masks(jax.random.key(0), 2, 8, (4, 4), probability=0.0)
    assert not np.asarray(batch.masks).any() and batch.indices.shape == (2, 0)
    assert batch.count.tolist() == [0, 0]


def test_requests_stay_below_the_bound_at_the_edges():
    """A share drawn just under its upper edge must not ask for a patch more than the bound has room for."""
    for crops in (8, 64, 512):
        edges = m.ratio_edges(crops, (0.1, 0.5), 0.5)
        assert edges.dtype == np.float32 and edges[0] == np.float32(0.1) and edges[-1] == np.float32(0.5)
        assert (np.diff(edges) > 0).all()
        assert m.upper_bound(crops, 256) == sum(int(np.float32(256) * e) for e in edges[1:])


def test_batch_statistics_match_recorded_ones():
    rows = GOLDEN["collate_batch4/rows"]
    columns = GOLDEN["collate_batch4/columns"].tolist()
    batch = jax.jit(lambda k: m.sample_masks(k, 400, 8, (16, 16)))(jax.random.key(2))
    total = rows[:, columns.index("n_masked_patches")]
    assert stats.ks_2samp(np.asarray(batch.count), total).pvalue > 1e-3
    assert (np.asarray(batch.count) <= 357).all()
    per_crop = np.asarray(batch.masks).sum(-1)
    assert ((per_crop > 0).sum(1) == 4).all()
    np.testing.assert_allclose(batch.weights.sum(1), 4, rtol=1e-5)
    ours = np.bincount(per_crop.ravel(), minlength=257)
    assert two_samples(ours[1:], GOLDEN["collate_batch4/hist_masked_per_crop"][1:]) > 1e-3
    of_place = (per_crop > 0).mean(0)  # shuffled over all crops of the shard
    assert np.abs(of_place - 0.5).max() < 4.5 * 0.5 / 20


def test_keys_and_shards_differ_and_repeat():
    first, again, other = (SAMPLE(jax.random.key(i), 3, 13, (7, 7)).masks for i in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (np.asarray(first) != np.asarray(other)).any()
    assert (np.asarray(first[0]) != np.asarray(first[1])).any()
    alone = SAMPLE(jax.random.key(0), 1, 13, (7, 7)).masks  # a shard does not depend on their number
    np.testing.assert_array_equal(alone[0], first[0])
