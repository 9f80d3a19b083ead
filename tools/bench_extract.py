"""Forward speed of our encoders beside PyTorch's, on this machine, in alternated rounds.

    pip install '.[bench]'                              # torch, timm and transformers, for the other side
    python tools/bench_extract.py                       # all models, three rounds: about ten minutes on two cores
    python tools/bench_extract.py vits14 --sides jax,torch,compiled --rounds 5
    python tools/bench_extract.py resnet50 --sides jax  # without PyTorch

Each reading is a process of its own, so that the thread pools of the two never meet; the sides take turns within a
round. Ours is the product's own path: load_encoder(NAME, weights="random"), then encoder.forward on a prepared uint8
batch, normalisation included. PyTorch gets a normalised float32 batch and runs in inference mode. Both float32, with
random parameters; compilation and the first batches are left out.

sides:
    jax         histojax
    torch       timm, eager; of CTransPath the plain Swin-T, as timm has no convolutional stem
    compiled    the same under torch.compile
    hf          Hugging Face transformers, eager (vits14, vitb16)

columns: images per second of wall-clock time, CPU seconds per image (all threads; the steadier figure on a machine that
is shared), and how many times fewer seconds we take than that side. Medians over the rounds; in brackets the range.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
SIDES = ("jax", "torch", "compiled", "hf")


class Model(NamedTuple):
    """One network on every side."""

    title: str
    ours: str  # a name of load_encoder
    timm: str
    options: dict[str, Any]  # of timm
    hf: str  # class of transformers, "" if it has none
    note: str = ""


MODELS = {
    "vits14": Model("ViT-S/14", "dinov2_vits14", "vit_small_patch14_dinov2", {"img_size": 224}, "Dinov2"),
    "vitb16": Model("ViT-B/16", "kaiko_vitb16", "vit_base_patch16_224", {}, "ViT"),
    "resnet50": Model("ResNet-50", "resnet50", "resnet50", {}, ""),
    "ctranspath": Model("CTransPath", "ctranspath", "swin_tiny_patch4_window7_224", {}, "", "torch: plain Swin-T"),
}
_HF = {  # sizes of ViT-S/14 and ViT-B/16
    "Dinov2": {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "patch_size": 14},
    "ViT": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "patch_size": 16},
}


def ours(model: Model, batch: int) -> Callable[[], Any]:
    """Return a function that computes the features of one batch through the product's own path."""
    sys.path.insert(0, str(ROOT))
    import numpy as np

    from histojax import load_encoder

    encoder = load_encoder(model.ours, weights="random", batch_size=batch)
    side = encoder.preprocess.side
    prepared = encoder.prepare(np.random.default_rng(0).integers(0, 256, (batch, side, side, 3), np.uint8))
    return lambda: np.asarray(encoder.forward(prepared))


def theirs(model: Model, batch: int, side: str) -> Callable[[], Any]:
    """Return a function that runs PyTorch's network on one batch."""
    import torch

    torch.manual_seed(0)
    if side == "hf":
        import transformers

        settings = getattr(transformers, f"{model.hf}Config")(image_size=224, **_HF[model.hf])
        network = getattr(transformers, f"{model.hf}Model")(settings).eval()
    else:
        import timm

        network = timm.create_model(model.timm, num_classes=0, **model.options).eval()
    if side == "compiled":
        network = torch.compile(network)
    images = torch.randn(batch, 3, 224, 224)

    def run() -> Any:
        with torch.inference_mode():
            return network(images)

    return run


def measure(name: str, side: str, batch: int, batches: int) -> dict[str, float]:
    """Return images per second and CPU seconds per image of one side, measured in this process."""
    model = MODELS[name]
    run = ours(model, batch) if side == "jax" else theirs(model, batch, side)
    for _ in range(2):
        run()
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(batches):
        run()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"images": batch * batches / wall, "cpu": cpu / (batch * batches)}


def reading(name: str, side: str, values: argparse.Namespace) -> dict[str, float]:
    """Return what `measure` says in a process of its own."""
    words = [sys.executable, __file__, name, "--one", side, "--batch", values.batch, "--batches", values.batches]
    done = subprocess.run([*map(str, words)], capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        sys.exit(f"bench_extract: error: {name}, {side}: {lines[-1]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def rounds(names: list[str], sides: list[str], values: argparse.Namespace) -> dict[tuple[str, str], list[dict]]:
    """Return all readings; the order of the sides turns from round to round."""
    found: dict[tuple[str, str], list[dict]] = {}
    for turn in range(values.rounds):
        for name in names:
            for side in sides if turn % 2 == 0 else reversed(sides):
                if side == "hf" and not MODELS[name].hf:
                    continue
                found.setdefault((name, side), []).append(reading(name, side, values))
                one = found[name, side][-1]
                progress = f"round {turn + 1} of {values.rounds}: {name:10s} {side:8s}"
                print(f"{progress} {one['images']:6.1f} images/s {one['cpu']:.3f} CPU s", file=sys.stderr, flush=True)
    return found


def table(found: dict[tuple[str, str], list[dict]], sides: list[str]) -> str:
    """Return a row a model and side: medians with their ranges, and how much faster we are."""
    lines = [
        f"{'model':11s} {'side':9s} {'images/s':>22s} {'CPU s / image':>24s} {'ours is faster, wall':>21s} {'CPU':>6s}"
    ]
    for (name, side), readings in sorted(
        found.items(), key=lambda item: (list(MODELS).index(item[0][0]), sides.index(item[0][1]))
    ):
        cells = [_cell([one[key] for one in readings], form) for key, form in (("images", "6.1f"), ("cpu", "6.3f"))]
        row = f"{MODELS[name].title:11s} {side:9s} {cells[0]:>22s} {cells[1]:>24s}"
        if side != "jax" and (name, "jax") in found:
            mine = found[name, "jax"]
            wall = _median(mine, "images") / _median(readings, "images")
            row += f" {wall:20.2f}x {_median(readings, 'cpu') / _median(mine, 'cpu'):5.2f}x"
            row += f"  {MODELS[name].note}" if side != "hf" and MODELS[name].note else ""
        lines.append(row)
    return "\n".join(lines)


def _cell(values: list[float], form: str) -> str:
    return f"{statistics.median(values):{form}} [{min(values):{form}},{max(values):{form}}]"


def _median(readings: list[dict], key: str) -> float:
    return statistics.median(one[key] for one in readings)


def main() -> int:
    """Exit code 0, or 2 with one line on stderr."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help=f"of {', '.join(MODELS)} (default: all)")
    parser.add_argument("--sides", default="jax,torch", help="in turn, with commas between (default: jax,torch)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=16, help="images (default: 16)")
    parser.add_argument("--batches", type=int, default=4, help="timed in each reading, after two that are not")
    parser.add_argument("--json", metavar="FILE", help="write all readings there")
    parser.add_argument("--one", choices=SIDES, help=argparse.SUPPRESS)
    values = parser.parse_args()
    names, sides = values.models or list(MODELS), values.sides.split(",")
    for given, known, what in ((names, MODELS, "model"), (sides, SIDES, "side")):
        if unknown := [one for one in given if one not in known]:
            parser.error(f"unknown {what} {unknown[0]!r}; known are {', '.join(known)}")
    if min(values.rounds, values.batch, values.batches) < 1:
        parser.error("--rounds, --batch and --batches must be 1 or more")
    if values.one:
        print(json.dumps(measure(names[0], values.one, values.batch, values.batches)))
        return 0
    needed = {"torch": ("torch", "timm"), "compiled": ("torch", "timm"), "hf": ("torch", "transformers")}
    missing = [name for side in sides for name in needed.get(side, ()) if importlib.util.find_spec(name) is None]
    if missing:
        parser.error(f"{missing[0]} is not installed: pip install '.[bench]', or --sides jax")
    print(f"load of the machine before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs", file=sys.stderr)
    found = rounds(names, sides, values)
    print(table(found, sides))
    if values.json:
        rows = [{"model": name, "side": side, "readings": readings} for (name, side), readings in found.items()]
        Path(values.json).write_text(json.dumps(rows, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
