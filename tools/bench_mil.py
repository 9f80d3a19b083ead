"""Training the transformer on bags beside the same model in PyTorch with its fused attention, on the CPU.

    pip install '.[bench]' && python tools/bench_mil.py [--bags 100] [--shortest 500] [--longest 5000] [--only jax]

Both take the same steps (AdamW, a bag a step, float32) from the same weights on the same bags, in turns; the losses
must agree. A JSON line a round: CPU seconds of each for the bags given, and for 100 bags. Compiling is a line of its
own: it happens once for each of the few lengths that bags are padded to, and is kept between runs where
JAX_COMPILATION_CACHE_DIR says so. With --only, one of them alone, for its peak of memory.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the checkout that this tool lies in

import jax
import numpy as np

from histojax.evaluation.mil.bags import padded
from histojax.evaluation.mil.models import draw_params
from histojax.evaluation.mil.settings import HeadSettings, TrainSettings
from histojax.evaluation.mil.steps import optimiser, single_step

Side = Callable[[np.ndarray, int], Any]  # a training step on a bag (n, d) of class 0 or 1, the loss comes back
TRAINING = TrainSettings()


def jax_side(settings: HeadSettings, params: Any) -> Side:
    """histojax."""
    step = single_step(settings, TRAINING, "classification")
    now = [jax.tree.map(jax.numpy.array, params), optimiser(TRAINING).init(params)]

    def run(x: np.ndarray, label: int) -> Any:
        *now[:], loss = step(*now, *padded(x), np.float32([label]), np.float32(1), None)
        return loss

    return run


def torch_side(settings: HeadSettings, params: Any) -> Side:
    """Not the reference's code: a plain module that does the same work."""
    import torch
    from torch.nn import functional as F

    leaves = {
        jax.tree_util.keystr(path, simple=True, separator="/"): torch.nn.Parameter(torch.from_numpy(np.array(leaf)))
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }

    def linear(name: str, x: Any) -> Any:
        return F.linear(x, leaves[f"{name}/kernel"].T, leaves.get(f"{name}/bias"))

    def norm(name: str, x: Any) -> Any:
        return F.layer_norm(x, x.shape[-1:], leaves[f"{name}/scale"], leaves[f"{name}/bias"], settings.eps)

    def logits(x: Any) -> Any:
        x = torch.cat([leaves["cls"].expand(1, 1, -1), F.relu(linear("projection", x))], 1)
        for i in range(settings.depth):
            layer = f"layer{i}"
            qkv = linear(f"{layer}/qkv", norm(f"{layer}/norm1", x))
            q, k, v = qkv.reshape(1, x.shape[1], 3, settings.heads, -1).permute(2, 0, 3, 1, 4)
            attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape)
            x = x + linear(f"{layer}/out", attended)
            x = x + linear(f"{layer}/fc2", F.gelu(linear(f"{layer}/fc1", norm(f"{layer}/norm2", x))))
        return linear("head", norm("head_norm", norm("norm", x[:, 0])))

    adamw = torch.optim.AdamW(leaves.values(), lr=TRAINING.learning_rate, weight_decay=TRAINING.weight_decay)

    def run(x: np.ndarray, label: int) -> float:
        adamw.zero_grad(set_to_none=True)
        loss = F.binary_cross_entropy_with_logits(logits(torch.from_numpy(x)[None]), torch.full((1, 1), float(label)))
        loss.backward()
        adamw.step()
        return float(loss.detach())

    return run


SIDES = {"jax": jax_side, "torch": torch_side}


def make_bags(count: int, shortest: int, longest: int, inputs: int) -> list[np.ndarray]:
    """Bags of random features whose lengths are spread evenly, in a random order."""
    rng = np.random.default_rng(0)
    lengths = rng.permutation(np.linspace(shortest, longest, count).astype(int))
    return [rng.normal(size=(n, inputs)).astype(np.float32) for n in lengths]


def seconds(side: Side, bags: list[np.ndarray]) -> tuple[float, list[float]]:
    """(CPU seconds, losses) of a pass over the bags."""
    began = time.process_time()
    losses = [side(x, i % 2) for i, x in enumerate(bags)]
    losses = [float(loss) for loss in losses]
    return time.process_time() - began, losses


def main(argv: list[str] | None = None) -> int:
    """Prints the lines; 1 if the losses of the two differ by more than 1e-3."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bags", type=int, default=10)
    parser.add_argument("--shortest", type=int, default=500)
    parser.add_argument("--longest", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--only", choices=SIDES)
    args = parser.parse_args(argv)
    settings = HeadSettings("transformer", 768, 1, width=args.width)
    params = draw_params(settings, 0)
    bags = make_bags(args.bags, args.shortest, args.longest, settings.inputs)
    if not args.only or args.only == "jax":
        compiling, _ = seconds(jax_side(settings, params), bags)
    names = [args.only] if args.only else list(SIDES)
    sides = {name: SIDES[name](settings, params) for name in names}
    apart = 0.0
    for number in range(args.rounds):
        spent, losses = {}, {}
        for name in names:
            spent[name], losses[name] = seconds(sides[name], bags)
        line: dict[str, Any] = {"round": number, "bags": len(bags)}
        line |= {f"{name}_cpu_seconds": round(value, 2) for name, value in spent.items()}
        line |= {f"{name}_cpu_seconds_100_bags": round(value * 100 / len(bags), 1) for name, value in spent.items()}
        if len(names) == 2:
            apart = max(apart, float(np.abs(np.subtract(losses["jax"], losses["torch"])).max()))
            line |= {"ratio": round(spent["torch"] / spent["jax"], 2), "losses_apart": apart}
        print(json.dumps(line), flush=True)
    last: dict[str, Any] = {"peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)}
    if "jax" in names:
        last["first_pass_with_compiling_cpu_seconds"] = round(compiling, 1)
    print(json.dumps(last))
    return int(apart > 1e-3)


if __name__ == "__main__":
    sys.exit(main())
