"""Kills a short training run at random steps, again and again, and compares its end with an uninterrupted run.

    python tools/kill_resume.py [--kills 10] [--workers 0 2] [--seed 0] [--train lora:8] [--folder DIR]

A two-block ViT on synthetic tissue, 60 steps with a checkpoint every 5. For each number of workers the run gets
SIGKILL as soon as a randomly drawn step is logged, is started again by the same command, and so on. metrics.jsonl,
every exported file and every array of the last checkpoint must be the same bits as those of a run that nobody
touched. Exits with 1 if anything differs. About two minutes a kill on two cores with nothing else running.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STEPS = 60
CHANGES: dict[str, object] = {
    "epochs": 12,
    "epoch_steps": 5,
    "stop_step": STEPS,
    "log.every": 1,
    "log.tensorboard": False,
    "checkpoint.every": 5,
    "eval.every": 20,
}


def main() -> int:
    """Exit code: 0 if all runs ended in the same bits."""
    args = _arguments()
    folder = Path(args.folder or tempfile.mkdtemp(prefix="kill-resume-"))
    env = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"), "JAX_PLATFORMS": "cpu"}
    env["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    folder.mkdir(parents=True, exist_ok=True)
    CHANGES["model.train"] = args.train
    straight = folder / "straight"
    print(f"folder {folder}\nuninterrupted run ...", flush=True)
    _start(straight, 0, env).wait()
    expected, bad = _result(straight), 0
    for workers in args.workers:
        killed = folder / f"killed_{workers}_workers"
        steps = _kill_and_resume(killed, workers, env, args.kills, random.Random(args.seed + workers))
        found = _result(killed)
        differs = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        bad += bool(differs)
        verdict = f"DIFFERS: {', '.join(differs)}" if differs else f"same bits in {len(expected)} files and arrays"
        print(f"{workers} workers, killed at steps {steps}: {verdict}", flush=True)
    return 1 if bad else 0


def _start(workdir: Path, workers: int, env: dict[str, str]) -> subprocess.Popen:
    flags = [f"--config.{name}={value}" for name, value in CHANGES.items()]
    command = [sys.executable, "-m", "histojax.train", "--config", str(ROOT / "tests" / "tiny.py")]
    command += ["--workdir", str(workdir), f"--config.data.workers={workers}", *flags]
    log = open(workdir.with_suffix(".log"), "ab")  # noqa: SIM115 (the process keeps it)
    return subprocess.Popen(command, env=env, cwd=ROOT, stdout=log, stderr=log)


def _kill_and_resume(workdir: Path, workers: int, env: dict[str, str], kills: int, rng: random.Random) -> list[int]:
    """The steps that were logged last when the run was killed; the last start is left to finish."""
    steps = []
    while len(steps) < kills:
        first = _last_step(workdir)
        at = rng.randint(min(first + 1, STEPS - 1), max(STEPS * (len(steps) + 1) // kills, first + 1))
        process = _start(workdir, workers, env)
        while process.poll() is None and _last_step(workdir) < at:
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.1))  # anywhere within a step, or while a checkpoint is written
        if process.poll() is not None:
            break  # it came to its end before it could be killed
        process.send_signal(signal.SIGKILL)
        process.wait()
        steps.append(_last_step(workdir))
    code = _start(workdir, workers, env).wait()
    if code:
        raise SystemExit(f"the last start ended with exit code {code}, see {workdir.with_suffix('.log')}")
    return steps


def _last_step(workdir: Path) -> int:
    try:
        lines = (workdir / "metrics.jsonl").read_text().splitlines()
    except OSError:
        return 0
    return max((int(line.split(",")[0].split(":")[1]) for line in lines if line.startswith('{"step": ')), default=0)


def _result(workdir: Path) -> dict[str, bytes]:
    """{name: content} of what must not depend on interruptions."""
    files = [workdir / "metrics.jsonl", *sorted((workdir / "export").rglob("*.safetensors"))]
    found = {str(path.relative_to(workdir)): path.read_bytes() for path in files}
    return found | _checkpoint(workdir)


def _checkpoint(workdir: Path) -> dict[str, bytes]:
    """The arrays of the last checkpoint: parameters of both sides, moments, centres, count."""
    import jax
    import numpy as np
    import orbax.checkpoint as ocp

    step = max(int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdigit())
    tree = ocp.StandardCheckpointer().restore((workdir / "checkpoints" / str(step) / "state").resolve())
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {f"checkpoint {step} {jax.tree_util.keystr(path)}": np.asarray(leaf).tobytes() for path, leaf in leaves}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10, help="for each number of workers")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2], help="values of data.workers")
    parser.add_argument("--seed", type=int, default=0, help="of the steps at which it is killed")
    parser.add_argument("--train", default="all", metavar="WORD", help="what is trained, as in model.train")
    parser.add_argument("--folder", default="", help="where the runs lie; default: a new temporary folder")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
