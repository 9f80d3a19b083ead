"""A run by four, two and one real processes on loopback: told to leave, killed, gone on with, and the same curve."""

import os
import signal
import time

import many_processes
import pytest
from many_processes import difference, ends, finish, free_port, kill_when, log_of, start
from PIL import Image

from histojax.data import open_source

FLAGS = [
    f"--config.{name}={value}"
    for name, value in {
        "mesh.batch_shards": 1,
        "crops.local_crops": 0,
        "crops.solarize_p": 0.0,
        "stop_step": 9,
        "optim.base_lr": 1e-3,
        "log.every": 1,
        "log.tensorboard": False,
        "eval.every": 100,
        "eval.max_tiles": 12,
        "eval.batch_size": 6,
        "checkpoint.every": 1,
        "export.layouts": "('meta',)",
    }.items()
]


@pytest.fixture
def environment():
    """Programs compiled quickly, see conftest.py."""
    return dict(os.environ, XLA_FLAGS=os.environ["HISTOJAX_TEST_XLA_FLAGS"])


@pytest.fixture
def tiles(tmp_path):
    """A folder of 40 tiles without labels, two of them broken."""
    folder = tmp_path / "tiles"
    folder.mkdir()
    source = open_source("synthetic:40", tile_px=32)
    for i in range(40):
        Image.fromarray(source.read(i)).save(folder / f"{i:02d}.png")
    for i in (11, 30):
        (folder / f"{i:02d}.png").write_bytes(b"broken")
    return folder


def logs(workdir, count):
    return [log_of(workdir, index).read_text() for index in range(count)]


def rows_at_least(workdir, count):
    return lambda: len(many_processes._rows(workdir)) >= count


def test_four_leave_on_a_signal_two_lose_one_and_one_ends_on_the_curve(environment, tiles, tmp_path):
    flags, straight, workdir = [*FLAGS, f"--config.data.train={tiles}"], tmp_path / "straight", tmp_path / "run"
    finish(start(straight, 1, 1, flags, environment), 120)

    four = start(workdir, 4, 1, flags, environment)
    while not rows_at_least(workdir, 2)() and four[2].poll() is None:
        time.sleep(0.01)
    four[2].send_signal(signal.SIGTERM)  # to one of them
    assert ends(four, 60) == [143] * 4, logs(workdir, 4)
    assert "saved at step" in logs(workdir, 1)[0]
    assert "4 x cpu" in logs(workdir, 1)[0]

    two = start(workdir, 2, 1, flags, environment)
    reached = len(many_processes._rows(workdir)) + 2
    codes, seconds = kill_when(two, 1, rows_at_least(workdir, reached))
    assert codes == [4, -signal.SIGKILL] and seconds < 30, logs(workdir, 2)
    assert "process 1 of 2 on" in logs(workdir, 1)[0] and "died; this process ends, too" in logs(workdir, 1)[0]
    assert "resumed at step" in logs(workdir, 1)[0] and "resumed" not in logs(workdir, 2)[1]

    finish(start(workdir, 1, 1, flags, environment), 120)
    loss, norm = difference(many_processes._rows(straight), many_processes._rows(workdir))
    assert loss < 1e-5 and norm < 1e-4
    listed = [sorted((path / "bad_tiles.csv").read_text().splitlines()) for path in (straight, workdir)]
    assert listed[0] == listed[1] and len(listed[0]) == 3
    assert (workdir / "export" / "student_checkpoint.safetensors").exists()


def test_a_process_that_cannot_start_ends_the_others_with_its_words(environment, tmp_path):
    """They would wait for it for minutes."""
    port, found = free_port(), []
    for index, more in enumerate(([], ["--config.sed=1"])):
        mine = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": str(index)}
        found += start(tmp_path / f"run{index}", 1, 1, more, environment | mine)
    assert ends(found, 60) == [2, 2]
    said = log_of(tmp_path / "run0", 0).read_text()
    assert "process 1 of 2 on" in said and "--config.sed is not a leaf of the configuration" in said
