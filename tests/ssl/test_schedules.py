import numpy as np
import pytest

from histojax.config import paper
from histojax.ssl.schedules import Cosine, scaled_lr
from histojax.training.recipe import schedules_of


def test_warmup_ends_on_the_peak_and_the_cosine_begins_on_it():
    values = Cosine(base=1.0, final=0.1, steps=10, warmup=4)(np.arange(12))
    np.testing.assert_allclose(values[:5], [0, 1 / 3, 2 / 3, 1, 1])
    assert values[9] > 0.1 and list(values[10:]) == [0.1, 0.1]


def test_halfway_is_the_mean():
    assert Cosine(base=2.0, final=0.0, steps=8)(4) == pytest.approx(1.0)


def test_rate_scales_with_the_root_of_the_batch():
    assert scaled_lr(2e-4, 256) == pytest.approx(1e-4)
    assert scaled_lr(2e-4, 32) == pytest.approx(3.5355339e-5)


def test_paper_schedule():
    s = schedules_of(paper())
    table = s.table(np.array([0, 99, 100, 999, 1000, 2999, 3000, 9999, 10000]))
    assert table["lr"][0] == 0 and table["lr"][3] == table["lr"][4] == pytest.approx(1e-4)
    assert list(table["last_layer_lr"][:3]) == [0, 0, table["lr"][2]]
    assert table["teacher_temp"][5] == pytest.approx(0.07) and table["teacher_temp"][0] == 0.04
    assert table["momentum"][-1] == 1 and table["weight_decay"][-1] == 0.2


def test_the_backbone_stands_still_while_the_heads_warm_up():
    config = paper()
    config.optim.freeze_backbone_steps = 150
    table = schedules_of(config).table(np.array([0, 149, 150, 1000]))
    assert list(table["backbone_lr"]) == [0, 0, *table["lr"][2:]] and table["lr"][1] > 0


def test_a_step_s_values_are_float32_scalars():
    at = schedules_of(paper()).at(7)
    assert set(at) == {"lr", "backbone_lr", "last_layer_lr", "weight_decay", "momentum", "teacher_temp"}
    assert all(v.dtype == np.float32 and v.shape == () for v in at.values())
