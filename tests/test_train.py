"""The main job through its real entry point, on a two-block model: finishes, resumes, refuses nonsense."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from histojax import train
from histojax.__main__ import main as histojax
from histojax.__main__ import program
from histojax.data import open_source
from histojax.runs.metrics import read_metrics

TINY = str(Path(__file__).parent / "tiny.py")
LAST = 10


def command(workdir, *changes):
    return [sys.executable, "-m", "histojax.train", "--config", TINY, "--workdir", str(workdir), *changes]


@pytest.fixture(scope="session")
def environment():
    """One device; compiled steps are shared by the processes of these tests, see conftest.py."""
    flags = os.environ["HISTOJAX_TEST_XLA_FLAGS"]
    return dict(os.environ, XLA_FLAGS=flags, JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0")


def finish(env, workdir, *changes, **how):
    return subprocess.run(command(workdir, *changes), env=env, capture_output=True, text=True, timeout=300, **how)


@pytest.fixture(scope="session")
def straight(environment, tmp_path_factory):
    """(folder, output) of an uninterrupted run."""
    workdir = tmp_path_factory.mktemp("straight") / "run"
    done = finish(environment, workdir)
    assert done.returncode == 0, done.stderr
    return workdir, done


def start_and_signal(env, workdir, number, when, *changes, send=os.kill):
    """Starts a run, sends it a signal as soon as `when(workdir)` holds, and returns (exit code, stderr).

    Data workers hold stderr too: this returns when the last of them is gone.
    """
    words = command(workdir, *changes)
    process = subprocess.Popen(words, env=env, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while process.poll() is None and not when(workdir):
        time.sleep(0.002)
    if process.poll() is None:
        send(process.pid, number)
    _, errors = process.communicate(timeout=120)
    return process.returncode, errors


def rows_at_least(count):
    def reached(workdir):
        path = workdir / "metrics.jsonl"
        return path.exists() and path.read_bytes().count(b"\n") >= count

    return reached


def saving(workdir):
    return any(workdir.glob("checkpoints/*tmp*"))


def weights(workdir):
    folder = workdir / "export"
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.safetensors")}


def kept(workdir):
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())


def test_the_best_checkpoint_is_the_first_with_its_score(straight):
    rows = [row for row in read_metrics(straight[0] / "metrics.jsonl") if "rankme" in row and row["step"]]
    best = max(rows, key=lambda row: row["validation/knn_balanced_accuracy"])
    assert kept(straight[0]) == sorted({best["step"], 9, 10})


def test_a_run_leaves_what_it_promises(straight):
    workdir, done = straight
    rows = read_metrics(workdir / "metrics.jsonl")
    assert [row["step"] for row in rows if "loss" in row] == [2, 4, 6, 8, 10]
    assert [row["step"] for row in rows if "test/knn_balanced_accuracy" in row] == [0, 4, 8, 10]
    assert all(np.isfinite(list(row.values())).all() for row in rows)
    assert "histogram/test/knn_balanced_accuracy" in rows[0]
    assert (workdir / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert set(weights(workdir)) == {
        "meta/model.safetensors",
        "timm/model.safetensors",
        "teacher_checkpoint.safetensors",
        "student_checkpoint.safetensors",
    }
    said = ("reported on test", "chosen on validation", "before", "after", "colour histogram")
    for promised in (*said, "curves.png", "safetensors", "--config.data.train="):
        assert promised in done.stdout, promised


def test_the_card_tells_where_the_weights_come_from(straight):
    card = json.loads((straight[0] / "export" / "meta" / "card.json").read_text())
    assert card["steps"] == LAST
    assert card["recipe"]["model"]["size"] == "vit_micro"
    assert len(card["data"]["fingerprint"]) == 64
    assert 0 <= card["before"]["test/knn_balanced_accuracy"] <= 1


def test_killed_and_started_again_is_bit_identical(straight, environment, tmp_path):
    """At a step, while a checkpoint is written, and late: one run survives all three."""
    workdir = tmp_path / "run"
    for when in (rows_at_least(3), saving, rows_at_least(6)):
        code, errors = start_and_signal(environment, workdir, signal.SIGKILL, when)
        assert code == -signal.SIGKILL, errors
    done = finish(environment, workdir)
    assert done.returncode == 0, done.stderr
    assert (workdir / "metrics.jsonl").read_bytes() == (straight[0] / "metrics.jsonl").read_bytes()
    assert weights(workdir) == weights(straight[0])
    assert kept(workdir) == kept(straight[0])


def test_sigterm_to_the_group_saves_and_two_workers_resume_it_to_the_bit(straight, environment, tmp_path):
    """Schedulers signal the data workers as well."""
    workdir, workers = tmp_path / "run", "--config.data.workers=2"
    code, errors = start_and_signal(environment, workdir, signal.SIGTERM, rows_at_least(3), workers, send=os.killpg)
    assert code == 143, errors
    saved = int(re.search(r"saved at step (\d+)", errors)[1])
    assert (workdir / "checkpoints" / str(saved)).is_dir()
    done = finish(environment, workdir)
    assert done.returncode == 0, done.stderr
    assert f"resumed at step {saved}" in done.stderr
    assert (workdir / "metrics.jsonl").read_bytes() == (straight[0] / "metrics.jsonl").read_bytes()
    assert weights(workdir) == weights(straight[0])
    assert kept(workdir) == kept(straight[0])


def test_a_signal_before_the_first_step_ends_the_compilation(environment, tmp_path):
    env = environment | {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    process = subprocess.Popen(command(tmp_path / "run"), env=env, stderr=subprocess.PIPE, text=True)
    lines = iter(process.stderr.readline, "")
    assert any("compiling the training step" in line for line in lines)
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "SIGTERM: nothing to save" in errors and "compiled in" not in errors
    assert os.listdir(tmp_path / "run" / "checkpoints") == []


SIGNALLED = """
import os, signal, sys, time
from histojax import train
from histojax.training import loop

evaluate, after_step = loop.Loop.evaluate, loop.Loop._after_step
evaluation, kill = map(int, sys.argv.pop(1).split(","))

def signalled(self):
    if self.step == evaluation and not self.stop.signal:
        os.kill(os.getpid(), signal.SIGTERM)
        while not self.stop.signal:
            time.sleep(0.01)
    return evaluate(self)

def killed(self):
    after_step(self)
    if self.step == kill:
        os.kill(os.getpid(), signal.SIGKILL)

loop.Loop.evaluate, loop.Loop._after_step = signalled, killed
sys.exit(train.main(sys.argv[1:], as_program=True))
"""


def test_a_signal_during_an_evaluation_puts_it_off(straight, environment, tmp_path):
    """The next start makes it, and a kill before the next checkpoint does not leave it twice in the metrics."""
    workdir = tmp_path / "run"
    words = [sys.executable, "-c", SIGNALLED]

    def start(when):
        arguments = [when, "--config", TINY, "--workdir", str(workdir)]
        return subprocess.run([*words, *arguments], env=environment, capture_output=True, text=True, timeout=300)

    def evaluated():
        return [row["step"] for row in read_metrics(workdir / "metrics.jsonl") if "rankme" in row]

    done = start("4,0")
    assert done.returncode == 143 and "saved at step 4" in done.stderr, done.stderr
    assert evaluated() == [0]
    assert start("0,5").returncode == -signal.SIGKILL
    assert evaluated() == [0, 4]
    done = start("10,0")
    assert done.returncode == 143 and "saved at step 10" in done.stderr, done.stderr
    done = finish(environment, workdir)
    assert done.returncode == 0 and "resumed at step 10" in done.stderr, done.stderr
    assert (workdir / "metrics.jsonl").read_bytes() == (straight[0] / "metrics.jsonl").read_bytes()
    assert weights(workdir) == weights(straight[0])
    assert kept(workdir) == kept(straight[0])


def test_an_incomplete_only_checkpoint_is_no_start(straight, environment, capsys, tmp_path):
    """The weights of the configuration are loaded again; --check says so and removes nothing."""
    workdir, file = tmp_path / "run", straight[0] / "export" / "timm" / "model.safetensors"
    changes = (f"--config.model.weights={file}", "--config.stop_step=3", "--config.mesh.batch_shards=1")
    assert finish(environment, workdir, *changes).returncode == 0
    metrics = (workdir / "metrics.jsonl").read_bytes()
    (workdir / "checkpoints" / "3" / "state" / "_METADATA").unlink()
    assert train.main(["--config", TINY, "--workdir", str(workdir), "--check", *changes]) == 0
    assert f"start       {file}" in capsys.readouterr().out
    assert os.listdir(workdir / "checkpoints") == ["3"]
    done = finish(environment, workdir, *changes)
    assert done.returncode == 0 and "checkpoints/3: no whole checkpoint, moved to " in done.stderr, done.stderr
    assert (workdir / "metrics.jsonl").read_bytes() == metrics
    card = json.loads((workdir / "export" / "meta" / "card.json").read_text())
    assert [source["file"] for source in card["starting_weights"]] == ["model.safetensors"]


def test_two_devices_with_split_state_continue_from_the_exported_training_state(straight, environment, tmp_path):
    """The teacher goes on as the teacher: its first evaluation is the last one of the run before."""
    workdir, exported = tmp_path / "run", straight[0] / "export"
    env = environment | {"XLA_FLAGS": f"{environment['XLA_FLAGS']} --xla_force_host_platform_device_count=2"}
    done = finish(
        env,
        workdir,
        "--config.mesh.batch_shards=1",
        "--config.mesh.fsdp=true",
        "--config.stop_step=3",
        f"--config.model.continue_from={exported}",
    )
    assert done.returncode == 0, done.stderr
    assert "2 x cpu" in done.stdout
    assert_starts_where_it_ended(workdir, straight[0])
    sources = json.loads((workdir / "export" / "meta" / "card.json").read_text())["starting_weights"]
    assert [source["file"] for source in sources] == [
        "student_checkpoint.safetensors",
        "teacher_checkpoint.safetensors",
    ]
    assert all(len(source["sha256"]) == 64 for source in sources)
    assert {source["licence"] for source in sources} == {"none: trained from random parameters"}
    assert json.loads((workdir / "export" / "card.json").read_text())["licences"] == []
    assert json.loads((workdir / "provenance.json").read_text())["starts"][0]["starting_weights"] == sources


def assert_starts_where_it_ended(workdir, before):
    first, last = read_metrics(workdir / "metrics.jsonl")[0], read_metrics(before / "metrics.jsonl")[-1]
    assert first["step"] == 0
    for name in ("validation/knn_balanced_accuracy", "test/ridge_balanced_accuracy", "rankme", "eval_spread"):
        assert first[name] == pytest.approx(last[name], rel=1e-4), name


def test_an_exported_teacher_is_a_start_and_a_few_bad_tiles_are_survived(straight, environment, tmp_path):
    tiles = tmp_path / "tiles"
    tiles.mkdir()
    source = open_source("synthetic:64", tile_px=32, seed=0)
    for i in range(64):
        Image.fromarray(source.read(i)).save(tiles / f"{i:02d}.jpg")
    whole = (tiles / "07.jpg").read_bytes()
    (tiles / "07.jpg").write_bytes(whole[: len(whole) // 3])
    (tiles / os.fsdecode(b"bad\xff.png")).write_bytes(b"broken")  # a name that is no UTF-8
    done = finish(
        environment,
        tmp_path / "run",
        f"--config.data.train={tiles}",
        "--config.eval.data=synthetic:64",
        f"--config.model.weights={straight[0] / 'export' / 'timm' / 'model.safetensors'}",
        "--config.crops.global_px=42",
        "--config.stop_step=8",
    )
    assert done.returncode == 0, done.stderr
    listed = (tmp_path / "run" / "bad_tiles.csv").read_bytes()
    assert b"07.jpg" in listed and b"bad\xff.png" in listed
    assert "2 tiles were replaced" in done.stdout


PRESETS = {  # drop path, softmax centering and the intended blur; what tissue needs; tiny.py is the paper's preset
    "dinov2": {"model.drop_path": 0.3, "loss.centering": "softmax", "crops.blur_p": [1.0, 0.1, 0.5]},
    "pathology": {"loss.kde_weight": 0.05, "loss.koleo_weight": 0.0, "crops.transpose": 0.5, "crops.hue": 0.0},
}


def test_the_start_is_exported_as_it_was_loaded(straight, environment, tmp_path):
    file = straight[0] / "export" / "meta" / "model.safetensors"
    steps, only = "--config.export.steps=0,1", "--config.stop_step=1"
    done = finish(environment, tmp_path / "run", f"--config.model.weights={file}", steps, only)
    assert done.returncode == 0, done.stderr
    start, later = (
        load_file(tmp_path / "run" / "export" / f"step_{step:07d}" / "meta" / "model.safetensors") for step in (0, 1)
    )
    loaded = load_file(file)
    assert start.keys() == loaded.keys() and all(np.array_equal(start[name], loaded[name]) for name in loaded)
    assert any(not np.array_equal(later[name], loaded[name]) for name in loaded)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_runs_from_end_to_end(preset, environment, tmp_path):
    config = f"{Path(TINY).with_name('tiny_preset.py')}:{preset}"
    words = [sys.executable, "-m", "histojax.train", "--config", config, "--workdir", str(tmp_path / "run")]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    recipe = json.loads((tmp_path / "run" / "export" / "meta" / "card.json").read_text())["recipe"]
    for leaf, value in PRESETS[preset].items():
        group, _, name = leaf.partition(".")
        assert recipe[group][name] == value, leaf
    rows = [row for row in read_metrics(tmp_path / "run" / "metrics.jsonl") if "loss" in row]
    losses = [row["loss"] for row in rows]
    assert len(losses) == 4 and np.isfinite(losses).all()
    assert all(("kde" in row) == (preset == "pathology") and ("koleo" in row) == (preset == "dinov2") for row in rows)


def test_weights_of_another_architecture_are_refused(straight, capsys, tmp_path):
    file = straight[0] / "export" / "meta" / "model.safetensors"
    code, line = run(
        capsys,
        *("--config", TINY, "--workdir", str(tmp_path / "run"), "--config.mesh.batch_shards=1"),
        *(f"--config.model.weights={file}", "--config.model.size=vit_mini"),
    )
    assert code == 2
    assert "belongs to another architecture" in line
    assert "model.size" in line


def run(capsys, *argv):
    """(exit code, last line of stderr) of the command in this process."""
    code = train.main(list(argv))
    return code, capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("change", "expected"),
    {
        "--config.optim.base_lrr=1": "not a leaf of the configuration; did you mean --config.optim.base_lr?",
        "--config.optim.base_lr=high": "--config.optim.base_lr=high: expected a number",
        "--config.optim=1": "is a group of leaves",
        "--config.crops.global_px=30": "crops.global_px=30 is not a multiple of model.patch=7 (try 28 or 35)",
        "--config.batch_size=1": "loss.koleo_weight above 0 needs two",
        "--config.model.size=vit_huge": "model.size='vit_huge' is not one of",
        "--config.data.train=nowhere/": "nowhere/: does not exist",
        "--config.data.train=": "data.train is empty",
        "--config.model.weights=nowhere.pth": "nowhere.pth",
        "--config.model.attention=cudnn": "model.attention=cudnn needs an NVIDIA GPU",
        "--wrokdir=x": "wrokdir",
        "stray": "unrecognized arguments: stray",
    }.items(),
)
def test_a_mistake_is_one_line_and_exit_code_2(change, expected, capsys, tmp_path):
    folder = str(tmp_path / "run")
    code, line = run(capsys, "--config", TINY, "--workdir", folder, "--config.mesh.batch_shards=1", change)
    assert code == 2
    assert line.startswith("histojax train: error: ")
    assert expected in line
    assert not (tmp_path / "run").exists()


def test_a_missing_or_broken_config_file_is_named(capsys, tmp_path):
    code, line = run(capsys, "--config", "configs/quikstart.py", "--workdir", "x")
    assert code == 2
    assert "did you mean configs/quickstart.py?" in line or "no such file" in line
    broken = tmp_path / "broken.py"
    broken.write_text("def get_config():\n    return 1 / 0\n")
    code, line = run(capsys, "--config", str(broken), "--workdir", "x")
    assert code == 2
    assert "broken.py:2: ZeroDivisionError" in line


def test_a_call_from_python_neither_restarts_the_process_nor_catches_signals(monkeypatch, tmp_path):
    """A notebook keeps its process and its Ctrl-C; only `program`, the entry points' function, takes them."""
    seen, before = [], signal.getsignal(signal.SIGINT)
    monkeypatch.setattr("os.execv", lambda *words: seen.append("restart"))
    monkeypatch.setattr("histojax.training.run.open_training", lambda config: seen.append(signal.getsignal(2)) or 1 / 0)
    argv = ["--config", TINY, "--workdir", str(tmp_path / "run")]
    for call in (lambda: train.main(argv), lambda: histojax(["train", *argv])):
        with pytest.raises(ZeroDivisionError):
            call()
    assert seen == [before, before]
    monkeypatch.setattr("sys.argv", ["histojax", "train", *argv])
    monkeypatch.setattr("histojax.train.restart_with_huge_pages", lambda: seen.append("restart"))
    with pytest.raises(ZeroDivisionError):
        program()
    assert seen[2] == "restart" and seen[3] != before


def test_a_platform_that_is_not_there_is_one_line(capsys, monkeypatch, tmp_path):
    def devices():
        raise RuntimeError("Unable to initialize backend 'cuda': no driver (you may need to uninstall it)")

    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    monkeypatch.setattr("jax.devices", devices)
    code, line = run(capsys, "--config", TINY, "--workdir", str(tmp_path / "run"))
    assert code == 2
    assert "JAX_PLATFORMS=cuda: no device can be used (Unable to initialize backend 'cuda': no driver)" in line
    assert "nvidia-smi" in line
    assert not (tmp_path / "run").exists()


def test_home_folders_are_known_in_every_path(capsys, monkeypatch, tmp_path):
    """A shell leaves the ~ of --workdir=~/run as it is."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(Path(TINY).read_text())
    Path("tiles").mkdir()
    for name in "ab":
        Image.fromarray(np.random.default_rng(ord(name)).integers(0, 255, (40, 40, 3), np.uint8)).save(
            f"tiles/{name}.png"
        )
    words = ["--config=~/mine.py", "--workdir=~/run", "--config.data.train=~/tiles", "--config.mesh.batch_shards=1"]
    assert train.main([*words, "--check"]) == 0
    assert not Path("~").exists()
    code, line = run(capsys, *words, "--config.model.weights=~/none.pth")
    assert code == 2 and f"{tmp_path}/none.pth: no such file" in line
    code, line = run(capsys, *words[:1], "--workdir=~nobody_here/run")
    assert code == 2 and "~nobody_here/run: no such user has a home folder" in line


def test_a_typo_fails_before_jax_is_imported(tmp_path):
    program = (
        "import sys; from histojax import train; "
        f"code = train.main(['--config', {TINY!r}, '--workdir', {str(tmp_path)!r}, '--config.sed=1']); "
        "sys.exit(code + 10 * ('jax' in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True).returncode == 2


def test_an_empty_folder_is_refused(capsys, tmp_path):
    (tmp_path / "tiles").mkdir()
    code, line = run(
        capsys, "--config", TINY, "--workdir", str(tmp_path / "run"), f"--config.data.train={tmp_path / 'tiles'}"
    )
    assert code == 2
    assert str(tmp_path / "tiles") in line


def test_mostly_unreadable_tiles_are_refused(capsys, tmp_path):
    tiles = tmp_path / "tiles"
    tiles.mkdir()
    for i in range(10):
        Image.fromarray(np.full((32, 32, 3), i, np.uint8)).save(tiles / f"{i}.png")
        if i < 6:
            (tiles / f"{i}.png").write_text("not an image")
    code, line = run(capsys, "--config", TINY, "--workdir", str(tmp_path / "run"), f"--config.data.train={tiles}")
    assert code == 2
    assert "6 of 10 tiles tried are unreadable" in line


@pytest.mark.parametrize("setting", ["data", "test"])
def test_evaluation_tiles_that_are_not_there_are_refused_before_anything_is_made(setting, capsys, tmp_path):
    there, gone = (str(tmp_path / name) for name in ("there.csv", "gone.csv"))
    for i in range(4):
        Image.fromarray(open_source("synthetic:4", tile_px=32).read(i)).save(tmp_path / f"{i}.png")
    Path(there).write_text("file,label\n0.png,a\n1.png,b\n2.png,a\n3.png,b\n")
    Path(gone).write_text("file,label\n" + "".join(f"gone/{i}.png,{'ab'[i % 2]}\n" for i in range(24)))
    sets = {"data": there} | {setting: gone}
    code, line = run(
        capsys,
        *("--config", TINY, "--workdir", str(tmp_path / "run"), "--config.mesh.batch_shards=1"),
        *(f"--config.eval.{name}={path}" for name, path in sets.items()),
    )
    assert code == 2
    assert f"eval.{setting}={gone}: none of its 24 files exists, the first: gone/0.png" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("how", [[], ["--check"]], ids=["run", "check"])
def test_the_folder_of_another_config_is_refused(how, straight, capsys):
    workdir = str(straight[0])
    code, line = run(capsys, "--config", TINY, "--workdir", workdir, "--config.seed=1", *how)
    assert code == 2
    assert "belongs to another config: seed was 0, now 1" in line


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_workdir_is_refused(capsys, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    code, line = run(capsys, "--config", TINY, "--workdir", str(tmp_path / "locked" / "run"))
    assert code == 2
    assert "locked" in line


def test_a_workdir_that_is_a_file_is_refused(capsys, tmp_path):
    (tmp_path / "run").write_text("a file")
    code, line = run(capsys, "--config", TINY, "--workdir", str(tmp_path / "run"))
    assert code == 2
    assert str(tmp_path / "run") in line


def test_check_prints_the_plan_and_writes_nothing(capsys, tmp_path):
    flags = ["--check", "--config.mesh.batch_shards=1", "--config.model.train=lora:2"]
    assert train.main(["--config", TINY, "--workdir", str(tmp_path / "run"), *flags]) == 0
    plan = capsys.readouterr().out
    best = "best        the checkpoint with the highest 5-NN on validation; test is reported, never chosen on"
    evaluation = r"evaluation  every 4 steps on fit \d+ tiles of \d groups, validation \d+ .*, test .*split by patient"
    assert re.search(evaluation, plan), plan
    trained = "trained     lora:2: 4,096 parameters, and the heads"
    for line in ("vit_micro/7", "64 tiles, 9 classes", "10 of 8 images", "2 x 28 px + 2 x 14 px", "GiB", best, trained):
        assert line in plan
    assert not (tmp_path / "run").exists()


def test_helpconfig_shows_every_leaf_with_its_meaning(capsys):
    assert train.main(["--helpconfig"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(re.match(r"--config.batch_size=256 +images a step, over all devices", line) for line in lines)
    assert any(line.startswith("--config.stop_step= ") for line in lines)
    assert not [line for line in lines if len(line.split()) < 2]


def test_the_verbs_of_histojax(capsys):
    assert histojax(["--help"]) == 0
    assert "train" in capsys.readouterr().out
    assert histojax(["trian"]) == 2
    assert "did you mean train?" in capsys.readouterr().err
    assert histojax(["train", "--help"]) == 0
    assert "--workdir" in capsys.readouterr().out
    assert histojax(["--version"]) == 0
