"""Pixels equal torchvision's on Pillow images to the grey level, for tiles of any shape and every rule of the table.

See test_torch_exports.py for how to run it; needs torch and torchvision.
"""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transforms = pytest.importorskip("torchvision.transforms")

from PIL import Image  # noqa: E402

from histojax.data.preprocess import fit, normalise  # noqa: E402
from histojax.zoo.record import Preprocess  # noqa: E402
from histojax.zoo.table import ENCODERS  # noqa: E402

MODES = {"bilinear": transforms.InterpolationMode.BILINEAR, "bicubic": transforms.InterpolationMode.BICUBIC}
RNG = np.random.default_rng(0)


def torchvision_fit(tile, rule):
    steps = [transforms.Resize(rule.size, MODES[rule.filter])]
    steps += [transforms.CenterCrop(rule.crop)] if rule.crop else []
    return transforms.Compose(steps)(Image.fromarray(tile))


def shapes(count):
    """(height, width): square, wide and tall in turn."""
    for i in range(count):
        short, ratio = int(RNG.integers(60, 400)), RNG.uniform(1, 4)
        long = short if i % 3 == 0 else int(short * ratio)
        yield (long, short) if i % 3 == 1 else (short, long)


@pytest.mark.parametrize("filter", MODES)
@pytest.mark.parametrize("size, crop", [(224, None), (128, None), (256, 224), (97, 96)])
def test_random_shapes(filter, size, crop):
    rule = Preprocess(size, crop, filter)
    for height, width in shapes(45):
        tile = RNG.integers(0, 256, (height, width, 3), np.uint8)
        np.testing.assert_array_equal(fit(tile, rule), np.asarray(torchvision_fit(tile, rule)), f"{height}x{width}")


@pytest.mark.parametrize(
    "rule", {record.preprocess: record.name for record in ENCODERS.values()}.items(), ids=lambda r: r[1]
)
def test_every_rule_of_the_table_down_to_the_floats(rule):
    rule, _ = rule
    tile = RNG.integers(0, 256, (150, 130, 3), np.uint8)
    scaled = transforms.ToTensor()(torchvision_fit(tile, rule)) * (rule.scale * 255)
    wanted = transforms.Normalize(rule.mean, rule.std)(scaled).numpy()
    np.testing.assert_allclose(np.moveaxis(normalise(fit(tile, rule), rule), -1, 0), wanted, atol=2e-6, rtol=2e-6)
