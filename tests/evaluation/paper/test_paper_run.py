"""The runner: every row once, holes with their reason, files that are whole, and scores that are kept."""

import dataclasses
import json

import pytest

from histojax.common.errors import UserError
from histojax.evaluation.paper.at_hand import DOWNLOAD, HERE, MISSING, look_for_weights
from histojax.evaluation.paper.cells import HOLE, NOT_COMPARED
from histojax.evaluation.paper.numbers import TABLE_2
from histojax.evaluation.paper.plan import make_plan, told
from histojax.evaluation.paper.run import run, summary
from histojax.evaluation.paper.settings import Benchmark, Row, make_rows
from histojax.evaluation.results import Results, Score, read_results


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HISTOJAX_CACHE", str(tmp_path / "cache"))


def tiles(path, classes=("A", "B")):
    for name in classes:
        (path / name).mkdir(parents=True)
        (path / name / "1.png").write_bytes(b"")
    return str(path)


def asked(tmp_path, **changes):
    weights = ("ResNet50=random", "RetCCL=random")
    rows = make_rows("patch", ("ResNet50", "RetCCL", "CTransPath"), (), weights)
    data = {"train": tiles(tmp_path / "train"), "test": tiles(tmp_path / "test")}
    return Benchmark("mine", "patch", rows, **({**data, "offline": True} | changes))


def scorer(calls, bad=()):
    def score(row, benchmark, where, out, say):
        calls.append(row.name)
        if row.name in bad:
            raise UserError(f"{row.name}: broken weights")
        scores = tuple(Score(one.evaluator, one.part, one.metric, 0.9) for one in TABLE_2)
        return Results(row.name, "patch", "classification", "label", ("A", "B"), (), scores, {"notes": []})

    return score


def go(asked, out, calls, bad=()):
    return run(asked, make_plan(asked), out, scorer(calls, bad), lambda text: None)


def test_holes_are_named_and_what_is_done_is_kept(tmp_path, monkeypatch):
    for name in ("write_all", "write_figure"):  # pictures: in the next test
        monkeypatch.setattr(f"histojax.evaluation.paper.run.{name}", lambda *_: None)
    calls, out, benchmark = [], tmp_path / "out", asked(tmp_path)
    outcome = go(benchmark, out, calls, bad=("RetCCL",))
    whys = dict(outcome.holes.keys())
    assert calls == ["ResNet50", "RetCCL"]
    assert whys["RetCCL (random weights)"] == "RetCCL: broken weights" and "ctranspath.pth" in whys["CTransPath"]
    assert read_results(out / "results" / "resnet50_random").name == "ResNet50"
    assert go(benchmark, out, calls).holes.keys() == {key for key in outcome.holes if key[0] == "CTransPath"}
    assert calls == ["ResNet50", "RetCCL", "RetCCL"]  # the first was done before
    go(dataclasses.replace(benchmark, seed=1), out, calls)
    assert calls[3:] == ["ResNet50", "RetCCL"]  # another question


def test_files_of_a_benchmark(tmp_path):
    outcome = go(asked(tmp_path), tmp_path / "out", [])
    page = (tmp_path / "out" / "benchmark.md").read_text()
    assert "other tiles than the paper's (train and test)" in page and "![Table 2" in page and "- CTransPath" in page
    facts = json.loads((tmp_path / "out" / "benchmark.json").read_text())
    assert facts["verdicts"][NOT_COMPARED] == 8 and facts["verdicts"][HOLE] == 4
    assert facts["holes"][0]["row"] == "CTransPath"
    assert "8 not compared" in summary(outcome)
    for name in ("table2", "table3", "others_nct", "figure2"):
        assert all((tmp_path / "out" / f"{name}.{end}").stat().st_size for end in ("csv", "md", "png"))


def test_without_data_every_cell_is_a_hole_that_says_where_to_get_it(tmp_path):
    calls, benchmark = [], asked(tmp_path, train=str(tmp_path / "NCT-CRC-HE-100K"))
    outcome = go(benchmark, tmp_path / "out", calls)
    assert not calls and len(outcome.holes) == 3
    assert all("zenodo.org/records/1214456" in why for _, why in outcome.holes)
    plan = make_plan(benchmark)
    assert not plan.whole and "nothing can be computed" in told(benchmark, plan)
    assert "035777cf327776a71a05c95da6d6325f" in told(benchmark, plan)


def test_the_points_of_a_training_are_rows_of_their_own(tmp_path):
    run_folder = tmp_path / "run"
    (run_folder / "export").mkdir(parents=True)
    (run_folder / "config.json").write_text(json.dumps({"config": {"model": {"weights": "dinov2_vits14"}}}))
    (run_folder / "export" / "card.json").write_text(json.dumps({"steps": 2000, "weights": []}))
    calls = []
    outcome = go(asked(tmp_path, run=str(run_folder), offline=False), tmp_path / "out", calls)
    assert calls == ["ResNet50", "RetCCL", "step 0000000", "step 0002000"]
    assert [cell.ours for cell in outcome.figure] == [0.9] * 4


def test_where_weights_are(tmp_path):
    assert look_for_weights(Row("a", "resnet50", "random")).state == HERE
    assert look_for_weights(Row("a", "resnet50")).state == DOWNLOAD
    offline = look_for_weights(Row("a", "resnet50"), offline=True)
    assert offline.state == MISSING and "resnet50-11ad3fa6.pth" in offline.said
    by_hand = look_for_weights(Row("a", "ctranspath"))
    assert by_hand.state == MISSING and "TransPath" in by_hand.said
    assert look_for_weights(Row("a", str(tmp_path))).state == HERE
    assert "no encoder of that name" in look_for_weights(Row("a", "nonsense")).said
