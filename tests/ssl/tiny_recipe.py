"""A recipe of two blocks for tests of the step."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from histojax import config as configs
from histojax.ssl.recipe import Recipe
from histojax.training.recipe import recipe_of


def tiny_config(**leaves):
    """A configuration with two blocks, 16-patch crops and 64 prototypes; `leaves` by dotted name with "__"."""
    c = configs.paper()
    c.batch_size = 8
    c.model.update({"size": "vit_micro", "patch": 7})
    c.crops.update({"global_px": 28, "local_px": 14, "local_crops": 2})
    c.head.update({"prototypes": 64, "bottleneck": 16, "hidden": 32})
    c.ibot_head.update({"prototypes": 48, "bottleneck": 16, "hidden": 32})
    c.data.update({"train": "synthetic:64", "tile_px": 32})
    c.eval.image_px = 28
    c.loss.token_chunk = 16
    c.update_from_flattened_dict({k.replace("__", "."): v for k, v in leaves.items()})
    return c


def tiny_recipe(devices=1, **leaves) -> Recipe:
    return recipe_of(tiny_config(**leaves), devices=devices)


def tiny_images(seed=0, n=8, px=32):
    """(n, px, px, 3) uint8: smooth random colours, no two alike, so that nearest neighbours are not degenerate."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 255, (n, 4, 4, 3))
    return jnp.asarray(jax.image.resize(coarse, (n, px, px, 3), "linear").astype(np.uint8))


def start_state(recipe, seed=0, gain=1.0):
    """A random start; matrices of the backbone multiplied by `gain`."""
    return _make(recipe, gain)(jax.random.key(seed))


@functools.cache
def _make(recipe, gain):
    @jax.jit
    def make(key):
        params = recipe.init(key)
        params["backbone"] = jax.tree.map(lambda x: x * gain if x.ndim > 2 else x, params["backbone"])
        return recipe.start(params)

    return make


def spread_state(recipe):
    """A start with parameters large enough that features of different images differ clearly."""
    return start_state(recipe, seed=1, gain=3.0)
