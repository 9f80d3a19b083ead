"""The arithmetic of tools/bench_step.py in plain PyTorch (eager), to compare speed on the same machine.

    pip install '.[bench]' && python tools/bench_step_torch.py [--batch 8] [--steps 3]

Not the reference's code: a plain ViT-S/14 with the same crops, heads, Sinkhorn, losses, AdamW and EMA, with random
inputs and weights, so that both programs do the same work. Augmentation is left out.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time

import torch
from torch import nn
from torch.nn import functional as F

DIM, DEPTH, HEADS, PROTOTYPES = 384, 12, 6, 65536


class Block(nn.Module):
    """Pre-norm block with LayerScale."""

    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(DIM, 1e-6), nn.LayerNorm(DIM, 1e-6)
        self.qkv, self.proj = nn.Linear(DIM, 3 * DIM), nn.Linear(DIM, DIM)
        self.fc1, self.fc2 = nn.Linear(DIM, 4 * DIM), nn.Linear(4 * DIM, DIM)
        self.g1, self.g2 = nn.Parameter(torch.ones(DIM)), nn.Parameter(torch.ones(DIM))

    def forward(self, x):
        b, t, _ = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(b, t, 3, HEADS, DIM // HEADS).permute(2, 0, 3, 1, 4)
        a = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, DIM)
        x = x + self.g1 * self.proj(a)
        return x + self.g2 * self.fc2(F.gelu(self.fc1(self.norm2(x))))


class Network(nn.Module):
    """Backbone and head."""

    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(3, DIM, 14, 14)
        self.cls, self.positions = (nn.Parameter(0.02 * torch.randn(1, n, DIM)) for n in (1, 257))
        self.blocks, self.norm = nn.Sequential(*[Block() for _ in range(DEPTH)]), nn.LayerNorm(DIM, 1e-6)
        self.mlp = nn.Sequential(
            nn.Linear(DIM, 2048), nn.GELU(), nn.Linear(2048, 2048), nn.GELU(), nn.Linear(2048, 256)
        )
        self.v, self.g = nn.Parameter(torch.randn(PROTOTYPES, 256) / 16), nn.Parameter(torch.ones(PROTOTYPES, 1))

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


def step(student, teacher, optimizer, wide, local, masked):
    """One step on wide (2B, 3, 224, 224) and local crops (8B, 3, 98, 98); `masked` are indices of patches."""
    images = len(wide) // 2
    with torch.no_grad():
        t = teacher.tokens(wide)
        cls = sinkhorn(teacher.scores(t[:, 0])).chunk(2)
        patches = sinkhorn(teacher.scores(t[:, 1:].flatten(0, 1)[masked]))
    s = student.tokens(wide)
    tokens = torch.cat([s[:, 0], student.tokens(local)[:, 0], s[:, 1:].flatten(0, 1)[masked]])
    lsm = F.log_softmax(student.scores(tokens) / 0.1, -1)
    views = lsm[: 10 * images].chunk(10)
    pairs = [(v, t) for v in range(10) for t in range(2) if v != t]
    loss = -sum((cls[t] * views[v]).sum(-1).mean() for v, t in pairs) / 18
    loss = loss - (patches * lsm[10 * images :]).sum(-1).mean() / 2
    loss = loss + 0.1 * sum(koleo(x) for x in s[:, 0].chunk(2))
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(student.parameters(), 3.0)
    optimizer.step()
    with torch.no_grad():
        for a, b in zip(teacher.parameters(), student.parameters()):
            a.mul_(0.994).add_(b, alpha=0.006)
    return float(loss)


def main() -> None:
    """Runs the steps and prints wall and CPU seconds of each, and the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=3, help="after one warm-up step")
    args = parser.parse_args()
    torch.manual_seed(0)
    student, teacher = Network(), Network()
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-4)
    b = args.batch
    wide, local = torch.randn(2 * b, 3, 224, 224), torch.randn(8 * b, 3, 98, 98)
    masked = torch.randperm(2 * b * 256)[: int(0.15 * 2 * b * 256)].sort().values
    walls, cpus = [], []
    for i in range(args.steps + 1):
        wall, cpu = time.perf_counter(), time.process_time()
        loss = step(student, teacher, optimizer, wide, local, masked)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        print(f"step {i}: {wall:.2f} s, {cpu:.2f} CPU s, loss {loss:.4f}", flush=True)
        if i:
            walls.append(wall)
            cpus.append(cpu)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"median {statistics.median(walls):.2f} s, {statistics.median(cpus):.2f} CPU s a step, peak {peak:.2f} GiB")


if __name__ == "__main__":
    main()
