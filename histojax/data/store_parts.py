"""Writing a tile store part by part: a shard of encoded tiles, then its rows, which say that the part is done."""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from array_record.python.array_record_module import ArrayRecordWriter

from histojax.common.errors import UserError
from histojax.common.files import advice, read_json, reason, replacing, write_atomic
from histojax.data.decode import BadTile

FORMAT = 2
PIXELS, COORDINATES = "pixels", "coordinates"
OPTIONS = "group_size:1,uncompressed"  # random access to one tile; JPEG and PNG do not compress further
NAMES = pa.dictionary(pa.int32(), pa.string())
ROWS = pa.schema(
    [
        ("slide", NAMES),
        ("x", pa.int32()),
        ("y", pa.int32()),
        ("label", NAMES),
        ("group", NAMES),
        ("bytes", pa.int32()),
        ("tissue", pa.float32()),
        ("name", pa.string()),
    ]
)
META = b"histojax"  # key of our JSON among the metadata of an Arrow file
LONGEST_NAME = 160  # bytes: file systems take 255, and a temporary name is longer


@dataclass(frozen=True, slots=True)
class Tile:
    """A tile to store: the encoded file (b"" in a store of coordinates) and what is known of it.

    x, y in level-0 pixels, -1 unknown; without a name it is called SLIDE_X_Y; `group` is its patient; `tissue` the
    share of it that is tissue, NaN unknown.
    """

    data: bytes
    name: str = ""
    slide: str = ""
    x: int = -1
    y: int = -1
    label: str = ""
    group: str = ""
    tissue: float = math.nan


def start_store(out: Path, plan: Mapping[str, Any], kind: str = PIXELS) -> None:
    """Makes `out` ready for parts, or accepts it if it was begun with the same plan (what made it, JSON values).

    Raises UserError naming what differs if it was begun with another plan or kind, or holds anything else.
    """
    path, content = out / "store.json", _content(plan, kind)
    try:
        out.mkdir(parents=True, exist_ok=True)
        held = _visible(out)
        if path.exists() and (read_store_json(out) == content or _begun(out)):
            refuse_another(out, read_store_json(out), content)
        elif held and not path.exists():
            raise UserError(f"{out}: not empty and not a tile store (holds {min(held)}); choose another folder")
        else:
            write_atomic(path, json.dumps(content, indent=1, sort_keys=True) + "\n")
        for folder in ("tiles", "parts"):
            (out / folder).mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(f"{out}: cannot be made a tile store ({reason(error)}){advice(error)}") from None


def check_plan(out: Path, plan: Mapping[str, Any], kind: str) -> None:
    """Raises UserError if another writer has begun the store with another plan or kind since `start_store`."""
    refuse_another(out, read_store_json(out), _content(plan, kind))


def _content(plan: Mapping[str, Any], kind: str) -> dict[str, Any]:
    return {"format": FORMAT, "kind": kind, "plan": json.loads(json.dumps(plan))}


def _begun(out: Path) -> bool:
    """Whether a store holds anything: a start that failed before its first part binds nobody."""
    return (out / "index.arrow").exists() or any((out / "parts").glob("*.arrow"))


def read_store_json(out: Path) -> dict[str, Any]:
    """{format, kind, plan} of a store; raises UserError for a folder that is none, or one of another format."""
    if not (out / "store.json").exists():
        raise UserError(f"{out}: this is no tile store (no store.json); was it copied in part?")
    content = {"kind": None, "plan": None} | read_json(out / "store.json")
    if content.get("format") != FORMAT:
        raise UserError(
            f"{out}: a tile store of format {content.get('format', 1)}, which this histojax does not read (it reads "
            f"{FORMAT}): make it anew from its slides or tiles, in another folder"
        )
    if content["kind"] not in (PIXELS, COORDINATES) or not isinstance(content["plan"], dict):
        raise UserError(f"{out / 'store.json'}: damaged (no kind or plan of a store in it); copy the store again")
    return content


def refuse_another(out: Path, was: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raises UserError if a store was begun with other values, naming up to four of them."""
    old, new = dict(_leaves(was)), dict(_leaves(now))
    differs = [
        f"{name.removeprefix('plan.')} was {old.get(name)!r} and is {new.get(name)!r}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]
    if differs:
        more = f" and {len(differs) - 4} more" if len(differs) > 4 else ""
        raise UserError(
            f"{out}: this tile store was begun with other settings or another source ({'; '.join(differs[:4])}{more}); "
            "use the same ones, or choose another folder"
        )


def part_done(out: Path, name: str) -> bool:
    """Whether the part of this name is written."""
    return part_path(out, name).exists()


def shard_is_whole(out: Path, name: str) -> bool:
    """Whether the shard of a part that is done has the size with which it was written."""
    size = part_facts(out, name)["shard_bytes"]
    return not size or (shard_path(out, name).exists() and shard_path(out, name).stat().st_size == size)


def part_facts(out: Path, name: str) -> dict[str, Any]:
    """What is known of a part that is done: name, tiles, skipped [[name, reason]], shard_bytes, sha256, facts."""
    return _facts_in(part_path(out, name))


def parts_done(out: Path) -> list[str]:
    """Names of all parts that are written."""
    return [_facts_in(path)["name"] for path in sorted((out / "parts").glob("[!.]*.arrow"))]


def _facts_in(path: Path) -> dict[str, Any]:
    try:
        with pa.memory_map(str(path)) as file:
            return meta_of(pa.ipc.open_file(file).schema)
    except (OSError, pa.ArrowInvalid, KeyError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); remove it and run the writer of the store again") from None


def write_part(
    out: Path,
    name: str,
    tiles: Iterable[Tile | BadTile],
    facts: Mapping[str, Any] | None = None,
    *,
    coordinates: bool = False,
) -> dict[str, Any]:
    """Writes a part, first its shard, then its rows; returns its `part_facts`.

    `facts` (JSON values) say what else is known: of a slide path, patient, label, mpp, mpp_from, width, height,
    footprint, rejected; they become columns of slides.csv, and patient and label go to tiles that have none. Who
    makes the tiles may complete them until the last tile. Bad tiles are skipped and remembered. A part without a tile
    has no shard. What a killed writer of the same part left is removed, so hold a lock where several may write one.
    Raises UserError when a file cannot be written (disk full, read-only); the part is not there then.
    """
    facts = {} if facts is None else facts
    rows = _Rows(label=str(facts.get("label") or ""), group=str(facts.get("patient") or ""))
    shard = shard_path(out, name)
    for path in (shard, part_path(out, name)):
        for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
            left.unlink(missing_ok=True)
    if coordinates:
        for tile in rows.noted(tiles):
            rows.add(tile)
    else:
        _write_shard(shard, rows, tiles)
    meta = {
        "name": name,
        "tiles": len(rows.columns["x"]),
        "skipped": rows.skipped,
        "shard_bytes": shard.stat().st_size if shard.exists() and not coordinates else 0,
        "sha256": rows.digest.hexdigest(),
        "facts": dict(facts),
    }
    write_arrow(part_path(out, name), pa.table(rows.columns, ROWS), meta, compression="zstd")
    return meta


def change_part(out: Path, name: str, patient: str, label: str) -> None:
    """Gives the tiles of a part that is done, all of one slide, another patient and label."""
    path = part_path(out, name)
    with pa.OSFile(str(path)) as file:
        table = pa.ipc.open_file(file).read_all()
    meta = meta_of(table.schema)
    meta["facts"] |= {"patient": patient, "label": label}
    codes = pa.array([0] * table.num_rows, pa.int32())
    for title, value in (("group", patient), ("label", label)):
        column = pa.DictionaryArray.from_arrays(codes, pa.array([text(value)], pa.string()))
        table = table.set_column(table.column_names.index(title), title, column)
    write_arrow(path, table, meta, compression="zstd")


class _Rows:
    """Columns of the tiles of a part, as they are written."""

    def __init__(self, label: str, group: str) -> None:
        self.label, self.group = label, group  # of tiles that have none
        self.columns: dict[str, list] = {field.name: [] for field in ROWS}
        self.skipped: list[tuple[str, str]] = []
        self.digest = hashlib.sha256()

    def noted(self, tiles: Iterable[Tile | BadTile]) -> Iterator[Tile]:
        """The good tiles; bad ones are remembered."""
        for tile in tiles:
            if isinstance(tile, BadTile):
                self.skipped.append((tile.path, tile.reason))
            else:
                yield tile

    def add(self, tile: Tile) -> None:
        """One row, and its bytes into the digest."""
        self.digest.update(tile.data)
        name = None if tile.name == tile_name(tile.slide, tile.x, tile.y) else text(tile.name) or None
        tissue = None if math.isnan(tile.tissue) else tile.tissue
        label, group = tile.label or self.label, tile.group or self.group
        values = (text(tile.slide), tile.x, tile.y, text(label), text(group), len(tile.data), tissue, name)
        for column, value in zip(self.columns.values(), values):
            column.append(value)


def _write_shard(path: Path, rows: _Rows, tiles: Iterable[Tile | BadTile]) -> None:
    """The shard, if there is a good tile."""
    good = rows.noted(tiles)
    first = next(good, None)
    if first is None:
        path.unlink(missing_ok=True)
        return
    with replacing(path) as partial:
        writer = ArrayRecordWriter(str(partial), OPTIONS)
        try:
            while first is not None and writer.ok():
                writer.write(first.data)
                rows.add(first)
                first = next(good, None)
        finally:
            _close(writer)


def _close(writer: ArrayRecordWriter) -> None:
    """Closes a shard; its errors, a full disk among them, come out as OSError."""
    try:
        writer.close()
    except RuntimeError as error:
        said = {"No space left": errno.ENOSPC, "quota": errno.EDQUOT, "Read-only": errno.EROFS, "denied": errno.EACCES}
        number = next((code for words, code in said.items() if words in str(error)), errno.EIO)
        raise OSError(number, os.strerror(number) if number != errno.EIO else str(error)) from None


def write_arrow(path: Path, table: pa.Table, meta: Mapping[str, Any], compression: str | None = None) -> None:
    """An Arrow file of one record batch with `meta` as JSON, whole or not at all."""
    table = table.replace_schema_metadata({META: json.dumps(meta, sort_keys=True)}).combine_chunks()
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with (
        replacing(path) as partial,
        pa.OSFile(str(partial), "wb") as file,
        pa.ipc.new_file(file, table.schema, options=options) as writer,
    ):
        writer.write_table(table)


def meta_of(schema: pa.Schema) -> dict[str, Any]:
    """The JSON that `write_arrow` put beside the columns."""
    return json.loads(schema.metadata[META])


def tile_name(slide: str, x: int, y: int) -> str:
    """What a tile of a slide is called when nothing else is said."""
    return f"{slide}_{x}_{y}"


def text(name: str) -> str:
    """A name that Arrow takes: bytes of a file name that are no UTF-8 are written as \\xNN."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def shard_path(out: Path, name: str) -> Path:
    """Where the encoded tiles of a part lie."""
    return out / "tiles" / f"{file_stem(name)}.arrayrecord"


def part_path(out: Path, name: str) -> Path:
    """Where the rows of a part lie."""
    return out / "parts" / f"{file_stem(name)}.arrow"


def file_stem(name: str) -> str:
    """A file name for a part: its own name where any file system takes that, else made safe, with a digest behind ~."""
    data = name.encode("utf-8", "surrogateescape")
    safe = re.sub(r'[\x00-\x1f\x7f/\\:*?"<>|~\udc80-\udcff]', "_", name)
    if safe == name and re.fullmatch(r"[^.\- ](.*[^. ])?", name) and len(data) <= LONGEST_NAME:
        return name
    short = safe.encode("utf-8")[: LONGEST_NAME - 20].decode("utf-8", "ignore").strip(". -")
    return f"{short or 'part'}~{hashlib.sha256(data).hexdigest()[:12]}"


def _visible(folder: Path) -> set[str]:
    """Names in a folder, without hidden ones: locks, temporary files, what a computer writes by itself."""
    return {name for name in os.listdir(folder) if not name.startswith(".")}


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of nested dicts."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _leaves(inner, f"{name}.{key}" if name else str(key))
    else:
        yield name, value
