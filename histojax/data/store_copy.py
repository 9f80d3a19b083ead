"""Any source of tiles into a tile store, in chunks that a killed run need not write twice."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

from histojax.data.decode import BadTile, decode_tile, encode_png
from histojax.data.store_merge import Written, finish_store
from histojax.data.store_parts import Tile, part_done, start_store, write_part
from histojax.data.store_source import StoredTiles
from histojax.data.tiles import UNLABELLED, EncodedTiles, Joined, Source


def write_store(source: Source, out_dir: str | Path, shard_size: int = 4096, threads: int = 4) -> Written:
    """Tiles written and skipped, once `source` is a whole store in `out_dir`.

    Every tile is decoded once: unreadable ones are skipped and listed. JPEG and PNG bytes are stored as they
    are, anything else as PNG. Run again after a kill, it keeps the finished shards. Raises UserError when
    `out_dir` holds something else or the store of another source.
    """
    out = Path(out_dir)
    plan = {"source": source.fingerprint(), "tiles": len(source), "shard_size": shard_size}
    start_store(out, plan | {"groups": source.facts.group_kind})
    names = []
    with ThreadPoolExecutor(threads) as pool:
        for number, first in enumerate(range(0, len(source), shard_size)):
            names.append(f"tiles-{number:05d}")
            if not part_done(out, names[-1]):
                chunk = range(first, min(first + shard_size, len(source)))
                write_part(out, names[-1], _read_ahead(pool, source, chunk, 8 * threads))
    return finish_store(out, names)


def _read_ahead(pool: ThreadPoolExecutor, source: Source, chunk: range, ahead: int) -> Iterator[Tile | BadTile]:
    """The tiles of a chunk, in order, `ahead` of them read before they are asked for: never all in memory."""
    waiting: Iterator[Tile | BadTile] = iter(())
    numbers = iter(chunk)
    while batch := list(islice(numbers, ahead)):
        coming = pool.map(lambda i: _stored(source, i), batch)
        yield from waiting
        waiting = coming
    yield from waiting


def _stored(source: Source, index: int) -> Tile | BadTile:
    """What is stored of a tile, or why it is skipped (returned, not raised: it crosses a thread pool)."""
    label = source.labels[index]
    class_name = source.classes[label] if label != UNLABELLED else ""
    group = "" if source.groups is None else str(source.groups[index])
    while isinstance(source, Joined):
        source, index = source.locate(index)
    try:
        if isinstance(source, StoredTiles):
            x, y = (int(source.index.column(axis)[index]) for axis in "xy")
            slide, name = source.index.slide_names[index], source.index.tile_name(index)
            return Tile(_jpeg_or_png(source, index), name, slide, x, y, class_name, group)
        if isinstance(source, EncodedTiles):
            return Tile(_jpeg_or_png(source, index), source.names[index], label=class_name, group=group)
        return Tile(encode_png(source.read(index)), source.name(index), label=class_name, group=group)
    except BadTile as error:
        return BadTile(error.path, error.reason)  # without the traceback, which holds the bytes


def _jpeg_or_png(source: EncodedTiles | StoredTiles, index: int) -> bytes:
    data = source.encoded(index)
    tile = decode_tile(data, source.name(index))
    return data if data.startswith((b"\xff\xd8", b"\x89PNG")) else encode_png(tile)
