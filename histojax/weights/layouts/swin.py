"""Names of CTransPath (the authors' modified timm 0.5.4) and of the plain Swin, as Microsoft and newer timm save it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import replace
from typing import Any

from histojax.weights.layouts import Layout
from histojax.weights.layouts.parts import batch_norm, linear, norm, patch_embed
from histojax.weights.mapping import TensorRule

_BLOCK, _PATH = "layers.{stage}.blocks.{block}", "stage{stage}/blocks/block{block}"

_STAGES: tuple[TensorRule, ...] = (
    *norm("patch_embed.norm", "stem/norm"),
    *norm(f"{_BLOCK}.norm1", f"{_PATH}/norm1"),
    *linear(f"{_BLOCK}.attn.qkv", f"{_PATH}/attn/qkv"),
    *linear(f"{_BLOCK}.attn.proj", f"{_PATH}/attn/proj"),
    TensorRule(f"{_BLOCK}.attn.relative_position_bias_table", f"{_PATH}/rel_pos"),
    *norm(f"{_BLOCK}.norm2", f"{_PATH}/norm2"),
    *linear(f"{_BLOCK}.mlp.fc1", f"{_PATH}/mlp/fc1"),
    *linear(f"{_BLOCK}.mlp.fc2", f"{_PATH}/mlp/fc2"),
    *norm("norm", "norm"),
)
_CONV_STEM: tuple[TensorRule, ...] = (
    TensorRule("patch_embed.proj.0.weight", "stem/conv1/kernel", "conv"),
    *batch_norm("patch_embed.proj.1", "stem/bn1"),
    TensorRule("patch_embed.proj.3.weight", "stem/conv2/kernel", "conv"),
    *batch_norm("patch_embed.proj.4", "stem/bn2"),
    TensorRule("patch_embed.proj.6.weight", "stem/conv3/kernel", "conv"),
    TensorRule("patch_embed.proj.6.bias", "stem/conv3/bias"),
)
_PATCH_STEM = patch_embed("patch_embed.proj", "stem/proj")


def _merging(name: str, path: str) -> tuple[TensorRule, ...]:
    reduction = TensorRule(f"{name}.downsample.reduction.weight", f"{path}/downsample/reduction/kernel", "linear")
    return (*norm(f"{name}.downsample.norm", f"{path}/downsample/norm"), reduction)


_MERGING_LAST = _merging("layers.{stage}", "stage{stage}")
# timm >= 0.9 counts the merging to the stage that it leads to; how many there are, `_faults` checks
_STAGES_AT_MOST = 8  # sides are halved: more would need pictures of 8192 px
_MERGING_FIRST = tuple(
    replace(rule, optional=True)
    for stage in range(_STAGES_AT_MOST - 1)
    for rule in _merging(f"layers.{stage + 1}", f"stage{stage}")
)


def _faults(tree: Mapping[str, Any]) -> list[str]:
    """Complaints about patch merging: every stage but the last one ends with it."""
    stages, faults = sum(key.startswith("stage") for key in tree), []
    for number in range(stages):
        found = tree.get(f"stage{number}", {}).get("downsample", {})
        leaves = {f"{part}/{leaf}" for part, inner in found.items() for leaf in inner}
        wanted = {"norm/scale", "norm/bias", "reduction/kernel"} if number < stages - 1 else set()
        if leaves != wanted:
            lost, more = (", ".join(sorted(names)) for names in (wanted - leaves, leaves - wanted))
            faults.append(
                f"patch merging after stage {number} {f'lacks {lost}' if lost else f'is one too many: {more}'}"
            )
    return faults


def _recognise(stem: str, first: bool) -> Callable[[Set[str]], str]:
    def recognise(names: Set[str]) -> str:
        mark = "layers.0.downsample.reduction.weight"
        if stem not in names or "layers.0.blocks.0.norm1.weight" not in names or (mark in names) is not first:
            return ""
        return f"{stem} and {mark} {'present' if first else 'absent'}"

    return recognise


def _layout(name: str, stem: tuple[TensorRule, ...], merging: tuple[TensorRule, ...]) -> Layout:
    mark = "patch_embed.proj.6.weight" if stem is _CONV_STEM else "patch_embed.proj.weight"
    ignore = ("*.relative_position_index", "*.attn_mask", "*.num_batches_tracked", "head.*")
    rules = (*stem, *_STAGES, *merging)
    return Layout(name, rules, _recognise(mark, merging is _MERGING_LAST), ignore=ignore, family="swin", faults=_faults)


LAYOUTS = (
    _layout("ctranspath", _CONV_STEM, _MERGING_LAST),
    _layout("ctranspath-timm", _CONV_STEM, _MERGING_FIRST),
    _layout("microsoft", _PATCH_STEM, _MERGING_LAST),
    _layout("timm", _PATCH_STEM, _MERGING_FIRST),
)
