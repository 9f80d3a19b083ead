"""Batches for the training loop, read ahead and already on their way to the devices."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from absl import logging
from jax.sharding import NamedSharding
from ml_collections import ConfigDict

from histojax.data import train_iterator
from histojax.parallel.host_values import place_rows, rows_here


class Feed:
    """Training batches, the next one already on its way to the device while a step runs.

    `sharding` splits a batch over devices; a process reads the tiles that its own devices get.
    """

    def __init__(self, config: ConfigDict, source: Any, sharding: NamedSharding | None, resume: dict[str, Any]):
        d, self._sharding, self._count = config.data, sharding, config.batch_size
        rows = rows_here(sharding, self._count)
        self._iterator = train_iterator(source, self._count, d.tile_px, config.seed, workers=d.workers, rows=rows)
        if resume:
            self._iterator.set_state(resume)
        self._ahead: tuple[jax.Array, np.ndarray] | None = None
        self.state = self._iterator.get_state()  # to go on with the batch that `take` would give

    def take(self) -> tuple[jax.Array, np.ndarray]:
        """(images on the devices, numbers of the unreadable tiles among this process's) of the next step."""
        if self._ahead is None:
            self.draw()
        assert self._ahead is not None
        batch, self._ahead = self._ahead, None
        self.state = self._iterator.get_state()
        return batch

    def draw(self) -> None:
        """Reads one batch ahead and starts its way to the device."""
        batch = self._next()
        self._ahead = place_rows(batch["image"], self._sharding, self._count), batch["bad"]

    def _next(self) -> dict[str, Any]:
        """The next batch. Workers of which one was killed are started anew, once: it is the same batch again."""
        try:
            return next(self._iterator)
        except RuntimeError as error:
            if "Worker process was terminated" not in str(error):
                raise
            logging.warning("a data worker was killed (out of memory, or a signal while it started): starting anew")
            self._iterator.close()
            return next(self._iterator)

    def close(self) -> None:
        """Ends the workers."""
        self._iterator.close()
