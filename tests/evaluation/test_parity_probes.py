"""tools/parity.py on the golden probes: what is right passes, each wrong variant is seen."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools"))
from parity_cases import all_checks, patch_probes  # noqa: E402

from histojax.evaluation.logistic import Logistic  # noqa: E402

GOLDEN = ROOT / "tests" / "golden" / "patch_eval"


@pytest.fixture
def folder(tmp_path):
    shutil.copyfile(GOLDEN / "eval_two_class.npz", tmp_path / "eval_two_class.npz")
    return tmp_path


def failures(folder):
    return {check.what.split(":")[0] for check in all_checks(folder) if not check.ok}


@pytest.mark.parametrize("name", ["two_class", "nine_class"])
def test_everything_holds(tmp_path, name):
    shutil.copyfile(GOLDEN / f"eval_{name}.npz", tmp_path / f"eval_{name}.npz")
    checks = list(all_checks(tmp_path))
    assert all(check.ok for check in checks)
    compared, left = [c for c in checks if c.compared], [c.what for c in checks if not c.compared]
    assert len(compared) > 25
    assert len(left) == 2 and any("other objective" in what or "another objective" in what for what in left)


def sklearn_fit(x, labels, change):
    """LogisticRegression at its minimum, with something of it done wrong."""
    c, x = x.shape[1] * (labels.max() + 1) / 100, x.astype(np.float64)
    scale = x.std(0) if change == "standardised" else np.ones(x.shape[1])
    x = x / scale
    if change == "penalised intercept":
        model = LogisticRegression(C=c, tol=1e-10, max_iter=9999, fit_intercept=False)
        model.fit(np.c_[x, np.ones(len(x))], labels)
        weights, intercept = model.coef_[:, :-1].T, model.coef_[:, -1]
    else:
        factor = {"C": 2.0, "1 / C of n": len(x), "two rows": 2.0}.get(change, 1.0)
        model = LogisticRegression(C=c * factor, tol=1e-10, max_iter=9999).fit(x, labels)
        weights, intercept = model.coef_.T, model.intercept_
    return Logistic(weights / scale[:, None], intercept, c, 0.0, 0.0, 0, True)


@pytest.mark.parametrize("change", ["", "C", "1 / C of n", "standardised", "penalised intercept", "two rows"])
def test_wrong_regressions_are_seen(folder, monkeypatch, change):
    """A softmax of two weight rows halves the penalty: its minimum is that of twice the C."""
    fit = sklearn_fit(*(np.load(folder / "eval_two_class.npz")[k] for k in ("x_train", "y_train")), change)
    monkeypatch.setattr(patch_probes.logistic, "fit_logistic", lambda *_: fit)
    found = failures(folder)
    assert {"weights", "probabilities"} <= found if change else not found


def test_wrong_votes_are_seen(folder, monkeypatch):
    right = patch_probes.knn.knn_probabilities

    def largest_of_ties(*given):
        shares = right(*given)
        return shares.shape[1] - 1 - shares[:, ::-1].argmax(axis=1)

    monkeypatch.setattr(patch_probes.knn, "knn_predict", largest_of_ties)
    assert {"knn predictions", "knn confusion", "knn acc"} <= failures(folder)


@pytest.mark.parametrize(("name", "what"), [("nearest", "distances"), ("centre_l2", "knn_centered_l2 predictions")])
def test_wrong_distances_are_seen(folder, monkeypatch, name, what):
    right = getattr(patch_probes.knn, name)

    def uncentred(train, queries):
        return patch_probes.knn.l2_normalise(train), patch_probes.knn.l2_normalise(queries)

    def squared(*given):
        distances, indices = right(*given)
        return distances**2, indices

    monkeypatch.setattr(patch_probes.knn, name, {"nearest": squared, "centre_l2": uncentred}[name])
    assert what in failures(folder)
