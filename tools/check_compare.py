"""How often `histojax compare` calls one of two equal models better: pairs of null runs, a line of JSON a kind.

    python tools/check_compare.py [--pairs 500] [--draws 200]

Each kind draws two models of equal skill whose errors are correlated, as those of two encoders are, and counts the
pairs with a verdict (`claims`, by the main metric) and, for each metric, with p below 0.05 of the test over patients.
`limit` is what a correct test of level 5 % exceeds in 1 of 1,000 such checks. With folds, trainings have luck of their
own, which the tests over patients cannot know of: that is why no verdict rests on them alone there.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from dataclasses import dataclass

import numpy as np
from scipy import stats

from histojax.evaluation.comparison import compare
from histojax.evaluation.pairing import named_runs
from histojax.evaluation.results import Predictions, Results

LUCK, SHARED = 0.25, 0.25  # of training: its spread, and how much of its variance folds of 60/20/20 share
TOLD = ("auroc", "balanced_accuracy", "accuracy")


@dataclass(frozen=True)
class Kind:
    """Two equal runs: `units` test units (a fold), units of a group, classes, share of class 0, folds."""

    name: str
    units: int
    per_group: int = 1
    classes: int = 2
    rare: float = 0.5
    folds: int = 0
    external: bool = False  # every fold's model judges the same units


KINDS = (
    Kind("100 units, 2 classes", 100),
    Kind("110 units, a class of 15 %", 110, rare=0.15),
    Kind("500 units, 9 classes", 500, classes=9),
    Kind("25 slides of 40 tiles, 3 classes", 1000, per_group=40, classes=3),
    Kind("5 folds of 60 patients", 60, rare=0.3, folds=5),
    Kind("5 folds' models on 110 patients elsewhere", 110, rare=0.2, folds=5, external=True),
)


def null_pair(kind: Kind, seed: int) -> list[Results]:
    """Two runs of equal skill: what is hard for one is hard for the other; trainings have luck, which folds share."""
    rng = np.random.default_rng(seed)
    parts: list[list[Predictions]] = [[], []]
    test = None
    shared = rng.normal(size=2)  # luck of the patients that all folds train on
    for fold in range(max(kind.folds, 1)):
        if test is None or not kind.external:
            test = _units(kind, rng, fold)
        truth, names, groups, hard = test
        for model in (0, 1):
            luck = SHARED**0.5 * shared[model] + (1 - SHARED) ** 0.5 * rng.normal()
            skill = 1.0 + LUCK * luck * bool(kind.folds)
            own = rng.normal(size=(len(truth), kind.classes))
            place = np.unique(groups, return_inverse=True)[1]
            own += rng.normal(size=(int(place.max()) + 1, kind.classes))[place] * (kind.per_group > 1)
            logits = skill * np.eye(kind.classes)[truth] + hard + own
            p = np.exp(logits - logits.max(axis=1, keepdims=True))
            p /= p.sum(axis=1, keepdims=True)
            known = groups if kind.per_group > 1 else None
            number = fold if kind.folds else None
            parts[model].append(Predictions("m", "test", number, names, truth, p.argmax(axis=1), p, known))
    classes = tuple(str(c) for c in range(kind.classes))
    return [Results(n, "slide", "classification", "t", classes, tuple(p), ()) for n, p in zip("ab", parts)]


def _units(kind: Kind, rng: np.random.Generator, fold: int) -> tuple[np.ndarray, ...]:
    group = np.arange(kind.units) // kind.per_group
    share = np.r_[kind.rare, np.full(kind.classes - 1, (1 - kind.rare) / (kind.classes - 1))]
    share = share if kind.classes == 2 else np.full(kind.classes, 1 / kind.classes)
    truth = rng.choice(kind.classes, int(group.max()) + 1, p=share)
    truth[: 2 * kind.classes] = np.arange(2 * kind.classes) % kind.classes  # each class at least twice
    names = np.array([f"{fold}-{i}" for i in range(kind.units)])
    hard = rng.normal(size=(kind.units, kind.classes)) + rng.normal(size=(int(group.max()) + 1, kind.classes))[group]
    return truth[group], names, np.array([f"{fold}-{g}" for g in group]), hard


def check(kind: Kind, pairs: int, draws: int) -> dict:
    """The line of one kind."""
    wrong: Counter[str] = Counter()
    start = time.process_time()
    for seed in range(pairs):
        found = compare(named_runs(null_pair(kind, seed)), draws=draws)
        for table in found.tables:
            (pair,) = table.pairs
            if table.main:
                wrong["claims"] += bool(pair.better)
            if table.metric in TOLD:
                wrong[table.metric] += pair.patients.p < 0.05
            if table.metric == "auroc" and pair.folds:
                wrong["folds"] += pair.folds.p < 0.05
    rates = {name: round(wrong[name] / pairs, 3) for name in ("claims", *TOLD, *(["folds"] if kind.folds else []))}
    limit = round(float(stats.binom.ppf(0.999, pairs, 0.05)) / pairs, 3)
    seconds = round(time.process_time() - start, 1)
    return {"kind": kind.name, "pairs": pairs, **rates, "limit": limit, "cpu_seconds": seconds}


def main() -> None:
    """Prints a line a kind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=500)
    parser.add_argument("--draws", type=int, default=200)
    values = parser.parse_args()
    for kind in KINDS:
        print(json.dumps(check(kind, values.pairs, values.draws)), flush=True)


if __name__ == "__main__":
    main()
