"""Files that are whole if they exist, and the folders around them."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from histojax.common.errors import UserError

MISSING = (errno.ENOSYS, errno.ENOTSUP, errno.EINVAL)  # how a file system says that it cannot do something at all
BUCKET = "this storage lacks what a disk can do, as a bucket mounted as a folder does"


def expanded(path: str | os.PathLike) -> Path:
    """A path as a person writes it, with ~ and ~user for home folders; every path that comes from outside goes here.

    A shell leaves the ~ of --workdir=~/runs to the program. Raises UserError for a user who has no home folder.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"{path}: no such user has a home folder here; write the path in full") from error


def expanded_name(name: str | os.PathLike) -> str:
    """A name that may be a path, as text: ~ is expanded, an address or the name of an encoder stays as it is."""
    return str(expanded(name)) if str(name).startswith("~") else str(name)


def cache_folder(cache: str | Path | None = None) -> Path:
    """The folder of what can be had again, downloaded files and compiled programs; it may not exist yet.

    That is `cache`, else $HISTOJAX_CACHE, else ~/.cache/histojax.
    """
    if cache is not None:
        return expanded(cache)
    return expanded(os.environ.get("HISTOJAX_CACHE") or Path.home() / ".cache" / "histojax")


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary path beside `path`; leaving the block moves the finished file there, fsynced.

    For writers that want a file of their own (safetensors, matplotlib). After any error, a full disk included,
    `path` is as it was and the temporary file is gone; operating system errors come out as UserError.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        _fsync(temporary)
        os.replace(temporary, path)
        _fsync(path.parent)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({reason(error)}){advice(error)}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_atomic(path: str | os.PathLike, data: bytes | str) -> None:
    """Writes `data` (text as UTF-8) so that `path` holds either the old content or all of the new one.

    A file name in it that is no UTF-8 gets the bytes back that Python read (surrogateescape). Raises UserError if
    it fails (no such folder, no permission, disk full); the old file then stays.
    """
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(data.encode("utf-8", "surrogateescape") if isinstance(data, str) else data)


def read_json(path: Path) -> dict:
    """The JSON object of a file that histojax wrote; UserError if it is none."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); it should be JSON written by histojax") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: holds {type(found).__name__}, expected a JSON object written by histojax")
    return found


def make_folder(path: Path) -> None:
    """Makes a folder and those above it where they are missing; raises UserError where that is not possible."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be made ({reason(error)}){advice(error)}") from error


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if not (path.is_dir() and error.errno in MISSING):  # a bucket mounted as a folder has nothing to flush
            raise
    finally:
        os.close(handle)


def reason(error: OSError) -> str:
    """What went wrong, in the operating system's words."""
    return error.strerror or type(error).__name__


def advice(error: OSError) -> str:
    """What to do about a full disk, no permission or storage that lacks something; "" if we know nothing."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "; make room and run the same command again"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "; choose a folder you may write to"
    if error.errno in MISSING:
        return f"; {BUCKET}: write to a local or shared disk and copy it there afterwards"
    return ""


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
