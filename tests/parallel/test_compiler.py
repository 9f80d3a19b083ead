import jax
import jax.numpy as jnp
import pytest

from histojax.parallel import deviceless
from histojax.parallel.compiler import compiler_options, needed_options


def test_triton_s_products_are_left_out_where_they_find_no_tiles(monkeypatch):
    for version, expected in [((0, 10, 2), {"xla_gpu_enable_triton_gemm": "False"}), ((0, 12, 0, 1), {})]:
        monkeypatch.setattr(jax, "__version_info__", version)
        assert compiler_options("gpu") == compiler_options("cuda") == expected
        assert needed_options("gpu") == expected
        assert compiler_options("tpu") == needed_options("cpu") == {}


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_a_compiler_takes_the_options(platform):
    if platform == "gpu" and (line := deviceless.missing("gpu")):
        pytest.skip(f"the plugin is not here: {line}")
    device = jax.devices("cpu")[0] if platform == "cpu" else deviceless.devices_of("a100-80gb")[0]
    x = deviceless.place(jax.ShapeDtypeStruct((256, 256), jnp.bfloat16), device)
    product = jax.jit(lambda a: a @ a, compiler_options=compiler_options(platform))
    program = product.trace(x).lower(**deviceless.lowering(device)).compile().as_text()
    if platform == "gpu":
        assert ("cublas" in program) == (jax.__version_info__ < (0, 12))
