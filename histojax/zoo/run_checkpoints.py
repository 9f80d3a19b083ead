"""The checkpoints of a run, read by others than the run itself: which are there, and the backbone in one."""

from __future__ import annotations

import contextlib
import functools
import logging
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from histojax.common.errors import UserError
from histojax.models.parts import merge, whole_backbone

BEST = "best"  # stands for a step in "checkpoints/best"


def backbone_of(folder: Path, step: int, side: str) -> tuple[dict, dict]:
    """(parameters of the backbone as numpy arrays, notes) of one checkpoint, as `network_of` reads them."""
    tree, notes = network_of(folder, step, side, ("backbone",))
    return tree["backbone"], notes


def network_of(folder: Path, step: int, side: str, modules: Sequence[str] | None = None) -> tuple[dict, dict]:
    """(parameters of a network as numpy arrays, notes) of one checkpoint; nothing else of it is read.

    Args:
        folder: of the checkpoints; nothing in it is changed, a run may be writing there.
        step: of the checkpoint.
        side: "teacher" or "student".
        modules: "backbone", "dino_head", "ibot_head"; None: those that it has.

    Raises UserError if there is no such checkpoint or it cannot be read.
    """
    steps = whole_steps(folder)
    if step not in steps:
        raise UserError(f"{folder}: no checkpoint of step {step}; there are {', '.join(map(str, steps)) or 'none'}")
    others = ", ".join(str(one) for one in steps if one != step)
    advice = f"other steps are there: {others}" if others else "it is the only one"
    with reader(folder) as manager, reading(folder / str(step), advice):
        stored = manager.item_metadata(step)["state"].tree
        found = {part: stored.get(part, {}) for part in (side, "frozen")}
        wanted = {part: [name for name in tree if not modules or name in modules] for part, tree in found.items()}
        parts = [part for part, names in wanted.items() if names]
        shapes = {part: {name: jax.tree.map(_shape, stored[part][name]) for name in wanted[part]} for part in parts}
        arrays = jax.tree.map(lambda leaf: ocp.RestoreArgs(restore_type=np.ndarray, dtype=leaf.dtype), shapes)
        read = manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.PyTreeRestore(item=shapes, restore_args=arrays, partial_restore=True),
                notes=ocp.args.JsonRestore(),
            ),
        )
    network = functools.reduce(merge, (jax.tree.map(np.asarray, read["state"][part]) for part in parts))
    return {**network, "backbone": whole_backbone(network["backbone"])}, read["notes"]


def notes_of(folder: Path, step: int) -> dict[str, Any]:
    """The notes of a checkpoint, without its arrays; raises UserError if they cannot be read."""
    with reader(folder) as manager, reading(folder / str(step), "move this folder away to go on from the one before"):
        return manager.restore(step, args=ocp.args.Composite(notes=ocp.args.JsonRestore()))["notes"]


@contextlib.contextmanager
def reading(path: Path, advice: str) -> Iterator[None]:
    """Makes what goes wrong within the block a UserError about the checkpoint `path`."""
    hook, sys.unraisablehook = sys.unraisablehook, ignore_orbax_s
    try:
        yield
    except (ValueError, KeyError, OSError) as error:  # the hook stays: the threads may complain until the end
        raise UserError(f"{path}: the checkpoint is damaged ({last_words(error)}); {advice}") from error
    sys.unraisablehook = hook


def newest_step(folder: Path) -> int | None:
    """Step of the newest whole checkpoint in a folder that need not exist, or None; nothing is changed."""
    return max(whole_steps(folder), default=None)


def best_step(folder: Path) -> int:
    """Step of the checkpoint that the run had chosen as the best when it last saved, see training.choice.

    Raises UserError where none was chosen, or it is no longer there.
    """
    steps = whole_steps(folder)
    best = notes_of(folder, steps[-1]).get("best") if steps else None
    if best and best["step"] in steps:
        return int(best["step"])
    why = f"the best one, of step {best['step']}, is no longer there" if best else "none was chosen as the best"
    there = f"there are {', '.join(map(str, steps))}" if steps else "there are none at all"
    raise UserError(f"{folder}: {why}; name a step, {there}")


def whole_steps(folder: Path) -> list[int]:
    """Steps of the whole checkpoints in a folder that need not exist, ascending."""
    return sorted(step for step, whole in step_folders(folder).items() if whole)


def step_folders(folder: Path) -> dict[int, bool]:
    """{step: whether Orbax finds a state and notes in it} of what Orbax takes for a finished checkpoint's folder."""
    if not folder.is_dir():
        return {}
    with reader(folder) as manager:
        return {step: _is_whole(manager, step) for step in manager.all_steps()}


@contextlib.contextmanager
def reader(folder: Path, state: ocp.CheckpointHandler | None = None) -> Iterator[ocp.CheckpointManager]:
    """An Orbax manager that only looks: a run may be writing to the folder meanwhile. `state` reads the arrays."""
    quiet_orbax()
    manager = ocp.CheckpointManager(
        Path(folder).resolve(),
        item_handlers={
            "state": state or ocp.PyTreeCheckpointHandler(multiprocessing_options=alone()),
            "notes": ocp.JsonCheckpointHandler(multiprocessing_options=alone()),
        },
        options=ocp.CheckpointManagerOptions(read_only=True, multiprocessing_options=alone()),
    )
    try:
        yield manager
    finally:
        manager.close()


def alone() -> ocp.options.MultiprocessingOptions:
    """How Orbax shall read: of several processes of a run each may look when it wants, and waits for no other."""
    if not jax.distributed.is_initialized():
        return ocp.options.MultiprocessingOptions()
    me = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"process_{me}"
    )


def _is_whole(manager: ocp.CheckpointManager, step: int) -> bool:
    hook, sys.unraisablehook = sys.unraisablehook, ignore_orbax_s
    try:
        found = manager.item_metadata(step)
        whole = "notes" in found and found.get("state") is not None
    except (ValueError, KeyError, OSError):  # the hook stays: Orbax's threads may complain until the end
        return True  # a checkpoint, but a damaged one: whoever restores it is told
    sys.unraisablehook = hook
    return whole


def quiet_orbax() -> None:
    """Keeps what Orbax says beside its exceptions out of the logs, from here on."""
    for name in ("absl", "asyncio"):
        logging.getLogger(name).addFilter(not_from_orbax)


def not_from_orbax(record: logging.LogRecord) -> bool:
    """Orbax logs a failure with its trace and raises it as well, and its reads that nobody waits for any more are
    logged once they are collected: saying it once is enough."""
    return "orbax" not in record.pathname and not (record.exc_info and _is_orbax_s(record.exc_info[2]))


def ignore_orbax_s(found: Any) -> None:
    """After a failure Orbax's own threads complain, of reads given up and the event loop that they lost; nothing to
    act on."""
    if "Event loop is closed" not in str(found.exc_value) and not _is_orbax_s(found.exc_traceback):
        sys.__unraisablehook__(found)


def _is_orbax_s(trace: Any) -> bool:
    return any("orbax" in frame.f_code.co_filename for frame, _ in traceback.walk_tb(trace))


def last_words(error: BaseException) -> str:
    """The end of the first line: the storage library nests its messages, the operating system's comes last.

    What follows it in brackets, [tensorstore_spec='{...}'], is the library's own state.
    """
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    line = re.split(r" \[\w+(?:\[\d+\])?='", line)[0]
    return line if len(line) < 200 else "... " + line.rsplit(": ", 1)[-1][-200:]


def _shape(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
