import numpy as np
import pytest
from family_cases import GOLDEN, listing, read_listing, rewritten, run_case, worst_excess

from histojax.common.errors import UserError
from histojax.models.imagebind import IMAGEBIND_HUGE
from histojax.weights.containers import open_tensors
from histojax.weights.layouts.imagebind import IMAGEBIND

STEM = "modality_preprocessors.vision.rgbt_stem.proj.1.weight"


def test_golden():
    outputs, golden = run_case("imagebind")
    excess = worst_excess(outputs, golden)
    assert len(excess) == 6 and max(excess.values()) < 1, excess
    np.testing.assert_allclose(np.linalg.norm(outputs["features"], axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("choice", ["ln_eps_x10", "gelu_tanh"])
def test_wrong_choices_are_seen(choice):
    outputs, golden = run_case("imagebind", only="features", choice=choice)
    assert worst_excess(outputs, golden)["features"] > 1.2


def test_published_names():
    assert read_listing(IMAGEBIND_HUGE, listing("imagebind_huge")) == 632_829_440


def test_frames_of_the_stem_are_summed():
    tensors = open_tensors(GOLDEN / "imagebind.pth").tensors
    tree, _ = IMAGEBIND.read(tensors)
    stem = tensors[STEM].numpy()  # (D, 3, 2, 14, 14)
    expected = stem[5, 2, 0, 3, 4] + stem[5, 2, 1, 3, 4]
    assert tree["patch_embed"]["kernel"][(3 * 14 + 4) * 3 + 2, 5] == expected


def test_folded_stem_cannot_be_written():
    with pytest.raises(UserError, match="folded"):
        rewritten("imagebind", open_tensors(GOLDEN / "imagebind.pth").tensors)
