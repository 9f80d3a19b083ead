"""The certificate tool on the golden arrays of the repository, and that it fails when it should."""

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import parity
import pytest
from parity_cases import all_checks

GOLDEN = Path(__file__).parent / "golden" / "dinov2"
ENCODERS = Path(__file__).parent / "golden" / "extractors"
EXPECTED = {  # comparisons that at least one line must stand for
    "features_mlp_noreg", "features_swiglu_reg4", "losses_shared_sinkhorn_knopp_expected",
    "losses_separate_centering_expected", "traj_centering_shared_expected", "unit_ops", "schedules", "param_groups",
    "pos_embed_interp", "state_dict_names", "augment_ops", "masking",
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_reference_arrays(name):
    checks = list(all_checks(GOLDEN, only=name))
    assert checks
    assert not [c.line() for c in checks if not c.ok]


def test_nothing_to_compare_is_a_failure(tmp_path, capsys):
    assert parity.main([str(tmp_path)]) == 1
    assert "nothing to compare" in capsys.readouterr().err
    assert parity.main([str(tmp_path / "missing")]) == 2


def test_certificate(tmp_path, capsys):
    out = tmp_path / "certificate.json"
    assert parity.main([str(GOLDEN), "--only", "schedules", "--json", str(out)]) == 0
    certificate = json.loads(out.read_text())
    assert certificate["ok"] and certificate["checks"] and "jax" in certificate["versions"]


def altered(tmp_path, source: str, key: str, change) -> Path:
    """A folder with the files of one case, one array of one file changed."""
    for path in GOLDEN.glob("*.npz"):
        if path.stem.startswith(source.split("_")[0]) or path.stem == "features_inputs":
            shutil.copyfile(path, tmp_path / path.name)
    file = tmp_path / f"{source}.npz"
    with np.load(file) as data:
        arrays = {k: data[k] for k in data.files}
    arrays[key] = change(arrays[key])
    np.savez(file, **arrays)
    return tmp_path


def nudge(x):
    """One element moved by 1 %, of the array's scale."""
    x = np.array(x)
    x.flat[x.size // 2] += 0.01 * np.abs(x).max() + 1e-3 if x.dtype.kind == "f" else 1
    return x


def koleo_epsilon(text):
    meta = json.loads(str(text))
    meta["koleo_pairwise_eps"] = 1e-2
    return np.array(json.dumps(meta))


CASE = "losses_shared_sinkhorn_knopp_expected"


@pytest.mark.parametrize(
    ("file", "key", "change", "only"),
    [
        ("features_mlp_noreg", "param/blocks.1.mlp.fc1.weight", lambda w: w * 1.001, "features_mlp_noreg"),
        ("features_inputs", "input/sq98_i8", nudge, "features_mlp_noreg"),
        ("features_mlp_noreg", "sq98/x_norm_clstoken", nudge, "features_mlp_noreg"),
        ("losses_shared_weights", "student.dino_head.mlp.0.bias", lambda b: b + 1e-2, CASE),
        ("losses_batches", "step0/local_crops_i8", lambda x: np.roll(x, 1, axis=-1), CASE),
        (CASE, "step0/mid/teacher_cls_probs", nudge, CASE),
        (CASE, "step0/grad/dino_head.last_layer.weight_g", lambda g: g * 1.001, CASE),
        (CASE, "meta_json", koleo_epsilon, CASE),
        ("traj_centering_shared_expected", "final/teacher.backbone.norm.weight", lambda w: w + 1e-4, "traj"),
        ("augment_ops", "blur_k9/1.3", lambda x: np.roll(x, 1, axis=0), "augment_ops"),
        ("masking", "collate_exact/collated_masks", lambda m: ~m, "masking"),
    ],
)
def test_any_change_is_noticed(file, key, change, only, tmp_path):
    checks = list(all_checks(altered(tmp_path, file, key, change), only=only))
    assert checks and any(not c.ok for c in checks)


def test_a_wrong_epsilon_in_the_network_is_noticed(monkeypatch):
    from parity_cases import features

    original = features.vit_of

    def wrong(*args):
        import dataclasses

        return dataclasses.replace(original(*args), eps=1e-5)

    monkeypatch.setattr(features, "vit_of", wrong)
    assert any(not c.ok for c in all_checks(GOLDEN, only="features_mlp_noreg"))


@pytest.mark.parametrize(
    ("name", "count", "skips"),
    [
        ("format", 57, 0),  # three containers with 18 tensors each, and nothing else in them
        ("keys/phikon", 6, 0),  # Phikon and Phikon-v2
        ("hf_dinov3_vit", 12, 0),
        ("data2vec_vision", 15, 1),  # with two listings
    ],
)
def test_encoders_of_the_reference(name, count, skips):
    checks = list(all_checks(ENCODERS, only=name))
    assert not [c.line() for c in checks if not c.ok]
    compared = [c for c in checks if c.compared and "detected" not in c.what]
    assert (len(compared), len(checks) - len([c for c in checks if c.compared])) == (count, skips)


def test_what_is_left_out_is_said_and_is_no_success(capsys, tmp_path):
    (tmp_path / "keys").mkdir()
    head = {"keys": {"model.attention.0.weight": [[8, 16], "float32"]}, "params": 128}
    (tmp_path / "keys" / "a_head.json").write_text(json.dumps(head))
    np.savez(tmp_path / "mil_a.npz", bag1=np.zeros((1, 3, 4)), logits_bag1=np.zeros((1, 1)))
    out = tmp_path / "certificate.json"
    assert parity.main([str(tmp_path), "--json", str(out), "--table"]) == 1
    said = capsys.readouterr()
    assert "skip keys/a_head" in said.out and "skip mil_a" in said.out and "2 left out" in said.out
    assert "nothing to compare" in said.err
    certificate = json.loads(out.read_text())
    assert not certificate["ok"] and not certificate["checks"] and len(certificate["left_out"]) == 2


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


def change_arrays(folder, key, change):
    path = folder / "other_sizes.npz"
    arrays = dict(np.load(path))
    arrays[key] = change(arrays[key])
    np.savez(path, **arrays)


def change_weights(folder, key, change):
    from safetensors.numpy import load_file, save_file

    path = folder / "other_sizes.safetensors"
    tensors = load_file(path)
    tensors[key] = change(tensors[key])
    save_file(tensors, path)


def change_epsilon(folder, key, change):
    path = folder / "other_sizes.json"
    description = json.loads(path.read_text())
    description["hf_config"][key] = change(description["hf_config"][key])
    path.write_text(json.dumps(description))


@pytest.mark.parametrize(
    ("where", "key", "change", "expected"),
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
def test_any_change_of_an_encoder_is_noticed(where, key, change, expected, tmp_path, monkeypatch):
    monkeypatch.setattr("parity_cases.networks.WRONG", ())
    folder = encoder_case(tmp_path)
    where(folder, key, change)
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
    for change in (
        {},
        {"params": entry["params"] + 1},
        {"keys": {**entry["keys"], "blocks.0.more.weight": [[3], "f"]}},
    ):
        (tmp_path / "keys" / "mine.json").write_text(json.dumps({**entry, **change}))
        own = [c for c in lines(tmp_path) if c.name == "keys/mine"]
        assert len(own) == 3 and any(not c.ok for c in own) is bool(change)


def test_preprocessing_to_the_grey_level(tmp_path):
    from PIL import Image

    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3)).astype(np.uint8)
    small = np.asarray(Image.fromarray(image).resize((35, 28), Image.Resampling.BILINEAR))
    flat = ((small[::7, ::7] / np.float32(255) - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]).transpose(2, 0, 1)
    arrays = {"a": image, "a:bilinear28": small, "a:bilinear28_sum": small.sum((0, 1))}
    arrays |= {"a:bilinear28_center": small[:, 4:32], "a:bilinear28_imagenet_stride7": flat.astype(np.float32)}
    np.savez(tmp_path / "pixels.npz", **arrays)
    assert len(lines(tmp_path)) == 4 and all(c.ok for c in lines(tmp_path))
    off = small.copy()
    off[3, 4, 1] += 1
    np.savez(tmp_path / "pixels.npz", **{**arrays, "a:bilinear28": off})
    assert [c.what for c in lines(tmp_path) if not c.ok] == ["bilinear28"]


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
    from parity_cases.extractors import belongs

    assert belongs(name, ["a_b", "a_b_c", "a_b_v2", "a_b_c_v2"]) == expected


def test_a_broken_case_does_not_hide_the_others(tmp_path, monkeypatch):
    folder = encoder_case(tmp_path)
    change_epsilon(folder, "num_attention_heads", lambda heads: 5)
    shutil.copyfile(ENCODERS / "format_zip.pth", tmp_path / "some.pth")
    shutil.copyfile(ENCODERS / "format_expected.npz", tmp_path / "values.npz")
    checks = lines(folder)
    assert [c.name for c in checks if not c.ok] == ["other_sizes"] and len(checks) == 20
