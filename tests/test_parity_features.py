"""The cases of feature files in tools/parity.py: they hold on the goldens, and see a reader that is wrong."""

from pathlib import Path

import numpy as np
import pytest
from parity_cases import all_checks

from histojax.features import histobistro, trident

GOLDEN = Path(__file__).parent / "golden" / "feature_files"


def test_all_files_are_compared_and_hold():
    checks = list(all_checks(GOLDEN))
    assert all(check.ok and check.compared for check in checks)
    files = {check.name.removesuffix(" .pt") for check in checks}
    assert files == {path.stem for path in GOLDEN.iterdir()} and len(checks) > 35


@pytest.mark.parametrize("module", [trident, histobistro])
def test_swapped_axes_are_seen(module, monkeypatch):
    pairs = module.pairs
    monkeypatch.setattr(module, "pairs", lambda *a: np.roll(pairs(*a), 1, axis=1))
    kind = module.__name__.rpartition(".")[2]
    assert any(not check.ok for check in all_checks(GOLDEN, only=kind))
