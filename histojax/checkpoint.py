"""Orbax checkpoints of a run: the whole train state, where the data iterator stood, and the loop's own notes.

A checkpoint is written beside its final name and renamed when whole, so a kill at any moment leaves the previous
ones as they were. Saving returns once the state is copied to the host; the disk is written behind the next steps.
"""

from __future__ import annotations

import contextlib
import logging
import math
import shutil
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from ml_collections import ConfigDict
from orbax.checkpoint.checkpoint_managers import preservation_policy

from histojax.errors import UserError
from histojax.ssl.recipe import Recipe
from histojax.ssl.state import TrainState


class Checkpoints:
    """The checkpoints in `folder`: the newest `keep`, and the best scored one when `keep_best`."""

    def __init__(self, folder: Path, keep: int = 2, keep_best: bool = True):
        self.folder = Path(folder).resolve()
        policies: list[Any] = [preservation_policy.LatestN(keep)]
        if keep_best:
            policies.append(
                preservation_policy.BestN(
                    get_metric_fn=lambda metrics: metrics["score"], n=1, keep_checkpoints_without_metrics=False
                )
            )
        logging.getLogger("absl").addFilter(_not_from_orbax)
        if jax.process_index() == 0:
            _remove_unfinished(self.folder)
            _remove_broken(self.folder)
        self._manager = ocp.CheckpointManager(
            self.folder,
            item_names=("state", "notes"),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=preservation_policy.AnyPreservationPolicy(policies),
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

    def save(self, state: TrainState, notes: dict, score: float = math.nan) -> None:
        """Saves `state` and `notes` (JSON) under the state's step, in the background.

        `score` ranks the checkpoint for `keep_best`; without one it competes by age alone. Waits for the save
        before, and raises UserError if that one failed.
        """
        self.wait()
        step = int(state.step)
        metrics = None if math.isnan(score) else {"score": float(score)}
        with self._disk_errors():
            self._manager.save(
                step,
                args=ocp.args.Composite(state=ocp.args.StandardSave(state.as_dict()), notes=ocp.args.JsonSave(notes)),
                metrics=metrics,
                force=True,
            )

    def restore(self, like: TrainState, step: int | None = None) -> tuple[TrainState, dict]:
        """(state, notes) of the newest checkpoint or of `step`; shapes, dtypes and shardings as in `like`."""
        step = self.latest() if step is None else step
        abstract = jax.tree.map(_abstract, like.as_dict())
        try:
            found = self._manager.restore(
                step,
                args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract), notes=ocp.args.JsonRestore()),
            )
        except (ValueError, KeyError, OSError) as error:
            raise UserError(
                f"{self.folder / str(step)}: the checkpoint cannot be read ({_reason(error)}); "
                "delete that folder to go on from the one before"
            ) from error
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
    try:
        found = manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.PyTreeRestore(item=shapes, restore_args=arrays, partial_restore=True),
                notes=ocp.args.JsonRestore(),
            ),
        )
    except (ValueError, KeyError, OSError) as error:
        raise UserError(f"{folder / str(step)}: the checkpoint cannot be read ({_reason(error)})") from error
    finally:
        manager.close()
    return jax.tree.map(np.asarray, found["state"][side]["backbone"]), found["notes"]


def newest_step(folder: Path) -> int | None:
    """Step of the newest whole checkpoint in a folder that need not exist, or None."""
    return max(_steps(folder), default=None)


def _steps(folder: Path) -> list[int]:
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit()) if folder.is_dir() else []


def _not_from_orbax(record: logging.LogRecord) -> bool:
    """Orbax logs a failure with its trace and raises it as well: saying it once is enough."""
    return "orbax" not in record.pathname


def _abstract(x: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=getattr(x, "sharding", None))


def _remove_broken(folder: Path) -> None:
    """Deletes step folders that a kill caught half-way through their deletion."""
    parts = ("_CHECKPOINT_METADATA", "state/_METADATA", "state/manifest.ocdbt", "notes/metadata")
    for step in _steps(folder):
        if not all((folder / str(step) / part).exists() for part in parts):
            shutil.rmtree(folder / str(step))


def _remove_unfinished(folder: Path) -> None:
    for path in folder.glob("*.orbax-checkpoint-tmp"):
        shutil.rmtree(path, ignore_errors=True)


def _not_of_closed_loops(found: Any) -> None:
    """After a failed save Orbax's own threads complain to the event loop that they lost; nothing to act on."""
    if "Event loop is closed" not in str(found.exc_value):
        sys.__unraisablehook__(found)


def _reason(error: BaseException) -> str:
    """The end of the first line: the storage library nests its messages, the operating system's comes last."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return line if len(line) < 200 else "... " + line.rsplit(": ", 1)[-1][-200:]
