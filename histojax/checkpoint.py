"""Orbax checkpoints of a run: the whole train state, where the data iterator stood, and the loop's own notes.

A checkpoint is written beside its final name and renamed when whole, so a kill at any moment leaves the previous
ones as they were. Saving returns once the state is copied to the host; the disk is written behind the next steps.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from ml_collections import ConfigDict

from histojax.errors import UserError
from histojax.ssl.recipe import Recipe
from histojax.ssl.state import TrainState


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
    """The checkpoints in `folder`: the newest `keep`, and the one that the last `save` named the best."""

    def __init__(self, folder: Path, keep: int = 2):
        self.folder = Path(folder).resolve()
        self._kept = _NewestAndBest(keep)
        logging.getLogger("absl").addFilter(_not_from_orbax)
        if jax.process_index() == 0:
            _remove_unfinished(self.folder)
            _remove_broken(self.folder)
        self._manager = ocp.CheckpointManager(
            self.folder,
            item_names=("state", "notes"),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=self._kept,
                cleanup_tmp_directories=True,
                save_root_metadata=False,
            ),
        )

    def steps(self) -> list[int]:
        """Steps of the whole checkpoints on disk, ascending."""
        return _steps(self.folder)

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
                args=ocp.args.Composite(state=ocp.args.StandardSave(state.as_dict()), notes=ocp.args.JsonSave(notes)),
                force=True,
            )

    def restore(self, like: TrainState, step: int | None = None) -> tuple[TrainState, dict]:
        """(state, notes) of the newest checkpoint or of `step`; shapes, dtypes and shardings as in `like`."""
        step = self.latest() if step is None else step
        if step is None:
            raise UserError(f"{self.folder}: no checkpoint")
        abstract = jax.tree.map(_abstract, like.as_dict())
        before = max((one for one in self.steps() if one < step), default=None)
        then = "there is none before it, so the run then starts anew"
        if before is not None:
            then = f"the same command then goes on from step {before}"
        with _reading(self.folder / str(step), f"delete this folder: {then}"):
            found = self._manager.restore(
                step,
                args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract), notes=ocp.args.JsonRestore()),
            )
        return TrainState.from_dict(found["state"]), found["notes"]

    def wait(self) -> None:
        """Returns when the last save is on disk; raises UserError if it failed."""
        with self._disk_errors():
            self._manager.wait_until_finished()

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
            _remove_unfinished(self.folder)
            sys.unraisablehook = _not_of_closed_loops
            step = self.latest()
            kept = "no earlier checkpoint exists" if step is None else f"the one of step {step} is whole"
            raise UserError(
                f"{self.folder}: saving a checkpoint failed ({_reason(error)}); {kept}. "
                "Make room and run the same command again to go on from there"
            ) from error


def backbone_of(folder: Path, step: int, config: ConfigDict, side: str) -> tuple[dict, dict]:
    """(parameters of the backbone as numpy arrays, notes) of one checkpoint; nothing else of it is read.

    Args:
        folder: of the checkpoints; nothing in it is changed, a run may be writing there.
        step: of the checkpoint.
        config: of the run.
        side: "teacher" or "student".

    Raises UserError if there is no such checkpoint or it cannot be read.
    """
    if step not in _steps(folder):
        known = ", ".join(map(str, _steps(folder))) or "none"
        raise UserError(f"{folder}: no checkpoint of step {step}; there are {known}")
    recipe = Recipe.from_config(config)
    shapes = {side: {"backbone": jax.eval_shape(lambda: recipe.init(jax.random.key(0)))["backbone"]}}
    arrays = jax.tree.map(lambda leaf: ocp.RestoreArgs(restore_type=np.ndarray, dtype=leaf.dtype), shapes)
    logging.getLogger("absl").addFilter(_not_from_orbax)
    manager = ocp.CheckpointManager(
        Path(folder).resolve(),
        item_handlers={"state": ocp.PyTreeCheckpointHandler(), "notes": ocp.JsonCheckpointHandler()},
        options=ocp.CheckpointManagerOptions(read_only=True),
    )
    others = ", ".join(str(one) for one in _steps(folder) if one != step)
    try:
        with _reading(folder / str(step), f"other steps are there: {others}" if others else "it is the only one"):
            found = manager.restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.PyTreeRestore(item=shapes, restore_args=arrays, partial_restore=True),
                    notes=ocp.args.JsonRestore(),
                ),
            )
    finally:
        manager.close()
    return jax.tree.map(np.asarray, found["state"][side]["backbone"]), found["notes"]


@contextlib.contextmanager
def _reading(path: Path, advice: str) -> Iterator[None]:
    """Makes what goes wrong within the block a UserError about the checkpoint `path`."""
    hook, sys.unraisablehook = sys.unraisablehook, _not_of_closed_loops
    try:
        yield
    except (ValueError, KeyError, OSError) as error:  # the hook stays: the threads may complain until the end
        raise UserError(f"{path}: the checkpoint is damaged ({_reason(error)}); {advice}") from error
    sys.unraisablehook = hook


def newest_step(folder: Path) -> int | None:
    """Step of the newest whole checkpoint in a folder that need not exist, or None; nothing is changed."""
    return max(_steps(folder), default=None)


def _steps(folder: Path) -> list[int]:
    return sorted(int(path.name) for path in _step_folders(folder) if _is_whole(path))


def _step_folders(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name.isdigit()] if folder.is_dir() else []


def _is_whole(path: Path) -> bool:
    """Whether a step folder has all its parts: a kill can catch it half-way through its deletion."""
    parts = ("_CHECKPOINT_METADATA", "state/_METADATA", "state/manifest.ocdbt", "notes/metadata")
    return all((path / part).exists() for part in parts)


def _not_from_orbax(record: logging.LogRecord) -> bool:
    """Orbax logs a failure with its trace and raises it as well: saying it once is enough."""
    return "orbax" not in record.pathname


def _abstract(x: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=getattr(x, "sharding", None))


def _remove_broken(folder: Path) -> None:
    for path in _step_folders(folder):
        if not _is_whole(path):
            print(f"{path}: an incomplete checkpoint, removed", file=sys.stderr)
            shutil.rmtree(path)


def _remove_unfinished(folder: Path) -> None:
    for path in folder.glob("*.orbax-checkpoint-tmp"):
        shutil.rmtree(path, ignore_errors=True)


def _not_of_closed_loops(found: Any) -> None:
    """After a failure Orbax's own threads complain to the event loop that they lost; nothing to act on."""
    if "Event loop is closed" not in str(found.exc_value):
        sys.__unraisablehook__(found)


def _reason(error: BaseException) -> str:
    """The end of the first line: the storage library nests its messages, the operating system's comes last.

    What follows it in brackets, [tensorstore_spec='{...}'], is the library's own state.
    """
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    line = re.split(r" \[\w+(?:\[\d+\])?='", line)[0]
    return line if len(line) < 200 else "... " + line.rsplit(": ", 1)[-1][-200:]
