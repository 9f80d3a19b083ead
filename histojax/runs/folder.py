"""A run's folder: whole files, the config it belongs to, who made it, its metrics. Neither jax nor numpy here.

config.json      the configuration; a run of another one is refused
provenance.json  one entry a start: versions, machine, command line, commit, data fingerprint
metrics.jsonl    one row a look, only numbers that a second run would repeat bit for bit
timing.jsonl     the wall-clock side of the same rows
tensorboard/     both, for TensorBoard
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
import platform
import shutil
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from histojax.common.errors import UserError
from histojax.common.files import BUCKET, MISSING, advice, read_json, reason, write_atomic
from histojax.common.locks import owner_of, try_lock
from histojax.common.versions import commit
from histojax.runs.metrics import METRICS


def disk_free_check(path: str | os.PathLike, need_bytes: int) -> int:
    """Free bytes on the disk that holds `path` (which need not exist yet); UserError if below `need_bytes`.

    Quotas are not visible here: a run can still meet a full disk, and then fails whole.
    """
    place = Path(path).absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < need_bytes:
        raise UserError(
            f"{path}: {free / 1e9:.2f} GB free on its disk, {need_bytes / 1e9:.2f} GB needed; "
            "make room or choose a folder on another disk"
        )
    return free


class RunFolder:
    """The folder `path` of one run, created if missing and held against other processes until `close`.

    Raises UserError if the folder cannot be made or written, or if a living process holds it. The lock belongs to
    the process (flock), so it dies with it: a killed run never blocks the next. On several hosts only the first
    process should own a RunFolder.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = try_lock(self.path / ".lock")
        except (OSError, UserError) as error:
            cause = error if isinstance(error, OSError) else error.__cause__
            why = reason(cause) if isinstance(cause, OSError) else str(error)
            raise UserError(
                f"{self.path}: not a folder that can be written ({why}); choose another --workdir"
            ) from error
        if lock is None:
            owner = owner_of(self.path / ".lock")
            raise UserError(f"{self.path}: {owner} uses this folder; wait for it, stop it or choose another --workdir")
        self._lock = lock
        try:
            _check_storage(self.path)
        except UserError:
            self.close()
            raise
        if not lock.known:
            said = "this storage has no file locks; see to it that no other run uses this folder"
            print(f"{self.path}: {said}", file=sys.stderr)
        self._remove_unfinished()

    def _remove_unfinished(self) -> None:
        """Deletes temporary files that a kill left behind; the lock says nobody is writing one."""
        for leftover in self.path.glob(".*.tmp"):
            with contextlib.suppress(OSError):
                leftover.unlink()

    def close(self) -> None:
        """Lets the next process in; a folder in which nothing came to be goes."""
        empty = False
        with contextlib.suppress(OSError):
            empty = [path.name for path in self.path.iterdir()] == [".lock"]
        self._lock.release(remove=empty)
        if empty:
            with contextlib.suppress(OSError):
                self.path.rmdir()

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def bind(
        self, config: Mapping[str, Any], may_change: Sequence[str] = (), facts: Mapping[str, Any] | None = None
    ) -> bool:
        """Makes the folder that of `config`, with its values of the leaves in `may_change`; else as `check_folder`.

        `facts` are JSON values that a later start of this run has to know; `stored_run` gives them back.
        """
        begun = check_folder(self.path, config, may_change)
        record = {
            "fingerprint": config_fingerprint(config, may_change),
            "config": json.loads(json.dumps(config)),
            "facts": dict(facts or {}),
        }
        write_atomic(self.path / "config.json", json.dumps(record, indent=1, sort_keys=True) + "\n")
        return begun

    def write_provenance(self, step: int, versions: Mapping[str, str], **facts: Any) -> dict:
        """The entry it adds to provenance.json for this start of the run at `step`.

        `versions` are of packages that the caller imported (jax, flax, ...); `facts` is whatever else should be
        known (data fingerprint, devices), as JSON values. Machine, command line, commit and time are added.
        """
        path = self.path / "provenance.json"
        record = read_json(path) if path.exists() else {"starts": []}
        entry = {
            "step": step,
            "start_time": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
            "command": list(sys.argv),
            "versions": {"python": platform.python_version(), **versions},
            "platform": platform.platform(),
            "host": socket.gethostname(),
            "commit": commit(),
            **facts,
        }
        record.setdefault("starts", []).append(entry)
        write_atomic(path, json.dumps(record, indent=1) + "\n")
        return entry


def _check_storage(folder: Path) -> None:
    """Raises UserError, before hours of work, for storage that cannot do what a run needs: rename folders, append."""
    probe, renamed = folder / ".probe.tmp", folder / ".probe-renamed.tmp"
    doing = "make a folder"
    try:
        for leftover in (probe, renamed):
            shutil.rmtree(leftover, ignore_errors=True)
        probe.mkdir()
        doing = "append to a file"
        for letter in (b"a", b"b"):
            handle = os.open(probe / "file", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            try:
                os.write(handle, letter)
                os.fsync(handle)
            finally:
                os.close(handle)
        doing = "rename a folder"
        probe.rename(renamed)
        if (renamed / "file").read_bytes() != b"ab":
            raise OSError(0, "its file is not as it was")
    except OSError as error:
        remedy = "" if error.errno in MISSING else advice(error)
        remedy = remedy or f"; {BUCKET}: put --workdir on a local or shared disk and copy it there afterwards"
        raise UserError(f"{folder}: cannot {doing} there ({reason(error)}){remedy}") from error
    finally:
        for path in (probe, renamed):
            shutil.rmtree(path, ignore_errors=True)


def check_folder(folder: str | os.PathLike, config: Mapping[str, Any], may_change: Sequence[str] = ()) -> bool:
    """Whether `folder`, which need not exist, holds a run of `config` that was begun; no lock, nothing is written.

    `config` is a nested mapping of JSON values (`ConfigDict.to_dict()`; tuples count as lists). A run of a config
    that differs raises UserError with every differing leaf, except for the leaves or groups of leaves named in
    `may_change` ("log", "data.workers").
    """
    stored = stored_run(folder)
    if stored is None:
        return False
    different = config_differences(stored["config"], json.loads(json.dumps(config)))
    fixed = [line for name, line in different.items() if not _named(name, may_change)]
    if fixed:
        raise UserError(
            f"{folder} belongs to another config: {'; '.join(fixed)}. "
            "Give these leaves their old values to resume it, or choose another --workdir"
        )
    return True


def stored_run(folder: str | os.PathLike) -> dict[str, Any] | None:
    """{"config": ..., "facts": ...} of the run that `folder` holds, None if none was begun there; nothing is written.

    Raises UserError for a folder that holds a run of which the config is not known.
    """
    folder = Path(folder)
    if any("\ud800" <= letter <= "\udfff" for letter in str(folder)):
        raise UserError(f"{folder}: the name is not UTF-8, which checkpoints need; choose another --workdir")
    path = folder / "config.json"
    begun = [name for name in (METRICS, "checkpoints") if (folder / name).exists()]
    if not begun:
        return None  # a start that failed before its first step binds nobody
    if not path.exists():
        raise UserError(
            f"{folder}: holds {begun[0]} but no config.json, so the run it belongs to is unknown; "
            "choose another --workdir"
        )
    stored = read_json(path)
    if not isinstance(stored.get("config"), dict):
        raise UserError(f"{path}: has no 'config': not written by histojax; choose another --workdir")
    return {"config": stored["config"], "facts": stored.get("facts") or {}}


def config_fingerprint(config: Mapping[str, Any], without: Sequence[str] = ()) -> str:
    """SHA-256 (hex) of the config's leaves, leaving out the leaves and groups named in `without`."""
    leaves = {k: v for k, v in _leaves(json.loads(json.dumps(config))) if not _named(k, without)}
    return hashlib.sha256(json.dumps(leaves, sort_keys=True).encode()).hexdigest()


def config_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, str]:
    """{dotted leaf: "leaf was X, now Y"} for every leaf that differs, sorted."""
    a, b = dict(_leaves(old)), dict(_leaves(new))
    return {
        name: f"{name} was {_shown(a, name)}, now {_shown(b, name)}"
        for name in sorted({**a, **b})
        if _shown(a, name) != _shown(b, name)
    }


def _shown(leaves: Mapping[str, Any], name: str) -> str:
    return json.dumps(leaves[name]) if name in leaves else "absent"


def _leaves(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _named(name: str, names: Sequence[str]) -> bool:
    return any(name == n or name.startswith(n + ".") for n in names)
