"""What XLA makes of the step for a GPU that is not there: nothing slow to compile or to run comes back unseen."""

import re
import time

import jax
import jax.numpy as jnp
import pytest
from tiny_recipe import tiny_images

from histojax.models.layers import attention, cudnn_fault
from histojax.parallel import deviceless
from histojax.parallel.compiler import compiler_options
from histojax.ssl.augment import CropConfig, multi_crop
from histojax.ssl.masks import sample_masks


@pytest.fixture(scope="module")
def gpu():
    """An A100 to compile for."""
    if line := deviceless.missing("gpu"):
        pytest.skip(f"the plugin is not here: {line}")
    return deviceless.devices_of("a100-80gb")[0]


def crops(images):
    return multi_crop(jax.random.key(0), images, 0, CropConfig(), "vmap")


def test_the_program_of_the_crops_stays_small():
    """4,200 operations on 2026-11-28. What XLA makes of them can still be slow: see the test that compiles."""
    images = jax.ShapeDtypeStruct((4, 256, 256, 3), jnp.uint8)
    text = jax.jit(crops).trace(images).lower(lowering_platforms=("cuda",)).as_text()
    assert text.count(" = ") < 5000
    # of each kind of crop the unnormalised resize weights, and what a blur adds up along rows and along columns
    barriers = re.findall(r"stablehlo.optimization_barrier .*tensor<(\S+)xf32>", text)
    assert len(barriers) == 2 * 3
    shifted = [shape.split("x") for shape in barriers if {"106", "232"} & set(shape.split("x"))]
    assert [len(shape) for shape in shifted] == [3] * 4


def test_the_program_of_crops_of_tissue_stays_small():
    """Without hue it is smaller than that of the default, stains and positions included."""
    config = CropConfig(transpose=0.5, hed_p=(1.0, 1.0, 1.0), hue=0.0, solarize_p=0.0)
    images = jax.ShapeDtypeStruct((4, 256, 256, 3), jnp.uint8)
    program = jax.jit(lambda x: multi_crop(jax.random.key(0), x, 0, config, "vmap"))
    text = program.trace(images).lower(lowering_platforms=("cuda",)).as_text()
    assert text.count(" = ") < 5000


def test_no_loop_waits_for_what_it_computes():
    """Each round of such a loop would go through the host of a GPU."""
    images = jax.eval_shape(tiny_images)
    program = jax.make_jaxpr(lambda key, x: (sample_masks(key, 2, 8, (4, 4)), crops(x)))(jax.random.key(0), images)
    assert "while" not in str(program)


def test_crops_compile_for_a_gpu_in_seconds(gpu):
    """8 CPU seconds on 2026-11-28; 32 with five axes in a blur, 800 without the barrier on the resize weights."""
    images = deviceless.place(jax.ShapeDtypeStruct((256, 256, 256, 3), jnp.uint8), gpu)
    lowered = jax.jit(crops, compiler_options=compiler_options("gpu")).trace(images).lower(**deviceless.lowering(gpu))
    start = time.process_time()
    program = lowered.compile().as_text()
    assert time.process_time() - start < 25
    loops = len(re.findall(r" while\(", program))
    assert loops == program.count("known_trip_count")


def test_cudnn_s_attention_forms_no_scores(gpu):
    if fault := cudnn_fault(64):
        pytest.skip(f"{fault} (pip install nvidia-cudnn-cu13)")
    q, k, v, slope = (deviceless.place(jax.ShapeDtypeStruct((16, 257, 6, 64), jnp.bfloat16), gpu) for _ in range(4))

    def program(how):
        both = jax.jit(lambda q, k, v, slope: jax.vjp(lambda *x: attention(*x, how), q, k, v)[1](slope))
        return both.trace(q, k, v, slope).lower(**deviceless.lowering(gpu)).compile().as_text()

    scores = re.compile(r"\[(?:16,6|96),2\d\d,2\d\d\]")
    assert scores.search(program("xla"))
    flash = program("cudnn")
    assert not scores.search(flash) and "fmha" in flash
