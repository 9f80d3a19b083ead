"""A file is believed only if its shapes make one network and its numbers were trained."""

import re

import numpy as np
import pytest
from reading import read_to_train, read_tree
from safetensors.numpy import load_file, save_file
from vit_arrays import GOLDEN, state_dict

from histojax.__main__ import main as histojax
from histojax.common.errors import UserError
from histojax.weights.layouts.dinov2 import META
from histojax.weights.layouts.timm_vit import TIMM
from histojax.zoo.parameters import read_parameters
from histojax.zoo.table import find

FILES = GOLDEN / "extractors"
KERNEL = "blocks.1.mlp.fc1.weight"


def timm_vit(**changes):
    tensors = TIMM.write(META.read(state_dict("dinov2_vits14", depth=2))[0])
    return tensors | {name.replace("__", "."): value for name, value in changes.items()}


def patches(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("to", ["timm", "histojax", "hf"])
@pytest.mark.parametrize("shape", [(16, 1, 16, 16), (16, 12, 8, 8), (16, 4, 14, 14), (16, 3, 16, 14), (16, 588)])
def test_patches_that_are_no_square_of_three_colours(shape, to, tmp_path, capsys):
    """One input channel ended in a traceback; 12 of 8 px became 3 of 16 px."""
    save_file(timm_vit(patch_embed__proj__weight=patches(*shape)), tmp_path / "a.safetensors")
    words = ["convert", str(tmp_path / "a.safetensors"), "--to", to, "--heads", "4", "--out", str(tmp_path / "out")]
    assert histojax(words) == 2 and not (tmp_path / "out").exists()
    error = capsys.readouterr().err
    assert f"patch_embed.proj.weight has shape {shape}: no convolution over square patches" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "name, shape, other",
    [
        ("blocks.{layer}.mlp.fc2.weight", (16, 60), "blocks.{layer}.mlp.fc1.weight"),
        ("blocks.{layer}.attn.qkv.weight", (40, 16), "cls_token"),
        ("blocks.{layer}.norm1.bias", (15,), "cls_token"),
        ("norm.weight", (17,), "cls_token"),
        ("blocks.{layer}.mlp.fc1.weight", (0, 16), "is empty"),
        ("pos_embed", (1, 10, 15), "cls_token"),
        ("patch_embed.proj.bias", (3,), "cls_token"),
    ],
)
def test_shapes_that_make_no_network(name, shape, other, tmp_path):
    changes = {name.format(layer=layer): patches(*shape) for layer in range(2)}
    save_file(timm_vit() | changes, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match=rf"{re.escape(name)} .*{re.escape(other)}"):
        read_tree(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    "file, name, shape, message",
    [
        ("resnet_imagenet", "conv1.weight", (8, 1, 7, 7), "(7, 7, 1, 8) as conv1/kernel, which does not go with every"),
        ("resnet_imagenet", "layer1.0.bn2.running_var", (3,), "(3,)"),
        ("resnet_imagenet", "layer1.0.conv1.weight", (8, 9), "(8, 9)"),
        ("data2vec_vision", "layernorm.bias", (9,), "layernorm.bias has shape (9,)"),
        ("hf_dinov3_vit", "embeddings.register_tokens", (1, 4, 9), "(1, 4, 9)"),
    ],
)
def test_shapes_of_the_other_families(file, name, shape, message, tmp_path):
    tensors = load_file(FILES / f"{file}.safetensors")
    assert name in tensors
    save_file(tensors | {name: patches(*shape)}, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match=re.escape(message)):
        read_tree(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    "value, message",
    [
        (np.full((64, 16), np.nan, "f4"), f"{KERNEL} has NaN"),
        (np.where(np.eye(64, 16) > 0, np.inf, 0.5).astype("f4"), f"{KERNEL} has infinite numbers"),
        (np.zeros((64, 16), "f4"), f"{KERNEL} is 0 everywhere"),
        (np.full((64, 16), 0.25, "f4"), f"{KERNEL} is 0.25 everywhere"),
        (np.ones((64, 16), "i1"), "blocks.{layer}.mlp.fc1.weight is stored as int8"),
    ],
)
def test_numbers_that_were_never_trained(value, message, tmp_path, capsys):
    file = tmp_path / "a.safetensors"
    tensors = timm_vit() | {KERNEL: value}
    if value.dtype == np.int8:
        tensors["blocks.0.mlp.fc1.weight"] = value
    save_file(tensors, file)
    for read in (read_tree, read_to_train, lambda path: read_parameters(path, find("dinov2_vits14"))):
        with pytest.raises(UserError, match=r"a\.safetensors: "):
            read(file)
    with pytest.raises(UserError, match=re.escape(message)):
        read_tree(file)
    assert histojax(["convert", str(file), "--check"]) == 2
    assert message in capsys.readouterr().err


def test_a_negative_variance(tmp_path):
    tensors = load_file(FILES / "resnet_imagenet.safetensors")
    tensors["bn1.running_var"] = -tensors["bn1.running_var"]
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match=r"bn1\.running_var has a negative variance"):
        read_tree(tmp_path / "a.safetensors")
