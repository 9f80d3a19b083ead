"""Arrays (R, n, ...) a few of their n columns at a time, for what would be too large at once.

R is the axis that lies over devices (images or shards of a batch): a part has some columns of every row, so that no
device has to send anything.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Columns:
    """The n columns of arrays (R, n, ...) in `count` parts of `size`, the last one filled up with zeros."""

    n: int
    size: int
    count: int

    @classmethod
    def of(cls, n: int, chunk: int) -> Columns:
        """Parts of about equal size, none of more than `chunk` columns."""
        count = -(-n // chunk)
        return cls(n, -(-n // count), count)

    def rows(self, x: jax.Array, i: jax.Array) -> jax.Array:
        """Part i of (R, n, ...) as (R * size, ...): plain matrices, CPUs are slow on more axes."""
        x = jnp.pad(x, [(0, 0), (0, self.count * self.size - self.n)] + [(0, 0)] * (x.ndim - 2))
        part = jax.lax.dynamic_slice_in_dim(x, i * self.size, self.size, axis=1)
        return part.reshape(-1, *x.shape[2:])

    def columns(self, rows: jax.Array) -> jax.Array:
        """(R * size, ...) back to (R, size, ...)."""
        return rows.reshape(-1, self.size, *rows.shape[1:])

    def join(self, parts: jax.Array) -> jax.Array:
        """(count, R, size, ...) to (R, n, ...)."""
        x = jnp.moveaxis(parts, 0, 1)
        return x.reshape(x.shape[0], -1, *x.shape[3:])[:, : self.n]
