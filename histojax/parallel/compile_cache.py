"""Compiled programs are kept: the next start reads them, where the first one took seconds to minutes to compile.

They lie in our cache folder, below `compiled`, apart for each version of jax and, for CPUs, each kind of processor.
jax's own switches stay what they are: JAX_ENABLE_COMPILATION_CACHE=false keeps nothing, JAX_COMPILATION_CACHE_DIR names
another folder (a bucket, too), which we then leave alone.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import platform
import stat
import sys
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import jax

from histojax.common.files import advice, cache_folder, reason

LIMIT = 4 << 30  # bytes of all kept programs; the ones that were not used for longest go first
SHORTEST_SECONDS = 0.3  # what compiles faster is not kept: reading is not much faster
SWITCH = "JAX_ENABLE_COMPILATION_CACHE"
ADVICE = f"; set HISTOJAX_CACHE to a folder of yours, or {SWITCH}=false to do without"
_SECONDS = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"
_CHECKED = ".checked"  # its time: entries older than it are whole
_reads: list[str] = []  # events of programs that were read
_said: set[str] = set()


def keep_compiled() -> None:
    """Lets jax keep what it compiles, and read what it kept, from here on.

    Nothing changes where the user chose a folder or switched the cache off. A folder that cannot be used is said in
    one line on stderr, once, and everything is compiled as without. To be called when jax has its devices.
    """
    _count_reads()
    settings = jax.config.values
    if settings["jax_compilation_cache_dir"] is not None or not settings["jax_enable_compilation_cache"]:
        return
    top = cache_folder() / "compiled"
    folder = top / _kind()
    try:
        _make_private(top)
        folder.mkdir(exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        _remove_broken(folder)
        _trim(top, LIMIT)
    except OSError as error:
        _say_once(f"{folder}: compiled programs cannot be kept there ({reason(error)}){advice(error) or ADVICE}")
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    if _SECONDS not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", SHORTEST_SECONDS)


def programs_read() -> int:
    """How many programs this process read instead of compiling them."""
    return len(_reads)


@functools.cache
def _count_reads() -> None:
    """Begins to count them, once."""

    def count(event: str, **_: object) -> None:
        if event == "/jax/compilation_cache/cache_hits":
            _reads.append(event)

    jax.monitoring.register_event_listener(count)


def _kind() -> str:
    """Name of the folder of those programs that may run here; a CPU's need its very instructions."""
    backend = jax.default_backend()
    name = f"jax-{jax.__version__}-{backend}"
    if backend != "cpu":
        return name
    return f"{name}-{hashlib.sha256(_processor().encode()).hexdigest()[:12]}"


def _processor() -> str:
    with contextlib.suppress(OSError):
        wanted = ("model name", "flags", "Features", "CPU part")  # of x86 and of ARM
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
        return "\n".join(dict.fromkeys(line for line in lines if line.startswith(wanted))) + platform.machine()
    return f"{platform.machine()} {platform.processor()}"


def _make_private(folder: Path) -> None:
    """Makes a folder that only we can write to: a compiled program is code, which runs when it is read."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.stat()
    if found.st_uid not in (os.getuid(), 0):
        raise PermissionError(0, "it belongs to another user, who could put any code there")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(0, "others may write to it, who could put any code there: chmod go-w")


def _remove_broken(folder: Path) -> None:
    """Removes entries that a killed process or a full disk left cut off: jax would complain of them at every start.

    Only those that came since the last look are read.
    """
    mark = folder / _CHECKED
    looked = mark.stat().st_mtime_ns if mark.exists() else 0
    with tempfile.NamedTemporaryFile(dir=folder, delete=False) as now:  # its time is that of the file system
        pass
    for path in _entries(folder):
        with contextlib.suppress(FileNotFoundError):  # another process cleans up, too
            if path.stat().st_mtime_ns >= looked and not _is_whole(path.read_bytes()):
                path.unlink()
    os.replace(now.name, mark)


def _is_whole(entry: bytes) -> bool:
    """Whether the end of an entry is there; what is not compressed by zlib is left to jax."""
    if entry[:4] == b"\x28\xb5\x2f\xfd":  # zstd, which Python can read from 3.14 on
        return True
    unpack = zlib.decompressobj()
    try:
        unpack.decompress(entry)
    except zlib.error:
        return False
    return unpack.eof


def _trim(top: Path, limit: int) -> None:
    """Removes entries, also those of earlier versions of jax, until all together are no more than `limit` bytes."""
    found = []
    for path in _entries(top):
        with contextlib.suppress(FileNotFoundError):
            here = path.stat()
            found.append((max(here.st_atime, here.st_mtime), here.st_size, path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= limit:
            return
        path.unlink(missing_ok=True)
        total -= size


def _entries(folder: Path) -> Iterator[Path]:
    return folder.rglob("jit_*-cache")


def _say_once(line: str) -> None:
    if line not in _said:
        _said.add(line)
        print(line, file=sys.stderr)
