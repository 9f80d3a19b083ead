"""Seconds, CPU seconds and peak memory of one training step at the paper's size, on random pixels.

    python tools/bench_step.py [--batch 8] [--size vit_small] [--local-crops 8] [--remat block] [--steps 5]
    python tools/bench_step.py --train lora:8 --leaf loss.token_chunk=128       # any leaf of the configuration
    pip install '.[bench]' && python tools/bench_step.py --peer [--autocast] [--rounds 2]

Steps are told on stderr, the readings as one line of JSON: medians a step, the peak of the whole process (compilation
included), the plan of the compiler. --no-views leaves the augmentation out. --peer runs tools/bench_step_torch.py in
turns, the same arithmetic in eager PyTorch without the augmentation, each reading in a process of its own; --autocast
also with PyTorch's bfloat16. Compare machines and versions by alternating runs: single readings drift.
"""

from __future__ import annotations

import argparse
import ast
import sys
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the checkout that this tool lies in

import jax
import numpy as np
from bench_common import OURS, Spent, need, own_process, peak_gib, summary, tell, timed

from histojax import config as configs
from histojax.common.host_memory import give_back_freed
from histojax.models.sizes import SIZES
from histojax.ssl import step as steps
from histojax.ssl.recipe import Recipe
from histojax.ssl.state import parameter_count
from histojax.training.recipe import recipe_of, schedules_of

PEER = Path(__file__).with_name("bench_step_torch.py")
GIB = 2**30


def main(argv: list[str] | None = None) -> None:
    """One line of JSON: ours, or ours and PyTorch's in turns."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.autocast or args.peer:
        need(parser, "torch")
        return _beside_peer(args, list(sys.argv[1:] if argv is None else argv))
    config = _config(args)
    readings, facts = measure(config, args.steps, args.no_views)
    tell("step", case=_case(config, args), unit="step", **summary({OURS: readings}), readings=readings, **facts)


def _case(config: Any, args: argparse.Namespace) -> str:
    crops = config.crops
    views = f"2 x {crops.global_px} + {crops.local_crops} x {crops.local_px} px"
    changed = [*args.leaf, *([f"train {args.train}"] * (args.train != "all")), *(["no views"] * args.no_views)]
    words = [args.size, f"batch {args.batch}", views, f"{config.head.prototypes} prototypes", *changed]
    return ", ".join(words)


def _config(args: argparse.Namespace) -> Any:
    config = configs.paper()
    config.batch_size = args.batch
    config.model.update(size=args.size, remat=args.remat, train=args.train)
    config.crops.local_crops, config.head.prototypes = args.local_crops, args.prototypes
    for leaf in args.leaf:
        name, _, value = leaf.partition("=")
        config.update_from_flattened_dict({name: _value(value)})
    return config


def _value(text: str) -> Any:
    """A number, a truth value or a tuple where the text is one, else the text."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def measure(
    config: Any, count: int, no_views: bool = False, recipe: Recipe | None = None
) -> tuple[list[Spent], dict[str, Any]]:
    """(readings of `count` steps after one that warms up, facts: memory, compile time, size of the state).

    `recipe` is that of the configuration unless given.
    """
    recipe, key = recipe or recipe_of(config, jax.default_backend()), jax.random.key(0)
    state = jax.jit(lambda k: recipe.start(recipe.init(k)))(key)
    parameters, size = parameter_count(state.parameters("student")), sum(x.nbytes for x in jax.tree.leaves(state))
    pixels = np.random.default_rng(0).integers(0, 256, (config.batch_size, 256, 256, 3)).astype(np.uint8)
    schedule = schedules_of(config).at(500)
    run, batch = steps.make_step(recipe), jax.device_put(pixels)
    if no_views:
        batch = jax.jit(partial(steps.make_views, recipe))(batch, key, key)
        run = jax.jit(lambda s, v, k, t: steps.update(recipe, s, v, t, k), donate_argnums=0)
    compiled, spent = timed(lambda: run.lower(state, batch, key, schedule).compile())
    give_back_freed()
    plan = compiled.memory_analysis()
    facts = {
        "parameters_m": round(parameters / 1e6, 1),
        "state_gib": round(size / GIB, 3),
        "planned_arguments_gib": round(plan.argument_size_in_bytes / GIB, 3),
        "planned_temporary_gib": round(plan.temp_size_in_bytes / GIB, 3),
        "compile_seconds": round(spent.wall, 1),
    }
    print(f"{facts}", file=sys.stderr, flush=True)
    return _steps(compiled, state, batch, key, schedule, count), facts | {"peak_gib": {OURS: peak_gib()}}


def _steps(compiled: Any, state: Any, batch: Any, key: Any, schedule: Any, count: int) -> list[Spent]:
    readings = []
    for i in range(count + 1):

        def step() -> float:
            nonlocal state
            state, metrics = compiled(state, batch, key, schedule)
            return float(metrics["loss"])

        loss, spent = timed(step)
        warm = "" if i else " (warm-up)"
        print(
            f"step {i}{warm}: {spent.wall:.2f} s, {spent.cpu:.2f} CPU s, loss {loss:.4f}", file=sys.stderr, flush=True
        )
        readings.append(spent)
    return readings[1:]


def _beside_peer(args: argparse.Namespace, words: list[str]) -> None:
    """Both programs in turns, each in a process of its own, so that neither's memory or threads are the other's."""
    ours = [word for word in words if word not in ("--peer", "--autocast")]
    same = ["--batch", args.batch, "--size", args.size, "--local-crops", args.local_crops]
    same += ["--prototypes", args.prototypes, "--steps", args.steps]
    sides: dict[str, tuple] = {OURS: (__file__, *ours)}
    if args.peer:
        sides["PyTorch"] = (PEER, *same)
    if args.autocast:
        sides["PyTorch, bfloat16 autocast"] = (PEER, *same, "--autocast")
    found: dict[str, list[Spent]] = {name: [] for name in sides}
    peaks: dict[str, float] = {}
    told: dict[str, Any] = {}
    for turn in range(args.rounds):
        for name in sides if turn % 2 == 0 else reversed([*sides]):
            line = own_process(*sides[name])
            found[name] += [Spent(*one) for one in line["readings"]]
            told = line if name == OURS else told
            peaks[name] = line["peak_gib"][OURS] if name == OURS else line["peak_gib"]
    kept = {key: told[key] for key in ("case", "unit", "parameters_m", "state_gib", "compile_seconds")}
    tell("step", **kept, **summary(found), peak_gib=peaks)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", default="vit_small", choices=sorted(SIZES))
    parser.add_argument("--local-crops", type=int, default=8)
    parser.add_argument("--prototypes", type=int, default=65536)
    parser.add_argument("--remat", default="dots", choices=("none", "dots", "block"))
    parser.add_argument("--train", default="all", metavar="WORD", help="what is trained, as in model.train")
    parser.add_argument("--steps", type=int, default=5, help="after one warm-up step")
    parser.add_argument("--leaf", action="append", default=[], metavar="NAME=VALUE", help="a leaf of the configuration")
    parser.add_argument("--no-views", action="store_true", help="leave crops and masks out of the step")
    parser.add_argument("--peer", action="store_true", help="eager PyTorch in turns")
    parser.add_argument("--autocast", action="store_true", help="PyTorch with bfloat16 in turns")
    parser.add_argument("--rounds", type=int, default=2, help="of processes in turns")
    return parser


if __name__ == "__main__":
    main()
