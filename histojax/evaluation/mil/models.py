"""The models of bags: a row each, and their pure functions of parameter trees."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.typing import ArrayLike

from histojax.evaluation.mil.attention import AttentionPooling, MeanPooling
from histojax.evaluation.mil.settings import HeadSettings
from histojax.evaluation.mil.transformer import Transformer
from histojax.evaluation.mil.transmil import TransMil

MODELS: dict[str, Callable[..., Any]] = {  # each has __call__(x, mask, key) and attention(x, mask)
    "transformer": Transformer,
    "attention": AttentionPooling,
    "gated_attention": AttentionPooling,
    "transmil": TransMil,
    "mean": MeanPooling,
}


@functools.lru_cache(maxsize=64)
def abstract(settings: HeadSettings) -> tuple[Any, dict[str, Any]]:
    """(graph, tree of ShapeDtypeStructs) of a model, without computing anything; not to be changed."""
    graph, state = nnx.split(nnx.eval_shape(lambda: MODELS[settings.model](settings, rngs=nnx.Rngs(0))))
    return graph, nnx.to_pure_dict(state)


def draw_params(settings: HeadSettings, seed: int) -> dict[str, Any]:
    """The parameter tree that training starts from: torch's default initialisation, our own numbers."""
    return _maker(settings)(np.uint32(seed))


@functools.lru_cache(maxsize=64)
def _maker(settings: HeadSettings) -> Callable[[ArrayLike], dict[str, Any]]:
    @jax.jit
    def make(seed: ArrayLike) -> Any:
        model = MODELS[settings.model](settings, rngs=nnx.Rngs(jax.random.key(seed)))
        return nnx.to_pure_dict(nnx.split(model)[1])

    return make


def bind(settings: HeadSettings, params: Any) -> Any:
    """The model with these parameters."""
    return nnx.merge(abstract(settings)[0], params)


@functools.lru_cache(maxsize=64)
def forward(settings: HeadSettings, what: str = "__call__") -> Callable[[Any, ArrayLike, ArrayLike], jax.Array]:
    """Compiled (parameters, x (B, n, d), mask (B, n)) -> what a method of the model returns, in float32 throughout."""

    @jax.jit
    def run(params: Any, x: ArrayLike, mask: ArrayLike) -> jax.Array:
        with jax.default_matmul_precision("highest"):
            return getattr(bind(settings, params), what)(x, mask)

    return run
