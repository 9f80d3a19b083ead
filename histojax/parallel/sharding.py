"""How a training state lies on the devices of a mesh, and how its parts come together where they are used.

Which axis of an array is split is said by rules, the first one whose pattern is found in the path of the array.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from histojax.parallel.mesh import BATCH, WHOLE

Tree = Any
SMALLEST = 2**13  # numbers of an array (of one block's, if it is stacked) from which on it is worth a split

# pattern in the path: axes that may be split, of which the largest one that divides is; None: any. The axis on which
# blocks are stacked is none of them, see `state`
RULES: tuple[tuple[str, tuple[int, ...] | None], ...] = (
    (r"(^|/)centres/", ()),  # read whole in every step, and small
    (r"(^|/)last_layer/", (0,)),  # prototypes over their number K: a device has whole prototypes
    (r"", None),
)
STACKED = re.compile(r"(^|/)(first_)?blocks/")


@dataclasses.dataclass(frozen=True)
class Layout:
    """The places of arrays on a mesh. Hashable, so that a compiled step belongs to one layout."""

    mesh: Mesh

    @property
    def devices(self) -> int:
        """Devices among which a batch is split."""
        return self.mesh.size

    @property
    def sharers(self) -> int:
        """Devices that share one copy of the state."""
        return self.mesh.shape["fsdp"]

    @property
    def batch(self) -> NamedSharding:
        """Of arrays whose leading axis is the batch."""
        return NamedSharding(self.mesh, BATCH)

    @property
    def whole(self) -> NamedSharding:
        """Of arrays that every device has."""
        return NamedSharding(self.mesh, WHOLE)

    def state(self, state: Tree) -> Tree:
        """A sharding for each leaf of a state, or of a part of it (arrays or shapes)."""

        def place(path: Any, leaf: Any) -> NamedSharding:
            name = _name(path)
            if not STACKED.search(name):
                return NamedSharding(self.mesh, self.spec(name, leaf.shape))
            return NamedSharding(self.mesh, PartitionSpec(None, *self.spec(name, leaf.shape[1:])))

        return jax.tree_util.tree_map_with_path(place, state)

    def spec(self, name: str, shape: tuple[int, ...]) -> PartitionSpec:
        """Of an array with that path; `shape` is that of one block where blocks are stacked."""
        chosen = axis(name, shape, self.sharers)
        return PartitionSpec(*("fsdp" if i == chosen else None for i in range(len(shape))))

    def gather(self, tree: Tree, prefix: str) -> Tree:
        """The parameters below the path `prefix` whole on every device, where they are about to be used.

        One block's are, where this is called within the scan over blocks. Their gradients go the other way: what
        the devices found is added up, and each keeps its part (reduce-scatter).
        """
        if self.sharers == 1:
            return tree

        def whole(path: Any, leaf: jax.Array) -> jax.Array:
            return _whole(leaf, self.whole, NamedSharding(self.mesh, self.spec(f"{prefix}/{_name(path)}", leaf.shape)))

        return jax.tree_util.tree_map_with_path(whole, tree)

    def split(self, x: jax.Array, images: int = 0) -> jax.Array:
        """x, with its axis of images (the leading one) split over all devices."""
        spec = PartitionSpec(*[None] * images, *BATCH)
        return jax.lax.with_sharding_constraint(x, NamedSharding(self.mesh, spec))

    def by_rows(self, function: Callable, *inputs: Any) -> Callable:
        """`function`, run by each device on its rows; `inputs` are the PartitionSpecs of its arguments.

        It returns rows. Gradients of arguments that every device has whole are added up over the devices.
        """
        return jax.shard_map(function, mesh=self.mesh, in_specs=inputs, out_specs=BATCH, check_vma=False)


def axis(name: str, shape: tuple[int, ...], parts: int) -> int | None:
    """The axis of an array that is split into so many parts, None if it stays whole."""
    if parts == 1 or np.prod(shape) < SMALLEST:
        return None
    allowed = next(where for pattern, where in RULES if re.search(pattern, name))
    divisible = [i for i in range(len(shape)) if shape[i] % parts == 0 and (allowed is None or i in allowed)]
    return max(divisible, key=lambda i: shape[i], default=None)


def _name(path: Any) -> str:
    return "/".join(str(getattr(part, "key", getattr(part, "name", getattr(part, "idx", part)))) for part in path)


def _whole(x: jax.Array, whole: NamedSharding, part: NamedSharding) -> jax.Array:
    """x on every device, its gradient in parts."""

    @jax.custom_vjp
    def gather(x: jax.Array) -> jax.Array:
        return jax.lax.with_sharding_constraint(x, whole)

    def backward(_: None, slope: jax.Array) -> tuple[jax.Array]:
        # whole first: asked for a part alone, XLA may send activations about to compute just that part
        return (jax.lax.with_sharding_constraint(jax.lax.with_sharding_constraint(slope, whole), part),)

    gather.defvjp(lambda x: (gather(x), None), backward)
    return gather(x)
