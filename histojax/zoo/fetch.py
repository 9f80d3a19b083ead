"""Files of plain addresses, downloaded once, checked, and kept. Those of the Hugging Face hub: histojax.zoo.hub."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from histojax.common.errors import UserError
from histojax.common.files import file_sha256
from histojax.common.locks import WITHOUT_LOCKS
from histojax.zoo.verified import Check, accept, fault_of, note_sha256

CHUNK = 1 << 20
ATTEMPTS = 4
TIMEOUT_SECONDS = 60
BACKOFF_SECONDS = 1.0  # doubled after each failed attempt
_TRANSIENT = (urllib.error.URLError, ConnectionError, TimeoutError, OSError)


@dataclasses.dataclass(frozen=True)
class Remote:
    """One file to get. `sha256` None: its hash is not known to us, and the download is called unverified."""

    url: str  # http, https or file; "": cannot be downloaded by a program
    name: str
    sha256: str | None = None
    size: int | None = None  # bytes
    page: str = ""  # where people accept terms or find the file
    check: Check | None = None  # of the container, for files without a known hash


def fetch_url(
    url: str,
    target: Path,
    *,
    sha256: str | None = None,
    size: int | None = None,
    page: str = "",
    check: Check | None = None,
    offline: bool = False,
    progress: bool = True,
) -> Path:
    """The path `target`, where the file of an address lies now; it is downloaded unless it is there.

    Nothing half-done has that name: bytes go to `<target>.part`, an interrupted transfer is resumed from there, and
    the file gets its name after size and SHA-256 were checked; where the hash is not known, by `check`. A file put
    there by hand is checked too.

    Args:
        url, sha256, size, page, check: see `Remote`.
        target: the file to be.
        offline: refuse to download; the message says what to put where.
        progress: show a bar with the remaining time on stderr.

    Raises:
        UserError: no connection, no permission, a web page instead of weights, wrong hash.
    """
    remote = Remote(url, target.name, sha256, size, page, check)
    if not target.is_file():
        if offline:
            raise UserError(f"offline: {_by_hand(remote, target).replace(' by hand', ' on another machine')}")
        if not url:
            raise UserError(f"{remote.name} cannot be downloaded by a program: {_by_hand(remote, target)}")
        target.parent.mkdir(parents=True, exist_ok=True)
        with _lock(target):
            if not target.is_file():  # another process may have fetched it by now
                _download(remote, target, progress)
    accept(target, sha256, check)
    return target


def _download(remote: Remote, target: Path, progress: bool) -> None:
    part = target.with_name(target.name + ".part")
    for attempt in range(1, ATTEMPTS + 1):
        try:
            _transfer(remote, part, progress)
            break
        except urllib.error.HTTPError as error:
            if error.code == 416:  # the part is longer than the file: from another version
                part.unlink(missing_ok=True)
            elif error.code < 500:
                terms = f"; accept the terms on {remote.page or remote.url}" if error.code in (401, 403) else ""
                said = f"{remote.url}: HTTP {error.code} {error.reason}{terms}"
                raise UserError(f"{said}; {_by_hand(remote, target)}") from None
            _retry(remote, target, attempt, error)
        except _TRANSIENT as error:
            if isinstance(getattr(error, "reason", error), FileNotFoundError):  # of a file:// address
                raise UserError(f"{remote.url}: no such file") from None
            _retry(remote, target, attempt, error)
    _finish(remote, part, target)


def _retry(remote: Remote, target: Path, attempt: int, error: Exception) -> None:
    if attempt == ATTEMPTS:
        raise UserError(
            f"{remote.url}: the download failed {ATTEMPTS} times ({error}); run again to resume, or "
            f"{_by_hand(remote, target)}"
        ) from None
    time.sleep(BACKOFF_SECONDS * 2 ** (attempt - 1))


def _by_hand(remote: Remote, target: Path) -> str:
    what = f"download {remote.url}" if remote.url else f"get {remote.name} from {remote.page}"
    return f"{what} by hand and put it at {target}, or give the path of your copy"


def _transfer(remote: Remote, part: Path, progress: bool) -> None:
    """Appends to `part` what is missing; raises ConnectionError if the stream ends early."""
    have = part.stat().st_size if part.exists() else 0
    tag = _tag(part)
    if have and remote.size is not None and have >= remote.size:
        return
    headers = {"User-Agent": "histojax", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if tag.exists():
            headers["If-Range"] = tag.read_text()
    request = urllib.request.Request(remote.url, headers=headers)
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as reply:
        if have and not _continues(reply, have):
            have = 0
        length = reply.headers.get("Content-Length")
        total = have + int(length) if length and length.isdigit() else remote.size
        version = reply.headers.get("ETag") or reply.headers.get("Last-Modified") or ""
        if version and not version.startswith("W/"):  # a weak tag is no proof
            tag.write_text(version)
        _copy(reply, part, have, total, remote, progress)
    if total is not None and part.stat().st_size < total:
        raise ConnectionError(f"connection closed after {part.stat().st_size} of {total} bytes")


def _tag(part: Path) -> Path:
    """Return the file that says which version of the remote file the part belongs to."""
    return part.with_name(part.name + ".tag")


def _continues(reply: Any, have: int) -> bool:
    """Whether the server sends the rest (206 from `have` on) rather than the whole file."""
    return getattr(reply, "status", 200) == 206 and reply.headers.get("Content-Range", "").startswith(f"bytes {have}-")


def _copy(reply: Any, part: Path, have: int, total: int | None, remote: Remote, progress: bool) -> None:
    bar = tqdm(
        total=total,
        initial=have,
        desc=remote.name,
        unit="B",
        unit_scale=True,
        file=sys.stderr,
        disable=not progress,
    )
    with bar, open(part, "ab" if have else "wb") as file:
        while chunk := reply.read(CHUNK):
            file.write(chunk)
            bar.update(len(chunk))
        file.flush()
        os.fsync(file.fileno())


def _finish(remote: Remote, part: Path, target: Path) -> None:
    """Checks the whole part and gives it its name; removes it if it is not what was wanted."""
    digest = file_sha256(part)
    with open(part, "rb") as file:
        head = file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n")
    fault = ""
    if head.startswith(b"<"):
        fault = "the server sent a web page instead of weights (a login, or a wrong link)"
    elif head.startswith(b"version https://git-lfs"):
        fault = "the server sent a git-lfs pointer instead of weights"
    elif broken := fault_of(part, remote.name, digest, remote.sha256, remote.check):
        fault = f"what came is not a whole weight file: {broken}; it was removed, run again"
        if remote.sha256 is not None:
            fault = f"{broken}; the download was removed, run again"
    _tag(part).unlink(missing_ok=True)
    if fault:
        part.unlink()
        raise UserError(f"{remote.url}: {fault}; or {_by_hand(remote, target)}")
    if remote.sha256 is None:
        print(
            f"{remote.name}: unverified (no published SHA-256 is known); computed {digest}",
            file=sys.stderr,
        )
    os.replace(part, target)
    note_sha256(target, digest)


@contextlib.contextmanager
def _lock(target: Path) -> Iterator[None]:
    """One download of a file at a time per machine, where the system has file locks."""
    try:
        import fcntl
    except ImportError:  # not on Windows
        yield
        return
    with open(target.with_name(target.name + ".lock"), "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in WITHOUT_LOCKS:
                raise
        yield
