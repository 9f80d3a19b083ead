"""From a checked configuration to what ssl takes: the recipe of a run and its schedules."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from ml_collections import ConfigDict

from histojax.common.errors import UserError
from histojax.models.layers import cudnn_fault
from histojax.models.sizes import SIZES
from histojax.models.vit import ViTConfig, vit_config
from histojax.ssl.augment import CropConfig
from histojax.ssl.choice import parse_choice
from histojax.ssl.heads import HeadConfig
from histojax.ssl.recipe import LossConfig, Recipe
from histojax.ssl.schedules import Cosine, Schedules, scaled_lr


def recipe_of(config: ConfigDict, platform: str = "cpu", devices: int = 1) -> Recipe:
    """The recipe of a checked configuration on `devices` devices of a platform ("cpu", "gpu", "tpu").

    Raises UserError for an attention that the platform does not have.
    """
    if config.model.attention == "cudnn" and platform != "gpu":
        raise UserError(f"config: model.attention=cudnn needs an NVIDIA GPU, and jax runs on {platform}: use auto")
    dtype = compute_dtype(config.compute_dtype, platform)
    vit = backbone_config(config, dtype, platform)
    o = config.optim
    crops: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in config.crops.items()}
    head, ibot = config.head, config.ibot_head
    return Recipe(
        vit=vit,
        head=HeadConfig(vit.dim, head.prototypes, head.bottleneck, head.hidden, head.layers, dtype),
        ibot_head=HeadConfig(vit.dim, ibot.prototypes, ibot.bottleneck, ibot.hidden, ibot.layers, dtype)
        if ibot.separate
        else None,
        crops=CropConfig(**crops),
        loss=LossConfig(**config.loss.to_dict()),
        mask_probability=config.masks.probability,
        mask_ratio=tuple(config.masks.ratio),
        shards=config.mesh.batch_shards or devices,
        layer_decay=o.layer_decay,
        patch_embed_lr=o.patch_embed_lr,
        clip_norm=o.clip_norm,
        betas=(o.beta1, o.beta2),
        accumulate=config.accumulate,
        train=parse_choice(config.model.train, vit.depth, vit.dim),
        batching="map" if platform == "cpu" else "vmap",
        features_px=config.eval.image_px,
        platform=platform,
    )


def sharers(config: ConfigDict, devices: int) -> int:
    """How many of so many devices share one copy of the state."""
    return (config.mesh.fsdp_devices or devices) if config.mesh.fsdp else 1


def check_sharers(config: ConfigDict, devices: int) -> None:
    """Raises UserError if the devices cannot share copies of the state as the configuration says."""
    if devices % sharers(config, devices):
        said = f"mesh.fsdp_devices={config.mesh.fsdp_devices}"
        raise UserError(f"{said} does not divide the {devices} devices evenly; give a divisor, or 0 for all")


def schedules_of(config: ConfigDict) -> Schedules:
    """The schedules of a checked configuration, over all its steps."""
    length, o, t = config.epoch_steps, config.optim, config.teacher
    steps = config.epochs * length
    peak = scaled_lr(o.base_lr, config.batch_size)
    warm = int(t.temp_warmup_epochs * length)
    return Schedules(
        lr=Cosine(peak, o.min_lr, steps, int(o.warmup_epochs * length)),
        weight_decay=Cosine(o.weight_decay, o.weight_decay_end, steps),
        momentum=Cosine(t.momentum, t.momentum_end, steps),
        teacher_temp=Cosine(t.temp, t.temp, warm, warm, t.temp_start),
        freeze_last_layer=int(o.freeze_last_layer_epochs * length),
        freeze_backbone=o.freeze_backbone_steps,
    )


def attention_for(asked: str, width: int, dtype: Any, platform: str) -> str:
    """The attention for heads of that width where `asked` is "auto", see models.layers.attention.

    On GPUs cuDNN's flash attention in 16 bits, which forms no scores, where it can be used. On TPUs what XLA makes of
    the plain one: the flash kernel that jax ships wants lengths of a multiple of 128, so that the 50 tokens of a
    local crop become 128, and moves more bytes in all (an estimate of the compiler, for a ViT-S on a v5e).
    """
    if asked != "auto":
        return asked
    if dtype == jnp.float32:
        return "einsum"
    return "cudnn" if platform == "gpu" and not cudnn_fault(width) else "xla"


def backbone_config(config: ConfigDict, dtype: Any = jnp.float32, platform: str = "cpu") -> ViTConfig:
    """The ViT of a configuration.

    Its position grid is that of the global crops, or the one that model.grid_px names, which each crop size then takes
    resampled within the step, as DINOv2 takes its grid of 518 px: training and read-out share one table. At 112 px
    every entry of a grid for 224 px is moved; of one for 518 px 32 of 37 rows are, and 16 of 37 at 56 px.
    """
    m = config.model
    dim, _, heads, _ = SIZES[m.size]
    changes = {} if m.ffn == "auto" else {"ffn": m.ffn}
    interpolation = ("antialias" if m.registers else "offset") if m.interpolation == "auto" else m.interpolation
    return vit_config(
        m.size,
        patch=m.patch,
        image=m.grid_px or config.crops.global_px,
        registers=m.registers,
        layerscale=m.layerscale,
        interpolation=interpolation,
        drop_path=m.drop_path,
        drop_path_uniform=m.drop_path_uniform,
        attention=attention_for(m.attention, dim // heads, dtype, platform),
        remat=m.remat,
        dtype=dtype,
        **changes,
    )


def compute_dtype(name: str, platform: str) -> Any:
    """The dtype of the matrix products: "auto" is float32 on CPUs, where 16 bits are slower, else bfloat16."""
    if name == "auto":
        name = "float32" if platform == "cpu" else "bfloat16"
    return jnp.dtype(name).type
