"""The parameters of a backbone in parts, as training holds and stores them, and how to make a whole of them.

A part is a nested dict that lacks some leaves. Of the stacked blocks the first ones may be apart (`FIRST`), and
layers may have low-rank pairs (models.lora).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from histojax.models.lora import absorb_pairs

Tree = Any
FIRST = "first_blocks"  # stacked blocks that come before those in "blocks"


def merge(part: Tree, other: Tree) -> Tree:
    """The tree with the leaves of both parts; no array is copied."""
    both = dict(part)
    for name, leaf in other.items():
        both[name] = merge(both[name], leaf) if name in both else leaf
    return both


def whole_backbone(merged: Tree) -> Tree:
    """The backbone with its blocks in one stack and the pairs added to their kernels, of numpy or jax arrays.

    Only blocks that were apart and kernels with a pair are copied.
    """
    rest = {name: leaf for name, leaf in merged.items() if name != FIRST}
    blocks = absorb_pairs(rest["blocks"])
    if FIRST in merged:
        blocks = jax.tree.map(_join, merged[FIRST], blocks)
    return {**rest, "blocks": blocks}


def _join(first: Any, then: Any) -> Any:
    join = np.concatenate if isinstance(first, np.ndarray) else jnp.concatenate
    return join([first, then])
