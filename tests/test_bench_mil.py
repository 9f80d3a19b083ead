import json

import bench_mil
import pytest

SMALL = ["--bags", "2", "--shortest", "5", "--longest", "9", "--width", "8"]


def test_our_side_alone(capsys):
    assert bench_mil.main(SMALL) == 0
    line = json.loads(capsys.readouterr().out)
    assert line["case"] == "transformer, 2 bags of 5 to 9 x 768" and line["sides"]["histojax"]["cpu_seconds"] >= 0
    assert line["ratios"] == {} and line["peak_gib"] > 0


def test_both_learn_the_same(capsys):
    pytest.importorskip("torch", reason="pip install '.[bench]'")
    assert bench_mil.main([*SMALL, "--peer", "--rounds", "2"]) == 0
    line = json.loads(capsys.readouterr().out)
    assert line["losses_apart"] < 1e-4 and line["ratios"]["torch"]["cpu"] > 0
