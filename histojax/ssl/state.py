"""What a training run carries from step to step."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from histojax.models.parts import merge
from histojax.ssl.targets import Centre

Tree = Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """All arrays of a run. Trees are {"backbone": ..., "dino_head": ..., ["ibot_head": ...]}, float32."""

    step: jax.Array  # int32, steps done
    networks: dict[str, Tree]  # "student", "teacher": what is trained of each, see ssl.trainable
    frozen: Tree  # what is not, the same for all of them
    moments: optax.ScaleByAdamState  # of the student
    centres: dict[str, Centre]  # "dino", "ibot"; stay zero with Sinkhorn

    def parameters(self, network: str) -> Tree:
        """All parameters of "student" or "teacher", for a forward pass; no array is copied."""
        return merge(self.networks[network], self.frozen)

    def as_dict(self) -> dict[str, Any]:
        """Plain nested dicts, none of them empty, for checkpoints that outlive these classes."""
        return {
            "step": self.step,
            **self.networks,
            **({"frozen": self.frozen} if self.frozen else {}),
            "moments": self.moments._asdict(),
            "centres": {k: dict(vars(c)) for k, c in self.centres.items()},
        }

    @classmethod
    def from_dict(cls, d: dict[str, Any]) -> TrainState:
        """The inverse of `as_dict`."""
        rest = dict(d)
        step, frozen = rest.pop("step"), rest.pop("frozen", {})
        moments = optax.ScaleByAdamState(**rest.pop("moments"))
        centres = {k: Centre(**c) for k, c in rest.pop("centres").items()}
        return cls(step, rest, frozen, moments, centres)


def parameter_count(tree: Tree) -> int:
    """Numbers in a tree of arrays or shapes."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def finite(tree: Tree) -> jax.Array:
    """Whether every number of the tree is finite, a bool scalar."""
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(tree)]))
