"""Cases of golden folders, found by their contents; see tools/parity.py."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path

from parity_cases.check import Check, failed

MODULES = ("features", "operations", "training", "crops", "tables", "files", "extractors", "pixels")


def all_checks(folder: Path, only: str = "") -> Iterator[Check]:
    """Every comparison that the contents of `folder` allow; `only` keeps the cases whose name contains it."""
    for name in MODULES:
        for case, run in importlib.import_module(f"parity_cases.{name}").cases(folder):
            if only not in case:
                continue
            try:
                yield from run()
            except Exception as error:  # one broken case must not hide the others
                yield failed(case, f"{type(error).__name__}: {error}")
