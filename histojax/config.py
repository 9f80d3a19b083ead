"""The training configuration: every leaf with its meaning and the paper's value, and the check before a run.

`paper()` is the setting of Roth, Koch et al. 2023 (arXiv 2401.04720) as their code ran it; `dinov2()` is the
recipe of Oquab et al. 2023 as in the released `vitl16_short` configuration. A file in `configs/` starts from one
of them and changes what differs. `check` refuses impossible values by name before anything is compiled.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from histojax.errors import UserError

SIZES = {  # name: (width, depth, heads, default feed-forward)
    "vit_micro": (64, 2, 2, "mlp"),
    "vit_mini": (192, 6, 3, "mlp"),
    "vit_tiny": (192, 12, 3, "mlp"),
    "vit_small": (384, 12, 6, "mlp"),
    "vit_base": (768, 12, 12, "mlp"),
    "vit_large": (1024, 24, 16, "mlp"),
    "vit_giant2": (1536, 40, 24, "swiglu"),
}


def paper() -> ConfigDict:
    """The paper's ViT-S/14 run on NCT-CRC-HE-100K, with every other leaf at its default."""
    c = ConfigDict()
    c.name = "paper"
    c.seed = 0
    c.epochs = 100  # an "epoch" is a unit of the schedules, not a pass over the data
    c.epoch_steps = 100
    c.stop_step = placeholder(int)  # stop early with the schedules unchanged; the paper's NCT ViT-S stops at 2000
    c.batch_size = 256  # images a step, over all devices
    c.compute_dtype = "auto"  # float32 on CPU, bfloat16 on GPU and TPU; or name one
    c.model = _model()
    c.crops = _crops()
    c.masks = ConfigDict(dict(probability=0.5, ratio=(0.1, 0.5)))
    c.head = ConfigDict(dict(prototypes=65536, bottleneck=256, hidden=2048, layers=3))
    c.ibot_head = ConfigDict(dict(separate=False, prototypes=65536, bottleneck=256, hidden=2048, layers=3))
    c.loss = _loss()
    c.teacher = ConfigDict(dict(momentum=0.994, momentum_end=1.0, temp=0.07, temp_start=0.04, temp_warmup_epochs=30))
    c.optim = _optim()
    c.data = _data()
    c.eval = _eval()
    c.monitor = ConfigDict(dict(action="stop", grace_steps=200))  # or "continue": log the verdict and go on
    c.checkpoint = ConfigDict(dict(every=500, keep=2, keep_best=True))
    c.export = ConfigDict(dict(layouts=("meta", "timm"), steps=()))  # also at these steps, not only at the end
    c.log = ConfigDict(dict(every=10, tensorboard=True))
    c.mesh = ConfigDict(dict(fsdp=False, groups=0))  # groups 0: as many as devices (see ssl.step)
    return c


def _model() -> ConfigDict:
    return ConfigDict(
        dict(
            size="vit_small",
            patch=14,
            registers=0,
            ffn="auto",  # auto: what the size uses; mlp; swiglu
            weights="",  # a published name, a local file, or "" for a random start
            weights_key="auto",  # of a file with both networks: teacher, student, or auto (teacher if it is there)
            continue_from="",  # go on with a training: its files (teacher, student, heads; commas), or their folder
            position_load="paper",  # resampling of the stored grid at load: paper, offset or antialias
            interpolation="auto",  # for local crops: offset without registers, antialias with them
            layerscale=1.0,  # initial value of a random start; a weights file brings its own
            drop_path=0.0,  # the paper's configuration says 0.4, its code used 0
            drop_path_uniform=True,
            attention="auto",  # auto, einsum, xla, cudnn
            remat="dots",  # the backward pass recomputes: none, dots (all but big products), block (all: least memory)
            train="all",  # all, last:K (K blocks and the final norm), norms (norms and biases)
        )
    )


def _crops() -> ConfigDict:
    return ConfigDict(
        dict(
            global_px=224,
            local_px=98,
            local_crops=8,
            global_scale=(0.32, 1.0),
            local_scale=(0.05, 0.32),
            hflip=0.5,
            vflip=0.5,
            jitter_p=0.8,
            brightness=0.4,
            contrast=0.4,
            saturation=0.2,
            hue=0.1,
            grayscale_p=0.2,
            blur_p=(0.0, 0.9, 0.5),  # global 1, global 2, local: as released; the intended (1.0, 0.1, 0.5)
            solarize_p=0.2,
        )
    )


def _loss() -> ConfigDict:
    return ConfigDict(
        dict(
            centering="sinkhorn",  # or "softmax"
            dino_weight=1.0,
            ibot_weight=1.0,
            koleo_weight=0.1,
            koleo_eps=1e-4,  # added to every component of the difference; the original 1e-8 is unsafe
            student_temp=0.1,
            token_chunk=256,  # masked tokens scored against the prototypes at a time
        )
    )


def _optim() -> ConfigDict:
    return ConfigDict(
        dict(
            base_lr=2e-4,  # at batch 1024; scaled by sqrt(batch / 1024)
            min_lr=1e-6,
            warmup_epochs=10,
            weight_decay=0.04,
            weight_decay_end=0.2,
            layer_decay=0.9,
            patch_embed_lr=0.2,
            clip_norm=3.0,  # per submodule: backbone, each head
            freeze_last_layer_epochs=1,
            beta1=0.9,
            beta2=0.999,
        )
    )


def _data() -> ConfigDict:
    return ConfigDict(
        dict(
            train="",  # folder, CSV, zip, tile store, tfds:NAME:SPLIT, synthetic[:N]; commas join several
            tile_px=224,  # decode size: shorter side resized to it, then centre crop
            workers=0,  # decoding processes; 0 decodes in threads of the main one
            max_bad_share=0.05,  # unreadable tiles tolerated before the run stops
        )
    )


def _eval() -> ConfigDict:
    return ConfigDict(
        dict(
            every=1000,
            data="",  # labelled tiles; "" uses the training tiles when they are labelled
            test="",  # a separate labelled set; "" splits `data` by patient, else by class
            test_share=0.5,
            split_seed=0,
            max_tiles=4000,
            image_px=224,
            batch_size=64,
            k=20,
        )
    )


def dinov2() -> ConfigDict:
    """DINOv2 as its short ViT-L/16 configuration trains it from random weights, with the blur as intended.

    KoLeo keeps the paper's epsilon: with the original 1e-8 two equal tiles give a gradient 10,000 times larger,
    which then owns every clipped step (loss.koleo_eps=1e-8 has it back).
    """
    c = paper()
    c.name = "dinov2"
    c.epoch_steps = 1250
    c.batch_size = 2048
    c.model.update(dict(size="vit_large", patch=16, drop_path=0.3, drop_path_uniform=True, layerscale=1e-5))
    c.crops.update(dict(local_px=96, vflip=0.0, blur_p=(1.0, 0.1, 0.5)))
    c.loss.centering = "softmax"
    c.teacher.update(dict(momentum=0.992))
    c.optim.update(dict(base_lr=4e-3, weight_decay_end=0.4))
    c.eval.every = 12500
    return c


def total_steps(config: ConfigDict) -> int:
    """Steps of the schedules; a run may stop before, at `stop_step`."""
    return config.epochs * config.epoch_steps


def last_step(config: ConfigDict) -> int:
    """Steps that the run does."""
    return min(config.stop_step or total_steps(config), total_steps(config))


def leaves(config: ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of every leaf, sorted."""
    for key in sorted(config):
        value = config[key]
        if isinstance(value, ConfigDict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def check(config: ConfigDict) -> None:
    """Raises UserError that names every impossible leaf, its value and what was expected."""
    problems = [p for p in _problems(config) if p]
    if problems:
        raise UserError("config: " + "; ".join(problems))


def _problems(c: ConfigDict) -> Iterator[str]:
    yield from _unknown_leaves(c)
    yield from _model_problems(c)
    yield from _number_problems(c)
    if not c.data.train:
        yield "data.train is empty: name a folder, CSV, zip, tile store, tfds:NAME:SPLIT or synthetic"
    if c.loss.koleo_weight and c.batch_size // max(c.mesh.groups, 1) < 2:
        yield f"batch_size={c.batch_size} leaves one image a group: KoLeo needs two (or loss.koleo_weight=0)"
    if c.mesh.groups and c.batch_size % c.mesh.groups:
        yield f"batch_size={c.batch_size} is not a multiple of mesh.groups={c.mesh.groups}"


def _unknown_leaves(c: ConfigDict) -> Iterator[str]:
    known = {name for name, _ in leaves(paper())}
    found = {name for name, _ in leaves(c)}
    for name in sorted(found - known):
        yield f"{name} is not a leaf of the configuration"
    for name in sorted(known - found):
        yield f"{name} is missing: start from histojax.config.paper()"


def _model_problems(c: ConfigDict) -> Iterator[str]:
    m, crops = c.model, c.crops
    if m.size not in SIZES:
        yield f"model.size={m.size!r} is not one of {', '.join(SIZES)}"
    for name, px in (("global_px", crops.global_px), ("local_px", crops.local_px)):
        if px % m.patch or px < m.patch:
            low = max(px // m.patch, 1) * m.patch
            yield f"crops.{name}={px} is not a multiple of model.patch={m.patch} (try {low} or {low + m.patch})"
    if c.eval.image_px % m.patch:
        yield f"eval.image_px={c.eval.image_px} is not a multiple of model.patch={m.patch}"
    yield _choice("model.ffn", m.ffn, ("auto", "mlp", "swiglu"))
    yield _choice("model.weights_key", m.weights_key, ("auto", "teacher", "student"))
    yield _choice("model.position_load", m.position_load, ("paper", "offset", "antialias"))
    yield _choice("model.interpolation", m.interpolation, ("auto", "offset", "antialias"))
    yield _choice("model.attention", m.attention, ("auto", "einsum", "xla", "cudnn"))
    yield _choice("model.remat", m.remat, ("none", "block", "dots"))
    yield _choice("loss.centering", c.loss.centering, ("sinkhorn", "softmax"))
    yield _choice("monitor.action", c.monitor.action, ("stop", "continue"))
    yield _choice("compute_dtype", c.compute_dtype, ("auto", "float32", "bfloat16"))
    for layout in c.export.layouts:
        yield _choice("export.layouts", layout, ("meta", "timm", "hf"))
    yield _train_problem(m)


def _train_problem(m: ConfigDict) -> str:
    if m.train in ("all", "norms"):
        return ""
    kind, _, count = str(m.train).partition(":")
    depth = SIZES[m.size][1] if m.size in SIZES else 1
    if kind == "last" and count.isdigit() and 1 <= int(count) <= depth:
        return ""
    return f"model.train={m.train!r} is not all, norms or last:K with 1 <= K <= {depth}"


def _choice(name: str, value: Any, allowed: tuple[str, ...]) -> str:
    return "" if value in allowed else f"{name}={value!r} is not one of {', '.join(allowed)}"


def _number_problems(c: ConfigDict) -> Iterator[str]:
    for name in _POSITIVE:
        value = _get(c, name)
        if not (isinstance(value, int) and value > 0):
            yield f"{name}={value!r} must be a whole number above 0"
    for name in _NOT_NEGATIVE:
        value = _get(c, name)
        if not (isinstance(value, (int, float)) and value >= 0 and math.isfinite(value)):
            yield f"{name}={value!r} must be a number, 0 or more"
    for name in _SHARES:
        value = _get(c, name)
        if not (isinstance(value, (int, float)) and 0 <= value <= 1):
            yield f"{name}={value!r} must lie between 0 and 1"
    for name in ("crops.global_scale", "crops.local_scale", "masks.ratio"):
        pair = _get(c, name)
        if len(pair) != 2 or not all(isinstance(x, (int, float)) for x in pair) or not 0 <= pair[0] <= pair[1] <= 1:
            yield f"{name}={pair!r} must be an increasing pair within 0 and 1"
    if c.stop_step is not None and c.stop_step < 1:
        yield f"stop_step={c.stop_step} must be 1 or more (leave it unset to run all steps)"


def _get(c: ConfigDict, name: str) -> Any:
    value: Any = c
    for part in name.split("."):
        value = value[part]
    return value


_POSITIVE = (
    "epochs epoch_steps batch_size model.patch crops.global_px crops.local_px head.prototypes head.bottleneck "
    "head.hidden head.layers ibot_head.prototypes ibot_head.bottleneck ibot_head.hidden ibot_head.layers "
    "loss.token_chunk data.tile_px eval.every eval.max_tiles eval.image_px eval.batch_size eval.k "
    "checkpoint.every checkpoint.keep log.every"
).split()
_NOT_NEGATIVE = (
    "seed model.registers crops.local_crops loss.dino_weight loss.ibot_weight loss.koleo_weight loss.koleo_eps "
    "loss.student_temp teacher.temp teacher.temp_start teacher.temp_warmup_epochs optim.base_lr optim.min_lr "
    "optim.warmup_epochs optim.weight_decay optim.weight_decay_end optim.layer_decay optim.patch_embed_lr "
    "optim.clip_norm optim.freeze_last_layer_epochs crops.brightness crops.contrast crops.saturation crops.hue "
    "data.workers mesh.groups monitor.grace_steps"
).split()
_SHARES = (
    "masks.probability model.drop_path teacher.momentum teacher.momentum_end optim.beta1 optim.beta2 "
    "crops.hflip crops.vflip crops.jitter_p crops.grayscale_p crops.solarize_p data.max_bad_share eval.test_share"
).split()
