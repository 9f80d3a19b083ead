"""Stain normalisation: the methods, and how tiles pass through one.

Each tile is fitted by itself, as in the papers. A tile of one tissue then gets the colours of the average one: a field
of lymphocytes turns pinker, fat darker. Fitted once to a slide (`fit_slide`) all its tiles change alike.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from histojax.common.errors import UserError
from histojax.slides import macenko, reinhard

MOST_PIXELS = 4_000_000  # of a slide's sample


@dataclasses.dataclass(frozen=True)
class Stain:
    """A method: `fit` (image -> parameters, None of too little stain), `apply` (tile, target, source), `reference`."""

    fit: Callable[[np.ndarray], Any]
    apply: Callable[..., np.ndarray]
    reference: Any


STAINS = {
    "macenko": Stain(macenko.fit, macenko.apply, macenko.REFERENCE),
    "reinhard": Stain(reinhard.fit, reinhard.apply, reinhard.REFERENCE),
}


def normaliser(name: str, target: np.ndarray | None = None, source: Any = None) -> Callable[[np.ndarray], np.ndarray]:
    """The function that normalises a tile (h, w, 3) uint8; for "none" it returns the tile itself.

    Args:
        name: of the method, or "none".
        target: (h, w, 3) uint8, the image whose colours tiles shall have; the method's reference without one.
        source: what `fit_slide` found; without it each tile is fitted by itself.

    Raises UserError for a name that does not exist, and for a target without stain.
    """
    if name == "none":
        return lambda tile: tile
    method = _method(name)
    wanted = method.reference if target is None else method.fit(target)
    if wanted is None:
        raise UserError("the target image of the stain normalisation has no stained tissue; choose another one")
    return lambda tile: method.apply(tile, wanted, source)


def fit_slide(name: str, tiles: Iterable[np.ndarray]) -> Any:
    """The parameters of a slide from some of its tiles (h, w, 3) uint8 together; None if they have too little stain.

    At most 4 million pixels are looked at, evenly spaced.
    """
    pixels = np.concatenate([np.asarray(tile).reshape(-1, 3) for tile in tiles])
    return _method(name).fit(np.ascontiguousarray(pixels[:: 1 + len(pixels) // MOST_PIXELS, None]))


def _method(name: str) -> Stain:
    if name not in STAINS:
        raise UserError(f"--stain: {name!r} given, expected one of none, {', '.join(STAINS)}")
    return STAINS[name]
