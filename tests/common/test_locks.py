"""Locks: one owner, gone with its process."""

import errno
import os
import subprocess
import sys
import threading

import pytest

from histojax.common import locks
from histojax.common.errors import UserError
from histojax.common.locks import owner_of, say_if_without_locks, try_lock, wait_for_lock


def test_one_owner_at_a_time_and_no_file_afterwards(tmp_path):
    path = tmp_path / "slide.lock"
    with try_lock(path) as lock:
        assert lock.known and try_lock(path) is None
        assert owner_of(path).startswith(f"process {os.getpid()} on ")
    assert not path.exists()
    with try_lock(path):
        pass


def test_a_killed_owner_keeps_nothing(tmp_path):
    path = tmp_path / "slide.lock"
    code = (
        "import os, sys; from pathlib import Path; from histojax.common.locks import try_lock; "
        "lock = try_lock(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout.readline().strip() == b"held" and try_lock(path) is None
    child.kill()
    child.wait()
    with try_lock(path) as lock:
        assert lock is not None


def test_a_folder_that_is_missing_is_named(tmp_path):
    with pytest.raises(UserError, match="no-such"):
        try_lock(tmp_path / "no-such" / "slide.lock")


def test_a_lock_is_waited_for(tmp_path):
    first = try_lock(tmp_path / "lock")
    threading.Timer(0.1, first.release).start()
    with wait_for_lock(tmp_path / "lock", 0.01):
        assert try_lock(tmp_path / "lock") is None


def test_storage_without_locks_is_said(tmp_path, monkeypatch, capsys):
    say_if_without_locks(tmp_path)
    assert capsys.readouterr().err == ""

    def unsupported(*_):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(locks.fcntl, "flock", unsupported)
    say_if_without_locks(tmp_path)
    assert "no file locks; give each" in capsys.readouterr().err and not list(tmp_path.iterdir())
