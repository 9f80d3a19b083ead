"""Equal forms of one ViT tree: where positions of class and registers live, how a feed-forward is cut."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from histojax.common.errors import UserError
from histojax.weights.pos_embed import resample_grid

Tree = dict[str, Any]


def positions_of(tree: Mapping[str, Any]) -> str:
    """Return which tokens the rows of pos_embed belong to: "cls" (+ patches), "patches" only, or "all"."""
    rows = tree["pos_embed"].shape[1]
    registers = tree["register_tokens"].shape[1] if "register_tokens" in tree else 0
    options = [("patches", 0), ("all", 1 + registers), ("cls", 1)] if registers else [("cls", 1), ("patches", 0)]
    for name, prefix in options:
        if rows > prefix and math.isqrt(rows - prefix) ** 2 == rows - prefix:
            return name
    raise UserError(f"pos_embed has {rows} rows, which fit no square grid with {registers} registers")


def front_rows(tree: Mapping[str, Any]) -> int:
    """Return how many rows of pos_embed belong to no patch."""
    registers = tree["register_tokens"].shape[1] if "register_tokens" in tree else 0
    return {"cls": 1, "patches": 0, "all": 1 + registers}[positions_of(tree)]


def grid_of(tree: Mapping[str, Any]) -> int:
    """Return the side of the position grid in patches."""
    return math.isqrt(tree["pos_embed"].shape[1] - front_rows(tree))


def regrid(tree: Tree, grid: int, mode: str) -> Tree:
    """Return the tree with its positions resampled to another grid, see pos_embed.resample_grid."""
    if grid == grid_of(tree):
        return tree
    return tree | {"pos_embed": resample_grid(tree["pos_embed"], grid, mode, front=front_rows(tree))}


def with_class_row(tree: Tree) -> Tree:
    """Return the same network with pos_embed = class row + patch rows, as Meta's files and our training have it.

    Positions of registers move into the register tokens; a class token without a row of its own gets zeros.
    """
    kind, positions = positions_of(tree), tree["pos_embed"]
    if kind == "cls":
        return tree
    if kind == "patches":
        return tree | {"pos_embed": np.concatenate([np.zeros_like(positions[:, :1]), positions], axis=1)}
    registers = tree["register_tokens"]
    count = registers.shape[1]
    return tree | {
        "register_tokens": registers + positions[:, 1 : 1 + count],
        "pos_embed": np.concatenate([positions[:, :1], positions[:, 1 + count :]], axis=1),
    }


def without_class_row(tree: Tree) -> Tree:
    """Return the same network with patch rows only: the class row is added to the class token, as timm does."""
    tree = with_class_row(tree)
    positions = np.asarray(tree["pos_embed"])
    row, token = positions[:, :1], tree["cls_token"]
    # no sum with zeros: it would lose the sign of a zero, and nothing else
    return tree | {"cls_token": token + row if row.any() else token, "pos_embed": positions[:, 1:]}


def unpacked(tree: Tree) -> Tree:
    """Return the tree with fc1 / fc2 of a packed SwiGLU as w12 / w3: there fc1 gives twice what fc2 takes."""
    mlp = tree.get("blocks", {}).get("mlp", {})
    kernels = [mlp.get(name, {}).get("kernel") for name in ("fc1", "fc2")]
    if any(kernel is None for kernel in kernels) or kernels[0].shape[-1] != 2 * kernels[1].shape[-2]:
        return tree
    return tree | {"blocks": tree["blocks"] | {"mlp": {"w12": mlp["fc1"], "w3": mlp["fc2"]}}}


def packed(tree: Tree) -> Tree:
    """Return the tree with w12 / w3 as fc1 / fc2: the inverse of `unpacked`."""
    mlp = tree["blocks"]["mlp"]
    if "w12" not in mlp:
        return tree
    return tree | {"blocks": tree["blocks"] | {"mlp": {"fc1": mlp["w12"], "fc2": mlp["w3"]}}}


def faults_of(tree: Mapping[str, Any]) -> list[str]:
    """Return complaints about parts that are optional one by one but not together."""
    blocks, faults = tree.get("blocks", {}), []
    if set(blocks.get("mlp", ())) not in ({"fc1", "fc2"}, {"w12", "w3"}):
        faults.append(f"the feed-forward layers are incomplete: {sorted(blocks.get('mlp', ())) or 'none'}")
    for name, parts in blocks.get("mlp", {}).items():
        if set(parts) != {"kernel", "bias"}:
            faults.append(f"{name} of the feed-forward layers has {', '.join(parts)} only")
    if ("ls1" in blocks) != ("ls2" in blocks):
        faults.append("only one of the two LayerScales (ls1, ls2) is there")
    try:
        positions_of(tree)
    except UserError as error:
        faults.append(str(error))
    return faults
