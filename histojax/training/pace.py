"""How much of what the devices could do a run makes use of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import numpy as np

from histojax.parallel import devices as known
from histojax.ssl.flops import step_flops
from histojax.ssl.recipe import Recipe


def mfu_of_a_step_a_second(recipe: Recipe, batch: int, devices: Sequence[jax.Device] | None = None) -> float | None:
    """The model FLOPs utilisation of one step of `batch` images a second on all devices together.

    Operations that the method asks for, whatever is recomputed, over the peak of the devices in the dtype of the
    blocks' products (Chowdhery et al. 2022, PaLM, appendix B). None on devices that parallel.devices does not know.
    """
    devices = jax.devices() if devices is None else devices
    device = known.of_kind(devices[0].device_kind)
    if device is None:
        return None
    return step_flops(recipe, batch).model / (len(devices) * device.peak(np.dtype(recipe.vit.dtype).name))


def with_mfu(rates: Mapping[str, float], of_one: float | None) -> dict[str, float]:
    """The rates of common.progress, and "mfu" where it is known."""
    if of_one is None or "steps_per_second" not in rates:
        return dict(rates)
    return {**rates, "mfu": of_one * rates["steps_per_second"]}
