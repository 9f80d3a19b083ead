"""Files of the Hugging Face hub through its own library: its cache, so that nothing is downloaded twice, its login.

$HF_HOME, $HF_HUB_CACHE, $HF_ENDPOINT, $HF_TOKEN and $HF_HUB_OFFLINE mean what they mean everywhere else. An interrupted
transfer is resumed; whether after the end of the program, too, is up to the version of the library.
"""

from __future__ import annotations

import os
import re
import sys
import time
import urllib.parse
from pathlib import Path
from typing import Any

from histojax import __version__
from histojax.common.errors import UserError
from histojax.common.files import file_sha256
from histojax.zoo.record import WeightFile
from histojax.zoo.verified import Check, fault_of, note_sha256, noted_sha256

HUB = "https://huggingface.co"
ATTEMPTS = 4
_LINK = re.compile(r"/((?:datasets/)?[\w.-]+/[\w.-]+)/(?:resolve|blob|raw)/main/(.+)")


def endpoint() -> str:
    """The address of the hub: $HF_ENDPOINT, which names a mirror, else huggingface.co."""
    return (os.environ.get("HF_ENDPOINT") or HUB).rstrip("/")


def address(file: WeightFile) -> str:
    """Where a file of the hub can be downloaded by hand."""
    return f"{endpoint()}/{file.hub}/resolve/main/{file.file}"


def file_at(url: str) -> WeightFile | None:
    """The file of the hub that a link is of (as copied from its pages, or of $HF_ENDPOINT); None for other links."""
    for host in (HUB, endpoint()):
        if url.startswith(f"{host}/") and (found := _LINK.fullmatch(urllib.parse.urlsplit(url[len(host) :]).path)):
            return WeightFile(urllib.parse.unquote(found[2]), hub=found[1])
    return None


def fetch_from_hub(file: WeightFile, place: Path, *, check: Check | None = None, offline: bool = False) -> Path:
    """The local path of a hub's file, in the hub's cache; downloaded unless it is there.

    Args:
        file: its `hub` and `file`, and its `sha256` if that is known.
        place: where a copy that was downloaded by hand can be put, for messages.
        check: of its container, where the hash is not known.
        offline: never ask the hub.

    Raises:
        UserError: no connection, no permission, no such file, another file than the known one.
    """
    # what the cache has is taken without asking, unless it is another version than the known one
    path = _ask(file, local_files_only=True)
    if path is None or (_fault(path, file, check) and not offline):
        path = _download(file, place, offline)
    if fault := _fault(path, file, check):
        where = path.resolve()
        raise UserError(f"{where}: {fault}; the hub may have another version now, or the file is damaged: delete it "
                        f"and run again, or {_by_hand(file, place)}")  # fmt: skip
    return path


def _download(file: WeightFile, place: Path, offline: bool) -> Path:
    """The path of a file that the cache lacks."""
    from huggingface_hub import constants

    if offline or constants.HF_HUB_OFFLINE:
        why = "offline" if offline else "offline (HF_HUB_OFFLINE is set)"
        raise UserError(f"{why}: {_by_hand(file, place).replace(' by hand', ' on another machine')}")
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return Path(_call(file))
        except Exception as error:  # of a broken connection: each version of the library has other classes for it
            if attempt == ATTEMPTS or not _may_pass(error):
                raise UserError(f"{address(file)}: {_said(error, file)}; or {_by_hand(file, place)}") from error
            time.sleep(2.0**attempt)
    raise AssertionError


def _may_pass(error: BaseException) -> bool:
    """Whether asking again may help: a connection that broke, which versions before 2 do not resume by themselves."""
    from huggingface_hub import errors

    answered = isinstance(error, (errors.HfHubHTTPError, errors.EntryNotFoundError, ValueError))
    of_the_disk = isinstance(error, OSError) and error.errno is not None and not isinstance(error, ConnectionError)
    return not (answered or of_the_disk)


def _said(error: BaseException, file: WeightFile) -> str:
    """What is wrong and what to do about it, of an error of the library."""
    from huggingface_hub import errors

    if isinstance(error, errors.LocalEntryNotFoundError):  # what it makes of every failure to ask the hub
        cause = error.__cause__ or error
        if isinstance(cause, errors.HfHubHTTPError):
            return _said(cause, file)
        return f"{endpoint()} cannot be reached ({_first_line(cause)}); check the connection and run again"
    if isinstance(error, errors.GatedRepoError):
        return f"only for accounts that are known: {_log_in(file, 'accept the terms on')}"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"no such repository, or a private one: see {file.home}; {_log_in(file, 'ask for access on')}"
    if isinstance(error, errors.EntryNotFoundError):
        return f"the repository has no such file (any more): see {file.home}"
    if isinstance(error, errors.HfHubHTTPError):
        code = getattr(error.response, "status_code", None)
        return f"HTTP {code}" + (f"; {_log_in(file, 'accept the terms on')}" if code in (401, 403) else "")
    return f"the download failed ({_first_line(error)}); run again"


def _ask(file: WeightFile, **options: Any) -> Path | None:
    """The path of a file if the library has it, None if not."""
    from huggingface_hub import errors

    try:
        return Path(_call(file, **options))
    except errors.LocalEntryNotFoundError:
        return None


def _call(file: WeightFile, **options: Any) -> str:
    from huggingface_hub import hf_hub_download

    kind, repository = (None, file.hub)
    if file.hub.startswith("datasets/"):
        kind, repository = "dataset", file.hub.removeprefix("datasets/")
    host = endpoint()
    return hf_hub_download(
        repository,
        file.file,
        repo_type=kind,
        endpoint=host,
        token=None if host.startswith("https://") else False,  # never in the clear
        library_name="histojax",
        library_version=__version__,
        **options,
    )


def _fault(path: Path, file: WeightFile, check: Check | None) -> str:
    """What is wrong with a file of the hub's cache, "" if nothing is; its hash is computed once."""
    noted = noted_sha256(path)
    digest = noted or file_sha256(path)
    stated = _stated(path)
    if file.sha256 is not None or noted is None:
        name = file.file.rpartition("/")[2]
        fault = fault_of(path, name, digest, file.sha256 or stated, check)
        if not fault and file.sha256 is None:
            fault = fault_of(path, name, digest, None, check)
        if fault:
            return fault
    if noted is None:
        note_sha256(path, digest, apart=True)
        if file.sha256 is None:
            known = "has the SHA-256 that the hub states" if stated else "unverified (no published SHA-256 is known)"
            print(f"{path.name}: {known}; computed {digest}", file=sys.stderr)
    return ""


def _stated(path: Path) -> str | None:
    """The SHA-256 that the hub states of a large file: the cache calls its content so."""
    name = path.resolve().name
    return name if re.fullmatch("[0-9a-f]{64}", name) else None


def _log_in(file: WeightFile, what: str) -> str:
    """What to do about a refusal."""
    from huggingface_hub import get_token

    if not endpoint().startswith("https://"):
        return f"{what} {file.home}, and use an https address as HF_ENDPOINT: a token is not sent in the clear"
    if get_token():
        return f"the token of this account does not do: {what} {file.home} with it, or log in to another one"
    return f"{what} {file.home}, then run `hf auth login` or set HF_TOKEN, and run again"


def _by_hand(file: WeightFile, place: Path) -> str:
    return f"download {address(file)} by hand and put it at {place}, or give the path of your copy"


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
