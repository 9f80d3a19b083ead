"""The static side of a run: networks, losses and their settings, fixed before anything is compiled."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh

from histojax.models.lora import declare_pairs, has_pairs
from histojax.models.parts import FIRST
from histojax.models.vit import ViT, ViTConfig
from histojax.parallel.sharding import Layout
from histojax.ssl.augment import CropConfig
from histojax.ssl.choice import ALL, Choice
from histojax.ssl.heads import Head, HeadConfig
from histojax.ssl.optimizer import adamw, parameter_groups
from histojax.ssl.state import TrainState
from histojax.ssl.targets import Centre
from histojax.ssl.trainable import split

Tree = Any


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """Weights and constants of the losses; the meaning of each is in histojax.config."""

    centering: str = "sinkhorn"
    dino_weight: float = 1.0
    ibot_weight: float = 1.0
    koleo_weight: float = 0.1
    koleo_eps: float = 1e-4
    kde_weight: float = 0.0
    kde_kappa: float = 5.0
    student_temp: float = 0.1
    token_chunk: int = 256
    targets: str = "auto"  # see ssl.patch_targets


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything about a run but its arrays. Hashable, so a compiled step belongs to one recipe."""

    vit: ViTConfig
    head: HeadConfig
    ibot_head: HeadConfig | None  # None: iBOT shares the head of DINO
    crops: CropConfig
    loss: LossConfig
    mask_probability: float = 0.5
    mask_ratio: tuple[float, float] = (0.1, 0.5)
    shards: int = 1  # parts of the batch with masks, KoLeo neighbours and iBOT centre of their own
    layer_decay: float = 0.9
    patch_embed_lr: float = 0.2
    clip_norm: float = 3.0
    betas: tuple[float, float] = (0.9, 0.999)
    accumulate: int = 1  # parts of the batch that go through the networks one after the other, see ssl.accumulate
    train: Choice = ALL
    batching: str = "map"  # how crops are made, see ssl.augment
    features_px: int = 224
    platform: str = "cpu"  # that the step is compiled for: "cpu", "gpu" or "tpu"
    layout: Layout | None = None  # of a step over several devices, see make_step

    @property
    def modules(self) -> tuple[str, ...]:
        """Names of the submodules of student and teacher."""
        return ("backbone", "dino_head", "ibot_head") if self.ibot_head else ("backbone", "dino_head")

    def over(self, mesh: Mesh | None) -> Recipe:
        """The recipe for steps over the devices of a mesh; None or one of a single device: for one device."""
        return dataclasses.replace(self, layout=None if mesh is None or mesh.size == 1 else Layout(mesh))

    def init(self, key: jax.Array) -> Tree:
        """Random parameters {"backbone": ..., "dino_head": ..., ["ibot_head": ...]}, the reference's distributions."""
        keys = dict(zip(("backbone", "dino_head", "ibot_head"), jax.random.split(key, 3)))
        make = {
            "backbone": lambda r: ViT(self.vit, r),
            "dino_head": lambda r: Head(self.head, r),
            "ibot_head": lambda r: Head(self.ibot_head, r),  # type: ignore[arg-type]
        }
        return {m: nnx.to_pure_dict(nnx.state(make[m](nnx.Rngs(keys[m])))) for m in self.modules}

    def start(self, student: Tree, teacher: Tree | None = None, key: jax.Array | None = None) -> TrainState:
        """The state before the first step. Without a teacher it is an exact copy of the student, heads included.

        Where a part of the backbone is frozen, both networks have the teacher's. `key` draws new low-rank pairs.
        """
        trainable, frozen = split(student, self.train, key)
        if teacher is None:
            copy = jax.tree.map(jnp.array, trainable)
        else:
            copy, frozen = split(teacher, self.train, key)
        ibot = self.ibot_head or self.head
        centres = {
            "dino": Centre(jnp.zeros(self.head.prototypes, jnp.float32), jnp.zeros(self.head.prototypes, jnp.float32)),
            "ibot": Centre(jnp.zeros(ibot.prototypes, jnp.float32), jnp.zeros(ibot.prototypes, jnp.float32)),
        }
        moments = self.optimizer(trainable, {}).init(trainable)
        return TrainState(jnp.int32(0), {"student": trainable, "teacher": copy}, frozen, moments, centres)

    def backbone(self, params: Tree, images: jax.Array, masks: jax.Array | None = None, **how: Any) -> dict:
        """Tokens of normalised images by a backbone that is whole or merged (models.parts), see ViT.__call__."""
        rest = {name: part for name, part in params.items() if name != FIRST}
        if self.layout:
            ends = {name: part for name, part in rest.items() if name != "blocks"}
            rest |= self.layout.gather(ends, "backbone")
            how["gather"] = partial(self.layout.gather, prefix="backbone/blocks")
        network = nnx.merge(_vit_graph(self.vit, has_pairs(params["blocks"])), rest)
        return network(images, masks, first_blocks=params.get(FIRST), **how)

    def project(self, params: Tree, module: str, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(bottleneck features, prototypes) of tokens by the head `module`, see Head.__call__."""
        module = module if module in params else "dino_head"
        config = self.ibot_head if module == "ibot_head" else self.head
        head = self.layout.gather(params[module], module) if self.layout else params[module]
        return nnx.merge(_head_graph(config), head)(tokens)

    def optimizer(self, student: Tree, schedule: Mapping[str, Any]) -> optax.GradientTransformation:
        """AdamW with the multipliers of every leaf of a trainable tree, at one step's values of the schedules."""
        groups = parameter_groups(student, self.vit.depth, self.layer_decay, self.patch_embed_lr)
        return adamw(groups, schedule, *self.betas)


def _vit_graph(config: ViTConfig, pairs: bool = False) -> nnx.GraphDef:
    """The graph of a ViT, with low-rank pairs in its blocks if there are any."""

    def make() -> ViT:
        network = ViT(config, nnx.Rngs(0))
        if pairs:
            declare_pairs(network.blocks)
        return network

    return nnx.graphdef(nnx.eval_shape(make))


def _head_graph(config: HeadConfig | None) -> nnx.GraphDef:
    assert config is not None
    return nnx.graphdef(nnx.eval_shape(lambda: Head(config, nnx.Rngs(0))))
