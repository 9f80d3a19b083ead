"""Losses and probabilities of the three tasks."""

import numpy as np
import pytest

from histojax.evaluation.mil.tasks import class_loss, cox_loss, outputs, probabilities, squared_loss


def test_a_task_says_how_many_logits_it_has():
    assert [outputs("classification", n) for n in (2, 3)] == [1, 3]
    assert outputs("regression", 0) == outputs("survival", 0) == 1


def test_losses_are_minus_log_probabilities():
    z = np.array([[1.5], [-2.0]])
    expected = -np.log(probabilities(z)[[0, 1], [1, 0]]) * [3, 1]  # the weight is that of the positive bag alone
    np.testing.assert_allclose(class_loss(z, np.array([1, 0]), np.float32(3)), expected, rtol=1e-5)
    z = np.random.default_rng(0).normal(size=(4, 3))
    labels = np.array([0, 2, 1, 1])
    np.testing.assert_allclose(
        class_loss(z, labels, np.float32(1)), -np.log(probabilities(z)[range(4), labels]), rtol=1e-5
    )
    assert squared_loss(z[:, :1], z[:, 0] + 2, np.float32(1)) == pytest.approx(4, rel=1e-5)


def test_cox_loss_is_the_partial_likelihood_written_out():
    risk, time, event = np.array([0.2, -1.0, 0.5, 2.0]), np.array([3.0, 1, 2, 2]), np.array([0, 1, 1, 1])
    terms = [np.log(np.exp(risk[time >= time[i]]).sum()) - risk[i] for i in (1, 2, 3)]
    got = cox_loss(risk[:, None], np.stack([time, event], 1), np.float32(1)).mean()
    assert float(got) == pytest.approx(np.mean(terms), rel=1e-5)
    assert not cox_loss(risk[:, None], np.stack([time, 0 * event], 1), np.float32(1)).any()
