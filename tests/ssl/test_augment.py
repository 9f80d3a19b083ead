"""Multi-crop: parameters against the reference's statistics, the whole chain, and independence of every draw."""

import dataclasses
import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec
from PIL import Image, ImageOps
from test_color import pillow_jitter
from tiny_recipe import tiny_recipe

from histojax.ssl import augment
from histojax.ssl.augment import (
    CropConfig,
    CropParams,
    TissueParams,
    apply_crop,
    multi_crop,
    normalize,
    sample_crops,
)
from histojax.ssl.stain import jitter_stains

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "dinov2" / "augment_ops.npz")
IMAGE = GOLDEN["image"]
DEFAULT = CropConfig()
SMALL = CropConfig(global_px=28, local_px=14, local_crops=2)
TISSUE = dataclasses.replace(SMALL, transpose=0.5, hed_p=(0.2, 0.5, 0.8), hue=0.0)
DRAWS = 3000


@pytest.fixture(scope="module")
def drawn() -> CropParams:
    """Parameters (DRAWS, 2 + 8) for images of the golden picture's size, under the default configuration."""
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(5), i))(jnp.arange(DRAWS))
    sample = jax.jit(jax.vmap(lambda k: sample_crops(k, *IMAGE.shape[:2], CropConfig())))
    return jax.tree.map(np.asarray, sample(keys))


@pytest.fixture(scope="module")
def drawn_tissue() -> CropParams:
    """The same images' parameters with the operations for tissue."""
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(5), i))(jnp.arange(DRAWS))
    config = dataclasses.replace(TISSUE, local_crops=8, hed_scale=0.2, hed_shift=0.1, hue=0.1)
    sample = jax.jit(jax.vmap(lambda k: sample_crops(k, *IMAGE.shape[:2], config)))
    return jax.tree.map(np.asarray, sample(keys))


def batch(n=4, side=40, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, side, side, 3), np.uint8)


def ks_against_quantiles(values, quantiles, recorded=4000):
    """Kolmogorov-Smirnov distance to recorded quantiles, in units of its 1% critical value."""
    levels = np.linspace(0, 1, len(quantiles))
    below, upto = (np.searchsorted(np.sort(values), quantiles, side) / len(values) for side in ("left", "right"))
    distance = np.maximum(levels - upto, below - levels)[1:-1].max()  # boxes are whole pixels: values repeat
    return distance / (1.63 * np.sqrt(1 / len(values) + 1 / recorded))


@pytest.mark.parametrize("kind", ["global", "local"])
def test_boxes_follow_the_recorded_distribution(drawn, kind):
    boxes = drawn.box[:, :2] if kind == "global" else drawn.box[:, 2:4]
    top, left, height, width = boxes.reshape(-1, 4).T.astype(float)
    h, w = IMAGE.shape[:2]
    assert (top >= 0).all() and (left >= 0).all() and (top + height <= h).all() and (left + width <= w).all()
    area = height * width / (h * w)
    assert ks_against_quantiles(area, GOLDEN[f"stats/rrc_{kind}_area_fraction_quantiles"]) < 1
    aspect = np.log(width / height)
    assert ks_against_quantiles(aspect, GOLDEN[f"stats/rrc_{kind}_log_aspect_quantiles"]) < 1
    room = np.stack([h - height, w - width])
    place = (np.stack([top, left]) + 0.5) / (room + 1)  # uniform corner
    assert np.abs(place.mean(1) - 0.5).max() < 4 * np.sqrt(1 / 12 / place.shape[1])


def test_a_wrong_scale_is_noticed(drawn):
    area = drawn.box[:, 2:4, 2:].prod(-1).reshape(-1) / np.prod(IMAGE.shape[:2])
    assert ks_against_quantiles(area * 1.1, GOLDEN["stats/rrc_local_area_fraction_quantiles"]) > 1.5


@pytest.mark.parametrize(
    "height, width, expected",
    [(20, 100, (0, 36, 20, 27)), (100, 20, (36, 0, 27, 20)), (50, 50, (0, 0, 50, 50))],
)
def test_central_box_when_nothing_fits(height, width, expected):
    half = jnp.full(10, 0.5)
    box = augment.sample_box(half, half, jnp.zeros(2), height, width, jnp.float32([4.0, 4.0]))
    np.testing.assert_array_equal(box, expected)


@pytest.mark.parametrize(
    "height, width, scale",
    [(256, 256, (0.05, 0.32)), (224, 224, (0.32, 1.0)), (120, 97, (0.05, 0.32)), (30, 90, (0.05, 0.6))],
)
def test_largest_box_holds_every_draw(height, width, scale):
    limit = augment.largest_box(height, width, scale)
    assert limit[0] <= height and limit[1] <= width
    draws = jax.random.uniform(jax.random.key(0), (2, 2000, 10))
    draw = jax.vmap(lambda a, b: augment.sample_box(a, b, a[:2], height, width, jnp.float32(scale)))
    assert (np.asarray(jax.jit(draw)(*draws))[:, 2:].max(0) <= limit).all()


def near(flags, p):
    return abs(np.mean(flags) - p) <= 4 * np.sqrt(p * (1 - p) / np.size(flags)) + 1e-12


def test_flags_have_their_probabilities(drawn):
    assert near(drawn.flip[..., 0], 0.5) and near(drawn.flip[..., 1], 0.5)
    assert near(drawn.jitter, 0.8) and near(drawn.gray, 0.2)
    assert [near(drawn.solarize[:, i], p) for i, p in enumerate((0.0, 0.2, *[0.0] * 8))] == [True] * 10
    assert [near(drawn.blur[:, i], p) for i, p in enumerate((0.0, 0.9, *[0.5] * 8))] == [True] * 10


def test_visible_blur_is_as_frequent_as_recorded(drawn):
    """Recorded: draws that changed a pixel, of an operation made with p = 1.0, 0.1, 0.5; small sigmas change none."""
    for i, p in enumerate(("1.0", "0.1", "0.5")):
        recorded = float(GOLDEN[f"stats/blur_fraction_when_built_with_p{p}"])
        applied = drawn.blur[:, i] & (drawn.sigma[:, i] > 0.3)  # about where pixels begin to change
        assert abs(applied.mean() - recorded) < 0.06, (i, applied.mean(), recorded)


def test_intended_blur_by_config():
    """From the leaf of the configuration to what is drawn."""
    crops = tiny_recipe(crops__blur_p=augment.INTENDED_BLUR, crops__local_crops=8).crops
    keys = jax.random.split(jax.random.key(1), 1500)
    blur = np.asarray(jax.jit(jax.vmap(lambda k: sample_crops(k, 64, 64, crops).blur))(keys))
    assert [near(blur[:, i], p) for i, p in enumerate((1.0, 0.1, *[0.5] * 8))] == [True] * 10


def test_factors_and_orders_are_uniform(drawn):
    factors = drawn.factors.reshape(-1, 4)
    for column, (low, high) in zip(factors.T, ((0.6, 1.4), (0.6, 1.4), (0.8, 1.2), (-0.1, 0.1))):
        assert ks_against_quantiles(column, np.linspace(low, high, 21), recorded=10**9) < 1
        assert column.min() >= low - 1e-6 and column.max() <= high + 1e-6
    assert ks_against_quantiles(drawn.sigma.reshape(-1), np.linspace(0.1, 2.0, 21), recorded=10**9) < 1
    orders, counts = np.unique(drawn.order.reshape(-1, 4), axis=0, return_counts=True)
    assert len(orders) == 24 and (np.sort(orders, 1) == np.arange(4)).all()
    expected = counts.sum() / 24
    assert ((counts - expected) ** 2 / expected).sum() < 49.7  # 0.1% of chi-square with 23 degrees of freedom


def test_the_operations_for_tissue_leave_all_other_draws_alone(drawn, drawn_tissue):
    assert drawn.tissue is None
    jax.tree.map(np.testing.assert_array_equal, drawn_tissue._replace(tissue=None), drawn)


def test_old_draws_are_still_drawn():
    """Written down on 2026-11-28, before there were operations for tissue."""
    params = jax.jit(lambda key: sample_crops(key, 256, 224, DEFAULT))(jax.random.key(7))
    assert params.box[:2].tolist() == [[35, 8, 219, 204], [51, 8, 185, 209]]
    assert params.flip[:3].tolist() == [[True, False], [True, True], [True, False]]
    assert params.order[2].tolist() == [0, 1, 3, 2]
    np.testing.assert_allclose(params.factors[1], [1.2481188, 0.9368566, 1.0879745, -0.0143472], atol=1e-6)


def test_crops_lie_in_eight_positions_equally_often(drawn_tissue):
    flips = [drawn_tissue.flip[..., 0], drawn_tissue.flip[..., 1], drawn_tissue.tissue.transpose]
    positions = np.stack(flips, -1).reshape(-1, 3) @ [1, 2, 4]
    counts = np.bincount(positions, minlength=8)
    assert len(counts) == 8 and ((counts - counts.mean()) ** 2 / counts.mean()).sum() < 24.3  # 0.1%, 7 degrees


def test_stains_are_jittered_as_often_and_as_far_as_configured(drawn_tissue):
    tissue = drawn_tissue.tissue
    assert [near(tissue.stain[:, i], p) for i, p in enumerate((0.2, 0.5, *[0.8] * 8))] == [True] * 10
    for values, low, high in ((tissue.scale, 0.8, 1.2), (tissue.shift, -0.1, 0.1)):
        assert values.min() >= low - 1e-6 and values.max() <= high + 1e-6
        for column in values.reshape(-1, 3).T:
            assert ks_against_quantiles(column, np.linspace(low, high, 21), recorded=10**9) < 1
    columns = np.concatenate([tissue.scale[:, 0], tissue.shift[:, 0], drawn_tissue.factors[:, 0]], 1)
    columns = np.column_stack([columns, tissue.stain[:, 1], tissue.transpose[:, 1], tissue.transpose[:, 0]])
    related = np.corrcoef(columns.T.astype(float)) - np.eye(columns.shape[1])
    assert np.abs(related).max() < 5 / np.sqrt(DRAWS)


@pytest.mark.parametrize("most", [1.0, 1.05])
def test_boxes_as_square_as_configured(most):
    draws = jax.random.uniform(jax.random.key(0), (2, 500, 10))
    draw = jax.vmap(lambda a, b: augment.sample_box(a, b, a[:2], 392, 392, jnp.float32([0.26, 0.4]), most))
    height, width = np.asarray(jax.jit(draw)(*draws))[:, 2:].T
    assert max((height / width).max(), (width / height).max()) <= most + 2 / height.min()
    limit = augment.largest_box(392, 392, (0.26, 0.4), most)
    assert height.max() <= limit[0] < augment.largest_box(392, 392, (0.26, 0.4))[0] and width.max() <= limit[1]
    assert augment._central_box(100, 120, most) == (100, round(100 * most))


def test_no_parameter_is_drawn_twice(drawn):
    """Continuous draws never repeat over crops, images and steps, and none follows another."""
    keys = [jax.random.fold_in(jax.random.key(5), step) for step in range(2)]
    step = jax.jit(jax.vmap(lambda k, i: sample_crops(jax.random.fold_in(k, i), 64, 64, CropConfig()), (None, 0)))
    steps = [jax.tree.map(np.asarray, step(k, jnp.arange(64))) for k in keys]
    for take in (lambda p: p.sigma, lambda p: p.factors[..., 0], lambda p: p.factors[..., 3]):
        values = np.stack([take(p) for p in steps]).ravel()
        assert len(np.unique(values)) > 0.999 * len(values)  # 23 random bits: a rare chance repeat
    columns = [*(drawn.box[:, i, j] for i in range(4) for j in range(4)), *(drawn.sigma[:, i] for i in range(4))]
    columns += [drawn.factors[:, i, j] for i in range(4) for j in range(4)]
    columns += [f[:, i] for f in (drawn.jitter, drawn.gray, drawn.flip[..., 0], drawn.flip[..., 1]) for i in range(4)]
    related = np.abs(np.corrcoef(np.asarray(columns, float)))
    for i in range(4):  # within one box corner and size do depend on each other
        related[4 * i : 4 * i + 4, 4 * i : 4 * i + 4] = 0
    np.fill_diagonal(related, 0)
    assert related.max() < 5 / np.sqrt(DRAWS)


APPLY = jax.jit(apply_crop, static_argnums=(2, 3))


def replay(
    box,
    size,
    flip=(False, False),
    jitter=False,
    gray=False,
    blur=False,
    sigma=1.0,
    solarize=False,
    factors=(1, 1, 1, 0),
    order=(0, 1, 2, 3),
    tissue=None,
    config=DEFAULT,
):
    """(3, size, size): a crop of the golden picture with the given parameters; by default neutral jitter."""
    jitters = jnp.int32(order), jnp.float32(factors)
    params = CropParams(jnp.int32(box), jnp.asarray(flip), jitter, *jitters, gray, blur, sigma, solarize, tissue)
    picture = jnp.asarray(IMAGE.transpose(2, 0, 1), jnp.float32)
    return np.asarray(APPLY(picture, jax.tree.map(jnp.asarray, params), size, config)).transpose(2, 0, 1)


def test_chain_matches_recorded_arrays():
    level = 1 / 255 / 0.224  # one grey level after normalisation
    *box, size = (int(v) for v in GOLDEN["crop1/box_top_left_h_w_size"])
    ours = replay(box, size, blur=True, sigma=0.7)
    gap = np.abs(ours - GOLDEN["chain/blur0.7_then_normalize_of_crop1"])
    assert gap.max() < 1.05 * level and gap.mean() < 0.01 * level
    np.testing.assert_allclose(normalize(IMAGE).transpose(2, 0, 1), GOLDEN["normalized"], atol=2e-6)


def test_apply_crop_does_each_step_only_if_drawn():
    box, size = (10, 5, 64, 80), 32
    plain = replay(box, size)
    np.testing.assert_allclose(replay(box, size, flip=(True, False)), plain[:, ::-1], atol=1e-6)
    np.testing.assert_allclose(replay(box, size, flip=(False, True)), plain[:, :, ::-1], atol=1e-6)
    # the neutral jitter still goes through 8-bit HSV and back
    np.testing.assert_allclose(replay(box, size, jitter=True), plain, atol=4 / 255 / 0.224)
    for change in ("gray", "blur", "solarize"):
        assert np.abs(replay(box, size, **{change: True}) - plain).max() > 0.1, change
    gray = replay(box, size, gray=True).transpose(1, 2, 0) * np.float32(augment.STD) + np.float32(augment.MEAN)
    assert np.ptp(gray, axis=-1).max() < 1e-6


def of_tissue(transpose=False, stain=False):
    return TissueParams(transpose, stain, np.float32([1.2, 0.9, 1.1]), np.float32([0.02, -0.01, 0.03]))


@pytest.mark.parametrize("box", [(10, 5, 64, 80), (2, 3, 110, 60)], ids=["rows first", "columns first"])
def test_a_crop_in_each_of_eight_positions(box):
    plain = replay(box, 32, config=TISSUE)
    for vertical, horizontal, transpose in itertools.product((False, True), repeat=3):
        expected = plain[:, :: -1 if vertical else 1, :: -1 if horizontal else 1]
        expected = expected.transpose(0, 2, 1) if transpose else expected
        ours = replay(box, 32, flip=(vertical, horizontal), tissue=of_tissue(transpose), config=TISSUE)
        np.testing.assert_allclose(ours, expected, atol=1e-6)


def test_stains_are_jittered_before_the_colours_and_only_if_drawn():
    box, size, factors = (10, 5, 64, 80), 32, (1.3, 0.8, 1.2, 0.0)
    plain, on = replay(box, size, config=TISSUE), of_tissue(stain=True)
    np.testing.assert_array_equal(replay(box, size, tissue=of_tissue(), config=TISSUE), plain)
    stained = jitter_stains(np.round(denormalized(plain)).transpose(2, 0, 1).astype(np.float32), *on[2:])
    ours = replay(box, size, tissue=on, config=TISSUE)
    np.testing.assert_allclose(denormalized(ours).transpose(2, 0, 1), stained, atol=1e-3)
    expected = pillow_jitter(np.asarray(stained).transpose(1, 2, 0).astype(np.uint8), (2, 0, 1), factors)
    ours = denormalized(replay(box, size, jitter=True, factors=factors, order=(2, 0, 3, 1), tissue=on, config=TISSUE))
    assert np.abs(ours - expected).max() < 1.01 and np.abs(ours - expected).mean() < 0.01


def blurred(picture, sigma):
    """9 x 9 Gaussian with reflected borders, rounded to 8 bits: torchvision's, written out."""
    taps = np.exp(-0.5 * (np.arange(-4, 5) / sigma) ** 2)
    x = np.pad(picture.astype(np.float64), ((4, 4), (4, 4), (0, 0)), mode="reflect")
    for axis in (0, 1):
        x = np.apply_along_axis(np.convolve, axis, x, taps / taps.sum(), "valid")
    return np.round(x).astype(np.uint8)


@pytest.mark.parametrize("gray", [False, True])
def test_all_operations_are_done_in_the_reference_s_order(gray):
    """Crop, jitter, grey, blur, solarize, normalise; any two swapped give another picture."""
    box, size, factors, order = (10, 5, 64, 80), 48, (1.3, 0.8, 1.2, 0.05), (2, 0, 3, 1)
    top, left, height, width = box
    picture = Image.fromarray(IMAGE).crop((left, top, left + width, top + height))
    picture = pillow_jitter(np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC)), order, factors)
    if gray:
        picture = np.asarray(Image.fromarray(picture).convert("L").convert("RGB"))
    picture = np.asarray(ImageOps.solarize(Image.fromarray(blurred(picture, 1.1)), 128))
    flags = dict(jitter=True, gray=gray, blur=True, sigma=1.1, solarize=True)
    levels = denormalized(replay(box, size, factors=factors, order=order, **flags))
    gap = np.abs(levels - picture)
    swaps = np.minimum(gap, np.abs(255 - levels - picture))  # a level beside the threshold may fall on either side
    assert swaps.max() <= 2 and gap.mean() < 0.5
    assert np.mean(gap > 2) < 0.01


def denormalized(crop):
    return (crop.transpose(1, 2, 0) * augment.STD + augment.MEAN) * 255


def pipeline_columns(crops):
    """The recorded columns for crops (n, H, W, 3): means and spreads in [0, 1], row differences, whether grey."""
    x = np.asarray(crops, np.float64) * augment.STD + augment.MEAN
    rows = np.abs(np.diff(x, axis=1)).mean((1, 2, 3))
    gray = (np.ptp(x, axis=-1) < 1e-4).all((1, 2))
    return np.column_stack([x.mean((1, 2)), x.std((1, 2)), rows, gray])


def test_pipeline_statistics_match_recorded_ones():
    """Over many draws of the whole chain. The row differences say that the recorded crops had 126 and 42 px."""
    config = CropConfig(vflip=0.0, local_crops=2, global_px=126, local_px=42)
    images = np.repeat(IMAGE[None], 250, 0)
    wide, local = jax.jit(lambda k, x: multi_crop(k, x, 0, config))(jax.random.key(0), images)
    views = {"g0": wide[:, 0], "g1": wide[:, 1], "local": local.reshape(-1, *local.shape[2:])}
    for name, crops in views.items():
        ours = pipeline_columns(crops)
        mean, std = GOLDEN[f"stats/pipeline_{name}_mean"], GOLDEN[f"stats/pipeline_{name}_std"]
        assert (np.abs(ours.mean(0) - mean) < 0.4 * std).all(), (name, ((ours.mean(0) - mean) / std).round(2))
        assert np.abs(np.log(ours.std(0) / std)).max() < 0.35, (name, (ours.std(0) / std).round(2))


@pytest.fixture(scope="module")
def small_crops():
    return jax.jit(lambda key, images, first: multi_crop(key, images, first, SMALL))


def test_shapes_and_types(small_crops):
    wide, local = small_crops(jax.random.key(0), batch(), 0)
    assert wide.shape == (4, 2, 28, 28, 3) and local.shape == (4, 2, 14, 14, 3)
    assert wide.dtype == local.dtype == jnp.float32
    assert np.isfinite(wide).all() and np.isfinite(local).all()
    without = dataclasses.replace(SMALL, local_crops=0)
    none = jax.eval_shape(lambda x: multi_crop(jax.random.key(0), x, 0, without)[1], batch(1))
    assert none.shape == (1, 0, 14, 14, 3)


def test_levels_are_whole_numbers(small_crops):
    wide, _ = small_crops(jax.random.key(0), batch(), 0)
    levels = (np.asarray(wide, np.float64) * augment.STD + augment.MEAN) * 255
    assert np.abs(levels - np.round(levels)).max() < 1e-3
    assert levels.min() > -0.01 and levels.max() < 255.01


def test_same_key_same_crops_and_each_image_step_and_view_differs(small_crops):
    images = np.repeat(batch(1), 4, 0)  # one picture four times
    wide, local = small_crops(jax.random.key(0), images, 0)
    again, _ = small_crops(jax.random.key(0), images, 0)
    np.testing.assert_array_equal(wide, again)
    other, _ = small_crops(jax.random.key(1), images, 0)
    views = np.concatenate([np.asarray(x).reshape(-1, 28 * 28 * 3) for x in (wide, other)])
    assert len(np.unique(views, axis=0)) == len(views)
    assert len(np.unique(np.asarray(local).reshape(8, -1), axis=0)) == 8


def test_parts_of_a_batch_equal_the_whole(small_crops):
    images, key = batch(), jax.random.key(3)
    whole = small_crops(key, images, 0)
    for first in (0, 2):
        part = small_crops(key, images[first : first + 2], first)
        for ours, expected in zip(part, whole):
            np.testing.assert_array_equal(ours, expected[first : first + 2])


def on_two_devices(key, images, config, batching):
    split = PartitionSpec("data")

    def local(x):
        return multi_crop(key, x, jax.lax.axis_index("data") * 2, config, batching)

    mesh = Mesh(np.asarray(jax.devices()[:2]), ("data",))
    return jax.jit(jax.shard_map(local, mesh=mesh, in_specs=split, out_specs=(split, split)))(images)


@pytest.mark.parametrize("batching", ["map", "vmap"])
def test_crops_do_not_depend_on_the_number_of_devices(small_crops, batching):
    images, key = batch(), jax.random.key(3)
    sharded = on_two_devices(key, images, SMALL, batching)
    for ours, expected in zip(sharded, small_crops(key, images, 0)):
        assert_same_crops(ours, expected, exact=batching == "map")


def assert_same_crops(ours, expected, exact):
    """Equal, or but for sums in another order: they may round to the next level, and jitter may widen that."""
    gap = np.abs(np.asarray(ours) - np.asarray(expected)) * 255 * 0.225
    assert gap.max() <= (0 if exact else 4) and (gap > 0.5).mean() < 1e-3


def test_map_and_vmap_agree(small_crops):
    images, key = batch(), jax.random.key(4)
    both = jax.jit(lambda k, x: multi_crop(k, x, 0, SMALL, batching="vmap"))(key, images)
    for ours, expected in zip(both, small_crops(key, images, 0)):
        assert_same_crops(ours, expected, exact=False)


def test_map_agrees_with_vmap_on_two_devices_on_tissue(small_crops):
    images, key = batch(), jax.random.key(4)
    one = jax.jit(lambda k, x: multi_crop(k, x, 0, TISSUE))(key, images)
    many = on_two_devices(key, images, TISSUE, "vmap")
    for ours, expected, without in zip(many, one, small_crops(key, images, 0)):
        assert_same_crops(ours, expected, exact=False)
        assert np.abs(np.asarray(ours - without)).max() > 0.1


def test_unknown_batching_is_refused():
    with pytest.raises(ValueError, match="scan"):
        multi_crop(jax.random.key(0), batch(1), 0, SMALL, batching="scan")
