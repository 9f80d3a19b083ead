"""Multi-crop on the CPU beside the same crops by torchvision and Pillow, in one process.

    python tools/bench_crops.py [--batch 8] [--px 256] [--rounds 7]
    pip install '.[bench]' && python tools/bench_crops.py --peer

Two global and eight local crops an image (the paper's sizes), of synthetic tissue. The peer makes them with
torchvision.transforms.functional on PIL images, as facebookresearch/dinov2 does: crop and resize, flips, jitter, grey,
blur, solarize, tensor, normalize, in one thread, as in a worker of a DataLoader. Both use the same parameters of every
crop, so they do the same work and must give the same pictures: that is checked first, and the exit code is 1 if they
do not. Drawing the parameters and stacking the batch is in our time, not in the peer's. A line of JSON; seconds are for
one image, by CPU first.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the checkout that this tool lies in

import jax
import numpy as np
from bench_common import OURS, in_turns, need, summary, tell

from histojax.data.synthetic import SyntheticTissue
from histojax.ssl.augment import CropConfig, CropParams, multi_crop, sample_crops

PEER = "torchvision + Pillow"
MEAN_LEVELS, FAR_SHARE = 0.05, 0.01  # a grey level of rounding may grow in the jitter; it stays rare

Crops = tuple[np.ndarray, np.ndarray]


def our_side(config: CropConfig, images: np.ndarray, key: jax.Array) -> Callable[[], Crops]:
    """The product's own function, jitted; crops come back as arrays on the host."""
    crop = jax.jit(lambda key, images: multi_crop(key, images, 0, config))
    return lambda: tuple(map(np.asarray, crop(key, images)))  # type: ignore[return-value]


def draw(config: CropConfig, images: np.ndarray, key: jax.Array) -> CropParams:
    """The parameters (B, 2 + L) that our side draws for these images."""
    sample = jax.vmap(lambda i: sample_crops(jax.random.fold_in(key, i), *images.shape[1:3], config))
    return jax.tree.map(np.asarray, jax.jit(sample)(np.arange(len(images))))


def peer_side(config: CropConfig, images: np.ndarray, params: CropParams) -> Callable[[], Crops]:
    """torchvision's functions on PIL images; (B, 2, G, G, 3) and (B, L, l, l, 3) float32 views come back."""
    import torch
    from PIL import Image

    torch.set_num_threads(1)
    pictures = [Image.fromarray(image) for image in images]
    each = [[_one(params, i, j) for j in range(params.gray.shape[1])] for i in range(len(images))]

    def run() -> Crops:
        made = [
            [crop_of(picture, one, config.global_px if j < 2 else config.local_px, config) for j, one in enumerate(row)]
            for picture, row in zip(pictures, each)
        ]
        groups = (slice(0, 2), slice(2, None))
        return tuple(torch.stack([torch.stack(row[g]) for row in made]).movedim(2, -1).numpy() for g in groups)

    return run


def _one(params: CropParams, *place: int) -> CropParams:
    """The plain numbers of one crop."""
    return jax.tree.map(lambda x: x[place].tolist(), params)


def crop_of(picture: Any, params: CropParams, size: int, config: CropConfig) -> Any:
    """A tensor (3, size, size): one crop of a PIL image."""
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms import functional as F

    jitters = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)
    x = F.resized_crop(picture, *params.box, [size, size], InterpolationMode.BICUBIC)
    vertical, horizontal = params.flip
    x = F.hflip(x) if horizontal else x
    x = F.vflip(x) if vertical else x
    for which in params.order if params.jitter else ():
        x = jitters[which](x, params.factors[which])
    x = F.rgb_to_grayscale(x, 3) if params.gray else x
    x = F.gaussian_blur(x, [9, 9], [params.sigma, params.sigma]) if params.blur else x
    x = F.solarize(x, 128) if params.solarize else x
    return F.normalize(F.to_tensor(x), list(config.mean), list(config.std))


def apart(ours: Crops, theirs: Crops, config: CropConfig) -> dict[str, float]:
    """How far the pictures differ, in grey levels; a solarized level may lie on either side of the threshold."""
    gaps = []
    for a, b in zip(ours, theirs):
        a, b = ((x * np.float32(config.std) + np.float32(config.mean)) * 255 for x in (a, b))
        gaps.append(np.minimum(np.abs(a - b), np.abs(255 - a - b)).ravel())
    gap = np.concatenate(gaps)
    return {"levels_apart_mean": round(float(gap.mean()), 4), "share_above_2": round(float((gap > 2.5).mean()), 6),
            "share_equal": round(float((gap < 0.5).mean()), 4)}  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """1 if the two sides' pictures differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--px", type=int, default=256, help="side of the tiles")
    parser.add_argument("--local-crops", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--peer", action="store_true", help="the same by torchvision and Pillow, in turns")
    args = parser.parse_args(argv)
    if args.peer:
        need(parser, "torch", "torchvision")
    config = CropConfig(local_crops=args.local_crops)
    source, key = SyntheticTissue(args.batch, args.px), jax.random.key(0)
    images = np.stack([source.read(i) for i in range(args.batch)])
    sides: dict[str, Callable[[], Any]] = {OURS: our_side(config, images, key)}
    checked: dict[str, float] = {}
    if args.peer:
        sides[PEER] = peer_side(config, images, draw(config, images, key))
        checked = apart(sides[OURS](), sides[PEER](), config)
    found = in_turns(sides, args.rounds, units=args.batch)
    case = f"{args.px} px to 2 x {config.global_px} + {args.local_crops} x {config.local_px}, batch {args.batch}"
    tell("crops", case=case, unit="image", **summary(found), **checked)
    return int(checked.get("levels_apart_mean", 0) > MEAN_LEVELS or checked.get("share_above_2", 0) > FAR_SHARE)


if __name__ == "__main__":
    sys.exit(main())
