"""What `histojax plan` says of the paper's trainings, as lines for tools/BENCHMARKS.md: planned, nothing is measured.

    python tools/bench_plans.py [--python PYTHON] [--largest] [CASE ...]

Compiles the training step for devices that are not there, which takes minutes a case. --python names an interpreter
with the extra `cuda` (and `tpu`), where the one that runs this has none. --largest also searches the largest batch.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from typing import NamedTuple

from bench_common import ROOT, tell

GIB = 2**30


class Case(NamedTuple):
    """A configuration on a device."""

    config: str
    device: str
    leaves: tuple[str, ...] = ()


CASES = {
    "S-a100": Case("nct_vits14", "a100-80gb"),
    "g-a100": Case("nct_vitg14", "a100-80gb"),
    "g-8xa100": Case("nct_vitg14", "8xa100-80gb", ("mesh.fsdp=true", "batch_size=256")),
    "g-v5p-8": Case("nct_vitg14", "v5p-8", ("mesh.fsdp=true", "batch_size=128")),
}


def plan(case: Case, python: str, largest: bool) -> dict:
    """The line that `histojax plan --json` prints; ends this program with its last words if there is none."""
    words = [python, "-m", "histojax", "plan", "--config", str(ROOT / "configs" / f"{case.config}.py")]
    words += ["--device", case.device, "--json", *(() if largest else ("--quick",))]
    words += [f"--config.{leaf}" for leaf in case.leaves]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, capture_output=True, text=True, env=env)
    lines = done.stdout.strip().splitlines()
    if not lines or not lines[-1].startswith("{"):
        said = done.stderr.strip().splitlines() or ["no message"]
        sys.exit(f"bench_plans: error: {case.config} on {case.device}: {said[-1]}")
    return json.loads(lines[-1])


def row(found: dict, largest: bool) -> dict:
    """What the page shows of a plan; memory in GiB a device. The largest batch is known only if it was searched."""
    kept = ("devices", "batch", "fits", "compile_seconds", *(["largest_batch"] if largest else []))
    told = {name: found[name] for name in kept if found.get(name) is not None}
    peak = found.get("peak_bytes")
    return told | ({"peak_gib": round(peak / GIB, 1)} if peak is not None else {})


def main(argv: list[str] | None = None) -> None:
    """A line a case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", help=f"of {', '.join(CASES)} (default: all)")
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--largest", action="store_true")
    args = parser.parse_args(argv)
    if unknown := [name for name in args.cases if name not in CASES]:
        parser.error(f"unknown case {unknown[0]!r}; known are {', '.join(CASES)}")
    for name in args.cases or CASES:
        case = CASES[name]
        found = row(plan(case, args.python, args.largest), args.largest)
        tell("plan", case=f"{case.config}, batch {found.get('batch')}, {case.device}", **found)


if __name__ == "__main__":
    main()
