"""What we write, in the real libraries: it loads strictly in timm and transformers, with the same features.

Needs torch, timm and transformers; skipped without them. How to run it, in an environment of its own (CPU builds are
enough):

    python3 -m venv .venv-torch && .venv-torch/bin/pip install '.[test,bench]'
    .venv-torch/bin/python -m pytest tests/optional -q -p no:xdist

Nothing is downloaded: all networks are small, or of a published size with random numbers.
"""

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")
transformers = pytest.importorskip("transformers")

from finished_run import make_run  # noqa: E402
from PIL import Image  # noqa: E402
from reading import read_tree  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from torch_cases import MLP, VITS, assert_close, images, ours, random_tree, to_torch, tokens  # noqa: E402

from histojax.models.sam import SAM_B  # noqa: E402
from histojax.models.vit import ViTConfig, vit_config  # noqa: E402
from histojax.weights.library_configs import InputRule  # noqa: E402
from histojax.weights.write import write_weights  # noqa: E402
from histojax.zoo.encoder import load_encoder  # noqa: E402


@pytest.mark.parametrize("name", VITS)
def test_timm_loads_what_we_write(name, tmp_path):
    config = VITS[name]
    tree, x = random_tree(config), images(config.image)
    write_weights(tmp_path / "out", tree, "timm", {}, heads=config.heads)
    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    model.load_state_dict(load_file(tmp_path / "out" / "model.safetensors"), strict=True)
    expected = ours(config, tree, x)
    with torch.no_grad():
        assert_close(model.forward_features(to_torch(x)), tokens(expected))
        assert_close(model(to_torch(x)), expected["cls"])


@pytest.mark.parametrize("name", VITS)
def test_transformers_loads_what_we_write(name, tmp_path):
    config = VITS[name]
    tree, x = random_tree(config), images(config.image)
    write_weights(tmp_path / "out", tree, "hf", {}, heads=config.heads)
    model, info = transformers.AutoModel.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    expected = ours(config, tree, x)
    with torch.no_grad():
        found = model.eval()(to_torch(x))
    assert_close(found.last_hidden_state, tokens(expected))
    assert_close(found.pooler_output, expected["cls"])


@pytest.mark.parametrize("name", VITS)
def test_the_names_of_meta_mean_what_timm_takes_them_for(name, tmp_path):
    """timm knows Meta's files by their mask token and rewrites them itself (an independent reader)."""
    from timm.models.vision_transformer import checkpoint_filter_fn

    config = VITS[name]
    tree, x = random_tree(config), images(config.image)
    write_weights(tmp_path / "meta", tree, "meta", {}, heads=config.heads)
    if config.positions != "cls":  # timm gives register models from Meta patch rows only
        tree = read_tree(
            tmp_path / "meta", expected=random_tree(ViTConfig(**{**vars(config), "positions": "cls"}))
        ).tree
    write_weights(tmp_path / "timm", tree, "timm", {}, heads=config.heads)
    entry = json.loads((tmp_path / "timm" / "config.json").read_text())
    model = timm.create_model(entry["architecture"], num_classes=0, **entry["model_args"]).eval()
    tensors = checkpoint_filter_fn(load_file(tmp_path / "meta" / "model.safetensors"), model)
    model.load_state_dict(tensors, strict=True)
    plain = ViTConfig(**{**vars(config), "positions": "cls", "mask_token": "mask_token" in tree})
    with torch.no_grad():
        assert_close(model.forward_features(to_torch(x)), tokens(ours(plain, tree, x)))


def test_a_published_size_at_224(tmp_path):
    """ViT-S/14 with the grid of 224 px: both libraries run it unchanged, and at their own entry's name."""
    config = vit_config("vit_small", image=224)
    tree, x = random_tree(config), images(224, 1)
    expected = ours(config, tree, x)["cls"]
    write_weights(tmp_path / "timm", tree, "timm", {})
    write_weights(tmp_path / "hf", tree, "hf", {})
    model = timm.create_model("vit_small_patch14_dinov2", img_size=224, num_classes=0).eval()
    model.load_state_dict(load_file(tmp_path / "timm" / "model.safetensors"), strict=True)
    with torch.no_grad():
        assert_close(model(to_torch(x)), expected)
        assert_close(transformers.Dinov2Model.from_pretrained(tmp_path / "hf")(to_torch(x)).pooler_output, expected)


@pytest.mark.parametrize("grid_px", [0, 56, 70])
def test_a_training_on_small_crops_is_read_alike(grid_px, tmp_path):
    """Crops of 28 px, read at 56: the exported grid is that of 56 px, whatever was trained."""
    folder, _ = make_run(
        tmp_path / "mine",
        sources=[],
        layouts=("timm", "hf"),
        change=lambda leaf: 0.3 * leaf,
        eval__image_px=56,
        model__grid_px=grid_px,
    )
    tiles = np.random.default_rng(0).integers(0, 256, (2, 56, 56, 3), np.uint8)
    encoder = load_encoder(folder, batch_size=2)
    expected = encoder(tiles)
    rule = encoder.preprocess
    x = to_torch((tiles.astype(np.float32) / 255 - np.float32(rule.mean)) / np.float32(rule.std))
    model = timm.create_model(f"local-dir:{folder / 'export' / 'timm'}", pretrained=True).eval()
    assert model.pretrained_cfg["input_size"][1] == 56
    with torch.no_grad():
        assert_close(model(x), expected)
        hf = transformers.AutoModel.from_pretrained(folder / "export" / "hf").eval()
        assert_close(hf(x).pooler_output, expected)


def test_preprocessing_of_the_configs(tmp_path):
    rule = InputRule(64, 56, "bilinear", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    for layout in ("timm", "hf"):
        write_weights(tmp_path / layout, random_tree(MLP), layout, {}, heads=2, rule=rule)
    model = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True)
    data = timm.data.resolve_model_data_config(model)
    assert (
        data["interpolation"] == "bilinear" and tuple(data["mean"]) == rule.mean and data["input_size"] == (3, 56, 56)
    )
    assert int(56 / data["crop_pct"]) == 64
    # the Pillow processor: the one for tensors needs torchvision's compiled operators
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "hf", use_fast=False)
    tile = np.random.default_rng(0).integers(0, 256, (80, 80, 3), np.uint8)
    pixels = np.asarray(processor(tile, return_tensors="np")["pixel_values"][0])
    transform = timm.data.create_transform(**data)
    assert np.abs(transform(Image.fromarray(tile)).numpy() - pixels).max() < 2 / 255 / 0.4


def test_sam_has_the_names_of_timm(tmp_path):
    """Names and shapes of the published size, strictly; nothing is computed."""
    tree = random_tree(SAM_B)
    write_weights(tmp_path / "sam", tree, "timm", {}, family="sam", rule=InputRule(1024, None))
    model = timm.create_model(f"local-dir:{tmp_path / 'sam'}", pretrained=True)
    model.load_state_dict(load_file(tmp_path / "sam" / "model.safetensors"), strict=True)
