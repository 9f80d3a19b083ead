import numpy as np
import pytest
from vit_arrays import BACKBONES, state_dict

from histojax.common.errors import UserError
from histojax.weights.detect import detect_layout, the_layout
from histojax.weights.layouts import Layout
from histojax.weights.layouts.dinov2 import META
from histojax.weights.layouts.hf_vit import HF_DINOV2
from histojax.weights.layouts.timm_vit import TIMM


@pytest.mark.parametrize("model", BACKBONES)
@pytest.mark.parametrize("layout", [META, TIMM, HF_DINOV2], ids=lambda layout: layout.name)
def test_each_layout_is_recognised_alone(model, layout):
    names = layout.write(META.read(state_dict(model, depth=2))[0])
    found = detect_layout(names)
    assert [(known.name, bool(why)) for known, why in found] == [(layout.name, True)]


def test_the_reason_names_the_evidence():
    _, why = the_layout(state_dict("dinov2_vitg14_reg4", depth=1))
    assert "mask_token" in why and "register_tokens" in why and "w12" in why


def test_unknown_names_are_an_error_that_shows_some():
    with pytest.raises(UserError, match=r"x\.pth: the names of its 2 tensors fit none .* conv1\.weight"):
        the_layout({"conv1.weight": 1, "fc.weight": 2}, file="x.pth")


def test_names_that_nearly_fit_say_what_is_missing():
    tensors = state_dict("dinov2_vits14", depth=2)
    del tensors["blocks.0.attn.qkv.bias"]
    with pytest.raises(UserError, match=r"nearly those of meta of ViT, but 1 .* missing: blocks\.0\.attn\.qkv\.bias"):
        the_layout(tensors)


def test_ambiguity_lists_the_candidates():
    both = state_dict("dinov2_vits14", depth=1) | {"reg_token": np.zeros((1, 4, 16), np.float32)}
    with pytest.raises(UserError, match=r"several layouts: meta of ViT \(.*mask_token\); timm of ViT \(.*reg_token\)"):
        the_layout(both)
    assert the_layout(both, want="timm")[0] is TIMM
    always = Layout("always", (), lambda names: "yes")
    with pytest.raises(UserError, match=r"meta.*always"):
        the_layout(state_dict("dinov2_vits14", depth=1), (META, always))


def test_a_wanted_layout_must_exist():
    with pytest.raises(UserError, match="unknown layout 'keras'; known are meta, timm, hf"):
        the_layout({}, want="keras")
    with pytest.raises(UserError, match="unknown layout 'unilm'; known are torchvision"):
        the_layout({}, want="unilm", family="resnet")
