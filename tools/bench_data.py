"""The data pipeline on the host: decoding by format, images a second by workers, and how long a step waits for them.

    python tools/bench_data.py [--part decode workers waiting] [--batch 64] [--batches 40] [--workers 0 1 2]
    pip install '.[bench]' && python tools/bench_data.py --peer

decode   one thread: encoded bytes to a tile (224, 224, 3), of synthetic tissue. Beside Pillow, as torchvision's
         ImageFolder reads (the same pixels, checked first), and torchvision.io's own decoders (their difference is
         told). Seconds are for an image: 1 / cpu_seconds is images a second and core.
workers  batches of training from a folder of JPEG files, by threads (0) or worker processes, beside a DataLoader with
         the same number of workers. Seconds are for an image; CPU seconds are of all processes together.
waiting  batches by --workers (the first) for a device whose step takes a given time: the share of the time that it
         waits, for demands of 0.5 to 1.2 times what the pipeline gave without pause.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the checkout that this tool lies in

import numpy as np
from bench_common import OURS, Spent, in_turns, need, summary, tell
from PIL import Image

from histojax.data.decode import decode_tile, fit_tile
from histojax.data.pipeline import train_iterator
from histojax.data.sources import open_source
from histojax.data.synthetic import SyntheticTissue

TILE_PX = 224
PILLOW, TORCHVISION, LOADER = "Pillow", "torchvision.io", "PyTorch DataLoader"
FORMATS: dict[str, tuple[str, dict[str, Any], int]] = {  # name: Pillow's, its settings, side of the stored tile
    "JPEG 90": ("JPEG", {"quality": 90}, 224),
    "JPEG 90, 4:4:4": ("JPEG", {"quality": 90, "subsampling": 0}, 224),
    "JPEG 90 of 512 px": ("JPEG", {"quality": 90}, 512),
    "PNG": ("PNG", {}, 224),
    "TIFF": ("TIFF", {}, 224),
    "TIFF, LZW": ("TIFF", {"compression": "tiff_lzw"}, 224),
    "WEBP 90": ("WEBP", {"quality": 90}, 224),
    "JPEG 2000": ("JPEG2000", {"quality_layers": [20], "irreversible": True}, 224),
}
IN_TORCHVISION = ("JPEG", "PNG", "WEBP")  # what torchvision.io decodes


def encoded(count: int, name: str) -> list[bytes]:
    """Encoded tiles of synthetic tissue."""
    kind, settings, px = FORMATS[name]
    source, made = SyntheticTissue(count, px), []
    for i in range(count):
        buffer = io.BytesIO()
        Image.fromarray(source.read(i)).save(buffer, kind, **settings)
        made.append(buffer.getvalue())
    return made


def ours(data: bytes) -> np.ndarray:
    """The tile as training reads it."""
    return fit_tile(decode_tile(data, "tile"), TILE_PX)


def by_pillow(data: bytes) -> np.ndarray:
    """The tile as torchvision's datasets and transforms make it."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    if image.size != (TILE_PX, TILE_PX):
        image = image.resize((TILE_PX, TILE_PX), Image.Resampling.BICUBIC)
    return np.asarray(image)


def by_torchvision(data: bytes) -> np.ndarray:
    """The tile by torchvision.io, resized by torchvision on tensors where it must be."""
    import torch
    from torchvision.io import ImageReadMode, decode_image
    from torchvision.transforms.functional import resize

    x = decode_image(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB)
    if x.shape[1:] != (TILE_PX, TILE_PX):
        x = resize(x, [TILE_PX, TILE_PX], interpolation=3, antialias=True)
    return x.movedim(0, -1).numpy()


def measure_decoding(args: argparse.Namespace) -> bool:
    """A line a format; whether ours are Pillow's pixels in all."""
    equal = True
    for name, (kind, _, _) in FORMATS.items():
        data = encoded(args.tiles, name)
        readers: dict[str, Callable[[bytes], np.ndarray]] = {OURS: ours}
        if args.peer:
            readers[PILLOW] = by_pillow
            if kind in IN_TORCHVISION:
                readers[TORCHVISION] = by_torchvision
        told: dict[str, Any] = {"kilobytes": round(sum(map(len, data)) / len(data) / 1000, 1)}
        if args.peer:
            same = all((ours(one) == by_pillow(one)).all() for one in data)
            told["equal_to_pillow"], equal = same, equal and same
        if TORCHVISION in readers:
            gap = [np.abs(ours(one).astype(int) - by_torchvision(one)) for one in data]
            told["torchvision_levels_apart"] = {"mean": round(float(np.mean(gap)), 3), "most": int(np.max(gap))}
        found = in_turns({side: _over(read, data) for side, read in readers.items()}, args.rounds, units=len(data))
        rate = 1 / summary(found)["sides"][OURS]["cpu_seconds"]
        tell("decode", case=name, unit="image", **summary(found), images_a_core_second=round(rate), **told)
    return equal


def _over(read: Callable[[bytes], np.ndarray], data: Sequence[bytes]) -> Callable[[], None]:
    def run() -> None:
        for one in data:
            read(one)

    return run


def measure_workers(args: argparse.Namespace, folder: Path) -> float:
    """A line a number of workers; the images a second of the first of them, ours."""
    first = 0.0
    for workers in args.workers:
        sides: dict[str, Callable[[], Iterator[Any]]] = {OURS: lambda w=workers: our_batches(folder, args.batch, w)}
        if args.peer:
            sides[LOADER] = lambda w=workers: loader_batches(folder, args.batch, w)
        found: dict[str, list[Spent]] = {name: [] for name in sides}
        for turn in range(args.rounds_of_workers):
            for name in sides if turn % 2 == 0 else reversed([*sides]):
                found[name].append(_rate(sides[name](), args.batch, args.batches))
        told = summary(found)
        rates = {name: round(1 / side["wall_seconds"]) for name, side in told["sides"].items()}
        first = first or rates[OURS]
        what = f"{workers} worker{'s' * (workers != 1)}" if workers else "no workers (ours: threads)"
        tell("workers", case=f"{what}, JPEG 90, batch {args.batch}", unit="image", **told, images_a_second=rates)
    return first


def _rate(batches: Iterator[Any], batch: int, count: int) -> Spent:
    """Seconds an image over `count` batches, after two; processes' CPU seconds included."""
    with closing(batches):  # type: ignore[type-var]
        for _ in range(2):
            next(batches)
        wall, cpu = time.perf_counter(), _all_cpu_seconds()
        for _ in range(count):
            next(batches)
        images = batch * count
        return Spent((time.perf_counter() - wall) / images, (_all_cpu_seconds() - cpu) / images)


def _all_cpu_seconds() -> float:
    """CPU seconds of this process and of those that it started and that live."""
    import psutil

    own = psutil.Process()
    times = [one.cpu_times() for one in (own, *own.children(recursive=True))]
    return sum(t.user + t.system for t in times)


def our_batches(folder: Path, batch: int, workers: int) -> Iterator[Any]:
    """The iterator of training."""
    iterator = train_iterator(open_source(folder), batch, TILE_PX, seed=0, workers=workers)
    try:
        while True:
            yield next(iterator)["image"]
    finally:
        iterator.close()


def loader_batches(folder: Path, batch: int, workers: int) -> Iterator[Any]:
    """A DataLoader over an ImageFolder, shuffled, uint8 tensors; endless."""
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder
    from torchvision.transforms.functional import pil_to_tensor

    loader = DataLoader(ImageFolder(str(folder), pil_to_tensor), batch, shuffle=True, num_workers=workers)
    while True:
        for images, _ in loader:
            yield images


def measure_waiting(args: argparse.Namespace, folder: Path, capacity: float) -> None:
    """A line a demand: the share of the time for which the device waits."""
    for demand in (0.5, 0.8, 1.0, 1.2):
        step = args.batch / (demand * capacity)
        with closing(our_batches(folder, args.batch, args.workers[0])) as batches:  # type: ignore[type-var]
            for _ in range(2):
                next(batches)
            waited, began = 0.0, time.perf_counter()
            for _ in range(args.batches):
                time.sleep(step)  # the device works, the host reads ahead
                asked = time.perf_counter()
                next(batches)
                waited += time.perf_counter() - asked
        share = waited / (time.perf_counter() - began)
        told = {"images_a_second_wanted": round(demand * capacity), "waiting_share": round(share, 3)}
        tell("waiting", case=f"demand of {demand:g} times the capacity", **told)


def write_folder(folder: Path, count: int) -> None:
    """JPEG files of synthetic tissue in a folder of two classes."""
    for i, data in enumerate(encoded(min(count, 128), "JPEG 90") * -(-count // 128)):
        place = folder / f"class{i % 2}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{i}.jpg").write_bytes(data)


def main(argv: list[str] | None = None) -> int:
    """1 if a tile of ours is not what Pillow gives."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ("decode", "workers", "waiting")
    parser.add_argument("--part", nargs="+", default=parts, choices=parts)
    parser.add_argument("--tiles", type=int, default=64, help="decoded in each reading")
    parser.add_argument("--rounds", type=int, default=5, help="of decoding")
    parser.add_argument("--rounds-of-workers", type=int, default=2)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--batches", type=int, default=40)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--peer", action="store_true", help="Pillow, torchvision.io and a DataLoader in turns")
    args = parser.parse_args(argv)
    need(parser, "psutil", *(("torch", "torchvision") if args.peer else ()), without="--part decode")
    equal = measure_decoding(args) if "decode" in args.part else True
    with tempfile.TemporaryDirectory() as temporary:
        if {"workers", "waiting"} & set(args.part):
            write_folder(Path(temporary), 1024)
            capacity = measure_workers(args, Path(temporary))
            if "waiting" in args.part:
                measure_waiting(args, Path(temporary), capacity)
    return int(not equal)


if __name__ == "__main__":
    sys.exit(main())
