"""Schedules of learning rate, decay, momentum and temperature (facebookresearch/dinov2, CosineScheduler)."""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Cosine:
    """Linear warm-up from `start` to `base`, then a half cosine to `final`, which holds from step `steps` on.

    The last warm-up step already has the value `base`, and so has the first one after it: the peak is doubled.
    """

    base: float
    final: float
    steps: int
    warmup: int = 0
    start: float = 0.0

    def __call__(self, step: np.ndarray | int) -> np.ndarray:
        """float64 values at 0-based steps of any shape."""
        t = np.asarray(step, np.float64)
        ramp = self.start + (self.base - self.start) * t / max(self.warmup - 1, 1)
        phase = np.pi * (t - self.warmup) / max(self.steps - self.warmup, 1)
        cosine = self.final + 0.5 * (self.base - self.final) * (1 + np.cos(phase))
        return np.where(t >= self.steps, self.final, np.where(t < self.warmup, ramp, cosine))


def scaled_lr(base_lr: float, batch_size: int) -> float:
    """Peak learning rate: base_lr * sqrt(batch_size / 1024), the batch counted over all devices."""
    return float(base_lr * np.sqrt(batch_size / 1024))


@dataclasses.dataclass(frozen=True)
class Schedules:
    """What changes from step to step, as functions of the 0-based step."""

    lr: Cosine
    weight_decay: Cosine
    momentum: Cosine
    teacher_temp: Cosine
    freeze_last_layer: int  # steps with a last-layer learning rate of 0
    freeze_backbone: int = 0  # steps with a learning rate of 0 for the backbone

    def table(self, steps: np.ndarray) -> dict[str, np.ndarray]:
        """float64 values at `steps`: lr, backbone_lr, last_layer_lr, weight_decay, momentum, teacher_temp."""
        lr = self.lr(steps)
        return {
            "lr": lr,
            "backbone_lr": np.where(np.asarray(steps) < self.freeze_backbone, 0.0, lr),
            "last_layer_lr": np.where(np.asarray(steps) < self.freeze_last_layer, 0.0, lr),
            "weight_decay": self.weight_decay(steps),
            "momentum": self.momentum(steps),
            "teacher_temp": self.teacher_temp(steps),
        }

    def at(self, step: int) -> dict[str, np.float32]:
        """The values of one step as float32 scalars, for the training step."""
        return {name: np.float32(value) for name, value in self.table(np.asarray(step)).items()}
