"""Names of torchvision's ResNet; timm, RetCCL and the safetensors of both use the same."""

from __future__ import annotations

from collections.abc import Set

from histojax.weights.layouts import Layout
from histojax.weights.layouts.parts import batch_norm, linear
from histojax.weights.mapping import TensorRule

_BLOCK, _PATH = "layer{stage}.{block}", "layer{stage}/block{block}"


def _conv_bn(name: str, number: int, path: str) -> tuple[TensorRule, ...]:
    conv = TensorRule(f"{name}.conv{number}.weight", f"{path}/conv{number}/kernel", "conv")
    return (conv, *batch_norm(f"{name}.bn{number}", f"{path}/bn{number}"))


RULES: tuple[TensorRule, ...] = (
    TensorRule("conv1.weight", "conv1/kernel", "conv"),
    *batch_norm("bn1", "bn1"),
    *_conv_bn(_BLOCK, 1, _PATH),
    *_conv_bn(_BLOCK, 2, _PATH),
    *_conv_bn(_BLOCK, 3, _PATH),
    TensorRule(f"{_BLOCK}.downsample.0.weight", f"{_PATH}/downsample/kernel", "conv", optional=True),
    *batch_norm(f"{_BLOCK}.downsample.1", f"{_PATH}/downsample_bn", optional=True),
    *linear("fc", "fc", optional=True),
)


def _recognise(names: Set[str]) -> str:
    marks = {"conv1.weight", "bn1.running_var", "layer1.0.conv3.weight", "layer1.0.downsample.0.weight"}
    return "layerN.M.conv3 with downsample.0" if marks <= names else ""


RESNET = Layout(
    "torchvision",
    RULES,
    _recognise,
    ignore=("*.num_batches_tracked", "fc.*.*"),  # MoCo has a projection head in the place of the classifier
    family="resnet",
    spare=("fc/*", "layer4/*"),  # models without classifier, and those that end with layer3
)
LAYOUTS = (RESNET,)
