"""The network that is run, and its parameters: of a weight file, of a tree at hand, or random."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from histojax.common.errors import UserError
from histojax.models.network import POOLINGS, abstract, family, feature_width
from histojax.models.resnet import ResNetConfig
from histojax.models.vit import ViTConfig
from histojax.weights.backbone import open_backbone
from histojax.weights.pos_embed import mode_of
from histojax.weights.trees import flatten, unflatten
from histojax.weights.vit_tree import grid_of, regrid, with_class_row
from histojax.zoo.record import EncoderRecord

Tree = dict[str, Any]
DTYPES = ("float32", "bfloat16", "float16")


def run_config(record: EncoderRecord, dtype: Any = "float32") -> Any:
    """The configuration that is run: of the record's input size, and without what features do not need."""
    config, changes = record.network, {}
    if str(dtype) not in DTYPES and getattr(dtype, "__name__", "") not in DTYPES:
        raise UserError(f"dtype={dtype!r}: known are {', '.join(DTYPES)}")
    if isinstance(config, ViTConfig):
        changes = {"positions": "cls", "mask_token": False, "image": record.preprocess.side}
    if isinstance(config, ResNetConfig):
        changes = {"classes": 0}
    if any(field.name == "dtype" for field in dataclasses.fields(config)):
        changes["dtype"] = jnp.dtype(dtype).type
    return dataclasses.replace(config, **changes)


def read_parameters(path: str | Path, record: EncoderRecord, which: str | None = None) -> tuple[Tree, list[str]]:
    """(parameters of the network that is run, notes on every step) from a weight file of the record's network.

    Its layout is recognised; `which` is "teacher" or "student" where it has both (default: the teacher). A grid of
    positions of another size than the input's is resampled once, here, as the model's library does it (the
    configuration's `interpolation`). Raises UserError for a file of another network, see weights.backbone.
    """
    config = run_config(record)
    found = open_backbone(path, family=family(config), which=which)
    if not isinstance(config, ViTConfig):
        tree, _, notes = found.read(abstract(config)[1])
        return tree, notes
    expected = dataclasses.replace(config, image=(found.position_grid() or config.grid) * config.patch)
    tree, _, notes = found.read(abstract(expected)[1])
    tree, more = fit_parameters(tree, config)
    return tree, notes + more


def fit_parameters(tree: Tree, config: ViTConfig) -> tuple[Tree, list[str]]:
    """(parameters as the ViT that is run has them, notes) of a ViT's tree: position rows, their grid, no mask token."""
    tree = {name: part for name, part in with_class_row(dict(tree)).items() if name != "mask_token"}
    stored, grid = grid_of(tree), config.grid
    if stored == grid:
        return tree, []
    note = f"position grid {stored} x {stored} resampled to {grid} x {grid} ({config.interpolation})"
    return regrid(tree, grid, config.interpolation), [note]


def with_pooling(record: EncoderRecord, pooling: str) -> EncoderRecord:
    """The record with another feature; raises UserError if its network does not have that one."""
    if pooling not in POOLINGS:
        raise UserError(f"unknown pooling {pooling!r}; known are {', '.join(POOLINGS)}")
    config = run_config(record)
    try:
        width = feature_width(config, pooling, record.preprocess.side)
    except KeyError:
        raise UserError(f"{record.name}: its network ({family(config)}) has no feature {pooling!r}") from None
    return dataclasses.replace(record, pooling=pooling, features=width)


def with_positions(record: EncoderRecord, positions: str) -> EncoderRecord:
    """The record with a position grid that is resampled as a library does it: a key of weights.pos_embed.LIBRARIES.

    Raises UserError for an unknown library, and for a network whose positions are not resampled.
    """
    config = record.network
    if not isinstance(config, ViTConfig):
        raise UserError(
            f"{record.name}: positions={positions!r} is for ViTs: the positions of its network ({family(config)}) are "
            "not resampled; leave it out"
        )
    mode = mode_of(positions, config.registers > 0)
    if mode == config.interpolation:
        return record
    return dataclasses.replace(record, network=dataclasses.replace(config, interpolation=mode), positions=mode)


def without_resize(record: EncoderRecord) -> EncoderRecord:
    """The record for tiles that have the network's input size and are fed as they are."""
    rule = record.preprocess
    return dataclasses.replace(record, preprocess=dataclasses.replace(rule, size=rule.side, crop=None, filter="none"))


def random_parameters(config: Any, seed: int) -> Tree:
    """A parameter tree, the same on every machine: kernels N(0, 1 / fan in), tokens and positions N(0, 0.02**2),
    norms and LayerScale the identity, no biases."""
    rng = np.random.default_rng(seed)
    flat = {path: _random_leaf(path, leaf.shape, rng) for path, leaf in flatten(abstract(config)[1]).items()}
    return unflatten(flat)


def _random_leaf(path: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    last = path.rpartition("/")[2]
    if last in ("scale", "var", "gamma"):
        return np.ones(shape, np.float32)
    if last in ("bias", "mean"):
        return np.zeros(shape, np.float32)
    fan_in = math.prod(shape[:-1]) if len(shape) == 4 else shape[-2]  # a convolution, else maybe a stack of layers
    std = np.float32(fan_in**-0.5 if last == "kernel" else 0.02)
    return rng.standard_normal(shape, np.float32) * std
