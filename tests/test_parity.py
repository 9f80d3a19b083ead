"""The certificate tool on the golden arrays of the repository, and that it fails when it should."""

import json
import re
from pathlib import Path

import numpy as np
import parity
import pytest
from golden_copies import ENCODERS, GOLDEN, altered, nudge
from parity_cases import all_checks
from parity_cases.certificate import Result, table
from parity_cases.golden import Folder

README = (Path(__file__).parents[1] / "README.md").read_text()
ROWS = {m[1]: (int(m[2]), int(m[3])) for m in re.finditer(r"^\| `(\S+)` \| (\d+) \| (\d+) \|", README, re.M)}
CASES = {  # golden file: that of its inputs
    "features_mlp_noreg": "features_inputs",
    "features_swiglu_reg4": "features_inputs",
    "losses_shared_sinkhorn_knopp_expected": "losses_batches",
    "losses_separate_centering_expected": "losses_batches",
    "traj_centering_shared_expected": "traj_batches",
    **dict.fromkeys(("unit_ops", "schedules", "param_groups", "pos_embed_interp", "state_dict_names")),
    **dict.fromkeys(("augment_ops", "masking")),
}
JUSTIFIED = ("Sinkhorn-Knopp takes no mean of the batch", "no wd, momentum, teacher_temp recorded")


@pytest.mark.parametrize("name", CASES)
def test_reference_arrays(name):
    """All hold, all arrays of the file and of its inputs are used, and the README's table has its row."""
    golden = Folder(GOLDEN)
    checks = list(all_checks(golden, only=name))
    assert not [c.line() for c in checks if not c.ok]
    assert all(any(reason in c.what for reason in JUSTIFIED) for c in checks if not c.compared)
    if inputs := CASES[name]:
        checks += [c for c in all_checks(golden, only=inputs) if c.compared]
        assert not next(f for f in golden.arrays if f.name == inputs).unread()
    assert {row: ROWS[row] for row in rows_of(checks)} == rows_of(checks)


def rows_of(checks) -> dict[str, tuple[int, int]]:
    """{golden file: (comparisons, those that hold)} in the table that the tool prints."""
    lines = table([Result("mine", None, [c for c in checks if c.compared])])
    found = [re.match(r"\| `(\S+)` \| (\d+) \| (\d+) \|", line) for line in lines]
    return {m[1]: (int(m[2]), int(m[3])) for m in found if m}


def test_the_table_of_the_readme_adds_up():
    rows, sums = re.findall(r"^\| (`\S+`|\*\*.+?\*\*) \| (\d+) \| (\d+) \|", README, re.M), [0, 0]
    totals = 0
    for title, *numbers in rows:
        if title.startswith("*"):
            assert [int(n) for n in numbers] == sums, title
            sums, totals = [0, 0], totals + 1
        else:
            sums = [x + int(n) for x, n in zip(sums, numbers)]
    assert totals == 2 and sums == [0, 0] and "--table" in README


def certificate_of(folder: Path, only: str, capsys) -> dict:
    """The certificate of a run through the command line, after a look at its exit status."""
    out = folder / "certificate.json"
    status = parity.main([str(folder), "--only", only, "--json", str(out)])
    written = json.loads(out.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert status == int(not written["ok"])
    failing = [c["what"] for f in written["folders"] for c in f["checks"] if not c["ok"]]
    assert all(what in capsys.readouterr().out for what in failing[:1])
    return written


def koleo_epsilon(meta):
    meta["koleo_pairwise_eps"] = 1e-2


def no_offset(meta):
    meta["interpolate_offset"] = 0.0


CASE = "losses_shared_sinkhorn_knopp_expected"


@pytest.mark.parametrize(
    ("file", "key", "how", "only"),
    [
        ("features_mlp_noreg", "param/blocks.1.mlp.fc1.weight", lambda w: w * 1.001, "features_mlp_noreg sq98"),
        ("features_mlp_noreg", "meta_json", no_offset, "features_mlp_noreg sq98"),
        ("features_mlp_noreg", "chunked_names", lambda n: n[::-1], "features_mlp_noreg names"),
        ("features_inputs", "input/sq98_i8", nudge, "features_mlp_noreg sq98"),
        ("features_mlp_noreg", "sq98/x_norm_clstoken", nudge, "features_mlp_noreg sq98"),
        ("losses_shared_weights", "student.dino_head.mlp.0.bias", lambda b: b + 1e-2, CASE),
        ("losses_batches", "step0/local_crops_i8", lambda x: np.roll(x, 1, axis=-1), CASE),
        ("losses_batches", "step1/masks_weight", nudge, "losses_batches"),
        (CASE, "step0/mid/teacher_cls_probs", nudge, CASE),
        (CASE, "step1/mid/student_local_logits", nudge, CASE),
        (CASE, "step1/center/ibot_buffer_after_step", nudge, CASE),
        (CASE, "step0/grad/dino_head.last_layer.weight_g", lambda g: g * 1.001, CASE),
        (CASE, "float64/step1/loss/ibot_loss", lambda x: x * 1.0001, CASE),
        (CASE, "meta_json", koleo_epsilon, CASE),
        ("traj_centering_shared_expected", "final/teacher.backbone.norm.weight", lambda w: w + 1e-4, "traj"),
        ("traj_centering_shared_expected", "sched/wd", lambda w: w * 1.0001, "traj"),
        ("augment_ops", "blur_k9/1.3", lambda x: np.roll(x, 1, axis=0), "augment_ops operations"),
        ("augment_ops", "eval_transform_64_56", lambda x: np.roll(x, 1, axis=1), "augment_ops whole"),
        ("augment_ops", "stats/rrc_local_area_fraction_quantiles", lambda q: q * 1.2, "augment_ops draws"),
        ("augment_ops", "stats/blur_fraction_when_built_with_p0.1", lambda x: x - 0.3, "augment_ops draws"),
        ("augment_ops", "stats/pipeline_g1_mean", lambda x: x + 0.05 * (np.arange(8) == 0), "augment_ops chain"),
        ("masking", "collate_exact/collated_masks", lambda m: ~m, "masking collate_exact"),
        ("masking", "grid7/per_cell_count", lambda n: n[:, ::-1] * np.arange(7) // 3, "masking grid7"),
        ("masking", "collate_batch4/hist_masked_per_crop", lambda n: np.roll(n, 9), "masking collate_batch4"),
        ("unit_ops", "koleo3/grad", lambda g: g * 1.001, "unit_ops koleo3"),
        ("unit_ops", "head1/default_init_std/last_layer.weight_v", lambda s: s * 1.3, "unit_ops head1"),
        ("unit_ops", "center/ibot_probs2", lambda p: p * 1.0001, "unit_ops center"),
        ("pos_embed_interp", "from37/antialias_offset0.1/7x7", nudge, "pos_embed_interp from37"),
        ("schedules", "nct_vits_b256/wd", lambda w: w + 1e-10, "schedules nct_vits"),
    ],
)
def test_any_change_is_noticed(file, key, how, only, tmp_path, capsys):
    written = certificate_of(altered(tmp_path, file, key, how), only, capsys)
    assert not written["ok"] and written["folders"][0]["failed"] > 0


def test_a_wrong_epsilon_in_the_network_is_noticed(monkeypatch):
    import dataclasses

    from parity_cases import features

    original = features.vit_of
    monkeypatch.setattr(features, "vit_of", lambda *args: dataclasses.replace(original(*args), eps=1e-5))
    assert any(not c.ok for c in all_checks(GOLDEN, only="features_mlp_noreg sq98"))


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"saturation": 0.0}, "draws"),
        ({"hflip": 0.0}, "draws"),
        ({"local_scale": (0.2, 0.32)}, "draws"),
        ({"solarize_p": 0.0}, "chain"),
        ({"blur_p": (1.0, 0.1, 0.5)}, "chain"),
    ],
)
def test_another_augmentation_is_noticed(change, part, monkeypatch):
    from parity_cases import chain, draws

    for module in (chain, draws):
        original = module.CropConfig
        monkeypatch.setattr(module, "CropConfig", lambda original=original, **k: original(**{**k, **change}))
    checks = [c for c in all_checks(GOLDEN, only=f"augment_ops {part}") if c.compared]
    assert checks and any(not c.ok for c in checks)


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
    if name == "keys/phikon" or name == "data2vec_vision":  # a part of what the table counts
        return
    own = rows_of(checks)
    assert {row: ROWS[row] for row in own} == own
