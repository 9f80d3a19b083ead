"""Layers shared by all transformer encoders: norms, patches, attention, feed-forwards, LayerScale."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

ATTENTION = ("einsum", "xla", "cudnn")
DEFAULT_INIT = nnx.initializers.lecun_normal()
Core = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]  # q, k, v (..., T, H, d) -> (..., T, H, d)


def init_normal(std: float) -> nnx.initializers.Initializer:
    """Initialiser normal(0, std), not truncated: torch's trunc_normal_ cuts at +-2 absolute, 100 sigma here."""
    return nnx.initializers.normal(std)


def init_uniform(bound: float) -> nnx.initializers.Initializer:
    """Initialiser U(-bound, bound), the default of torch's Linear and Conv for bound = 1/sqrt(fan in)."""

    def init(key, shape, dtype=jnp.float32, out_sharding=None):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def layer_norm(dim: int, eps: float, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """LayerNorm over the last axis in float32, variance computed in two passes as torch does."""
    return nnx.LayerNorm(dim, epsilon=eps, use_fast_variance=False, dtype=jnp.float32, rngs=rngs)


def patchify(images: jax.Array, patch: int) -> jax.Array:
    """(N, H/p, W/p, p*p*3) from images (N, H, W, 3): rows of a patch convolution's kernel in (p, p, 3) order."""
    n, height, width, channels = images.shape
    h, w = height // patch, width // patch
    x = images.reshape(n, h, patch, w, patch, channels).swapaxes(2, 3)
    return x.reshape(n, h, w, patch * patch * channels)


class LayerScale(nnx.Module):
    """A learned factor per channel (Touvron et al. 2021)."""

    def __init__(self, dim: int, init: float):
        self.gamma = nnx.Param(jnp.full((dim,), init, jnp.float32))


def attention(q: jax.Array, k: jax.Array, v: jax.Array, how: str = "einsum") -> jax.Array:
    """Softmax attention, (B, T, H, d) from queries (B, T, H, d), keys and values (B, S, H, d), scaled by d**-0.5.

    `how`: "einsum" is fastest on CPUs ((B, H, T, d) products, divided by the softmax sum after the second one);
    "xla" and "cudnn" are the implementations of jax.nn.dot_product_attention ("cudnn": flash attention, needs an
    NVIDIA GPU and 16-bit inputs). Softmax statistics are float32 in all of them.
    """
    if how == "einsum":
        return attention_einsum(q, k, v)
    if how == "cudnn":
        return _attention_cudnn(q, k, v)
    return jax.nn.dot_product_attention(q, k, v, implementation="xla")


def attention_einsum(q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    """Softmax attention, (..., T, H, d), with `bias`, broadcast to (..., H, T, S), added to the scaled scores.

    Queries (..., T, H, d) are scaled by d**-0.5; the sum is divided out after the product with v (..., S, H, d).
    """
    q, k, v = (jnp.swapaxes(x, -2, -3) for x in (q * q.shape[-1] ** -0.5, k, v))  # (..., H, T, d)
    scores = jnp.einsum("...td,...sd->...ts", q, k, preferred_element_type=jnp.float32)
    scores = scores if bias is None else scores + bias
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True)))
    out = jnp.einsum("...ts,...sd->...td", weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
    return jnp.swapaxes(out / weights.sum(-1, keepdims=True), -2, -3).astype(v.dtype)


def _attention_cudnn(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """cuDNN's backward pass wants even lengths (224/14 gives 257 tokens): pad, and mask the padded keys."""
    batch, length = k.shape[:2]
    pad = [(0, 0), (0, -length % 8), (0, 0), (0, 0)]
    q, k, v = (jnp.pad(x, pad) for x in (q, k, v))
    lengths = jnp.full((batch,), length, jnp.int32)
    out = jax.nn.dot_product_attention(
        q, k, v, query_seq_lengths=lengths, key_value_seq_lengths=lengths, implementation="cudnn"
    )
    return out[:, :length]


def cudnn_fault(width: int) -> str | None:
    """Why "cudnn" cannot be used for heads of that width (no library, an old card), None if it can.

    Where jax has no GPU the answer is for compiling, with the library that is installed.
    """
    q = jax.ShapeDtypeStruct((1, 8, 1, width), jnp.bfloat16)
    try:
        jax.eval_shape(lambda q: jax.nn.dot_product_attention(q, q, q, implementation="cudnn"), q)
    except (RuntimeError, NotImplementedError, ValueError) as error:
        return " ".join(str(error).split())
    capability = getattr(jax.devices()[0], "compute_capability", "8.0")
    return f"compute capability {capability}, flash attention needs 8.0" if float(capability) < 8 else None


@jax.custom_vjp
def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """x @ kernel of 16-bit factors, rounded to them. CPUs multiply those as such only into float32."""

    def wide(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jnp.matmul(x, kernel, preferred_element_type=jnp.float32).astype(x.dtype)

    return jax.lax.platform_dependent(x, kernel, cpu=wide, default=jnp.matmul)


def _product_slopes(factors: tuple[jax.Array, jax.Array], slope: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = factors
    (of_x,) = jax.linear_transpose(lambda x: jnp.matmul(x, kernel), x)(slope)
    (of_kernel,) = jax.linear_transpose(lambda kernel: jnp.matmul(x, kernel), kernel)(slope)
    return of_x, of_kernel


product.defvjp(lambda x, kernel: (product(x, kernel), (x, kernel)), _product_slopes)


def apply_linear(layer: nnx.Linear, x: jax.Array, gamma: jax.Array | None = None) -> jax.Array:
    """gamma * layer(x), LayerScale's `gamma` (D,) multiplied into the weights; with the layer's low-rank pair, if it
    has one (models.lora).

    The gradient of gamma then comes from that of the weights: the product's output, which nothing else needs, is
    neither kept nor formed again in the backward pass. A pair stays apart from a frozen kernel for the same reason:
    the gradient of their sum would be as large as the kernel.
    """
    assert layer.bias is not None
    a, *b = (getattr(layer, name)[...] for name in ("lora_a", "lora_b")) if hasattr(layer, "lora_a") else (None,)
    weights = [layer.kernel[...], layer.bias[...], *b]  # all that makes the output
    if gamma is not None:
        weights = [weight * gamma for weight in weights]
    x, kernel, bias, *b = layer.promote_dtype((x, *weights), dtype=layer.dtype)
    out = (x @ kernel if x.dtype == jnp.float32 else product(x, kernel)) + bias
    return out if a is None else out + (x @ a.astype(x.dtype)) @ b[0]


class Attention(nnx.Module):
    """Fused qkv product ordered [3, heads, dim / heads], a given attention core, output projection."""

    def __init__(self, dim: int, heads: int, *, dtype, rngs: nnx.Rngs, kernel_init=DEFAULT_INIT):
        self.heads = heads
        self.qkv = nnx.Linear(dim, 3 * dim, dtype=dtype, kernel_init=kernel_init, rngs=rngs)
        self.proj = nnx.Linear(dim, dim, dtype=dtype, kernel_init=kernel_init, rngs=rngs)

    def __call__(self, x: jax.Array, core: Core, gamma: jax.Array | None = None) -> jax.Array:
        """(..., T, D) from tokens (..., T, D), times LayerScale's `gamma` if given."""
        *lead, dim = x.shape
        qkv = checkpoint_name(apply_linear(self.qkv, x), "qkv")
        q, k, v = jnp.unstack(qkv.reshape(*lead, 3, self.heads, dim // self.heads), axis=-3)
        out = checkpoint_name(core(q, k, v).reshape(*lead, dim), "attention")
        return apply_linear(self.proj, out, gamma)


class Mlp(nnx.Module):
    """Two linear layers with an exact (erf) GELU between."""

    def __init__(self, dim: int, hidden: int, *, dtype, rngs: nnx.Rngs, kernel_init=DEFAULT_INIT):
        self.fc1 = nnx.Linear(dim, hidden, dtype=dtype, kernel_init=kernel_init, rngs=rngs)
        self.fc2 = nnx.Linear(hidden, dim, dtype=dtype, kernel_init=kernel_init, rngs=rngs)

    def __call__(self, x: jax.Array, gamma: jax.Array | None = None) -> jax.Array:
        hidden = checkpoint_name(apply_linear(self.fc1, x), "ffn")
        return apply_linear(self.fc2, jax.nn.gelu(hidden, approximate=False), gamma)


class SwiGlu(nnx.Module):
    """Gated feed-forward: w3(silu(first half of w12 x) * second half)."""

    def __init__(self, dim: int, hidden: int, *, dtype, rngs: nnx.Rngs, kernel_init=DEFAULT_INIT):
        self.w12 = nnx.Linear(dim, 2 * hidden, dtype=dtype, kernel_init=kernel_init, rngs=rngs)
        self.w3 = nnx.Linear(hidden, dim, dtype=dtype, kernel_init=kernel_init, rngs=rngs)

    def __call__(self, x: jax.Array, gamma: jax.Array | None = None) -> jax.Array:
        gate, value = jnp.split(checkpoint_name(apply_linear(self.w12, x), "ffn"), 2, axis=-1)
        return apply_linear(self.w3, jax.nn.silu(gate) * value, gamma)


def swiglu_hidden(dim: int) -> int:
    """Hidden width of DINOv2's fused SwiGLU: two thirds of 4*dim, rounded up to a multiple of 8."""
    return (int(4 * dim * 2 / 3) + 7) // 8 * 8
