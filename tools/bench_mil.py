"""Training the transformer on bags beside the same model in PyTorch with its fused attention, on the CPU.

    python tools/bench_mil.py [--bags 10] [--shortest 500] [--longest 5000]
    pip install '.[bench]' && python tools/bench_mil.py --peer [--only torch]

Both take the same steps (AdamW, a bag a step, float32) from the same weights on the same bags, in turns; the losses
must agree. A line of JSON, seconds for a bag. Compiling is told beside it: it happens once for each of the few lengths
that bags are padded to, and is kept between runs by the compilation cache. With --only, one of them alone, for its
peak of memory.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the checkout that this tool lies in

import jax
import numpy as np
from bench_common import OURS, Spent, need, peak_gib, summary, tell, timed

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


SIDES = {OURS: jax_side, "torch": torch_side}


def make_bags(count: int, shortest: int, longest: int, inputs: int) -> list[np.ndarray]:
    """Bags of random features whose lengths are spread evenly, in a random order."""
    rng = np.random.default_rng(0)
    lengths = rng.permutation(np.linspace(shortest, longest, count).astype(int))
    return [rng.normal(size=(n, inputs)).astype(np.float32) for n in lengths]


def one_pass(side: Side, bags: list[np.ndarray]) -> tuple[list[float], Spent]:
    """(losses, seconds a bag) of a pass over the bags."""
    losses, spent = timed(lambda: [float(side(x, i % 2)) for i, x in enumerate(bags)])
    return losses, Spent(spent.wall / len(bags), spent.cpu / len(bags))


def main(argv: list[str] | None = None) -> int:
    """Prints the line; 1 if the losses of the two differ by more than 1e-3."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bags", type=int, default=10)
    parser.add_argument("--shortest", type=int, default=500)
    parser.add_argument("--longest", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--peer", action="store_true", help="PyTorch in turns")
    parser.add_argument("--only", choices=SIDES)
    args = parser.parse_args(argv)
    names = [args.only] if args.only else [OURS, "torch"] if args.peer else [OURS]
    need(parser, *(["torch"] if "torch" in names else []))
    settings = HeadSettings("transformer", 768, 1, width=args.width)
    params = draw_params(settings, 0)
    bags = make_bags(args.bags, args.shortest, args.longest, settings.inputs)
    told: dict[str, Any] = {}
    if OURS in names:
        _, first = one_pass(jax_side(settings, params), bags)
        told["first_pass_with_compiling_cpu_seconds"] = round(first.cpu * len(bags), 1)
    sides = {name: SIDES[name](settings, params) for name in names}
    found: dict[str, list[Spent]] = {name: [] for name in names}
    apart = 0.0
    for turn in range(args.rounds):
        losses = {}
        for name in names if turn % 2 == 0 else reversed(names):
            losses[name], spent = one_pass(sides[name], bags)
            found[name].append(spent)
        if len(names) == 2:
            apart = max(apart, float(np.abs(np.subtract(*losses.values())).max()))
    if len(names) == 2:
        told["losses_apart"] = apart
    case = f"transformer, {args.bags} bags of {args.shortest} to {args.longest} x {settings.inputs}"
    tell("mil", case=case, unit="bag", **summary(found), **told, peak_gib=peak_gib())
    return int(apart > 1e-3)


if __name__ == "__main__":
    sys.exit(main())
