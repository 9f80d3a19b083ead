"""What a training takes on a device that need not be there: its step compiled for it, and its memory by kind."""

from __future__ import annotations

import copy
import dataclasses
import math
import re
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh
from ml_collections import ConfigDict

from histojax.common.errors import UserError
from histojax.parallel.backend import GPU_SHARE, is_out_of_memory
from histojax.parallel.deviceless import devices_of, lowering, place
from histojax.parallel.devices import Device
from histojax.parallel.mesh import AXES, make_mesh
from histojax.parallel.sharding import Layout
from histojax.ssl.recipe import Recipe
from histojax.ssl.state import TrainState
from histojax.ssl.step import make_step
from histojax.training.check import batch_faults
from histojax.training.recipe import check_sharers, recipe_of, schedules_of, sharers

COMPILES = 5  # at most, to find the largest batch


@dataclasses.dataclass(frozen=True)
class Compiled:
    """One step as XLA plans it. Bytes are of one device."""

    batch: int
    seconds: float  # that the compilation took
    state: dict[str, int]  # student, teacher, optimiser, frozen, centres
    peak: int | None  # everything; None where the compiler stopped without saying how much is needed

    @property
    def work(self) -> int | None:
        """Activations and what else is there only while a step runs, the images included."""
        return None if self.peak is None else self.peak - sum(self.state.values())


def usable_memory(device: Device) -> int:
    """Bytes of it that a step may plan with."""
    return int(device.memory * (GPU_SHARE if device.platform == "gpu" else 1))


def recipe_for(config: ConfigDict, device: Device, count: int) -> Recipe:
    """The recipe of the configuration on so many of those devices; raises UserError for a batch they cannot have."""
    recipe = recipe_of(config, device.platform, config.mesh.batch_shards or count)
    faults = list(batch_faults(config, recipe.shards, count))
    if config.batch_size % count:
        faults.append(f"batch_size={config.batch_size} is not a multiple of the {count} devices")
    check_sharers(config, count)
    if faults:
        raise UserError(f"{'; '.join(faults)} (change batch_size, or set mesh.batch_shards)")
    return recipe


def compile_step(config: ConfigDict, device: Device, count: int) -> Compiled:
    """The training step of a checked configuration, compiled for so many devices that need not be there.

    Raises UserError where the plugin is missing, for a batch that does not divide, and for a program that does not
    compile.
    """
    recipe = recipe_for(config, device, count)
    found = devices_of(device.name, count)
    mesh = make_mesh(sharers(config, count), found) or one_device(found[0])
    shapes = step_shapes(config, recipe, mesh)
    began, state = time.monotonic(), state_by_kind(shapes[0])
    try:
        step = make_step(recipe, mesh).trace(*shapes).lower(**lowering(found[0])).compile()
    except (jax.errors.JaxRuntimeError, ValueError, NotImplementedError) as error:
        said = " ".join(str(error).split())
        if is_out_of_memory(error):
            return Compiled(config.batch_size, time.monotonic() - began, state, needed_bytes(said))
        raise UserError(f"{device.name}: the step does not compile for it ({said[:300]})") from error
    return Compiled(config.batch_size, time.monotonic() - began, state, step.memory_analysis().peak_memory_in_bytes)


def one_device(device: Any) -> Mesh:
    """A mesh of one device, which says for which a step is made."""
    return jax.make_mesh((1, 1), AXES, axis_types=(AxisType.Auto,) * 2, devices=[device])


def step_shapes(config: ConfigDict, recipe: Recipe, mesh: Mesh) -> tuple[Any, ...]:
    """What the step is called with, as shapes that lie on the devices of the mesh."""
    tile = config.data.tile_px
    state = jax.eval_shape(lambda: recipe.start(recipe.init(jax.random.key(0))))
    images = jax.ShapeDtypeStruct((config.batch_size, tile, tile, 3), np.uint8)
    key = jax.eval_shape(lambda: jax.random.key(0))
    schedule = jax.eval_shape(lambda: schedules_of(config).at(0))
    if mesh.size == 1:
        return place((state, images, key, schedule), mesh.devices.flat[0])
    layout = Layout(mesh)
    where = (layout.state(state), layout.batch, layout.whole, jax.tree.map(lambda _: layout.whole, schedule))
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        (state, images, key, schedule),
        where,
    )


def state_by_kind(state: TrainState) -> dict[str, int]:
    """Bytes on each device of what is carried from step to step, by kind; `state` are shapes with shardings."""
    kinds = {
        **state.networks,
        "optimiser": state.moments,
        "frozen": state.frozen,
        "centres": state.centres,
    }
    return {kind: sum(map(_bytes_a_device, jax.tree.leaves(part))) for kind, part in kinds.items()}


def largest_batch(peak_of: Callable[[int], int | None], start: int, unit: int, limit: int) -> dict[int, int | None]:
    """{batch: peak} of every batch that was tried for the largest one whose peak is within `limit`.

    `peak_of` compiles, which takes minutes: memory grows by nearly the same for each image, so the next batch to try
    lies on the line through two known ones. Batches are multiples of `unit`; `start` is tried first.
    """
    tried: dict[int, int | None] = {}
    batch = start
    while batch not in tried and batch >= unit and len(tried) < COMPILES:
        tried[batch] = peak_of(batch)
        batch = _next_batch(tried, unit, limit)
    return tried


def best_of(tried: dict[int, int | None], limit: int) -> int | None:
    """The largest batch tried that fits, None if none does."""
    return max((batch for batch, peak in tried.items() if _fits(peak, limit)), default=None)


def compile_batch(config: ConfigDict, device: Device, count: int, batch: int) -> Compiled:
    """As `compile_step`, with another batch than the configuration's."""
    changed = copy.deepcopy(config)
    changed.batch_size = batch
    return compile_step(changed, device, count)


def unit_of(recipe: Recipe, batch: int, devices: int) -> int:
    """Steps in which a largest batch is looked for: about a sixteenth of `batch`, and whatever it must divide into:
    devices, parts, and shards of at least two images (KoLeo)."""
    whole = math.lcm(2 * recipe.shards, devices) * recipe.accumulate
    return whole * 2 ** max(0, math.floor(math.log2(max(batch / whole / 16, 1))))


def _next_batch(tried: dict[int, int | None], unit: int, limit: int) -> int:
    """What to try next: on the line through the two known peaks nearest to the limit, between what fits and what
    does not. One that was tried already if nothing is left between them."""
    low = best_of(tried, limit)
    high = min((batch for batch, peak in tried.items() if not _fits(peak, limit)), default=None)
    known = sorted((abs(peak - limit), batch, peak) for batch, peak in tried.items() if peak is not None)
    if len(known) > 1:
        (_, b0, p0), (_, b1, p1) = known[:2]
        guess = b0 + (limit - p0) * (b1 - b0) / ((p1 - p0) or 1)
    else:
        guess = 2 * (low or 0) if high is None else ((low or 0) + high) / 2
    batch = math.floor(guess / unit) * unit
    if low is not None:
        batch = max(batch, low + unit)
    return batch if high is None else min(batch, high - unit)


def _fits(peak: int | None, limit: int) -> bool:
    return peak is not None and peak <= limit


def _bytes_a_device(leaf: Any) -> int:
    return math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize


def needed_bytes(said: str) -> int | None:
    """Bytes that a compiler says it needs when it stops, e.g. "Used 19.31G of 15.75G hbm"."""
    found = re.search(r"Used ([\d.]+)([KMGT]) of", said)
    return int(float(found[1]) * 1024 ** (" KMGT".index(found[2]))) if found else None
