"""A published encoder by name: uint8 images in, its authors' features out.

    encoder = histojax.load_encoder("dinov2_vits14")
    features = encoder(tiles)  # (N, H, W, 3) uint8 -> (N, 384) float32

Weights are found, downloaded and checked as the encoder's record says, the tiles are resized and normalised as its
record says, and the feature is the one that its record says.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from histojax.common.errors import UserError
from histojax.common.files import expanded
from histojax.data.preprocess import fit_all
from histojax.models.network import POOLINGS, Outputs, abstract, family, feature_width, patch_tokens
from histojax.models.resnet import ResNetConfig
from histojax.models.vit import ViTConfig
from histojax.weights.licence import Link, check_commercial
from histojax.weights.mapping import flatten, unflatten
from histojax.weights.pos_embed import resample_grid
from histojax.weights.read import open_weights
from histojax.zoo.published import fetch_file, licences_of, not_published, record_with, weights_sha256
from histojax.zoo.record import EncoderRecord, Preprocess
from histojax.zoo.table import find

Tree = dict[str, Any]
Tiles = np.ndarray | Sequence[np.ndarray]
DTYPES = ("float32", "bfloat16", "float16")
PIXELS = 32 * 224 * 224  # of a batch, if its size is not given
PIECE = 4 * 224 * 224  # pixels that a CPU takes through the network at a time: what lies between layers stays in cache
_shown: set[str] = set()  # lines on licences that were printed


def load_encoder(
    name: str | EncoderRecord,
    weights: str | Path | None = None,
    *,
    offline: bool = False,
    commercial: bool = False,
    dtype: Any = "float32",
    batch_size: int | None = None,
    pooling: str | None = None,
    cache: str | Path | None = None,
    seed: int = 0,
) -> Encoder:
    """The encoder of a name or alias (`histojax encoders` lists them), ready to be called. Its licence is printed once.

    Args:
        name: any spelling of a record's name or alias, or a record.
        weights: None: the published file, downloaded once; a path: a local file of the same network in any layout;
            "random": random parameters.
        offline: never download; a missing file is an error that says what to put where.
        commercial: refuse weights whose licence does not clearly allow commercial use.
        dtype: of the matrix products; parameters, norms and features are float32 in any case.
        batch_size: images per call of the compiled program; default: 32 of 224 px, fewer if larger.
        pooling: another feature than the record's, a key of models.network.POOLINGS.
        cache: folder of downloaded files; default $HISTOJAX_CACHE, else ~/.cache/histojax.
        seed: of random parameters.

    Raises:
        UserError: unknown name, forbidden use (by the encoder's licence, or by one that a card beside the file tells
            of), a file that cannot be had, or one of another network.
    """
    record = find(name) if isinstance(name, str) else name
    record = record if pooling is None else with_pooling(record, pooling)
    config = run_config(record, dtype)
    if weights == "random":
        return Encoder(record, config, random_parameters(config, seed), batch_size, "random", f"random-{seed}")
    check_licence(record, commercial)
    path, file = expanded(weights) if weights is not None else None, record.weights[0]
    if path is None:
        path = fetch_file(file, offline=offline, cache=cache)
    elif not path.exists():
        raise UserError(f"{path}: no such file; leave `weights` out to have {record.name} downloaded")
    digest = weights_sha256(path)
    licences = licences_of(path, digest, record, record_with(digest))
    if commercial:
        check_commercial(licences, path)
    tree, notes = read_parameters(path, record, file.which if weights is None else None)
    notes += [note] if (note := not_published(record, file, digest)) else []
    show_licences(record, licences)
    return Encoder(record, config, tree, batch_size, path.name, digest, tuple(notes), licences)


class Encoder:
    """A network with its parameters, preprocessing and pooling; see `__call__`."""

    def __init__(
        self,
        record: EncoderRecord,
        config: Any,
        parameters: Tree,
        batch_size: int | None = None,
        weights: str = "",
        weights_sha256: str = "",
        notes: tuple[str, ...] = (),
        licences: tuple[Link, ...] = (),
    ):
        """The encoder of a record; `parameters` are those of a network of `config`, see `run_config`."""
        if batch_size is not None and (not isinstance(batch_size, (int, np.integer)) or batch_size < 1):
            raise UserError(f"batch_size={batch_size!r}: must be a whole number of images, 1 or more")
        self.record, self.config, self.notes, self.licences = record, config, notes, licences
        self.batch_size = batch_size or max(1, PIXELS // record.preprocess.side**2)
        self.weights, self.weights_sha256 = weights, weights_sha256
        self.graph, self.parameters = abstract(config)[0], jax.tree.map(jnp.asarray, parameters)
        self._features = jax.jit(partial(self._run, POOLINGS[record.pooling][1]))
        self._tokens = jax.jit(partial(self._run, patch_tokens))

    def __call__(self, images: Tiles) -> np.ndarray:
        """Features (N, D) float32 of RGB images (N, H, W, 3) uint8, or of a list of (H, W, 3) of any sizes."""
        return self._in_batches(self._features, images, (self.features,))

    def tokens(self, images: Tiles) -> np.ndarray:
        """Patch tokens (N, P, D) float32, row by row, after the network's last norm; no class token, no registers.

        SAM's are those of its neck, CTransPath's the 7 x 7 of its last stage. Raises UserError for a ResNet.
        """
        if isinstance(self.config, ResNetConfig):
            raise UserError(f"{self.record.name}: a ResNet has no patch tokens; use its maps (encoder.network)")
        shape = jax.eval_shape(partial(self._run, patch_tokens), self.parameters, self._batch_shape).shape
        return self._in_batches(self._tokens, images, shape[1:])

    def prepare(self, images: Tiles) -> np.ndarray:
        """(N, h, w, 3) uint8: the images resized and cropped as the record says, for `forward`."""
        _check_batch(images)
        tiles, side = fit_all(images, self.preprocess), self.preprocess.side
        if tiles.shape[1:3] != (side, side) and not isinstance(self.config, ResNetConfig):
            raise UserError(
                f"{self.record.name} takes square tiles: after preprocessing they are {tiles.shape[2]}x{tiles.shape[1]}"
                f" px, not {side}x{side}; cut square ones"
            )
        return tiles

    def forward(self, prepared: Any) -> jax.Array:
        """Features (N, D) float32, still on the device, of what `prepare` returned; compiled anew for every N."""
        return self._features(self.parameters, prepared)

    @property
    def preprocess(self) -> Preprocess:
        """What is done to a tile."""
        return self.record.preprocess

    @property
    def preprocess_hash(self) -> str:
        """SHA-256 of all that decides the feature but the weights: preprocessing and pooling."""
        return self.record.preprocess_hash

    @cached_property
    def features(self) -> int:
        """Width D of the feature."""
        return feature_width(self.config, self.record.pooling, self.preprocess.side)

    @property
    def network(self) -> nnx.Module:
        """The Flax NNX module with its parameters, for what the other methods do not offer."""
        return nnx.merge(self.graph, self.parameters)

    @property
    def _batch_shape(self) -> jax.ShapeDtypeStruct:
        side = self.preprocess.side
        return jax.ShapeDtypeStruct((self.batch_size, side, side, 3), jnp.uint8)

    def _run(self, choose: Callable[[Outputs], jax.Array], parameters: Tree, tiles: jax.Array) -> jax.Array:
        # accelerators round float32 products to TF32 or bfloat16 unless told otherwise
        exact = getattr(self.config, "dtype", jnp.float32) == jnp.float32
        with jax.default_matmul_precision("highest" if exact else "default"):
            network = nnx.merge(self.graph, parameters)
            piece = len(tiles)
            if jax.default_backend() == "cpu":
                piece = max(1, PIECE // math.prod(tiles.shape[1:3]))
            return _by_pieces(
                lambda t: choose(network(normalise(t, self.preprocess))).astype(jnp.float32), tiles, piece
            )

    def _in_batches(self, program: Callable, images: Tiles, shape: tuple[int, ...]) -> np.ndarray:
        """(N, *shape) float32 of `program`; the last batch is filled up, so that one compiled program serves."""
        _check_batch(images)
        done: list[np.ndarray] = []
        waiting: tuple[jax.Array, int] | None = None
        for start in range(0, len(images), self.batch_size):
            tiles = self.prepare(images[start : start + self.batch_size])
            fill = [(0, self.batch_size - len(tiles))] + [(0, 0)] * 3
            result, count = program(self.parameters, np.pad(tiles, fill)), len(tiles)
            if waiting is not None:  # fetched one batch late: the device works while the host resizes
                done.append(np.asarray(waiting[0])[: waiting[1]])
            waiting = (result, count)
        if waiting is not None:
            done.append(np.asarray(waiting[0])[: waiting[1]])
        return np.concatenate(done) if done else np.zeros((0, *shape), np.float32)


def _by_pieces(function: Callable[[jax.Array], jax.Array], batch: jax.Array, piece: int) -> jax.Array:
    """`function` of a batch (N, ...), row by row the same, computed for `piece` rows after the other."""
    count = len(batch) // piece
    if count < 2:
        return function(batch)
    whole = jax.lax.map(function, batch[: count * piece].reshape(count, piece, *batch.shape[1:]))
    whole = whole.reshape(count * piece, *whole.shape[2:])
    return whole if count * piece == len(batch) else jnp.concatenate([whole, function(batch[count * piece :])])


def _check_batch(images: Tiles) -> None:
    if isinstance(images, Sequence) and not isinstance(images, (str, bytes)):
        return
    shape = getattr(images, "shape", None)
    if shape is None:
        raise UserError(
            f"images must be an array (N, height, width, 3) or a list of such without N, got {type(images).__name__}: "
            "for a single one [image]"
        )
    if len(shape) != 4:
        raise UserError(f"images must be (N, height, width, 3), got {tuple(shape)}: for a single one images[None]")


def normalise(tiles: jax.Array, rule: Preprocess) -> jax.Array:
    """data.preprocess.normalise on the device: float32 of uint8 images."""
    mean, std = (jnp.asarray(values, jnp.float32) for values in (rule.mean, rule.std))
    return (tiles.astype(jnp.float32) / np.float32(1 / rule.scale) - mean) / std


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
    configuration's `interpolation`). Raises UserError for a file of another network, see weights.read.
    """
    config = run_config(record)
    found = open_weights(path, family=family(config), which=which)
    if not isinstance(config, ViTConfig):
        tree, _, notes = found.read(abstract(config)[1])
        return tree, notes
    grid, stored = config.grid, found.position_grid()
    expected = dataclasses.replace(config, image=(stored or grid) * config.patch)
    tree, _, notes = found.read(abstract(expected)[1])
    if stored != grid:
        tree["pos_embed"] = resample_grid(tree["pos_embed"], grid, config.interpolation)
        notes.append(f"position grid {stored} x {stored} resampled to {grid} x {grid} ({config.interpolation})")
    return tree, notes


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


def check_licence(record: EncoderRecord, commercial: bool) -> None:
    """Raise UserError if commercial use is asked for and not known to be allowed."""
    if commercial and record.commercial is not True:
        why = "forbids commercial use" if record.commercial is False else "is not known to allow commercial use"
        raise UserError(
            f"{record.name}: its licence {why} ({record.licence}); `histojax encoders --commercial` lists those that do"
        )


def show_licences(record: EncoderRecord, licences: Sequence[Link]) -> None:
    """Print the licence on stderr, and those of what else went into the weights, each once per process."""
    lines = [f"{record.name}: licence {record.terms}"]
    lines += [f"{record.name}: these weights come from {one.terms()}" for one in licences if one.what != record.name]
    for line in lines:
        if line not in _shown:
            _shown.add(line)
            print(line, file=sys.stderr)


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
