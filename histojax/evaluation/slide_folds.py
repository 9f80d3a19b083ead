"""One fold of the slide protocol: a head is trained, kept, and asked of the test part and of external cohorts.

OUT/heads/MODEL-fold0.safetensors and OUT/folds/MODEL-fold0 (a folder of results, written last) are what a fold leaves.
Where both are there, nothing of it is done again; only cohorts that are new are asked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from histojax.common.errors import UserError
from histojax.common.files import make_folder
from histojax.evaluation.cohort import Cohort, giving
from histojax.evaluation.folds import Fold
from histojax.evaluation.mil.bags import Bag
from histojax.evaluation.mil.fit import fit_head
from histojax.evaluation.mil.head import Head
from histojax.evaluation.mil.head_file import load_head, save_head
from histojax.evaluation.mil.predict import predict
from histojax.evaluation.mil.settings import HeadSettings, TrainSettings
from histojax.evaluation.mil.tasks import Task, probabilities
from histojax.evaluation.results import RESULTS, TEST, Predictions, Results, read_results, write_results

MEAN = "mean"
SLIDES = " slides"  # behind the name of a part: predictions of single slides, where units are slides
Tell = Callable[[int, int, Mapping[str, float]], None]


@dataclass(frozen=True)
class Judge:
    """A cohort whose bags are to be predicted, with the mean tile of each."""

    cohort: Cohort
    means: np.ndarray

    def bags(self, model: str) -> tuple[Bag, ...]:
        """What a model is given: the baseline needs the mean tile alone, which has been read already."""
        if model != MEAN:
            return self.cohort.bags
        rows = enumerate(self.cohort.bags)
        return tuple(Bag(bag.name, giving(self.means[i : i + 1]), 1) for i, bag in rows)

    @property
    def sha256(self) -> str:
        """Of its units and mean tiles: whether stored predictions are of this very cohort."""
        text = "\n".join(self.cohort.units.tolist()).encode("utf-8", "surrogateescape")
        return hashlib.sha256(
            text + self.cohort.sha256.encode() + np.ascontiguousarray(self.means).tobytes()
        ).hexdigest()


@dataclass(frozen=True)
class FoldRun:
    """What one model does in one fold.

    Args:
        out: the folder of the evaluation.
        model, number: of the model and fold.
        fold: the patients of its parts.
        own: the cohort that the fold is of.
        external: other cohorts by name; every fold's model judges all of them.
        facts: of the head, beside its history: what a later user must know.
    """

    out: Path
    model: str
    number: int
    fold: Fold
    own: Judge
    external: Mapping[str, Judge]
    training: TrainSettings
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Of its files."""
        return f"{self.model}-fold{self.number}"

    @property
    def head_path(self) -> Path:
        """Of its trained model."""
        return self.out / "heads" / f"{self.name}.safetensors"

    @property
    def record(self) -> Path:
        """The folder of its predictions; if it is there, the fold is done."""
        return self.out / "folds" / self.name

    def rows(self, part: str) -> np.ndarray:
        """Rows of the cohort that are of the patients of a part."""
        return np.flatnonzero(np.isin(self.own.cohort.patients, getattr(self.fold, part)))

    def is_done(self) -> bool:
        """Whether its head and predictions are there."""
        return (self.record / RESULTS).is_file() and self.head_path.is_file()

    def run(self, progress: Tell | None = None) -> tuple[tuple[Predictions, ...], dict[str, Any]]:
        """(predictions of all parts, facts of the training), stored or made now; raises UserError."""
        stored = read_results(self.record) if self.is_done() else None
        known: dict[str, str] = dict(stored.facts["cohorts"]) if stored else {}
        wanted = {name: judge.sha256 for name, judge in self.external.items()}
        if stored and all(known.get(name) == sha for name, sha in wanted.items()):
            kept = [one for one in stored.predictions if one.part.removesuffix(SLIDES) in {TEST, *wanted}]
            return tuple(kept), dict(stored.facts["head"])
        head = load_head(self.head_path) if stored else self._fit(progress)
        found = self._asked(head, TEST, self.own, self.rows("test"))
        for name, judge in self.external.items():
            found += self._asked(head, name, judge, np.arange(len(judge.cohort.units)))
        facts = {"cohorts": wanted, "head": told_of_head(head)}
        cohort = self.own.cohort
        make_folder(self.record)
        question = cohort.question
        write_results(
            self.record,
            Results(self.name, "slide", question.task, question.target, cohort.classes, tuple(found), (), facts),
        )
        return tuple(found), facts["head"]

    def _fit(self, progress: Tell | None) -> Head:
        cohort = self.own.cohort
        settings = HeadSettings(self.model, inputs=self.own.means.shape[1])  # type: ignore[arg-type]
        facts: dict[str, Any] = {**self.facts, "fold": self.number}
        targets, back = cohort.targets, (0.0, 1.0)
        if cohort.question.task == "regression":
            targets, back = standardised(targets, self.rows("train"))
            facts["target_mean"], facts["target_deviation"] = back
        try:
            head = fit_head(
                self.own.bags(self.model),
                targets,
                self.rows("train"),
                self.rows("validation"),
                cohort.question.task,
                settings,
                self.training,
                cohort.classes,
                facts,
                progress,
            )
        except UserError as error:
            raise UserError(f"fold {self.number}, {self.model}: {error}") from error
        head = in_units(head, *back)
        save_head(self.head_path, head)
        return head

    def _asked(self, head: Head, part: str, judge: Judge, rows: np.ndarray) -> list[Predictions]:
        bags = judge.bags(self.model)
        logits = predict(head, [bags[i] for i in rows])
        return predictions_of(judge.cohort.take(rows), logits, head.task, self.model, part, self.number)


def standardised(targets: np.ndarray, train: np.ndarray) -> tuple[np.ndarray, tuple[float, float]]:
    """(targets with mean 0 and deviation 1 in the training part, (mean, deviation) of it).

    The published learning rate is made for losses of about 1; ages in years would never be reached.
    """
    mean, deviation = float(targets[train].mean()), float(targets[train].std())
    deviation = deviation or 1.0
    return (targets - mean) / deviation, (mean, deviation)


def in_units(head: Head, mean: float, deviation: float) -> Head:
    """A head of standardised targets as one of the targets themselves: its last layer is linear."""
    if (mean, deviation) == (0.0, 1.0):
        return head
    last = head.params["head"]
    kernel, bias = np.asarray(last["kernel"]) * deviation, np.asarray(last["bias"]) * deviation + mean
    params = {**head.params, "head": {"kernel": kernel.astype(np.float32), "bias": bias.astype(np.float32)}}
    return replace(head, params=params)


def told_of_head(head: Head) -> dict[str, Any]:
    """The part of a head's facts that is of its training: history, best step, seconds."""
    return {
        k: v
        for k, v in head.facts.items()
        if k in ("history", "best_step", "positive_weight", "C", "penalty", "seconds")
    }


def predictions_of(
    cohort: Cohort, logits: np.ndarray, task: Task, evaluator: str, part: str, fold: int | None
) -> list[Predictions]:
    """Predictions of the patients, after those of the slides where units are slides.

    Args:
        logits: (n, O) of the cohort's n bags.
    """
    shares = probabilities(logits) if task == "classification" else None
    predicted = shares.argmax(1) if shares is not None else logits[:, 0].astype(np.float64)
    truth, events = cohort.targets, None
    if cohort.targets.ndim == 2:
        truth, events = cohort.targets[:, 0], cohort.targets[:, 1].astype(np.int64)
    groups = cohort.patients if cohort.each else None
    name = part + SLIDES if cohort.each else part
    found = Predictions(evaluator, name, fold, cohort.units, truth, predicted, shares, groups, events)
    return [by_patient(found, part), found] if cohort.each else [found]


def by_patient(slides: Predictions, part: str) -> Predictions:
    """A patient's prediction: the mean over the slides of probabilities, numbers or risks."""
    assert slides.groups is not None
    names, first, inverse = np.unique(slides.groups, return_index=True, return_inverse=True)
    counts = np.bincount(inverse)

    def mean(values: np.ndarray) -> np.ndarray:
        return np.bincount(inverse, weights=values) / counts

    shares = slides.probabilities
    shares = None if shares is None else np.stack([mean(column) for column in shares.T], axis=1)
    predicted = mean(slides.predicted) if shares is None else shares.argmax(1)
    events = None if slides.events is None else slides.events[first]
    return replace(
        slides,
        part=part,
        units=names,
        truth=slides.truth[first],
        predicted=predicted,
        probabilities=shares,
        groups=None,
        events=events,
    )


def histories(facts: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, dict[str, list[list[float]]]]:
    """Curves for the report, {title: {fold: [[step, loss]]}}, of the facts of each model's folds."""
    curves: dict[str, dict[str, list[list[float]]]] = {}
    for model, folds in facts.items():
        for number, told in enumerate(folds):
            looks = [row for row in told.get("history", []) if "validation_loss" in row]
            points = [[row["step"], row["validation_loss"]] for row in looks]
            if points:
                curves.setdefault(f"{model}: validation loss", {})[f"fold {number}"] = points
    return curves
