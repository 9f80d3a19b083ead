"""Recorded inputs of training: which file belongs to a case, as our step takes it, and its masks against our own."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator
from functools import partial

import jax.numpy as jnp
import numpy as np

from histojax.ssl import masks as m
from histojax.ssl import step
from parity_cases.check import Check, compare, worst
from parity_cases.golden import ArrayFile, Arrays, Folder
from parity_cases.runs import TOTAL, has_passes, has_trajectory

FIRST = "step0/global_crops_i8"


@dataclasses.dataclass(frozen=True)
class Needs:
    """What a case says about its inputs; None: nothing."""

    steps: int
    images: int | None = None
    local_crops: int | None = None
    masked: tuple[int, ...] | None = None  # masked patches of each step

    def fits(self, arrays: Arrays) -> bool:
        """Whether a file has all this."""
        crops, local = len(arrays.peek("step0/masks")), len(arrays.peek("step0/local_crops_i8"))
        masked = tuple(int(arrays.peek(f"step{i}/masks").sum()) for i in range(steps_in(arrays)))
        return (
            len(masked) >= self.steps
            and self.images in (None, crops // 2)
            and self.local_crops in (None, local / (crops / 2))
            and self.masked in (None, masked[: self.steps])
        )

    def __str__(self) -> str:
        said = dataclasses.asdict(self).items()
        return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in said if value is not None)


def cases(file: ArrayFile, folder: Folder) -> Iterator[tuple[str, Callable]]:
    """Files with masks and crops: their own numbers, and which of them our packing of the masks gives."""
    if FIRST in file.names:
        yield f"{file.name} masks", partial(_masks, f"{file.name} masks", file, folder)


def steps_in(arrays: Arrays) -> int:
    """Number of steps that inputs are recorded for."""
    return 1 + max(int(match[1]) for k in arrays if (match := re.match(r"step(\d+)/", k)))


def needs_of(file: ArrayFile) -> Needs:
    """What the recorded results and the meta of a case say about its inputs."""
    arrays, meta = file.arrays, file.meta
    if not has_passes(file):
        return Needs(len(arrays.peek(f"loss/{TOTAL}")), meta.get("batch"), meta.get("n_local"))
    count = sum(1 for k in arrays if re.fullmatch(rf"step\d+/loss/{TOTAL}", k))

    def rows(name: str, i: int = 0) -> int | None:
        return len(arrays.peek(f"step{i}/mid/{name}")) if f"step{i}/mid/{name}" in arrays else None

    masked = [rows("teacher_patch_logits", i) for i in range(count)]
    crops = rows("teacher_cls_logits")
    images = crops // 2 if crops else meta.get("batch")
    return Needs(count, images, meta.get("n_local"), None if None in masked else tuple(masked))


def inputs_of(file: ArrayFile, folder: Folder) -> ArrayFile:
    """The file with the inputs of a case: the only one that fits, or of several the one that is named most alike."""
    needs = needs_of(file)
    all_files = [f for f in folder.arrays if FIRST in f.names]
    fitting = [f for f in all_files if needs.fits(f.arrays)]
    alike = [_common_start(f.name, file.name) for f in fitting]
    best = [f for f, n in zip(fitting, alike) if n == max(alike)]
    if len(best) == 1:
        return best[0]
    names = ", ".join(f.shown for f in fitting or all_files) or "none"
    problem = "several files of inputs fit" if fitting else "no file of inputs fits"
    raise ValueError(f"{problem} (needed: {needs}): {names}")


def _common_start(a: str, b: str) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))


def views_of(file: ArrayFile, i: int) -> step.Views:
    """The inputs of step i."""
    return make_views(file.arrays.below(f"step{i}/"), file.meta["crop_scale"])


def make_views(arrays: Arrays, scale: float) -> step.Views:
    """Crop-major int8 crops (2B, 3, H, W) and masks (2B, N) as the step takes them: (B, 2, H, W, 3), one group."""
    masks = arrays["masks"]
    images = masks.shape[0] // 2

    def crops(name: str) -> jnp.ndarray:
        x = arrays[name].astype(np.float32) / scale
        return jnp.asarray(x.reshape(-1, images, *x.shape[1:]).transpose(1, 0, 3, 4, 2))

    ours = masks.reshape(2, images, -1).swapaxes(0, 1).reshape(2 * images, -1)  # (image, view)
    bound = int(arrays["upperbound"])
    indices = np.flatnonzero(ours)
    weights = np.repeat(1 / np.maximum(ours.sum(1), 1), ours.sum(1))
    padded = [np.pad(a, (0, bound - len(a)))[None] for a in (indices.astype(np.int32), weights.astype(np.float32))]
    batch = m.MaskBatch(*map(jnp.asarray, (ours[None], *padded)), jnp.asarray([len(indices)], jnp.int32))
    return step.Views(crops("global_crops_i8"), crops("local_crops_i8"), batch)


def _masks(name: str, file: ArrayFile, folder: Folder) -> Iterator[Check]:
    ratio, probability = _shares(file, folder)
    lines: dict[str, list[Check]] = {}
    for i in range(steps_in(file.arrays)):
        a, at = file.arrays.below(f"step{i}/"), f"step {i}"
        crops, patches = a["masks"].shape
        bound = int(a["upperbound"])
        packed = m.pack(jnp.asarray(a["masks"])[None], bound)
        n = int(packed.count[0])
        expected = m.upper_bound(crops, patches, ratio, probability)
        found = {
            "indices": compare(name, at, packed.indices[0, :n], a["mask_indices"]),
            "weights": compare(name, at, packed.weights[0, :n], a["masks_weight"], rtol=1e-6),
            "masked patches": compare(name, at, n, a["n_masked_patches"]),
            "upper bound": compare(name, at, expected, bound),
        }
        for what, check in found.items():
            lines.setdefault(what, []).append(check)
    for what, checks in lines.items():
        yield from worst(name, what, checks)


def _shares(file: ArrayFile, folder: Folder) -> tuple[tuple[float, float], float]:
    """(range of the masked share, probability of a mask) in the meta of a case that has these inputs."""
    for case in folder.arrays:
        if not (has_passes(case) or has_trajectory(case)) or "mask_ratio_min_max" not in case.meta.get("ibot", {}):
            continue
        if needs_of(case).fits(file.arrays):
            return tuple(case.meta["ibot"]["mask_ratio_min_max"]), case.meta["ibot"]["mask_sample_probability"]
    return (0.1, 0.5), 0.5
