"""Large memory pages for training on a CPU: about a tenth less processor time (tools/bench_step.py shows it)."""

from __future__ import annotations

import os
import sys
from pathlib import Path

_SWITCH = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_TUNABLES = "GLIBC_TUNABLES"  # read by the C library when a process starts, never later


def restart_with_huge_pages() -> None:
    """Starts this very command again with huge pages for malloc, where Linux offers them on request.

    To be called by a command before any work. The process keeps its number, so signals find it. Nothing happens
    where the variable is set already, by the user or by the restart itself.
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
