"""Locks between processes and jobs that go with their owner: a killed one never blocks the next."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from histojax.common.errors import UserError
from histojax.common.files import MISSING, advice, reason

WITHOUT_LOCKS = (*MISSING, errno.ENOLCK)  # some mounts of clusters and buckets


class Lock:
    """A lock that is held until `release`, or the end of the process; `known` is False where locks do not exist."""

    def __init__(self, path: Path, handle: int, known: bool = True):
        self.path, self.known, self._handle = path, known, handle

    def release(self, remove: bool = True) -> None:
        """Lets others in; the file goes, too, unless it shall stay."""
        if self._handle < 0:
            return
        if remove:
            with contextlib.suppress(OSError):
                self.path.unlink()
        os.close(self._handle)
        self._handle = -1

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def try_lock(path: Path) -> Lock | None:
    """The lock of that file, made where it is missing; None while another process holds it.

    Where a file system has no locks the caller goes on unguarded (`known` is False). Raises UserError for a folder
    that cannot be written.
    """
    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise UserError(f"{path}: cannot be made ({reason(error)}){advice(error)}") from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return None
        except OSError as error:
            if error.errno in WITHOUT_LOCKS:
                return Lock(path, handle, known=False)
            os.close(handle)
            raise UserError(f"{path}: cannot be locked ({reason(error)})") from error
        if _is_still(path, handle):
            _sign(handle)
            return Lock(path, handle)
        os.close(handle)  # its last owner removed it between our opening and locking it


def say_if_without_locks(folder: Path) -> None:
    """Prints one line on stderr where the storage of a folder of work has no locks: how several jobs share it then.

    Raises UserError as `try_lock`.
    """
    if not has_locks(folder):
        print(
            f"{folder}: this storage has no file locks; give each of several jobs slides of its own (--shard I/N)",
            file=sys.stderr,
        )


def has_locks(folder: Path) -> bool:
    """Whether the storage of a folder has file locks. Raises UserError as `try_lock`."""
    probe = try_lock(folder / f".probe-{socket.gethostname()}-{os.getpid()}.lock")
    if probe is None:
        return True
    probe.release()
    return probe.known


@contextlib.contextmanager
def wait_for_lock(path: Path, look_again_seconds: float = 0.1) -> Iterator[Lock]:
    """Holds the lock of that file within the block, after waiting for its owner. Raises UserError as `try_lock`."""
    while (lock := try_lock(path)) is None:
        time.sleep(look_again_seconds)
    with lock:
        yield lock


def owner_of(path: Path) -> str:
    """Who holds a lock, in words."""
    with contextlib.suppress(OSError):
        return path.read_text(errors="replace")[:200].strip() or "another process"
    return "another process"


def _is_still(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(handle))
    except FileNotFoundError:
        return False


def _sign(handle: int) -> None:
    with contextlib.suppress(OSError):  # only for messages
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
