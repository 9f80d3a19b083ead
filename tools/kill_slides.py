"""Kills `histojax tile` and `histojax extract` at random moments and compares what they end with.

    python tools/kill_slides.py SLIDES... [--kills 10] [--copies 10] [--workers 2] [--seed 0] [--mpp 0.25] [--folder X]

Each slide is taken --copies times. Each command gets SIGKILL at a random moment (its workers are left to themselves),
is started again by the same command, and so on; then it runs to its end. Every file, but summaries with times in them,
must have the bytes of a run that nobody touched. Extraction runs a small network with random weights. Exits with 1 if
anything differs.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TIMED = {"summary.json"}  # files that tell how long things took


def main() -> int:
    """Exit code: 0 if all runs ended in the same bytes."""
    args = _arguments()
    folder = Path(args.folder or tempfile.mkdtemp(prefix="kill-slides-"))
    env = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"), "JAX_PLATFORMS": "cpu"}
    env["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    folder.mkdir(parents=True, exist_ok=True)
    mpp = ["--mpp", args.mpp] if args.mpp else []
    (folder / "slides").mkdir(exist_ok=True)
    for number, slide in itertools.product(range(args.copies), map(Path, args.slides)):
        copy = folder / "slides" / f"{slide.stem}-{number}{slide.suffix}"
        if not copy.exists():
            shutil.copyfile(slide, copy)
    tile = ["tile", str(folder / "slides"), *mpp, "--workers", args.workers]
    extract = ["extract", "--input", str(folder / "tile-straight"), "--encoder", args.encoder, "--weights", "random"]
    bad = 0
    for name, words in {"tile": tile, "extract": [*extract, "--workers", args.workers]}.items():
        if args.only not in ("", name):
            continue
        straight, killed = folder / f"{name}-straight", folder / f"{name}-killed"
        _run(words, straight, env)
        _run(words, folder / f"{name}-again", env)
        expected = _digests(straight)
        happened = _kill_often(words, killed, env, len(expected), args.kills, random.Random(args.seed))
        _run(words, killed, env)
        for other in (folder / f"{name}-again", killed):
            found = _digests(other)
            differs = sorted(file for file in expected.keys() | found.keys() if expected.get(file) != found.get(file))
            bad += bool(differs)
            verdict = f"DIFFERS: {', '.join(differs[:8])}" if differs else f"same bytes in {len(expected)} files"
            print(f"{other.name}: {verdict}", flush=True)
        print(f"{name}: {len(happened)} kills, when there were {happened} files", flush=True)
    return 1 if bad else 0


def _start(words: list[str], out: Path, env: dict[str, str]) -> subprocess.Popen:
    log = open(out.with_suffix(".log"), "ab")  # noqa: SIM115 (the process keeps it)
    command = [sys.executable, "-m", "histojax", *words, "--out", str(out)]
    return subprocess.Popen(command, env=env, cwd=ROOT, stdout=log, stderr=log)


def _run(words: list[str], out: Path, env: dict[str, str]) -> None:
    """An undisturbed run, to its end."""
    code = _start(words, out, env).wait()
    if code not in (0, 1):
        sys.exit(f"histojax {' '.join(words)} --out {out} ended with {code}; see {out.with_suffix('.log')}")


def _kill_often(
    words: list[str], out: Path, env: dict[str, str], files: int, kills: int, rng: random.Random
) -> list[int]:
    """How many files there were at each kill; the kills are spread over the work, each at a random moment."""
    happened: list[int] = []
    while len(happened) < kills:
        target = files * (len(happened) + rng.random()) / (kills + 1)
        process = _start(words, out, env)
        while process.poll() is None and _count(out) < target:
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.3))
        if process.poll() is not None:
            break  # it was done: nothing is left to kill
        process.send_signal(signal.SIGKILL)
        process.wait()
        happened.append(_count(out))
    return happened


def _count(folder: Path) -> int:
    return sum(len(names) for _, _, names in os.walk(folder))


def _digests(folder: Path) -> dict[str, str]:
    """{file: SHA-256} of all that a command left, locks and hidden files not."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in TIMED]
    shown = [path for path in files if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in shown}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slides", nargs="+")
    parser.add_argument("--copies", type=int, default=10)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--workers", default="2")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--mpp", default="")
    parser.add_argument("--encoder", default="dinov2_vits14")
    parser.add_argument("--only", default="", choices=("tile", "extract"))
    parser.add_argument("--folder", default="")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
