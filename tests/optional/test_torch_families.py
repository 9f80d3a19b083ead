"""What we write of each family, loaded by the very lines of Python in its README.md: strictly, with the same features.

See test_torch_exports.py for how to run it.
"""

import re

import numpy as np
import pytest

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")
transformers = pytest.importorskip("transformers")

from safetensors.torch import load_file  # noqa: E402
from torch_cases import VITS, assert_close, images, ours, random_tree, to_torch, tokens  # noqa: E402

from histojax.models.beit import BeitConfig  # noqa: E402
from histojax.models.dinov3 import Dinov3Config  # noqa: E402
from histojax.models.network import POOLINGS, family  # noqa: E402
from histojax.models.resnet import ResNetConfig  # noqa: E402
from histojax.models.sam import SamConfig  # noqa: E402
from histojax.models.swin import SwinConfig  # noqa: E402
from histojax.weights.families import FAMILIES  # noqa: E402
from histojax.weights.library_configs import InputRule  # noqa: E402
from histojax.weights.write import write_weights  # noqa: E402

RULE = InputRule(72, 64, "bilinear", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
SAM = SamConfig(128, 3, 2, (1,), window=3, image=80, features=32)
BEITS = {
    "tables per layer, normed mean": BeitConfig(128, 3, 2, 16, 64),
    "one table, normed tokens": BeitConfig(128, 3, 2, 16, 64, "shared", norm="tokens"),
    "absolute positions, no LayerScale": BeitConfig(
        128, 3, 2, 16, 64, "none", absolute=True, layerscale=False, norm="tokens"
    ),
}


def written(folder, config, layout, tree, pooling="", **options):
    options = {"rule": RULE, "eps": getattr(config, "eps", None), "heads": heads(config), **options}
    write_weights(folder, tree, layout, {"pooling": pooling}, family=family(config), **options)


def heads(config):
    return config.heads if isinstance(getattr(config, "heads", None), int) else None


def readme_code(folder):
    text = (folder / "README.md").read_text()
    return re.search(r"```python\n(.*?)```", text, re.S)[1].replace("THIS_FOLDER", str(folder))


def loaded(folder):
    """The model that README.md loads."""
    return scope_of(folder, images(64))["model"]


def scope_of(folder, x):
    """What the lines of README.md leave behind; they take the feature of `x`."""
    scope = {"x": to_torch(x)}
    with torch.no_grad():
        exec(readme_code(folder), scope)
    assert not scope["model"].training
    return scope


def strictly(model, folder):
    """The same, for models whose classifier is not left out."""
    model.load_state_dict(load_file(folder / "model.safetensors"), strict=True)
    return model


def run(model, x):
    with torch.no_grad():
        return model(to_torch(x))


def no_key_bias(tree):
    """BEiT's and DINOv3's keys have no bias."""
    bias = tree["blocks"]["attn"]["qkv"]["bias"]
    bias[:, bias.shape[1] // 3 : 2 * bias.shape[1] // 3] = 0
    return tree


def transformers_strictly(folder):
    model, info = transformers.AutoModel.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], info
    assert type(model).__name__ in (folder / "config.json").read_text()
    transformers.AutoImageProcessor.from_pretrained(folder, use_fast=False)
    return model.eval()


@pytest.mark.parametrize("classes", [0, 7])
def test_resnet_in_timm(classes, tmp_path):
    config = ResNetConfig(classes=classes)
    tree, x = random_tree(config), images(64)
    tree["conv1"]["kernel"] *= 0.1
    written(tmp_path / "out", config, "timm", tree)
    expected = ours(config, tree, x)
    assert_close(run(loaded(tmp_path / "out"), x), expected["pooled"])
    whole = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    assert_close(run(strictly(whole, tmp_path / "out"), x), expected["logits" if classes else "pooled"])
    data = timm.data.resolve_model_data_config(whole)
    assert tuple(data["input_size"]) == (3, 64, 64) and tuple(data["mean"]) == RULE.mean


@pytest.mark.parametrize("layout", ["timm", "hf"])
def test_sam(layout, tmp_path):
    """timm's blocks have an epsilon of 1e-5 by default; the config has to change that."""
    tree, x = random_tree(SAM), images(80)
    tree["patch_embed"]["kernel"] *= 0.02  # so that the first norm's epsilon matters
    tree["patch_embed"]["bias"] *= 0.02
    tree["pos_embed"] *= 0.02
    written(tmp_path / "out", SAM, layout, tree, rule=InputRule(80, None))
    expected = np.moveaxis(ours(SAM, tree, x)["map"], -1, 1)
    if layout == "hf":
        model = transformers_strictly(tmp_path / "out")
        assert_close(run(loaded(tmp_path / "out"), x).last_hidden_state, expected)
        assert model.config.global_attn_indexes == [1]
    else:
        model = strictly(loaded(tmp_path / "out"), tmp_path / "out")
        assert_close(run(model.forward_features, x), expected)
        assert_close(run(model, x), expected.mean((2, 3)))
        other = SamConfig(**{**vars(SAM), "eps": 1e-5})
        assert np.abs(np.moveaxis(ours(other, tree, x)["map"], -1, 1) - expected).max() > 1e-4


@pytest.mark.parametrize("name", BEITS)
def test_beit_in_timm(name, tmp_path):
    config = BEITS[name]
    tree, x = no_key_bias(random_tree(config)), images(64)
    written(tmp_path / "out", config, "timm", tree)
    model, expected = strictly(loaded(tmp_path / "out"), tmp_path / "out"), ours(config, tree, x)
    assert_close(run(model, x), expected["pooled" if config.norm == "mean" else "cls"])
    assert_close(run(model.forward_features, x), np.concatenate([expected["cls"][:, None], expected["patches"]], 1))


@pytest.mark.parametrize("eps", [1e-6, 1e-12])
@pytest.mark.parametrize("name", BEITS)
def test_beit_in_transformers(name, eps, tmp_path):
    config = BeitConfig(**{**vars(BEITS[name]), "eps": eps})
    tree, x = no_key_bias(random_tree(config)), images(64)
    written(tmp_path / "out", config, "hf", tree)
    assert transformers_strictly(tmp_path / "out").config.layer_norm_eps == eps
    expected = ours(config, tree, x)
    with torch.no_grad():
        found = loaded(tmp_path / "out")(to_torch(x), output_hidden_states=True)
    assert_close(found.last_hidden_state, np.concatenate([expected["cls"][:, None], expected["patches"]], 1))
    assert_close(found.pooler_output, expected["pooled" if config.norm == "mean" else "cls"])
    assert_close(found.hidden_states[config.depth][:, 1:].mean(1), expected["mean"])  # the paper's BEiT


def test_plain_swin_in_timm(tmp_path):
    config = SwinConfig(32, (2, 2, 2), (1, 2, 4), image=112, stem="patch")
    tree, x = random_tree(config), images(112)
    written(tmp_path / "out", config, "timm", tree, rule=InputRule(112, 112))
    model = strictly(loaded(tmp_path / "out"), tmp_path / "out")
    assert_close(run(model, x), ours(config, tree, x)["pooled"])


@pytest.mark.parametrize("gated", [True, False])
def test_dinov3_in_transformers(gated, tmp_path):
    config = Dinov3Config(96, 2, 3, 256, gated=gated, eps=1e-6)
    tree, x = no_key_bias(random_tree(config)), images(64)
    written(tmp_path / "out", config, "hf", tree)
    model = transformers_strictly(tmp_path / "out")
    assert_close(run(loaded(tmp_path / "out"), x).last_hidden_state, tokens(ours(config, tree, x)))
    assert model.config.num_attention_heads == 3


# the feature


POOLED = (
    (VITS["mlp"], "cls"),
    (VITS["swiglu, 4 registers"], "cls+mean"),
    (BEITS["tables per layer, normed mean"], "norm_of_mean"),
    (BEITS["one table, normed tokens"], "mean"),
    (BEITS["one table, normed tokens"], "prenorm_mean"),
    (SAM, "neck_mean"),
    (Dinov3Config(128, 2, 2, 256), "cls"),
    (SwinConfig(32, (2, 2), (1, 2), window=4, image=64, stem="patch"), "last_stage"),
)


@pytest.mark.parametrize(
    "config, pooling, layout",
    [(*row, layout) for row in POOLED for layout in ("timm", "hf") if layout in FAMILIES[family(row[0])].targets],
    ids=lambda value: value if isinstance(value, str) else family(value),
)
def test_the_feature_of_the_readme_is_ours(config, pooling, layout, tmp_path):
    side = getattr(config, "image", 64)
    tree, x = random_tree(config), images(side)
    tree = no_key_bias(tree) if family(config) in ("beit", "dinov3") else tree
    written(tmp_path / "out", config, layout, tree, pooling, rule=InputRule(side, side))
    expected = np.asarray(POOLINGS[pooling][1](ours(config, tree, x)))
    assert_close(scope_of(tmp_path / "out", x)["features"], expected)


# epsilons that a library cannot read from a file


@pytest.mark.parametrize(
    "config",
    [
        VITS["patch 16, no LayerScale"].__class__(**{**vars(VITS["patch 16, no LayerScale"]), "eps": 1e-12}),
        BeitConfig(128, 3, 2, 16, 64, eps=1e-12),
        SwinConfig(32, (2, 2), (1, 2), window=4, image=64, stem="patch", eps=1e-6),
    ],
    ids=["vit", "beit", "swin"],
)
def test_timm_is_told_the_epsilon_by_the_stated_line(config, tmp_path):
    """By default the features differ; with the line in the README they do not."""
    tree, x = random_tree(config), images(64)
    if family(config) != "swin":
        tree = no_key_bias(tree) if family(config) == "beit" else tree
        for name in ("patch_embed/kernel", "patch_embed/bias", "pos_embed", "cls_token"):  # small variances
            part, _, leaf = name.partition("/")
            if part in tree:
                (tree[part] if leaf else tree)[leaf or part] *= 2e-3
    else:
        tree["stem"]["proj"]["kernel"] *= 2e-3
        tree["stem"]["proj"]["bias"] *= 2e-3
    written(tmp_path / "out", config, "timm", tree)
    expected = ours(config, tree, x)
    expected = expected["cls"] if family(config) == "vit" else expected["pooled"]
    default = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    assert np.abs(run(default, x).numpy() - expected).max() > 1e-3
    assert f"eps={config.eps:g}" in readme_code(tmp_path / "out")
    assert_close(run(loaded(tmp_path / "out"), x), expected)
    text = (tmp_path / "out" / "README.md").read_text()
    assert "**LayerNorm epsilon: this network has" in text


def test_transformers_reads_the_epsilon(tmp_path):
    config = VITS["patch 16, no LayerScale"]
    config = config.__class__(**{**vars(config), "eps": 1e-12})
    tree, x = random_tree(config), images(64)
    written(tmp_path / "out", config, "hf", tree)
    assert_close(run(loaded(tmp_path / "out"), x).last_hidden_state, tokens(ours(config, tree, x)))
    assert "LayerNorm epsilon" not in (tmp_path / "out" / "README.md").read_text()
