"""What a head says of bags, of single tiles, and how much each tile weighs."""

import dataclasses

import mil_cases
import numpy as np
import pytest

from histojax.common.errors import UserError
from histojax.evaluation.mil import predict as module
from histojax.evaluation.mil.predict import attention, predict, tile_scores
from histojax.evaluation.mil.settings import HeadSettings, TrainSettings
from histojax.evaluation.mil.tasks import probabilities

X = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)


def test_a_tiles_score_is_that_of_a_bag_of_it_alone(monkeypatch):
    monkeypatch.setattr(module, "TILES", 2)  # several rounds, the last one not full
    head = mil_cases.head("gated_attention")
    alone = predict(head, [mil_cases.bag(X[i : i + 1]) for i in range(5)])
    np.testing.assert_allclose(tile_scores(head, X), probabilities(alone), atol=1e-6)
    number = dataclasses.replace(head, task="regression", classes=())
    np.testing.assert_allclose(tile_scores(number, X), alone, atol=1e-6)


@pytest.mark.parametrize("name", mil_cases.SMALL)
def test_weights_of_tiles_are_shares(name):
    weights = attention(mil_cases.head(name), X)
    assert weights.shape == (5,) and weights.min() >= 0 and weights.sum() == pytest.approx(1, abs=1e-5)


def test_no_bags_give_no_rows_and_bags_of_another_encoder_an_error():
    head = mil_cases.head("mean")
    assert predict(head, []).shape == (0, 1)
    for call in (lambda x: predict(head, [mil_cases.bag(x, "slide 7")]), lambda x: attention(head, x)):
        with pytest.raises(UserError, match=r"7 features a tile, expected 6"):
            call(np.zeros((3, 7)))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: HeadSettings("lamil"), "no model of bags is called 'lamil'"),
        (lambda: HeadSettings(width=10), "cannot be shared by 8 heads"),
        (lambda: TrainSettings(keep="f1"), "chosen by 'loss' or 'auroc'"),
        (lambda: TrainSettings(epochs=0), "epochs=0"),
    ],
)
def test_settings_that_cannot_be_are_refused(make, words):
    with pytest.raises(UserError, match=words):
        make()
    assert HeadSettings("attention").size == 256 and HeadSettings().dim_head == 64
