"""The check of a training configuration: impossible values are refused by name, before anything is compiled."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from histojax.common.errors import UserError
from histojax.config import leaves, paper
from histojax.models.sizes import SIZES
from histojax.ssl.choice import parse_choice


class Range(NamedTuple):
    """Numbers that a leaf may have; `above` and `below` leave the ends out."""

    low: float = 0
    high: float = math.inf
    above: bool = False
    below: bool = False

    def holds(self, value: Any) -> bool:
        """Whether a value is a finite number in the range."""
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            return False
        return (self.low < value if self.above else self.low <= value) and (
            value < self.high if self.below else value <= self.high
        )

    def __str__(self) -> str:
        low = f"above {self.low:g}" if self.above else f"{self.low:g} or more"
        high = f"below {self.high:g}" if self.below else f"{self.high:g} or less"
        return low if self.high == math.inf else f"{low}, {high}"


_WHOLE = {
    Range(1): "epochs epoch_steps batch_size accumulate model.patch crops.global_px crops.local_px head.prototypes "
    "head.bottleneck head.hidden head.layers ibot_head.prototypes ibot_head.bottleneck ibot_head.hidden "
    "ibot_head.layers loss.token_chunk data.tile_px eval.every eval.max_tiles eval.image_px eval.batch_size eval.k "
    "checkpoint.every checkpoint.keep log.every",
    Range(): "seed model.registers model.grid_px crops.local_crops teacher.temp_warmup_epochs optim.warmup_epochs "
    "optim.freeze_last_layer_epochs optim.freeze_backbone_steps data.workers eval.split_seed "
    "monitor.grace_steps mesh.batch_shards mesh.fsdp_devices",
}
_NUMBERS = {
    Range(): "loss.dino_weight loss.ibot_weight loss.koleo_weight loss.kde_weight optim.base_lr optim.min_lr "
    "optim.weight_decay optim.weight_decay_end optim.patch_embed_lr optim.clip_norm crops.brightness crops.contrast "
    "crops.saturation",
    Range(1): "crops.aspect",
    Range(above=True): "model.layerscale loss.koleo_eps loss.kde_kappa loss.student_temp teacher.temp "
    "teacher.temp_start",
    Range(0, 0.5): "crops.hue",
    Range(0, 1): "teacher.momentum teacher.momentum_end crops.hflip crops.vflip crops.transpose crops.jitter_p "
    "crops.grayscale_p crops.solarize_p crops.hed_scale crops.hed_shift data.max_bad_share",
    Range(0, 1, above=True): "masks.probability optim.layer_decay",
    Range(0, 1, below=True): "model.drop_path optim.beta1 optim.beta2 eval.validation_share",
    Range(0, 1, above=True, below=True): "eval.test_share",
}
_PAIRS = ("crops.global_scale", "crops.local_scale", "masks.ratio")
_THREE = ("crops.blur_p", "crops.hed_p")
_CHOICES = {
    "model.size": tuple(SIZES),
    "model.ffn": ("auto", "mlp", "swiglu"),
    "model.position_load": ("paper", "offset", "antialias"),
    "model.interpolation": ("auto", "offset", "antialias"),
    "model.attention": ("auto", "einsum", "xla", "cudnn"),
    "model.remat": ("none", "block", "dots"),
    "loss.centering": ("sinkhorn", "softmax"),
    "loss.targets": ("auto", "kept", "formed", "parts"),
    "monitor.action": ("stop", "continue"),
    "checkpoint.best": ("auto", "knn", "rankme", "last"),
    "compute_dtype": ("auto", "float32", "bfloat16"),
}
_LAYOUTS = ("meta", "timm", "hf")


def check(config: ConfigDict) -> None:
    """Raises UserError that names every impossible leaf, its value and what was expected."""
    problems = list(_unknown_leaves(config)) or list(_impossible(config)) or list(_together(config))
    if problems:
        raise UserError("config: " + "; ".join(problems))


def _unknown_leaves(c: ConfigDict) -> Iterator[str]:
    known = {name for name, _ in leaves(paper())}
    found = {name for name, _ in leaves(c)}
    for name in sorted(found - known):
        yield f"{name} is not a leaf of the configuration"
    for name in sorted(known - found):
        yield f"{name} is missing: start from histojax.config.paper()"


def _impossible(c: ConfigDict) -> Iterator[str]:
    """Leaves that no other leaf could make possible."""
    value = dict(leaves(c))
    for allowed, names in _WHOLE.items():
        for name in names.split():
            if not (isinstance(value[name], int) and allowed.holds(value[name])):
                yield f"{name}={value[name]!r} must be a whole number, {allowed}"
    for allowed, names in _NUMBERS.items():
        for name in names.split():
            if not allowed.holds(value[name]):
                yield f"{name}={value[name]!r} must be a number, {allowed}"
    for name in _PAIRS:
        if not (_shares(value[name], 2) and value[name][0] <= value[name][1] > 0):
            yield f"{name}={value[name]!r} must be two numbers from 0 to 1, the second not smaller and above 0"
    for name in _THREE:
        if not _shares(value[name], 3):
            yield f"{name}={value[name]!r} must be three numbers from 0 to 1: global 1, global 2, local"
    for name, choices in _CHOICES.items():
        if value[name] not in choices:
            yield f"{name}={value[name]!r} is not one of {', '.join(choices)}"
    for layout in value["export.layouts"]:
        if layout not in _LAYOUTS:
            yield f"export.layouts={layout!r} is not one of {', '.join(_LAYOUTS)}"
    if c.stop_step is not None and c.stop_step < 1:
        yield f"stop_step={c.stop_step} must be 1 or more (leave it unset to run all steps)"
    if not c.data.train:
        yield "data.train is empty: name a folder, CSV, zip, tile store, tfds:NAME:SPLIT or synthetic"


def _shares(values: Any, count: int) -> bool:
    """Whether `values` are so many numbers from 0 to 1."""
    return isinstance(values, (tuple, list)) and len(values) == count and all(map(Range(0, 1).holds, values))


def batch_faults(c: ConfigDict, shards: int, devices: int = 1) -> Iterator[str]:
    """What the batch is too small for, or does not divide into, in so many shards on so many devices."""
    images = c.batch_size // shards
    if c.batch_size % shards:
        yield f"batch_size={c.batch_size} is not a multiple of its {shards} shards (mesh.batch_shards)"
        return
    whole = math.lcm(shards, devices)
    if c.accumulate > 1 and c.batch_size % (whole * c.accumulate):
        yield (
            f"accumulate={c.accumulate} parts do not divide batch_size={c.batch_size} evenly"
            + (f": each needs a multiple of {whole} images (the shards and devices)" if whole > 1 else "")
        )
    comparing = [name for name in ("koleo_weight", "kde_weight") if c.loss[name] and images < 2]
    if comparing:
        names = " or ".join(f"loss.{name}" for name in comparing)
        yield f"batch_size={c.batch_size} leaves one image a shard, and {names} above 0 needs two"
    elif int(2 * images * c.masks.probability) < 1:
        yield (
            f"masks.probability={c.masks.probability} masks none of the {2 * images} global crops of a "
            "shard (to train without iBOT set loss.ibot_weight=0)"
        )


def _together(c: ConfigDict) -> Iterator[str]:
    """Leaves that are possible each, but not together."""
    m = c.model
    for name, px in (("global_px", c.crops.global_px), ("local_px", c.crops.local_px)):
        if px % m.patch:
            low = max(px // m.patch, 1) * m.patch
            yield f"crops.{name}={px} is not a multiple of model.patch={m.patch} (try {low} or {low + m.patch})"
    for name, px in (("eval.image_px", c.eval.image_px), ("model.grid_px", m.grid_px)):
        if px % m.patch:
            yield f"{name}={px} is not a multiple of model.patch={m.patch}"
    if m.attention == "cudnn" and c.compute_dtype == "float32":
        yield "model.attention=cudnn needs compute_dtype=bfloat16 (or auto, on a GPU)"
    try:
        parse_choice(m.train, depth=SIZES[m.size][1], width=SIZES[m.size][0])
    except ValueError as error:
        yield f"model.train={error}"
    yield from batch_faults(c, max(c.mesh.batch_shards, 1))
    for step in c.export.steps:
        if not isinstance(step, int) or step < 0:  # one after the end is told in the plan
            yield f"export.steps={step!r} is not a step, 0 being the start"
