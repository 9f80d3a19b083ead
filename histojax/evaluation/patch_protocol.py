"""The patch protocol: fit on the features of labelled tiles, judge on others (Roth, Koch et al. 2023, sec. 4).

20-NN and logistic regression are the paper's; SimpleShot, few-shot and retrieval say how features do with fewer labels
or none. Nothing is chosen by the test tiles: neighbours, penalty and shots are fixed beforehand.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from histojax.common.errors import UserError
from histojax.evaluation import intervals, logistic, prototypes, retrieval
from histojax.evaluation.knn import centre_l2, l2_normalise, nearest, vote_shares
from histojax.evaluation.leakage import Cases
from histojax.evaluation.patch_input import PatchSet, of_one_mind, without_unused
from histojax.evaluation.provenance import encoder_name, features_facts
from histojax.evaluation.results import TEST, Predictions, Results
from histojax.evaluation.robustness import robustness

SHOTS = (1, 2, 4, 8, 16)
DISTANCES: dict[str, Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]] = {
    "raw": lambda train, test: (train, test),
    "centred": centre_l2,  # UNI's protocol
    "cosine": lambda train, test: (l2_normalise(train), l2_normalise(test)),
}


@dataclass(frozen=True)
class PatchSettings:
    """What is measured.

    Args:
        k: neighbours that vote.
        distances: keys of DISTANCES, each an evaluator of its own.
        c: inverse penalty of the logistic regression as scikit-learn's; None: width * classes / 100.
        iterations: at most so many of it.
        shots: tiles a class of the few-shot evaluation; () for none.
        few_draws: random choices of these.
        draws: of the bootstrap; 0 for no intervals.
        seed: of all random choices.
    """

    k: int = 20
    distances: tuple[str, ...] = ("raw",)
    c: float | None = None
    iterations: int = 1000
    shots: tuple[int, ...] = SHOTS
    few_draws: int = 20
    draws: int = 1000
    seed: int = 0


@dataclass(frozen=True)
class Judged:
    """An evaluation with what its pictures need: the tiles, and the training rows (n, k) next to each test tile."""

    results: Results
    train: PatchSet
    test: PatchSet
    neighbours: np.ndarray


def evaluate_patch(
    train: PatchSet, test: PatchSet, settings: PatchSettings = PatchSettings(), name: str = "", say: Callable = print
) -> Judged:
    """The scores of features on `test` after fitting on `train`, with bootstrap intervals.

    Patients or slides are resampled where the test tiles know theirs, else tiles. Raises UserError for sets that do
    not fit each other (see `of_one_mind`), and for one class.
    """
    train, test = of_one_mind(train, test)
    _check(train, test, settings)
    say(f"{settings.k} nearest neighbours: {len(test)} tiles against {len(train)} x {train.features.shape[1]}")
    found, neighbours = _by_neighbours(train, test, settings)
    say("logistic regression")
    fitted = logistic.fit_logistic(
        train.features, train.labels, len(train.classes), settings.c, iterations=settings.iterations
    )
    found.append(_said("logistic", test, fitted.probabilities(test.features)))
    simple = prototypes.simpleshot(train.features, train.labels, test.features, len(train.classes))
    found.append(dataclasses.replace(_said("simpleshot", test, simple), probabilities=None))
    say("intervals")
    scores = [
        s
        for one in found
        for s in intervals.scored(one, "classification", train.classes, settings.draws, settings.seed)
    ]
    facts = _facts(train, test, settings, fitted)
    facts["retrieval"] = retrieval.retrieve(train.features, train.labels, test.features, test.labels)
    if settings.shots:
        say("few-shot")
        facts["few_shot"] = prototypes.few_shot(
            train.features,
            train.labels,
            test.features,
            test.labels,
            settings.shots,
            settings.few_draws,
            settings.seed,
            train.groups,
        )
    if test.centres is not None and len(set(test.centres) - {""}) > 1:
        facts["robustness"] = robustness(test.features, test.labels, test.centres, test.groups)
    name = name or encoder_name(train.headers)
    results = Results(name, "patch", "classification", "label", train.classes, tuple(found), tuple(scores), facts)
    return Judged(results, train, test, neighbours)


def hold_out(one: PatchSet, share: float, seed: int = 0) -> tuple[PatchSet, PatchSet, str]:
    """(train, test, how in words): about `share` of the tiles, class by class; whole patients or slides if known.

    Raises UserError where there are too few of them.
    """
    parts = round(1 / share)
    groups = np.arange(len(one)).astype(str) if one.groups is None else one.groups.astype(str)
    alone = groups == ""
    groups = np.where(alone, np.char.add("tile ", np.arange(len(one)).astype(str)), groups)
    if len(np.unique(groups)) < max(parts, 2):
        raise UserError(
            f"{one.where}: {len(np.unique(groups))} {one.group_kind or 'tile'}s do not split into {parts} parts"
        )
    splitter = StratifiedGroupKFold(max(parts, 2), shuffle=True, random_state=seed)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a class with fewer tiles than parts: seen to below
            splits = list(splitter.split(one.features, one.labels, groups))
    except ValueError as error:
        raise UserError(f"{one.where}: no class has the {parts} tiles that it takes to hold one out") from error
    # a class must not lie in the test alone; the part that has the most classes is the best to judge on
    splits = [(a, b) for a, b in splits if set(one.labels[a]) >= set(one.labels[b])]
    if not splits:
        raise UserError(f"{one.where}: too few {one.group_kind or 'tile'}s of a class to hold any out; give --test")
    train, test = max(splits, key=lambda split: len(set(one.labels[split[1]])))  # the first of equals
    kind = "tile (patients unknown: one may be on both sides)" if one.groups is None else one.group_kind or "group"
    how = f"1 part in {max(parts, 2)} held out by {kind}, seed {seed}"
    return without_unused(one.take(train)), without_unused(one.take(test)), how


def cases_of(name: str, one: PatchSet) -> Cases:
    """What a set is made of, to look for leaks."""
    units = [] if one.groups is None else sorted(set(one.groups.tolist()) - {""})
    patients, slides = (units, []) if one.group_kind in ("patient", "group", "") else ([], units)
    return Cases(name, patients, slides, one.hashes, one.features, one.names)


def _check(train: PatchSet, test: PatchSet, settings: PatchSettings) -> None:
    if len(train.classes) < 2:
        raise UserError(f"{train.where}: all tiles are of the class {train.classes[0]}; two classes are needed")
    if settings.k > len(train):
        raise UserError(f"--k {settings.k}: {train.where} has {len(train)} tiles; give a smaller number")
    for distance in settings.distances:
        if distance not in DISTANCES:
            raise UserError(f"--knn {distance}: expected one or more of {', '.join(DISTANCES)}")


def _by_neighbours(train: PatchSet, test: PatchSet, settings: PatchSettings) -> tuple[list[Predictions], np.ndarray]:
    """The votes by each distance, and the neighbours by the first."""
    found, first = [], None
    for distance in settings.distances:
        fit, queries = DISTANCES[distance](train.features, test.features)
        _, rows = nearest(fit, queries, settings.k)
        first = rows if first is None else first
        shares = vote_shares(train.labels[rows], np.full(rows.shape, 1 / settings.k), len(train.classes))
        found.append(_said("knn" if distance == "raw" else f"knn_{distance}", test, shares))
    assert first is not None
    return found, first


def _said(evaluator: str, test: PatchSet, shares: np.ndarray) -> Predictions:
    groups = None if test.groups is None else test.groups
    called = shares.argmax(axis=1)
    return Predictions(evaluator, TEST, None, test.names, test.labels, called, shares, groups)


def _facts(train: PatchSet, test: PatchSet, settings: PatchSettings, fitted: logistic.Logistic) -> dict[str, Any]:
    return {
        "settings": dataclasses.asdict(settings),
        "train": _told(train),
        "test": _told(test),
        "features": {"train": features_facts(train.headers), "test": features_facts(test.headers)},
        "logistic": {k: v for k, v in vars(fitted).items() if isinstance(v, int | float | bool)},
        "notes": list(dict.fromkeys((*train.notes, *test.notes))),
    }


def _told(one: PatchSet) -> dict[str, Any]:
    groups = None if one.groups is None else len(set(one.groups.tolist()) - {""})
    return {
        "where": one.where,
        "tiles": len(one),
        "classes": one.counts(),
        "groups": groups,
        "group_kind": one.group_kind if groups else "",
        "left_out": dict(one.left_out),
    }
