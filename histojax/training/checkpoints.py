"""Orbax checkpoints of a run: the whole train state, where the data iterator stood, and the loop's own notes.

A checkpoint is written beside its final name and renamed when whole, so a kill at any moment leaves the previous
ones as they were. Saving returns once the state is copied to the host; the disk is written behind the next steps.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import operator
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from histojax.common.errors import UserError
from histojax.common.locks import has_locks
from histojax.parallel.agreement import Together
from histojax.parallel.backend import is_out_of_memory
from histojax.ssl.state import TrainState
from histojax.zoo.run_checkpoints import (
    alone,
    ignore_orbax_s,
    last_words,
    newest_step,
    quiet_orbax,
    reader,
    reading,
    step_folders,
    whole_steps,
)

PIECES = ocp.SaveArgs(chunk_byte_size=2**26)  # an array is read piece by piece, never all of it beside its copy
DISCARDED = "discarded"  # folder of checkpoints that are no longer wanted, on their way to be deleted


@dataclasses.dataclass
class _NewestAndBest:
    """Which checkpoints Orbax leaves when it saves: the newest ones, and the best one however old it is.

    Orbax's own policy ranks scores that it holds in memory, so after a resume it no longer knows the best.
    """

    newest: int
    best: int | None = None  # step; set before every save

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """For each of the checkpoints, oldest first."""
        first = len(checkpoints) - self.newest
        return [i >= first or one.step == self.best for i, one in enumerate(checkpoints)]


class Checkpoints:
    """The checkpoints in `folder`: the newest `keep`, and the one that the last `save` named the best.

    All processes of a run save together, each the parts of the state that its devices hold.
    """

    def __init__(self, folder: Path, keep: int = 2, together: Together | None = None):
        self.folder = Path(folder).resolve()
        together = together or Together()
        self._main = together.main
        self._discarded = self.folder / DISCARDED
        self._kept = _NewestAndBest(keep)
        quiet_orbax()
        if self._main:
            _remove_unfinished(self.folder)
            _move_aside(self.folder)
            shutil.rmtree(self._discarded, ignore_errors=True)
            self.folder.mkdir(parents=True, exist_ok=True)
        together.gather("the folder is in order")
        _lock_as_the_storage_can(self.folder)
        self._manager = ocp.CheckpointManager(
            self.folder,
            item_names=("state", "notes"),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=self._kept,
                todelete_subdir=DISCARDED,  # a rename: no kill can leave half a checkpoint under a step's name
                save_root_metadata=False,
            ),
        )

    def steps(self) -> list[int]:
        """Steps of the whole checkpoints on disk, ascending."""
        return whole_steps(self.folder)

    def latest(self) -> int | None:
        """Step of the newest whole checkpoint, or None."""
        return newest_step(self.folder)

    def save(self, state: TrainState, notes: dict, best: int | None = None) -> None:
        """Saves `state` and `notes` (JSON) under the state's step, in the background.

        The checkpoint of step `best`, an earlier one or this, is kept whatever its age. Waits for the save before,
        and raises UserError if that one failed.
        """
        self.wait()
        self._kept.best = best
        with self._disk_errors():
            self._manager.save(
                int(state.step),
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(
                        state.as_dict(), save_args=jax.tree.map(lambda _: PIECES, state.as_dict())
                    ),
                    notes=ocp.args.JsonSave(notes),
                ),
                force=True,
            )

    def restore(self, like: TrainState, step: int | None = None) -> tuple[TrainState, dict]:
        """(state, notes) of the newest checkpoint or of `step`; shapes, dtypes and shardings as in `like`.

        The leaves of `like` are jax.ShapeDtypeStruct with a sharding, so that only the restored state is in memory.
        """
        self.wait()
        step = self.latest() if step is None else step
        if step is None:
            raise UserError(f"{self.folder}: no checkpoint")
        abstract = jax.tree.map(_abstract, like.as_dict())
        before = max((one for one in self.steps() if one < step), default=None)
        then = "there is none before it, so the run then starts anew"
        if before is not None:
            then = f"the same command then goes on from step {before}"
        with reading(self.folder / str(step), f"move this folder away: {then}"):
            try:
                state, notes = self._read(step, abstract, _bytes_on_a_device)
            except ValueError as error:
                if "more bytes than we reserved" not in str(error):
                    raise
                # written in other parts than those wanted now: they have to be read as they were written
                state, notes = self._read(step, abstract, lambda x: x.size * x.dtype.itemsize)
        return TrainState.from_dict(state), notes

    def _read(self, step: int, abstract: Any, size: Callable[[Any], int]) -> tuple[Any, dict]:
        """(state, notes) of a checkpoint; `size` is how many bytes of an array are on their way at a time.

        The large arrays are read first: what a read needs beside its array is then not on top of a whole state.
        """
        half = max(map(size, jax.tree.leaves(abstract))) / 2
        large = jax.tree.map(lambda x: size(x) > half, abstract)
        first, _ = self._read_some(step, _only(abstract, large), size)
        rest, notes = self._read_some(step, _only(abstract, jax.tree.map(operator.not_, large)), size)
        return jax.tree.map(lambda one, other, large: one if large else other, first, rest, large), notes

    def _read_some(self, step: int, abstract: Any, size: Callable[[Any], int]) -> tuple[Any, dict]:
        """(the arrays of `abstract` that are wanted, notes), about the largest one's bytes at a time on their way."""
        room = max((size(x) for x in jax.tree.leaves(abstract) if x is not ocp.PLACEHOLDER), default=0)
        handler = ocp.PyTreeCheckpointHandler(restore_concurrent_gb=1.1 * room / 1e9, multiprocessing_options=alone())
        state = ocp.args.PyTreeRestore(abstract, restore_args=jax.tree.map(_restore_args, abstract))
        with reader(self.folder, handler) as manager:
            found = manager.restore(step, args=ocp.args.Composite(state=state, notes=ocp.args.JsonRestore()))
        return found["state"], found["notes"]

    def wait(self) -> None:
        """Returns when the last save is on disk; raises UserError if it failed."""
        with self._disk_errors():
            self._manager.wait_until_finished()
        if self._main:
            shutil.rmtree(self._discarded, ignore_errors=True)

    def close(self) -> None:
        """Waits and releases the background threads."""
        try:
            self.wait()
        finally:
            with contextlib.suppress(Exception):
                self._manager.close()

    @contextlib.contextmanager
    def _disk_errors(self):
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:
            if self._main:
                _remove_unfinished(self.folder)
            sys.unraisablehook = ignore_orbax_s
            step = self.latest()
            kept = "no earlier checkpoint exists" if step is None else f"the one of step {step} is whole"
            raise UserError(
                f"{self.folder}: saving a checkpoint failed ({last_words(error)}); {kept}. {_remedy(error)}"
            ) from error


def _only(abstract: Any, wanted: Any) -> Any:
    """The tree with Orbax's word for an array that is not to be read wherever `wanted` is false."""
    return jax.tree.map(lambda x, wanted: x if wanted else ocp.PLACEHOLDER, abstract, wanted)


def _lock_as_the_storage_can(folder: Path) -> None:
    """Orbax writes nothing where the storage has no file locks, unless it is told to make files that mean a lock.

    It has no public setting for it; an Orbax without the private one locks as it will. A file that a killed process
    leaves lies in an unfinished checkpoint, which goes.
    """
    try:
        from orbax.checkpoint._src.serialization import tensorstore_utils
    except ImportError:
        return
    mode = {"mode": "os" if has_locks(folder) else "lockfile"}
    for name in ("_BASE_TS_CONTEXT", "_DEFAULT_OCDBT_TS_CONTEXT"):
        getattr(tensorstore_utils, name, {})["file_io_locking"] = mode


def _restore_args(x: Any) -> ocp.RestoreArgs:
    if x is ocp.PLACEHOLDER:
        return ocp.RestoreArgs()
    return ocp.ArrayRestoreArgs(sharding=x.sharding, global_shape=x.shape, dtype=x.dtype)


def _bytes_on_a_device(x: jax.ShapeDtypeStruct) -> int:
    shape = x.shape if x.sharding is None else x.sharding.shard_shape(x.shape)
    return math.prod(shape) * x.dtype.itemsize


def _abstract(x: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=getattr(x, "sharding", None))


def _move_aside(folder: Path) -> None:
    """Takes what is no whole checkpoint out of the way, and says where it is: it may be worth something to somebody."""
    for step in sorted(step for step, whole in step_folders(folder).items() if not whole):
        aside = folder.with_name(f"{folder.name}.aside")
        target = next(aside / name for name in _names(str(step)) if not (aside / name).exists())
        aside.mkdir(exist_ok=True)
        (folder / str(step)).rename(target)
        print(f"{folder / str(step)}: no whole checkpoint, moved to {target}", file=sys.stderr)


def _names(name: str) -> Iterator[str]:
    yield name
    yield from (f"{name}.{number}" for number in itertools.count(1))


def _remove_unfinished(folder: Path) -> None:
    """Deletes what Orbax was writing when it failed or was killed: its own name for it says so."""
    for path in folder.glob(f"*{ocp.path.step.TMP_DIR_SUFFIX}"):
        shutil.rmtree(path, ignore_errors=True)


def _remedy(error: BaseException) -> str:
    """What to do about a failed save, by what the error says."""
    words = str(error)
    if any(word in words for word in ("No space left", "quota", "File too large")):
        return "Make room and run the same command again to go on from there"
    if is_out_of_memory(error):
        return "The device has no memory left, the disk is fine: lower batch_size, or set model.remat=block"
    return "Look after the storage, then run the same command again to go on from there"
