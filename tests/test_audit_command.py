import json

import pytest

from histojax import audit, train
from histojax.data.store import write_store
from histojax.data.synthetic import SyntheticTissue

TINY = "tests/tiny.py"


def test_audit_then_train_on_what_is_clean(tmp_path, capsys, monkeypatch):
    write_store(SyntheticTissue(36, 64, patients=4), tmp_path / "train")
    words = [str(tmp_path / "train"), "--against", "synthetic:3", "--out", str(tmp_path / "out"), "--workers", "0"]
    clean = tmp_path / "clean.csv"
    assert audit.main([words[0], "--out", words[0]]) == 2  # whose files its tables would replace
    assert audit.main([*words, "--write-clean", str(clean)]) == 1  # the synthetic patients have the same names
    said = capsys.readouterr().out
    assert "shared by" in said and f"{clean}: " in said and "patient of the set to judge by" in said
    known = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert [one["tiles"] for one in known["sets"]] == [36, 3] and known["sets"][0]["blank"] > 0
    monkeypatch.setattr("histojax.data.hash_sources.hash_tile", None)  # the second time the hashes are there
    assert audit.main(words) == 1
    workdir = str(tmp_path / "run")
    changes = [f"--config.data.train={clean}", "--config.batch_size=16"]
    assert train.main(["--config", TINY, "--workdir", workdir, "--check", *changes]) == 0
    assert "kept by clean.csv" in capsys.readouterr().out


def test_a_killed_audit_goes_on_and_processes_read(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("histojax.data.hash_sources.CHUNK", 8)
    words = ["synthetic:20", "--out", str(tmp_path), "--min-contrast", "0"]
    assert audit.main([*words, "--workers", "2"]) == 0
    (place,) = (tmp_path / "hashes").iterdir()
    whole = {path.name: path.read_bytes() for path in place.iterdir()}
    assert len(whole) == 3
    (place / "000000008.npz").unlink()
    assert audit.main([*words, "--workers", "0"]) == 0
    assert {path.name: path.read_bytes() for path in place.iterdir()} == whole


@pytest.mark.parametrize(
    "words, said",
    [
        ([], "no set of tiles given"),
        (["a", "--near", "200"], "--near 200 must lie between 0"),
        (["synthetic:4", "--against", "synthetic:4"], "named twice"),
        (["tests/golden", "--against", "tests/../tests/golden/"], "named twice, as tests/golden"),
        (["synthetic:4", "--write-clean", "x.txt"], "ending in .csv"),
        (["synthetic:4", "--write-clean", "nowhere/x.csv"], "the folder nowhere does not exist"),
        (["missing"], "missing: does not exist"),
        (["synthetic:4", "--out", TINY], "tests/tiny.py/hashes"),
        (["a", "--againts", "b"], "did you mean --against?"),
    ],
)
def test_mistakes_are_one_line(capsys, words, said):
    assert audit.main(words) == 2
    assert said in capsys.readouterr().err


def test_help_teaches(capsys):
    assert audit.main(["--help"]) == 0
    assert "--write-clean" in capsys.readouterr().out
