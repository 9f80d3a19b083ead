"""What an encoder computes, apart from its weights: compiled once for all encoders of one architecture."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, PartitionSpec

from histojax.models.network import POOLINGS, Outputs, abstract, patch_tokens
from histojax.parallel.compiler import needed_options
from histojax.zoo.record import Preprocess, Triple

Tree = Any
TOKENS = "tokens"  # beside the names of models.network.POOLINGS
PIECE = 4 * 224 * 224  # pixels that a CPU takes through the network at a time: what lies between layers stays in cache


@dataclass(frozen=True)
class Program:
    """A function of (parameters, prepared tiles (N, H, W, 3) uint8); equal ones share what jax has compiled.

    Args:
        config: of the network.
        scale, mean, std: of the grey levels, as in `Preprocess`.
        outputs: what is returned, in this order: keys of POOLINGS, or "tokens".
        piece: pixels that a CPU takes at a time.
    """

    config: Any
    scale: float
    mean: Triple
    std: Triple
    outputs: tuple[str, ...]
    piece: int = PIECE

    @classmethod
    def of(cls, config: Any, rule: Preprocess, outputs: Sequence[str]) -> Program:
        """The program of a network that sees tiles as `rule` says."""
        return cls(config, rule.scale, rule.mean, rule.std, tuple(outputs))

    def __call__(self, parameters: Tree, tiles: jax.Array) -> tuple[jax.Array, ...]:
        """The outputs, float32, with N rows each; not compiled."""
        # accelerators round float32 products to TF32 or bfloat16 unless told otherwise
        exact = getattr(self.config, "dtype", jnp.float32) == jnp.float32
        with jax.default_matmul_precision("highest" if exact else "default"):
            network = nnx.merge(abstract(self.config)[0], parameters)
            piece = len(tiles)
            if jax.default_backend() == "cpu":
                piece = max(1, self.piece // math.prod(tiles.shape[1:3]))

            def of_piece(part: jax.Array) -> tuple[jax.Array, ...]:
                out = network(normalise(part, self.scale, self.mean, self.std))
                return tuple(CHOICES[name](out).astype(jnp.float32) for name in self.outputs)

            return _by_pieces(of_piece, tiles, piece)

    def run(self, parameters: Tree, tiles: Any) -> tuple[jax.Array, ...]:
        """The outputs on the default device, or where the parameters are."""
        return _compiled()(self, parameters, tiles)


CHOICES: dict[str, Callable[[Outputs], jax.Array]] = {name: choose for name, (_, choose) in POOLINGS.items()}
CHOICES[TOKENS] = patch_tokens


@functools.cache
def _compiled() -> Callable[[Program, Tree, Any], tuple[jax.Array, ...]]:
    """One for all: jax keeps what it compiles by function. Made late, as jax's devices decide the options."""
    return jax.jit(Program.__call__, static_argnums=0, compiler_options=needed_options(jax.default_backend()))


@functools.lru_cache(maxsize=64)
def compiled_over(program: Program, mesh: Mesh) -> Callable[[Tree, jax.Array], tuple[jax.Array, ...]]:
    """The program over a mesh of one axis: each device has all parameters and takes its rows of the tiles."""
    whole, rows = PartitionSpec(), PartitionSpec(mesh.axis_names)
    mapped = jax.shard_map(program, mesh=mesh, in_specs=(whole, rows), out_specs=rows, check_vma=False)
    return jax.jit(mapped, compiler_options=needed_options(jax.default_backend()))


def normalise(tiles: jax.Array, scale: float, mean: Triple, std: Triple) -> jax.Array:
    """data.preprocess.normalise on the device: float32 of uint8 images."""
    middle, spread = (jnp.asarray(values, jnp.float32) for values in (mean, std))
    return (tiles.astype(jnp.float32) / np.float32(1 / scale) - middle) / spread


def _by_pieces(function: Callable[[jax.Array], Any], batch: jax.Array, piece: int) -> Any:
    """`function` of a batch (N, ...), row by row the same, computed for `piece` rows after the other."""
    count = len(batch) // piece
    if count < 2:
        return function(batch)
    whole = jax.lax.map(function, batch[: count * piece].reshape(count, piece, *batch.shape[1:]))
    whole = jax.tree.map(lambda x: x.reshape(count * piece, *x.shape[2:]), whole)
    if count * piece == len(batch):
        return whole
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), whole, function(batch[count * piece :]))
