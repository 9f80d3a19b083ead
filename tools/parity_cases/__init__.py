"""Cases of golden folders, found by their contents; see tools/parity.py.

A module of cases has `cases(file, folder)`: (name, function that yields checks) for what it finds in one file.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path

from parity_cases.check import Check, failed
from parity_cases.golden import File, Folder

MODULES = {  # kind of file: modules that look into it
    "arrays": (
        "features", "positions", "operations", "passes", "trajectories", "batches", "pixel_operations", "draws",
        "chain", "masks", "schedules", "extractors", "heads", "preprocessing", "real_tokens", "tile_filter", "stains",
        "patch_probes",
    ),
    "tables": ("tables", "listings"),
    "weights": ("containers",),
    "features": ("feature_files",),
}  # fmt: skip


def all_checks(folder: Path | Folder, only: str = "") -> Iterator[Check]:
    """Every comparison that the contents of `folder` allow, then what was left out; `only` keeps the cases whose
    name contains it."""
    golden = folder if isinstance(folder, Folder) else Folder(folder)
    yield from (fault for fault in golden.faults if only in fault.name)
    for kind, modules in MODULES.items():
        for name in modules:
            for file in getattr(golden, kind):
                yield from _of_file(name, file, golden, only)
    yield from golden.left(only)


def _of_file(module: str, file: File, golden: Folder, only: str) -> Iterator[Check]:
    """One broken file or case must not hide the others."""
    try:
        found = list(importlib.import_module(f"parity_cases.{module}").cases(file, golden))
    except Exception as error:
        if only in file.name:
            yield failed(file.name, f"{file.shown}: {type(error).__name__}: {error}")
        return
    for case, run in found:
        if only not in case:
            continue
        try:
            yield from run()
        except Exception as error:
            yield failed(case, f"{file.shown}: {type(error).__name__}: {error}")
