"""Minimiser of a penalised softmax regression: Newton steps whose curvature is read off a sample of the rows.

Each step takes the exact gradient over all rows, in two skinny products a block. Its direction solves, by conjugate
gradients, a Newton system of some rows drawn with a chance that rises with their curvature 1 - sum p^2 and weighted
by its inverse (Xu et al. 2016, non-uniform sub-sampling; Byrd et al. 2011): most tiles are soon sure and curve
nothing. The system is preconditioned by the Gram matrix of some of the sampled rows (after Boehning 1992). Products
are float32 on the device, sums over blocks float64; once a step promises less than float32 losses resolve, objective
and gradient are taken in float64 on the host, so that the answer is the minimum and not float32's idea of it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike
from scipy.linalg import lapack
from threadpoolctl import threadpool_limits

BLOCK = 8192  # rows of a product
ROWS_A_FEATURE, FEWEST_ROWS = 16, 20_000  # sampled for the curvature
GRAM_ROWS_A_FEATURE = 4  # of those, for the preconditioner
CG_STEPS = 80
LOOSE, TIGHT = 1e-6, 1e-15  # share of the objective that float32 and float64 sums over rows can tell
SMALL = 1 << 21  # numbers in x: no more are summed in float64 from the start
SHORTEST = 2.0**-12  # of a Newton step: nothing is gained below


@dataclass(frozen=True)
class Minimum:
    """Coefficients of the standardised columns z = (x - mean) / scale, the last row the intercept, and how good
    they are: `gradient_norm` is the largest entry of the gradient by x's own coefficients, over n."""

    coefficients: np.ndarray  # (d + 1, K) float64
    objective: float
    gradient_norm: float
    iterations: int
    converged: bool


@dataclass(frozen=True)
class Problem:
    """sum_i CE_i + 1/2 sum_j penalty |W_j|^2 of rows x (n, d) float32, labels (n,) from 0 to K - 1.

    `pinned`: class 0 has no coefficients (K = 2: the logistic regression of one weight row); else each class has.
    """

    x: np.ndarray
    labels: np.ndarray
    classes: int
    penalty: float
    mean: np.ndarray  # (d,) float64
    scale: np.ndarray  # (d,) float64
    pinned: bool

    @property
    def penalties(self) -> np.ndarray:
        """(d + 1, 1), of the standardised coefficients."""
        return np.append(self.penalty / self.scale**2, 0.0)[:, None]

    @property
    def free(self) -> np.ndarray:
        """(K, K): projection on the coefficients that may move; without a pinned class their sum over classes
        changes no probability and is 0 at the minimum."""
        return np.diag([0.0, 1.0]) if self.pinned else np.eye(self.classes) - 1 / self.classes

    def rows(self, which: slice | np.ndarray, dtype: type = np.float32) -> np.ndarray:
        """Standardised rows."""
        return (self.x[which] - self.mean.astype(dtype)) / self.scale.astype(dtype)

    def gradient_norm(self, gradient: np.ndarray) -> float:
        """Of the gradient (d + 1, K) by the standardised coefficients."""
        own = gradient[:-1] * self.scale[:, None] + self.mean[:, None] * gradient[-1]
        return float(max(np.abs(own).max(), np.abs(gradient[-1]).max())) / len(self.x)


@dataclass(frozen=True)
class Point:
    """The objective at some coefficients, its gradient (d + 1, K) float64 and the class probabilities (n, K)."""

    objective: float
    gradient: np.ndarray
    probabilities: np.ndarray


Evaluate = Callable[[np.ndarray], Point]


def minimise(problem: Problem, iterations: int, tolerance: float) -> Minimum:
    """The minimum, from a start at 0; `converged` if `gradient_norm` came down to `tolerance` in float64."""
    v = np.zeros((len(problem.scale) + 1, problem.classes))
    curvature, count = _Curvature(problem), 0
    phases: list[tuple[Evaluate, float]] = [(functools.partial(_on_host, problem), TIGHT)]
    if problem.x.size > SMALL:
        phases.insert(0, (_on_device(problem), LOOSE))
    for evaluate, resolution in phases:
        v, point, steps = _descend(problem, evaluate, curvature, v, iterations - count, tolerance, resolution)
        count += steps
    norm = problem.gradient_norm(point.gradient)
    return Minimum(v, point.objective, norm, count, norm <= tolerance)


def _descend(
    problem: Problem,
    evaluate: Evaluate,
    curvature: _Curvature,
    v: np.ndarray,
    iterations: int,
    tolerance: float,
    resolution: float,
) -> tuple[np.ndarray, Point, int]:
    """Where Newton steps lead until the gradient is small, the evaluation tells no more, or `iterations` are spent;
    the point there; and how many steps were taken."""
    point = evaluate(v)
    for count in range(iterations):
        norm = problem.gradient_norm(point.gradient)
        if norm <= tolerance:
            return v, point, count
        step = curvature.direction(point, forcing=min(0.1, max(100 * tolerance / norm, 0.01)))
        slope = float((point.gradient * step).sum())
        noise = resolution * abs(point.objective)
        if -slope / 2 > noise:
            found = _search(evaluate, v, step, point.objective + noise, slope)
        else:  # the objective no longer tells a good step from a bad one, the gradient still does
            found = v + step, evaluate(v + step)
            found = found if problem.gradient_norm(found[1].gradient) < norm / 2 else None
        if found is None:
            return v, point, count
        v, point = found
    return v, point, iterations


def _search(
    evaluate: Evaluate, v: np.ndarray, step: np.ndarray, level: float, slope: float
) -> tuple[np.ndarray, Point] | None:
    """The first of the whole step, its half, its quarter ... that goes down enough (Armijo), or None."""
    size = 1.0
    while size > SHORTEST:
        point = evaluate(v + size * step)
        if point.objective <= level + 1e-4 * size * slope:
            return v + size * step, point
        size /= 2
    return None


def _on_device(problem: Problem) -> Evaluate:
    """Evaluation in float32 on the device, where the rows now lie in blocks."""
    blocks = [jax.device_put(_block(problem, start, np.float32)) for start in range(0, len(problem.x), BLOCK)]
    return lambda v: _sums(problem, blocks, v, jnp.float32)


def _on_host(problem: Problem, v: np.ndarray) -> Point:
    """Evaluation in float64."""
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        blocks = (_block(problem, start, np.float64) for start in range(0, len(problem.x), BLOCK))
        return _sums(problem, blocks, v, jnp.float64)


def _block(problem: Problem, start: int, dtype: type) -> tuple[np.ndarray, np.ndarray]:
    """Standardised rows and their labels, filled up with rows of label -1 to some length that is compiled once."""
    rows, labels = problem.rows(slice(start, start + BLOCK), dtype), problem.labels[start : start + BLOCK]
    spare = min(BLOCK, -(-len(problem.x) // 256) * 256) - len(rows)
    return np.pad(rows, [(0, spare), (0, 0)]), np.pad(labels, (0, spare), constant_values=-1).astype(np.int32)


def _sums(problem: Problem, blocks: Iterable[tuple[ArrayLike, ArrayLike]], v: np.ndarray, dtype: DTypeLike) -> Point:
    there, found = jnp.asarray(v, dtype), []
    objective, gradient = 0.0, np.zeros_like(v)
    for x, labels in blocks:
        losses, residuals, p = _residuals(x, labels, there)
        gradient += _columns(residuals, x)
        objective += float(np.asarray(losses, np.float64).sum())
        found.append(np.asarray(p, np.float32))
    return _penalised(problem, v, objective, gradient, np.concatenate(found)[: len(problem.x)])


def _columns(residuals: jax.Array, x: ArrayLike) -> np.ndarray:
    """(d + 1, K) float64: sums over rows of their features, and of 1, times the residuals (b, K)."""
    summed = np.asarray(_gather(residuals, x), np.float64).T
    return np.concatenate([summed, np.asarray(residuals, np.float64).sum(axis=0)[None]])


def _penalised(problem: Problem, v: np.ndarray, objective: float, gradient: np.ndarray, p: np.ndarray) -> Point:
    weighted = problem.penalties * v
    return Point(objective + float((weighted * v).sum()) / 2, (gradient + weighted) @ problem.free, p)


@jax.jit
def _residuals(x: jax.Array, labels: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Losses (b,), residuals and probabilities (b, K); label -1 stands for a row that is none."""
    z = jnp.dot(x, v[:-1], precision="highest") + v[-1]
    top = jax.nn.logsumexp(z, axis=1, keepdims=True)
    p = jnp.exp(z - top)
    own = jax.nn.one_hot(labels, v.shape[1])
    real = (labels >= 0).astype(p.dtype)
    return real * (top[:, 0] - (z * own).sum(axis=1)), real[:, None] * (p - own), p


@jax.jit
def _gather(residuals: jax.Array, x: ArrayLike) -> jax.Array:
    """(K, d). A function of its own: fused with what makes the residuals, XLA:CPU does not take its fast product."""
    return jnp.dot(residuals.T, x, precision="highest")


@jax.jit
def _bend(x: jax.Array, p: jax.Array, weights: jax.Array, s: jax.Array) -> jax.Array:
    """weights * (diag p - p p') z (b, K) of the change z that coefficients s (d + 1, K) make to the logits."""
    z = jnp.dot(x, s[:-1], precision="highest") + s[-1]
    return p * (z - (p * z).sum(axis=1, keepdims=True)) * weights[:, None]


class _Curvature:
    """Newton directions; keeps the preconditioner while it serves."""

    def __init__(self, problem: Problem):
        self.problem = problem
        self.rng = np.random.default_rng(0)
        self.limit = min(max(ROWS_A_FEATURE * problem.x.shape[1], FEWEST_ROWS), len(problem.x))
        self.mass = np.inf  # sum of the rows' curvature when the preconditioner was made

    def direction(self, point: Point, forcing: float) -> np.ndarray:
        """The step (d + 1, K): conjugate gradients until the residual is `forcing` of the start's."""
        bend = self._sampled(point.probabilities)
        s, r = np.zeros_like(point.gradient), -point.gradient
        z = self._precondition(r)
        d, rz = z, float((r * z).sum())
        goal = forcing**2 * rz
        for _ in range(CG_STEPS):
            h = bend(d)
            ahead = float((d * h).sum())
            if rz <= goal or ahead <= 0:
                break
            s, r = s + rz / ahead * d, r - rz / ahead * h
            z = self._precondition(r)
            before, rz = rz, float((r * z).sum())
            d = z + rz / before * d
        return s

    def _precondition(self, r: np.ndarray) -> np.ndarray:
        return np.asarray(_multiply(self.inverse, jnp.asarray(r, jnp.float32)), np.float64) @ self.problem.free

    def _sampled(self, p: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        """s (d + 1, K) -> the Hessian's product with it, estimated from rows drawn for this."""
        curved = (p * (1 - p)).sum(axis=1, dtype=np.float64) + 1e-6  # so that no sample is empty
        chance = _chances(curved, self.limit)
        rows = np.flatnonzero(self.rng.random(len(p)) < chance)
        x = self.problem.rows(rows)
        if curved.sum() < self.mass / 2:
            self.mass, self.inverse = curved.sum(), self._inverse(x, curved[rows] / chance[rows])
        space = _room(len(rows), self.limit, len(p)) - len(rows)
        padded = (np.pad(a, [(0, space)] + [(0, 0)] * (a.ndim - 1)) for a in (x, p[rows]))
        weights = np.pad((1 / chance[rows]).astype(np.float32), (0, space))
        there = jax.device_put((*padded, weights))

        def bend(s: np.ndarray) -> np.ndarray:
            bent = _bend(*there, jnp.asarray(s, jnp.float32))
            return (_columns(bent, there[0]) + self.problem.penalties * s) @ self.problem.free

        return bend

    def _inverse(self, x: np.ndarray, curved: np.ndarray) -> jax.Array:
        """(d + 1, d + 1): that of the mean curvature of a class, from some of the sampled rows."""
        count = min(GRAM_ROWS_A_FEATURE * x.shape[1], len(x))
        some = self.rng.permutation(len(x))[:count]
        share = curved[some] * (len(x) / count) / (2 if self.problem.pinned else self.problem.classes - 1)
        ones = np.ones((count, 1), np.float32)
        root = np.concatenate([x[some], ones], axis=1) * np.sqrt(share)[:, None].astype(np.float32)
        gram = np.array(_multiply(root.T, root), np.float64)
        gram[np.diag_indices(len(gram))] += self.problem.penalties[:, 0] + 1e-6 * np.trace(gram) / len(gram)
        with threadpool_limits(1, "blas"):  # where other programs want the cores, its threads burn them by waiting
            upper = np.triu(lapack.dpotri(lapack.dpotrf(gram)[0])[0])
        return jax.device_put((upper + np.triu(upper, 1).T).astype(np.float32))


@jax.jit
def _multiply(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.dot(a, b, precision="highest")


def _chances(curved: np.ndarray, count: int) -> np.ndarray:
    """Chances (n,), in proportion to `curved` and at most 1, that draw `count` rows on average."""
    if count >= len(curved):
        return np.ones(len(curved))
    factor = count / curved.sum()
    for _ in range(50):  # what the certain rows leave over goes to the others
        chance = np.minimum(1, factor * curved)
        if chance.sum() > 0.99 * count:
            break
        factor *= count / chance.sum()
    return chance


def _room(count: int, limit: int, n: int) -> int:
    """Rows of the buffer that `count` sampled rows go into: few different ones, as each is compiled anew."""
    room = min(limit + 8 * int(limit**0.5), n)
    while room // 2 >= count:
        room //= 2
    return room
