"""The start of jax on the devices of this machine."""

from __future__ import annotations

import os

import jax

from histojax.common.errors import UserError
from histojax.parallel.compile_cache import keep_compiled

GPU_SHARE = 0.92  # of a GPU's memory: jax can be given so much of it, CUDA itself needs the rest
SHARE_VARIABLE = "XLA_PYTHON_CLIENT_MEM_FRACTION"
OTHER_SHARE_VARIABLE = "XLA_CLIENT_MEM_FRACTION"  # jax refuses to start where both are set
REMEDY = {
    "cuda": "install histojax[cuda] and look whether nvidia-smi sees the card",
    "gpu": "install histojax[cuda] and look whether nvidia-smi sees the card",
    "tpu": "install histojax[tpu] on a machine with a TPU that no other process holds",
}


def start_backend(all_memory: bool = False) -> None:
    """Starts jax on its devices, with the cache of compiled programs.

    `all_memory` takes GPU_SHARE of a GPU's memory where jax takes three quarters, unless the environment says how much.
    Raises UserError, in one line, where JAX_PLATFORMS or a driver stands against it.
    """
    if all_memory and OTHER_SHARE_VARIABLE not in os.environ:
        os.environ.setdefault(SHARE_VARIABLE, str(GPU_SHARE))
    wanted = os.environ.get("JAX_PLATFORMS", "")
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # an assertion for a name that jax does not know
        said = " ".join(str(error).split()) or "jax was installed without it"
        said = said.partition(" (set JAX_PLATFORMS")[0].partition("(you may need")[0].strip()
        remedy = REMEDY.get(wanted.split(",")[0], "remove the variable")
        which = f"JAX_PLATFORMS={wanted}" if wanted else "jax"
        raise UserError(f"{which}: no device can be used ({said[:300]}); {remedy}, or set JAX_PLATFORMS=cpu") from error
    keep_compiled()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether jax says that a device has no memory left."""
    return "RESOURCE_EXHAUSTED" in str(error) or "Out of memory" in str(error)
