import dataclasses

import jax
import numpy as np
import pytest
from family_cases import GOLDEN, listing, read_listing, rewritten, run_case, worst_excess
from parity_cases.backbones import backbone_tensors
from safetensors.numpy import save_file

from histojax.common.errors import UserError
from histojax.models.beit import (
    BEIT_BASE,
    BEIT_BASE_PRETRAINED,
    DATA2VEC_BASE,
    DATA2VEC_BASE_FT1K,
    BeitConfig,
    relative_index,
)
from histojax.models.network import abstract
from histojax.weights.containers import open_tensors
from histojax.weights.families import layouts_of
from histojax.weights.trees import flatten, unflatten
from histojax.zoo.encoder import load_encoder
from histojax.zoo.record import Preprocess
from histojax.zoo.table import find


@pytest.mark.parametrize(
    "name, count", [("beit_perlayer_relpos", 4), ("beit_shared_relpos", 4), ("data2vec_vision", 7)]
)
def test_golden(name, count):
    outputs, golden = run_case(name)
    excess = worst_excess(outputs, golden)
    assert len(excess) == count and max(excess.values()) < 1, excess


@pytest.mark.parametrize(
    "name, choice",
    [
        ("beit_perlayer_relpos", "ln_eps_x10"),
        ("beit_perlayer_relpos", "gelu_tanh"),
        ("beit_shared_relpos", "ln_eps_x10"),
        ("data2vec_vision", "gelu_tanh"),
    ],
)
def test_wrong_choices_are_seen(name, choice):
    outputs, golden = run_case(name, only="features", choice=choice)
    assert worst_excess(outputs, golden)["features"] > 1.2


@pytest.mark.parametrize(
    "config, name, parameters",
    [
        (BEIT_BASE, "beit_base_patch16_224_pt22k_ft22k", 85_761_984),
        (BEIT_BASE, "beit_base_timm", 85_761_984),
        (BEIT_BASE_PRETRAINED, "beit_base_patch16_224_pt22k", 85_665_360),
        (DATA2VEC_BASE, "data2vec_vision_base", 85_665_360),
        (DATA2VEC_BASE_FT1K, "data2vec_vision_base_ft1k", 86_530_984 - 769_000),  # without classifier
    ],
)
def test_published_names(config, name, parameters):
    assert read_listing(config, listing(name)) == parameters


@pytest.mark.parametrize("file", ["beit_perlayer_relpos.pth", "beit_shared_relpos.pth", "data2vec_vision.safetensors"])
def test_layout_writes_what_it_read(file):
    tensors = backbone_tensors(open_tensors(GOLDEN / file).tensors)
    written = rewritten("beit", tensors)
    assert len(written) > 40
    left = set(tensors) - set(written)
    assert all(name.endswith("index") or name.split(".")[0] in ("head", "mask_token") for name in left), left
    for name, value in written.items():
        np.testing.assert_array_equal(value, tensors[name].numpy())


@pytest.mark.parametrize("absolute, layerscale, relative", [(True, False, "none"), (True, True, "layer")])
def test_parts_that_a_file_may_lack(absolute, layerscale, relative, tmp_path):
    """unilm's analysis checkpoint has absolute positions, no tables and no LayerScale; a lost gamma is named."""
    config = BeitConfig(32, 3, 4, 16, 80, relative, absolute, layerscale, norm="tokens")
    rng, shapes = np.random.default_rng(0), flatten(abstract(config)[1])
    flat = {path: rng.normal(size=leaf.shape).astype(np.float32) for path, leaf in shapes.items()}
    flat["blocks/attn/qkv/bias"][:, 32:64] = 0
    tensors = layouts_of("beit")["unilm"].write(unflatten(flat))
    assert ("blocks.0.gamma_1" in tensors) == layerscale and "pos_embed" in tensors
    save_file(tensors, tmp_path / "a.safetensors")
    record = dataclasses.replace(
        find("beit_base_pt22k"), network=config, preprocess=Preprocess(80), features=32, pooling="cls"
    )
    encoder = load_encoder(record, tmp_path / "a.safetensors", batch_size=1)
    assert encoder(np.zeros((1, 80, 80, 3), np.uint8)).shape == (1, 32)
    jax.tree.map(np.testing.assert_array_equal, encoder.parameters, unflatten(flat))
    tensors.pop("blocks.1.gamma_1" if layerscale else "pos_embed")
    save_file(tensors, tmp_path / "b.safetensors")
    with pytest.raises(UserError, match=r"b\.safetensors: .*(blocks\.1\.gamma_1|needs pos_embed)"):
        load_encoder(record, tmp_path / "b.safetensors")


def test_relative_index_by_hand():
    expected = [  # 2 x 2 patches: 9 rows of offsets, then class to patch, patch to class, class to class
        [11, 9, 9, 9, 9],
        [10, 4, 3, 1, 0],
        [10, 5, 4, 2, 1],
        [10, 7, 6, 4, 3],
        [10, 8, 7, 5, 4],
    ]
    np.testing.assert_array_equal(relative_index(2), expected)


def test_relative_index_equals_the_stored_buffer():
    tensors = backbone_tensors(open_tensors(GOLDEN / "beit_perlayer_relpos.pth").tensors)
    stored = tensors["blocks.0.attn.relative_position_index"].numpy()
    np.testing.assert_array_equal(relative_index(5), stored)
