"""What the slide protocol leaves behind: results, scores, predictions in STAMP's shape, who was left out, a report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from histojax.common.files import make_folder
from histojax.common.tables import write_table
from histojax.evaluation.pictures import Pictures
from histojax.evaluation.results import TEST, Predictions, Results, Task, write_results
from histojax.evaluation.results_page import write_report
from histojax.evaluation.score_table import in_lines, write_scores
from histojax.evaluation.slide_folds import SLIDES, Judge

SHOWN = ("auroc", "balanced_accuracy", "accuracy", "macro_f1", "r2", "mae", "pearson", "concordance")
PREDS = "patient-preds"
TINY = 1e-12  # a probability below it has the loss of this one


def write_slides(out: Path, results: Results, own: Judge) -> None:
    """Writes tables of scores and of who was left out, patient-preds, results and report.html; raises UserError."""
    write_scores(out / "scores.csv", results)
    write_table(out / "left_out.csv", ("what", "reason"), own.cohort.left_out)
    write_preds(out / PREDS, results.predictions, results.task, results.target, results.classes)
    write_results(out, results)
    cohort = own.cohort
    labels = cohort.targets if results.task == "classification" else None
    write_report(out, results, Pictures(own.means, cohort.units, labels, results.classes, cohort.centres))


def print_slides(results: Results) -> None:
    """Prints the scores as a table, and every note."""
    print(f"\n{results.name}: {results.target}")
    print("\n".join(in_lines(results, SHOWN)))
    found = {k: v for k, v in results.facts.get("robustness", {}).items() if isinstance(v, int | float)}
    if found:
        print("centres: " + ", ".join(f"{k.replace('_', ' ')} {v:.3g}" for k, v in found.items()))
    for note in results.facts.get("notes", []):
        print(f"note: {note}")


def write_preds(
    folder: Path,
    predictions: Sequence[Predictions],
    task: Task,
    target: str,
    classes: Sequence[str],
    truth: bool = True,
) -> None:
    """Writes MODEL/split-0/patient-preds.csv for each fold as STAMP does, for its statistics and for people.

    Of a cohort that every fold's model judged: MODEL/COHORT/split-0/..., and beside them MODEL/COHORT/patient-preds.csv
    with the mean over the folds. Without `truth` its column is left out.
    """
    parts = [one for one in predictions if not one.part.endswith(SLIDES)]
    for one in parts:
        place = folder / one.evaluator if one.part == TEST else folder / one.evaluator / one.part
        _write(place / f"split-{one.fold or 0}", one, task, target, classes, truth)
    for key in dict.fromkeys((one.evaluator, one.part) for one in parts):
        folds = [one for one in parts if (one.evaluator, one.part) == key]
        same = all(np.array_equal(one.units, folds[0].units) for one in folds)
        if key[1] != TEST or (len(folds) > 1 and same):
            place = folder / key[0] if key[1] == TEST else folder / key[0] / key[1]
            _write(place, mean_of(folds), task, target, classes, truth)


def mean_of(folds: Sequence[Predictions]) -> Predictions:
    """One prediction of several models of the same units: the mean of probabilities, numbers or risks."""
    first = folds[0]
    each = [one.probabilities for one in folds if one.probabilities is not None]
    shares = np.mean(each, axis=0) if each else None
    predicted = np.mean([one.predicted for one in folds], axis=0) if shares is None else shares.argmax(1)
    return Predictions(
        first.evaluator, first.part, None, first.units, first.truth, predicted, shares, first.groups, first.events
    )


def _write(folder: Path, one: Predictions, task: Task, target: str, classes: Sequence[str], truth: bool) -> None:
    make_folder(folder)
    titles = ["PATIENT", *([target] if truth else [])]
    if task == "classification":
        titles += ["pred", *(f"{target}_{name}" for name in classes), *(["loss"] if truth else [])]
    elif task == "regression":
        titles += ["pred", *(["loss"] if truth else [])]
    else:
        titles += [*(["event"] if truth else []), "pred_score"]
    write_table(folder / f"{PREDS}.csv", titles, _rows(one, task, classes, truth))


def _rows(one: Predictions, task: Task, classes: Sequence[str], truth: bool) -> Iterator[list[Any]]:
    """The rows, the largest loss last, as STAMP sorts them."""
    losses = _losses(one, task) if truth else np.zeros(len(one.units))
    for i in np.argsort(losses, kind="stable"):
        row: list[Any] = [one.units[i]]
        if truth:
            row.append(classes[int(one.truth[i])] if classes else repr(float(one.truth[i])))
        if task == "survival":
            assert not truth or one.events is not None
            row += [*([int(one.events[i])] if truth and one.events is not None else []), repr(float(one.predicted[i]))]
        elif task == "regression":
            row += [repr(float(one.predicted[i])), *([repr(float(losses[i]))] if truth else [])]
        else:
            assert one.probabilities is not None
            row += [classes[int(one.predicted[i])], *map(repr, one.probabilities[i].tolist())]
            row += [repr(float(losses[i]))] if truth else []
        yield row


def _losses(one: Predictions, task: Task) -> np.ndarray:
    if task == "classification":
        assert one.probabilities is not None
        return -np.log(np.maximum(one.probabilities[np.arange(len(one.units)), one.truth], TINY))
    return (one.truth - one.predicted) ** 2 if task == "regression" else np.zeros(len(one.units))
