"""Weights of HistoBistro's models of bags (github.com/peng-lab/HistoBistro): which model a file has, and its settings.

Names carry the prefix of a Lightning module, "model.", and the loss's `criterion.pos_weight` stands beside them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from histojax.common.errors import UserError
from histojax.evaluation.mil.head import Head
from histojax.evaluation.mil.models import abstract
from histojax.evaluation.mil.settings import HeadSettings, Model
from histojax.weights.mapping import Kind, TensorRule, to_tree
from histojax.weights.tensors import TensorFile

WEIGHT = "criterion.pos_weight"
HEAD_SIZE = 64  # features a head of the published models


def _linear(theirs: str, ours: str) -> tuple[TensorRule, ...]:
    return TensorRule(f"{theirs}.weight", f"{ours}/kernel", "linear"), TensorRule(f"{theirs}.bias", f"{ours}/bias")


def _norm(theirs: str, ours: str) -> tuple[TensorRule, ...]:
    return TensorRule(f"{theirs}.weight", f"{ours}/scale"), TensorRule(f"{theirs}.bias", f"{ours}/bias")


_LAYER = "transformer.layers.{i}"
_TRANSFORMER = (
    *_linear("projection.0", "projection"),
    TensorRule("cls_token", "cls"),
    *_norm(f"{_LAYER}.0.norm", "layer{i}/norm1"),
    TensorRule(f"{_LAYER}.0.fn.to_qkv.weight", "layer{i}/qkv/kernel", "linear"),
    *(
        TensorRule(rule.name, rule.path, rule.kind, optional=True)  # one head has none
        for rule in _linear(f"{_LAYER}.0.fn.to_out.0", "layer{i}/out")
    ),
    *_norm(f"{_LAYER}.1.norm", "layer{i}/norm2"),
    *_linear(f"{_LAYER}.1.fn.net.0", "layer{i}/fc1"),
    *_linear(f"{_LAYER}.1.fn.net.3", "layer{i}/fc2"),
    *_norm("norm", "norm"),
    *_norm("mlp_head.0", "head_norm"),
    *_linear("mlp_head.1", "head"),
)
_ATTENTION = (
    *_linear("encoder.0", "encoder"),
    *_linear("attention.linear1", "score1"),
    *_linear("attention.linear2", "score2"),
    *_linear("head.2", "head"),
)
_NYSTROM = "layer{i}"
_TAPS = Kind(lambda a: a[:, 0, :, 0].T, lambda a: a.T[:, None, :, None])  # (heads, 1, 33, 1) <-> (33, heads)
_GRID = Kind(
    lambda a: a[:, 0].transpose(1, 2, 0), lambda a: a.transpose(2, 0, 1)[:, None]
)  # (D, 1, k, k) <-> (k, k, D)
_TRANSMIL = (
    *_linear("_fc1.0", "projection"),
    TensorRule("cls_token", "cls"),
    *_norm(f"{_NYSTROM}.norm", "layer{i}/norm"),
    TensorRule(f"{_NYSTROM}.attn.to_qkv.weight", "layer{i}/qkv/kernel", "linear"),
    *_linear(f"{_NYSTROM}.attn.to_out.0", "layer{i}/out"),
    TensorRule(f"{_NYSTROM}.attn.res_conv.weight", "layer{i}/taps", _TAPS),
    *(
        rule
        for name, side in (("proj", 7), ("proj1", 5), ("proj2", 3))
        for rule in (
            TensorRule(f"pos_layer.{name}.weight", f"grid/kernel{side}", _GRID),
            TensorRule(f"pos_layer.{name}.bias", f"grid/bias{side}"),
        )
    ),
    *_norm("norm", "norm"),
    *_linear("_fc2", "head"),
)


class Layout(NamedTuple):
    """The files of one model."""

    model: Model
    mark: str  # a tensor that only this model has
    rules: tuple[TensorRule, ...]
    sizes: Mapping[str, tuple[str, int]]  # setting: tensor whose size along an axis it is


LAYOUTS = (
    Layout(
        "transformer",
        "transformer.layers.0.0.fn.to_qkv.weight",
        _TRANSFORMER,
        {"inputs": ("projection.0.weight", 1), "width": ("projection.0.weight", 0), "outputs": ("mlp_head.1.bias", 0)},
    ),
    Layout(
        "attention",
        "attention.linear1.weight",
        _ATTENTION,
        {
            "inputs": ("encoder.0.weight", 1),
            "width": ("encoder.0.weight", 0),
            "hidden": ("attention.linear1.weight", 0),
            "outputs": ("head.2.bias", 0),
        },
    ),
    Layout(
        "transmil",
        "layer1.attn.res_conv.weight",
        _TRANSMIL,
        {
            "inputs": ("_fc1.0.weight", 1),
            "width": ("_fc1.0.weight", 0),
            "heads": ("layer1.attn.res_conv.weight", 0),
            "outputs": ("_fc2.bias", 0),
        },
    ),
)


def read_published(file: TensorFile, heads: int = 0, pool: str = "") -> Head:
    """The head of an opened file, of two classes "negative" and "positive", or "class 0" and so on.

    Raises:
        UserError: no model of bags, one that is not known, or parameters that do not fit each other.
    """
    settings, tree = read_tree(file.path, file.tensors, heads, pool)
    weight = {_short(name): tensor for name, tensor in file.tensors.items()}.get(WEIGHT)
    facts: dict[str, Any] = {"source": f"{file.path.name}, written by HistoBistro"}
    if weight is not None:
        facts["positive_weight"] = float(weight.numpy().reshape(-1)[0])
    names = [f"class {i}" for i in range(settings.outputs)] if settings.outputs > 1 else ["negative", "positive"]
    return Head(settings, "classification", tuple(names), tree, facts)


def read_tree(
    path: Any, tensors: Mapping[str, Any], heads: int = 0, pool: str = "", dtype: Any = np.float32
) -> tuple[HeadSettings, dict[str, Any]]:
    """(settings, parameter tree) of named tensors, which fit each other; UserError as `read_published`."""
    tensors = {_short(name): tensor for name, tensor in tensors.items()}
    layout = next((one for one in LAYOUTS if one.mark in tensors), None)
    if layout is None:
        known = ", ".join(one.model for one in LAYOUTS)
        raise UserError(
            f"{path}: holds no head (model of bags): it is neither one that histojax saved nor HistoBistro's "
            f"{known}; its tensors are {', '.join(sorted(tensors)[:3])} ..."
        )
    settings = _settings(path, layout, tensors, heads, pool)
    tree, report = to_tree(tensors, layout.rules, ignore=(WEIGHT,), dtype=dtype)
    if "cls" in tree:
        tree["cls"] = tree["cls"].reshape(-1)
        report.shapes["cls"] = tree["cls"].shape
    report.raise_if_bad(abstract(settings)[1], file=path)
    if report.unused:
        raise UserError(f"{path}: has tensors that {layout.model} does not know: {', '.join(report.unused[:4])}")
    return settings, tree


def _short(name: str) -> str:
    return name.removeprefix("state_dict/").removeprefix("model.")


def _settings(path: Any, layout: Layout, tensors: Mapping[str, Any], heads: int, pool: str) -> HeadSettings:
    """What the shapes say; how many heads share the width they do not."""
    try:
        found: dict[str, Any] = {name: tensors[of].shape[axis] for name, (of, axis) in layout.sizes.items()}
    except (KeyError, IndexError) as error:
        raise UserError(f"{path}: {layout.model} without {error}; get the file again") from error
    if layout.model == "transformer":
        if not heads and found["width"] % HEAD_SIZE:
            raise UserError(
                f"{path}: {found['width']} features inside are no multiple of {HEAD_SIZE}, those of a published "
                "head; say how many heads there are"
            )
        found["heads"] = heads or found["width"] // HEAD_SIZE
        depths = {int(name.split(".")[2]) for name in tensors if name.startswith("transformer.layers.")}
        found |= {"depth": max(depths) + 1, "pool": pool or "cls"}
    if layout.model == "transmil":
        found["landmarks"] = found["width"] // 2  # as the published code has it
    return HeadSettings(model=layout.model, **found)
