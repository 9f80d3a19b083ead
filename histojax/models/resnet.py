"""ResNet with bottleneck blocks, torchvision's v1.5 (He et al. 2016; stride in the 3x3 convolution).

RetCCL (Wang et al. 2023) is the same network without the classifier. BatchNorm uses its running statistics.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from histojax.models.blocks import Conv, batch_norm, in_order, numbered


@dataclasses.dataclass(frozen=True)
class ResNetConfig:
    """Static description of a ResNet; the defaults are ResNet-50's."""

    blocks: tuple[int, ...] = (3, 4, 6, 3)  # of the stages; fewer stages give a truncated network
    planes: tuple[int, ...] = (64, 128, 256, 512)  # width of the 3x3 convolutions of each stage
    stem: int = 64
    expansion: int = 4
    classes: int = 0  # 0: no classifier
    eps: float = 1e-5  # of BatchNorm

    @property
    def features(self) -> int:
        """Width of the pooled feature."""
        return self.planes[len(self.blocks) - 1] * self.expansion


RESNET50 = ResNetConfig(classes=1000)
RESNET50_TRUNCATED = ResNetConfig(blocks=(3, 4, 6), planes=(64, 128, 256))  # up to layer3
RETCCL = ResNetConfig()


class Bottleneck(nnx.Module):
    """1x1, 3x3 (strided) and 1x1 convolutions, each with BatchNorm, around a shortcut."""

    def __init__(self, inputs: int, planes: int, stride: int, c: ResNetConfig, *, project: bool, rngs: nnx.Rngs):
        outputs = planes * c.expansion
        self.conv1, self.bn1 = Conv(inputs, planes, 1, rngs=rngs), batch_norm(planes, c.eps, rngs)
        self.conv2 = Conv(planes, planes, 3, stride=stride, pad=1, rngs=rngs)
        self.bn2 = batch_norm(planes, c.eps, rngs)
        self.conv3, self.bn3 = Conv(planes, outputs, 1, rngs=rngs), batch_norm(outputs, c.eps, rngs)
        self.project = project
        if project:
            self.downsample = Conv(inputs, outputs, 1, stride=stride, rngs=rngs)
            self.downsample_bn = batch_norm(outputs, c.eps, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = jax.nn.relu(self.bn1(self.conv1(x)))
        y = jax.nn.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        shortcut = self.downsample_bn(self.downsample(x)) if self.project else x
        return jax.nn.relu(y + shortcut)


class ResNet(nnx.Module):
    """ResNet encoder; see `__call__`. Stages are the attributes layer1, layer2, ... as in torchvision."""

    def __init__(self, config: ResNetConfig, rngs: nnx.Rngs):
        c = self.config = config
        self.conv1 = Conv(3, c.stem, 7, stride=2, pad=3, rngs=rngs)
        self.bn1 = batch_norm(c.stem, c.eps, rngs)
        inputs = c.stem
        for number, (depth, planes) in enumerate(zip(c.blocks, c.planes), start=1):
            stage = []
            for i in range(depth):
                stride = 2 if i == 0 and number > 1 else 1
                stage.append(Bottleneck(inputs, planes, stride, c, project=i == 0, rngs=rngs))
                inputs = planes * c.expansion
            setattr(self, f"layer{number}", numbered(stage))
        if c.classes:
            self.fc = nnx.Linear(inputs, c.classes, rngs=rngs)

    def __call__(self, images: jax.Array) -> dict[str, jax.Array]:
        """Maps and features of images (N, H, W, 3), float32 and normalised, of any size.

        Returns `stem` (N, H/4, W/4, stem), `layer1`.. (N, h, w, 4 * planes), `pooled` (N, features): the mean over
        the last stage's map, and with a classifier `logits` (N, classes).
        """
        x = jax.nn.relu(self.bn1(self.conv1(images)))
        out = {"stem": max_pool(x)}
        x = out["stem"]
        for number in range(1, len(self.config.blocks) + 1):
            for block in in_order(getattr(self, f"layer{number}")):
                x = block(x)
            out[f"layer{number}"] = x
        out["pooled"] = x.mean((1, 2))
        if self.config.classes:
            out["logits"] = self.fc(out["pooled"])
        return out


def max_pool(x: jax.Array) -> jax.Array:
    """Maximum over 3x3 windows with stride 2, padded by one pixel of -inf; (N, ceil(H/2), ceil(W/2), C)."""
    pad = ((0, 0), (1, 1), (1, 1), (0, 0))
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), pad)
