"""The result of a run over golden folders: the certificate (JSON), and the same as a Markdown table."""

from __future__ import annotations

import dataclasses
import json
import math
import platform
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from parity_cases import all_checks
from parity_cases.check import Check, failed
from parity_cases.golden import ArrayFile, Folder, TableFile


@dataclasses.dataclass
class Result:
    """The checks of one folder; `golden` is None if it could not be listed."""

    label: str
    golden: Folder | None
    checks: list[Check]
    seconds: float = 0.0

    @property
    def compared(self) -> list[Check]:
        return [c for c in self.checks if c.compared]

    @property
    def ok(self) -> bool:
        return bool(self.compared) and all(c.ok for c in self.compared)


def run(folders: list[Path], only: str = "", given: Path | None = None) -> Iterator[tuple[Result, Iterator[Check]]]:
    """(result, its checks as they come) for each folder; the result is whole when they are used up.

    `given` is a weight file for cases that have none in their folder.
    """
    names = [folder.resolve().name for folder in folders]
    for i, (folder, name) in enumerate(zip(folders, names)):
        result = Result(name if names.count(name) == 1 else f"{name} ({names[: i + 1].count(name)})", None, [])
        yield result, _checks(result, folder, only, given)


def _checks(result: Result, folder: Path, only: str, given: Path | None) -> Iterator[Check]:
    start = time.monotonic()
    try:
        result.golden = Folder(folder, given)
        for check in all_checks(result.golden, only):
            result.checks.append(check)
            yield check
    except Exception as error:  # the certificate is written whatever happens
        result.checks.append(failed(result.label, f"{type(error).__name__}: {error}"))
        yield result.checks[-1]
    finally:
        result.seconds = time.monotonic() - start


def certificate(results: list[Result], only: str = "") -> dict[str, Any]:
    """What was compared, with what, and for which versions it holds."""
    import flax
    import jax
    import numpy as np

    import histojax
    from histojax.common.versions import commit

    versions = {"histojax": histojax.__version__, "commit": commit(), "jax": jax.__version__, "flax": flax.__version__}
    versions |= {"numpy": np.__version__, "python": platform.python_version(), "machine": platform.machine()}
    return {
        "ok": bool(results) and all(r.ok for r in results),
        "only": only,
        "seconds": round(sum(r.seconds for r in results), 3),
        "versions": versions,
        "folders": [_folder(r) for r in results],
    }


def _folder(result: Result) -> dict[str, Any]:
    files = result.golden.files if result.golden else []
    return {
        "folder": result.label,
        "ok": result.ok,
        "seconds": round(result.seconds, 3),
        "golden": provenance(result.golden) if result.golden else {},
        "comparisons": len(result.compared),
        "failed": sum(not c.ok for c in result.compared),
        "arrays_not_compared": sum(c.arrays for c in result.checks),
        "files": {file.shown: file.summary() for file in files},
        "checks": [c.as_dict() for c in result.compared],
        "left_out": [f"{c.name}: {c.what}" for c in result.checks if not c.compared],
    }


def provenance(golden: Folder) -> dict[str, Any]:
    """What all files say about themselves (seed, commit, versions): the value, or the different ones as a list."""
    metas = [f.meta for f in golden.arrays if isinstance(f, ArrayFile) and f.meta]
    metas += [f.content["meta"] for f in golden.tables if isinstance(f, TableFile) and _has_meta(f.content)]
    found: dict[str, Any] = {}
    for key in dict.fromkeys(k for meta in metas for k in meta if all(k in other for other in metas)):
        values = [meta[key] for meta in metas]
        if all(isinstance(v, (str, int, float, bool)) for v in values):
            different = list(dict.fromkeys(values))
            found[key] = different[0] if len(different) == 1 else different
    return found


def _has_meta(content: Any) -> bool:
    return isinstance(content, dict) and isinstance(content.get("meta"), dict)


def to_json(content: Any) -> str:
    """JSON that every reader takes: what is not finite becomes null."""
    return json.dumps(_finite(content), indent=1, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def why_not_writable(path: Path) -> str:
    """Why a file cannot be written there; "" if it can."""
    if path.is_dir():
        return "it is a folder"
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent):
            return ""
    except OSError as error:
        return error.strerror or str(error)


HEADER = (
    "| golden arrays | comparisons | ok | worst error / tolerance | left out |",
    "|---|---:|---:|---:|---:|",
)


def table(results: list[Result]) -> list[str]:
    """Lines of a Markdown table: a row for each golden file, and for each folder the sum and its seconds."""
    rows = list(HEADER)
    for result in results:
        for group in dict.fromkeys(group_of(c) for c in result.checks):
            rows.append(_row(f"`{group}`", [c for c in result.checks if group_of(c) == group]))
        rows.append(_row(f"**{result.label}, {result.seconds:.0f} s**", result.checks))
    return rows


def group_of(check: Check) -> str:
    """The golden file of a check, without its ending; listings of tensors are one group."""
    first = check.name.split()[0]
    if "/" in first:
        return first.split("/")[0] + "/"
    return first.removesuffix(".npz").removesuffix(".json")


def _row(title: str, checks: list[Check]) -> str:
    compared = [c for c in checks if c.compared]
    shares = [c.share for c in compared]
    worst = f"{max(shares):.2g}" if shares else ""
    return f"| {title} | {len(compared)} | {sum(c.ok for c in compared)} | {worst} | {len(checks) - len(compared)} |"
