"""The projection head of DINO and iBOT: an MLP to a unit-norm bottleneck, then weight-normalised prototypes."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from histojax.models.layers import init_normal, init_uniform
from histojax.ssl.precision import of_scores


@dataclasses.dataclass(frozen=True)
class HeadConfig:
    """Static description of a head."""

    dim: int  # width of the tokens that enter
    prototypes: int = 65536
    bottleneck: int = 256
    hidden: int = 2048
    layers: int = 3
    dtype: Any = jnp.float32  # of the MLP's matrix products


class Prototypes(nnx.Module):
    """Rows g_k * v_k / |v_k|; both g and v are trained."""

    def __init__(self, count: int, dim: int, rngs: nnx.Rngs):
        self.g = nnx.Param(jnp.ones((count,), jnp.float32))
        # the reference makes this layer after its init pass, so it keeps torch's default for Linear
        self.v = nnx.Param(init_uniform(dim**-0.5)(rngs.params(), (count, dim), jnp.float32))

    def __call__(self) -> jax.Array:
        """The prototype matrix (K, bottleneck) float32."""
        v = self.v[...]
        return v * (self.g[...] / jnp.linalg.norm(v, axis=-1))[:, None]


class Head(nnx.Module):
    """See `__call__`. Layers are named by their place in torch's Sequential: mlp_0, mlp_2, mlp_4, or mlp alone."""

    def __init__(self, c: HeadConfig, rngs: nnx.Rngs):
        linear = partial(nnx.Linear, dtype=c.dtype, kernel_init=init_normal(0.02), rngs=rngs)
        widths = [c.dim] + [c.hidden] * (c.layers - 1) + [c.bottleneck]
        self.names = ["mlp"] if c.layers == 1 else [f"mlp_{2 * i}" for i in range(c.layers)]
        for name, into, out in zip(self.names, widths[:-1], widths[1:]):
            setattr(self, name, linear(into, out))
        self.last_layer = Prototypes(c.prototypes, c.bottleneck, rngs)

    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(z, prototypes): unit-norm bottleneck features (..., bottleneck) of tokens (..., D), and the matrix
        (K, bottleneck) to score them against; logits are z @ prototypes.T. Both float32.

        The product is left to the losses, which form it a few tokens at a time.
        """
        for i, name in enumerate(self.names):
            x = getattr(self, name)(jax.nn.gelu(x, approximate=False) if i else x)
        x = x.astype(jnp.float32)
        # torch's normalize divides by max(norm, 1e-12); written so that its gradient at 0 is finite
        z = x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, -1, keepdims=True), 1e-24))
        return z, self.last_layer()


def logits(z: jax.Array, prototypes: jax.Array) -> jax.Array:
    """Scores (..., K) float32 of bottleneck features against all prototypes."""
    return jnp.einsum("...d,kd->...k", z, prototypes, precision=of_scores(), preferred_element_type=jnp.float32)
