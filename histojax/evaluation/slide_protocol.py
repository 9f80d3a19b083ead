"""The slide protocol: models of bags, trained and tested in folds of patients, and asked of external cohorts.

Every fold's model judges its own test part and every external cohort; a score is the mean over folds with their
population standard deviation (ddof 0), as in the paper. Killed at any moment, the same call goes on after the last
fold that was finished; several processes that make the same call share the folds.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from histojax.common.errors import UserError
from histojax.common.files import make_folder, read_json, write_atomic
from histojax.common.locks import Lock, try_lock, wait_for_lock
from histojax.evaluation.cohort import Cohort
from histojax.evaluation.folds import Fold, check_classes, make_folds, read_folds, with_validation, write_folds
from histojax.evaluation.intervals import DRAWS, over_folds
from histojax.evaluation.mil.settings import DEFAULTS, TrainSettings
from histojax.evaluation.provenance import encoder_name, features_facts
from histojax.evaluation.results import Predictions, Results, Score
from histojax.evaluation.robustness import NEIGHBOURS, robustness
from histojax.evaluation.slide_folds import MEAN, FoldRun, Judge, histories
from histojax.features.stored import check_mixable

FORMAT = "histojax slide evaluation 1"
PUBLISHED = TrainSettings()
SETTINGS, FOLDS, LOCK = "settings.json", "folds.json", ".lock"
LOOK_AGAIN_SECONDS = 0.5
Tell = Callable[[str, int, int, Mapping[str, float]], None]  # what, steps done of all, all steps, values to show
OF_FEATURES = ("encoder", "weights_sha256", "preprocess_sha256", "width")  # what makes features others


@dataclass(frozen=True)
class SlideSettings:
    """How cohorts are judged.

    Args:
        models: of `mil.settings.DEFAULTS`.
        training: of all but the mean, which is fitted exactly.
        draws: bootstrap draws of an interval; 0: none.
        name: of the features in tables; "": their encoder's.
    """

    models: tuple[str, ...] = (MEAN, "transformer")
    training: TrainSettings = PUBLISHED
    draws: int = DRAWS
    name: str = ""

    def __post_init__(self) -> None:
        for model in self.models:
            if model not in DEFAULTS:
                raise UserError(f"no model of bags is called {model!r}; there are {', '.join(DEFAULTS)}")
        if not self.models or len(set(self.models)) != len(self.models):
            raise UserError(f"expected one or more different models of bags, got {', '.join(self.models) or 'none'}")


def choose_folds(cohort: Cohort, asked: str | int, seed: int = 0) -> tuple[list[Fold], list[str]]:
    """(folds, what has to be said of them): so many as `asked`, or those of the file of that name; raises UserError.

    Classes are stratified by, of survival whether the event happened.
    """
    names, first = np.unique(cohort.patients, return_index=True)
    targets, task = cohort.targets[first], cohort.question.task
    strata = {"classification": lambda: targets, "survival": lambda: targets[:, 1].astype(np.int64)}.get(task)
    labels = None if strata is None else strata()
    by_name = None if labels is None else dict(zip(names.tolist(), labels.tolist()))
    notes: list[str] = []
    if isinstance(asked, int) or asked.isdigit():
        shown = cohort.classes or ("without event", "with event")
        folds = make_folds(names.tolist(), labels, int(asked), seed, shown)
    else:
        folds, notes = read_folds(asked, names.tolist(), cohort.sha256)
        folds = with_validation(folds, by_name, seed)
    if task == "classification" and by_name is not None:
        notes += check_classes(folds, by_name, cohort.classes)
    return folds, notes


def evaluate_slides(
    out: Path,
    own: Judge,
    folds: Sequence[Fold],
    settings: SlideSettings,
    external: Mapping[str, Judge] | None = None,
    facts: Mapping[str, Any] | None = None,
    tell: Tell | None = None,
) -> Results:
    """Scores and predictions of every model; a second call goes on from the heads and predictions that `out` keeps.

    Args:
        own: the cohort that is split.
        external: others by name; classes must be the same.
        facts: go into the results'.
        tell: hears how far the training is.

    Raises:
        UserError: `out` is of other settings; features of different encoders; models that cannot be trained on a fold.
    """
    external = dict(external or {})
    notes = _checked_external(own, external)
    make_folder(out)
    told = _told(own, folds, settings)
    with wait_for_lock(out / LOCK):
        _claim(out, told)
        write_folds(out / FOLDS, folds, own.cohort.sha256, {"target": own.cohort.question.target})
    head_facts = {"question": told["question"], "features": _features(own)}
    runs = [
        FoldRun(out, model, number, fold, own, external, settings.training, head_facts)
        for model in settings.models
        for number, fold in enumerate(folds)
    ]
    predictions, training = _run_all(runs, tell)
    facts = {**(facts or {}), "training": _without_histories(training), "curves": histories(training)}
    facts |= {"notes": [*facts.get("notes", ()), *notes], "settings": {**told, "bootstrap draws": settings.draws}}
    return results_of(own, settings, predictions, facts)


def _run_all(runs: Sequence[FoldRun], tell: Tell | None) -> tuple[list[Predictions], dict[str, list[dict[str, Any]]]]:
    """(all predictions, facts of the training of each model's folds).

    Folds that other processes are at come last: by then they are there, or their process has died.
    """
    sizes = {run.name: _steps(run) for run in runs}
    found: dict[str, tuple[tuple[Predictions, ...], dict[str, Any]]] = {}
    make_folder(runs[0].record.parent)
    for wait in (False, True):
        for run in [run for run in runs if run.name not in found]:
            lock = _lock_of(run, wait)
            if lock is None:
                continue
            with lock:
                found[run.name] = run.run(_heard(run, sizes, list(found), tell))
            if tell:
                tell(run.name, sum(sizes[name] for name in found), sum(sizes.values()), {})
    predictions = [one for run in runs for one in found[run.name][0]]
    training: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        training.setdefault(run.model, []).append(found[run.name][1])
    return predictions, training


def _lock_of(run: FoldRun, wait: bool) -> Lock | None:
    """The lock of a fold; None while another process is at it, unless that is waited for."""
    path = run.record.with_name(f".{run.name}.lock")
    while (lock := try_lock(path)) is None and wait:
        time.sleep(LOOK_AGAIN_SECONDS)
    return lock


def _heard(run: FoldRun, sizes: Mapping[str, int], before: Sequence[str], tell: Tell | None) -> Callable[..., None]:
    """What hears of the steps of a fold and tells those of all."""
    done, total = sum(sizes[name] for name in before), sum(sizes.values())

    def heard(step: int, steps: int, values: Mapping[str, float]) -> None:
        if tell:
            tell(run.name, done + round(sizes[run.name] * step / max(steps, 1)), total, values)

    return heard


def _steps(run: FoldRun) -> int:
    """Weight of a fold in the progress: its training steps, 1 where there are none."""
    return 1 if run.model == MEAN or run.is_done() else run.training.epochs * len(run.rows("train"))


def results_of(
    own: Judge, settings: SlideSettings, predictions: Sequence[Predictions], facts: Mapping[str, Any]
) -> Results:
    """The results of predictions, with scores of each evaluator and part over folds; `facts` are added to."""
    cohort = own.cohort
    question = cohort.question
    scores: list[Score] = []
    for key in dict.fromkeys((one.evaluator, one.part) for one in predictions):
        folds = [one for one in predictions if (one.evaluator, one.part) == key]
        scores += over_folds(folds, question.task, cohort.classes, settings.draws, settings.training.seed)
        scores += at_half(folds, cohort.classes)
    facts = {
        **facts,
        "notes": [*facts.get("notes", ()), *cohort.notes],
        "features": features_facts(cohort.headers),
        "cohort": cohort.summary(),
        **_of_centres(own),
    }
    name = settings.name or encoder_name(cohort.headers)
    return Results(
        name, "slide", question.task, question.target, cohort.classes, tuple(predictions), tuple(scores), facts
    )


def _of_centres(own: Judge) -> dict[str, Any]:
    """{"robustness": what centres do to the mean tiles}, where two or more centres are known; else {}.

    After hours of training nothing that only stands beside the scores may stop: why it cannot be judged is a note.
    """
    cohort = own.cohort
    if cohort.question.task != "classification" or cohort.centres is None or len(set(cohort.centres) - {""}) < 2:
        return {}
    k = max(min(NEIGHBOURS, len(cohort.units) // 10), 1)
    try:
        return {"robustness": robustness(own.means, cohort.targets, cohort.centres, cohort.patients, k)}
    except UserError as error:
        return {"robustness": {"notes": [str(error)]}}


def at_half(folds: Sequence[Predictions], classes: Sequence[str]) -> list[Score]:
    """Of two classes: sensitivity, specificity, precision and F1 of the second at probability 0.5, as the paper's code.

    First the mean over folds with the standard deviation (ddof 0), then each fold; NaN where undefined.
    """
    if len(classes) != 2:
        return []
    rows = [_of_counts(one) for one in folds]
    how = f"at probability 0.5, positive is {classes[1]}"
    scores = []
    for metric in rows[0]:
        known = np.array([row[metric] for row in rows if math.isfinite(row[metric])])
        mean, spread = (float(known.mean()), float(known.std())) if len(known) else (math.nan, math.nan)
        first = folds[0]
        text = f"mean and standard deviation (ddof 0) of {len(known)} folds; {how}"
        scores.append(Score(first.evaluator, first.part, metric, mean, spread=spread, how=text))
        scores += [
            Score(one.evaluator, one.part, metric, row[metric], fold=one.fold, how=how) for one, row in zip(folds, rows)
        ]
    return scores


def _of_counts(one: Predictions) -> dict[str, float]:
    truth, called = one.truth == 1, one.predicted == 1
    hits = int((truth & called).sum())

    def share(part: int, whole: int) -> float:
        return part / whole if whole else math.nan

    return {
        "sensitivity": share(hits, int(truth.sum())),
        "specificity": share(int((~truth & ~called).sum()), int((~truth).sum())),
        "precision": share(hits, int(called.sum())),
        "positive_f1": share(2 * hits, int(truth.sum()) + int(called.sum())),
    }


def _without_histories(training: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    return {
        model: [{key: value for key, value in one.items() if key != "history"} for one in folds]
        for model, folds in training.items()
    }


def _checked_external(own: Judge, external: Mapping[str, Judge]) -> list[str]:
    """Notes of the external cohorts; raises UserError for other encoders and for a name that is taken."""
    notes = []
    for name, judge in external.items():
        if name == "test" or " " in name or not name:
            raise UserError(f"--external {name!r}: expected a name of its own without spaces, for example CPTAC")
        if judge.cohort.each != own.cohort.each:
            raise UserError(f"--external {name}: slides of patients are used in another way than in the own cohort")
        check_mixable([own.cohort.headers[0], judge.cohort.headers[0]])
        notes += [f"{name}: {note}" for note in (*judge.cohort.notes, judge.cohort.summary())]
    return notes


def _features(own: Judge) -> dict[str, Any]:
    """What tells these features from others, for the heads."""
    facts = features_facts(own.cohort.headers)
    return {key: facts[key] for key in OF_FEATURES if key in facts}


def _told(own: Judge, folds: Sequence[Fold], settings: SlideSettings) -> dict[str, Any]:
    """All that decides what a fold's model becomes."""
    cohort = own.cohort
    question = {key: value for key, value in dataclasses.asdict(cohort.question).items() if value}
    return {
        "question": question | {"classes": list(cohort.classes)},
        "slides": cohort.slides,
        "features": _features(own),
        "bags_sha256": own.sha256,
        "training": dataclasses.asdict(settings.training),
        "folds": [[len(fold.train), len(fold.validation), len(fold.test)] for fold in folds],
    }


def _claim(out: Path, told: Mapping[str, Any]) -> None:
    """Writes what the folder is of; raises UserError if it is of something else."""
    path = out / SETTINGS
    wanted = json.loads(json.dumps({"format": FORMAT, **told}))
    if path.is_file():
        found = read_json(path)
        if found != wanted:
            raise UserError(f"{out}: holds an evaluation of other settings ({_first_difference(found, wanted)}); "
                            "choose another --out, or remove that folder")  # fmt: skip
        return
    write_atomic(path, json.dumps(wanted, indent=1) + "\n")


def _first_difference(found: Any, wanted: Any, where: str = "") -> str:
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in [*wanted, *found]:
            if found.get(key) != wanted.get(key):
                return _first_difference(found.get(key), wanted.get(key), f"{where}.{key}" if where else key)
    return f"{where} is {found!r} there and {wanted!r} now"
