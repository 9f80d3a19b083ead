"""tools/bench_crops.py: both sides make the same pictures, of the same parameters."""

import bench_crops
import jax
import numpy as np
import pytest

from histojax.ssl.augment import CropConfig

SMALL = CropConfig(global_px=28, local_px=14, local_crops=2)


def test_the_measure_of_difference_knows_the_solarized_threshold():
    def pictures(level):
        x = np.float32(level) / 255
        crop = (np.full((1, 1, 2, 2, 3), x) - np.float32(SMALL.mean)) / np.float32(SMALL.std)
        return crop.astype(np.float32), crop.astype(np.float32)

    assert bench_crops.apart(pictures(127), pictures(128), SMALL)["levels_apart_mean"] < 0.01  # 255 - 128
    told = bench_crops.apart(pictures(100), pictures(110), SMALL)
    assert abs(told["levels_apart_mean"] - 10) < 0.01 and told["share_above_2"] == 1 and told["share_equal"] == 0


def test_both_sides_make_the_same_pictures():
    pytest.importorskip("torchvision", reason="pip install '.[bench]'")
    images = np.random.default_rng(0).integers(0, 256, (4, 40, 40, 3), np.uint8)
    key = jax.random.key(0)
    params = bench_crops.draw(SMALL, images, key)
    told = bench_crops.apart(
        bench_crops.our_side(SMALL, images, key)(), bench_crops.peer_side(SMALL, images, params)(), SMALL
    )
    assert told["levels_apart_mean"] < bench_crops.MEAN_LEVELS and told["share_above_2"] < bench_crops.FAR_SHARE


def test_a_line_of_our_side(monkeypatch, capsys):
    monkeypatch.setattr(bench_crops, "our_side", lambda *a: lambda: None)
    assert bench_crops.main(["--batch", "1", "--px", "32", "--rounds", "2"]) == 0
    assert '"case": "32 px to 2 x 224 + 8 x 98, batch 1"' in capsys.readouterr().out
