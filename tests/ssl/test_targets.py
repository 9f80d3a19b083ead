import jax.numpy as jnp
import numpy as np
import pytest

from histojax.ssl.columns import Columns
from histojax.ssl.targets import (
    Centre,
    Scores,
    centred_softmax,
    centred_softmax_in_parts,
    masked_mean,
    sinkhorn,
    sinkhorn_in_parts,
)

RNG = np.random.default_rng(0)
SCORES = RNG.normal(size=(2, 6, 9)).astype(np.float32)


def sinkhorn_by_hand(scores, temp):
    q = np.exp(scores.reshape(-1, scores.shape[-1]).astype(np.float64).T / temp)
    k, n = q.shape
    q /= q.sum()
    for _ in range(3):
        q /= q.sum(1, keepdims=True) * k
        q /= q.sum(0, keepdims=True) * n
    return (q * n).T.reshape(scores.shape)


@pytest.mark.parametrize("temp", [0.04, 0.07, 1.0])
def test_sinkhorn_by_hand(temp):
    ours = sinkhorn(jnp.asarray(SCORES), jnp.float32(temp)).probabilities()
    np.testing.assert_allclose(ours, sinkhorn_by_hand(SCORES, temp), rtol=2e-4, atol=1e-7)
    np.testing.assert_allclose(ours.sum(-1), 1, rtol=1e-5)


def test_tokens_that_only_pad_change_nothing():
    valid = np.ones((2, 6), np.float32)
    valid[:, 4:] = 0
    scores = SCORES.copy()
    scores[:, 4:] = 50
    ours = sinkhorn(jnp.asarray(scores), jnp.float32(0.1), jnp.asarray(valid)).probabilities()
    np.testing.assert_allclose(ours[:, :4], sinkhorn_by_hand(SCORES[:, :4], 0.1), rtol=2e-4, atol=1e-7)
    assert not np.any(ours[:, 4:])


def test_one_token_is_spread_evenly():
    ours = sinkhorn(jnp.asarray(SCORES[:1, :1]), jnp.float32(0.04)).probabilities()
    np.testing.assert_allclose(ours, 1 / 9, rtol=1e-5)


@pytest.mark.parametrize("gain", [40, 400])
def test_scores_that_overflow_the_exponential(gain):
    ours = np.asarray(sinkhorn(jnp.asarray(SCORES * gain), jnp.float32(0.04)).probabilities())
    assert np.isfinite(ours).all()
    np.testing.assert_allclose(ours.sum(-1), 1, rtol=1e-4)


def test_centred_softmax_by_hand():
    centre = RNG.normal(size=9).astype(np.float32)
    z = (SCORES.astype(np.float64) - centre) / 0.5
    expected = np.exp(z) / np.exp(z).sum(-1, keepdims=True)
    ours = centred_softmax(jnp.asarray(SCORES), jnp.float32(0.5), jnp.asarray(centre)).probabilities()
    np.testing.assert_allclose(ours, expected, rtol=1e-5)


def test_the_centre_lags_one_step():
    centre = Centre.start(jnp.zeros(3))
    np.testing.assert_array_equal(centre.apply(), 0)
    first = jnp.asarray([1.0, 2.0, 3.0])
    centre = Centre(centre.apply(), first)  # as the step does: used value, this step's mean
    np.testing.assert_allclose(centre.apply(), 0.1 * first, rtol=1e-6)


def test_masked_mean_counts_shards_equally_whatever_their_size():
    scores = jnp.asarray(np.stack([np.full((4, 2), 1.0), np.full((4, 2), 3.0)]), jnp.float32)
    valid = jnp.asarray([[1, 0, 0, 0], [1, 1, 1, 1]], jnp.float32)
    np.testing.assert_allclose(masked_mean(scores, valid), 2.0)


@pytest.mark.parametrize("gain", [1, 400])
@pytest.mark.parametrize("chunk", [2, 4, 6])
def test_targets_in_parts_are_those_of_the_whole_matrix(gain, chunk):
    z, prototypes = RNG.normal(size=(2, 6, 4)).astype(np.float32), RNG.normal(size=(9, 4)).astype(np.float32) * gain
    valid = np.asarray([[1, 1, 1, 1, 1, 0], [1, 1, 1, 0, 0, 0]], np.float32)
    temp, centre = jnp.float32(0.5), jnp.asarray(RNG.normal(size=9).astype(np.float32))
    scores = Scores(jnp.asarray(z), jnp.asarray(prototypes))
    close = {"rtol": 2e-5 * gain**0.5, "atol": 1e-7}  # of an exponential of large numbers
    whole = sinkhorn(scores.all(), temp, valid).probabilities()
    parts = sinkhorn_in_parts(scores, temp, jnp.asarray(valid), chunk)
    np.testing.assert_allclose(parts.probabilities(), whole, **close)
    whole = centred_softmax(scores.all(), temp, centre, valid).probabilities()
    parts, mean = centred_softmax_in_parts(scores, temp, centre, jnp.asarray(valid), chunk)
    np.testing.assert_allclose(parts.probabilities(), whole, **close)
    np.testing.assert_allclose(mean, masked_mean(scores.all(), valid), rtol=2e-5, atol=1e-6 * gain)
    columns = Columns.of(6, chunk)
    kernel, scale = zip(*(parts.rows(columns, i) for i in range(columns.count)))
    rows = jnp.stack([columns.columns(k * parts.prototype_scale * s[:, None]) for k, s in zip(kernel, scale)])
    np.testing.assert_allclose(columns.join(rows), whole, **close)
