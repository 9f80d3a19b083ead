"""An encoder by name or path: uint8 images in, its features out.

    encoder = histojax.load_encoder("dinov2_vits14")  # or the folder of a training run, "runs/mine"
    features = encoder(tiles)  # (N, H, W, 3) uint8 -> (N, 384) float32

Weights are found, downloaded and checked as the encoder's record says, the tiles are resized and normalised as its
record says, and the feature is the one that its record says. The record of a training of ours is what it was trained
as.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from histojax.common.errors import UserError
from histojax.common.files import expanded
from histojax.data.preprocess import fit_all
from histojax.models.network import abstract, feature_width
from histojax.models.resnet import ResNetConfig
from histojax.weights.licence import Link, check_commercial
from histojax.weights.reading_size import enlarged
from histojax.weights.vit_tree import grid_of
from histojax.zoo.parameters import (
    Tree,
    fit_parameters,
    random_parameters,
    read_parameters,
    run_config,
    with_pooling,
    with_positions,
    without_resize,
)
from histojax.zoo.program import TOKENS, Program
from histojax.zoo.published import download, licences_of, not_published, record_with, weights_sha256
from histojax.zoo.record import EncoderRecord, Preprocess
from histojax.zoo.table import find, is_known
from histojax.zoo.trained import open_trained, path_of, published_at

Tiles = np.ndarray | Sequence[np.ndarray]
PIXELS = 32 * 224 * 224  # of a batch, if its size is not given
_shown: set[str] = set()  # lines that were printed


def load_encoder(
    name: str | Path | EncoderRecord,
    weights: str | Path | None = None,
    *,
    which: str | None = None,
    positions: str | None = None,
    resize: bool = True,
    pooling: str | None = None,
    commercial: bool = False,
    offline: bool = False,
    dtype: Any = "float32",
    batch_size: int | None = None,
    cache: str | Path | None = None,
    seed: int = 0,
) -> Encoder:
    """The encoder of a name or path, ready to be called. Its licence is printed once.

    Args:
        name: any spelling of a record's name or alias (`histojax encoders` lists them), or a record. Or a path: the
            folder of a training run, its export, a checkpoint ("runs/mine/checkpoints/200", or "/best" for the one
            that the run chose), or a weight file or folder with a card.json that histojax wrote.
        weights: None: the published file, downloaded once; a path: a local file of the same network in any layout;
            "random": random parameters. Only with a name or a record.
        which: "teacher" or "student" where both are there; default: the teacher.
        positions: whose features are wanted, where the stored position grid is of another size than the input:
            "meta", "hf", "timm" or "paper", since each resamples it in another way; default: as the record's authors.
        resize: False: tiles have the input size of the network and are fed as they are, neither resized nor cropped.
        pooling: another feature than the record's, a key of models.network.POOLINGS.
        commercial: refuse weights whose licence, or that of any weights they come from, does not clearly allow
            commercial use.
        offline: never download; a missing file is an error that says what to put where.
        dtype: of the matrix products; parameters, norms and features are float32 in any case.
        batch_size: images per call of the compiled program; default: 32 of 224 px, fewer if larger.
        cache: our folder of downloaded files, default $HISTOJAX_CACHE, else ~/.cache/histojax; what is not in it and
            lies on the Hugging Face hub comes into the cache of the hub.
        seed: of random parameters.

    Raises:
        UserError: unknown name, a path without weights that are known, forbidden use (by the encoder's licence, or by
            one that a card beside the file tells of), a file that cannot be had, or one of another network.
    """

    change = partial(_changed, positions=positions, resize=resize, pooling=pooling, dtype=dtype)
    path = None if isinstance(name, EncoderRecord) else path_of(name)
    if path is not None and weights is not None:
        raise UserError(f"{path}: is a path of weights itself; leave `weights` out, or give an encoder's name first")
    if path is not None and isinstance(name, str) and is_known(name):
        _say_once(f"{name}: the weights in this folder, not the published encoder of that name")
    record = _known_record(name, path)
    if record is None:
        loaded = _load_trained(Path(path or ""), which, change, commercial)
    elif weights == "random":
        record = change(record)
        loaded = _Loaded(record, random_parameters(run_config(record), seed), "random", f"random-{seed}")
    else:
        loaded = _load_published(change(record), path or weights, which, commercial, offline, cache)
    return Encoder(
        loaded.record,
        run_config(loaded.record, dtype),
        loaded.tree,
        batch_size,
        loaded.weights,
        loaded.sha256,
        tuple(loaded.notes),
        loaded.licences,
    )


def _known_record(name: str | Path | EncoderRecord, path: Path | None) -> EncoderRecord | None:
    """The record of what `load_encoder` was given; None for a path of weights that are not published ones."""
    if isinstance(name, EncoderRecord):
        return name
    return find(str(name)) if path is None else published_at(path)


class _Loaded(NamedTuple):
    """Parameters of the network that is run, and where they come from."""

    record: EncoderRecord
    tree: Tree
    weights: str  # name of the file
    sha256: str
    notes: Sequence[str] = ()
    licences: tuple[Link, ...] = ()


def _changed(
    record: EncoderRecord, positions: str | None, resize: bool, pooling: str | None, dtype: Any
) -> EncoderRecord:
    """The record with what `load_encoder` was asked for; an unknown dtype fails here, before anything is fetched."""
    run_config(record, dtype)
    record = record if resize else without_resize(record)
    record = record if positions is None else with_positions(record, positions)
    return record if pooling is None else with_pooling(record, pooling)


def _load_trained(
    path: Path, which: str | None, change: Callable[[EncoderRecord], EncoderRecord], commercial: bool
) -> _Loaded:
    """What lies at a path, of an encoder that is not published."""
    record, opened = open_trained(path, which)
    record = change(record)
    if commercial:
        check_commercial(opened.chain, path)
    config = run_config(record)
    tree, notes = fit_parameters(opened.tree, config)
    for sentence in opened.assumed:
        _say_once(f"{record.name}: assumed, not stated by the file: {sentence}")
    if "recipe" in opened.facts and (sentence := enlarged(grid_of(opened.tree), config.grid, config.patch)):
        _say_once(f"{record.name}: {sentence}")
    sha256 = record.weights[0].sha256 or ""
    show_licences(record, opened.chain)
    return _Loaded(record, tree, opened.path.name, sha256, [*opened.notes, *opened.assumed, *notes], opened.chain)


def _load_published(
    record: EncoderRecord,
    weights: str | Path | None,
    which: str | None,
    commercial: bool,
    offline: bool,
    cache: str | Path | None,
) -> _Loaded:
    """The weights of a record; arguments as of `load_encoder`."""
    check_licence(record, commercial)
    path, file = expanded(weights) if weights is not None else None, record.weights[0]
    if path is None:
        path = download(file, offline=offline, cache=cache)
    elif not path.exists():
        raise UserError(f"{path}: no such file; leave `weights` out to have {record.name} downloaded")
    digest = weights_sha256(path)
    licences = licences_of(path, digest, record, record_with(digest))
    if commercial:
        check_commercial(licences, path)
    tree, notes = read_parameters(path, record, which or (file.which if weights is None else None))
    notes += [note] if (note := not_published(record, file, digest)) else []
    show_licences(record, licences)
    return _Loaded(record, tree, path.name, digest, notes, licences)


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
        self.parameters = jax.tree.map(jnp.asarray, parameters)
        self._features = self.program()

    def __call__(self, images: Tiles) -> np.ndarray:
        """Features (N, D) float32 of RGB images (N, H, W, 3) uint8, or of a list of (H, W, 3) of any sizes."""
        return self._in_batches(self._features, images, (self.features,))

    def tokens(self, images: Tiles) -> np.ndarray:
        """Patch tokens (N, P, D) float32, row by row, after the network's last norm; no class token, no registers.

        SAM's are those of its neck, CTransPath's the 7 x 7 of its last stage. Raises UserError for a ResNet.
        """
        if isinstance(self.config, ResNetConfig):
            raise UserError(f"{self.record.name}: a ResNet has no patch tokens; use its maps (encoder.network)")
        program = Program.of(self.config, self.preprocess, (TOKENS,))
        (shape,) = jax.eval_shape(program, self.parameters, self._batch_shape)
        return self._in_batches(program, images, shape.shape[1:])

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
        return self._features.run(self.parameters, prepared)[0]

    def program(self, tokens: bool = False) -> Program:
        """The function of (parameters, what `prepare` returned): the features, then the tokens if wanted.

        For whoever lays out batches on devices; a ResNet has no tokens.
        """
        return Program.of(
            self.config, self.preprocess, (self.record.pooling, TOKENS) if tokens else (self.record.pooling,)
        )

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
        return nnx.merge(abstract(self.config)[0], self.parameters)

    @property
    def _batch_shape(self) -> jax.ShapeDtypeStruct:
        side = self.preprocess.side
        return jax.ShapeDtypeStruct((self.batch_size, side, side, 3), jnp.uint8)

    def _in_batches(self, program: Program, images: Tiles, shape: tuple[int, ...]) -> np.ndarray:
        """(N, *shape) float32 of `program`; the last batch is filled up, so that one compiled program serves."""
        _check_batch(images)
        done: list[np.ndarray] = []
        waiting: tuple[jax.Array, int] | None = None
        for start in range(0, len(images), self.batch_size):
            tiles = self.prepare(images[start : start + self.batch_size])
            fill = [(0, self.batch_size - len(tiles))] + [(0, 0)] * 3
            (result,), count = program.run(self.parameters, np.pad(tiles, fill)), len(tiles)
            if waiting is not None:  # fetched one batch late: the device works while the host resizes
                done.append(np.asarray(waiting[0])[: waiting[1]])
            waiting = (result, count)
        if waiting is not None:
            done.append(np.asarray(waiting[0])[: waiting[1]])
        return np.concatenate(done) if done else np.zeros((0, *shape), np.float32)


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
        _say_once(line)


def _say_once(line: str) -> None:
    """Prints a line on stderr, the first time only."""
    if line not in _shown:
        _shown.add(line)
        print(line, file=sys.stderr)
