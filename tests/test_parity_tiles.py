"""The certificate of the golden tile filter and stain normalisation, and that it fails when it should."""

from pathlib import Path

import pytest
from golden_copies import change, copy, nudge
from parity_cases import all_checks

GOLDEN = Path(__file__).parent / "golden"
FILES = {"tile_filter": ("tiling", 7), "macenko": ("patch_eval", 15)}


def checks_of(folder, name):
    return [c for c in all_checks(folder, only=name) if c.compared]


@pytest.mark.parametrize("name", FILES)
def test_reference_arrays(name):
    folder, number = FILES[name]
    checks = checks_of(GOLDEN / folder, name)
    assert not [c.line() for c in checks if not c.ok]
    assert len(checks) == number
    assert {c.what for c in all_checks(GOLDEN / folder, only=name) if not c.compared} <= {
        "1 arrays not compared (names of the tiles): kinds"
    }


@pytest.mark.parametrize(
    "name, key, how",
    [
        ("tile_filter", "keep_readme", lambda x: ~x),
        ("tile_filter", "canny_40_100", nudge),
        ("tile_filter", "white_fraction", nudge),
        ("macenko", "source_HE", nudge),
        ("macenko", "norm_to_target", lambda x: x // 2),
        ("macenko", "eosin_default", lambda x: x[:-1]),
        ("macenko", "beta", lambda x: x + 0.01),
    ],
)
def test_a_change_is_found(tmp_path, name, key, how):
    copy(tmp_path, f"{name}.npz", source=GOLDEN / FILES[name][0])
    change(tmp_path / f"{name}.npz", key, how)
    failing = [c for c in checks_of(tmp_path, name) if not c.ok]
    assert len(failing) == 1 and key in failing[0].what
