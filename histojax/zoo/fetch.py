"""Files of weights, downloaded once, checked, and kept in a cache folder.

Which files there are is data of the encoder records (histojax.models); histojax.zoo.published joins the two.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from histojax.common.errors import UserError
from histojax.common.files import expanded, file_sha256

CHUNK = 1 << 20
ATTEMPTS = 4
TIMEOUT_SECONDS = 60
BACKOFF_SECONDS = 1.0  # doubled after each failed attempt
_TRANSIENT = (urllib.error.URLError, ConnectionError, TimeoutError, OSError)


@dataclasses.dataclass(frozen=True)
class Remote:
    """One file to get. `sha256` None: its hash is not known to us, and the download is called unverified."""

    url: str  # http, https or file; "": cannot be downloaded by a program
    file: str  # path in the cache folder
    sha256: str | None = None
    size: int | None = None  # bytes
    page: str = ""  # where people accept terms or find the file
    token: str | None = dataclasses.field(default=None, repr=False)  # sent to the host of `url` only
    # raises UserError unless a file (at a path, of a name) is whole; for those without a known hash
    check: Callable[[Path, str], None] | None = None

    @property
    def name(self) -> str:
        """The file's name without folders."""
        return self.file.rpartition("/")[2]


def fetch(
    url: str,
    file: str,
    *,
    sha256: str | None = None,
    size: int | None = None,
    page: str = "",
    token: str | None = None,
    check: Callable[[Path, str], None] | None = None,
    cache: str | Path | None = None,
    offline: bool = False,
    progress: bool = True,
) -> Path:
    """Return the local path of a file, which is downloaded unless the cache has it.

    The cache never holds anything half-done: bytes go to `<file>.part`, an interrupted transfer is resumed from
    there, and the file gets its name after size and SHA-256 were checked; where the hash is not known, by the one
    that the hub states and by `check`. A file put there by hand is checked too.

    Args:
        url, file, sha256, size, page, token, check: see `Remote`.
        cache: folder; default $HISTOJAX_CACHE, else ~/.cache/histojax.
        offline: refuse to download; the message says what to put where.
        progress: show a bar with the remaining time on stderr.

    Raises:
        UserError: no connection, no permission, a web page instead of weights, wrong hash.
    """
    remote = Remote(url, file, sha256, size, page, token, check)
    target = cache_folder(cache) / file
    if target.is_file() and _is_verified(target, remote):
        return target
    if offline:
        raise UserError(f"offline: {_elsewhere(remote, target)}")
    if not url:
        raise UserError(f"{remote.name} cannot be downloaded by a program: {_by_hand(remote, target)}")
    target.parent.mkdir(parents=True, exist_ok=True)
    with _lock(target):
        if not (target.is_file() and _is_verified(target, remote)):  # another process may have fetched it by now
            _download(remote, target, progress)
    return target


def cache_folder(cache: str | Path | None = None) -> Path:
    """Return the cache folder (it may not exist yet)."""
    if cache is not None:
        return expanded(cache)
    return expanded(os.environ.get("HISTOJAX_CACHE") or Path.home() / ".cache" / "histojax")


def known_sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file: the one noted when it came into the cache, if it is unchanged, else computed."""
    return _noted(Path(path)) or file_sha256(path)


def _noted(path: Path) -> str | None:
    """The hash beside a cached file, if size and time are still those of the file."""
    with contextlib.suppress(OSError, json.JSONDecodeError, AttributeError):
        stat, known = path.stat(), json.loads(_note(path).read_text())
        if known.get("size") == stat.st_size and known.get("mtime_ns") == stat.st_mtime_ns:
            return known.get("sha256")
    return None


def _is_verified(path: Path, remote: Remote) -> bool:
    """Check a cached file once; its hash, size and time are noted beside it."""
    noted = _noted(path)
    digest = noted or file_sha256(path)
    if remote.sha256 not in (None, digest):
        raise UserError(
            f"{path}: SHA-256 is {digest}, expected {remote.sha256}; the file is damaged or another one: delete it "
            "and run again"
        )
    if noted is None:
        if remote.sha256 is None and (fault := _incomplete(path, remote)):
            raise UserError(f"{path}: {fault}; delete it and run again")
        _remember(path, digest)
    return True


def _incomplete(path: Path, remote: Remote) -> str:
    """What is wrong with a file whose hash is not known, "" if nothing is."""
    try:
        if remote.check is not None:
            remote.check(path, remote.name)
    except UserError as error:  # without its path and its advice: both are about a file that has its name
        return str(error).removeprefix(f"{path}: ").partition("; delete")[0]
    return ""


def _note(path: Path) -> Path:
    return path.with_name(path.name + ".sha256.json")


def _remember(path: Path, digest: str) -> None:
    stat, temporary = path.stat(), path.with_name(path.name + ".sha256.tmp")
    temporary.write_text(json.dumps({"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": digest}))
    os.replace(temporary, _note(path))


def _download(remote: Remote, target: Path, progress: bool) -> None:
    part, stated = target.with_name(target.name + ".part"), None
    for attempt in range(1, ATTEMPTS + 1):
        try:
            stated = _transfer(remote, part, progress)
            break
        except urllib.error.HTTPError as error:
            if error.code == 416:  # the part is longer than the file: from another version
                part.unlink(missing_ok=True)
            elif error.code in (401, 403):
                raise UserError(
                    f"{remote.url}: HTTP {error.code} {error.reason}; {_denied(remote)}; or {_by_hand(remote, target)}"
                ) from None
            elif error.code < 500:
                raise UserError(f"{remote.url}: HTTP {error.code} {error.reason}; {_by_hand(remote, target)}") from None
            _retry(remote, target, attempt, error)
        except _TRANSIENT as error:
            if isinstance(getattr(error, "reason", error), FileNotFoundError):  # of a file:// address
                raise UserError(f"{remote.url}: no such file") from None
            _retry(remote, target, attempt, error)
    _accept(remote, part, target, stated)


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


def _elsewhere(remote: Remote, target: Path) -> str:
    return _by_hand(remote, target).replace(" by hand", " on another machine")


def _denied(remote: Remote) -> str:
    """What to do about 401 and 403."""
    terms = f"accept the terms on {remote.page or remote.url}"
    if remote.token:
        return f"the token was refused, or its account has not accepted the terms: {terms}"
    return f"only for accounts that are known: {terms}, set HF_TOKEN to a token of that account and run again"


def _transfer(remote: Remote, part: Path, progress: bool) -> str | None:
    """Append to `part` what is missing; return the SHA-256 that the hub states, None if it states none.

    Raises ConnectionError if the stream ends early.
    """
    have = part.stat().st_size if part.exists() else 0
    tag = _tag(part)
    if have and remote.size is not None and have >= remote.size:
        return None
    headers = {"User-Agent": "histojax", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if tag.exists():
            headers["If-Range"] = tag.read_text()
    request = urllib.request.Request(remote.url, headers=headers)
    if remote.token:
        request.add_unredirected_header("Authorization", f"Bearer {remote.token}")
    redirects = _Redirects(urllib.parse.urlsplit(remote.url).netloc)
    with urllib.request.build_opener(redirects).open(request, timeout=TIMEOUT_SECONDS) as reply:
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
    return redirects.stated


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Keeps the token within a host: hubs send on to storage servers, which must not see it.

    `stated` is the SHA-256 of the file behind the link, which Hugging Face's hub tells when it sends on.
    """

    def __init__(self, host: str):
        self.host = host
        self.stated: str | None = None

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        linked = (headers.get("X-Linked-Etag") or "").strip('"')
        if req.host == self.host and re.fullmatch(r"[0-9a-f]{64}", linked):
            self.stated = linked
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        token = req.unredirected_hdrs.get("Authorization")
        if request is not None and token and (request.type, request.host) == (req.type, req.host):
            request.add_unredirected_header("Authorization", token)
        return request


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


def _accept(remote: Remote, part: Path, target: Path, stated: str | None) -> None:
    """Check the whole part and give it its name; remove it if it is not what was wanted."""
    digest, wanted = file_sha256(part), remote.sha256 or stated
    with open(part, "rb") as file:
        head = file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n")
    fault = ""
    if head.startswith(b"<"):
        fault = "the server sent a web page instead of weights (a login, or a wrong link)"
    elif head.startswith(b"version https://git-lfs"):
        fault = "the server sent a git-lfs pointer instead of weights"
    elif wanted is not None and digest != wanted:
        fault = f"SHA-256 is {digest}, expected {wanted}; the download was removed, run again"
    elif remote.sha256 is None and (broken := _incomplete(part, remote)):
        fault = f"what came is not a whole weight file: {broken}; it was removed, run again"
    _tag(part).unlink(missing_ok=True)
    if fault:
        part.unlink()
        raise UserError(f"{remote.url}: {fault}; or {_by_hand(remote, target)}")
    if remote.sha256 is None:
        known = "has the SHA-256 that its host states" if stated else "unverified (no published SHA-256 is known)"
        print(f"{remote.name}: {known}; computed {digest}", file=sys.stderr)
    os.replace(part, target)
    _remember(target, digest)


@contextlib.contextmanager
def _lock(target: Path) -> Iterator[None]:
    """One download of a file at a time per machine, where the system has file locks."""
    try:
        import fcntl
    except ImportError:  # not on Windows
        yield
        return
    with open(target.with_name(target.name + ".lock"), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
