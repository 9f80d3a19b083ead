import subprocess
import sys

import numpy as np
import pytest

from histojax.common.errors import UserError
from histojax.data.synthetic import DRAW, SyntheticTissue


def test_classes_and_patients_take_turns():
    source = SyntheticTissue(9 * 8 * 2, 32)
    assert source.classes == tuple(sorted(DRAW)) and len(source.classes) == 9
    assert np.bincount(source.labels).tolist() == [16] * 9
    names, counts = np.unique(source.groups, return_counts=True)
    assert len(names) == 8 and set(counts) == {18} and names[3] == "synthetic-patient-3"
    assert all(len(set(source.labels[source.groups == name])) == 9 for name in names)


def test_same_call_same_tile_here_and_in_another_process():
    source = SyntheticTissue(18, 48, seed=5)
    tile = source.read(13)
    assert tile.shape == (48, 48, 3) and tile.dtype == np.uint8
    assert (tile == SyntheticTissue(500, 48, seed=5).read(13)).all()  # n does not matter
    code = (
        "import sys; from histojax.data.synthetic import SyntheticTissue;"
        "sys.stdout.buffer.write(SyntheticTissue(18, 48, seed=5).read(13).tobytes())"
    )
    assert subprocess.check_output([sys.executable, "-c", code]) == tile.tobytes()


def test_tiles_and_seeds_differ():
    source = SyntheticTissue(36, 32)
    assert len({source.read(i).tobytes() for i in range(36)}) == 36
    assert (source.read(0) != SyntheticTissue(36, 32, seed=1).read(0)).any()
    assert source.fingerprint() != SyntheticTissue(36, 32, seed=1).fingerprint()
    assert source.fingerprint() == SyntheticTissue(36, 32).fingerprint()


@pytest.mark.parametrize("kind", sorted(DRAW))
def test_every_class_draws_at_any_size(kind):
    for tile_px in (16, 57, 224):
        tile = SyntheticTissue(1, tile_px, classes=[kind]).read(0)
        assert tile.shape == (tile_px, tile_px, 3) and tile.std() > 0.5


def test_patients_stain_differently():
    source = SyntheticTissue(8 * 6, 32, classes=["muscle"], patients=8)
    means = np.array([source.read(i).mean((0, 1)) for i in range(len(source))]).reshape(6, 8, 3)
    assert means.mean(0).std(0).mean() > 5  # grey levels between patients


def test_wrong_arguments_are_user_errors():
    with pytest.raises(UserError, match="brain"):
        SyntheticTissue(3, classes=["brain"])
    with pytest.raises(UserError, match="n=0"):
        SyntheticTissue(0)
