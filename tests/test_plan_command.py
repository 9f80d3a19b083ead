import json

import pytest

from histojax.__main__ import main
from histojax.parallel import deviceless
from histojax.training import device_report
from histojax.training.device_plan import Compiled

CONFIG = ["--config", "configs/nct_vits14.py"]
GIB = 2**30


def run(capsys, *words):
    code = main(["plan", *words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture(autouse=True)
def quick_reading(monkeypatch):
    monkeypatch.setattr(device_report, "reading_rate", lambda c: device_report.rate_of_stand_in(64, seconds=0.01))


@pytest.fixture
def compiler(monkeypatch):
    """Stands for XLA: 5 GiB, and 0.1 GiB an image; tells the batches that were compiled."""
    batches = []

    def compiled(batch):
        batches.append(batch)
        return Compiled(batch, 1.0, {"student": GIB, "optimiser": 2 * GIB}, int((5 + batch / 10) * GIB))

    monkeypatch.setattr(device_report, "missing", lambda platform: None)
    monkeypatch.setattr(deviceless, "missing", lambda platform: None)
    monkeypatch.setattr(device_report, "compile_step", lambda config, device, count: compiled(config.batch_size))
    monkeypatch.setattr(device_report, "compile_batch", lambda config, device, count, batch: compiled(batch))
    return batches


def rows(out):
    return dict(line.split(maxsplit=1) for line in out.splitlines() if line)


def test_a_plan_says_what_a_run_takes(compiler, capsys):
    code, out, err = run(capsys, *CONFIG, "--device", "a100-80gb")
    told = rows(out)
    assert code == 0 and err.count("compiling the step") == len(compiler) <= 5
    assert list(told) == "device fits memory largest operations time host disk".split()
    assert told["fits"].startswith("yes: 30.6 GiB of 79.3 GiB (39 %) a device; XLA's plan (jax ")
    assert "student 1.0 GiB, optimiser 2.0 GiB; activations and the rest of a step 27.6 GiB" in told["memory"]
    assert told["largest"].startswith("batch 672 fits 73.0 GiB (compiled 256: 30.6 GiB")
    assert told["operations"].startswith("44.7 TFLOP a step, 0.175 an image: teacher 14 %")
    assert told["time"].startswith("0:13:39 for 2000 steps") and "625 images/s" in told["time"]


def test_what_does_not_fit_or_only_just_is_said(compiler, capsys):
    code, out, _ = run(capsys, *CONFIG, "--device", "l4,a100-40gb", "--quick", "--utilisation=0.5")
    first, second = map(rows, out.strip().split("\n\n"))
    assert code == 3 and first["fits"].startswith("NO: 30.6 GiB of 22.0 GiB") and "largest" not in first
    assert first["fits"].endswith(
        "accumulate higher (the same batch, in more parts), model.remat=block, or batch_size lower"
    )
    assert second["fits"].startswith("yes: 30.6 GiB of 39.4") and compiler == [256, 256]


def test_a_plan_for_programs(compiler, capsys):
    code, out, _ = run(capsys, *CONFIG, "--device", "8xa100-80gb", "--quick", "--json")
    told = json.loads(out)
    assert code == 0 and told["fits"] and told["devices"] == 8 and told["peak_bytes"] == int(30.6 * GIB)
    assert told["hours"] == pytest.approx(0.221 / 8, rel=0.01) and told["flops"]["model"] < told["flops"]["total"]


def test_without_the_plugin_the_rest_is_planned_and_the_line_that_brings_it_is_said(monkeypatch, capsys):
    monkeypatch.setitem(deviceless.PLUGINS, "tpu", ("no.such.module", "tpu"))
    code, out, err = run(capsys, *CONFIG, "--device", "v5e-8")
    assert code == 2 and 'pip install "histojax[tpu]"' in err and len(err.splitlines()) == 1
    assert rows(out)["fits"].startswith("not known") and "2000 steps" in rows(out)["time"]


@pytest.mark.parametrize(
    "words, said",
    [
        (CONFIG, "--device NAME is missing"),
        (["--device", "l4"], "--config FILE is missing"),
        ([*CONFIG, "--device", "a1000"], "no such device; known are a100-80gb"),
        ([*CONFIG, "--device", "l4", "--utilisation", "1.5"], "--utilisation: expected a number"),
        ([*CONFIG, "--device", "v5e-8", "--config.batch_size=12"], "batch_size=12 is not a multiple of"),
        (
            [*CONFIG, "--device", "8xl4", "--config.mesh.fsdp=true", "--config.mesh.fsdp_devices=3"],
            "mesh.fsdp_devices=3 does not divide the 8 devices evenly; give a divisor, or 0 for all",
        ),
    ],
)
def test_a_mistake_is_one_line(words, said, capsys):
    code, out, err = run(capsys, *words)
    assert code == 2 and not out and said in err and len(err.splitlines()) == 1


def test_help(capsys):
    code, out, _ = run(capsys, "--help")
    assert code == 0 and out.startswith("histojax plan:") and max(map(len, out.splitlines())) <= 120
