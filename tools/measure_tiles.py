"""What the checks of tiles reject, and how far the hashes of copies lie apart, on tiles of your own.

    python tools/measure_tiles.py SET... [--tiles 2000] [--seed 0]

A SET is what `histojax train` takes as data: a folder, a table, a zip, a store. Of each at most --tiles are drawn. Told
are the share that blank, pen and blur reject; the share that they reject once the tile was blurred by a Gaussian of so
many pixels and saved as JPEG 80; the signs of 255 that differ between a tile and its copies (largest, and the share
that `histojax audit` calls near-identical); and of all pairs of different tiles the mean and the nearest. The figures
in slides/checks.py and data/hashes.py are of such runs. Pairs that are near although the set should have no copies are
copies, or tiles without structure: look at them with `histojax audit`.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import cv2
import imagecodecs
import numpy as np

from histojax.data.decode import BadTile
from histojax.data.hashes import SAME, distances, hash_tile, uprighted
from histojax.data.sources import open_source
from histojax.data.tiles import Source
from histojax.slides.checks import check_tile
from histojax.slides.settings import TileSettings

BLURS = (1.5, 2.0, 2.5, 3.0)


def _jpeg(tile: np.ndarray, quality: int) -> np.ndarray:
    return np.asarray(imagecodecs.jpeg8_decode(imagecodecs.jpeg8_encode(np.ascontiguousarray(tile), quality)))


COPIES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "JPEG 50": lambda t: _jpeg(t, 50),
    "JPEG 20": lambda t: _jpeg(t, 20),
    "10 % lighter": lambda t: np.clip(t * 1.1, 0, 255).astype(np.uint8),
    "shifted by 1 px": lambda t: np.pad(t[1:, 1:], ((0, 1), (0, 1), (0, 0)), mode="edge"),
    "shifted by 2 px": lambda t: np.pad(t[2:, 2:], ((0, 2), (0, 2), (0, 0)), mode="edge"),
    "mirrored, JPEG 50": lambda t: _jpeg(t[:, ::-1], 50),
}


def main() -> None:
    """Prints the figures of each set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="+")
    parser.add_argument("--tiles", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    for spec in args.sets:
        source = open_source(spec)
        chosen = np.random.default_rng(args.seed).permutation(len(source))[: args.tiles]
        tiles = list(_readable(source, np.sort(chosen).tolist()))
        print(f"{spec}: {len(tiles)} of {len(source)} tiles")
        print(f"  rejected: {_rejected(tiles)}")
        for sigma in BLURS:
            print(f"  rejected, blurred by {sigma} px: {_rejected([_blurred(tile, sigma) for tile in tiles[:200]])}")
        _print_hashes(tiles)


def _readable(source: Source, numbers: Sequence[int]) -> Iterator[np.ndarray]:
    for number in numbers:
        try:
            yield source.read(number)
        except BadTile as error:
            print(f"left out: {error}")


def _blurred(tile: np.ndarray, sigma: float) -> np.ndarray:
    return _jpeg(cv2.GaussianBlur(tile, (0, 0), sigma), 80)


def _rejected(tiles: Sequence[np.ndarray]) -> str:
    reasons = Counter(check_tile(tile, TileSettings()) for tile in tiles)
    kept = reasons.pop("", 0)
    shown = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
    return f"{1 - kept / len(tiles):.1%}" + (f" ({shown})" if shown else "")


def _print_hashes(tiles: Sequence[np.ndarray]) -> None:
    plain, upright = _signs(tiles)
    for name, change in COPIES.items():
        one, other = (upright, 1) if name.startswith("mirrored") else (plain, 0)
        apart = distances(one, _signs([change(tile) for tile in tiles])[other])
        print(f"  {name}: at most {apart.max()} apart, {(apart <= SAME).mean():.1%} found")
    if len(tiles) < 2:
        return
    for name, signs in (("as they are", plain), ("turned upright", upright)):
        apart = np.concatenate([distances(signs[i], signs[i + 1 :]) for i in range(len(signs) - 1)])
        nearest = np.sort(apart)[:5].tolist()
        print(f"  {len(apart):,} pairs {name}: {apart.mean():.1f} +- {apart.std():.1f} apart, nearest {nearest}")


def _signs(tiles: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """(n, 4) uint64 of the tiles as they are, and turned upright as audit turns them to find turned copies."""
    rows = np.stack([hash_tile(np.ascontiguousarray(tile)) for tile in tiles])
    return rows["signs"], uprighted(rows["signs"], rows["turn"])


if __name__ == "__main__":
    main()
