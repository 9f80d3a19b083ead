"""What the benchmarks share: readings in wall-clock and CPU seconds, sides that take turns, lines of JSON.

A line is {"bench", "case", "unit", "rounds", "sides": {side: {"wall_seconds", "cpu_seconds", "cpu_range"}}, "ratios":
{peer: {"wall", "cpu"}}} and what else a tool has to say. Seconds are medians for a unit (a step, an image ...), ratios
how many times fewer we take. CPU seconds count all threads: on a shared machine they are the steadier figure.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

OURS = "histojax"
PACKAGES = ("histojax", "jax", "jaxlib", "numpy", "pillow", "opencv-python-headless", "imagecodecs", "grain")
PEERS = ("torch", "torchvision", "timm", "transformers", "scikit-learn", "openslide-python")
ROOT = Path(__file__).resolve().parents[1]


class Spent(NamedTuple):
    """Seconds of one reading, or of one unit of it."""

    wall: float
    cpu: float


def tell(bench: str, **row: Any) -> None:
    """Prints one line of JSON."""
    print(json.dumps({"bench": bench, **row}), flush=True)


def timed(call: Callable[[], Any]) -> tuple[Any, Spent]:
    """(what `call` returns, the seconds it took); it must have waited for its result."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = call()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return result, Spent(wall, cpu)


def in_turns(
    sides: Mapping[str, Callable[[], Any]], rounds: int, warm: int = 1, units: int = 1
) -> dict[str, list[Spent]]:
    """Readings of each side for one of the `units` that a call does; the order turns from round to round."""
    found: dict[str, list[Spent]] = {name: [] for name in sides}
    for turn in range(-warm, rounds):
        for name in sides if turn % 2 == 0 else reversed([*sides]):
            _, spent = timed(sides[name])
            if turn >= 0:
                found[name].append(Spent(spent.wall / units, spent.cpu / units))
    return found


def summary(found: Mapping[str, Sequence[Spent]], ours: str = OURS) -> dict[str, Any]:
    """{"rounds", "sides", "ratios"} of readings for one unit, see above; ratios are to the side `ours`."""
    sides = {name: _medians(readings) for name, readings in found.items() if readings}
    mine = sides.get(ours)
    ratios = {
        name: {kind: _rounded(side[f"{kind}_seconds"] / mine[f"{kind}_seconds"]) for kind in ("wall", "cpu")}
        for name, side in sides.items()
        if mine and name != ours and min(mine["wall_seconds"], mine["cpu_seconds"]) > 0
    }
    return {"rounds": max(map(len, found.values())), "sides": sides, "ratios": ratios}


def _medians(readings: Sequence[Spent]) -> dict[str, Any]:
    cpu = [one.cpu for one in readings]
    return {
        "wall_seconds": _rounded(statistics.median(one.wall for one in readings)),
        "cpu_seconds": _rounded(statistics.median(cpu)),
        "cpu_range": [_rounded(min(cpu)), _rounded(max(cpu))],
    }


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def peak_gib() -> float:
    """The most memory that this process has held, in GiB."""
    unit = 2**30 if sys.platform == "darwin" else 2**20
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 2)


def own_process(script: str | Path, *words: Any, env: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The last line of JSON that `python script words` prints; ends this program with its last words if it fails."""
    command = [sys.executable, str(script), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **(env or {})})
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["no message"]
        sys.exit(f"{Path(sys.argv[0]).stem}: error: {' '.join(command[1:])}: {said[-1]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def need(parser: argparse.ArgumentParser, *modules: str, without: str = "leave out --peer") -> None:
    """Ends the program, exit code 2 and one line, where a module of the other side is not installed."""
    for name in modules:
        if importlib.util.find_spec(name) is None:
            parser.error(f"{name} is not installed: pip install '.[bench]', or {without}")


def machine() -> dict[str, Any]:
    """What the readings were taken on: processor, cores, memory, system, load, and versions of what is installed."""
    versions = {}
    for name in (*PACKAGES, *PEERS):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 2),
        "versions": versions,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    told = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    numbers = [f"{word} {told[key]}" for word, key in (("family", "cpu family"), ("model", "model")) if key in told]
    return f"{told.get('model name', platform.machine())} ({', '.join(numbers)})" if numbers else platform.machine()


if __name__ == "__main__":
    tell("machine", **machine())
