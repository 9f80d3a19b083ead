"""Do two samples have one source? Each test gives what it measured and the limit that chance stays below.

The limits are so wide that a right program fails a test in one of 100,000 golden sets: dozens of tests run on each.
"""

from __future__ import annotations

import numpy as np
from scipy import stats

CHANCE = 1e-5


def kolmogorov_smirnov(values: np.ndarray, quantiles: np.ndarray, recorded: int) -> tuple[float, float]:
    """Distance of a sample to evenly spaced quantiles of another one of `recorded` values; values may repeat."""
    levels = np.linspace(0, 1, len(quantiles))
    below, upto = (np.searchsorted(np.sort(values), quantiles, side) / len(values) for side in ("left", "right"))
    distance = np.maximum(levels - upto, below - levels)[1:-1].max()
    return float(distance), float(np.sqrt(-np.log(CHANCE / 2) / 2 * (1 / recorded + 1 / len(values))))


def chi_square(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Chi-square of two histograms; rare bins are joined."""
    table = np.stack([a, b]).astype(float)
    rare = table.sum(0) < 16
    table = np.column_stack([table[:, ~rare], table[:, rare].sum(1)])
    table = table[:, table.sum(0) > 0]
    if table.shape[1] < 2:
        return 0.0, 1.0
    result = stats.chi2_contingency(table)
    return float(result.statistic), float(stats.chi2.isf(CHANCE, result.dof))


def counts_gap(ours: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
    """Sum of squared gaps between how often things happened in as many draws: ours (draws, things), and `counts`.

    What happens together in a draw counts less than what happens alone (Satterthwaite's degrees of freedom).
    """
    share = (ours.sum(0) + counts) / (2 * len(ours))
    varying = (ours.std(0) > 0) & (share > 0) & (share < 1)
    never = float(np.abs(ours.sum(0) - counts)[~varying].sum())  # where ours is the same in each draw
    if varying.sum() < 2:
        return never, 4.0
    share, gap = share[varying], (ours.sum(0) - counts)[varying]
    total = float((gap**2 / (2 * len(ours) * share * (1 - share))).sum())
    together = float((np.corrcoef(ours[:, varying].T.astype(np.float64)) ** 2).sum())
    scale = together / varying.sum()
    return total + never, float(scale * stats.chi2.isf(CHANCE, varying.sum() / scale))


def mean_gap(ours: np.ndarray, mean: float, spread: float, recorded: int, tests: int = 1) -> tuple[float, float]:
    """Gap of two means in standard errors, against that of Welch's t-test; `tests` are made of one kind."""
    parts = ours.var() / len(ours), spread**2 / recorded
    error = sum(parts) ** 0.5
    gap = abs(ours.mean() - mean)
    rounding = 1e-5 * abs(mean) + 1e-12
    if error <= rounding:  # constants
        return float(gap / rounding), 1.0
    freedom = error**4 / sum(p**2 / (n - 1) for p, n in zip(parts, (len(ours), recorded)))
    return float(gap / error), float(stats.t.isf(CHANCE / 2 / tests, freedom))


def spread_gap(ours: np.ndarray, spread: float, recorded: int, tests: int = 1) -> tuple[float, float]:
    """Gap of two standard deviations in standard errors of their logarithm."""
    kurtosis = stats.kurtosis(ours, fisher=False)
    error = np.sqrt((kurtosis - 1) / 4 * (1 / len(ours) + 1 / recorded))
    return float(abs(np.log(ours.std() / spread)) / error), float(stats.norm.isf(CHANCE / 2 / tests))


def share_gap(ours: float, draws: int, share: float, recorded: int, tests: int = 1) -> tuple[float, float]:
    """Gap of two shares: how unlikely the recorded one is, in powers of ten, against the least likely one allowed."""
    hits, theirs = round(ours * draws), round(share * recorded)
    return rarity(theirs, hits + theirs, recorded / (recorded + draws)), rarest(tests)


def rarity(hits: int, total: int, share: float) -> float:
    """How unlikely so many hits, or a rarer number, are among `total` of `share` each: in powers of ten."""
    low, high = stats.binom.cdf(hits, total, share), stats.binom.sf(hits - 1, total, share)
    return float(-np.log10(np.clip(2 * min(low, high), 1e-300, 1.0))) + 0.0


def rarest(tests: int = 1) -> float:
    """The rarity that chance stays below in so many tests of one kind."""
    return float(-np.log10(CHANCE / tests))


def denominator(shares: list[float], most: int = 100_000) -> int:
    """The smallest number of draws of which all these are shares: at least so many were recorded."""
    whole = np.arange(1, most)[:, None] * np.asarray(shares)
    fits = (np.abs(whole - np.round(whole)) < 1e-6).all(1)
    return int(np.argmax(fits)) + 1 if fits.any() else most
