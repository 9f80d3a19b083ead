"""Weights whose position grid belongs to another input size than the one that they are read at."""

from __future__ import annotations

from histojax.weights.card import resampled
from histojax.weights.vit_tree import Tree, grid_of, regrid

STORED = "as stored in the source"


def fit_to_input(tree: Tree, grid: int, mode: str, origin: str = STORED) -> tuple[Tree, str]:
    """Return (the ViT's tree with a position grid of side `grid`, how that came about), see pos_embed.resample_grid.

    `origin` says how the grid came about that the tree has.
    """
    old = grid_of(tree)
    if old == grid:
        return tree, origin
    how = resampled(old, grid, mode)
    return regrid(tree, grid, mode), how if origin == STORED else f"{origin}, then {how}"


def enlarged(stored: int, wanted: int, patch: int) -> str:
    """Return the sentence on a stored grid that is smaller than the wanted one, "" on one that is not."""
    if stored >= wanted:
        return ""
    return (
        f"the position grid, {stored} x {stored} of {stored * patch} px, is enlarged to {wanted} x {wanted} for "
        f"{wanted * patch} px: what it never held does not come back; model.grid_px={wanted * patch} trains a grid of "
        "that size on the same crops"
    )
