"""The checkpoints of a run, read by others than the run itself: which are there, and the backbone in one."""

from __future__ import annotations

import contextlib
import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from histojax.common.errors import UserError


def backbone_of(folder: Path, step: int, side: str) -> tuple[dict, dict]:
    """(parameters of the backbone as numpy arrays, notes) of one checkpoint; nothing else of it is read.

    Args:
        folder: of the checkpoints; nothing in it is changed, a run may be writing there.
        step: of the checkpoint.
        side: "teacher" or "student".

    Raises UserError if there is no such checkpoint or it cannot be read.
    """
    if step not in whole_steps(folder):
        known = ", ".join(map(str, whole_steps(folder))) or "none"
        raise UserError(f"{folder}: no checkpoint of step {step}; there are {known}")
    logging.getLogger("absl").addFilter(not_from_orbax)
    manager = ocp.CheckpointManager(
        Path(folder).resolve(),
        item_handlers={"state": ocp.PyTreeCheckpointHandler(), "notes": ocp.JsonCheckpointHandler()},
        options=ocp.CheckpointManagerOptions(read_only=True),
    )
    others = ", ".join(str(one) for one in whole_steps(folder) if one != step)
    try:
        with reading(folder / str(step), f"other steps are there: {others}" if others else "it is the only one"):
            stored = manager.item_metadata(step)["state"].tree
            shapes = {side: {"backbone": jax.tree.map(_shape, stored[side]["backbone"])}}
            arrays = jax.tree.map(lambda leaf: ocp.RestoreArgs(restore_type=np.ndarray, dtype=leaf.dtype), shapes)
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
def reading(path: Path, advice: str) -> Iterator[None]:
    """Makes what goes wrong within the block a UserError about the checkpoint `path`."""
    hook, sys.unraisablehook = sys.unraisablehook, ignore_closed_loops
    try:
        yield
    except (ValueError, KeyError, OSError) as error:  # the hook stays: the threads may complain until the end
        raise UserError(f"{path}: the checkpoint is damaged ({last_words(error)}); {advice}") from error
    sys.unraisablehook = hook


def newest_step(folder: Path) -> int | None:
    """Step of the newest whole checkpoint in a folder that need not exist, or None; nothing is changed."""
    return max(whole_steps(folder), default=None)


def whole_steps(folder: Path) -> list[int]:
    return sorted(int(path.name) for path in step_folders(folder) if is_whole(path))


def step_folders(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name.isdigit()] if folder.is_dir() else []


def is_whole(path: Path) -> bool:
    """Whether a step folder has all its parts: a kill can catch it half-way through its deletion."""
    parts = ("_CHECKPOINT_METADATA", "state/_METADATA", "state/manifest.ocdbt", "notes/metadata")
    return all((path / part).exists() for part in parts)


def not_from_orbax(record: logging.LogRecord) -> bool:
    """Orbax logs a failure with its trace and raises it as well: saying it once is enough."""
    return "orbax" not in record.pathname


def ignore_closed_loops(found: Any) -> None:
    """After a failure Orbax's own threads complain to the event loop that they lost; nothing to act on."""
    if "Event loop is closed" not in str(found.exc_value):
        sys.__unraisablehook__(found)


def last_words(error: BaseException) -> str:
    """The end of the first line: the storage library nests its messages, the operating system's comes last.

    What follows it in brackets, [tensorstore_spec='{...}'], is the library's own state.
    """
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    line = re.split(r" \[\w+(?:\[\d+\])?='", line)[0]
    return line if len(line) < 200 else "... " + line.rsplit(": ", 1)[-1][-200:]


def _shape(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
