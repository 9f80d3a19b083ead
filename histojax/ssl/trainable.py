"""What is trained and what is frozen: the only place that decides it.

A network's parameters are split into two trees. Gradients, moments, decay and the moving average exist for the
trainable one; the frozen one is held once for all networks and is a constant of the losses, so that no gradient is
formed where none is needed. models.parts.merge puts the two together for a forward pass, `whole` for files.

In both trees the blocks before the chosen ones are apart, as "first_blocks": no backward pass goes through them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from histojax.models.lora import PAIR, add_pairs
from histojax.models.parts import FIRST, whole_backbone
from histojax.ssl.choice import Choice

Tree = Any
Path = tuple[str, ...]


def split(parameters: Tree, what: Choice, key: jax.Array | None = None) -> tuple[Tree, Tree]:
    """(trainable, frozen) of {"backbone": ..., "dino_head": ..., ...}: nested dicts without the leaves of the other.

    Heads are trainable. New low-rank pairs are drawn from `key`. The two merged compute what `parameters` do.
    """
    arranged = {**parameters, "backbone": _arrange(parameters["backbone"], what, key)}

    def trains(path: Path) -> bool:
        return path[0] != "backbone" or _RULES[what.kind](path[1:])

    return _select(arranged, trains), _select(arranged, lambda path: not trains(path))


def whole(parameters: Tree) -> Tree:
    """The parameters of a merged tree as files and encoders have them, see models.parts.whole_backbone."""
    return {**parameters, "backbone": whole_backbone(parameters["backbone"])}


def _arrange(backbone: Tree, what: Choice, key: jax.Array | None) -> Tree:
    """The backbone with its first blocks apart and with the pairs that the choice asks for."""
    blocks, apart = backbone["blocks"], {}
    before = what.first_blocks(len(jax.tree.leaves(blocks)[0]))
    if before:
        apart = {FIRST: jax.tree.map(lambda x: x[:before], blocks)}
        blocks = jax.tree.map(lambda x: x[before:], blocks)
    if what.rank:
        blocks = add_pairs(blocks, what.rank, jax.random.key(0) if key is None else key)
    return {**backbone, **apart, "blocks": blocks}


def _is_norm_or_bias(path: Path) -> bool:
    return len(path) > 1 and ("norm" in path[-2] or path[-1] == "bias")


_RULES: dict[str, Callable[[Path], bool]] = {  # kind of choice: whether the leaf of the backbone is trained
    "all": lambda path: True,
    "norms": _is_norm_or_bias,
    "last": lambda path: path[0] in ("blocks", "norm"),
    "lora": lambda path: path[-1] in PAIR,
}


def _select(tree: Tree, wanted: Callable[[Path], bool], path: Path = ()) -> Tree:
    """The leaves that are wanted, in dicts that are not empty."""
    found = {}
    for name, part in tree.items():
        here = (*path, name)
        if not isinstance(part, dict):
            if wanted(here):
                found[name] = part
        elif inner := _select(part, wanted, here):
            found[name] = inner
    return found
