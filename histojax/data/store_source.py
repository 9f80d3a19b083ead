"""The tiles of a store as a Source: what is known of them stays in the memory-mapped index until it is asked for."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from histojax.common.errors import UserError
from histojax.data.coded import Coded
from histojax.data.decode import BadTile, decode_tile
from histojax.data.shards import Shards
from histojax.data.store_merge import PATIENT
from histojax.data.store_parts import COORDINATES, META, meta_of, read_store_json, tile_name
from histojax.data.tiles import UNLABELLED, Facts, Source

REMEDY = "copy the store again, or run the command that wrote it again"


def open_store(path: str | Path) -> Source:
    """The tiles of a store, of either kind; raises UserError if it is not whole, or of another format."""
    index = Index(Path(path))
    if index.kind == COORDINATES:
        from histojax.data.slide_tiles import SlideTiles

        return SlideTiles(index)
    return StoredTiles(index)


class Index:
    """The columns of a store's index, memory-mapped; what is asked for is read then. Pickled as its path.

    Public: `root`, `kind`, `plan` (what made the store), `part_names`, and by tile number `parts`, `slide_numbers`,
    `coords`; `slides` has the rows of slides.csv.
    """

    def __init__(self, root: Path):
        made = read_store_json(root)
        self.root, self.kind, self.plan = root, str(made["kind"]), made["plan"]
        self._columns, self._meta = _mapped(root)
        self.part_names = [part[0] for part in self._meta["parts"]]
        self.counts = [part[2] for part in self._meta["parts"]]
        self.starts = np.cumsum([0, *self.counts])
        if self.kind != COORDINATES:
            self._check_shards()

    def __getstate__(self) -> dict:
        return {"root": self.root}

    def __setstate__(self, state: dict) -> None:
        self.__init__(state["root"])  # type: ignore[misc]

    def __len__(self) -> int:
        return self._columns.num_rows

    def _check_shards(self) -> None:
        """Raises UserError for a shard that is missing or of another size than it was written with."""
        folder = self.root / "tiles"
        found: dict[str, int] = {}
        if folder.is_dir():
            with os.scandir(folder) as entries:
                found = {entry.name: entry.stat().st_size for entry in entries}
        for _, shard, tiles, size, _ in self._meta["parts"]:
            if tiles and found.get(shard) != size:
                what = f"has {found[shard]} bytes, expected {size}" if shard in found else "is missing"
                raise UserError(f"{folder / shard}: this shard of the store {what}; {REMEDY}")

    def column(self, title: str) -> np.ndarray:
        """(n,) a column of numbers, or the codes of one of names; not copied."""
        found = self._columns.column(title)
        return (found.indices if isinstance(found, pa.DictionaryArray) else found).to_numpy(zero_copy_only=True)

    def table(self, title: str) -> list[str]:
        """The different names of a column."""
        return self._columns.column(title).dictionary.to_pylist()

    def has(self, title: str) -> bool:
        """Whether the index has a column."""
        return title in self._columns.schema.names

    def coded(self, title: str) -> Coded:
        """A column of names."""
        return Coded(self.table(title), self.column(title))

    @cached_property
    def slide_names(self) -> Coded:
        """(n,) the slide of each tile, "" without one."""
        return self.coded("slide")

    @property
    def coords(self) -> np.ndarray | None:
        """(n, 2) int64 x, y in level-0 pixels, made anew at each call; None where no tile has them."""
        x, y = self.column("x"), self.column("y")
        return np.stack([x, y], 1).astype(np.int64) if len(x) and x.max() >= 0 else None

    def place(self, index: int) -> tuple[int, int]:
        """(part, place in it) of a tile."""
        part = int(self._columns.column("part")[index].as_py())
        return part, index - int(self.starts[part])

    def tile_name(self, index: int) -> str:
        """The name of a tile within the store."""
        if self.has("name") and (name := self._columns.column("name")[index].as_py()):
            return name
        x, y = (int(self.column(axis)[index]) for axis in "xy")
        return tile_name(self.slide_names[index], x, y)

    @cached_property
    def slides(self) -> dict[str, dict[str, str]]:
        """{slide: its row of slides.csv}, {} without one."""
        path = self.root / "slides.csv"
        if not path.exists():
            return {}
        with open(path, newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            head = file.readline()
            file.seek(0)
            # a spreadsheet in which somebody corrected it may have saved it with other separators
            rows = list(csv.DictReader(file, delimiter=max(",;\t", key=head.count)))
        if rows and "slide" not in rows[0]:
            raise UserError(f"{path}: expected a table with the column slide, found {head.strip()[:80]}")
        return {row["slide"]: row for row in rows}

    def labels(self) -> tuple[tuple[str, ...], np.ndarray]:
        """(class names, (n,) int32)."""
        names = self.table("label")
        classes = tuple(sorted(set(names) - {""}))
        numbers = {name: i for i, name in enumerate(classes)} | {"": UNLABELLED}
        return classes, np.array([numbers[name] for name in names], np.int32)[self.column("label")]

    def groups(self) -> tuple[Coded | None, str]:
        """(patient of each tile, else its slide; what they are): patients only where every tile has one."""
        groups, slides = self.coded("group"), self.slide_names
        known = groups.known()
        if known.all() or (known.any() and not slides.known().any()):
            return groups, str(self.plan.get("groups", PATIENT))
        if not known.any():
            return (slides, "slide") if slides.known().any() else (None, "")
        table = np.concatenate([groups.table, slides.table])
        return Coded(table, np.where(known, groups.numbers, slides.numbers + len(groups.table))), "slide"

    def fingerprint(self, settings: Mapping[str, Any] | None = None, keys: Sequence[str] = ()) -> str:
        """SHA-256 over all columns, the digests of the shards and some settings; not over where the store lies."""
        digest = hashlib.sha256()
        for title in self._columns.schema.names:
            column = self._columns.column(title)
            digest.update(title.encode())
            if title == "name":
                for start in range(0, len(column), 1 << 16):
                    digest.update("\n".join(map(str, column.slice(start, 1 << 16).to_pylist())).encode())
                continue
            digest.update(np.ascontiguousarray(self.column(title)).data)
            if isinstance(column, pa.DictionaryArray):
                digest.update("\n".join(self.table(title)).encode())
        digest.update(json.dumps([part[4] for part in self._meta["parts"]]).encode())
        digest.update(json.dumps({key: (settings or {}).get(key) for key in keys}, sort_keys=True).encode())
        return digest.hexdigest()

    def facts(self, group_kind: str) -> Facts:
        """What there is to say about the store."""
        slides = f" from {len(self.slides)} slides" if self.slides else ""
        what = "tiles" if self.kind != COORDINATES else "places of tiles"
        skipped = self._meta["skipped"]
        lost = f"; left out when it was written: {skipped} (skipped.csv)" if skipped else ""
        settings = self.plan.get("settings", self.plan)
        cut_at = ((int(settings["tile_px"]), float(settings["mpp"])),) if {"tile_px", "mpp"} <= settings.keys() else ()
        size = "".join(f", {side} px at {mpp:g} um/px" for side, mpp in cut_at)
        return Facts(f"{len(self)} {what}{slides} of a store{size}{lost}", group_kind=group_kind, cut_at=cut_at)


class StoredTiles:
    """The Source of a store of encoded tiles. `index` has all that is known of them."""

    def __init__(self, index: Index):
        self.index = index
        self.root = str(index.root)
        self.store_root = os.path.realpath(index.root)
        shards = [str(index.root / "tiles" / part[1]) for part in index._meta["parts"]]
        self._shards = Shards(shards, index.counts)
        self.classes, self.labels = index.labels()
        self.groups, kind = index.groups()
        self.facts = index.facts(kind)

    def __getstate__(self) -> dict:
        return {"index": self.index}

    def __setstate__(self, state: dict) -> None:
        self.__init__(state["index"])  # type: ignore[misc]

    def __len__(self) -> int:
        return len(self.index)

    @property
    def coords(self) -> np.ndarray | None:
        """(n, 2) int64 x, y in level-0 pixels; None where no tile has them."""
        return self.index.coords

    def name(self, index: int) -> str:
        """`root/name` of a tile."""
        return os.path.join(self.root, self.index.tile_name(int(index)))

    def encoded(self, index: int) -> bytes:
        """The JPEG or PNG file of a tile; raises BadTile when it cannot be had."""
        part, place = self.index.place(int(index))
        try:
            data = self._shards.load(part, place)
        except Exception as error:  # OSError, ValueError, RuntimeError of a damaged shard
            where = os.path.basename(self._shards.paths[part])
            raise BadTile(self.name(index), f"cannot be read from {where} ({error})") from None
        if len(data) != self.index.column("bytes")[index]:
            raise BadTile(self.name(index), "its shard does not fit the index: copy the store again")
        return data

    def read(self, index: int) -> np.ndarray:
        """(h, w, 3) uint8 RGB; raises BadTile."""
        return decode_tile(self.encoded(index), self.name(index))

    @cached_property
    def _fingerprint(self) -> str:
        return self.index.fingerprint()

    def fingerprint(self) -> str:
        """SHA-256 that changes when a tile is added, removed, renamed, relabelled or has other bytes."""
        return self._fingerprint


def _mapped(root: Path) -> tuple[pa.RecordBatch, dict[str, Any]]:
    """(the columns of index.arrow, memory-mapped; its JSON); raises UserError if it is missing or broken."""
    path = root / "index.arrow"
    if not path.exists():
        raise UserError(f"{root}: this tile store is unfinished (no index.arrow); run its writer again to finish it")
    try:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        assert META in reader.schema.metadata
        return reader.get_batch(0), meta_of(reader.schema)
    except (OSError, pa.ArrowInvalid, KeyError, ValueError, AssertionError) as error:
        raise UserError(f"{path}: cannot be read ({error}); {REMEDY}") from None
