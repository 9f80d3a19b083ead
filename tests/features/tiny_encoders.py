"""Encoders of two small blocks with random weights, and slides of a second for them."""

import dataclasses

import numpy as np
from PIL import Image

from histojax.models.vit import ViTConfig
from histojax.zoo.encoder import load_encoder
from histojax.zoo.record import Preprocess
from histojax.zoo.table import find

TILE = 32  # px, at 1 mpp


def record(name="tiny", side=28, pooling="cls", dim=32):
    """Of a ViT of `side` px at patch 14."""
    network = ViTConfig(dim, 2, 2, 14, image=side, mask_token=False)
    width = dim * (2 if pooling == "cls+mean" else 1)
    changes = dict(name=name, network=network, preprocess=Preprocess(side, side), pooling=pooling, features=width)
    return dataclasses.replace(find("dinov2_vits14"), **changes)


def encoder(name="tiny", seed=0, **options):
    return load_encoder(record(name, **options), weights="random", seed=seed)


def picture(width, height, seed=0):
    """(height, width, 3) uint8 that looks like tissue to every check, in places."""
    rng = np.random.default_rng(seed)
    grey = rng.normal(0, 28, (height, width, 1))
    return np.clip(np.array([190, 110, 170]) + grey, 0, 255).astype(np.uint8)


def write_slide(path, tiles=(4, 3), seed=0):
    """A plain image of so many tiles along x and y."""
    Image.fromarray(picture(tiles[0] * TILE, tiles[1] * TILE, seed)).save(path)
    return path
