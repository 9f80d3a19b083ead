"""The mesh of all devices: which of them hold a copy of the state each, and which share one."""

from __future__ import annotations

from collections.abc import Sequence

import jax
from jax.sharding import AxisType, Mesh, PartitionSpec

AXES = ("data", "fsdp")
BATCH = PartitionSpec(AXES)  # the leading axis of a batch: over all devices, whatever they share
WHOLE = PartitionSpec()


def make_mesh(fsdp: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh | None:
    """A mesh of axes "data" and "fsdp" over all devices, or over those given; None if there is only one.

    `fsdp` devices that are near each other share one copy of the state, 0 stands for all of them. Raises ValueError
    if their number does not divide that of the devices.
    """
    devices = jax.devices() if devices is None else list(devices)
    count = len(devices)
    if count == 1:
        return None
    fsdp = fsdp or count
    if fsdp < 1 or count % fsdp:
        raise ValueError(f"{fsdp} devices cannot share a copy of the state evenly among {count} devices")
    return jax.make_mesh((count // fsdp, fsdp), AXES, axis_types=(AxisType.Auto,) * 2, devices=devices)
