"""The certificate tool on folders that are not as expected: broken, lacking, ambiguous or unknown files."""

import dataclasses
import json
import shutil

import numpy as np
import parity
import pytest
from golden_copies import GOLDEN, change, copy
from parity_cases import all_checks
from parity_cases.batches import inputs_of
from parity_cases.check import compare, worst
from parity_cases.features import listed_blocks
from parity_cases.golden import Folder
from parity_cases.operations import fitted_temperature
from parity_cases.runs import reported_terms, weights_of
from parity_cases.schedules import of_training
from parity_cases.trees import resampling

from histojax.models.vit import ViTConfig
from histojax.ssl.recipe import LossConfig
from histojax.weights.write import write_weights
from histojax.zoo import table
from histojax.zoo.encoder import load_encoder
from histojax.zoo.parameters import random_parameters
from histojax.zoo.table import find


def certificate_in(folder) -> dict:
    return json.loads((folder / "certificate.json").read_text(), parse_constant=lambda name: pytest.fail(name))


def run(folder, *more: str) -> int:
    return parity.main([str(folder), "--json", str(folder / "certificate.json"), *more])


def test_certificate(tmp_path, capsys):
    status = run(copy(tmp_path, "schedules.npz"), "--table")
    out, certificate = capsys.readouterr().out, certificate_in(tmp_path)
    assert status == 0 and certificate["ok"] and {"jax", "numpy", "histojax"} <= set(certificate["versions"])
    (folder,) = certificate["folders"]
    assert folder["folder"] == tmp_path.name and folder["golden"]["seed"] == 1234 and folder["golden"]["commit"]
    assert len(folder["files"]["schedules.npz"]["sha256"]) == 64 and folder["seconds"] > 0
    check = folder["checks"][1]
    assert check["measured"] <= check["limit"] == 1e-12 and {"max_abs", "max_rel", "tolerance"} <= set(check)
    assert "| `schedules` | 18 | 18 |" in out and f"| **{tmp_path.name}, " in out
    assert str(tmp_path) not in json.dumps(certificate)


def test_nothing_to_compare_is_a_failure(tmp_path, capsys):
    assert parity.main([str(tmp_path)]) == 1
    assert "nothing to compare" in capsys.readouterr().err
    assert parity.main([str(tmp_path / "missing")]) == 2


def test_a_certificate_that_cannot_be_written_is_said_first(tmp_path, capsys):
    for target in (tmp_path / "missing" / "c.json", tmp_path):
        assert parity.main([str(copy(tmp_path, "schedules.npz")), "--json", str(target)]) == 2
        said = capsys.readouterr()
        assert not said.out and said.err.startswith("parity: the certificate cannot be written to")


def test_two_folders_are_kept_apart(tmp_path, capsys):
    folders = [tmp_path / name / "set" for name in "ab"]
    for folder in folders:
        folder.mkdir(parents=True)
        copy(folder, "schedules.npz")
    change(folders[1] / "schedules.npz", "nct_vits_b256/lr", lambda lr: lr * 1.01)
    assert parity.main([*map(str, folders), "--table", "--json", str(tmp_path / "certificate.json")]) == 1
    first, second = certificate_in(tmp_path)["folders"]
    assert (first["folder"], first["ok"], second["folder"], second["ok"]) == ("set (1)", True, "set (2)", False)
    out = capsys.readouterr().out
    assert "| `schedules` | 18 | 18 |" in out and "| `schedules` | 18 | 17 |" in out


BROKEN = {  # file: its content, and what a line says
    "junk.npz": (b"hello", "not an .npz"),
    "cut.npz": (None, "not an .npz"),
    "bad.json": (b"{broken", "JSONDecodeError"),
    "page.pth": (b"<html>not found</html>", "page.pth"),
}


def test_broken_files_fail_by_name_and_the_others_are_compared(tmp_path, capsys):
    copy(tmp_path, "schedules.npz")
    for name, (content, _) in BROKEN.items():
        (tmp_path / name).write_bytes(content or (GOLDEN / "schedules.npz").read_bytes()[:5000])
    assert run(tmp_path) == 1
    out, (folder,) = capsys.readouterr().out, certificate_in(tmp_path)["folders"]
    for name, (_, said) in BROKEN.items():
        assert any(line.startswith(f"FAIL {name}") and said in line for line in out.splitlines()), name
    assert folder["failed"] == len(BROKEN) and folder["comparisons"] == len(BROKEN) + 18
    assert all(c["max_abs"] is None for c in folder["checks"] if not c["ok"])  # infinity is no JSON


EXPECTED = "losses_shared_sinkhorn_knopp_expected"


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ((f"{EXPECTED}.npz", "losses_batches.npz"), "needs one file of weights"),
        ((f"{EXPECTED}.npz", "losses_shared_weights.npz"), "no file of inputs fits"),
        (("features_mlp_noreg.npz",), "no array input/sq98"),
        (("traj_centering_shared_expected.npz", "traj_batches.npz"), "needs one file of weights"),
    ],
)
def test_a_file_without_its_partner_fails_by_name(files, said, tmp_path, capsys):
    copy(tmp_path, "schedules.npz", *files)
    assert run(tmp_path) == 1
    failing = [line for line in capsys.readouterr().out.splitlines() if line.startswith("FAIL")]
    assert any(files[0] in line and said in line for line in failing)
    assert any(c["ok"] and c["name"].startswith("schedules") for c in certificate_in(tmp_path)["folders"][0]["checks"])


def test_what_is_not_compared_is_listed_and_counted(tmp_path, capsys):
    copy(tmp_path, "schedules.npz", "features_inputs.npz")
    np.savez(tmp_path / "mystery.npz", a=np.zeros(3))
    (tmp_path / "slide.czi").write_bytes(b"x")
    (tmp_path / "notes.json").write_text("{}")
    (tmp_path / "keys").mkdir()
    head = {"keys": {"model.attention.0.weight": [[8, 16], "float32"]}, "params": 128}
    (tmp_path / "keys" / "a_head.json").write_text(json.dumps(head))
    np.savez(tmp_path / "mil_a.npz", bag1=np.zeros((1, 3, 4)), logits_bag1=np.zeros((1, 1)))
    with np.load(tmp_path / "schedules.npz") as data:
        arrays = dict(data)
    del arrays["nct_vits_b256/momentum"]
    np.savez(tmp_path / "schedules.npz", **arrays, **{"other/new": np.zeros(2)})
    assert run(tmp_path) == 0
    out, (folder,) = capsys.readouterr().out, certificate_in(tmp_path)["folders"]
    skips = [line for line in out.splitlines() if line.startswith("skip")]
    for words in (
        ("schedules.npz", "1 arrays not compared: other/new"),
        ("schedules nct_vits_b256", "no momentum recorded"),
        ("features_inputs.npz", "4 arrays not compared: input/sq224_i8"),
        ("mystery.npz", "1 arrays not compared: a"),
        ("slide.czi", "no comparison knows such a file"),
        ("notes.json", "nothing in it is known"),
        ("keys/a_head", "no model of bags"),
        ("mil_a.npz", "2 arrays not compared (bags of a head without a weight file): bag1, logits_bag1"),
    ):
        assert any(all(word in line for word in words) for line in skips), words
    assert len(skips) == 10 == len(folder["left_out"]) and folder["arrays_not_compared"] == 8
    assert "10 left out (skip; 8 arrays)" in out
    assert folder["files"]["mystery.npz"]["not_compared"] == {"a": ""}


# inputs and weights of training


def inputs(path, images: int, local: int, masked: tuple[int, ...]) -> None:
    arrays = {}
    for i, count in enumerate(masked):
        masks = np.zeros((2 * images, 9), bool)
        masks.flat[:count] = True
        arrays |= {f"step{i}/masks": masks, f"step{i}/local_crops_i8": np.zeros((local * images, 1))}
        arrays[f"step{i}/global_crops_i8"] = np.zeros((2 * images, 1))
    np.savez(path, **arrays)


def expected(path, images: int, local: int, masked: tuple[int, ...]) -> None:
    arrays = {}
    for i, count in enumerate(masked):
        arrays |= {f"step{i}/loss/total_backprop": 1.0, f"step{i}/mid/teacher_patch_logits": np.zeros((count, 2))}
        arrays[f"step{i}/mid/teacher_cls_logits"] = np.zeros((2 * images, 2))
    np.savez(path, meta_json=np.array(json.dumps({"n_local": local, "case": path.stem})), **arrays)


def test_inputs_are_found_by_their_contents_whatever_their_names(tmp_path):
    inputs(tmp_path / "one.npz", 4, 2, (5, 6))
    inputs(tmp_path / "two.npz", 3, 2, (5, 6))
    inputs(tmp_path / "three.npz", 3, 2, (5, 7))
    inputs(tmp_path / "four.npz", 3, 1, (5, 7))
    expected(tmp_path / "a.npz", 4, 2, (5, 6))
    expected(tmp_path / "b.npz", 3, 2, (5, 6))
    expected(tmp_path / "c.npz", 3, 2, (5, 7))
    expected(tmp_path / "d.npz", 3, 1, (5,))
    expected(tmp_path / "e.npz", 3, 2, (5,))
    folder = Folder(tmp_path)
    cases = {f.name: f for f in folder.arrays}
    assert [inputs_of(cases[c], folder).name for c in "abcd"] == ["one", "two", "three", "four"]
    with pytest.raises(ValueError, match=r"several files of inputs fit .*three.npz, two.npz"):
        inputs_of(cases["e"], folder)
    shutil.copyfile(tmp_path / "e.npz", tmp_path / "twofold.npz")
    folder = Folder(tmp_path)
    assert inputs_of(next(f for f in folder.arrays if f.name == "twofold"), folder).name == "two"


def test_weights_are_found_by_the_case_in_their_meta(tmp_path):
    for name, case in (("a", "one"), ("b", "two"), ("c", "two"), ("want", "one")):
        prefix = "step0/loss/total_backprop" if name == "want" else "student.x"
        np.savez(tmp_path / f"{name}.npz", meta_json=np.array(json.dumps({"case": case})), **{prefix: np.zeros(1)})
    folder = Folder(tmp_path)
    want = next(f for f in folder.arrays if f.name == "want")
    assert weights_of(want, folder, "student.").file.name == "a"
    want.meta["case"] = "two"
    with pytest.raises(ValueError, match=r"2 fit \(b.npz, c.npz\)"):
        weights_of(want, folder, "student.")


def test_terms_are_compared_before_their_weights():
    loss = LossConfig(dino_weight=0.5, ibot_weight=0.25, koleo_weight=0.2)
    ours = {"dino_local": 1.0, "dino_global": 2.0, "koleo": 6.0, "ibot": 8.0, "loss": 5.0}
    assert list(reported_terms(ours, loss).values()) == [2.0, 4.0, 3.0, 16.0, 5.0]


def test_schedules_of_training_are_made_of_its_meta(tmp_path):
    name = "traj_centering_shared_expected"
    file = next(f for f in Folder(copy(tmp_path, f"{name}.npz")).arrays)
    checks = list(of_training(name, file.meta, file.arrays.below("sched/")))
    assert len(checks) == 5 and all(c.ok and c.compared for c in checks)
    file.meta["optim"]["warmup_epochs"] += 1
    assert [c.what.split(",")[0] for c in of_training(name, file.meta, file.arrays.below("sched/")) if not c.ok] == [
        "schedule of lr",
        "schedule of last_layer_lr",
    ]
    del file.meta["OFFICIAL_EPOCH_LENGTH"]
    (skip,) = of_training(name, file.meta, file.arrays.below("sched/"))
    assert not skip.compared and "iterations_per_epoch" in skip.what


# how things are read


@pytest.mark.parametrize(("antialias", "offset", "mode"), [(False, 0, "exact"), (True, 0.1, "antialias-offset")])
def test_both_settings_choose_the_resampling(antialias, offset, mode):
    assert resampling({"interpolate_antialias": antialias, "interpolate_offset": offset}) == mode
    with pytest.raises(ValueError, match=r"no resampling of positions .*0\.05"):
        resampling({"interpolate_antialias": antialias, "interpolate_offset": 0.05})


@pytest.mark.parametrize(
    ("numbers", "count", "depth", "blocks"),
    [
        ("01", 2, 3, (0, 1)),
        ("10", 1, 12, (10,)),
        ("10", 2, 12, (0, 1)),
        ("911", 2, 12, (9, 11)),
        ("3_11", 2, 12, (3, 11)),
        ("111", 2, 12, (1, 11)),
        ("1213", 3, 14, (1, 2, 13)),  # in rising order, unlike 12, 1, 3
        ("1234", 2, 300, None),  # 1 and 234, or 12 and 34
        ("10", 1, 3, None),
    ],
)
def test_blocks_in_a_name(numbers, count, depth, blocks):
    assert listed_blocks(numbers, count, depth) == blocks


@pytest.mark.parametrize("temp", [0.04, 0.05, 0.0617])
def test_the_temperature_is_found_where_probabilities_vanish(temp):
    for seed in range(20):
        x = np.random.default_rng(seed).normal(size=(6, 18)).astype(np.float32)
        z = x / np.float32(temp)
        p = np.exp(z - z.max(-1, keepdims=True))
        p = (p / p.sum(-1, keepdims=True)).astype(np.float32)
        p[p < 1.2e-38] = 0  # as float32 on a device has it
        assert fitted_temperature([x], [p]) == temp, seed


def test_centring_with_vanishing_probabilities_holds(tmp_path):
    rng, centre, pending, arrays = np.random.default_rng(3), np.zeros(18), None, {}
    for i in range(3):
        x = rng.normal(size=(6, 18)).astype(np.float32)
        centre = centre if pending is None else 0.9 * centre + 0.1 * pending
        z = (x - centre) / 0.04
        p = np.exp(z - z.max(-1, keepdims=True))
        p = (p / p.sum(-1, keepdims=True)).astype(np.float32)
        pending = x.mean(0)
        arrays |= {f"center/x{i}": x, f"center/dino_probs{i}": p, f"center/dino_buffer{i}": centre[None]}
    np.savez(tmp_path / "ops.npz", **arrays)
    checks = list(all_checks(tmp_path))
    assert len(checks) == 6 and not [c.line() for c in checks if not c.ok]
    assert min(float(arrays[f"center/dino_probs{i}"].min()) for i in range(3)) < 1e-38


def test_groups_take_their_rates_and_layers_from_the_table(tmp_path):
    table = json.loads((GOLDEN / "param_groups.json").read_text())
    large = {k: v for k, v in table["groups"]["dinov2_vitg14"].items() if not k.startswith("blocks.3")}
    head = table["groups"]["dino_head_vits14"]
    groups = {"any_name": table["groups"]["dinov2_vits14"], "single": {}, "double": {}}
    for name, kept in (("single", ("mlp.0", "last")), ("double", ("mlp.0", "mlp.2", "last"))):
        groups[name] = {k: v for k, v in head.items() if k.startswith(kept)}
    groups["single"] = {k.replace("mlp.0", "mlp"): v for k, v in groups["single"].items()}
    (tmp_path / "t.json").write_text(json.dumps({**table, "groups": groups}))
    checks = list(all_checks(tmp_path))
    assert len(checks) == 6 and not [c.line() for c in checks if not c.ok]
    (tmp_path / "t.json").write_text(json.dumps({**table, "groups": {"incomplete": large}}))
    assert [c.what.split(":")[0] for c in all_checks(tmp_path) if not c.ok] == ["parameters covered"]


# what a line says


def test_the_measured_quantity_is_the_one_that_was_tested():
    check = compare("a", "b", [3.0, 4.0 + 1e-3], [3.0, 4.0], norm=1e-4)
    assert not check.ok and check.measured == pytest.approx(1e-3 / 5) and check.limit == 1e-4
    check = compare("a", "b", [1.0, 100.0 + 1e-3], [1.0, 100.0], rtol=2e-5)
    assert check.ok and check.measured == pytest.approx(1e-5) and check.share == pytest.approx(0.5)
    assert not compare("a", "b", [np.nan], [1.0], atol=1.0).ok and not compare("a", "b", [1.0], [1.0, 1.0]).ok
    assert compare("a", "b", [0.0, 1.0], [0.0, 1.0], rtol=1e-5).ok and not compare("a", "b", 1e-9, 0.0, rtol=1.0).ok


def test_of_many_arrays_the_nearest_to_its_own_limit_is_shown():
    checks = [compare("a", "x", 1.05, 1.0, atol=0.1), compare("a", "y", 1.9, 1.0, atol=1.0)]
    (line,) = worst("a", "all", checks)
    assert line.ok and line.limit == 1.0 and line.tolerance.endswith("at y") and line.max_abs == pytest.approx(0.9)
    (line,) = worst("a", "all", [*checks, compare("a", "z", 2.0, 1.0, atol=0.5)])
    assert not line.ok and line.what == "all (3): z"
    assert worst("a", "none", []) == []


def test_tokens_of_given_weights(tmp_path, capsys, monkeypatch):
    """Images and tokens of a DINOv2 whose weights lie elsewhere: an untrained one of two blocks stands for it."""
    config = ViTConfig(32, 2, 2, 14, image=70, mask_token=False)
    record = dataclasses.replace(find("dinov2_vits14"), name="dinov2_vitx14", network=config, features=32)
    record = dataclasses.replace(record, preprocess=dataclasses.replace(record.preprocess, size=48, crop=42))
    monkeypatch.setitem(table.ENCODERS, record.name, record)
    monkeypatch.setitem(table._RECORDS, table.spelling(record.name), record)
    tree = random_parameters(config, 0)
    tree["pos_embed"] = tree["pos_embed"] * 50
    weights = write_weights(tmp_path / "weights", tree, "hf", {}, heads=2)
    images = np.random.default_rng(0).integers(0, 256, (2, 42, 42, 3), np.uint8)
    encoder = load_encoder(record, weights, resize=False, positions="hf", batch_size=2)
    tokens = np.concatenate([encoder(images)[:, None], encoder.tokens(images)], axis=1)
    (tmp_path / "golden").mkdir()
    np.savez(tmp_path / "golden" / "tokens_42.npz", images=images, tokens=tokens)
    assert parity.main([str(tmp_path / "golden"), "--weights", str(weights)]) == 0
    assert "4 comparisons, 0 failed" in capsys.readouterr().out
    np.savez(tmp_path / "golden" / "tokens_42.npz", images=images, tokens=tokens + np.float32(1e-3))
    assert parity.main([str(tmp_path / "golden"), "--weights", str(weights)]) == 1
    assert parity.main([str(tmp_path / "golden")]) == 1
    assert "needs the network's weights: --weights FILE" in capsys.readouterr().out
    assert parity.main([str(tmp_path / "golden"), "--weights", str(tmp_path / "absent")]) == 2
