"""The page that `histojax plan` prints for one device: does it fit, how much more would, how long, fed by what."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from histojax.common.errors import UserError
from histojax.common.progress import hms
from histojax.config import last_step
from histojax.data import open_source
from histojax.data.reading_rate import ReadingRate, rate_of_source, rate_of_stand_in
from histojax.parallel.deviceless import missing
from histojax.parallel.devices import Device
from histojax.ssl.flops import Flops, step_flops
from histojax.training.device_plan import (
    Compiled,
    best_of,
    compile_batch,
    compile_step,
    largest_batch,
    recipe_for,
    unit_of,
    usable_memory,
)
from histojax.training.plan import state_bytes
from histojax.training.recipe import sharers
from histojax.training.start import parameter_shapes

Say = Callable[[str], None]
PARTS = tuple(field.name for field in dataclasses.fields(Flops))


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is known of a configuration on so many of a device."""

    device: Device
    count: int
    sharers: int  # devices that share one copy of the state
    dtype: str  # of the blocks' products
    attention: str  # how it is computed, see models.layers.attention
    batch: int
    steps: int
    utilisation: float
    flops: Flops
    state_bytes: int  # of a whole state, on all devices that share it
    checkpoints: int  # that are kept, the one being written included
    export_bytes: int
    reading: ReadingRate
    compiled: Compiled | None = None  # None: the plugin is missing
    tried: dict[int, int | None] = dataclasses.field(default_factory=dict)  # {batch: peak}

    @property
    def limit(self) -> int:
        """Bytes of a device that a step may need."""
        return usable_memory(self.device)

    @property
    def fits(self) -> bool | None:
        """None where nothing was compiled."""
        return None if self.compiled is None else self.compiled.peak is not None and self.compiled.peak <= self.limit

    @property
    def step_seconds(self) -> float:
        """At the stated utilisation of the peak."""
        return self.flops.total / (self.count * self.device.peak(self.dtype) * self.utilisation)


def make_plan(
    config: ConfigDict, device: Device, count: int, utilisation: float, search: bool = True, say: Say = print
) -> Plan:
    """The plan of a checked configuration; `say` is told of each compilation, which takes minutes.

    Without the plugin that compiles for the device the plan says all the same what needs no compilation. Raises
    UserError for a batch that so many devices cannot have.
    """
    recipe = recipe_for(config, device, count)
    shapes = parameter_shapes(recipe)
    plan = Plan(
        device=device,
        count=count,
        sharers=sharers(config, count),
        dtype=np.dtype(recipe.vit.dtype).name,
        attention=recipe.vit.attention,
        batch=config.batch_size,
        steps=last_step(config),
        utilisation=utilisation,
        flops=step_flops(recipe, config.batch_size, count),
        state_bytes=state_bytes(jax.eval_shape(recipe.start, shapes)),
        checkpoints=config.checkpoint.keep + (config.checkpoint.best != "last") + 1,
        export_bytes=(sum(step < last_step(config) for step in config.export.steps) + 1)
        * (len(config.export.layouts) * state_bytes(shapes["backbone"]) + 2 * state_bytes(shapes)),
        reading=reading_rate(config),
    )
    if missing(device.platform):
        return plan
    say(f"compiling the step for {count} x {device.name}, batch {plan.batch} (minutes) ...")
    compiled = compile_step(config, device, count)
    tried = {plan.batch: compiled.peak}
    plan = dataclasses.replace(plan, compiled=compiled, tried=tried)
    if not search:
        return plan

    def peak_of(batch: int) -> int | None:
        if batch == plan.batch:
            return compiled.peak
        say(f"compiling the step for batch {batch}, to find the largest that fits ...")
        return compile_batch(config, device, count, batch).peak

    tried = largest_batch(peak_of, plan.batch, unit_of(recipe, plan.batch, count), plan.limit)
    return dataclasses.replace(plan, tried=tried)


def reading_rate(config: ConfigDict) -> ReadingRate:
    """Of the training tiles, where they are on this machine, else of a stand-in of their size."""
    try:
        return rate_of_source(open_source(config.data.train, tile_px=config.data.tile_px), config.data.tile_px)
    except UserError:
        return rate_of_stand_in(config.data.tile_px)


def in_words(plan: Plan) -> str:
    """The plan, a line a subject."""
    rows = {
        "device": _device(plan),
        "fits": _verdict(plan),
        "memory": _memory(plan),
        "largest": _largest(plan),
        "operations": _operations(plan),
        "time": _time(plan),
        "host": _host(plan),
        "disk": _disk(plan),
    }
    return "\n".join(f"{name:11s} {value}" for name, value in rows.items() if value)


def as_json(plan: Plan) -> dict[str, Any]:
    """The same for programs; bytes and seconds."""
    peak = plan.compiled.peak if plan.compiled else None
    return {
        "device": plan.device.name,
        "devices": plan.count,
        "devices_a_state": plan.sharers,
        "batch": plan.batch,
        "attention": plan.attention,
        "jax": jax.__version__,
        "fits": plan.fits,
        "peak_bytes": peak,
        "usable_bytes": plan.limit,
        "state_bytes": plan.compiled.state if plan.compiled else None,
        "work_bytes": plan.compiled.work if plan.compiled else None,
        "compile_seconds": round(plan.compiled.seconds, 1) if plan.compiled else None,
        "largest_batch": best_of(plan.tried, plan.limit),
        "peaks_by_batch": plan.tried,
        "flops": dataclasses.asdict(plan.flops) | {"model": plan.flops.model, "total": plan.flops.total},
        "utilisation": plan.utilisation,
        "step_seconds": plan.step_seconds,
        "hours": plan.steps * plan.step_seconds / 3600,
        "images_a_second": plan.batch / plan.step_seconds,
        "read_a_core_second": plan.reading.images_a_second,
        "checkpoint_bytes": plan.checkpoints * plan.state_bytes,
        "export_bytes": plan.export_bytes,
    }


def _device(plan: Plan) -> str:
    d = plan.device
    share = f"; {plan.sharers} share a state" if plan.sharers > 1 else ""
    return (
        f"{plan.count} x {d.name} ({d.platform}): {gib(d.memory)}, {d.bandwidth / 1e9:.0f} GB/s, "
        f"{d.peak(plan.dtype) / 1e12:.0f} TFLOP/s in {plan.dtype} each, by the maker's numbers{share}"
    )


def _verdict(plan: Plan) -> str:
    if plan.compiled is None:
        return (
            f"not known: nothing was compiled. To compile for it (no card is needed): {missing(plan.device.platform)}"
        )
    peak = plan.compiled.peak
    how = (
        f"XLA's plan (jax {jax.__version__}) for batch {plan.batch} with attention by {plan.attention}, compiled in "
        f"{plan.compiled.seconds:.0f} s, not checked on a device"
    )
    if peak is None:
        return f"NO: the compiler found no room for batch {plan.batch}. {_smaller(plan)}"
    share = f"{gib(peak)} of {gib(plan.device.memory)} ({100 * peak / plan.device.memory:.0f} %) a device; {how}"
    if not plan.fits:
        return f"NO: {share}. {_smaller(plan)}"
    return f"yes: {share}"


def _smaller(plan: Plan) -> str:
    """What takes less memory."""
    share = ", mesh.fsdp=true" if plan.count > 1 and plan.sharers < plan.count else ""
    return f"Set accumulate higher (the same batch, in more parts), model.remat=block{share}, or batch_size lower"


def _memory(plan: Plan) -> str:
    c = plan.compiled
    if c is None:
        return f"state {gib(plan.state_bytes)} in all; the rest is known once it is compiled"
    kinds = ", ".join(f"{kind} {gib(size)}" for kind, size in c.state.items() if size >= 2**20)
    work = "" if c.work is None else f"activations and the rest of a step {gib(c.work)}"
    return f"a device: {'; '.join(filter(None, [kinds, work]))}"


def _largest(plan: Plan) -> str:
    if len(plan.tried) < 2:
        return ""
    best = best_of(plan.tried, plan.limit)
    points = ", ".join(f"{b}: {'too much' if p is None else gib(p)}" for b, p in sorted(plan.tried.items()))
    found = "no batch that was tried fits" if best is None else f"batch {best} fits {gib(plan.limit)}"
    return f"{found} (compiled {points})"


def _operations(plan: Plan) -> str:
    f = plan.flops
    parts = ", ".join(f"{name} {100 * getattr(f, name) / f.total:.0f} %" for name in PARTS if getattr(f, name))
    return f"{f.total / 1e12:.3g} TFLOP a step, {f.total / plan.batch / 1e12:.3g} an image: {parts}"


def _time(plan: Plan) -> str:
    seconds = plan.steps * plan.step_seconds
    return (
        f"{hms(seconds)} for {plan.steps} steps ({seconds / 3600:.2g} hours), if {100 * plan.utilisation:.0f} % of the "
        f"peak is reached (--utilisation): {plan.step_seconds:.3g} s a step, {plan.batch / plan.step_seconds:.3g} "
        "images/s; computed, not measured"
    )


def _host(plan: Plan) -> str:
    needed, rate, cores = plan.batch / plan.step_seconds, plan.reading.images_a_second, os.cpu_count() or 1
    enough = "enough" if rate * cores >= needed else "too few"
    return (
        f"{needed:.3g} images/s are needed; a core of this machine reads {rate:.3g} ({plan.reading.what}): "
        f"{max(1, round(needed / rate + 0.5))} cores, and this machine's {cores} are {enough}"
    )


def _disk(plan: Plan) -> str:
    r, kept = plan.reading, plan.checkpoints * plan.state_bytes
    tiles = ""
    if r.bytes_a_tile:
        count = r.tiles or 100_000
        known = "" if r.tiles else "for example, as the tiles are not here: "
        tiles = f"tiles {count * r.bytes_a_tile / 1e9:.3g} GB ({known}{count:,} of {r.bytes_a_tile / 1000:.3g} kB), "
    return (
        f"{tiles}checkpoints {kept / 1e9:.3g} GB ({plan.checkpoints} of {plan.state_bytes / 1e9:.3g}), "
        f"exports {plan.export_bytes / 1e9:.3g} GB"
    )


def gib(size: float) -> str:
    """Bytes as GiB, in words."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**30:.2g} GiB"
