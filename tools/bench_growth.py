"""How a training step grows: its time and memory against batch, prototypes, tokens and depth, with fitted exponents.

    python tools/bench_growth.py [--series batch prototypes tokens depth] [--steps 2] [--quick]

A small ViT (width 192, 6 blocks, 2 x 112 + 4 x 56 px, batch 8, 4096 prototypes), of which one number is changed at a
time. A line of JSON a point (CPU and wall seconds a step, the compiler's plan of memory: the state and what a step
needs beside it), then one a series: the exponent b of a * x**b, fitted over all points, and the slope between the last
two, where what is constant weighs least. "surprise" is a slope that is steeper than expected: 1 for all but tokens,
where attention may bring it to 2. Exit code 1 if there is one.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the checkout that this tool lies in

import jax
import numpy as np
from bench_common import OURS, summary, tell
from bench_step import measure

from histojax import config as configs
from histojax.training.recipe import recipe_of

MARGIN = 0.15  # of noise in a slope
KINDS = ("cpu_seconds", "memory_gib")


class Series(NamedTuple):
    """The values of one number, and the steepest growth that is no surprise."""

    values: tuple[int, ...]
    steepest: float


SERIES = {  # all begin at the same step, which is measured once
    "batch": Series((8, 16, 32, 64), 1.0),
    "prototypes": Series((4096, 16384, 65536, 131072), 1.0),
    "tokens": Series((112, 168, 224), 2.0),  # sides of the global crops; local ones have half of it
    "depth": Series((6, 12, 24), 1.0),
}


def setting(series: str, value: int) -> tuple[Any, Any, float]:
    """(configuration, recipe, x): the small step with one number changed, and that number (tokens: of an image)."""
    c = configs.paper()
    c.batch_size = value if series == "batch" else 8
    c.model.size = "vit_mini"
    side = value if series == "tokens" else 112
    c.crops.update(dict(global_px=side, local_px=side // 2, local_crops=4))
    c.head.update(dict(prototypes=value if series == "prototypes" else 4096, hidden=512))
    recipe = recipe_of(c, jax.default_backend())
    if series == "depth":
        recipe = dataclasses.replace(recipe, vit=dataclasses.replace(recipe.vit, depth=value))
    tokens = 2 * (side // 14) ** 2 + 4 * (side // 28) ** 2
    return c, recipe, tokens if series == "tokens" else value


def point(series: str, value: int, steps: int, known: dict[Any, dict[str, float]]) -> dict[str, float]:
    """{"x", "cpu_seconds", "wall_seconds", "state_gib", "temporary_gib", "memory_gib"} of one step; prints them.

    `known` keeps what was measured: a recipe and a batch are measured once.
    """
    config, recipe, x = setting(series, value)
    which = (recipe, config.batch_size)
    if which not in known:
        readings, facts = measure(config, steps, recipe=recipe)
        state, temporary = facts["planned_arguments_gib"], facts["planned_temporary_gib"]
        memory = {"state_gib": state, "temporary_gib": temporary, "memory_gib": round(state + temporary, 3)}
        known[which] = summary({OURS: readings})["sides"][OURS] | memory
        known[which]["compile_seconds"] = facts["compile_seconds"]
    row = {"x": x, **known[which]}
    tell("growth", case=f"{series} {x}", unit="step", **row)
    return row


def slopes(points: list[dict[str, float]], kind: str) -> tuple[float, float]:
    """(exponent fitted over all points, slope between the last two), of seconds or memory against x."""
    x, y = (np.log([one[name] for one in points]) for name in ("x", kind))
    return round(float(np.polyfit(x, y, 1)[0]), 2), round(float((y[-1] - y[-2]) / (x[-1] - x[-2])), 2)


def judge(series: str, points: list[dict[str, float]]) -> dict[str, Any]:
    """The line of a series."""
    found = {kind: slopes(points, kind) for kind in KINDS}
    limit = SERIES[series].steepest
    return {
        "exponents": {kind: fitted for kind, (fitted, _) in found.items()},
        "last_slopes": {kind: last for kind, (_, last) in found.items()},
        "expected_at_most": limit,
        "surprise": [kind for kind, both in found.items() if max(both) > limit + MARGIN],
    }


def main(argv: list[str] | None = None) -> int:
    """1 if something grows faster than expected."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--series", nargs="+", default=list(SERIES), choices=SERIES)
    parser.add_argument("--steps", type=int, default=2, help="timed at each point, after one that warms up")
    parser.add_argument("--quick", action="store_true", help="two points a series")
    args = parser.parse_args(argv)
    surprises = 0
    known: dict[Any, dict[str, float]] = {}
    for series in args.series:
        values = SERIES[series].values
        points = [point(series, value, args.steps, known) for value in (values[:2] if args.quick else values)]
        told = judge(series, points)
        tell("growth", case=series, **told)
        surprises += len(told["surprise"])
    return int(surprises > 0)


if __name__ == "__main__":
    sys.exit(main())
