"""Peak memory of the start and of the resume of a run, beside the size of its state, or of a process's share of it.

usage: python tools/bench_start_memory.py [--size vit_large] [--prototypes 65536] [--processes 1 2]

A file of weights of that size is made of random numbers. Two starts, one after the other: the first loads it, makes
the first state and saves a checkpoint, the second restores it. Several processes have one device each and share one
copy of the state. Each prints the most memory that it held above what it held once jax had started, as measured by the
system, and its ratio to what it holds of the state.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the checkout that this tool lies in

import jax  # noqa: E402
import numpy as np  # noqa: E402
from many_processes import free_port  # noqa: E402

from histojax import config as configs  # noqa: E402
from histojax.models.sizes import SIZES  # noqa: E402
from histojax.parallel.agreement import Together  # noqa: E402
from histojax.parallel.backend import start_backend  # noqa: E402
from histojax.parallel.mesh import make_mesh  # noqa: E402
from histojax.parallel.processes import started  # noqa: E402
from histojax.parallel.sharding import Layout  # noqa: E402
from histojax.ssl.recipe import Recipe  # noqa: E402
from histojax.training.checkpoints import Checkpoints  # noqa: E402
from histojax.training.first_state import abstract_state, first_state  # noqa: E402
from histojax.training.recipe import recipe_of  # noqa: E402
from histojax.training.start import load_start  # noqa: E402
from histojax.weights.layouts.dinov2 import META  # noqa: E402
from histojax.weights.safetensors_file import write_safetensors  # noqa: E402

MIB = 2**20


def main() -> None:
    values = _arguments()
    if values.part:
        return _one(values)
    with tempfile.TemporaryDirectory() as folder:
        _run("weights", folder, values, 1)
        for processes in values.processes:
            for part in ("start", "resume"):
                _run(part, folder, values, processes)
            shutil.rmtree(Path(folder) / "checkpoints")


def _run(part: str, folder: str, values: argparse.Namespace, processes: int) -> None:
    """One part by so many processes, each a line."""
    words = [sys.executable, __file__, "--part", part, "--folder", folder, "--size", values.size]
    env = dict(os.environ, JAX_PLATFORMS="cpu")
    if processes > 1:
        env |= {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free_port()}", "JAX_NUM_PROCESSES": str(processes)}
    running = []
    for index in range(processes):
        mine = env | ({"JAX_PROCESS_ID": str(index)} if processes > 1 else {})
        running.append(subprocess.Popen([*words, "--prototypes", str(values.prototypes)], env=mine))
    codes = [process.wait() for process in running]
    if any(codes):
        raise SystemExit(1)


def _one(values: argparse.Namespace) -> None:
    with started() as together:
        _measure(values, together)


def _measure(values: argparse.Namespace, together: Together) -> None:
    start_backend()
    mesh = make_mesh(together.count)
    split = None if mesh is None else Layout(mesh).state
    config = configs.paper()
    config.model.size, config.head.prototypes = values.size, values.prototypes
    config.model.weights = str(Path(values.folder) / "weights.safetensors")
    recipe, checkpoints = recipe_of(config), Path(values.folder) / "checkpoints"
    if values.part == "weights":
        return _write_weights(recipe, Path(config.model.weights))
    before = _reset_peak()
    if values.part == "start":
        state = first_state(recipe, load_start(config, recipe, offline=True), jax.random.key(0), split)
        jax.block_until_ready(state.as_dict())
        peak = _peak()
        keeper = Checkpoints(checkpoints, together=together)
        keeper.save(state, {})
        keeper.close()
    else:
        keeper = Checkpoints(checkpoints, together=together)
        state, _ = keeper.restore(abstract_state(recipe, split))
        jax.block_until_ready(state.as_dict())
        peak = _peak()
    sizes = [_bytes_here(leaf) for leaf in jax.tree.leaves(state.as_dict())]
    size, largest = sum(sizes), max(sizes)
    print(
        f"{values.part:7s} process {together.index} of {together.count}  holds {size / MIB:8.0f} MiB  "
        f"peak {(peak - before) / MIB:8.0f} MiB above the "
        f"{before / MIB:.0f} of the process  ratio {(peak - before) / size:.3f}  largest leaf {largest / MIB:.0f} MiB",
        flush=True,
    )


def _bytes_here(leaf: jax.Array) -> int:
    return sum(shard.data.nbytes for shard in leaf.addressable_shards)


def _write_weights(recipe: Recipe, path: Path) -> None:
    tree = jax.device_get(recipe.init(jax.random.key(1))["backbone"])
    write_safetensors(path, {name: np.ascontiguousarray(x) for name, x in META.write(tree).items()}, {"format": "pt"})


def _reset_peak() -> int:
    """Bytes in use now, from where on the peak counts (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _peak() -> int:
    return _status("VmHWM")


def _status(name: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="vit_large", choices=sorted(SIZES))
    parser.add_argument("--prototypes", type=int, default=65536)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2], help="numbers of processes to measure")
    parser.add_argument("--part", choices=["weights", "start", "resume"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
