"""Training on bags: it learns, keeps the best step, and says what is wrong with bags and targets."""

import dataclasses

import jax
import mil_cases
import numpy as np
import pytest

from histojax.common.errors import UserError
from histojax.evaluation.mil.bags import Bag, padded
from histojax.evaluation.mil.fit import fit_head
from histojax.evaluation.mil.models import bind, draw_params
from histojax.evaluation.mil.predict import predict
from histojax.evaluation.mil.settings import TrainSettings
from histojax.evaluation.mil.steps import joint_step, optimiser, single_step
from histojax.evaluation.mil.tasks import cox_loss

QUICK = TrainSettings(epochs=12, learning_rate=2e-2)
TRAIN, VALIDATION, TEST = np.arange(12), np.arange(12, 18), np.arange(18, 24)


@pytest.mark.parametrize(
    ("name", "classes"),
    [("transformer", "ab"), ("gated_attention", "abc"), ("mean", "ab"), ("mean", "abc")],
)
def test_a_head_learns_its_classes(name, classes):
    bags, labels = mil_cases.toy(classes=len(classes))
    settings = dataclasses.replace(mil_cases.SMALL[name], dropout=0.0)
    head = fit_head(
        bags, labels, TRAIN, VALIDATION, "classification", settings, QUICK, tuple(classes), {"features": "toy"}
    )
    logits = predict(head, [bags[i] for i in TEST])
    assert logits.shape == (6, 1 if len(classes) == 2 else 3) and logits.dtype == np.float32
    named = (logits[:, 0] > 0) if len(classes) == 2 else logits.argmax(axis=1)
    assert (named == labels[TEST]).mean() >= 5 / 6
    assert head.facts["features"] == "toy" and head.facts["training"]["epochs"] == 12


def test_the_kept_step_has_the_lowest_validation_loss():
    bags, labels = mil_cases.toy()
    told = []
    head = fit_head(
        bags, labels, TRAIN, VALIDATION, "classification", mil_cases.SMALL["transformer"],
        TrainSettings(epochs=4, learning_rate=0.05, validate_every=5), ("a", "b"), progress=lambda *a: told.append(a),
    )  # fmt: skip
    history = head.facts["history"]
    assert [row["step"] for row in history] == list(range(5, 48, 5))  # the count runs on from pass to pass
    best = min(history, key=lambda row: row["validation_loss"])
    assert head.facts["best_step"] == best["step"]
    logits, truth = predict(head, [bags[i] for i in VALIDATION])[:, 0], labels[VALIDATION]
    assert best["validation_loss"] == pytest.approx(np.logaddexp(0, np.where(truth, -logits, logits)).mean(), rel=1e-5)
    assert len(told) == 48 and told[-1][:2] == (48, 48) and "validation_auroc" in told[-1][2]


def test_the_same_seed_gives_the_same_head_and_another_seed_another():
    bags, labels = mil_cases.toy()
    args = bags, labels, TRAIN, VALIDATION, "classification", mil_cases.SMALL["attention"]
    heads = [
        fit_head(*args, TrainSettings(epochs=2, keep="auroc", seed=seed, max_tiles=4), ("a", "b")) for seed in (1, 1, 2)
    ]
    first, again, other = (jax.tree.leaves(head.params) for head in heads)
    assert all((a == b).all() for a, b in zip(first, again)) and (first[0] != other[0]).any()


@pytest.mark.parametrize("name", ["attention", "mean"])
def test_numbers_are_regressed(name):
    bags = mil_cases.toy()[0]
    wanted = np.array([one.load()[:, 0].mean() for one in bags])
    settings = dataclasses.replace(mil_cases.SMALL[name], dropout=0.0)
    head = fit_head(bags, wanted, TRAIN, VALIDATION, "regression", settings, QUICK)
    got = predict(head, [bags[i] for i in TEST])[:, 0]
    assert np.corrcoef(got, wanted[TEST])[0, 1] > 0.8 and head.classes == ()


@pytest.mark.parametrize("name", ["attention", "mean"])
def test_risks_rise_with_shorter_survival(name):
    bags, labels = mil_cases.toy()
    targets = np.stack([10.0 - 8 * labels + np.arange(24) / 24, np.arange(24) % 5 > 0], axis=1)
    settings = dataclasses.replace(mil_cases.SMALL[name], dropout=0.0)
    training = dataclasses.replace(QUICK, risk_set=5)
    head = fit_head(bags, targets, TRAIN, VALIDATION, "survival", settings, training)
    risks = predict(head, [bags[i] for i in TEST])[:, 0]
    assert risks[labels[TEST] == 1].min() > risks[labels[TEST] == 0].mean()


def test_a_joint_step_has_the_gradient_of_the_joint_loss():
    settings, training = mil_cases.SMALL["attention"], TrainSettings(learning_rate=1e-2)
    params = draw_params(settings, 0)
    draws = [one.load() for one in mil_cases.toy(4)[0]]
    targets = np.array([[3, 1], [1, 1], [2, 0], [2, 1]], np.float32)

    def loss(params):
        model = bind(settings, params)
        risks = jax.numpy.concatenate([model(*padded(x)) for x in draws])
        return cox_loss(risks, targets, np.float32(1)).mean()

    value, slopes = jax.jit(jax.value_and_grad(loss))(params)
    state = optimiser(training).init(params)
    expected = jax.tree.map(lambda p, u: p + u, params, optimiser(training).update(slopes, state, params)[0])
    got, _, told = joint_step(settings, training, "survival")(params, state, draws, [None] * 4, targets)
    assert float(told) == pytest.approx(float(value), rel=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), got, expected)


def test_a_step_is_that_of_adamw_as_torch_defines_it():
    settings = mil_cases.SMALL["mean"]
    training = TrainSettings(learning_rate=1e-2, weight_decay=0.1)
    params = {"head": {"kernel": np.full((6, 1), 0.5, np.float32), "bias": np.zeros(1, np.float32)}}
    x, mask = padded(np.ones((2, 6), np.float32))
    state = optimiser(training).init(params)
    step = single_step(settings, training, "classification")
    got, _, loss = step(params, state, x, mask, np.ones(1, np.float32), np.float32(3), None)
    assert float(loss) == pytest.approx(3 * np.log1p(np.exp(-3)), rel=1e-5)
    # the first step of Adam is the learning rate against the sign of the slope, after the decay
    np.testing.assert_allclose(got["head"]["kernel"], 0.5 * (1 - 1e-2 * 0.1) + 1e-2, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(bags="empty"), "empty bag"),
        (dict(bags="nan"), "not finite"),
        (dict(bags="wide"), "different encoders"),
        (dict(targets=np.zeros(24, int)), "no bag of b"),
        (dict(targets=np.zeros(24)), "must be integers"),
        (dict(targets=np.zeros(3, int)), "needs"),
        (dict(classes=("a",)), "two classes"),
        (dict(train=[]), "training part has no bags"),
        (dict(validation=[]), "validation part has no bags"),
        (dict(task="survival", targets=np.zeros((24, 2))), "no event"),
        (dict(task="regression", targets=np.full(24, np.nan)), "not a finite number"),
    ],
)
def test_what_cannot_be_trained_on_is_said(change, words):
    bags, labels = mil_cases.toy()
    broken = {"empty": np.zeros((0, 6)), "nan": np.full((3, 6), np.nan), "wide": np.zeros((3, 7))}
    if "bags" in change:
        x = broken[change.pop("bags")]
        bags[0] = Bag("slide 7", lambda: x)
    given = dict(
        bags=bags, targets=labels, train=TRAIN, validation=VALIDATION, task="classification",
        settings=mil_cases.SMALL["attention"], training=QUICK, classes=("a", "b"),
    )  # fmt: skip
    with pytest.raises(UserError, match=words):
        fit_head(**given | change)


def test_bags_of_one_tile_are_bags():
    x = np.eye(6, dtype=np.float32)
    bags = [mil_cases.bag(x[i % 2 : i % 2 + 1]) for i in range(24)]
    head = fit_head(
        bags, np.arange(24) % 2, TRAIN, VALIDATION, "classification", mil_cases.SMALL["transformer"], QUICK, ("a", "b")
    )
    assert ((predict(head, bags)[:, 0] > 0) == np.arange(24) % 2).all()
