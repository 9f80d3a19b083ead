"""The arithmetic of tools/bench_step.py in plain PyTorch (eager), to compare speed on the same machine.

    pip install '.[bench]' && python tools/bench_step_torch.py [--batch 8] [--size vit_small] [--autocast] [--steps 3]

Not the reference's code: a plain ViT/14 with the same crops, heads, Sinkhorn, losses, AdamW and EMA, with random
inputs and weights, so that both programs do the same work. Augmentation is left out. --autocast: matrix products in
bfloat16 as PyTorch's autocast has them. The steps are told on stderr, the readings as a line of JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys

import torch
from bench_common import peak_gib, timed
from torch import nn
from torch.nn import functional as F

SIZES = {"vit_tiny": (192, 12, 3), "vit_small": (384, 12, 6), "vit_base": (768, 12, 12), "vit_large": (1024, 24, 16)}
PIXELS = (224, 98)  # of global and local crops


class Block(nn.Module):
    """Pre-norm block with LayerScale."""

    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim, 1e-6), nn.LayerNorm(dim, 1e-6)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.fc1, self.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        self.g1, self.g2 = nn.Parameter(torch.ones(dim)), nn.Parameter(torch.ones(dim))

    def forward(self, x):
        b, t, d = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(b, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        a = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, d)
        x = x + self.g1 * self.proj(a)
        return x + self.g2 * self.fc2(F.gelu(self.fc1(self.norm2(x))))


class Network(nn.Module):
    """Backbone and head."""

    def __init__(self, size, prototypes):
        super().__init__()
        dim, depth, heads = SIZES[size]
        self.patch = nn.Conv2d(3, dim, 14, 14)
        self.cls, self.positions = (nn.Parameter(0.02 * torch.randn(1, n, dim)) for n in (1, 257))
        self.blocks = nn.Sequential(*[Block(dim, heads) for _ in range(depth)])
        self.norm = nn.LayerNorm(dim, 1e-6)
        self.mlp = nn.Sequential(
            nn.Linear(dim, 2048), nn.GELU(), nn.Linear(2048, 2048), nn.GELU(), nn.Linear(2048, 256)
        )
        self.v, self.g = nn.Parameter(torch.randn(prototypes, 256) / 16), nn.Parameter(torch.ones(prototypes, 1))

    def tokens(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1) + self.positions[:, : x.shape[1] + 1]
        return self.norm(self.blocks(x))

    def scores(self, x):
        return F.normalize(self.mlp(x), dim=-1) @ (self.g * F.normalize(self.v, dim=-1)).T


@torch.no_grad()
def sinkhorn(scores, temp=0.05):
    """Three rounds over prototypes and tokens."""
    q = torch.exp(scores / temp).T
    k, n = q.shape
    q /= q.sum()
    for _ in range(3):
        q /= q.sum(1, keepdim=True) * k
        q /= q.sum(0, keepdim=True) * n
    return (q * n).T


def koleo(x):
    """Distance to the nearest neighbour."""
    x = F.normalize(x, dim=-1)
    with torch.no_grad():
        near = (x @ x.T).fill_diagonal_(-1).argmax(1)
    return -torch.log(F.pairwise_distance(x, x[near], eps=1e-4) + 1e-8).mean()


def loss_of(student, teacher, wide, local, masked):
    """The loss on wide (2B, 3, 224, 224) and local crops (LB, 3, 98, 98); `masked` are indices of patches."""
    images = len(wide) // 2
    views = 2 + len(local) // images
    with torch.no_grad():
        t = teacher.tokens(wide)
        cls = sinkhorn(teacher.scores(t[:, 0]).float()).chunk(2)
        patches = sinkhorn(teacher.scores(t[:, 1:].flatten(0, 1)[masked]).float())
    s = student.tokens(wide)
    tokens = [s[:, 0], *([student.tokens(local)[:, 0]] if len(local) else []), s[:, 1:].flatten(0, 1)[masked]]
    scores = F.log_softmax(student.scores(torch.cat(tokens)).float() / 0.1, -1)
    seen = scores[: views * images].chunk(views)
    pairs = [(v, t) for v in range(views) for t in range(2) if v != t]
    loss = -sum((cls[t] * seen[v]).sum(-1).mean() for v, t in pairs) / len(pairs)
    loss = loss - (patches * scores[views * images :]).sum(-1).mean() / 2
    return loss + 0.1 * sum(koleo(x.float()) for x in s[:, 0].chunk(2))


def step(student, teacher, optimizer, inputs, autocast=False):
    """One step: loss, gradient, clip, AdamW, EMA."""
    with torch.autocast("cpu", torch.bfloat16) if autocast else contextlib.nullcontext():
        loss = loss_of(student, teacher, *inputs)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(student.parameters(), 3.0)
    optimizer.step()
    with torch.no_grad():
        for a, b in zip(teacher.parameters(), student.parameters()):
            a.mul_(0.994).add_(b, alpha=0.006)
    return float(loss.detach())


def main() -> None:
    """Runs the steps; the last line has the seconds of each and the peak of memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", default="vit_small", choices=SIZES)
    parser.add_argument("--local-crops", type=int, default=8)
    parser.add_argument("--prototypes", type=int, default=65536)
    parser.add_argument("--autocast", action="store_true")
    parser.add_argument("--steps", type=int, default=3, help="after one warm-up step")
    args = parser.parse_args()
    torch.manual_seed(0)
    student, teacher = (Network(args.size, args.prototypes) for _ in range(2))
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-4)
    b = args.batch
    inputs = (
        torch.randn(2 * b, 3, PIXELS[0], PIXELS[0]),
        torch.randn(args.local_crops * b, 3, PIXELS[1], PIXELS[1]),
        torch.randperm(2 * b * 256)[: int(0.15 * 2 * b * 256)].sort().values,
    )
    readings = []
    for i in range(args.steps + 1):
        loss, spent = timed(lambda: step(student, teacher, optimizer, inputs, args.autocast))
        print(f"step {i}: {spent.wall:.2f} s, {spent.cpu:.2f} CPU s, loss {loss:.4f}", file=sys.stderr, flush=True)
        readings.append(spent)
    print(json.dumps({"readings": readings[1:], "peak_gib": peak_gib()}))


if __name__ == "__main__":
    main()
