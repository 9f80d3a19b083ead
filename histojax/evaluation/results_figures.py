"""The figures of an evaluation's predictions: ROC, confusion, calibration, score bars, survival, agreement."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from sklearn.metrics import auc, roc_curve

from histojax.evaluation.metrics import confusion_matrix
from histojax.evaluation.results import Predictions, Results
from histojax.report import figures
from histojax.report.page import Picture, Table

GRID = np.linspace(0, 1, 201)  # of false positive rates at which the curves of folds are averaged
SMALLER_IS_BETTER = ("ece", "brier", "log_loss", "mae", "rmse")
_HEADLINES = {
    "classification": ("auroc", "balanced_accuracy"),
    "regression": ("pearson", "r2"),
    "survival": ("concordance",),
}
_WORDS = {"auroc": "AUROC", "ece": "expected calibration error", "brier": "Brier score", "mae": "mean absolute error"}
_WORDS |= {"r2": "R²", "macro_f1": "macro F1", "weighted_f1": "weighted F1", "kappa": "Cohen's kappa"}
_WORDS |= {"positive_f1": "F1 of the positive class"}

By = dict[tuple[str, str], list[Predictions]]  # (part, evaluator) -> its folds


def metric_words(metric: str) -> str:
    """The name of a metric for people."""
    return _WORDS.get(metric, metric.replace("_", " "))


def by_part(results: Results) -> By:
    """The predictions by part and evaluator, in the order of the results."""
    found: By = {}
    for one in results.predictions:
        found.setdefault((one.part, one.evaluator), []).append(one)
    return found


def headline(results: Results) -> str:
    """The metric that figures show: AUROC of patients, balanced accuracy of tiles; "" if there is none."""
    known = {score.metric for score in results.scores}
    wanted = _HEADLINES[results.task]
    ordered = wanted if results.protocol == "slide" else wanted[::-1]
    return next((metric for metric in ordered if metric in known), next(iter(sorted(known)), ""))


def score_bars(results: Results) -> Picture | None:
    """The headline of all evaluators and parts, with intervals; None without scores."""
    metric = headline(results)
    chosen = [one for one in results.scores if one.fold is None and one.metric == metric and math.isfinite(one.value)]
    if not chosen:
        return None
    parts = list(dict.fromkeys(one.part for one in chosen))
    bars = []
    for one in chosen:
        label = one.evaluator + (f", {one.part}" if len(parts) > 1 else "")
        bars.append(figures.Bar(label, one.value, one.low, one.high, parts.index(one.part)))
    chance = 0.5 if metric in ("auroc", "concordance") else None
    if metric == "balanced_accuracy" and results.classes:
        chance = 1 / len(results.classes)
    words = metric_words(metric)
    line = "" if chance is None else "; dashed: chance"
    return _picture(figures.bars_figure(bars, words, chance), words, f"{words} with its interval{line}.")


def roc_pictures(results: Results, part: str) -> Iterator[Picture]:
    """ROC curves: two classes, one figure with all evaluators; more, a figure an evaluator, each class against all."""
    by = {name: folds for (p, name), folds in by_part(results).items() if p == part and _has_shares(folds)}
    if not by or len(results.classes) < 2:
        return
    if len(results.classes) == 2:
        curves = [c for i, (name, folds) in enumerate(by.items()) for c in _roc(folds, 1, name, i)]
        if curves:
            positive = results.classes[1]
            caption = f"ROC of {positive!r} against {results.classes[0]!r}." + _folds_words(by)
            yield _picture(figures.roc_figure(curves, f"ROC, {part}"), "ROC curves", caption)
        return
    for name, folds in by.items():
        curves = [c for i, label in enumerate(results.classes) for c in _roc(folds, i, label, i)]
        if curves:
            caption = f"{name}: each class against all others." + _folds_words({name: folds})
            yield _picture(figures.roc_figure(curves, f"ROC, {name}, {part}"), f"ROC curves of {name}", caption)


def _roc(folds: Sequence[Predictions], positive: int, name: str, colour: int) -> Iterator[figures.Curve]:
    """One curve; of several folds a faint one each and their mean, as each fold's model has a scale of its own."""
    curves = []
    for one in folds:
        truth = one.truth == positive
        if one.probabilities is not None and truth.any() and not truth.all():
            curves.append(roc_curve(truth, one.probabilities[:, positive])[:2])
    if not curves:
        return
    areas = [auc(*curve) for curve in curves]
    if len(curves) == 1:
        x, y = curves[0]
        yield figures.Curve(x, y, f"{name}: {areas[0]:.3f}", colour)
        return
    for x, y in curves:
        yield figures.Curve(x, y, "", colour, faint=True)
    mean = np.mean([np.interp(GRID, x, y) for x, y in curves], axis=0)
    words = f"{name}: {np.mean(areas):.3f} ± {np.std(areas):.3f}"
    yield figures.Curve(np.concatenate([[0], GRID]), np.concatenate([[0], mean]), words, colour)


def confusion_pictures(results: Results, part: str) -> Iterator[Picture]:
    """A confusion matrix an evaluator, summed over folds."""
    count = len(results.classes)
    for (p, name), folds in by_part(results).items():
        if p == part and count:
            matrix = summed_confusion(folds, count)
            caption = f"{name}: how often a true class (row) was given a name (column); colour: share of the row."
            drawn = figures.confusion_figure(matrix, results.classes, f"{name}, {part}")
            yield _picture(drawn, f"confusion matrix of {name}", caption + _summed_words(folds))


def summed_confusion(folds: Sequence[Predictions], classes: int) -> np.ndarray:
    """(C, C) counts over all folds."""
    return sum(
        (confusion_matrix(one.truth, one.predicted, classes) for one in folds), np.zeros((classes, classes), int)
    )


def class_table(results: Results, part: str) -> Table | None:
    """Recall and precision of each class by each evaluator; None without classes."""
    by = [(name, folds) for (p, name), folds in by_part(results).items() if p == part]
    if not by or not results.classes:
        return None
    matrices = [summed_confusion(folds, len(results.classes)) for _, folds in by]
    titles = ["class", "n", *(f"{name}: {what}" for name, _ in by for what in ("recall", "precision"))]
    rows = []
    for i, label in enumerate(results.classes):
        cells: list[str] = []
        for matrix in matrices:
            hits, true, said = matrix[i, i], matrix[i].sum(), matrix[:, i].sum()
            cells += [_share(hits, true), _share(hits, said)]
        rows.append((label, f"{matrices[0][i].sum():,}", *cells))
    return Table(titles, rows, note=_summed_words(by[0][1]).strip())


def calibration_pictures(results: Results, part: str) -> Iterator[Picture]:
    """How far stated probabilities can be believed, an evaluator a figure; folds together."""
    for (p, name), folds in by_part(results).items():
        if p != part or not _has_shares(folds):
            continue
        stated = np.concatenate([one.probabilities.max(1) for one in folds if one.probabilities is not None])
        right = np.concatenate([one.predicted == one.truth for one in folds if one.probabilities is not None])
        drawn = figures.calibration_figure(np.clip(stated, 0, 1), right, f"{name}, {part}")
        caption = f"{name}: on the dashed line, 80 of 100 calls made with 80 % are right."
        yield _picture(drawn, f"calibration of {name}", caption)


def number_pictures(results: Results, part: str) -> Iterator[Picture]:
    """Of regression predicted over true values, of survival the curves of the two halves by risk."""
    for (p, name), folds in by_part(results).items():
        if p != part:
            continue
        truth = np.concatenate([one.truth for one in folds])
        if results.task == "regression":
            said = np.concatenate([one.predicted for one in folds])
            drawn = figures.agreement_figure(truth, said, f"{name}, {part}", results.target)
            yield _picture(drawn, f"predicted over true {results.target}", f"{name}: dashed, where both are equal.")
        elif results.task == "survival":
            high = np.concatenate([one.predicted > np.median(one.predicted) for one in folds])
            events = np.concatenate(
                [one.events if one.events is not None else np.ones(len(one.truth)) for one in folds]
            )
            halves = [("lower risk", ~high), ("higher risk", high)]
            caption = f"{name}: Kaplan-Meier curves of the halves below and above each fold's median of the risk."
            yield _picture(figures.survival_figure(truth, events, halves, f"{name}, {part}"), "survival", caption)


def _has_shares(folds: Sequence[Predictions]) -> bool:
    return any(one.probabilities is not None for one in folds)


def _share(hits: int, of: int) -> str:
    return f"{hits / of:.3f}" if of else "–"


def _folds_words(by: dict[str, list[Predictions]]) -> str:
    several = max(len(folds) for folds in by.values()) > 1
    return " Faint: the folds; thick: their mean. Area: mean ± standard deviation (ddof 0)." if several else ""


def _summed_words(folds: Sequence[Predictions]) -> str:
    return f" Counts are summed over {len(folds)} folds." if len(folds) > 1 else ""


def _picture(drawn: figures.Drawn, alt: str, caption: str) -> Picture:
    return Picture(drawn.png, alt, caption, drawn.width)
