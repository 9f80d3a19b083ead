"""Seconds, CPU seconds and peak memory of one training step at the paper's size, on random pixels.

    python tools/bench_step.py [--batch 8] [--size vit_small] [--train lora:8] [--remat block] [--steps 5]

Prints one line a step and the medians. The peak is that of the whole process, compilation included; --no-views
leaves the augmentation out. Compare machines and versions by alternating runs: single readings drift.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the checkout that this tool lies in

import jax
import numpy as np

from histojax import config as configs
from histojax.common.host_memory import give_back_freed
from histojax.models.sizes import SIZES
from histojax.ssl import step as steps
from histojax.ssl.state import parameter_count
from histojax.training.recipe import recipe_of, schedules_of


def main() -> None:
    """Builds the step of the paper's configuration, runs it and prints the readings."""
    args = _arguments()
    config = configs.paper()
    config.batch_size = args.batch
    config.model.update(size=args.size, remat=args.remat, train=args.train)
    for leaf in args.leaf:
        name, _, value = leaf.partition("=")
        config.update_from_flattened_dict({name: type(_get(config, name))(value)})
    platform = jax.default_backend()
    recipe = recipe_of(config, platform)
    key = jax.random.key(0)
    state = jax.jit(lambda k: recipe.start(recipe.init(k)))(key)
    count, size = parameter_count(state.parameters("student")), sum(x.nbytes for x in jax.tree.leaves(state))
    print(f"{config.model.size}, training {config.model.train}: {count / 1e6:.1f} M parameters with head, ", end="")
    print(f"batch {args.batch}, state {size / 2**20:.0f} MiB")
    pixels = np.random.default_rng(0).integers(0, 256, (args.batch, 256, 256, 3)).astype(np.uint8)
    schedule = schedules_of(config).at(500)
    run, batch = steps.make_step(recipe), jax.device_put(pixels)
    if args.no_views:
        batch = jax.jit(partial(steps.make_views, recipe))(batch, key, key)
        run = jax.jit(lambda s, v, k, t: steps.update(recipe, s, v, t, k), donate_argnums=0)
    start = time.perf_counter()
    compiled = run.lower(state, batch, key, schedule).compile()
    give_back_freed()
    plan = compiled.memory_analysis()
    sizes = f"arguments {plan.argument_size_in_bytes / 2**30:.2f} + temporary {plan.temp_size_in_bytes / 2**30:.2f} GiB"
    print(f"compiled in {time.perf_counter() - start:.1f} s, planned {sizes}")
    _time(compiled, state, batch, key, schedule, args.steps)


def _time(compiled, state, batch, key, schedule, count: int) -> None:
    walls, cpus = [], []
    for i in range(count + 1):
        wall, cpu = time.perf_counter(), time.process_time()
        state, metrics = compiled(state, batch, key, schedule)
        loss = float(metrics["loss"])
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        print(f"step {i}{' (warm-up)' if not i else ''}: {wall:.2f} s, {cpu:.2f} CPU s, loss {loss:.4f}", flush=True)
        if i:
            walls.append(wall)
            cpus.append(cpu)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"median {statistics.median(walls):.2f} s, {statistics.median(cpus):.2f} CPU s a step, peak {peak:.2f} GiB")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", default="vit_small", choices=sorted(SIZES))
    parser.add_argument("--remat", default="dots", choices=("none", "dots", "block"))
    parser.add_argument("--train", default="all", metavar="WORD", help="what is trained, as in model.train")
    parser.add_argument("--steps", type=int, default=5, help="after one warm-up step")
    parser.add_argument("--leaf", action="append", default=[], metavar="NAME=VALUE", help="a leaf of the configuration")
    parser.add_argument("--no-views", action="store_true", help="leave crops and masks out of the step")
    return parser.parse_args()


def _get(config, name: str):
    for part in name.split("."):
        config = config[part]
    return config


if __name__ == "__main__":
    main()
