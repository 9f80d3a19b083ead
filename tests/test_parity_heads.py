"""tools/parity.py on golden models of bags: it holds, and what is wrong is noticed."""

import pytest
from golden_copies import ENCODERS, change, copy, nudge
from parity_cases import all_checks

NAME = "mil_attentionmil"


def checks(folder):
    copy(folder, f"{NAME}.npz", f"{NAME}.json", f"{NAME}.pth", source=ENCODERS)
    return {check.what: check for check in all_checks(folder)}


def test_logits_attention_and_wrong_models(tmp_path):
    found = checks(tmp_path)
    for what in ("logits_bag1", "logits_bag2, padded", "logits_batch_f64", "logits_batch_tiles", "attention_bag1"):
        assert found[what].ok and found[what].compared
    for what in ("the same weight for each tile", "counting tiles that are not there"):
        assert found[f"{what} is detected"].ok
    assert len([check for check in found.values() if check.compared]) == 12


@pytest.mark.parametrize("key", ["attention_bag1", "logits_batch_tiles"])
def test_a_wrong_number_fails(tmp_path, key):
    copy(tmp_path, f"{NAME}.npz", f"{NAME}.json", f"{NAME}.pth", source=ENCODERS)
    change(tmp_path / f"{NAME}.npz", key, nudge)
    failed = [check.what for check in all_checks(tmp_path) if not check.ok]
    assert key in failed
