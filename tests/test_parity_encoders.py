"""The certificate tool on golden encoders: files that belong together, wrong choices, recipes, containers, pixels."""

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from golden_copies import ENCODERS, change, nudge
from parity_cases import all_checks
from parity_cases.extractors import detection
from parity_cases.recipes import recipe


def encoder_case(tmp_path, name="hf_dinov3_vit", rename="other_sizes") -> Path:
    """A folder with the files of one golden encoder under another name, and a list of files that says sensitivities."""
    for path in ENCODERS.glob(f"{name}.*"):
        shutil.copyfile(path, tmp_path / path.name.replace(name, rename))
    listed = [{"file": f"{rename}.npz", "sensitivity": {"ln_eps_x10": 0.321, "gelu_tanh": 0.000485}}]
    (tmp_path / "index.json").write_text(json.dumps(listed))
    return tmp_path


def lines(folder: Path) -> list:
    return [c for c in all_checks(folder) if c.compared]


def test_a_renamed_encoder_is_found_with_its_wrong_choices(tmp_path):
    checks = lines(encoder_case(tmp_path))
    assert len(checks) == 8 and all(c.ok and c.name.startswith("other_sizes") for c in checks)
    assert [c.what for c in checks[-2:]] == ["LayerNorm epsilon x 10 is detected", "tanh GELU is detected"]
    assert "the reference changes by 3.2e-01" in checks[-2].tolerance and checks[-2].max_abs == pytest.approx(
        0.321, 0.1
    )


def change_arrays(folder, key, how):
    change(folder / "other_sizes.npz", key, how)


def change_weights(folder, key, how):
    from safetensors.numpy import load_file, save_file

    path = folder / "other_sizes.safetensors"
    tensors = load_file(path)
    tensors[key] = how(tensors[key])
    save_file(tensors, path)


def change_epsilon(folder, key, how):
    path = folder / "other_sizes.json"
    description = json.loads(path.read_text())
    description["hf_config"][key] = how(description["hf_config"][key])
    path.write_text(json.dumps(description))


@pytest.mark.parametrize(
    ("where", "key", "how", "expected"),
    [
        (change_arrays, "features", lambda x: x + 1e-4, "features"),
        (change_arrays, "hidden_1", nudge, "hidden_1"),
        (change_arrays, "x", nudge, "hidden_0"),
        (change_weights, "layer.1.mlp.up_proj.weight", lambda w: w * 1.01, "hidden_2"),
        (change_weights, "layer.1.mlp.up_proj.weight", lambda w: w[:-1], "up_proj"),
        (change_epsilon, "layer_norm_eps", lambda eps: 10 * eps, "features"),
        (change_epsilon, "rope_theta", lambda theta: 90.0, "hidden_1"),
    ],
)
def test_any_change_of_an_encoder_is_noticed(where, key, how, expected, tmp_path, monkeypatch):
    monkeypatch.setattr("parity_cases.networks.WRONG", ())
    folder = encoder_case(tmp_path)
    where(folder, key, how)
    checks = lines(folder)
    assert any(expected in c.what and not c.ok for c in checks), [c.line() for c in checks]


def test_a_wrong_choice_without_effect_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr("parity_cases.networks.wrong_choice", lambda config, choice: config)
    failing = [c.what for c in lines(encoder_case(tmp_path)) if not c.ok]
    assert "LayerNorm epsilon x 10 is detected" in failing


def test_a_file_without_its_partner_is_noticed(tmp_path):
    folder = encoder_case(tmp_path)
    (folder / "other_sizes.json").unlink()
    assert [c.what for c in lines(folder)] == ["other_sizes.npz has no .json that describes the network"]
    shutil.copyfile(ENCODERS / "hf_dinov3_vit.json", folder / "other_sizes.json")
    (folder / "other_sizes.safetensors").unlink()
    assert [c.what for c in lines(folder)] == ["other_sizes.npz has no weight file"]


def test_changed_containers_and_listings_are_noticed(tmp_path):
    shutil.copyfile(ENCODERS / "format_zip.pth", tmp_path / "some.pth")
    arrays = dict(np.load(ENCODERS / "format_expected.npz"))
    np.savez(tmp_path / "values.npz", **{**arrays, "sliced_view": arrays["sliced_view"] + 1})
    assert [c.what for c in lines(tmp_path) if not c.ok] == ["sliced_view float32"]
    entry = json.loads(gzip.decompress((ENCODERS / "keys.json.gz").read_bytes()))["lunit_vits8"]
    (tmp_path / "keys").mkdir()
    for difference in (
        {},
        {"params": entry["params"] + 1},
        {"keys": {**entry["keys"], "blocks.0.more.weight": [[3], "f"]}},
    ):
        (tmp_path / "keys" / "mine.json").write_text(json.dumps({**entry, **difference}))
        own = [c for c in lines(tmp_path) if c.name == "keys/mine"]
        assert len(own) == 3 and any(not c.ok for c in own) is bool(difference)


def test_preprocessing_to_the_grey_level(tmp_path):
    from PIL import Image

    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3)).astype(np.uint8)
    small = np.asarray(Image.fromarray(image).resize((35, 28), Image.Resampling.BILINEAR))
    flat = ((small[::7, ::7] / np.float32(255) - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]).transpose(2, 0, 1)
    made = {"bilinear28": small, "bilinear28_sum": small.sum((0, 1)), "bilinear28_center": small[:, 4:32]}
    made |= {"bilinear28_imagenet_stride7": flat.astype(np.float32)}
    arrays = {"tile1": image, **{f"tile1:{key}": value for key, value in made.items()}}
    np.savez(tmp_path / "pixels.npz", **arrays)
    assert len(lines(tmp_path)) == 4 and all(c.ok for c in lines(tmp_path))
    off = small.copy()
    off[3, 4, 1] += 1
    np.savez(tmp_path / "pixels.npz", **{**arrays, "tile1:bilinear28": off, "tile1:sharpened": off})
    checks = list(all_checks(tmp_path))
    assert [c.what for c in checks if not c.ok] == ["bilinear28"]
    assert [c.what for c in checks if not c.compared] == ["1 arrays not compared (unknown steps): tile1:sharpened"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a_b", "a_b"),
        ("a_b_seed7", "a_b"),
        ("a_b_c_v2_model", "a_b_c_v2"),
        ("a_b_ckpt_v2", "a_b_v2"),
        ("b_a", None),
    ],
)
def test_files_belong_to_the_case_with_most_words(name, expected):
    from parity_cases.containers import belongs

    assert belongs(name, ["a_b", "a_b_c", "a_b_v2", "a_b_c_v2"]) == expected


def test_a_broken_case_does_not_hide_the_others(tmp_path, monkeypatch):
    folder = encoder_case(tmp_path)
    change_epsilon(folder, "num_attention_heads", lambda heads: 5)
    shutil.copyfile(ENCODERS / "format_zip.pth", tmp_path / "some.pth")
    shutil.copyfile(ENCODERS / "format_expected.npz", tmp_path / "values.npz")
    checks = lines(folder)
    assert [c.name for c in checks if not c.ok] == ["other_sizes"] and len(checks) == 20


TOKENS = np.random.default_rng(0).normal(size=(2, 5, 3))  # class, one register, three patches
NORMED, POOLED = 2 * TOKENS, np.ones((2, 3))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("cls token after final norm", NORMED[:, 0]),
        ("last_hidden_state[:, 0] (after final LayerNorm)", NORMED[:, 0]),
        ("mean of patch tokens after final norm", NORMED[:, 2:].mean(1)),
        ("Mean of patch tokens before the final norm", TOKENS[:, 2:].mean(1)),
        ("mean of patch tokens of hidden_states[depth], before final LayerNorm", TOKENS[:, 2:].mean(1)),
        ("mean patches then fc_norm", POOLED),
        ("LN(mean of patch tokens) (pooler.layernorm)", POOLED),
        ("concat(cls, mean of last_hidden_state[:, 1:])", np.hstack([NORMED[:, 0], NORMED[:, 1:].mean(1)])),
        (
            "concat(cls, mean of patch tokens), both after final norm",
            np.hstack([NORMED[:, 0], NORMED[:, 2:].mean(1)]),
        ),
    ],
)
def test_recipes(words, expected):
    np.testing.assert_allclose(recipe(words, NORMED, TOKENS, 2, POOLED), expected, rtol=1e-6)


@pytest.mark.parametrize("words", ["max of patch tokens", "", "mean of cls and patch tokens", "mean of everything"])
def test_other_recipes_are_refused(words):
    with pytest.raises(ValueError, match="not understood"):
        recipe(words, NORMED, TOKENS, 2, None)


@pytest.mark.parametrize(
    ("change", "ours", "verdict"),
    [
        (1e-3, 1e-3, "ok"),
        (1e-3, 0.0, "FAIL"),
        (3.5e-5, 0.0, "skip"),  # of features up to 1, the tolerance is 4e-5
        (4.5e-5, 3.9e-5, "skip"),  # just above it, and lost in rounding
        (4.5e-5, 5.5e-5, "ok"),
    ],
)
def test_wrong_choices_within_the_tolerance_are_not_asked_for(change, ours, verdict):
    golden = np.array([1.0, 1.0])
    check = detection("case", "a choice", change, golden, lambda: golden + ours)
    assert check.line().split()[0] == verdict


def test_an_unknown_network_is_left_out_and_named(tmp_path):
    folder = encoder_case(tmp_path)
    description = json.loads((folder / "other_sizes.json").read_text())
    description["hf_config"]["model_type"] = "some_other"
    (folder / "other_sizes.json").write_text(json.dumps(description))
    (check,) = all_checks(folder)
    assert check.ok and not check.compared and check.arrays == 7 and "'some_other'" in check.what


def test_structure_that_the_description_leaves_open_is_read_off_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr("parity_cases.networks.WRONG", ())
    import jax
    import jax.numpy as jnp
    from flax import nnx
    from safetensors.numpy import save_file

    from histojax.models.beit import Beit, BeitConfig
    from histojax.weights.layouts.beit import UNILM

    config = BeitConfig(32, 1, 2, 16, 48, "none", absolute=True, layerscale=False, norm="tokens")
    graph, tree = nnx.split(Beit(config, nnx.Rngs(0)))
    tree = nnx.to_pure_dict(tree)
    noise = np.random.default_rng(1)
    tree = jax.tree.map(lambda p: jnp.asarray(p + 0.3 * noise.normal(size=p.shape), jnp.float32), tree)
    x = noise.normal(size=(2, 3, 48, 48)).astype(np.float32)
    tree["blocks"]["attn"]["qkv"]["bias"] = tree["blocks"]["attn"]["qkv"]["bias"].at[:, 32:64].set(0)
    out = jax.jit(lambda tree, x: nnx.merge(graph, tree)(x))(tree, np.moveaxis(x, 1, -1))
    save_file({k: np.ascontiguousarray(v) for k, v in UNILM.write(tree).items()}, tmp_path / "plain.safetensors")
    np.savez(tmp_path / "plain.npz", x=x, features=np.asarray(out["patches"].mean(1)))
    said = {"arch": "beit", "dim": 32, "depth": 1, "heads": 2, "patch": 16, "img_size": 48, "ln_eps": 1e-6}
    for pool, ok in (("mean of patch tokens after final norm", True), ("cls after norm", False)):
        (tmp_path / "plain.json").write_text(json.dumps({**said, "pool": pool}))
        assert [c.ok for c in lines(tmp_path) if c.what == "features"] == [ok]
