"""Grain pipelines: endless shuffled training batches, ordered evaluation batches.

Batches are cut from one endless stream of tile numbers, each pass its own permutation, so batches run over pass
borders and nothing is dropped. Whole batches are the unit of work of threads and worker processes, and of each a
host makes the rows that its devices get: batch number b is the same whoever makes it, and a position in the stream is
one number. That is why order and resume do not depend on the number of workers and hosts.

Pitfall: Grain's workers read absl flags. In a program that never ran `app.run` they are unparsed and Grain
fails with UnparsedFlagAccessError; `ensure_absl_flags_parsed` (called here whenever there are workers) marks
them parsed. Workers are spawned: a script that asks for them needs `if __name__ == "__main__":`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import grain
import numpy as np
from absl import flags

from histojax.common.errors import UserError
from histojax.data.decode import BadTile, fit_tile
from histojax.data.tiles import Source

Batch = dict[str, Any]  # arrays; numpy scalars while it is a single row
TRIES = 32  # replacements tried for one unreadable tile


class TrainIterator(grain.DatasetIterator):
    """Training batches without end. The state is a small dict of JSON values, the number of the next batch in it.

    It goes into any checkpoint as JSON, or whole through `grain.checkpoint.CheckpointSave` and `CheckpointRestore`
    of Orbax. `close()` ends the workers.
    """

    def __init__(self, source: Source, batches: grain.MapDataset, workers: int, identity: dict[str, Any]):
        super().__init__()
        self._source, self._batches, self._workers, self._identity = source, batches, workers, identity
        self._next_batch = 0
        self._inner: grain.DatasetIterator | None = None

    def __next__(self) -> Batch:
        batch = next(self._started())
        self._next_batch += 1
        return batch

    def get_state(self) -> dict[str, Any]:
        """{"next_batch": int} and what the stream depends on: seed, batch size, source fingerprint."""
        return {"next_batch": self._next_batch, **self._identity, "source": self._source.fingerprint()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on at a state, with any number of workers; raises UserError when it belongs to another stream."""
        mine = self.get_state()
        differs = [k for k in mine if k != "next_batch" and mine[k] != state.get(k)]
        if differs:
            was = ", ".join(f"{k} was {state.get(k)!r} and is {mine[k]!r}" for k in differs)
            raise UserError(f"the data iterator cannot resume: {was}; use the same tiles and settings, or start anew")
        self.close()
        self._next_batch = int(state["next_batch"])

    def start_prefetch(self) -> None:
        """Begins to decode before the first batch is asked for."""
        self._started().start_prefetch()

    def close(self) -> None:
        """Ends threads and workers; the next batch would start them again at the same position."""
        if self._inner is not None:
            self._inner.close()
        self._inner = None

    def _started(self) -> grain.DatasetIterator:
        if self._inner is None:
            self._inner = iter(_run(self._batches[self._next_batch :], self._workers))
        return self._inner


def train_iterator(
    source: Source,
    batch_size: int,
    tile_px: int,
    seed: int,
    workers: int = 0,
    rows: Sequence[int] | None = None,
) -> TrainIterator:
    """Iterator of dict(image (B, P, P, 3) uint8, label (B,) int32, index (B,) int64, bad (B,) int64).

    `batch_size` is that of all hosts together, of which this one makes the `rows`, None: all. An unreadable tile is
    replaced by another, drawn from (seed, position); its row then has the replacement's label and index, and `bad` is
    the number of the tile that failed (else -1), to be given to `BadTileLog`. `workers` decode in processes; 0 uses
    threads of this one. Raises UserError when none of 32 replacements can be read either.
    """
    mine = range(batch_size) if rows is None else tuple(rows)
    # Grain adds the number of the pass to the seed: without mixing, seed 2 would be seed 1 one pass later
    mixed = int(np.random.SeedSequence(seed).generate_state(1)[0])
    order = grain.MapDataset.range(len(source)).shuffle(seed=mixed).repeat()
    loaded = _Rows(order.map_with_index(_Load(source, tile_px, seed)), batch_size, mine)
    identity = {"seed": seed, "batch_size": batch_size, "tile_px": tile_px}
    return TrainIterator(source, loaded.batch(len(mine)), workers, identity)


def eval_batches(
    source: Source,
    indices: Sequence[int] | np.ndarray,
    batch_size: int,
    tile_px: int,
    workers: int = 0,
    rows: Sequence[int] | None = None,
) -> Iterator[Batch]:
    """Batches of the tiles `indices`, in that order: dict(image, label, index, bad, valid), as in training.

    All have `batch_size` rows, of which `rows` are made here, None: all. `valid` (B,) bool is False for the rows that
    pad the last batch (index -1) and for unreadable tiles (`bad` is their number, the image black), which the caller
    leaves out and reports.
    """
    order = np.asarray(indices, np.int64)
    padded = np.pad(order, (0, -len(order) % batch_size), constant_values=-1)
    if not len(order):
        return
    mine = list(range(batch_size) if rows is None else rows)
    chosen = padded.reshape(-1, batch_size)[:, mine].reshape(-1)
    loaded = grain.MapDataset.source(chosen).map(_LoadOrBlank(source, tile_px)).batch(len(mine))
    iterator = iter(_run(loaded, workers))
    try:
        yield from iterator
    finally:
        iterator.close()


def ensure_absl_flags_parsed() -> None:
    """Marks absl's flags as parsed with their defaults if nobody has parsed them; Grain's workers need that."""
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


class _Rows(grain.MapDataset):
    """Of every `batch_size` elements those at the places `rows`."""

    def __init__(self, parent: grain.MapDataset, batch_size: int, rows: Sequence[int]):
        super().__init__(parent)
        self._batch_size, self._rows = batch_size, rows

    def __len__(self) -> int:
        return len(self._parent) // self._batch_size * len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.slice(index)
        batch, place = divmod(index, len(self._rows))
        return self._parent[batch * self._batch_size + self._rows[place]]


@dataclasses.dataclass(frozen=True)
class _Load:
    """(position in the stream, tile number) -> row. Pure, so any process gives the same row."""

    source: Source
    tile_px: int
    seed: int

    def __call__(self, position: int, index: int) -> Batch:
        try:
            return _row(self.source, index, self.tile_px)
        except BadTile as error:
            return self._replacement(position, index, error)

    def _replacement(self, position: int, bad: int, first_error: BadTile) -> Batch:
        for attempt in range(TRIES):
            digest = hashlib.blake2b(f"{self.seed}/{position}/{attempt}".encode(), digest_size=8).digest()
            index = int.from_bytes(digest, "little") % len(self.source)
            try:
                return _row(self.source, index, self.tile_px, bad)
            except BadTile:
                continue
        raise UserError(f"{TRIES + 1} tiles in a row are unreadable, the first: {first_error}")


@dataclasses.dataclass(frozen=True)
class _LoadOrBlank:
    """Tile number -> row with `valid`; -1 and unreadable tiles give a black one."""

    source: Source
    tile_px: int

    def __call__(self, index: int) -> Batch:
        index = int(index)
        try:
            if index >= 0:
                return _row(self.source, index, self.tile_px) | {"valid": np.bool_(True)}
        except BadTile:
            pass
        blank = np.zeros((self.tile_px, self.tile_px, 3), np.uint8)
        row = dict(image=blank, label=np.int32(-1), index=np.int64(index), bad=np.int64(index))
        return row | {"valid": np.bool_(False)}


def _row(source: Source, index: int, tile_px: int, bad: int = -1) -> Batch:
    image = fit_tile(source.read(index), tile_px)
    return dict(image=image, label=np.int32(source.labels[index]), index=np.int64(index), bad=np.int64(bad))


def _run(batches: grain.MapDataset, workers: int) -> grain.IterDataset:
    """Batches made ahead, in order: by threads, or by worker processes of two threads."""
    threads = 2 if workers else min(8, os.cpu_count() or 1)
    dataset = batches.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads))
    if not workers:
        return dataset
    ensure_absl_flags_parsed()
    options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=1)
    return dataset.mp_prefetch(options, worker_init_fn=_start_worker)


def _start_worker(worker: int, count: int) -> None:
    """Keeps a worker off the accelerator, leaves signals to the main process, and ends when that one is gone.

    Schedulers send SIGTERM to the whole group: the main process still needs the batches until it has saved.
    """
    os.environ["JAX_PLATFORMS"] = "cpu"
    if "jax" in sys.modules:  # Grain imports it and the variable is read at import
        sys.modules["jax"].config.update("jax_platforms", "cpu")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    threading.Thread(target=_exit_with, args=(parent.pid if parent else os.getppid(),), daemon=True).start()


def _exit_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(2)
    os._exit(1)
