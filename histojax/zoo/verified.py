"""Weight files at hand: the folder where they lie, whether they are whole, and their hashes, computed once."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

from histojax.common.errors import UserError
from histojax.common.files import cache_folder, file_sha256

Check = Callable[[Path, str], None]  # raises UserError unless a file (at a path, of a name) is whole


def known_sha256(path: str | Path) -> str:
    """The SHA-256 of a file: the one noted when it was fetched, if the file is unchanged, else computed."""
    return noted_sha256(Path(path)) or file_sha256(path)


def noted_sha256(path: Path) -> str | None:
    """The SHA-256 that `note_sha256` wrote down, if size and time are still those of the file."""
    for note in (_note_beside(path), _note_apart(path)):
        with contextlib.suppress(OSError, json.JSONDecodeError, AttributeError):
            stat, known = path.stat(), json.loads(note.read_text())
            if known.get("size") == stat.st_size and known.get("mtime_ns") == stat.st_mtime_ns:
                return known.get("sha256")
    return None


def note_sha256(path: Path, digest: str, apart: bool = False) -> None:
    """Writes a file's hash down beside it; with `apart` in our own cache, for files in folders of other programs."""
    note = _note_apart(path) if apart else _note_beside(path)
    note.parent.mkdir(parents=True, exist_ok=True)
    stat, temporary = path.stat(), note.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps({"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": digest}))
    os.replace(temporary, note)


def fault_of(path: Path, name: str, digest: str, sha256: str | None, check: Check | None) -> str:
    """What is wrong with a file, "" if nothing is: another hash than `sha256`, or, where that is not known, not whole.

    Args:
        path: of the file, which may have a temporary name.
        name: its real name.
        digest: its hash.
        sha256: the hash that it should have.
        check: of its container.
    """
    if sha256 is not None:
        return "" if digest == sha256 else f"SHA-256 is {digest}, expected {sha256}"
    try:
        if check is not None:
            check(path, name)
    except UserError as error:  # without its path and its advice: both are about a file that has its name
        return str(error).removeprefix(f"{path}: ").partition("; delete")[0]
    return ""


def accept(path: Path, sha256: str | None, check: Check | None) -> None:
    """Raises UserError unless a file in our cache is the wanted one; its hash is computed once and noted."""
    noted = noted_sha256(path)
    digest = noted or file_sha256(path)
    if (noted is None or sha256 is not None) and (fault := fault_of(path, path.name, digest, sha256, check)):
        which = "the file is damaged or another one: " if sha256 else ""
        raise UserError(f"{path}: {fault}; {which}delete it and run again")
    if noted is None:
        note_sha256(path, digest)


def _note_beside(path: Path) -> Path:
    return path.with_name(path.name + ".sha256.json")


def _note_apart(path: Path) -> Path:
    place = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()
    return cache_folder() / "hashes" / f"{place}.json"
