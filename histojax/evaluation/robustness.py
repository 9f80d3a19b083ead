"""How much features tell of the centre or scanner, where they should tell of the tissue.

Two numbers beside every accuracy. How well the centre can be predicted (hospitals are told from features of published
encoders in 88 to 98 % of cases). And the robustness index of PathoROB (Koemen et al. 2025): among a unit's nearest
neighbours, those of its class from another centre, against those of another class from its own centre. 1: tissue alone
decides who is near; 0: the centre does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from histojax.common.errors import UserError
from histojax.evaluation.checks import checked_features, checked_labels
from histojax.evaluation.knn import l2_normalise
from histojax.evaluation.metrics import balanced_accuracy
from histojax.evaluation.probe import fit_ridge

NEIGHBOURS, FOLDS = 20, 5
MOST = 20_000  # units that are looked at: a subset of more, by chance
QUERIES = 1024  # at a time


def robustness(
    features: np.ndarray,
    labels: np.ndarray,
    centres: np.ndarray,
    groups: np.ndarray | None = None,
    k: int = NEIGHBOURS,
    seed: int = 0,
) -> dict[str, Any]:
    """What centres do to features, as JSON for Results.facts["robustness"].

    Args:
        features: (n, d).
        labels: (n,) classes from 0; -1 (unlabelled) is left out.
        centres: (n,) str, "" (unknown) is left out.
        groups: (n,) str, patient or slide, "" unknown: a unit's own group is no neighbour of it, and the centre is
            predicted for groups that were not fitted on.
        k: neighbours, by cosine.

    Returns:
        centres {name: units}, units, k, index (None where no neighbour decides), index_by_chance (of neighbours drawn
        blindly), centre_accuracy (balanced, None where it cannot be judged), centre_chance, association (Cramer's V of
        class and centre: 0 independent, 1 one tells the other), notes (sentences).
    """
    features = checked_features("robustness", features)
    labels, centres = np.asarray(labels), np.asarray(centres).astype(str)
    known, notes = _looked_at(labels, centres, seed)
    names, place = np.unique(centres[known], return_inverse=True)
    if len(names) < 2:
        raise UserError(f"robustness: {len(names)} centre is known ({', '.join(names)}); it takes two or more")
    x, y = features[known], checked_labels(labels[known], len(known))[0]
    who = _groups(groups, known)
    index, chance = _index(x, y, place, who, k)
    accuracy, said = _centre_accuracy(x, place, who, groups is not None, seed)
    association = _association(y, place)
    if association > 0.5:
        notes.append(
            f"class and centre go together (Cramer's V {association:.2f}): what tells one tells the other, read both "
            "numbers with care"
        )
    return {
        "centres": dict(zip(names.tolist(), np.bincount(place).tolist())),
        "units": len(known),
        "k": k,
        "index": index,
        "index_by_chance": chance,
        "centre_accuracy": accuracy,
        "centre_chance": 1 / len(names),
        "association": association,
        "notes": notes + said,
    }


def sentences(found: Mapping[str, Any]) -> list[str]:
    """What `robustness` found, in words."""

    def shown(value: float | None) -> str:
        return "cannot be judged" if value is None else f"{value:.3f}"

    return [
        f"centre predicted from the features: balanced accuracy {shown(found['centre_accuracy'])} "
        f"(chance {found['centre_chance']:.3f}, {len(found['centres'])} centres)",
        f"robustness index of {found['k']} neighbours: {shown(found['index'])} "
        f"(blind neighbours {shown(found['index_by_chance'])}; 1: the class decides who is near, 0: the centre)",
        *found["notes"],
    ]


def _looked_at(labels: np.ndarray, centres: np.ndarray, seed: int) -> tuple[np.ndarray, list[str]]:
    """(rows, what was left out in words)."""
    known, count = np.flatnonzero((labels >= 0) & (centres != "")), len(labels)
    notes = []
    if len(known) < count:
        notes.append(f"{count - len(known)} of {count} units without class or centre are left out")
    if len(known) > MOST:
        notes.append(f"of {len(known)} units {MOST} were looked at, chosen by chance")
        known = np.sort(np.random.default_rng(seed).choice(known, MOST, replace=False))
    return known, notes


def _groups(groups: np.ndarray | None, known: np.ndarray) -> np.ndarray:
    """(n,) int64 number of each unit's group; one without a group is its own."""
    if groups is None:
        return np.arange(len(known))
    names = np.asarray(groups).astype(str)[known]
    alone = np.char.add("unit ", np.arange(len(known)).astype(str))
    return np.unique(np.where(names == "", alone, names), return_inverse=True)[1]


def _index(
    x: np.ndarray, labels: np.ndarray, centres: np.ndarray, groups: np.ndarray, k: int
) -> tuple[float | None, float | None]:
    """(robustness index, what blind neighbours give), over all units."""
    unit = l2_normalise(x)
    good = bad = 0
    blind_good = blind_bad = 0.0
    for start in range(0, len(unit), QUERIES):
        rows = np.arange(start, min(start + QUERIES, len(unit)))
        similar = unit[rows] @ unit.T
        other = groups[rows, None] != groups
        similar[~other] = -np.inf
        near = np.argpartition(-similar, min(k, len(unit) - 1) - 1, axis=1)[:, :k]
        there = np.take_along_axis(other, near, axis=1)
        class_of, centre_of = labels[near] == labels[rows, None], centres[near] == centres[rows, None]
        good += int((there & class_of & ~centre_of).sum())
        bad += int((there & ~class_of & centre_of).sum())
        same_class, same_centre = labels[rows, None] == labels, centres[rows, None] == centres
        some = np.maximum(other.sum(axis=1), 1)
        blind_good += float(((other & same_class & ~same_centre).sum(axis=1) / some).sum())
        blind_bad += float(((other & ~same_class & same_centre).sum(axis=1) / some).sum())
    return _share(good, bad), _share(blind_good, blind_bad)


def _share(good: float, bad: float) -> float | None:
    return float(good / (good + bad)) if good + bad else None


def _centre_accuracy(
    x: np.ndarray, centres: np.ndarray, groups: np.ndarray, grouped: bool, seed: int
) -> tuple[float | None, list[str]]:
    """(balanced accuracy of a ridge probe on groups that it has not seen, what has to be said)."""
    from sklearn.model_selection import StratifiedGroupKFold

    per_centre = [len(np.unique(groups[centres == c])) for c in range(int(centres.max()) + 1)]
    few = min(per_centre)
    if few < 2:
        lonely = sum(count < 2 for count in per_centre)
        return None, [f"{lonely} centres have one patient or slide: whether the centre shows cannot be told from that"]
    notes = [] if grouped else ["patients and slides are unknown: a slide that is known again looks like a centre"]
    folds = StratifiedGroupKFold(min(FOLDS, few), shuffle=True, random_state=seed)
    called = np.zeros(len(x), np.int64)
    for train, test in folds.split(x, centres, groups):
        called[test] = fit_ridge(x[train], centres[train], classes=len(per_centre)).predict(x[test])
    return balanced_accuracy(centres, called), notes


def _association(labels: np.ndarray, centres: np.ndarray) -> float:
    """Cramer's V of two classifications; 0 where one of them is constant."""
    table = np.zeros((int(labels.max()) + 1, int(centres.max()) + 1))
    np.add.at(table, (labels, centres), 1)
    table = table[table.sum(axis=1) > 0][:, table.sum(axis=0) > 0]
    if min(table.shape) < 2:
        return 0.0
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / table.sum()
    return float(np.sqrt(((table - expected) ** 2 / expected).sum() / table.sum() / (min(table.shape) - 1)))
