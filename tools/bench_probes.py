"""CPU seconds of the probes next to scikit-learn's, in one run on the same features.

    python tools/bench_probes.py [--probe knn logistic] [--rows 100000] [--features 384 1536] [--queries 7180]
                                 [--tolerance 1e-4] [--rounds 1] [--file FEATURES.npz]
    python tools/bench_probes.py --peer           # scikit-learn, which is installed with histojax, in turns

Features are made up: nine classes that overlap, in a few of many directions; --file takes x (n, d) and y (n,)
instead, the last --queries rows as queries. A line of JSON a probe. Of logistic regressions also the objective, the
largest entry of its gradient over n (both summed in float64 here, for both) and steps; with --peer ours is timed at the
first of tighter and tighter tolerances at which it is as good as theirs in both. Compiling is left out.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the checkout that this tool lies in

import numpy as np
from bench_common import OURS, in_turns, summary, tell
from scipy.special import logsumexp
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors

from histojax.evaluation.knn import nearest
from histojax.evaluation.logistic import fit_logistic

CLASSES, K, PEER = 9, 20, "scikit-learn"


def main(argv: list[str] | None = None) -> int:
    """Measures what was asked for."""
    args = _arguments(argv)
    for features in args.features if args.file is None else [0]:
        x, y, queries = _data(args, features)
        if "knn" in args.probe:
            _knn(x, queries, args)
        if "logistic" in args.probe:
            _logistic(x, y, args)
    return 0


def _knn(x: np.ndarray, queries: np.ndarray, args: argparse.Namespace) -> None:
    model = NearestNeighbors(n_neighbors=K, algorithm="brute").fit(x)
    sides = {OURS: lambda: nearest(x, queries, K)} | ({PEER: lambda: model.kneighbors(queries)} if args.peer else {})
    told: dict[str, Any] = {}
    if args.peer:
        told["same_neighbours"] = float((nearest(x, queries, K)[1] == model.kneighbors(queries)[1]).mean())
    found = in_turns(sides, args.rounds, warm=int(not args.peer))
    tell(
        "probes", case=f"{K}-NN, {len(x)} x {x.shape[1]}, {len(queries)} queries", unit="run", **summary(found), **told
    )


def _logistic(x: np.ndarray, y: np.ndarray, args: argparse.Namespace) -> None:
    """Ours at the tolerance asked for; with a peer at the first that makes it as good as theirs in both respects."""
    c = x.shape[1] * (int(y.max()) + 1) / 100
    tolerance, told = args.tolerance, {}
    model = LogisticRegression(C=c, max_iter=1000, tol=args.tolerance)
    if args.peer:
        model.fit(x, y)
        theirs = _quality(x, y, model.coef_.T.astype(float), model.intercept_.astype(float), c)
        told[PEER] = theirs | {"tolerance": args.tolerance, "steps": int(model.n_iter_[0])}
    for tolerance in (args.tolerance * 10 ** (-i / 3) for i in range(8 if args.peer else 1)):
        fit = fit_logistic(x, y, tolerance=tolerance)
        ours = _quality(x, y, fit.weights, fit.intercept, c)
        level = not args.peer or all(ours[key] <= theirs[key] * (1 + 1e-9) for key in theirs)
        told[OURS] = ours | {"tolerance": tolerance, "steps": fit.iterations, "as_good": level}
        if level:
            break
    sides = {OURS: lambda: fit_logistic(x, y, tolerance=tolerance)}
    sides |= {PEER: lambda: model.fit(x, y)} if args.peer else {}
    case = f"logistic regression, {len(x)} x {x.shape[1]}, scikit-learn's tolerance {args.tolerance:g}"
    tell("probes", case=case, unit="run", **summary(in_turns(sides, args.rounds, warm=0)), quality=told)


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
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--peer", action="store_true", help="scikit-learn in turns")
    parser.add_argument("--file", type=Path, help="an .npz with x and y instead of made-up features")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
