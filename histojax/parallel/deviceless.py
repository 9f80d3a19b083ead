"""Devices that are not there, to compile for: XLA needs their description, not the card."""

from __future__ import annotations

import importlib.util
import os
from typing import Any

import jax
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

from histojax.common.errors import UserError
from histojax.parallel import devices

# platform: module that the plugin brings, extra that brings it
PLUGINS = {"gpu": ("jax_plugins.xla_cuda13", "cuda"), "tpu": ("libtpu", "tpu")}

# no TPU is looked for in the network, and several processes may compile for one at a time
COMPILE_ONLY = {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
# compilers that find no device complain of it
QUIET = {"TPU_STDERR_LOG_LEVEL": "3", "TPU_MIN_LOG_LEVEL": "3", "TF_CPP_MIN_LOG_LEVEL": "3"}


def start_without_devices() -> None:
    """To be called before jax starts: it runs on the CPU, and looks for no TPU in the network."""
    for name, value in (COMPILE_ONLY | QUIET).items():
        os.environ.setdefault(name, value)
    jax.config.update("jax_platforms", "cpu")


def missing(platform: str) -> str | None:
    """What to install to compile for a platform ("gpu", "tpu"); None if it is there."""
    module, extra = PLUGINS[platform]
    try:
        there = importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        there = False
    return None if there else f'pip install "histojax[{extra}]"'


def devices_of(name: str, count: int | None = None) -> list[Any]:
    """Devices of that name to compile for: as many as the name says ("8xa100-80gb", "v5p-8"), or `count`.

    A jitted function is compiled for them as `f.trace(*place(shapes, device)).lower(**lowering(device)).compile()`,
    or with the shardings of a mesh of them in place of `place`. Raises UserError for an unknown name, and with the
    pip line where the plugin that compiles is not installed.
    """
    device, said = devices.parse(name)
    count = count or said
    if line := missing(device.platform):
        raise UserError(
            f"{name}: compiling for it needs jax's {PLUGINS[device.platform][1]} plugin (no card is needed): {line}"
        )
    shape = devices.topology(device, count)
    for variable, value in COMPILE_ONLY.items():
        os.environ.setdefault(variable, value)
    jax.devices()  # plugins are loaded when jax starts
    try:
        if device.platform == "gpu":
            target = devices.target(device)
            found = topologies.get_topology_desc("1x1x1", "cuda", target_config=target, topology=shape)
        else:
            alone: dict[str, Any] = {"chips_per_host_bounds": (1, 1, 1)} if count == device.devices_a_chip else {}
            found = topologies.get_topology_desc(shape, "tpu", chip_config_name=device.cores, **alone)
    except (RuntimeError, ValueError, NotImplementedError) as error:
        said_ = " ".join(str(error).split())[:300]
        raise UserError(f"{name}: the compiler does not take {shape} ({said_})") from error
    return list(found.devices)


def lowering(device: Any) -> dict[str, tuple[str, ...]]:
    """Keyword arguments of `jax.stages.Traced.lower` for a device of `devices_of`."""
    return {"lowering_platforms": ("cuda" if device.platform in ("gpu", "cuda") else device.platform,)}


def place(tree: Any, device: Any) -> Any:
    """Shapes of arrays on one device that is not there, for `trace`."""
    sharding = SingleDeviceSharding(device)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)
