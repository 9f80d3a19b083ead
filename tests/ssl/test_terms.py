import dataclasses

import jax
import jax.numpy as jnp
import pytest
from tiny_recipe import tiny_config, tiny_recipe

from histojax.ssl import losses, terms
from histojax.ssl.terms import TERMS, Pass


def seen(**leaves):
    """Class tokens of four images in two shards; nothing else that a comparison of images would look at."""
    recipe = tiny_recipe(mesh__batch_shards=2, batch_size=4, **leaves)
    cls = jax.random.normal(jax.random.key(0), (4, 2, 8))
    return Pass(recipe, None, cls, None, None, 2, None, None)


def test_images_are_compared_within_their_shard_and_view():
    p = seen(loss__kde_kappa=3.0)
    (row,) = (term for term in TERMS if term.name == "kde")
    pairs = [p.cls[2 * shard : 2 * shard + 2, view] for shard in (0, 1) for view in (0, 1)]
    expected = sum(losses.kde(pair, 3.0).mean() for pair in pairs) / 2
    assert float(row.value(p)) == pytest.approx(float(expected), rel=1e-6)


def test_a_term_without_a_weight_is_not_there():
    only = {"loss__dino_weight": 0.0, "loss__ibot_weight": 0.0, "loss__koleo_weight": 0.2, "loss__kde_weight": 0.5}
    p = seen(**only)
    found = terms.weighted_terms(p, "global")
    assert set(found) == {"koleo", "kde"}
    assert float(found["kde"]) == pytest.approx(0.5 * float(TERMS[-1].value(p)))
    assert not terms.weighted_terms(p, "local") and not terms.has_terms(p.recipe, "local")


def test_every_row_has_a_leaf_a_panel_and_a_name_of_its_own():
    config = tiny_config()
    assert all(term.weight in config.loss and term.panel and term.crops in ("global", "local") for term in TERMS)
    for field in ("name", "label"):
        assert len({getattr(term, field) for term in TERMS}) == len(TERMS)
    assert tuple(dataclasses.astuple(term)[0] for term in TERMS) == terms.NAMES
    assert jnp.isfinite(TERMS[-1].value(seen()))
