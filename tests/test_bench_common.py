"""tools/bench_common.py: turns, medians for one unit, and what is told when the other side is missing."""

import argparse
import json

import bench_common
import pytest
from bench_common import Spent, in_turns, summary


def test_sides_take_turns_and_the_first_round_warms_up():
    asked = []
    sides = {name: (lambda name=name: asked.append(name)) for name in ("histojax", "torch")}
    found = in_turns(sides, rounds=2, warm=1)
    assert asked == ["torch", "histojax", "histojax", "torch", "torch", "histojax"]
    assert {name: len(readings) for name, readings in found.items()} == {"histojax": 2, "torch": 2}


def test_medians_and_ratios():
    found = {"histojax": [Spent(1, 2), Spent(9, 9), Spent(1, 2)], "torch": [Spent(2, 6), Spent(2, 6), Spent(2, 60)]}
    told = summary(found)
    assert told["sides"]["histojax"] == {"wall_seconds": 1, "cpu_seconds": 2, "cpu_range": [2, 9]}
    assert told["ratios"] == {"torch": {"wall": 2.0, "cpu": 3.0}} and told["rounds"] == 3
    assert summary({"torch": [Spent(1, 1)]})["ratios"] == {}


def test_a_line_is_json(capsys):
    bench_common.tell("crops", case="a", seconds=0.5)
    assert json.loads(capsys.readouterr().out) == {"bench": "crops", "case": "a", "seconds": 0.5}
    assert bench_common.machine()["versions"]["jax"] and bench_common.peak_gib() > 0


def test_a_process_of_its_own(tmp_path):
    script = tmp_path / "one.py"
    script.write_text("import json, sys\nprint('words')\nprint(json.dumps({'got': sys.argv[1:]}))\n")
    assert bench_common.own_process(script, "--steps", 2) == {"got": ["--steps", "2"]}
    script.write_text("raise SystemExit('no such file: x')")
    with pytest.raises(SystemExit, match="no such file: x"):
        bench_common.own_process(script)


def test_a_missing_peer_is_named(capsys):
    with pytest.raises(SystemExit) as caught:
        bench_common.need(argparse.ArgumentParser(), "no_such_module")
    assert caught.value.code == 2
    assert "no_such_module is not installed: pip install '.[bench]', or leave out --peer" in capsys.readouterr().err
