"""The static side of a run: networks, losses and their settings, fixed before anything is compiled."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from histojax.models.vit import ViT, ViTConfig
from histojax.ssl.augment import CropConfig
from histojax.ssl.heads import Head, HeadConfig
from histojax.ssl.optimizer import adam_state, parameter_groups
from histojax.ssl.state import TrainState
from histojax.ssl.targets import Centre

Tree = Any


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """Weights and constants of the losses; the meaning of each is in histojax.config."""

    centering: str = "sinkhorn"
    dino_weight: float = 1.0
    ibot_weight: float = 1.0
    koleo_weight: float = 0.1
    koleo_eps: float = 1e-4
    student_temp: float = 0.1
    token_chunk: int = 256


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
    groups: int = 1  # parts of the batch with masks, KoLeo neighbours and iBOT centre of their own
    layer_decay: float = 0.9
    patch_embed_lr: float = 0.2
    clip_norm: float = 3.0
    betas: tuple[float, float] = (0.9, 0.999)
    train: str = "all"
    batching: str = "map"  # how crops are made, see ssl.augment
    features_px: int = 224

    @property
    def frozen_blocks(self) -> int:
        """Blocks from the first on that no gradient has to reach."""
        return self.vit.depth - int(self.train[5:]) if self.train.startswith("last:") else 0

    @property
    def modules(self) -> tuple[str, ...]:
        """Names of the submodules of student and teacher."""
        return ("backbone", "dino_head", "ibot_head") if self.ibot_head else ("backbone", "dino_head")

    def init(self, key: jax.Array) -> Tree:
        """Random parameters {"backbone": ..., "dino_head": ..., ["ibot_head": ...]}, the reference's distributions."""
        keys = dict(zip(("backbone", "dino_head", "ibot_head"), jax.random.split(key, 3)))
        make = {
            "backbone": lambda r: ViT(self.vit, r),
            "dino_head": lambda r: Head(self.head, r),
            "ibot_head": lambda r: Head(self.ibot_head, r),  # type: ignore[arg-type]
        }
        return {m: nnx.to_pure_dict(nnx.state(make[m](nnx.Rngs(keys[m])))) for m in self.modules}

    def start(self, student: Tree, teacher: Tree | None = None) -> TrainState:
        """The state before the first step. Without a teacher it is an exact copy of the student, heads included."""
        copy = jax.tree.map(jnp.array, student if teacher is None else teacher)
        ibot = self.ibot_head or self.head
        centres = {
            "dino": Centre(jnp.zeros(self.head.prototypes, jnp.float32), jnp.zeros(self.head.prototypes, jnp.float32)),
            "ibot": Centre(jnp.zeros(ibot.prototypes, jnp.float32), jnp.zeros(ibot.prototypes, jnp.float32)),
        }
        return TrainState(jnp.int32(0), student, copy, adam_state(student), centres)

    def backbone(self, params: Tree, images: jax.Array, masks: jax.Array | None = None, **how: Any) -> dict:
        """Tokens of normalised images, see ViT.__call__."""
        return nnx.merge(_vit_graph(self.vit), params)(images, masks, **how)

    def project(self, params: Tree, module: str, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(bottleneck features, prototypes) of tokens by the head `module`, see Head.__call__."""
        module = module if module in params else "dino_head"
        config = self.ibot_head if module == "ibot_head" else self.head
        return nnx.merge(_head_graph(config), params[module])(tokens)

    def groups_of(self, params: Tree) -> Tree:
        """Learning-rate and weight-decay multipliers of every leaf, see ssl.optimizer."""
        return parameter_groups(params, self.vit.depth, self.layer_decay, self.patch_embed_lr, self.train)


def _vit_graph(config: ViTConfig) -> nnx.GraphDef:
    return nnx.graphdef(nnx.eval_shape(lambda: ViT(config, nnx.Rngs(0))))


def _head_graph(config: HeadConfig | None) -> nnx.GraphDef:
    assert config is not None
    return nnx.graphdef(nnx.eval_shape(lambda: Head(config, nnx.Rngs(0))))
