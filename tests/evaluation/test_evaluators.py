"""Evaluators as rows: what each says of a feature set, and that one more row is all that an evaluator needs."""

import numpy as np
import pytest

from histojax.common.errors import UserError
from histojax.evaluation import online
from histojax.evaluation.evaluators import Evaluator, FeatureSet, Part, chooser, evaluators
from histojax.evaluation.knn import knn_predict
from histojax.evaluation.metrics import balanced_accuracy
from histojax.evaluation.probe import ridge_probe
from histojax.evaluation.rank import rankme
from histojax.training.panels import evaluation_panels, panels

SIZES = {"fit": 30, "validation": 12, "test": 21}


def part(count, seed, classes=3):
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    x = rng.normal(size=(count, 6)) + 1.5 * np.eye(6)[labels]
    return Part(x.astype(np.float32), labels, np.arange(count))


@pytest.fixture
def features():
    return FeatureSet(*(part(count, seed) for seed, count in enumerate(SIZES.values())))


def row_of(name, k=20):
    return next(row for row in evaluators(k) if row.name == name)


@pytest.mark.parametrize("name", ["knn", "ridge"])
def test_each_part_is_judged_by_what_the_fitted_tiles_say(features, name):
    predict = {"knn": lambda *data: knn_predict(*data, k=5), "ridge": ridge_probe}[name]
    row = row_of(name, k=5)
    expected = {
        row.metric(other): balanced_accuracy(
            getattr(features, other).labels,
            predict(features.fit.features, features.fit.labels, getattr(features, other).features),
        )
        for other in ("validation", "test")
    }
    found = row.function(features)
    assert {metric: found[metric] for metric in expected} == expected and len(set(expected.values())) == 2
    assert {row.interval(other) for other in ("validation", "test")} == set(found) - set(expected)
    assert set(expected) == {f"{other}/{name}_balanced_accuracy" for other in ("validation", "test")}


def test_a_missing_validation_part_leaves_its_numbers_out(features):
    alone = FeatureSet(features.fit, None, features.test)
    assert set(row_of("knn").function(alone)) == {row_of("knn").metric("test"), row_of("knn").interval("test")}


def test_no_number_that_steers_a_training_sees_the_test_tiles(features):
    other = FeatureSet(features.fit, features.validation, part(40, seed=9))
    for row in (row for row in evaluators() if not row.of_slides):  # those have tiles of their own
        assert row.function(features)[row.metric()] == row.function(other)[row.metric()]
    joined = np.concatenate([features.fit.features, features.validation.features])
    assert row_of("rankme").function(features) == {"rankme": rankme(joined)}


def test_the_first_row_with_labels_chooses_on_validation():
    assert chooser(evaluators()).metric() == "validation/knn_balanced_accuracy"
    assert chooser(evaluators(), labelled=False).metric() == "rankme"
    assert chooser(evaluators(), "rankme").metric() == "rankme"
    known = {"rankme", "eval_spread"}
    assert all(row.guard in known for row in evaluators() if row.chooses and not row.needs_labels)


def test_a_small_fit_part_votes_with_all_it_has(features):
    assert row_of("knn", k=500).function(features).keys() == row_of("knn").function(features).keys()


def tiles_of(sizes, valid=None, labelled=True):
    """Evaluation tiles whose colour is their class, in batches of 8 with a filled last one."""
    count = sum(sizes.values())
    labels = np.arange(count) % 3
    valid = np.ones(count, bool) if valid is None else valid

    def batches():
        for first in range(0, count, 8):
            index = np.pad(np.arange(first, min(first + 8, count)), (0, max(first + 8 - count, 0)), constant_values=-1)
            image = np.broadcast_to(200 * np.eye(3, dtype=np.uint8)[labels[index], None, None], (8, 4, 4, 3))
            yield {"image": image, "index": index, "valid": valid[index]}

    names = np.repeat(list(sizes), list(sizes.values()))
    return online.EvalTiles(batches, labels if labelled else np.full(count, -1), names, how="")


def colour(images):
    return images.reshape(len(images), -1)[:, :4].astype(np.float32)


def test_one_function_and_one_row_make_an_evaluator():
    row = Evaluator(
        "size", lambda found: {"validation/size": len(found.validation.labels), "test/size": 0.0}, "size", "tiles",
        "Sizes", needs_labels=True, baseline=True,
    )  # fmt: skip
    rows = (*evaluators(k=3), row)
    tiles = tiles_of(SIZES)
    assert online.evaluate(tiles, colour, rows)["validation/size"] == 12
    assert online.baseline(tiles, rows)["histogram/validation/size"] == 12
    assert [panel.title for panel in evaluation_panels(row)] == ["Sizes: test", "Sizes: validation"]
    assert {"Sizes: test", "Sizes: validation"} <= {panel.title for panel in panels(rows)}


def test_evaluation_by_all_rows():
    values = online.evaluate(tiles_of(SIZES), colour, evaluators(k=3))
    names = {f"{other}/{name}_balanced_accuracy" for other in ("validation", "test") for name in ("knn", "ridge")}
    assert set(values) == names | {f"{name}_half_width" for name in names} | {"rankme", "eval_spread"}
    assert all(values[name] == 1 for name in names)
    baseline = online.baseline(tiles_of(SIZES), evaluators(k=3))
    expected = {f"histogram/{other}/knn_balanced_accuracy": 1.0 for other in ("validation", "test")}
    assert baseline == expected | {f"{name}_half_width": 0.0 for name in expected}


def test_without_labels_only_the_rows_that_need_none_apply():
    tiles = tiles_of({"fit": 20}, labelled=False)
    assert set(online.evaluate(tiles, colour, evaluators())) == {"rankme", "eval_spread"}
    assert online.baseline(tiles, evaluators()) == {}


def test_features_that_are_not_finite_give_no_numbers():
    assert online.evaluate(tiles_of(SIZES), lambda images: colour(images) * np.nan, evaluators()) == {}


def test_a_part_of_which_no_tile_can_be_read_is_named():
    valid = np.arange(sum(SIZES.values())) < 42
    with pytest.raises(UserError, match=r"of 63 evaluation tiles 42 can still be read, none of the part test"):
        online.evaluate(tiles_of(SIZES, valid), colour, evaluators())
