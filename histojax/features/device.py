"""Encoders on the devices of a machine: one compiled program each, batches of one size, one batch ahead.

A batch is split over all devices. Its size never changes within a run, and the last one is filled up: every tile goes
through the same program, so that its features do not depend on the tiles beside it, nor on how a run was cut in two.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from histojax.common.errors import UserError
from histojax.features.reading import Rule, rule_of
from histojax.models.network import output_shapes, patch_tokens
from histojax.models.resnet import ResNetConfig
from histojax.parallel.backend import is_out_of_memory
from histojax.zoo.encoder import Encoder
from histojax.zoo.program import compiled_over

TILES = {
    "cpu": 8  # as fast as more, and the last batch of a few tiles is not filled up with much
}  # of 224 px in a batch on one device; of larger ones fewer, of smaller ones up to four times as many
TILES_ELSE = 256


@dataclass(frozen=True)
class Model:
    """An encoder under the name that its features are filed by."""

    name: str
    encoder: Encoder
    tokens: bool = False

    @property
    def rule(self) -> Rule:
        """What the host does to its tiles."""
        return rule_of(self.encoder.preprocess)

    @property
    def widths(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of what it gives for a tile: (D,), then (P, D) of its tokens."""
        features = (self.encoder.features,)
        if not self.tokens:
            return (features,)
        shape = jax.eval_shape(patch_tokens, output_shapes(self.encoder.config, self.rule.side)).shape
        return features, shape[1:]

    @property
    def grid(self) -> tuple[int, int] | None:
        """(rows, columns) of its tokens."""
        if not self.tokens:
            return None
        side = round(self.widths[1][0] ** 0.5)
        return side, side


def check_tokens(model: Model) -> None:
    """Raises UserError if patch tokens are wanted of a network that has none."""
    if model.tokens and isinstance(model.encoder.config, ResNetConfig):
        raise UserError(f"{model.name}: a ResNet has no patch tokens; leave --patch-tokens out")


def automatic_size(models: Sequence[Model], devices: int) -> int:
    """Tiles of a batch over all devices: by the kind of device and the largest input."""
    tiles = TILES.get(jax.default_backend(), TILES_ELSE)
    side = max(model.rule.side for model in models)
    return max(1, min(tiles * 224**2 // side**2, 4 * tiles)) * devices


class Devices:
    """Runs batches of prepared tiles through all encoders; `size` is the number of tiles of a batch.

    `idle_seconds` counts how long the devices had nothing to do between batches, waiting for tiles.
    """

    def __init__(self, models: Sequence[Model], size: int | None = None, devices: Sequence[Any] | None = None):
        self.models = tuple(models)
        self.rules = tuple(dict.fromkeys(model.rule for model in models))
        found = tuple(devices or jax.local_devices())  # each of several processes has tiles of its own
        wanted = size or automatic_size(models, len(found))
        self.devices = found[: max(1, min(len(found), wanted))]
        self.size = max(1, wanted // len(self.devices)) * len(self.devices)
        mesh = Mesh(np.array(self.devices), ("data",))
        self._programs = [_placed(model, self.devices, mesh) for model in models]
        self._split = NamedSharding(mesh, PartitionSpec("data"))
        self._fetcher = ThreadPoolExecutor(1, "fetch")
        self._ready_at = time.monotonic()  # when the devices had finished all that they were given
        self._given = self._fetched = 0
        self.idle_seconds = 0.0

    def warm_up(self, say: Callable[[str], None]) -> None:
        """Compiles everything and finds a size of batch that the memory takes; raises UserError if none does."""
        idle = self.idle_seconds
        while True:
            blank = [np.zeros((self.size, rule.side, rule.side, 3), np.uint8) for rule in self.rules]
            try:
                self.start(blank).result()
                break
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
            self.halve(say)
        self.idle_seconds, self._ready_at = idle, time.monotonic()

    def halve(self, say: Callable[[str], None]) -> None:
        """Half the batch, after a device ran out of memory; raises UserError if it was one tile a device."""
        if self.size <= len(self.devices):
            names = ", ".join(model.name for model in self.models)
            raise UserError(
                f"{names}: not even one tile fits into the memory of {self.devices[0].device_kind}; extract with one "
                "encoder at a time, --dtype bfloat16, or on a larger device"
            )
        self.size = max(len(self.devices), self.size // 2 // len(self.devices) * len(self.devices))
        say(f"out of memory on the device: batches of {self.size} tiles from here on")

    def start(self, batch: Sequence[np.ndarray]) -> Future:
        """Begins with a batch, one array (size, h, w, 3) for each of `rules`; the future has the outputs.

        These are, for every encoder, the arrays of `Model.widths` with `size` rows, float32.
        """
        if self._fetched == self._given:
            self.idle_seconds += max(0.0, time.monotonic() - self._ready_at)
        self._given += 1
        placed = {rule: jax.device_put(array, self._split) for rule, array in zip(self.rules, batch)}
        try:
            outputs = [run(parameters, placed[rule]) for rule, run, parameters in self._programs]
        except Exception:
            self._given -= 1
            raise
        return self._fetcher.submit(self._fetch, outputs)

    def _fetch(self, outputs: list[tuple[jax.Array, ...]]) -> list[tuple[np.ndarray, ...]]:
        try:
            jax.block_until_ready(outputs)
        finally:
            self._ready_at = time.monotonic()
            self._fetched += 1
        return [tuple(np.asarray(array) for array in one) for one in outputs]

    def close(self) -> None:
        """Ends the thread."""
        self._fetcher.shutdown(cancel_futures=True)


def _placed(model: Model, devices: Sequence[Any], mesh: Mesh) -> tuple[Rule, Callable, Any]:
    """(rule, compiled program, parameters on all devices) of an encoder; each device takes its rows."""
    program, parameters = model.encoder.program(model.tokens), model.encoder.parameters
    if len(devices) == 1:
        return model.rule, program.run, jax.device_put(parameters, devices[0])
    return model.rule, compiled_over(program, mesh), jax.device_put(parameters, NamedSharding(mesh, PartitionSpec()))
