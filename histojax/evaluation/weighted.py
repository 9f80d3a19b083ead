"""Scores of many resamples of the same rows at once, for bootstrap intervals.

Each function looks at n rows once and returns a scorer: weights (b, n) -> {metric: (b,) float64}. A weight says how
often a row was drawn, so that a row of ones gives the plain score and the counts of a bootstrap draw give, exactly,
the score of the drawn rows. NaN stands where a score is undefined (one class alone, no comparable pair ...).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from scipy import sparse

Scorer = Callable[[np.ndarray], dict[str, np.ndarray]]
CALIBRATION_BINS = 15  # of equal width, as Guo et al. 2017
AT_ONCE = 1 << 22  # entries of a temporary array: 32 MB


def classification_scorer(
    truth: np.ndarray, predicted: np.ndarray, probabilities: np.ndarray | None = None, classes: int = 0
) -> Scorer:
    """Scorer of what `metrics.classification_scores` returns; same arguments, checked there."""
    classes = classes or int(max(truth.max(initial=0), predicted.max(initial=0))) + 1
    cells = _one_hot(truth * classes + predicted, classes * classes)
    ranking = _auroc(truth, probabilities, classes) if probabilities is not None else None

    def score(weights: np.ndarray) -> dict[str, np.ndarray]:
        with np.errstate(divide="ignore", invalid="ignore"):
            confusion = (cells.T @ weights.T).T.reshape(-1, classes, classes)
            found = _of_confusion(confusion)
            if probabilities is not None and ranking is not None:
                found |= ranking(weights) | _calibration(truth, probabilities, weights)
        return found

    return score


def regression_scorer(truth: np.ndarray, predicted: np.ndarray) -> Scorer:
    """Scorer of r2, mae, pearson and spearman (equal values share their mean rank) of (n,) float64."""
    centre = truth.mean() if len(truth) else 0.0  # a far origin costs digits
    truth, predicted = truth - centre, predicted - centre
    ranks = [_ranks(x) for x in (truth, predicted)]

    def score(weights: np.ndarray) -> dict[str, np.ndarray]:
        with np.errstate(divide="ignore", invalid="ignore"):
            total = weights.sum(axis=1)
            square = weights @ (truth - predicted) ** 2
            rows = np.broadcast_to(truth, (1, len(truth))), np.broadcast_to(predicted, (1, len(truth)))
            return {
                "r2": 1 - square / _variance(weights, rows[0]),
                "mae": weights @ np.abs(truth - predicted) / total,
                "pearson": _correlation(weights, *rows),
                "spearman": np.concatenate(
                    [_correlation(w, *(rank(w) for rank in ranks)) for w in _slices(weights, len(truth))]
                ),
            }

    return score


def survival_scorer(time: np.ndarray, event: np.ndarray, risk: np.ndarray) -> Scorer:
    """Scorer of concordance: Harrell's C, see `metrics.survival_scores`."""
    dead = np.flatnonzero(event)
    step = max(AT_ONCE // max(len(time), 1), 1)

    def score(weights: np.ndarray) -> dict[str, np.ndarray]:
        right, pairs = np.zeros(len(weights)), np.zeros(len(weights))
        for start in range(0, len(dead), step):
            rows = dead[start : start + step]
            own, others = time[rows, None], time[None]
            outlived = ((own < others) | ((own == others) & ~event[None].astype(bool))).astype(float)  # (rows, n)
            higher = (risk[rows, None] > risk) + 0.5 * (risk[rows, None] == risk)
            pairs += np.einsum("br,br->b", weights @ outlived.T, weights[:, rows])
            right += np.einsum("br,br->b", weights @ (outlived * higher).T, weights[:, rows])
        with np.errstate(invalid="ignore"):
            return {"concordance": right / pairs}

    return score


def _of_confusion(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """Scores (b,) of confusion matrices (b, C, C): how often class `row` was called class `column`."""
    support, called = confusion.sum(axis=2), confusion.sum(axis=1)  # (b, C)
    hits, total = np.einsum("bcc->bc", confusion), confusion.sum(axis=(1, 2))
    both = support + called
    f1 = np.where(both > 0, 2 * hits / both, 0.0)
    expected = support[:, :, None] * called[:, None] / total[:, None, None]
    apart = np.subtract.outer(np.arange(confusion.shape[1]), np.arange(confusion.shape[1])) ** 2.0

    def kappa(cost: np.ndarray) -> np.ndarray:
        return 1 - np.einsum("bij,ij->b", confusion, cost) / np.einsum("bij,ij->b", expected, cost)

    return {
        "accuracy": hits.sum(axis=1) / total,
        "balanced_accuracy": _mean_where(hits / support, support > 0),
        "weighted_f1": (f1 * support).sum(axis=1) / total,
        "macro_f1": _mean_where(f1, both > 0),
        "kappa": kappa((apart > 0).astype(float)),
        "quadratic_kappa": kappa(apart),
    }


def _calibration(truth: np.ndarray, p: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Expected calibration error of the largest probability, Brier score and logarithmic loss."""
    total, rows = weights.sum(axis=1), np.arange(len(truth))
    confidence, right = p.max(axis=1, initial=0.0), (p.argmax(axis=1) == truth).astype(float)
    bins = np.clip(np.ceil(confidence * CALIBRATION_BINS).astype(int) - 1, 0, CALIBRATION_BINS - 1)
    gap = sparse.diags(right - confidence) @ _one_hot(bins, CALIBRATION_BINS)
    square = (p**2).sum(axis=1) - 2 * p[rows, truth] + 1
    own = np.clip(p[rows, truth], np.finfo(p.dtype).eps, 1)
    return {
        "ece": np.abs(gap.T @ weights.T).sum(axis=0) / total,
        "brier": weights @ square / total / (2 if p.shape[1] == 2 else 1),
        "log_loss": weights @ -np.log(own) / total,
    }


def _auroc(truth: np.ndarray, p: np.ndarray, classes: int) -> Scorer:
    """Scorer of auroc: of two classes by the second's probability, of more the mean over pairs of classes that
    occur, each pair judged by the probability of either (Hand & Till 2001; scikit-learn's macro average of "ovo")."""
    tables = [_standings(truth, p[:, c], c, classes) for c in (range(classes) if classes != 2 else [1])]

    def score(weights: np.ndarray) -> dict[str, np.ndarray]:
        return {"auroc": np.concatenate([_mean_auc(tables, w) for w in _slices(weights, len(truth) * classes)])}

    return score


def _standings(truth: np.ndarray, p: np.ndarray, own: int, classes: int) -> tuple[np.ndarray, ...]:
    """Rows of class `own`; all others class by class, each by rising p; where each class starts among them (C - 1,);
    and for each own row how many of them lie before its equals, and before those above it: (n_own, C - 1) each."""
    mine, others = np.flatnonzero(truth == own), [c for c in range(classes) if c != own]
    sorted_rows = [rows[np.argsort(p[rows], kind="stable")] for rows in (np.flatnonzero(truth == c) for c in others)]
    starts = np.cumsum([0, *map(len, sorted_rows)])
    ends = [[np.searchsorted(p[rows], p[mine], side) for rows in sorted_rows] for side in ("left", "right")]
    low, high = (np.array(end, np.int64).reshape(len(others), len(mine)).T + starts[:-1] for end in ends)
    return mine, np.concatenate([*sorted_rows, np.zeros(0, np.int64)]).astype(np.int64), starts, low, high


def _mean_auc(tables: list[tuple[np.ndarray, ...]], weights: np.ndarray) -> np.ndarray:
    """(b,): mean area over the ordered pairs of classes that both have weight."""
    areas = []
    for mine, others, starts, low, high in tables:
        before = np.concatenate([np.zeros((len(weights), 1)), np.cumsum(weights[:, others], axis=1)], axis=1)
        own = weights[:, mine]
        won = (np.einsum("br,brc->bc", own, before[:, low]) + np.einsum("br,brc->bc", own, before[:, high])) / 2
        total = own.sum(axis=1, keepdims=True)
        won -= total * before[:, starts[:-1]]
        areas.append(won / (total * np.diff(before[:, starts], axis=1)))  # (b, C - 1)
    every = np.concatenate(areas, axis=1) if areas else np.zeros((len(weights), 0))
    return _mean_where(every, np.isfinite(every))


def _ranks(x: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Weights (b, n) -> ranks (b, n) of x among the drawn rows, less 1/2; equal values share their mean rank."""
    values, which = np.unique(x, return_inverse=True)
    member = _one_hot(which, len(values))

    def rank(weights: np.ndarray) -> np.ndarray:
        drawn = (member.T @ weights.T).T
        return (np.cumsum(drawn, axis=1) - drawn / 2)[:, which]

    return rank


def _correlation(weights: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Weighted Pearson correlation (b,) of a, b: (b or 1, n)."""
    total = weights.sum(axis=1)
    a, b = (x - ((weights * x).sum(axis=1) / total)[:, None] for x in (a, b))
    together = np.einsum("bn,bn,bn->b", weights, a, b)
    return together / np.sqrt(_variance(weights, a) * _variance(weights, b))


def _variance(weights: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Weighted sum of squares about the mean (b,) of x (b or 1, n); NaN where it is nothing but rounding."""
    mean = (weights * x).sum(axis=1) / weights.sum(axis=1)
    found = np.einsum("bn,bn->b", weights, (x - mean[:, None]) ** 2)
    level = np.einsum("bn,bn->b", weights, np.broadcast_to(x**2, weights.shape))
    return np.where(found > 1e-24 * level, found, np.nan)


def _mean_where(x: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Means (b,) of the chosen entries of (b, m); NaN where none is chosen."""
    return np.where(where, x, 0.0).sum(axis=1) / where.sum(axis=1)


def _one_hot(columns: np.ndarray, width: int) -> sparse.csr_matrix:
    """(n, width) with a one in the column of each row."""
    n = len(columns)
    return sparse.csr_matrix((np.ones(n), columns, np.arange(n + 1)), shape=(n, width))


def _slices(weights: np.ndarray, entries: int) -> Iterator[np.ndarray]:
    """Weights in slices that make temporary arrays of `entries` numbers a row fit; one slice at least."""
    step = max(AT_ONCE // max(entries, 1), 1)
    yield from (weights[i : i + step] for i in range(0, max(len(weights), 1), step))
