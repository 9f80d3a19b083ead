import errno
import json
import os
import resource
import signal
import subprocess
import sys
import time

import pytest

from histojax.common import locks
from histojax.common.errors import UserError
from histojax.common.files import replacing, write_atomic
from histojax.runs import folder as run_folder
from histojax.runs.folder import RunFolder
from histojax.runs.metrics import MetricWriter, read_metrics

CONFIG = {"seed": 0, "optim": {"lr": 1e-4, "betas": (0.9, 0.999)}, "log": {"every": 10}, "data": {"workers": 2}}


def full_disk(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_run_needs_neither_jax_nor_numpy():
    imports = "import sys, histojax.runs.folder, histojax.runs.metrics, histojax.common.progress"
    program = f"{imports}; sys.exit(bool({{'jax', 'numpy'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


@pytest.mark.parametrize(
    ("data", "stored"),
    [(b"\x00\xff", b"\x00\xff"), ("µm\n", "µm\n".encode()), (os.fsdecode(b"\xff.png"), b"\xff.png")],
)
def test_write_atomic_replaces_and_leaves_nothing_else(tmp_path, data, stored):
    path = tmp_path / "file"
    path.write_text("old and longer than the new content")
    write_atomic(path, data)
    assert path.read_bytes() == stored
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch, call):
    path = tmp_path / "file"
    path.write_text("old")
    monkeypatch.setattr(os, call, full_disk)
    with pytest.raises(UserError, match=r"file: cannot be written \(No space left on device\); make room"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_a_real_short_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(UserError, match="File too large"):
            write_atomic(path, b"x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_an_error_of_the_writer_passes_and_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(KeyError), replacing(path) as temporary:
        temporary.write_text("half")
        raise KeyError("a bug")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_write_into_a_missing_folder_names_the_file(tmp_path):
    with pytest.raises(UserError, match=r"missing/file: cannot be written \(No such file or directory\)"):
        write_atomic(tmp_path / "missing" / "file", "x")


def test_disk_free_check(tmp_path):
    assert run_folder.disk_free_check(tmp_path / "not" / "yet", 1) > 0
    with pytest.raises(UserError, match=r"not/yet: .* GB free on its disk, 1000000000.00 GB needed"):
        run_folder.disk_free_check(tmp_path / "not" / "yet", 10**18)


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(UserError, match="not a folder that can be written"):
            RunFolder(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    for path in (tmp_path / "locked", tmp_path / "locked" / "run"):
        with pytest.raises(UserError, match="Permission denied"):
            RunFolder(path)


def test_permission_errors_are_worded(tmp_path, monkeypatch):
    def denied(*_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(UserError, match=r"run: not a folder that can be written \(Permission denied\)"):
        RunFolder(tmp_path / "run")


def test_the_lock_keeps_a_second_run_out_and_dies_with_its_process(tmp_path):
    program = (
        "import sys, time; from histojax.runs.folder import RunFolder; "
        "folder = RunFolder(sys.argv[1]); print('held', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE)
    try:
        other.stdout.readline()
        with pytest.raises(UserError, match=f"process {other.pid} on .* uses this folder"):
            RunFolder(tmp_path)
        other.send_signal(signal.SIGKILL)
        other.wait()
        with RunFolder(tmp_path) as mine:
            assert f"process {os.getpid()} " in (tmp_path / ".lock").read_text()
            with pytest.raises(UserError, match="uses this folder"):
                RunFolder(tmp_path)
        mine.close()
        RunFolder(tmp_path).close()
    finally:
        other.kill()
        other.stdout.close()
        other.wait()


def test_a_file_system_without_locks_still_works_and_says_so(tmp_path, monkeypatch, capsys):
    def unsupported(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(locks.fcntl, "flock", unsupported)
    RunFolder(tmp_path).close()
    assert "no file locks" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("call", "number", "expected"),
    [
        ("rename", errno.ENOTSUP, "cannot rename a folder there .*as a bucket.*local or shared disk and copy"),
        ("rename", errno.EPERM, "cannot rename a folder there .*choose a folder you may write to"),
        ("write", errno.ENOSPC, "cannot append to a file there .*; make room"),
    ],
)
def test_storage_that_lacks_something_is_refused_before_the_work(tmp_path, monkeypatch, call, number, expected):
    """As a mounted bucket; nothing of the attempt stays."""

    def refused(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, refused)
    with pytest.raises(UserError, match=f"run: {expected}"):
        RunFolder(tmp_path / "run")
    monkeypatch.undo()
    assert not (tmp_path / "run").exists()


def test_temporary_files_of_a_killed_run_are_removed(tmp_path):
    (tmp_path / ".config.json.123.tmp").write_text("half")
    (tmp_path / "notes.tmp").write_text("not ours")
    with RunFolder(tmp_path):
        assert names(tmp_path) == [".lock", "notes.tmp"]


def begin(folder):
    (folder.path / "metrics.jsonl").write_text("")


def test_a_start_that_failed_before_its_first_step_binds_nobody(tmp_path):
    with RunFolder(tmp_path) as folder:
        folder.bind(CONFIG)
        assert run_folder.check_folder(folder.path, {**CONFIG, "seed": 1}) is False
        assert folder.bind({**CONFIG, "seed": 1}) is False
    assert json.loads((tmp_path / "config.json").read_text())["config"]["seed"] == 1


def test_a_folder_in_which_nothing_came_to_be_goes(tmp_path):
    with RunFolder(tmp_path / "run") as folder:
        run_folder.check_folder(folder.path, CONFIG)
    assert not (tmp_path / "run").exists()
    with RunFolder(tmp_path / "run") as folder:
        folder.bind(CONFIG)
    assert names(tmp_path / "run") == [".lock", "config.json"]


def test_bind_is_a_resume_for_the_same_config_only(tmp_path):
    with RunFolder(tmp_path / "a" / "run") as folder:
        assert folder.bind(CONFIG) is False
        begin(folder)
        assert folder.bind(json.loads(json.dumps(CONFIG))) is True
        changed = {**CONFIG, "seed": 1, "optim": {"lr": 2e-4, "betas": (0.9, 0.999)}, "extra": None}
        with pytest.raises(UserError) as error:
            run_folder.check_folder(folder.path, changed)
        for leaf in ("seed was 0, now 1", "optim.lr was 0.0001, now 0.0002", "extra was absent, now null"):
            assert leaf in str(error.value)
        assert "betas" not in str(error.value)


def test_a_folder_is_compared_without_taking_it(tmp_path):
    assert run_folder.check_folder(tmp_path / "none", CONFIG) is False
    with RunFolder(tmp_path / "run") as folder:
        folder.bind(CONFIG)
        begin(folder)
        assert run_folder.check_folder(tmp_path / "run", CONFIG) is True
        with pytest.raises(UserError, match="run belongs to another config: seed was 0, now 1"):
            run_folder.check_folder(tmp_path / "run", {**CONFIG, "seed": 1})
    assert names(tmp_path) == ["run"]


def test_a_folder_whose_name_is_not_utf8_is_refused(tmp_path):
    with pytest.raises(UserError, match="the name is not UTF-8"):
        run_folder.check_folder(tmp_path / os.fsdecode(b"run\xff"), CONFIG)


def test_bind_lets_named_leaves_and_groups_change(tmp_path):
    may_change = ("log", "data.workers")
    with RunFolder(tmp_path) as folder:
        folder.bind(CONFIG, may_change)
        begin(folder)
        before = json.loads((tmp_path / "config.json").read_text())
        changed = {**CONFIG, "log": {"every": 1}, "data": {"workers": 0}}
        assert folder.bind(changed, may_change) is True
        after = json.loads((tmp_path / "config.json").read_text())
        assert after["config"]["log"]["every"] == 1
        assert after["fingerprint"] == before["fingerprint"]
        with pytest.raises(UserError, match=r"config: log.every was 1, now 10\. "):
            folder.bind(CONFIG, ("data.workers",))
        assert json.loads((tmp_path / "config.json").read_text()) == after


def test_the_fingerprint_sees_every_other_leaf():
    base = run_folder.config_fingerprint(CONFIG, ["log"])
    assert base == run_folder.config_fingerprint({**CONFIG, "log": {"every": 3}}, ["log"])
    assert base != run_folder.config_fingerprint({**CONFIG, "seed": 1}, ["log"])
    assert base != run_folder.config_fingerprint(CONFIG)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"config": 3}'])
def test_a_broken_config_json_is_named(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    (tmp_path / "metrics.jsonl").write_text("")
    with RunFolder(tmp_path) as folder, pytest.raises(UserError, match=r"config\.json: "):
        folder.bind(CONFIG)


def test_metrics_without_a_config_are_not_taken_over(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("")
    with (
        RunFolder(tmp_path) as folder,
        pytest.raises(UserError, match=r"holds metrics\.jsonl but no config\.json"),
    ):
        folder.bind(CONFIG)


def test_provenance_keeps_every_start(tmp_path):
    with RunFolder(tmp_path) as folder:
        folder.write_provenance(0, {"jax": "1.2.3"}, data="abc")
        entry = folder.write_provenance(500, {"jax": "1.2.4"}, data="abc")
    starts = json.loads((tmp_path / "provenance.json").read_text())["starts"]
    assert [start["step"] for start in starts] == [0, 500]
    assert starts[1] == entry
    assert starts[0]["versions"]["jax"] == "1.2.3"
    assert starts[0]["versions"]["python"] == sys.version.split()[0]
    assert starts[0]["command"] == sys.argv
    assert {"platform", "host", "commit", "start_time", "data"} <= set(entry)


def test_commit_is_a_hash_or_nothing():
    found = run_folder.commit()
    assert found is None or len(found.removesuffix("+changes")) == 40


def write_steps(folder, resumed, steps):
    writer = MetricWriter(folder, resumed, tensorboard=False)
    for step in steps:
        writer.write(step, {"loss": 1 / (step + 1), "koleo": float("inf") if step == 4 else 0.1})
        writer.write_timing(step, {"seconds": time.monotonic()})
        if step == 4:
            writer.write(step, {"rankme": 3.5})
    writer.sync()
    writer.close()


@pytest.mark.parametrize("torn", ["", '{"step": 9, "lo'])
def test_a_resumed_file_is_that_of_the_straight_run(tmp_path, torn):
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    for folder in (straight, resumed):
        folder.mkdir()
    write_steps(straight, None, range(0, 12, 2))
    write_steps(resumed, None, range(0, 10, 2))
    with open(resumed / "metrics.jsonl", "a") as file:
        file.write(torn)
    write_steps(resumed, 4, range(6, 12, 2))
    assert (resumed / "metrics.jsonl").read_bytes() == (straight / "metrics.jsonl").read_bytes()
    assert [row["step"] for row in read_metrics(resumed / "timing.jsonl")] == list(range(0, 12, 2))


def test_rows_of_the_resumed_step_that_came_after_the_save_go(tmp_path):
    writer = MetricWriter(tmp_path, None, tensorboard=False)
    writer.write(4, {"loss": 1.0})
    size = writer.sync()
    writer.write(4, {"rankme": 3.5})
    writer.close()
    assert size == (tmp_path / "metrics.jsonl").read_bytes().index(b"\n") + 1
    MetricWriter(tmp_path, 4, False, size).close()
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 4, "loss": 1.0}]


def test_a_new_start_empties_the_files(tmp_path):
    write_steps(tmp_path, None, [0, 2])
    write_steps(tmp_path, None, [0])
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [0]


def test_rows_are_on_disk_at_once_and_strict_json(tmp_path):
    writer = MetricWriter(tmp_path, None, tensorboard=False)
    writer.write(3, {"loss": float("nan"), "koleo": float("-inf"), "tiles": 7})
    line = (tmp_path / "metrics.jsonl").read_text()
    writer.close()
    assert json.loads(line, parse_constant=pytest.fail) == {"step": 3, "loss": "nan", "koleo": "-inf", "tiles": 7}
    (row,) = read_metrics(tmp_path / "metrics.jsonl")
    assert row["loss"] != row["loss"] and row["koleo"] == float("-inf") and row["step"] == 3


def test_read_metrics_skips_a_torn_end_and_names_a_broken_middle(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "a": 2.0}\n{"step": 2')
    assert read_metrics(path) == [{"step": 1, "a": 2.0}]
    path.write_text('{"step": 1}\nwhat\n{"step": 2}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl: line 2 is not a row of metrics"):
        read_metrics(path)
    with pytest.raises(UserError, match="line 2 is not a row"):
        MetricWriter(tmp_path, 2, tensorboard=False)
    with pytest.raises(UserError, match="cannot be read"):
        read_metrics(tmp_path / "none.jsonl")


def test_metrics_on_a_full_disk(tmp_path, monkeypatch):
    writer = MetricWriter(tmp_path, None, tensorboard=False)
    writer.write(1, {"loss": 1.0})
    monkeypatch.setattr(os, "write", full_disk)
    with pytest.raises(UserError, match=r"metrics\.jsonl: cannot be written \(No space left on device\)"):
        writer.write(2, {"loss": 1.0})
    writer.close()
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 1


def test_tensorboard_holds_the_same_scalars(tmp_path):
    writer = MetricWriter(tmp_path, None, tensorboard=True)
    writer.write(5, {"loss": 2.0})
    writer.write_timing(5, {"images_per_second": 3.0})
    writer.sync()
    writer.close()
    (file,) = (tmp_path / "tensorboard").iterdir()
    content = file.read_bytes()
    assert b"loss" in content and b"timing/images_per_second" in content


def test_tensorboard_missing_is_worded(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(UserError, match=r"log\.tensorboard=False"):
        MetricWriter(tmp_path, None, tensorboard=True)
    MetricWriter(tmp_path, None, tensorboard=False).close()
