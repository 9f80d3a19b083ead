"""`histojax benchmark` through its entry point: the dry run, the configurations, and what it refuses."""

from pathlib import Path

import pytest

from histojax import __main__, benchmark
from histojax.config import benchmark as defaults

CONFIGS = Path(__file__).parents[1] / "configs"
NCT = str(CONFIGS / "benchmark_nct.py")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("HISTOJAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("name", "table"), [("benchmark_nct", "Tables 2 and 3"), ("benchmark_msi", "Tables 1 and 3")])
def test_a_dry_run_of_each_configuration(name, table, capsys):
    file = str(CONFIGS / f"{name}.py")
    assert __main__.main(["benchmark", "--config", file, "--out", "out", "--dry-run"]) == benchmark.HOLES
    said = capsys.readouterr().out
    assert f"{name}: {table}" in said and "12 rows" in said and "nothing can be computed" in said
    assert "TransPath" in said and not Path("out").exists()
    text = Path(file).read_text()
    assert f"--config configs/{name}.py" in text and "Needs:" in text and "Time:" in text


def test_what_is_missing_becomes_holes(capsys):
    given = ["--config", NCT, "--config.rows=ResNet50,RetCCL"]
    assert benchmark.main(given) == benchmark.HOLES
    said = capsys.readouterr().out
    assert "hole: ResNet50, RetCCL (20-NN ACC, 20-NN F1, Linear ACC, Linear F1): NCT-CRC-HE-100K: not there" in said
    assert Path("benchmarks/benchmark_nct/table2.png").stat().st_size


BAD = {
    "--config FILE is missing": ["--out", "out"],
    "config.trian is not a leaf": ["--config", NCT, "--config.trian=a"],
    "the paper has no row 'ResNet'; did you mean 'ResNet50'": ["--config", NCT, "--config.rows=ResNet", "--out", "o"],
    "protocol='both': expected patch or slide": ["--config", NCT, "--config.protocol=both", "--out", "o"],
    "no rows": ["--config", NCT, "--config.rows=none", "--out", "o"],
    "quickstart.py: has an unknown leaf": ["--config", str(CONFIGS / "quickstart.py"), "--out", "o"],
}


@pytest.mark.parametrize("said", BAD)
def test_bad_input_is_one_line(said, capsys):
    assert benchmark.main(BAD[said]) == 2
    assert said in capsys.readouterr().err


def test_every_leaf_is_explained(capsys):
    assert benchmark.main(["--helpconfig", "--config", NCT]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line]
    assert len(lines) == 31 and all(len(line.split("  ")) > 1 for line in lines)
    assert benchmark.main([]) == 2 and benchmark.main(["--help"]) == 0
    assert defaults().protocol == "patch"
