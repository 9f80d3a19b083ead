"""What XLA is asked for beyond its defaults, by platform and version of jax."""

from __future__ import annotations

import functools

import jax

# XLA:CPU orders its work for concurrency unless told otherwise: in a training step that gains no time and costs a third
# more memory (tools/bench_step.py)
CPU = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}

# The Triton products of jax 0.10, which is the newest for Python 3.11, find no tile sizes for some products of a ViT in
# bfloat16 ("Couldn't find output tile sizes that satisfy hlo"). cuBLAS has them; it plans a few GiB more in large steps
OLD_GPU = {"xla_gpu_enable_triton_gemm": "False"}
TRITON_FINDS_TILES = (0, 12)  # version of jax


def compiler_options(platform: str) -> dict[str, str]:
    """Options for `jax.jit(compiler_options=)` of a training step on a platform as jax names it.

    Empty where XLA has no such option.
    """
    if platform == "cpu":
        return CPU if _known_to_cpu() else {}
    return needed_options(platform)


def needed_options(platform: str) -> dict[str, str]:
    """Those without which a network may not compile."""
    return OLD_GPU if platform in ("gpu", "cuda") and jax.__version_info__ < TRITON_FINDS_TILES else {}


@functools.cache
def _known_to_cpu() -> bool:
    """Whether this XLA takes the options for CPUs."""
    try:
        jax.jit(lambda: 0, compiler_options=CPU).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True
