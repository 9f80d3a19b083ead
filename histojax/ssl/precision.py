"""How exact the matrix products of a step are on accelerators, which round float32 factors unless told otherwise.

What a product needs, and what it is given ("highest" is float32; "high" is TF32, 11 bits, on NVIDIA and three passes of
bfloat16, 16 bits or more, on TPUs; processors compute all of them in float32):

    product                                            compute_dtype=bfloat16     float32
    networks and head MLPs                             factors are bfloat16       highest
    scores against prototypes, and their gradients     high                       highest
    Sinkhorn's sums, centres, losses of given scores   highest                    highest
    KoLeo, KDE: dots of unit rows                      highest                    highest
    crops, masks, positions                            highest                    highest

The reference computes networks, heads and scores under autocast in float16, which has 11 bits: scores by "high" are as
exact. With 8 bits, as bfloat16, a target can be off by a tenth at a temperature of 0.04. Sums over all tokens are
products with a vector, limited by memory, so that being exact costs no time. Nearest neighbours differ by less than
11 bits where features are close; crops are whole grey levels, masks are counts.
"""

from __future__ import annotations

import contextlib
from typing import Any

import jax
import jax.numpy as jnp


def of_step(dtype: Any, platform: str) -> contextlib.AbstractContextManager:
    """To trace a step or features in: products of float32 factors are float32 if `dtype` of the networks is."""
    exact = dtype == jnp.float32 and platform != "cpu"
    return jax.default_matmul_precision("highest") if exact else contextlib.nullcontext()


def of_scores() -> str:
    """Of products with the prototypes, see the table."""
    stated = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    return "highest" if stated == "highest" else "high"
