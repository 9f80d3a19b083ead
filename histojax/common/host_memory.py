"""The host's memory: large pages for training on a CPU, freed memory given back, what the process holds."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from pathlib import Path

_SWITCH = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_TUNABLES = "GLIBC_TUNABLES"  # read by the C library when a process starts, never later


def restart_with_huge_pages() -> None:
    """Starts this very command again with huge pages for malloc, where Linux offers them on request.

    About a tenth less processor time for training on a CPU (tools/bench_step.py shows it). To be called by a command
    before any work. The process keeps its number, so signals find it. Nothing happens where the variable is set
    already, by the user or by the restart itself.
    """
    if _TUNABLES in os.environ or not sys.platform.startswith("linux"):
        return
    try:
        offered = "[madvise]" in _SWITCH.read_text()
    except OSError:
        return
    if offered and sys.orig_argv:
        os.environ[_TUNABLES] = "glibc.malloc.hugetlb=1"
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def give_back_freed() -> None:
    """Returns what malloc holds but nobody uses to the system, where the C library can: a compilation leaves 0.6 GiB
    that the step, which takes its memory in one piece, could not use again."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def resident_mib() -> float | None:
    """MiB of memory that this process holds now; None where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
