"""The tile store: encoded tiles in ArrayRecord shards, one index beside them.

    store/
      store.json                  format, where the tiles come from, tiles a shard; written first
      tiles-00000.arrayrecord     group_size 1, uncompressed; each record is one JPEG or PNG file
      index.csv                   shard,name,slide,x,y,label,group,bytes: one row a tile; written last
      skipped.csv                 name,reason of the source's unreadable tiles, if any

While a store is being written each finished shard has a `tiles-00000.json` with its rows. Shard and rows appear
under their names only when whole, so a killed writer, run again, goes on after the last finished shard.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordWriter

from histojax.common.errors import UserError
from histojax.common.files import replacing, write_atomic
from histojax.data.decode import BadTile, decode_tile, encode_png
from histojax.data.tiles import UNLABELLED, EncodedTiles, Facts, Joined, Source

FORMAT = 1
OPTIONS = "group_size:1,uncompressed"  # random access to one tile; JPEG and PNG do not compress further
COLUMNS = ("shard", "name", "slide", "x", "y", "label", "group", "bytes")


@dataclasses.dataclass(frozen=True)
class Tile:
    """A tile to store: the encoded file and what is known of it. x, y in level-0 pixels, -1 unknown."""

    data: bytes
    name: str
    slide: str = ""
    x: int = -1
    y: int = -1
    label: str = ""
    group: str = ""


@dataclasses.dataclass(frozen=True)
class Written:
    """What `write_store` did: tiles written and the (name, reason) of those skipped, over all its runs."""

    tiles: int
    skipped: tuple[tuple[str, str], ...]


class _Shards:
    """Records of the shards, opened at the first read of each process."""

    def __init__(self, paths: list[str], counts: list[int], sizes: list[int]):
        # the counts spare the reader from opening every shard at the start
        self.records = ArrayRecordDataSource([f"{path}[0:{n}]" for path, n in zip(paths, counts)])
        self.sizes = sizes

    def load(self, index: int) -> bytes:
        return self.records[index]

    def size(self, index: int) -> int:
        return self.sizes[index]


def open_store(path: Path) -> EncodedTiles:
    """The tiles of a store; groups are its group column, else its slides. Raises UserError if it is not whole."""
    if not (path / "index.csv").exists():
        raise UserError(f"{path}: this tile store is unfinished (no index.csv); run its writer again to finish it")
    rows = _read_csv(path / "index.csv")
    if not rows or set(COLUMNS) - set(rows[0]):
        raise UserError(f"{path / 'index.csv'}: expected rows with the columns {','.join(COLUMNS)}")
    shards, counts = np.unique([row["shard"] for row in rows], return_counts=True)
    for shard in shards:
        if not (path / shard).exists():
            raise UserError(f"{path / shard}: this shard is named by index.csv but missing; copy the store again")
    groups = [row["group"] for row in rows]
    kind = _read_plan(path).get("groups", "group") if any(groups) else "slide"
    return EncodedTiles(
        str(path),
        [row["name"] for row in rows],
        _Shards([str(path / s) for s in shards], counts.tolist(), [int(row["bytes"]) for row in rows]),
        [row["label"] for row in rows],
        groups if any(groups) else [row["slide"] for row in rows],
        np.array([(int(row["x"]), int(row["y"])) for row in rows], np.int64),
        Facts(f"{len(rows)} tiles of a store{_left_out_then(path)}", group_kind=kind),
    )


def _left_out_then(path: Path) -> str:
    skipped = _skipped(path / "skipped.csv")
    return f"; left out when it was written: {len(skipped)} (skipped.csv)" if skipped else ""


def _read_plan(path: Path) -> dict[str, Any]:
    """What store.json says, {} without one."""
    plan = path / "store.json"
    return json.loads(plan.read_text()) if plan.exists() else {}


def write_store(source: Source, out_dir: str | Path, shard_size: int = 4096, threads: int = 4) -> Written:
    """Tiles written and skipped, once `source` is a whole store in `out_dir`.

    Every tile is decoded once: unreadable ones are skipped and listed. JPEG and PNG bytes are stored as they
    are, anything else as PNG. Run again after a kill, it keeps the finished shards. Raises UserError when
    `out_dir` holds something else or the store of another source.
    """
    out = Path(out_dir)
    plan = {"format": FORMAT, "source": source.fingerprint(), "tiles": len(source), "shard_size": shard_size}
    plan["groups"] = source.facts.group_kind
    start_store(out, plan)
    if (out / "index.csv").exists():
        return finish_store(out)
    with ThreadPoolExecutor(threads) as pool:
        for number, first in enumerate(range(0, len(source), shard_size)):
            if not _rows_path(out, number).exists():
                chunk = range(first, min(first + shard_size, len(source)))
                write_shard(out, number, pool.map(lambda i: _stored(source, i), chunk))
    return finish_store(out)


def start_store(out: Path, plan: dict[str, Any]) -> None:
    """Makes `out` ready for the shards of `plan` (JSON), or accepts it if it was begun with the same plan."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / "store.json"
    _remove(out.glob(".*.tmp"))  # what a killed writer left
    if path.exists():
        if {"groups": plan.get("groups"), **json.loads(path.read_text())} != {"groups": None, **plan}:
            raise UserError(f"{out}: holds the tile store of another source or shard size; choose another folder")
    elif any(out.iterdir()):
        raise UserError(f"{out}: not empty and not a tile store; choose another folder")
    else:
        write_atomic(path, json.dumps(plan, indent=1))


def write_shard(out: Path, number: int, tiles: Iterable[Tile | BadTile]) -> None:
    """Writes shard `number` and then its rows; bad tiles are skipped and remembered."""
    path = out / f"tiles-{number:05d}.arrayrecord"
    rows, skipped = [], []
    with replacing(path) as partial:
        writer = ArrayRecordWriter(str(partial), OPTIONS)
        try:
            for r in tiles:
                if isinstance(r, BadTile):
                    skipped.append((r.path, r.reason))
                    continue
                writer.write(r.data)
                rows.append((path.name, r.name, r.slide, r.x, r.y, r.label, r.group, len(r.data)))
        finally:
            writer.close()
    write_atomic(_rows_path(out, number), json.dumps({"rows": rows, "skipped": skipped}))


def finish_store(out: Path) -> Written:
    """Merges the rows of all shards into index.csv and skipped.csv; raises UserError if no tile was written."""
    parts = sorted(out.glob("tiles-*.json"))
    if (out / "index.csv").exists():  # finished before, perhaps killed while removing the parts
        _remove(parts)
        return Written(len(_read_csv(out / "index.csv")), _skipped(out / "skipped.csv"))
    found = [json.loads(part.read_text()) for part in parts]
    rows = [row for part in found for row in part["rows"]]
    skipped = [(name, reason) for part in found for name, reason in part["skipped"]]
    if not rows:
        raise UserError(f"{out}: none of {len(skipped)} tiles can be read; the first: {': '.join(skipped[0])}")
    if skipped:
        write_atomic(out / "skipped.csv", _csv(("name", "reason"), skipped))
    write_atomic(out / "index.csv", _csv(COLUMNS, rows))
    _remove(parts)
    return Written(len(rows), tuple(skipped))


def _stored(source: Source, index: int) -> Tile | BadTile:
    """What is stored of a tile, or why it is skipped (returned, not raised: it crosses a thread pool)."""
    label = source.labels[index]
    class_name = source.classes[label] if label != UNLABELLED else ""
    group = "" if source.groups is None else str(source.groups[index])
    while isinstance(source, Joined):
        source, index = source.locate(index)
    try:
        if not isinstance(source, EncodedTiles):
            return Tile(encode_png(source.read(index)), source.name(index), label=class_name, group=group)
        data = _jpeg_or_png(source, index)
    except BadTile as error:
        return BadTile(error.path, error.reason)  # without the traceback, which holds the bytes
    if source.coords is None:
        return Tile(data, source.names[index], label=class_name, group=group)
    x, y = source.coords[index].tolist()
    return Tile(data, source.names[index], group, x, y, class_name, group)


def _jpeg_or_png(source: EncodedTiles, index: int) -> bytes:
    data = source.encoded(index)
    tile = decode_tile(data, source.name(index))
    return data if data.startswith((b"\xff\xd8", b"\x89PNG")) else encode_png(tile)


def _rows_path(out: Path, number: int) -> Path:
    return out / f"tiles-{number:05d}.json"


def _csv(header: Iterable[str], rows: Iterable[Iterable]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return text.getvalue()


def _read_csv(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _skipped(path: Path) -> tuple[tuple[str, str], ...]:
    return tuple((row["name"], row["reason"]) for row in _read_csv(path)) if path.exists() else ()


def _remove(parts: Iterable[Path]) -> None:
    for part in parts:
        part.unlink()
