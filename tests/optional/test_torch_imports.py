"""What timm and transformers save is read and computes the same; see test_torch_exports.py for how to run it."""

import re

import numpy as np
import pytest

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")
transformers = pytest.importorskip("transformers")

from reading import read_tree  # noqa: E402
from torch_cases import MLP, VITS, assert_close, images, ours, to_torch, tokens  # noqa: E402

from histojax.models.beit import BeitConfig  # noqa: E402
from histojax.models.dinov3 import Dinov3Config  # noqa: E402
from histojax.models.network import abstract, family  # noqa: E402
from histojax.models.resnet import ResNetConfig  # noqa: E402
from histojax.models.sam import SamConfig  # noqa: E402
from histojax.models.swin import SWIN_TINY  # noqa: E402
from histojax.models.vit import ViTConfig  # noqa: E402


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


def test_beit_of_timm_without_tables_and_layerscale(tmp_path):
    """As unilm's analysis checkpoint, pretrained on ImageNet-1k: absolute positions only."""
    from timm.models.beit import Beit

    small = dict(img_size=64, patch_size=16, embed_dim=128, depth=2, num_heads=2, num_classes=0)
    model = shaken(Beit(**small, use_abs_pos_emb=True, init_values=None, global_pool="token"))
    config = BeitConfig(128, 2, 2, 16, 64, "none", absolute=True, layerscale=False, norm="tokens")
    check_import(model, config, lambda out: out["cls"], lambda m, x: m(x), images(64), tmp_path / "m", kind="unilm")


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
