"""The probe benchmark runs, and both sides find the same."""

from __future__ import annotations

import json

import bench_probes


def test_a_small_run(capsys):
    assert bench_probes.main(["--rows", "300", "--features", "6", "--queries", "30"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {row["probe"] for row in rows} == {"knn", "logistic"} and all(row["cpu_seconds"] >= 0 for row in rows)
    assert next(row["same neighbours"] for row in rows if "same neighbours" in row) > 0.99
    assert rows[-1]["who"] == "histojax" and rows[-1]["level"]
