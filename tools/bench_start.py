"""How long a start takes: the first compilation (cold), and again with the persistent compilation cache.

    python tools/bench_start.py [--case help features step train] [--rounds 2]
    pip install '.[bench]' && python tools/bench_start.py --peer

help      `histojax train --help`, nothing is compiled
features  load_encoder("dinov2_vits14", weights="random") and features of 16 tiles; PyTorch's: timm, eager
step      the paper's training step (ViT-S/14, batch 8) compiled, not run
train     `histojax train` of configs/quickstart.py on 64 tiles, to the end of its first step, files and all

A reading is a process from its start to its end, in wall-clock and CPU seconds of it and its children. Cold: an empty
cache folder ($HISTOJAX_CACHE); with the cache: the same folder once more.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench_common import ROOT, Spent, need, summary, tell

COLD, CACHED, PEER = "cold", "with the cache", "PyTorch"
CASES = ("help", "features", "step", "train")


def words_of(case: str, folder: Path) -> list[str]:
    """The command of a case; `folder` takes what it writes."""
    if case == "help":
        return ["-m", "histojax", "train", "--help"]
    if case == "train":
        small = ["stop_step=1", "data.train=synthetic:64", "eval.data=synthetic:64", "eval.max_tiles=64"]
        leaves = [f"--config.{leaf}" for leaf in small]
        config = str(ROOT / "configs" / "quickstart.py")
        return ["-m", "histojax", "train", "--config", config, "--workdir", str(folder / "run"), *leaves]
    return [__file__, "--one", case]


def reading(words: Sequence[str], cache: Path | None = None) -> Spent:
    """Seconds of one process; ends this program with its last words if it fails."""
    env = {key: value for key, value in os.environ.items() if key != "JAX_COMPILATION_CACHE_DIR"}
    env |= {"JAX_PLATFORMS": env.get("JAX_PLATFORMS", "cpu"), "PYTHONPATH": str(ROOT)}
    env |= {"HISTOJAX_CACHE": str(cache)} if cache else {}
    wall, cpu = time.perf_counter(), _children()
    done = subprocess.run([sys.executable, *words], env=env, capture_output=True, text=True)
    spent = Spent(time.perf_counter() - wall, _children() - cpu)
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["no message"]
        sys.exit(f"bench_start: error: {' '.join(words)}: {said[-1]}")
    return spent


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(case: str, rounds: int, peer: bool) -> None:
    """Prints the line of a case."""
    found: dict[str, list[Spent]] = {COLD: [], CACHED: []}
    if peer and case == "features":
        found[PEER] = []
    files = 0
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as temporary:
            cache = Path(temporary) / "cache"
            for name in found:
                words = words_of(case, Path(temporary) / name)
                found[name].append(reading([__file__, "--one", "peer"]) if name == PEER else reading(words, cache))
            files = len([*cache.rglob("*-cache")])
    told = summary(found, CACHED)
    tell("start", case=case, unit="start", **told, programs_kept=files)


def features() -> None:
    """The first features of a process, ours."""
    import numpy as np

    from histojax import load_encoder
    from histojax.parallel.backend import start_backend

    start_backend()  # as the commands do: compiled programs are kept from here on
    load_encoder("dinov2_vits14", weights="random", batch_size=16)(np.zeros((16, 224, 224, 3), np.uint8))


def step() -> None:
    """Compiles the step of the paper's configuration, as training does."""
    import jax
    import numpy as np

    from histojax import config as configs
    from histojax.parallel.backend import start_backend
    from histojax.ssl.step import make_step
    from histojax.training.recipe import recipe_of, schedules_of

    start_backend()  # as the commands do: compiled programs are kept from here on
    config = configs.paper()
    config.batch_size = 8
    recipe, key = recipe_of(config, jax.default_backend()), jax.random.key(0)
    state = jax.eval_shape(lambda: recipe.start(recipe.init(key)))
    images = jax.ShapeDtypeStruct((8, 224, 224, 3), np.uint8)
    make_step(recipe).lower(state, images, key, schedules_of(config).at(0)).compile()


def peer() -> None:
    """The first features of a process, timm's."""
    import timm
    import torch

    network = timm.create_model("vit_small_patch14_dinov2", num_classes=0, img_size=224).eval()
    with torch.inference_mode():
        network(torch.zeros(16, 3, 224, 224))


def main(argv: list[str] | None = None) -> None:
    """A line of JSON a case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs="+", default=CASES, choices=CASES)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--peer", action="store_true", help="timm's first features in turns")
    parser.add_argument("--one", choices=("features", "step", "peer"), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.one:
        return {"features": features, "step": step, "peer": peer}[args.one]()
    if args.peer:
        need(parser, "torch", "timm")
    for case in args.case:
        measure(case, args.rounds, args.peer)


if __name__ == "__main__":
    main()
