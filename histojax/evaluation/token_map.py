"""The patch tokens of a tile, a region of a slide or a whole feature file as colours."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from histojax.common.errors import UserError
from histojax.common.files import replacing
from histojax.features.read import read_features, read_header, read_tokens
from histojax.report.token_colours import beside, mosaic, token_colours

MOST_TILES = 2500  # of a region
GLASS, LEAST_TISSUE = 225, 0.05  # mean of the darkest channel of a patch of background; share of a region
AT_ONCE = 64  # tiles whose tokens are in memory


@dataclass(frozen=True)
class TokenMap:
    """Tokens as colours.

    Args:
        colours: (rows, columns, 3) uint8, a pixel a token.
        image: (h, w, 3) uint8 of the same place, None where there is none.
        variance: (3,) share of the variance of red, green and blue.
        tiles: how many tiles were computed.
        glass: whether background was left white.
    """

    colours: np.ndarray
    image: np.ndarray | None
    variance: np.ndarray
    tiles: int
    glass: bool = False

    def words(self) -> str:
        """What the colours are."""
        shares = ", ".join(f"{share:.0%}" for share in self.variance)
        return f"red, green, blue: components 1 to 3 ({shares} of the variance)" + "; white: background" * self.glass


def map_image(image: np.ndarray, side: int, tokens: Callable[[np.ndarray], np.ndarray]) -> TokenMap:
    """The tokens of an image (h, w, 3) uint8 in tiles of `side` px; a rest at its right and lower end is left out.

    `tokens` gives (n, P, D) of tiles (n, side, side, 3). A tile starts half a tile after its neighbour, and a place's
    token is the mean of those of the tiles around it, the middle of a tile counting most: a token depends on where in
    its tile it lies. An image smaller than a tile is enlarged to one. Raises UserError for one of too many tiles.
    """
    image = _at_least(image, side)
    first = tokens(np.ascontiguousarray(image[None, :side, :side]))
    n = square_side(first.shape[1])
    patch, step = side // n, max(n // 2, 1)
    rows, columns = (n + (length // patch - n) // step * step for length in image.shape[:2])  # in tokens
    starts = [(row, column) for row in range(0, rows - n + 1, step) for column in range(0, columns - n + 1, step)]
    if len(starts) > MOST_TILES:
        raise UserError(
            f"{image.shape[1]} x {image.shape[0]} px are {len(starts):,} tiles of {side} px, half overlapping; at most "
            f"{MOST_TILES:,} are shown: choose a smaller --region or a coarser --mpp"
        )
    field = np.zeros((rows, columns, first.shape[-1]), np.float32)
    total = np.zeros((rows, columns, 1), np.float32)
    ramp = np.minimum(np.arange(n) + 0.5, n - np.arange(n) - 0.5).astype(np.float32)
    weight = (ramp[:, None] * ramp)[..., None]
    for i in range(0, len(starts), AT_ONCE):
        part = starts[i : i + AT_ONCE]
        tiles = [image[r * patch : r * patch + side, c * patch : c * patch + side] for r, c in part]
        for (row, column), found in zip(part, tokens(np.stack(tiles))):
            field[row : row + n, column : column + n] += weight * found.reshape(n, n, -1)
            total[row : row + n, column : column + n] += weight
    image = image[: rows * patch, : columns * patch]
    tissue = _tissue(image, patch)
    colours, variance = token_colours(field / total, tissue)
    return TokenMap(colours, image, variance, len(starts), bool((~tissue).any()))


def _tissue(image: np.ndarray, patch: int) -> np.ndarray:
    """(rows, columns) bool: patches that are no background; all of them where hardly any is tissue.

    Glass differs from tissue more than tissues from one another, and would take the first components.
    """
    rows, columns = image.shape[0] // patch, image.shape[1] // patch
    darkest = image.min(2).reshape(rows, patch, columns, patch).mean((1, 3))
    tissue = darkest < GLASS
    return tissue if tissue.mean() >= LEAST_TISSUE else np.ones_like(tissue)


def map_stored(tokens: np.ndarray, grid: tuple[int, int], coords: np.ndarray | None, footprint: float) -> TokenMap:
    """The tokens (n, P, D) of a feature file where its tiles lie on the slide, or one after the other without (n, 2)
    coordinates."""
    colours, variance = token_colours(tokens.reshape(len(tokens), *grid, -1))
    if coords is None:
        across = math.ceil(math.sqrt(len(tokens)))
        places = np.stack(np.divmod(np.arange(len(tokens)), across)[::-1], 1)
    else:
        places = np.round((coords - coords.min(0)) / footprint).astype(int)
    shape = (int(places[:, 1].max()) + 1, int(places[:, 0].max()) + 1)
    return TokenMap(mosaic(colours, places, shape), None, variance, len(tokens))


def map_file(path: Path) -> TokenMap:
    """The tokens of a feature file that was made with --patch-tokens; raises UserError."""
    header = read_header(path)
    if header.tokens is None or header.grid is None:
        raise UserError(f"{path}: holds no patch tokens; extract with --patch-tokens")
    if header.tiles > MOST_TILES:
        raise UserError(f"{path}: {header.tiles:,} tiles; the tokens of at most {MOST_TILES:,} are shown")
    stored = read_features(path)
    known = stored.coords is not None and header.geometry.footprint_px is not None
    footprint = header.geometry.footprint_px or 1.0
    return map_stored(read_tokens(path), header.grid, stored.coords if known else None, footprint)


def write_tokens(path: Path, found: TokenMap, words: tuple[str, str]) -> None:
    """Writes a PNG: the image, if there is one, and beside it the tokens, words above each; raises UserError."""
    image = beside(found.image, found.colours, words)
    with replacing(path) as temporary:
        Image.fromarray(image).save(temporary, "PNG")


def square_side(count: int) -> int:
    """The side of a square grid of `count` tokens; raises UserError if they are no square."""
    side = math.isqrt(count)
    if side * side != count:
        raise UserError(f"{count} patch tokens of a tile make no square; this encoder's tokens cannot be drawn")
    return side


def _at_least(image: np.ndarray, side: int) -> np.ndarray:
    import cv2

    factor = side / min(image.shape[:2])
    if factor <= 1:
        return image
    size = tuple(math.ceil(n * factor) for n in image.shape[1::-1])
    return cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)
