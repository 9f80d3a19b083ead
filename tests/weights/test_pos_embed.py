import numpy as np
import pytest
from vit_arrays import GOLDEN

from histojax.common.bicubic import MODES
from histojax.common.errors import UserError
from histojax.weights.pos_embed import resample_grid

REFERENCE = np.load(GOLDEN / "dinov2" / "pos_embed_interp.npz")
MODE_OF = {
    "offset0.1": "offset",
    "antialias_size": "antialias",
    "size": "exact",
    "antialias_offset0.1": "antialias-offset",
}
CASES = [name for name in REFERENCE.files if name.count("/") == 2]


@pytest.mark.parametrize("case", CASES)
def test_equals_the_reference(case):
    source, kind, size = case.split("/")
    height, width = map(int, size.split("x"))
    found = resample_grid(REFERENCE[f"{source}/pos_embed"], (height, width), MODE_OF[kind])
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, REFERENCE[case], atol=1e-5)


def test_the_load_of_the_finetuning_paper():
    found = resample_grid(REFERENCE["from37/pos_embed"], 16, "exact")
    np.testing.assert_allclose(found, REFERENCE["from37/fork_load_16x16"], atol=1e-6)


def test_modes_differ_by_more_than_rounding():
    grids = [resample_grid(REFERENCE["from37/pos_embed"], 16, mode) for mode in MODES[:3]]
    assert np.abs(grids[0] - grids[1]).max() > 0.01 and np.abs(grids[0] - grids[2]).max() > 0.5


def test_same_grid_is_untouched_in_every_mode():
    grid = REFERENCE["from16/pos_embed"]
    for mode in MODES:
        np.testing.assert_array_equal(resample_grid(grid, 16, mode), grid)


def test_wrong_shapes_and_modes():
    with pytest.raises(UserError, match=r"\(1, 1 \+ G \* G, D\)"):
        resample_grid(np.zeros((1, 256, 8), np.float32), 7)
    with pytest.raises(UserError, match="unknown position mode 'cubic'; known are exact"):
        resample_grid(np.zeros((1, 257, 8), np.float32), 7, "cubic")
