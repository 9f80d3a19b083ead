"""tools/bench_growth.py: one number is changed at a time, exponents are fitted, a steep one is a surprise."""

import json

import bench_growth
import pytest
from bench_common import Spent


@pytest.fixture
def measured(monkeypatch):
    """A step that takes 1 second for batch 8 and its square for larger ones."""
    seen = []

    def measure(config, steps, recipe):
        seen.append((config.batch_size, recipe.head.prototypes, recipe.vit.depth, recipe.crops.global_px))
        seconds = (config.batch_size / 8) ** 2
        facts = {"planned_arguments_gib": 1.0, "planned_temporary_gib": config.batch_size / 8, "compile_seconds": 1}
        return [Spent(seconds, seconds)], facts

    monkeypatch.setattr(bench_growth, "measure", measure)
    return seen


def test_one_number_changes_at_a_time_and_the_common_step_is_measured_once(measured, capsys):
    assert bench_growth.main(["--quick", "--series", "prototypes", "tokens", "depth"]) == 0
    assert measured == [(8, 4096, 6, 112), (8, 16384, 6, 112), (8, 4096, 6, 168), (8, 4096, 12, 112)]
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["case"] for row in rows if "exponents" in row] == ["prototypes", "tokens", "depth"]


def test_a_steep_series_is_a_surprise(measured, capsys):
    assert bench_growth.main(["--series", "batch"]) == 1
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["exponents"]["cpu_seconds"] == 2.0 and last["surprise"] == ["cpu_seconds"]
    assert last["last_slopes"]["memory_gib"] == pytest.approx(0.85, abs=0.01)  # from 5 to 9 GiB


def test_tokens_are_those_of_an_image():
    assert bench_growth.setting("tokens", 112)[2] == 2 * 8**2 + 4 * 4**2
