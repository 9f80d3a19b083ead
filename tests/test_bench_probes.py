"""The probe benchmark runs, and both sides find the same."""

from __future__ import annotations

import json

import bench_probes

SMALL = ["--rows", "300", "--features", "6", "--queries", "30"]


def lines(capsys):
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_small_run_beside_scikit_learn(capsys):
    assert bench_probes.main([*SMALL, "--peer"]) == 0
    knn, logistic = lines(capsys)
    assert knn["case"] == "20-NN, 300 x 6, 30 queries" and knn["same_neighbours"] > 0.99
    assert all(set(row["sides"]) == {"histojax", "scikit-learn"} for row in (knn, logistic))
    assert logistic["quality"]["histojax"]["as_good"]
    assert logistic["quality"]["histojax"]["objective"] <= logistic["quality"]["scikit-learn"]["objective"] * 1.001


def test_ours_alone(capsys):
    assert bench_probes.main([*SMALL, "--probe", "logistic", "--rounds", "2"]) == 0
    (row,) = lines(capsys)
    assert row["rounds"] == 2 and set(row["sides"]) == {"histojax"} == set(row["quality"])
