"""How a training state lies on the devices of a mesh."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


def state_sharding(state: Any, mesh: Mesh, fsdp: bool) -> Any:
    """A sharding for each leaf of `state` (arrays or shapes) over the mesh axis "data": replicated, or with
    `fsdp` the last divisible axis of every large leaf is split (never the leading axis of stacked blocks)."""
    devices = mesh.shape["data"]

    def shard(leaf) -> NamedSharding:
        spec: list[str | None] = [None] * len(leaf.shape)
        if fsdp and np.prod(leaf.shape) >= 2**14:
            for axis in reversed(range(len(leaf.shape))):
                if leaf.shape[axis] % devices == 0 and (axis or len(leaf.shape) == 1):
                    spec[axis] = "data"
                    break
        return NamedSharding(mesh, PartitionSpec(*spec))

    return jax.tree.map(shard, state)
