"""Finishing a tile store: the rows of its parts become one index and tables for people; same parts, same bytes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv

from histojax.common.errors import UserError
from histojax.common.files import replacing
from histojax.common.tables import write_table
from histojax.data.store_parts import FORMAT, NAMES, meta_of, part_path, read_store_json, shard_path, text, write_arrow

PATIENT = "patient"
SLIDE_COLUMNS = ("slide", "path", "patient", "label", "mpp", "mpp_from", "width", "height", "tiles", "footprint")


@dataclass(frozen=True)
class Written:
    """What a store holds: tiles, the (name, reason) of what was skipped, slides (0 where its tiles have none)."""

    tiles: int
    skipped: tuple[tuple[str, str], ...]
    slides: int = 0


def finish_store(
    out: Path, names: Sequence[str], skipped: Iterable[tuple[str, str]] = (), *, tiles_csv: bool = False
) -> Written:
    """Merges the parts `names`, in this order, into index.arrow, and writes slides.csv and skipped.csv.

    `skipped` are (name, reason) of what never became a part: slides that cannot be read. `tiles_csv` writes the index
    as tiles.csv, too. Nothing in these files depends on how or when the parts were written. Raises UserError for a
    part that is missing or broken, and if there is no tile at all.
    """
    made = read_store_json(out)
    group_kind = made["plan"].get("groups", PATIENT)
    for left in out.glob(".*.tmp"):
        left.unlink(missing_ok=True)
    parts = [_read_part(out, name) for name in names]
    metas = [meta for _, meta in parts]
    lost = [*map(tuple, skipped), *(tuple(one) for meta in metas for one in meta["skipped"])]
    if not any(meta["tiles"] for meta in metas):
        first = f"; the first: {': '.join(lost[0])}" if lost else ""
        raise UserError(f"{out}: none of {len(lost) or 'the'} tiles or slides can be stored{first}")
    index = _merged(parts)
    meta = {
        "format": FORMAT,
        "kind": made["kind"],
        "skipped": len(lost),
        "parts": [
            [m["name"], shard_path(out, m["name"]).name, m["tiles"], m["shard_bytes"], m["sha256"]] for m in metas
        ],
    }
    slides = _slides_of(index, metas, group_kind)
    write_table(out / "skipped.csv", ("name", "reason"), lost)
    write_table(out / "slides.csv", _titles(slides), [[row.get(t, "") for t in _titles(slides)] for row in slides])
    if tiles_csv:
        _write_tiles_csv(out / "tiles.csv", index, group_kind or "group")
    else:
        (out / "tiles.csv").unlink(missing_ok=True)
    write_arrow(out / "index.arrow", index, meta)
    return Written(index.num_rows, tuple(lost), len(slides))


def _read_part(out: Path, name: str) -> tuple[pa.Table, dict[str, Any]]:
    path = part_path(out, name)
    try:
        with pa.OSFile(str(path)) as file:
            table = pa.ipc.open_file(file).read_all()
        return table.replace_schema_metadata(None), meta_of(table.schema)
    except FileNotFoundError:
        raise UserError(f"{path}: this part is missing; run the writer of the store again") from None
    except (OSError, pa.ArrowInvalid, KeyError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); remove it and run the writer of the store again") from None


def _merged(parts: Sequence[tuple[pa.Table, Mapping[str, Any]]]) -> pa.Table:
    """All rows in one table: the number of the part in front, names that say nothing new left out."""
    rows = pa.concat_tables([table for table, _ in parts]).unify_dictionaries().combine_chunks()
    numbers = np.repeat(np.arange(len(parts), dtype=np.int32), [table.num_rows for table, _ in parts])
    columns = {"part": pa.array(numbers)}
    for title in rows.column_names:
        column = _one(rows[title])
        if title == "label":
            column = _sorted(column)
        if not (title in ("tissue", "name") and column.null_count == len(column)):
            columns[title] = column
    if "tissue" in columns:
        columns["tissue"] = columns["tissue"].fill_null(float("nan"))
    return pa.table(columns)


def _one(column: pa.ChunkedArray) -> pa.Array:
    found = column.combine_chunks()
    return found.chunk(0) if isinstance(found, pa.ChunkedArray) else found


def _sorted(column: pa.DictionaryArray) -> pa.DictionaryArray:
    """The same values with a sorted dictionary."""
    names = np.array(column.dictionary.to_pylist(), object)
    order = np.argsort(names)
    numbers = np.argsort(order).astype(np.int32)[column.indices.to_numpy()]
    return pa.DictionaryArray.from_arrays(pa.array(numbers), pa.array(names[order].tolist(), pa.string()))


def _slides_of(index: pa.Table, metas: Sequence[Mapping[str, Any]], group_kind: str) -> list[dict[str, Any]]:
    """A row a slide, in the order of the parts, those without a tile included."""
    slide = _one(index["slide"])
    names, numbers = slide.dictionary.to_pylist(), slide.indices.to_numpy()
    counts = np.bincount(numbers, minlength=len(names))
    rows = {name: {"slide": name, "tiles": count} for name, count in zip(names, counts.tolist()) if name}
    for title, column in (("patient", "group"), ("label", "label")):
        if title == "label" or group_kind == PATIENT:
            for name, value in zip(names, _agreed(_one(index[column]), numbers, len(names))):
                rows.get(name, {})[title] = value
    for meta in metas:
        facts = _flat(meta["facts"])
        if "slide" in facts or "path" in facts or meta["name"] in rows:
            name = text(str(facts.get("slide", meta["name"])))  # as the index has it
            rows[name] = {**rows.pop(name, {"slide": name, "tiles": 0}), **facts, "slide": name}
    return list(rows.values())


def _agreed(column: pa.DictionaryArray, slides: np.ndarray, count: int) -> list[str]:
    """What all tiles of a slide say, "" where they say different things; one value a slide."""
    values = column.indices.to_numpy()
    one = np.zeros(count, np.int64)
    one[slides] = values  # of one of its tiles, any
    differ = np.bincount(slides[values != one[slides]], minlength=count) > 0
    table = column.dictionary.to_pylist()
    return ["" if no else table[i] for i, no in zip(one, differ)]


def _flat(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Facts as columns: a dict within becomes name_key columns, a list JSON; nothing is written as nothing."""
    flat: dict[str, Any] = {}
    for key, value in facts.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}_{inner}": v for inner, v in value.items()}
        elif value is None or value in ([], ()):
            flat[key] = ""
        else:
            flat[key] = json.dumps(value) if isinstance(value, (list, tuple)) else value
    return flat


def _titles(slides: Sequence[Mapping[str, Any]]) -> list[str]:
    found = {title for row in slides for title in row}
    return [t for t in SLIDE_COLUMNS if t in found] + sorted(found - set(SLIDE_COLUMNS))


def _write_tiles_csv(path: Path, index: pa.Table, group: str, rows: int = 1 << 16) -> None:
    """The index for people, a row a tile, written piece by piece."""
    titles = [t for t in ("slide", "x", "y", "label", "group", "tissue", "name", "bytes") if t in index.column_names]
    plain = [pa.string() if index.schema.field(t).type == NAMES else index.schema.field(t).type for t in titles]
    schema = pa.schema([(group if t == "group" else t, kind) for t, kind in zip(titles, plain)])
    if "tissue" in titles:  # an empty field says unknown
        tissue = index["tissue"]
        blank = pa.compute.if_else(pa.compute.is_nan(tissue), pa.scalar(None, pa.float32()), tissue)
        index = index.set_column(index.column_names.index("tissue"), "tissue", blank)
    with replacing(path) as partial, pa.OSFile(str(partial), "wb") as file:
        options = pa.csv.WriteOptions(quoting_style="needed")
        with pa.csv.CSVWriter(file, schema, write_options=options) as writer:
            for start in range(0, index.num_rows, rows):
                piece = index.select(titles).slice(start, rows)
                writer.write_table(piece.rename_columns(schema.names).cast(schema))
