import json
from pathlib import Path

import pytest

from histojax import encoders
from histojax.__main__ import VERBS, main
from histojax.models import network
from histojax.zoo.table import ENCODERS, PAPER


def run(capsys, *words):
    code = main(["encoders", *words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_table(capsys):
    code, out, err = run(capsys)
    lines = out.splitlines()
    assert code == 0 and not err and lines[0].split() == "name width input feature mpp use licence".split()
    rows = {line.split()[0].rstrip("*"): line for line in lines[1 : 1 + len(ENCODERS)]}
    assert set(rows) == set(ENCODERS)
    assert rows["uni2_h"].split() == "uni2_h* 1536 224 px cls 0.5 non-commercial CC-BY-NC-ND-4.0".split()
    assert rows["sam_vit_h"].split() == "sam_vit_h 256 1024 px neck_mean - any Apache-2.0".split()
    assert lines[-1].startswith(f"{len(ENCODERS)} encoders; * gated") and max(map(len, lines)) < 130


def test_one_in_full(capsys):
    code, out, _ = run(capsys, "hf-hub:MahmoodLab/UNI2-h")
    rows = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert code == 0 and rows["name"] == "uni2_h" and rows["parameters"] == "681,394,176"
    assert rows["feature"] == "1536 numbers: class token after the final norm (cls)"
    assert rows["weights"].startswith(
        "https://huggingface.co/MahmoodLab/UNI2-h/resolve/main/pytorch_model.bin, 2,726 MB"
    )
    assert "SHA-256 6e077eda" in rows["weights"] and "patch 14" in rows["network"]
    assert rows["licence"].endswith("derivatives: no; gated, see https://huggingface.co/MahmoodLab/UNI2-h")
    assert rows["load"] == 'histojax.load_encoder("uni2_h")'


def test_what_is_unknown_or_by_hand_is_said(capsys):
    _, out, _ = run(capsys, "retccl", "phikon")
    assert "by hand from https://github.com/Xiyue-Wang/RetCCL" in out and "SHA-256 not known (unverified)" in out
    assert out.count("\n\n") == 1


@pytest.mark.parametrize("name", ENCODERS)
def test_every_record_can_be_told(name, monkeypatch):
    monkeypatch.setattr(network, "parameter_count", lambda config: 1)  # counted in tests/zoo/test_table.py
    text = encoders.details(ENCODERS[name])
    assert (
        all(text.count(word) for word in ("parameters", "licence", "weights")) and "None" not in text.split("also")[0]
    )


def test_table_3_of_the_paper(capsys):
    code, out, _ = run(capsys, "--paper")
    lines = out.splitlines()
    assert code == 0 and len(lines) > len(PAPER)
    row = next(line for line in lines if line.startswith("SAM ViT-H"))
    assert "637,026,048" in row and "636 M" in row and " 256 " in row and "resize 1024 bilinear" in row
    rows = json.loads(run(capsys, "--paper", "--json")[1])
    assert [row["row"] for row in rows] == list(PAPER)
    assert {row["row"]: row["parameters"] for row in rows}["CTransPath"] == 27_520_038
    assert rows[4]["encoder"] == "beit_paper" and rows[4]["mean"] == [0.5, 0.5, 0.5]


def test_commercial_encoders(capsys):
    _, out, _ = run(capsys, "--commercial", "--json")
    records = json.loads(out)
    names = {record["name"] for record in records}
    assert {"dinov2_vits14", "h_optimus_0", "midnight_12k"} <= names
    assert not names & {"uni", "resnet50", "dinov2_vits14_nct", "dinov3_vits16"}
    assert all(record["commercial"] is True for record in records)


def test_json_of_one(capsys):
    (record,) = json.loads(run(capsys, "gigapath", "--json")[1])
    assert record["name"] == "prov_gigapath" and record["parameters"] == 1_134_953_984
    assert record["network"]["family"] == "vit" and record["network"]["patch"] == 16
    assert record["preprocess"]["filter"] == "bicubic" and record["preprocess"]["size"] == 256
    assert record["weights"][0]["address"].startswith("https://huggingface.co/prov-gigapath/prov-gigapath/resolve/")


@pytest.mark.parametrize(
    "words, message",
    [
        (["unii"], "histojax encoders: error: unii: no encoder of that name; did you mean uni, "),
        (["--papr"], "unknown flag --papr; known are --paper, --commercial, --markdown, --json"),
        (["--paper", "uni"], "--paper takes neither names nor --commercial"),
    ],
)
def test_bad_input_is_one_line(capsys, words, message):
    code, out, err = run(capsys, *words)
    assert code == 2 and not out and message in err and err.count("\n") == 1


@pytest.mark.parametrize("word", ["--help", "-h", "help"])
def test_help(capsys, word):
    code, out, _ = run(capsys, word)
    assert code == 0 and all(f"--{flag}" in out for flag in encoders.FLAGS) and "HF_TOKEN" in out
    assert "encoders" in VERBS


def test_the_table_of_the_readme_is_the_commands(capsys):
    code, out, _ = run(capsys, "--markdown")
    assert code == 0 and len(out.splitlines()) == 2 + len(ENCODERS)
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    assert out in readme, "put the output of `histojax encoders --markdown` into README.md"
    for words in (("--markdown", "--json"), ("--markdown", "uni"), ("--paper", "--markdown")):
        assert run(capsys, *words)[0] == 2
