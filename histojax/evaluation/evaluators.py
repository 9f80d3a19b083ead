"""What is read off the features of the evaluation tiles: one function and one row for each evaluator.

A row's function takes a `FeatureSet` and returns {metric: value}. The loop, the monitor, the closing words and the
curves read the rows and know no metric by name: whoever adds an evaluator writes its function and its row here.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Literal

import numpy as np

from histojax.evaluation.half_width import half_width
from histojax.evaluation.knn import knn_predict
from histojax.evaluation.metrics import balanced_accuracy
from histojax.evaluation.probe import ridge_probe
from histojax.evaluation.rank import rankme
from histojax.ssl.health import feature_spread

FIT, VALIDATION, TEST = PARTS = ("fit", "validation", "test")
HISTOGRAM = "histogram"  # in front of the metrics of the colour histograms


@dataclasses.dataclass(frozen=True)
class Part:
    """The features of some tiles, and what is known of each tile."""

    features: np.ndarray  # (n, d) float32
    labels: np.ndarray  # (n,) int64 from 0; -1: unlabelled
    tiles: np.ndarray  # (n,) int64: which of the evaluation tiles
    groups: np.ndarray | None = None  # (n,) str, the patient or slide of each; "" where unknown


@dataclasses.dataclass(frozen=True)
class FeatureSet:
    """Features by what they are for: to fit on, to choose by (validation), to report (test).

    Without labels all tiles are in `fit` and the other parts are None; `validation` is None too where the tiles to
    fit on could not be split once more.
    """

    fit: Part
    validation: Part | None = None
    test: Part | None = None

    @property
    def labelled(self) -> bool:
        """Whether classifiers can be fitted and judged."""
        return self.validation is not None or self.test is not None

    @property
    def judged(self) -> dict[str, Part]:
        """{name: part} of the parts that a fitted classifier is judged on."""
        parts = {VALIDATION: self.validation, TEST: self.test}
        return {name: part for name, part in parts.items() if part is not None}

    @property
    def without_test(self) -> np.ndarray:
        """(n, d) features of all tiles that a training may be steered by."""
        parts = [self.fit] if self.validation is None else [self.fit, self.validation]
        return np.concatenate([part.features for part in parts])


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """A row: what is measured, and how the rest of the program speaks of it."""

    name: str
    function: Callable[[FeatureSet], dict[str, float]]
    headline: str  # its metric that is watched and told, without the part in front
    title: str  # in the legend and in words
    panel: str  # of the curves
    needs_labels: bool  # its metrics are named "validation/..." and "test/..."
    watch: Literal["", "best", "first"] = ""  # the monitor compares the headline with its best or its first value
    baseline: bool = False  # colour histograms are judged by it, too
    zero: bool = False  # its axis starts at 0
    of_slides: bool = False  # it judges the patients of eval.slides instead of the evaluation tiles
    chooses: bool = False  # its headline may say which checkpoint is the best, see training.choice
    guard: str = ""  # a metric that must hold for its headline to choose

    def metric(self, part: str = VALIDATION) -> str:
        """The headline's name in metrics.jsonl: of a part where labels are needed."""
        return f"{part}/{self.headline}" if self.needs_labels else self.headline

    def interval(self, part: str = VALIDATION) -> str:
        """The name of half the headline's bootstrap interval."""
        return f"{self.metric(part)}_half_width"


def evaluators(k: int = 20) -> tuple[Evaluator, ...]:
    """All evaluators, for a vote of k neighbours."""
    accuracy, spread = "Balanced accuracy of the teacher", "Feature spread (1: random directions)"
    knn = functools.partial(knn_accuracy, k=k)
    return (
        Evaluator(
            "knn", knn, "knn_balanced_accuracy", f"{k}-NN", accuracy, True, watch="best", baseline=True, chooses=True
        ),
        Evaluator("ridge", ridge_accuracy, "ridge_balanced_accuracy", "ridge probe", accuracy, True),
        Evaluator(
            "rankme", rank, "rankme", "RankMe", "RankMe of the teacher's features", False, watch="first", zero=True,
            chooses=True, guard="eval_spread",
        ),
        Evaluator("spread", spread_of, "eval_spread", "evaluation tiles", spread, False, zero=True),
        Evaluator("slides", slides, "slides_auroc", "mean pooling", "AUROC of patients", False, of_slides=True),
    )  # fmt: skip


def chooser(rows: tuple[Evaluator, ...], by: str = "auto", labelled: bool = True) -> Evaluator:
    """The row whose headline says which checkpoint is the best: the one of the name `by`.

    "auto": the first that the tiles allow, on the validation part where they are `labelled`.
    """
    return next(
        row for row in rows if row.chooses and (row.name == by or (by == "auto" and row.needs_labels <= labelled))
    )


def knn_accuracy(features: FeatureSet, k: int = 20) -> dict[str, float]:
    """Balanced accuracy of a vote of the k nearest tiles of `fit` (all of them, if they are fewer)."""
    fit = features.fit
    near = min(k, len(fit.labels))
    return _accuracy(features, "knn_balanced_accuracy", lambda x: knn_predict(fit.features, fit.labels, x, k=near))


def ridge_accuracy(features: FeatureSet) -> dict[str, float]:
    """Balanced accuracy of a closed-form linear probe."""
    fit = features.fit
    return _accuracy(features, "ridge_balanced_accuracy", lambda x: ridge_probe(fit.features, fit.labels, x))


def rank(features: FeatureSet) -> dict[str, float]:
    """RankMe of all tiles but those of the test."""
    return {"rankme": float(rankme(features.without_test))}


def spread_of(features: FeatureSet) -> dict[str, float]:
    """Spread of all tiles but those of the test, see ssl.health."""
    return {"eval_spread": float(feature_spread(features.without_test))}


def slides(features: FeatureSet) -> dict[str, float]:
    """AUROC and balanced accuracy over patients by their mean features, see slides_online; all tiles are in `fit`."""
    from histojax.evaluation.slides_online import slide_scores  # with what only few trainings need

    fit = features.fit
    assert fit.groups is not None
    return slide_scores(fit.features, fit.labels, fit.groups)


def _accuracy(features: FeatureSet, name: str, predict: Callable[[np.ndarray], np.ndarray]) -> dict[str, float]:
    """{"part/name": balanced accuracy, "part/name_half_width": of its interval} on validation and test, predicted in
    one go."""
    parts = features.judged
    called = predict(np.concatenate([part.features for part in parts.values()]))
    ends = np.cumsum([len(part.labels) for part in parts.values()])
    each = [(*item, guess) for item, guess in zip(parts.items(), np.split(called, ends[:-1]))]
    wide = {f"{part}/{name}_half_width": half_width(one.labels, guess, one.groups) for part, one, guess in each}
    found = {f"{part}/{name}": balanced_accuracy(one.labels, guess) for part, one, guess in each}
    return found | {metric: value for metric, value in wide.items() if value is not None}
