"""One short training by 1, 2, 4, 8 devices and by 1, 2, 4 processes: the same curves. One process killed: the run ends.

usage: python tools/many_processes.py [--devices 1 2 4 8] [--processes 1 2 4] [--fsdp 1 2] [--steps 20] [--folder DIR]

Everything runs on this machine's CPUs, the devices as host devices, the processes in touch over loopback. Each run
trains a two-block ViT on synthetic tissue; its losses and norms are compared with those of one device. At last one of
two processes is killed in the middle: the other one has to end with a message, and four processes go on to the end.
Leave XLA_FLAGS empty: with the flags of the tests (quick compilation) losses of one and of two devices were 2e-4 apart
from the first step on, for a reason not found yet; crops and masks of a batch were the same bits.
Exits with 1 where curves differ by more than 1e-5, or something hangs.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the checkout that this tool lies in

from histojax.runs.metrics import read_metrics  # noqa: E402

CONFIG = ROOT / "tests" / "tiny.py"
LIMIT = 1e-5  # between losses; the largest is near 10
MINUTE = 60.0
CHANGES = {
    "batch_size": 16,
    "mesh.batch_shards": 1,  # the loss compares all images, on however many devices
    "epochs": 4,
    "epoch_steps": 5,
    "stop_step": 20,
    "optim.base_lr": 1e-3,
    "data.train": "synthetic:256",
    "log.every": 1,
    "log.tensorboard": False,
    "eval.every": 10,
    "checkpoint.every": 5,
}


def main() -> int:
    """Exit code: 0 if all curves are the same and nobody waits for the dead."""
    args = _arguments()
    folder = Path(args.folder or tempfile.mkdtemp(prefix="many-processes-"))
    folder.mkdir(parents=True, exist_ok=True)
    CHANGES["stop_step"] = args.steps
    print(f"folder {folder}\nprocesses x devices  fsdp  largest difference of a loss, of a norm   seconds", flush=True)
    reference, bad = None, 0
    layouts = [(1, count) for count in args.devices] + [(count, 1) for count in args.processes if count > 1]
    for processes, devices in layouts:
        for fsdp in sorted({min(number, processes * devices) for number in args.fsdp}):
            workdir, began = folder / f"{processes}x{devices}_fsdp{fsdp}", time.monotonic()
            shared = ["--config.mesh.fsdp=true", f"--config.mesh.fsdp_devices={fsdp}"] if fsdp > 1 else []
            finish(start(workdir, processes, devices, [*_flags(), *shared]))
            rows = _rows(workdir)
            reference = reference or rows
            loss, norm = difference(reference, rows)
            bad += loss > LIMIT
            seconds = time.monotonic() - began
            print(f"{processes:9d} x {devices:<7d}  {fsdp:4d}  {loss:16.1e}  {norm:20.1e}  {seconds:14.0f}", flush=True)
    assert reference is not None
    return 1 if bad + _kill(folder / "killed", reference, args.steps) else 0


def start(
    workdir: Path, processes: int, devices: int, flags: Sequence[str], environment: dict[str, str] | None = None
) -> list[subprocess.Popen]:
    """The processes of one run, each with so many devices and with a log beside the folder."""
    env = dict(os.environ if environment is None else environment, JAX_PLATFORMS="cpu")
    others = [flag for flag in env.get("XLA_FLAGS", "").split() if "host_platform_device_count" not in flag]
    env["XLA_FLAGS"] = " ".join([*others, f"--xla_force_host_platform_device_count={devices}"])
    if processes > 1:
        env |= {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free_port()}", "JAX_NUM_PROCESSES": str(processes)}
    words = [sys.executable, "-m", "histojax.train", "--config", str(CONFIG), "--workdir", str(workdir), *flags]
    started = []
    for index in range(processes):
        if processes > 1:
            env["JAX_PROCESS_ID"] = str(index)
        with open(log_of(workdir, index), "ab") as log:
            started.append(subprocess.Popen(words, env=env, cwd=ROOT, stdout=log, stderr=log))
    return started


def finish(processes: Sequence[subprocess.Popen], seconds: float = 1800) -> list[int]:
    """Exit codes; SystemExit where one fails or hangs."""
    codes = ends(processes, seconds)
    if any(codes):
        raise SystemExit(f"exit codes {codes}: see the logs beside the run's folder")
    return codes


def ends(processes: Sequence[subprocess.Popen], seconds: float) -> list[int]:
    """Exit codes of all; those that are still there after so many seconds are killed."""
    deadline = time.monotonic() + seconds
    try:
        return [process.wait(max(deadline - time.monotonic(), 0.01)) for process in processes]
    except subprocess.TimeoutExpired:
        for process in processes:
            process.kill()
        return [process.wait() for process in processes]


def kill_when(
    processes: Sequence[subprocess.Popen], victim: int, due: Callable[[], bool], seconds: float = MINUTE
) -> tuple[list[int], float]:
    """(exit codes, seconds that the others lived on) after a SIGKILL to one of them as soon as it is due."""
    while not due() and all(process.poll() is None for process in processes):
        time.sleep(0.01)
    processes[victim].send_signal(signal.SIGKILL)
    began = time.monotonic()
    return ends(processes, seconds), time.monotonic() - began


def difference(reference: list[dict[str, float]], rows: list[dict[str, float]]) -> tuple[float, float]:
    """The largest difference between losses, and between norms of gradients relative to them; inf for other steps."""
    if [row["step"] for row in reference] != [row["step"] for row in rows]:
        return float("inf"), float("inf")
    losses, norms = [0.0], [0.0]
    for one, other in zip(reference, rows):
        for name, value in one.items():
            if name.startswith("grad_norm"):
                norms.append(abs(value - other[name]) / max(abs(value), 1e-12))
            else:
                losses.append(abs(value - other[name]))
    return max(losses), max(norms)


def log_of(workdir: Path, index: int) -> Path:
    """What that process of the run said."""
    return workdir.with_name(f"{workdir.name}.{index}.log")


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def _kill(workdir: Path, reference: list[dict[str, float]], steps: int) -> int:
    """1 if the others hang after one was killed, or if more processes do not go on to the same end."""
    processes = start(workdir, 2, 1, _flags())
    codes, seconds = kill_when(processes, 1, lambda: len(_rows(workdir)) >= 0.6 * steps)
    said = log_of(workdir, 0).read_text().strip().splitlines()[-1]
    step = len(_rows(workdir))
    how = f"the other ended after {seconds:.1f} s, exit code {codes[0]}, and said: {said}"
    print(f"process 1 of 2 killed after step {step}: {how}", flush=True)
    if seconds > MINUTE or codes[0] != 4:
        return 1
    finish(start(workdir, 4, 1, _flags()))
    loss, norm = difference(reference, _rows(workdir))
    print(f"four processes went on to the end: losses within {loss:.1e}, norms within {norm:.1e}", flush=True)
    return int(loss > LIMIT)


def _flags() -> list[str]:
    return [f"--config.{name}={value}" for name, value in CHANGES.items()]


def _rows(workdir: Path) -> list[dict[str, float]]:
    """The rows of training steps that were logged."""
    path = workdir / "metrics.jsonl"
    keep = ("step", "loss", "dino_global", "dino_local", "ibot", "koleo", "feature_spread", "teacher_entropy")
    rows = [row for row in read_metrics(path) if "loss" in row] if path.exists() else []
    return [{k: v for k, v in row.items() if k in keep or k.startswith("grad_norm")} for row in rows]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 2, 4, 8], help="of one process")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4], help="of one device each")
    parser.add_argument("--fsdp", type=int, nargs="+", default=[1], help="devices that share a copy of the state")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--folder", default="", help="where the runs lie; default: a new temporary folder")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
