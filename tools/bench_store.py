"""Write rate and random read rate of a tile store; opening and sampling one of millions of tiles.

usage: python tools/bench_store.py [--tiles 4000] [--px 256] [--folder DIR]     rates, with JPEG tiles of that size
       python tools/bench_store.py --index 2500000 [--slides 2500] [--folder DIR]  a store of so many tiny tiles

Lines of JSON. PyTorch has no such store: a DataLoader over files is in tools/bench_data.py, the same files in a folder
stand beside the store here.

Rates: tiles like stained tissue (synthetic), JPEG quality 90, written by write_part, then read in random order, encoded
and decoded, by one thread and by eight.

With --index the store is a real one, written part by part, its tiles being PNG files of 16 px so that it fits on a
disk: what is measured is the index, the order of samples and the opening of shards, not the decoding of large tiles. A
new process opens it (seconds, memory), then draws 20,000 tiles with the iterator of training. Memory is what the
process holds for itself (RssAnon); the pages of the mapped index, which the system may take back, stand beside it.
"""

from __future__ import annotations

import argparse
import io
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the checkout that this tool lies in

import numpy as np  # noqa: E402
from bench_common import tell  # noqa: E402
from PIL import Image  # noqa: E402

from histojax.data.decode import encode_png  # noqa: E402
from histojax.data.sources import open_source  # noqa: E402
from histojax.data.store import Tile, finish_store, part_done, start_store, write_part  # noqa: E402
from histojax.data.synthetic import SyntheticTissue  # noqa: E402

DRAWN = 20_000


def main() -> None:
    values = _arguments()
    with tempfile.TemporaryDirectory(dir=values.folder) as temporary:
        folder = Path(values.folder or temporary)
        if values.part:
            sample(folder / "index")
        elif values.index:
            build(folder / "index", values.index, values.slides)
            words = [sys.executable, __file__, "--index", "1", "--part", "sample", "--folder", str(folder)]
            subprocess.run(words, check=True)
        else:
            rates(folder, values.tiles, values.px)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("--tiles", type=int, default=4000)
    parser.add_argument("--px", type=int, default=256)
    parser.add_argument("--index", type=int, default=0)
    parser.add_argument("--slides", type=int, default=2500)
    parser.add_argument("--folder", default=None)
    parser.add_argument("--part", default="")
    return parser.parse_args()


def rates(folder: Path, count: int, px: int) -> None:
    """Tells tiles per second of writing and reading."""
    source = SyntheticTissue(64, px)
    data = [_jpeg(source.read(i)) for i in range(64)]
    out = folder / "rates"
    start_store(out, {})
    begin = time.perf_counter()
    for slide in range(4):
        tiles = (Tile(data[i % 64], slide=f"s{slide}", x=px * i, y=0) for i in range(count // 4))
        write_part(out, f"s{slide}", tiles)
    finish_store(out, [f"s{slide}" for slide in range(4)])
    seconds = time.perf_counter() - begin
    size = sum(len(data[i % 64]) for i in range(count)) / 2**20
    what = f"JPEG tiles of {px} px"
    tell("store", case=f"write, {what}", tiles_a_second=round(count / seconds), mb_a_second=round(size / seconds))
    files = folder / "files"
    files.mkdir()
    for i in range(count):
        (files / f"{i}.jpg").write_bytes(data[i % 64])
    order = np.random.default_rng(0).permutation(count // 4 * 4).tolist()
    for place, tiles in (("store", open_source(out)), ("folder", open_source(files))):
        for how, read in (("encoded", tiles.encoded), ("decoded", tiles.read)):
            one, eight = (_rate(read, order, threads) for threads in (1, 8))
            told = {"tiles_a_second": round(one), "by_eight_threads": round(eight)}
            tell("store", case=f"random read of a {place}, {how}, {what}", **told)


def _jpeg(tile: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(tile).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _rate(read: Callable, order: list[int], threads: int) -> float:
    begin = time.perf_counter()
    if threads == 1:
        for index in order:
            read(index)
    else:
        with ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(read, order, chunksize=64):
                pass
    return len(order) / (time.perf_counter() - begin)


def build(out: Path, count: int, slides: int) -> None:
    """Writes a store of `count` tiles of `slides` slides, two a patient, of nine classes."""
    data = [
        encode_png(np.repeat([[[grey] * 3], [[250] * 3]], 8, 0).repeat(16, 1).astype(np.uint8)) for grey in range(100)
    ]
    start_store(out, {"tiles": count, "slides": slides})
    names = [f"TCGA-{s // 2 % 100:02d}-{s // 2:04d}-01Z-00-DX{s % 2 + 1}" for s in range(slides)]
    begin = time.perf_counter()
    for number, name in enumerate(names):
        share = range(count * number // slides, count * (number + 1) // slides)
        if not part_done(out, name):
            write_part(out, name, _tiles(data, name, share), {"path": f"/slides/{name}.svs", "patient": name[:12]})
    written = time.perf_counter()
    finish_store(out, names)
    done = time.perf_counter()
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    index = (out / "index.arrow").stat().st_size
    told = {"write_seconds": round(written - begin, 1), "finish_seconds": round(done - written, 2)}
    told |= {"store_mib": round(size / 2**20), "index_mib": round(index / 2**20, 1)}
    tell("store", case=f"build of {count} tiles of {slides} slides", **told, index_bytes_a_tile=round(index / count, 1))


def _tiles(data: list[bytes], name: str, share: range) -> Iterator[Tile]:
    for place, i in enumerate(share):
        x, y = 512 * (place % 40), 512 * (place // 40)
        yield Tile(data[i % len(data)], slide=name, x=x, y=y, label=f"class {i % 9}", tissue=0.9)


def sample(store: Path) -> None:
    """Opens a store and draws from it as training does; tells seconds and memory."""
    from histojax.data.pipeline import train_iterator

    held = _memory()
    begin = time.perf_counter()
    source = open_source(store)
    tell("store", case=f"open {len(source)} tiles", **_since(begin), **_more(held))
    begin = time.perf_counter()
    source.fingerprint()
    tell("store", case="fingerprint", **_since(begin), **_more(held))
    begin = time.perf_counter()
    iterator = train_iterator(source, 64, 16, seed=0)
    seen: list[np.ndarray] = []
    for batch in range(DRAWN // 64):
        seen.append(next(iterator)["index"])
        if batch in (0, DRAWN // 256, DRAWN // 128, DRAWN // 64 - 1):
            files = len(os.listdir("/proc/self/fd"))
            tell("store", case=f"after {64 * (batch + 1)} tiles", **_more(held), files_open=files)
    seconds = time.perf_counter() - begin
    spread = len(np.unique(np.concatenate(seen)))
    tell("store", case=f"draw {DRAWN} tiles", tiles_a_second=round(DRAWN / seconds), different=spread)
    iterator.close()


def _since(begin: float) -> dict[str, float]:
    return {"seconds": round(time.perf_counter() - begin, 3)}


def _memory() -> tuple[float, float]:
    """MiB that the process holds for itself, and that are mapped files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    values = {line.split(":")[0]: int(line.split()[1]) / 1024 for line in lines if line.startswith("Rss")}
    return values["RssAnon"], values["RssFile"]


def _more(held: tuple[float, float]) -> dict[str, int]:
    own, files = (round(now - then) for now, then in zip(_memory(), held))
    return {"memory_mib": own, "mapped_mib": files}


if __name__ == "__main__":
    main()
