"""tools/bench_step.py: the configuration of the words, and turns with PyTorch; the readings are made up."""

import json

import bench_step
import pytest
from bench_common import OURS, Spent


@pytest.fixture
def asked(monkeypatch):
    """The processes asked for; PyTorch's take three times the CPU seconds."""
    seen = []

    def process(script, *words):
        seen.append((str(script).rpartition("/")[2], words))
        if "torch" in str(script):
            return {"readings": [[2.0, 6.0]], "peak_gib": 5.0}
        facts = {"case": "c", "unit": "step", "parameters_m": 1.0, "state_gib": 1.0, "compile_seconds": 1.0}
        return {"readings": [[1.0, 2.0]], "peak_gib": {OURS: 2.0}, **facts}

    monkeypatch.setattr(bench_step, "own_process", process)
    monkeypatch.setattr(bench_step, "need", lambda *a: None)
    return seen


def test_pytorch_takes_turns(asked, capsys):
    bench_step.main(["--peer", "--autocast", "--batch", "4", "--rounds", "2"])
    scripts = [name for name, _ in asked]
    assert scripts == ["bench_step.py", *["bench_step_torch.py"] * 4, "bench_step.py"]
    assert asked[0][1] == ("--batch", "4", "--rounds", "2") and asked[2][1][-1] == "--autocast"
    assert asked[1][1][:2] == ("--batch", 4)
    line = json.loads(capsys.readouterr().out)
    assert line["ratios"]["PyTorch"] == {"wall": 2.0, "cpu": 3.0} and line["rounds"] == 2
    assert line["peak_gib"] == {OURS: 2.0, "PyTorch": 5.0, "PyTorch, bfloat16 autocast": 5.0}


def test_words_become_a_configuration(monkeypatch, capsys):
    seen = {}

    def measure(config, count, no_views):
        seen.update(config=config, count=count)
        return [Spent(1, 1)], {"peak_gib": {OURS: 1}}

    monkeypatch.setattr(bench_step, "measure", measure)
    words = ["--size", "vit_base", "--local-crops", "2", "--leaf", "loss.token_chunk=64", "--steps", "1"]
    words += ["--leaf", "ibot_head.separate=False", "--leaf", "loss.centering=softmax"]
    bench_step.main(words)
    config = seen["config"]
    assert (config.model.size, config.crops.local_crops, config.loss.token_chunk) == ("vit_base", 2, 64)
    assert config.ibot_head.separate is False and config.loss.centering == "softmax"
    line = json.loads(capsys.readouterr().out)
    assert line["case"].startswith("vit_base, batch 8, 2 x 224 + 2 x 98 px, 65536 prototypes, loss.token_chunk=64, ")
    assert line["sides"][OURS]["cpu_seconds"] == 1


def test_pytorch_s_step_does_the_same_for_any_number_of_crops():
    """Runs, and both of its losses are finite, with and without local crops."""
    torch = pytest.importorskip("torch", reason="pip install '.[bench]'")
    import bench_step_torch

    bench_step_torch.SIZES["tiny"] = (32, 1, 2)
    nets = [bench_step_torch.Network("tiny", 16) for _ in range(2)]
    masked = torch.arange(10)
    for local in (0, 2):
        inputs = torch.randn(4, 3, 28, 28), torch.randn(2 * local, 3, 14, 14), masked % 16
        assert torch.isfinite(bench_step_torch.loss_of(*nets, *inputs))
