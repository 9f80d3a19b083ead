"""CPU seconds of the probes next to scikit-learn's, in one run on the same features.

    python tools/bench_probes.py [--probe knn logistic] [--rows 100000] [--features 384 1536] [--queries 7180]
                                 [--tolerance 1e-4] [--repeats 1] [--file FEATURES.npz]

Features are made up: nine classes that overlap, in a few of many directions; --file takes x (n, d) and y (n,)
instead, the last --queries rows as queries. A line of JSON for each measurement, ours and scikit-learn's in turns: CPU
and wall seconds; of logistic regressions also the objective, the largest entry of its gradient over n (both summed in
float64 here, for both) and steps; ours at tighter tolerances until it is as good as theirs in both ("level"). The first
of our runs (repeat 0) compiles, too.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the checkout that this tool lies in

import numpy as np
import sklearn
from scipy.special import logsumexp
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors

from histojax.evaluation.knn import nearest
from histojax.evaluation.logistic import fit_logistic

CLASSES, K = 9, 20


def main(argv: list[str] | None = None) -> int:
    """Measures what was asked for."""
    args = _arguments(argv)
    for features in args.features if args.file is None else [0]:
        x, y, queries = _data(args, features)
        shape = {"rows": len(x), "features": x.shape[1], "queries": len(queries)}
        for repeat in range(args.repeats):
            for probe in args.probe:
                for row in _knn(x, queries) if probe == "knn" else _logistic(x, y, args.tolerance):
                    print(json.dumps({"probe": probe, "repeat": repeat} | shape | row), flush=True)
    return 0


def _knn(x: np.ndarray, queries: np.ndarray) -> list[dict[str, Any]]:
    (_, ours), told = _timed(lambda: nearest(x, queries, K))
    model = NearestNeighbors(n_neighbors=K, algorithm="brute").fit(x)
    (_, theirs), told_sk = _timed(lambda: model.kneighbors(queries))
    agree = float((ours == theirs).mean())
    return [
        {"who": "histojax"} | told,
        {"who": f"scikit-learn {sklearn.__version__}", "same neighbours": agree} | told_sk,
    ]


def _logistic(x: np.ndarray, y: np.ndarray, tolerance: float) -> list[dict[str, Any]]:
    """Ours at the same tolerance, then at tighter ones until it is as good as theirs in both respects."""
    c = x.shape[1] * (int(y.max()) + 1) / 100
    model = LogisticRegression(C=c, max_iter=1000, tol=tolerance)
    _, told = _timed(lambda: model.fit(x, y))
    theirs = _quality(x, y, model.coef_.T.astype(float), model.intercept_.astype(float), c)
    rows = [
        {"who": f"scikit-learn {sklearn.__version__}", "tolerance": tolerance, "steps": int(model.n_iter_[0])}
        | theirs
        | told
    ]
    for ask in (tolerance * 10 ** (-i / 3) for i in range(8)):
        fit, told = _timed(functools.partial(fit_logistic, x, y, tolerance=ask))
        ours = _quality(x, y, fit.weights, fit.intercept, c)
        level = all(ours[key] <= theirs[key] * (1 + 1e-9) for key in theirs)
        rows.append({"who": "histojax", "tolerance": ask, "steps": fit.iterations, "level": level} | ours | told)
        if level:
            break
    return rows


def _quality(x: np.ndarray, y: np.ndarray, weights: np.ndarray, intercept: np.ndarray, c: float) -> dict[str, float]:
    """The objective (of more than two classes) and the largest entry of its gradient over n, in float64."""
    loss, gradient = (weights**2).sum() / (2 * c), np.concatenate([weights / c, np.zeros((1, weights.shape[1]))])
    for start in range(0, len(x), 4096):
        some, labels = x[start : start + 4096].astype(float), y[start : start + 4096]
        z = some @ weights + intercept
        log_p = z - logsumexp(z, axis=1, keepdims=True)
        loss -= log_p[np.arange(len(labels)), labels].sum()
        residual = np.exp(log_p) - np.eye(weights.shape[1])[labels]
        gradient += np.concatenate([some.T @ residual, residual.sum(axis=0)[None]])
    return {"objective": float(loss), "gradient": float(np.abs(gradient).max() / len(x))}


def _timed(call: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    wall, cpu = time.perf_counter(), time.process_time()
    result = call()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return result, {"cpu_seconds": round(cpu, 2), "wall_seconds": round(wall, 2)}


def _data(args: argparse.Namespace, features: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if args.file is not None:
        with np.load(args.file) as data:
            x, y = data["x"].astype(np.float32), data["y"].astype(np.int64)
        return x[: -args.queries], y[: -args.queries], x[-args.queries :]
    rng = np.random.default_rng(0)
    count = args.rows + args.queries
    y = rng.integers(CLASSES, size=count)
    x = rng.standard_normal((count, features), dtype=np.float32)
    x += (rng.standard_normal((CLASSES, features)) * 4.5 / np.sqrt(features)).astype(np.float32)[y]
    x *= 6 * np.arange(1, features + 1, dtype=np.float32) ** -args.decay  # a spectrum that falls, as that of encoders
    turn, _ = np.linalg.qr(rng.standard_normal((features, features)))
    x = x @ turn.astype(np.float32)
    return x[: args.rows], y[: args.rows], x[args.rows :]


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--probe", nargs="+", default=["knn", "logistic"], choices=("knn", "logistic"))
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--features", type=int, nargs="+", default=[384, 1536])
    parser.add_argument("--queries", type=int, default=7180)
    parser.add_argument("--tolerance", type=float, default=1e-4, help="scikit-learn's tol")
    parser.add_argument("--decay", type=float, default=0.5, help="the k-th direction has the size k^-decay")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--file", type=Path, help="an .npz with x and y instead of made-up features")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
