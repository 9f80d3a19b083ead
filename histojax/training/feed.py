"""Batches for the training loop, read ahead and already on their way to the devices."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from absl import logging
from jax.sharding import NamedSharding
from ml_collections import ConfigDict

from histojax.common.errors import UserError
from histojax.data import train_iterator


class Feed:
    """Training batches, the next one already on its way to the device while a step runs."""

    def __init__(self, config: ConfigDict, source: Any, sharding: NamedSharding | None, resume: dict[str, Any]):
        shard = (jax.process_index(), jax.process_count())
        if config.batch_size % shard[1]:
            raise UserError(f"batch_size={config.batch_size} is not a multiple of the {shard[1]} processes")
        d = config.data
        self._iterator = train_iterator(
            source, config.batch_size // shard[1], d.tile_px, config.seed, workers=d.workers, shard=shard
        )
        if resume:
            self._iterator.set_state({**resume, "shard": list(shard)})
        self._sharding = sharding
        self._ahead: tuple[jax.Array, np.ndarray] | None = None
        self.state = self._iterator.get_state()  # to go on with the batch that `take` would give

    def take(self) -> tuple[jax.Array, np.ndarray]:
        """(images on the device, numbers of the unreadable tiles) of the next step."""
        if self._ahead is None:
            self.draw()
        assert self._ahead is not None
        batch, self._ahead = self._ahead, None
        self.state = self._iterator.get_state()
        return batch

    def draw(self) -> None:
        """Reads one batch ahead and starts its way to the device."""
        batch = self._next()
        images = batch["image"]
        if self._sharding is None:
            self._ahead = jax.device_put(images), batch["bad"]
        else:
            self._ahead = jax.make_array_from_process_local_data(self._sharding, images), batch["bad"]

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
