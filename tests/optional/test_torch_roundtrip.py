"""Against the real libraries: what we write loads strictly in timm and transformers with the same features, and what
they save is read back with the same features. Needs torch, timm and transformers; skipped without them.

How to run it, in an environment of its own (CPU builds are enough):

    python3.11 -m venv /tmp/torch && /tmp/torch/bin/pip install '.[test,bench]'
    /tmp/torch/bin/python -m pytest tests/optional -q -p no:xdist

Nothing is downloaded: all networks are small, or of a published size with random numbers.
"""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")
transformers = pytest.importorskip("transformers")

from flax import nnx  # noqa: E402
from PIL import Image  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

from histojax.models.beit import BeitConfig  # noqa: E402
from histojax.models.dinov3 import Dinov3Config  # noqa: E402
from histojax.models.network import abstract, family  # noqa: E402
from histojax.models.resnet import ResNetConfig  # noqa: E402
from histojax.models.sam import SAM_B, SamConfig  # noqa: E402
from histojax.models.swin import SWIN_TINY  # noqa: E402
from histojax.models.vit import ViTConfig, vit_config  # noqa: E402
from histojax.weights.export import write_export  # noqa: E402
from histojax.weights.library_configs import InputRule  # noqa: E402
from histojax.weights.mapping import flatten, unflatten  # noqa: E402
from histojax.weights.read import read_tree  # noqa: E402

MLP = ViTConfig(128, 3, 2, 14, image=56, mask_token=False)
SWIGLU = {"ffn": "swiglu", "hidden": 344}
VITS = {
    "mlp": MLP,
    "mlp, 4 registers": ViTConfig(128, 3, 2, 14, image=56, registers=4),
    "swiglu": ViTConfig(128, 3, 2, 14, image=56, **SWIGLU),
    "swiglu, 4 registers": ViTConfig(128, 3, 2, 14, image=56, registers=4, **SWIGLU),
    "patch 16, no LayerScale": ViTConfig(128, 3, 2, 16, image=64, layerscale=None, mask_token=False),
    "8 registers, patch rows": ViTConfig(
        128, 3, 2, 14, image=56, registers=8, positions="patches", mask_token=False, **SWIGLU
    ),
    "4 registers, rows for all": ViTConfig(
        128, 3, 2, 14, image=56, registers=4, positions="all", mask_token=False, **SWIGLU
    ),
    "patch rows": ViTConfig(128, 3, 2, 14, image=56, positions="patches", mask_token=False),
}


def random_tree(config, seed=0):
    """Parameters of which none is trivial."""
    rng = np.random.default_rng(seed)

    def leaf(path, shape):
        last = path.rpartition("/")[2]
        if last in ("scale", "gamma", "var"):
            return rng.uniform(0.5, 1.5, shape)
        fan_in = np.prod(shape[:-1]) if len(shape) == 4 else shape[-2] if len(shape) > 1 else 1
        return rng.normal(0, 0.02 if last != "kernel" else fan_in**-0.5, shape)

    flat = {path: leaf(path, x.shape).astype(np.float32) for path, x in flatten(abstract(config)[1]).items()}
    return unflatten(flat)


def images(side, count=2):
    return np.random.default_rng(9).normal(size=(count, side, side, 3)).astype(np.float32)


def ours(config, tree, x):
    network = nnx.merge(abstract(config)[0], jax.tree.map(jnp.asarray, tree))
    return jax.tree.map(np.asarray, nnx.jit(lambda m, x: m(x))(network, x))


def to_torch(x):
    return torch.from_numpy(np.moveaxis(x, -1, 1).copy())


def tokens(out):
    return np.concatenate([out["cls"][:, None], out["registers"], out["patches"]], axis=1)


def assert_close(found, expected):
    found = found.detach().numpy() if hasattr(found, "detach") else found
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=3e-5, rtol=1e-5)


# out


@pytest.mark.parametrize("name", VITS)
def test_timm_loads_what_we_write(name, tmp_path):
    config = VITS[name]
    tree, x = random_tree(config), images(config.image)
    write_export(tmp_path / "out", tree, "timm", {}, heads=config.heads)
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
    write_export(tmp_path / "out", tree, "hf", {}, heads=config.heads)
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
    write_export(tmp_path / "meta", tree, "meta", {}, heads=config.heads)
    if config.positions != "cls":  # timm gives register models from Meta patch rows only
        tree = read_tree(
            tmp_path / "meta", expected=random_tree(ViTConfig(**{**vars(config), "positions": "cls"}))
        ).tree
    write_export(tmp_path / "timm", tree, "timm", {}, heads=config.heads)
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
    write_export(tmp_path / "timm", tree, "timm", {})
    write_export(tmp_path / "hf", tree, "hf", {})
    model = timm.create_model("vit_small_patch14_dinov2", img_size=224, num_classes=0).eval()
    model.load_state_dict(load_file(tmp_path / "timm" / "model.safetensors"), strict=True)
    with torch.no_grad():
        assert_close(model(to_torch(x)), expected)
        assert_close(transformers.Dinov2Model.from_pretrained(tmp_path / "hf")(to_torch(x)).pooler_output, expected)


def test_preprocessing_of_the_configs(tmp_path):
    rule = InputRule(64, 56, "bilinear", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    for layout in ("timm", "hf"):
        write_export(tmp_path / layout, random_tree(MLP), layout, {}, heads=2, rule=rule)
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


def test_resnet_sam_and_dinov3(tmp_path):
    resnet = ResNetConfig()
    tree, x = random_tree(resnet), images(64)
    tree["conv1"]["kernel"] *= 0.1
    write_export(tmp_path / "resnet", tree, "timm", {}, family="resnet", rule=InputRule(224, None))
    model = timm.create_model(f"local-dir:{tmp_path / 'resnet'}", pretrained=True).eval()
    model.load_state_dict(load_file(tmp_path / "resnet" / "model.safetensors"), strict=True)
    with torch.no_grad():
        assert_close(model(to_torch(x)), ours(resnet, tree, x)["pooled"])

    gated = Dinov3Config(128, 2, 2, 256, gated=True)
    for config in (gated, Dinov3Config(128, 2, 2, 512)):
        tree = random_tree(config)
        bias = tree["blocks"]["attn"]["qkv"]["bias"]
        bias[:, 128:256] = 0
        write_export(tmp_path / "v3", tree, "hf", {}, family="dinov3")
        model, info = transformers.AutoModel.from_pretrained(tmp_path / "v3", output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"]
        with torch.no_grad():
            assert_close(model.eval()(to_torch(x)).last_hidden_state, tokens(ours(config, tree, x)))


def test_sam_has_the_names_of_timm(tmp_path):
    """Names and shapes of the published size, strictly; nothing is computed."""
    tree = random_tree(SAM_B)
    write_export(tmp_path / "sam", tree, "timm", {}, family="sam", rule=InputRule(1024, None))
    model = timm.create_model(f"local-dir:{tmp_path / 'sam'}", pretrained=True)
    model.load_state_dict(load_file(tmp_path / "sam" / "model.safetensors"), strict=True)


# in: what the libraries save is read, and computes the same


def shaken(model, high=1.5):
    """The model in eval mode, with no trivial parameter left; scales of norms are between 0.5 and `high`."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if not value.is_floating_point() or re.search(r"periods|index|freqs", name):
                continue
            if re.search(
                r"norm\d?\.weight|bn\d\.weight|downsample\.1\.weight|running_var|gamma|lambda|layernorm.*weight", name
            ):
                value.uniform_(0.5, high)
            elif value.ndim < 2 or "bias_table" in name or "rel_pos" in name:
                value.normal_(0, 0.1)
    return model.eval()


def saved(model, path, how):
    if how == "hf":
        model.save_pretrained(path)
        return path
    torch.save({"model": model.state_dict()}, path.with_suffix(".pth"))
    return path.with_suffix(".pth")


def check_import(model, config, output, reference, x, path, how="torch", kind=None):
    """The file that `model` leaves gives our `output` equal to the `reference` of its own forward pass."""
    found = read_tree(saved(model, path, how), expected=abstract(config)[1])
    assert found.family == family(config) and (kind is None or found.layout == kind)
    with torch.no_grad():
        expected = reference(model, to_torch(x))
    assert_close(output(ours(config, found.tree, x)), expected.numpy())


def features(model, x):
    return model.forward_features(x)


def hidden(model, x):
    return model(x).last_hidden_state


SMALL = dict(hidden_size=128, num_hidden_layers=3, num_attention_heads=2, image_size=56, patch_size=14)
TIMM = dict(img_size=56, patch_size=14, embed_dim=128, depth=3, num_heads=2, num_classes=0)


@pytest.mark.parametrize(
    "config, changes",
    [
        (MLP, {"init_values": 1e-5}),
        (VITS["patch rows"], {"init_values": 1e-5, "no_embed_class": True}),
        (
            VITS["8 registers, patch rows"],
            {"init_values": 1e-5, "no_embed_class": True, "reg_tokens": 8, "mlp_ratio": 5.375,
             "mlp_layer": "swiglupacked"},
        ),
        (
            VITS["4 registers, rows for all"],
            {"init_values": 1e-5, "reg_tokens": 4, "mlp_ratio": 5.375, "mlp_layer": "swiglupacked"},
        ),
    ],
)  # fmt: skip
def test_vit_of_timm(config, changes, tmp_path):
    if changes.get("mlp_layer"):
        changes = {**changes, "mlp_layer": timm.layers.SwiGLUPacked, "act_layer": torch.nn.SiLU}
    model = shaken(timm.models.VisionTransformer(**TIMM, **changes))
    check_import(model, config, tokens, features, images(56), tmp_path / "m", kind="timm")


@pytest.mark.parametrize(
    "kind, config, registers, swiglu",
    [("Dinov2", MLP, 0, False), ("Dinov2WithRegisters", VITS["swiglu, 4 registers"], 4, True)],
)
def test_dinov2_of_transformers(kind, config, registers, swiglu, tmp_path):
    extra = {"num_register_tokens": registers} if registers else {}
    settings = getattr(transformers, f"{kind}Config")(**SMALL, use_swiglu_ffn=swiglu, **extra)
    model = shaken(getattr(transformers, f"{kind}Model")(settings))
    config = ViTConfig(**{**vars(config), "mask_token": True})
    check_import(model, config, tokens, hidden, images(56), tmp_path / "m", "hf", "hf")


def test_vit_of_transformers(tmp_path):
    model = shaken(transformers.ViTModel(transformers.ViTConfig(**SMALL, intermediate_size=512)))
    config = ViTConfig(**{**vars(MLP), "layerscale": None, "eps": 1e-12})
    check_import(model, config, tokens, hidden, images(56), tmp_path / "m", "hf", "hf-vit")


@pytest.mark.parametrize("shared", [True, False])
def test_data2vec_of_transformers(shared, tmp_path):
    settings = transformers.Data2VecVisionConfig(
        **SMALL, intermediate_size=512, use_shared_relative_position_bias=shared, use_relative_position_bias=not shared,
        use_mean_pooling=not shared,
    )  # fmt: skip
    model = shaken(transformers.Data2VecVisionModel(settings, add_pooling_layer=not shared))
    config = BeitConfig(
        128, 3, 2, 14, 56, "shared" if shared else "layer", eps=1e-12, norm="tokens" if shared else "mean"
    )

    def last(out):
        return np.concatenate([out["cls"][:, None], out["patches"]], axis=1)

    check_import(model, config, last, hidden, images(56), tmp_path / "m", "hf", "hf")


@pytest.mark.parametrize("gated", [True, False])
def test_dinov3_of_transformers(gated, tmp_path):
    settings = transformers.DINOv3ViTConfig(
        hidden_size=128, num_hidden_layers=3, num_attention_heads=2, intermediate_size=256, num_register_tokens=4,
        use_gated_mlp=gated, hidden_act="silu" if gated else "gelu",
    )  # fmt: skip
    config = Dinov3Config(128, 3, 2, 256, gated=gated)
    model = shaken(transformers.DINOv3ViTModel(settings))
    check_import(model, config, tokens, hidden, images(64), tmp_path / "m", "hf", "hf-gated" if gated else "hf")


@pytest.mark.parametrize(
    "name, gated", [("vit_small_patch16_dinov3", False), ("vit_small_plus_patch16_dinov3_qkvb", True)]
)
def test_dinov3_of_timm(name, gated, tmp_path):
    model = shaken(timm.create_model(name, num_classes=0, depth=2, img_size=64))
    config = Dinov3Config(384, 2, 6, 1536, gated=gated)
    check_import(model, config, tokens, features, images(64), tmp_path / "m", kind="timm-gated" if gated else "timm")


def test_beit_of_timm(tmp_path):
    model = shaken(timm.create_model("beit_base_patch16_224", num_classes=0, depth=2, img_size=64))
    config = BeitConfig(depth=2, image=64)
    check_import(model, config, lambda out: out["pooled"], lambda m, x: m(x), images(64), tmp_path / "m", kind="unilm")


def test_swin_of_timm(tmp_path):
    model = shaken(timm.create_model("swin_tiny_patch4_window7_224", num_classes=0))

    def pooled(model, x):
        return model.forward_features(x).mean((1, 2))

    check_import(model, SWIN_TINY, lambda out: out["pooled"], pooled, images(224, 1), tmp_path / "m", kind="timm")


def test_resnet_of_timm(tmp_path):
    model = shaken(timm.create_model("resnet50", num_classes=0), high=0.7)
    check_import(model, ResNetConfig(), lambda out: out["pooled"], lambda m, x: m(x), images(64), tmp_path / "m")


def test_sam_of_timm_and_transformers(tmp_path):
    from timm.models.vision_transformer_sam import VisionTransformerSAM

    config = SamConfig(128, 3, 2, (1,), window=3, image=112, patch=14, features=32)
    model = VisionTransformerSAM(
        img_size=112, patch_size=14, embed_dim=128, depth=3, num_heads=2, num_classes=0, use_rel_pos=True,
        window_size=3, global_attn_indexes=(1,), neck_chans=32,
    )  # fmt: skip

    def channels_first(out):
        return np.moveaxis(out["map"], -1, 1)

    check_import(shaken(model), config, channels_first, features, images(112), tmp_path / "t", kind="timm")
    settings = transformers.SamVisionConfig(
        hidden_size=128, output_channels=32, num_hidden_layers=3, num_attention_heads=2, image_size=112, patch_size=14,
        mlp_dim=512, window_size=3, global_attn_indexes=[1], num_pos_feats=16,
    )  # fmt: skip
    model = shaken(transformers.SamVisionModel(settings))
    check_import(model, config, channels_first, hidden, images(112), tmp_path / "h", "hf", "hf")
