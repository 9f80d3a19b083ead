"""Losses of DINOv2 (Oquab et al. 2023, sec. 4), per token or per image; weights and sums belong to the step."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from histojax.ssl.columns import Columns
from histojax.ssl.heads import logits
from histojax.ssl.precision import of_scores
from histojax.ssl.targets import FormedTargets, Targets


@partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def cross_entropy(
    z: jax.Array,
    prototypes: jax.Array,
    targets: Targets | FormedTargets,
    temp: float,
    chunk: int,
    mass: float = 1.0,
) -> jax.Array:
    """(R, n) float32: cross-entropy of each student token with its target, sum_k P_k * -log softmax(s / temp)_k.

    `z` (R, n, bottleneck) and `prototypes` (K, bottleneck) give the scores s; `targets` is (R, n, K), or (R, 1, K)
    for a target that all n tokens share. `mass` is the sum of each target. Scores exist for `chunk` of the n
    columns at a time, and are formed again in the backward pass: over 65,536 prototypes they would otherwise be
    the largest arrays of the whole step. No gradient flows into the targets.
    """
    return _forward(z, prototypes, targets, temp, chunk, mass)[0]


def _forward(
    z: jax.Array, prototypes: jax.Array, targets: Targets | FormedTargets, temp: float, chunk: int, mass: float
):
    """The values, and what `_backward` needs."""
    parts = Columns.of(z.shape[1], chunk)

    def part(i: jax.Array):
        s = logits(parts.rows(z, i), prototypes) / temp
        top = s.max(-1)
        log_sum = jnp.log(jnp.exp(s - top[:, None]).sum(-1)) + top
        kernel, scale = targets.rows(parts, i)
        agreement = jnp.einsum("tk,tk->t", kernel * targets.prototype_scale, s, precision="highest") * scale
        return parts.columns(log_sum), parts.columns(agreement)

    log_sum, agreement = (parts.join(x) for x in jax.lax.map(part, jnp.arange(parts.count)))
    return mass * log_sum - agreement, (z, prototypes, targets, log_sum)


def _backward(temp: float, chunk: int, mass: float, kept: tuple, cotangent: jax.Array):
    """Gradients of z and prototypes: d/ds = (mass * softmax(s / temp) - P) / temp for each token."""
    z, prototypes, targets, log_sum = kept
    parts = Columns.of(z.shape[1], chunk)

    def part(total: jax.Array, i: jax.Array):
        tokens = parts.rows(z, i)
        s = logits(tokens, prototypes) / temp
        kernel, scale = targets.rows(parts, i)
        wanted = kernel * targets.prototype_scale * scale[:, None]
        by = (parts.rows(cotangent, i) / temp)[:, None]
        slope = (mass * jnp.exp(s - parts.rows(log_sum, i)[:, None]) - wanted) * by
        total = total + jnp.einsum("tk,td->kd", slope, tokens, precision=of_scores())
        return total, parts.columns(jnp.einsum("tk,kd->td", slope, prototypes, precision=of_scores()))

    total, slopes = jax.lax.scan(part, jnp.zeros_like(prototypes), jnp.arange(parts.count))
    return parts.join(slopes), total, None


cross_entropy.defvjp(_forward, _backward)


def koleo(x: jax.Array, eps: float) -> jax.Array:
    """(b,) float32: -ln of each row's distance to its nearest neighbour among the b rows of x (b, D).

    Kozachenko-Leonenko regulariser (Sablayrolles et al. 2019). Rows are L2-normalised; `eps` is added to every
    component of the difference, which bounds the loss for equal rows at -ln(eps * sqrt(D)). The neighbour is the
    largest dot product with the diagonal set to -1, no gradient through the choice. Always float32: 16 bits lose
    the epsilon and make equal rows infinite.
    """
    x = x.astype(jnp.float32)
    x = x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, -1, keepdims=True), 1e-16))
    dots = jnp.einsum("id,jd->ij", x, x, precision="highest")
    dots = jnp.where(jnp.eye(x.shape[0], dtype=bool), -1.0, dots)
    neighbour = jax.lax.stop_gradient(jnp.argmax(dots, axis=-1))
    distance = jnp.linalg.norm(x - x[neighbour] + eps, axis=-1)
    return -jnp.log(distance + 1e-8)


def kde(x: jax.Array, kappa: float) -> jax.Array:
    """(b,) float32: ln of the mean of exp(kappa * cosine) between each row of x (b, D) and the b - 1 others.

    The log density that a von Mises-Fisher kernel estimates on the unit sphere, without its constant: from -kappa,
    all others opposite, to kappa, all rows equal. Lowering it spreads the rows, each away from all others, where
    KoLeo looks at the nearest one (Wang & Isola 2020; used in place of KoLeo by Zimmermann et al. 2024, Virchow2).
    Always float32.
    """
    x = x.astype(jnp.float32)
    x = x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, -1, keepdims=True), 1e-16))
    dots = kappa * jnp.einsum("id,jd->ij", x, x, precision="highest")
    dots = jnp.where(jnp.eye(x.shape[0], dtype=bool), -jnp.inf, dots)
    return jax.nn.logsumexp(dots, axis=-1) - jnp.log(x.shape[0] - 1)
