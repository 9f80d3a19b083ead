"""tools/bench_page.py and bench_all.sh: aims reached and not, tables of sides, failures by name."""

import json
import subprocess
from pathlib import Path

import bench_page
import bench_plans

TOOLS = Path(bench_page.__file__).parent


def side(wall, cpu):
    return {"wall_seconds": wall, "cpu_seconds": cpu, "cpu_range": [cpu, cpu]}


def step(ratio, peak):
    sides = {"histojax": side(1, 2), "PyTorch": side(ratio, 2 * ratio)}
    ratios = {"PyTorch": {"wall": ratio, "cpu": ratio}}
    told = {"bench": "step", "case": bench_page.STEP, "unit": "step", "rounds": 2}
    return told | {"sides": sides, "ratios": ratios, "peak_gib": {"histojax": peak}}


def test_aims_are_reached_or_not_and_why():
    text = bench_page.page([step(1.5, 2.4)])
    assert "| step, CPU seconds beside PyTorch's | at least 2x | 1.5x | **not reached**: most of" in text
    assert "| step, peak memory | at most 2.6 GiB | 2.4 GiB | reached |" in text
    assert "| step, seconds beside PyTorch's bfloat16 | at least 1x | - | not measured in this run |" in text
    assert "| step, CPU seconds beside PyTorch's | at least 2x | 2.5x | reached |" in bench_page.page([step(2.5, 2)])


def test_a_line_a_side_with_ratios_and_what_else_is_told():
    text = bench_page.page([step(2.0, 2.4), {"bench": "waiting", "case": "demand of 1", "waiting_share": 0.25}])
    assert f"| {bench_page.STEP} (per step; 2) | histojax | 1 | 2 [2, 2] |  |  | peak gib histojax 2.4 |" in text
    assert "|  | PyTorch | 2 | 4 [4, 4] | **2.00** | **2.00** |  |" in text
    assert "## Waiting for batches" in text and "| demand of 1 | waiting share 0.25 |" in text


def test_the_last_line_of_a_case_counts_and_failures_are_named(tmp_path):
    lines = tmp_path / "lines.jsonl"
    failed = {"bench": "growth", "case": "bench_growth --quick", "failed": 1}
    lines.write_text("\n".join([*map(json.dumps, (step(1, 1), step(3, 1), failed)), "no json"]))
    bench_page.main([str(lines), "--out", str(tmp_path / "page.md"), "--quick"])
    text = (tmp_path / "page.md").read_text()
    assert "3x | reached" in text and "- `bench_growth --quick`: exit code 1" in text and "Quick run" in text


def test_the_machine_is_told():
    about = {"bench": "machine", "cores": 2, "processor": "X", "memory_gib": 8.0, "system": "Linux 6", "load": 1.5}
    text = bench_page.page([about | {"python": "3.11", "versions": {"jax": "0.10"}}])
    assert "2 cores of X, 8 GiB, Linux 6; load 1.5 before (busy:" in text and "Python 3.11, jax 0.10." in text


def test_a_plan_becomes_a_line(monkeypatch, capsys):
    found = {
        "devices": 1,
        "batch": 256,
        "fits": True,
        "compile_seconds": 55.0,
        "peak_bytes": 15 << 30,
        "usable_bytes": 1,
    }
    monkeypatch.setattr(bench_plans, "plan", lambda *a: found)
    bench_plans.main(["S-a100"])
    row = json.loads(capsys.readouterr().out)
    assert row["case"] == "nct_vits14, batch 256, a100-80gb" and row["peak_gib"] == 15
    assert "largest_batch" not in row and bench_plans.row(found | {"largest_batch": 512}, True)["largest_batch"] == 512
    assert "| planned: ViT-S, batch 256, A100 | at most 16 GiB | 15 GiB | reached |" in bench_page.page([row])


def test_every_benchmark_is_in_the_set():
    text = (TOOLS / "bench_all.sh").read_text()
    subprocess.run(["bash", "-n", str(TOOLS / "bench_all.sh")], check=True)
    alone = {"step_torch", "page", "plans", "start_memory"}  # a side, the page, and what takes longer
    names = {path.stem.removeprefix("bench_") for path in TOOLS.glob("bench_*.py")} - alone
    assert all(f"run {name}" in text for name in names)
    assert subprocess.run([str(TOOLS / "bench_all.sh"), "--help"], capture_output=True).returncode == 2
