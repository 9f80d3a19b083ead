"""Tiles per CPU second from slides: ours beside one `read_region` a tile, in alternated rounds in one process.

    python tools/bench_tiles.py --peer                         # a synthetic slide of 19200x15360 px, JPEG tiles
    python tools/bench_tiles.py a.svs b.svs --mpp 0.5 --tile-px 512 --peer
    python tools/bench_tiles.py a.svs --given-mpp 0.25 --rounds 9 --peer

Lines of JSON, seconds for a tile. Without --peer ours alone; PyTorch has no reader of slides, so the peers are
OpenSlide and Pillow, which are installed with histojax.

histojax    Slide.tiles: the JPEG (2000) tiles of a level decoded directly, each once, if it has such; else OpenSlide
read_region one OpenSlide.read_region a tile from the same level, alpha dropped, then the same resize as ours
pillow      the same read, then Pillow's Lanczos, as most tools do

encoded as JPEG: the tile is encoded as well, by the same encoder on all sides. Grid without overlap over the whole
slide, or its first --tiles tiles.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import openslide
import tifffile
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "slides")]

from bench_common import OURS, in_turns, summary, tell  # noqa: E402
from pyramids import jpeg_streams, picture, shrink  # noqa: E402

from histojax.slides.levels import choose_level  # noqa: E402
from histojax.slides.resample import make_window, reduce_blocks, resample  # noqa: E402
from histojax.slides.slide import Slide, open_slide  # noqa: E402

PATTERN_PX, TILE_PX = 3840, 240  # of the synthetic slide


def synthetic(path: Path, across: int = 5, down: int = 4) -> Path:
    """Writes a slide of 0.25 mpp with levels 1, 4, 16: one pattern repeated, as JPEG tiles with shared tables."""
    pattern = picture(PATTERN_PX, PATTERN_PX)
    about = f"Aperio Image Library\n{across * PATTERN_PX}x{down * PATTERN_PX} ({TILE_PX}x{TILE_PX})|MPP = 0.25"
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        for level, downsample in enumerate((1, 4, 16)):
            pixels = shrink(pattern, downsample)
            side = pixels.shape[0]
            streams, n = jpeg_streams(pixels, TILE_PX, 70, (2, 2), False), side // TILE_PX
            rows, columns = down * n, across * n
            file.write(
                (streams[(i // columns % n) * n + i % columns % n] for i in range(rows * columns)),
                shape=(down * side, across * side, 3), dtype=np.uint8, tile=(TILE_PX, TILE_PX), compression="jpeg",
                photometric="ycbcr", subsampling=(2, 2), description=about, subfiletype=int(level > 0), metadata=None,
            )  # fmt: skip
    return path


def grid(slide: Slide, tile_px: int, mpp: float, most: int) -> np.ndarray:
    """Corners (n, 2) of the tiles, row by row."""
    step = tile_px * mpp / slide.mpp
    columns, rows = (math.floor(side / step) for side in slide.size)
    return np.array([(round(c * step), round(r * step)) for r in range(rows) for c in range(columns)])[:most]


def ours(slide: Slide, coords: np.ndarray, tile_px: int, mpp: float) -> Iterator[np.ndarray]:
    """The tiles as histojax reads them; the slide is opened anew, nothing decoded, before the first is asked for."""
    own = open_slide(slide.path, slide.mpp)
    assert own.decoder  # compared with OpenSlide here, as once a slide

    def read() -> Iterator[np.ndarray]:
        for tile in own.tiles(coords, tile_px, mpp):
            if not isinstance(tile, np.ndarray):
                raise tile
            yield tile

    return read()


def by_region(slide: Slide, coords: np.ndarray, tile_px: int, mpp: float, pillow: bool = False) -> Iterator[np.ndarray]:
    """The tiles by one read_region each; the file is opened anew, its cache empty, before the first is asked for."""
    scale = mpp / slide.mpp
    number = choose_level(slide.levels, scale)
    level = slide.levels[number]
    side = tile_px * scale / level.downsample
    file = openslide.OpenSlide(slide.path)

    def read(x: int, y: int) -> np.ndarray:
        if pillow:
            image = file.read_region((x, y), number, (math.ceil(side), math.ceil(side))).convert("RGB")
            return np.asarray(image.resize((tile_px, tile_px), Image.Resampling.LANCZOS, (0, 0, side, side)))
        window = make_window(level, x, y, (tile_px, tile_px), scale)
        at = round(window.x * level.downsample), round(window.y * level.downsample)
        image = file.read_region(at, number, (window.width, window.height)).convert("RGB")
        return resample(reduce_blocks(np.asarray(image), window.block), window)

    return (read(x, y) for x, y in coords.tolist())


def _cut_all(make: Callable[[], Iterator[np.ndarray]], encode: bool) -> None:
    for tile in make():
        if encode:
            imagecodecs.jpeg8_encode(tile, level=90)


def measure(slide: Slide, args: argparse.Namespace) -> None:
    """Prints the lines of one slide."""
    coords = grid(slide, args.tile_px, args.mpp, args.tiles)
    where = coords, args.tile_px, args.mpp
    sides: dict[str, Callable[[], Iterator[np.ndarray]]] = {OURS: lambda: ours(slide, *where)}
    if args.peer:
        sides["read_region"] = lambda: by_region(slide, *where)
        sides["pillow"] = lambda: by_region(slide, *where, pillow=True)
    level = choose_level(slide.levels, args.mpp / slide.mpp)
    facts = {"slide": slide.path.name, "pixels": list(slide.size), "level": level, "decoder": slide.decoder}
    for encode in (False, True):
        calls = {name: partial(_cut_all, make, encode) for name, make in sides.items()}
        told = summary(in_turns(calls, args.rounds, units=len(coords)))
        rates = {name: round(1 / one["cpu_seconds"]) for name, one in told["sides"].items()}
        case = f"{slide.mpp:g} mpp slide, {args.tile_px} px at {args.mpp:g} mpp" + ", encoded as JPEG" * encode
        tell("tiles", case=case, unit="tile", **told, tiles_a_cpu_second=rates, tiles=len(coords), **facts)


def main(argv: list[str] | None = None) -> None:
    """Measures the slides of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slides", nargs="*")
    parser.add_argument("--mpp", type=float, default=1.0)
    parser.add_argument("--tile-px", type=int, default=256)
    parser.add_argument("--given-mpp", default=None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tiles", type=int, default=400)
    parser.add_argument("--peer", action="store_true", help="OpenSlide and Pillow in turns")
    args = parser.parse_args(argv)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        for path in args.slides or [synthetic(Path(folder) / "synthetic.svs")]:
            with open_slide(path, args.given_mpp) as slide:
                measure(slide, args)


if __name__ == "__main__":
    main()
