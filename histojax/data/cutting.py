"""Slides into a tile store: every slide a part by itself, in any process, on any machine that sees the folder.

A slide is done when its part is there: jobs that are killed lose at most the slides they worked on, and jobs that run
side by side share the rest.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from histojax.common.errors import UserError
from histojax.common.files import make_folder, read_json, write_atomic
from histojax.common.locks import owner_of, say_if_without_locks, wait_for_lock
from histojax.common.progress import Progress
from histojax.common.tables import write_table
from histojax.common.work import Outcome, run
from histojax.data.cut_slide import (
    BEFORE,
    ELSEWHERE,
    FAILED,
    LOCKS,
    OUTLINES,
    PICTURES,
    QUARANTINED,
    STATES,
    Cut,
    Report,
    cut_slide,
)
from histojax.data.slide_list import SlideEntry
from histojax.data.slide_marks import check_marks
from histojax.data.slide_table import MISSING
from histojax.data.store import (
    COORDINATES,
    PIXELS,
    Written,
    finish_store,
    part_done,
    part_facts,
    parts_done,
    start_store,
)
from histojax.data.store_parts import file_stem, part_path

FAILURE, LEFT_OUT = ".failed", "left_out.csv"
LOOK_AGAIN_SECONDS = 2.0


@dataclass(frozen=True)
class Summary:
    """What a run of `cut_slides` did, and what the store holds after it."""

    reports: tuple[Report, ...]
    written: Written | None
    seconds: float
    bytes: int

    def count(self, *states: str) -> int:
        """Slides in one of these states."""
        return sum(report.state in states for report in self.reports)

    @property
    def rejected(self) -> Counter[str]:
        """Places that became no tile, by reason."""
        total: Counter[str] = Counter()
        for report in self.reports:
            total.update(report.rejected)
        return total

    @property
    def failures(self) -> list[Report]:
        """Slides that could not be used."""
        return [report for report in self.reports if report.state in (FAILED, QUARANTINED)]


def cut_slides(
    slides: Sequence[SlideEntry],
    cut: Cut,
    *,
    workers: int,
    executor: str = "local",
    shard: tuple[int, int] = (0, 1),
    tiles_csv: bool = True,
    left_out: Sequence[tuple[str, str]] = (),
) -> Summary:
    """The summary, once every slide of `slides` that can be used is in the store `cut.out`.

    Run again, it goes on where it was: parts that are done stay. `shard` (i, n) takes every n-th slide from the i-th
    on. Slides that another job works on are waited for. `left_out`, (name, reason) of what was no slide or missing,
    is listed beside the store. Raises UserError for settings of another store, a full disk, a folder that cannot be
    written, and if no slide gave a tile, unless it was one part of several.
    """
    out, began = Path(cut.out), time.monotonic()
    check_marks(cut.marks, len(slides))
    start_store(out, cut.plan(), COORDINATES if cut.coordinates else PIXELS)
    for folder in (LOCKS, PICTURES, OUTLINES):
        make_folder(out / folder)
    say_if_without_locks(out / LOCKS)
    if executor == "ray":  # its tasks run in other folders
        cut = dataclasses.replace(cut, out=os.path.abspath(cut.out))
        slides = [dataclasses.replace(entry, path=Path(os.path.abspath(entry.path))) for entry in slides]
    mine = list(slides)[shard[0] :: shard[1]]
    if not mine:
        raise UserError(f"--shard: of {len(slides)} slides none is left for part {shard[0] + 1} of {shard[1]}")
    reports = _cut_all(mine, cut, workers, executor)
    for report in reports.values():
        _remember(out, report)
    with wait_for_lock(out / LOCKS / "finish.lock"):  # the last job to end merges what all have done
        skipped = _all_failures(out, reports.values()) + [one for one in left_out if one[1] == MISSING]
        write_table(out / LEFT_OUT, ("name", "reason"), left_out)
        written = None  # as long as there is no tile; one job of an array may have none
        if shard[1] == 1 or _has_tiles(out):
            _check_some(out, [reports[entry.name] for entry in mine], skipped)
            written = finish_store(out, sorted(parts_done(out)), skipped, tiles_csv=tiles_csv)
        size = sum(path.stat().st_size for path in (out / "tiles").glob("*.arrayrecord"))
        summary = Summary(tuple(reports[e.name] for e in mine), written, time.monotonic() - began, size)
        name = "summary.json" if shard[1] == 1 else f"summary-{shard[0] + 1}-of-{shard[1]}.json"
        write_atomic(out / name, json.dumps(_as_json(summary), indent=1) + "\n")
    return summary


def _remember(out: Path, report: Report) -> None:
    """Why a slide is not in the store, for whichever job merges its parts last; forgotten once it is there."""
    path = part_path(out, report.slide).with_suffix(FAILURE)
    if report.why and not part_done(out, report.slide):
        failure = {"slide": report.slide, "path": report.path, "at": os.path.abspath(report.path), "why": report.why}
        write_atomic(path, json.dumps(failure) + "\n")
    else:
        path.unlink(missing_ok=True)


def _all_failures(out: Path, reports: Iterable[Report]) -> list[tuple[str, str]]:
    """(path, reason) of slides that are not in the store, those of other jobs included, unless they are gone by now."""
    known = {report.slide: (report.path, report.why) for report in reports if report.why}
    for path in (out / "parts").glob(f"*{FAILURE}"):
        failure = read_json(path)
        if not part_done(out, failure["slide"]) and os.path.exists(failure["at"]):
            known.setdefault(failure["slide"], (failure["path"], failure["why"]))
    return sorted(known.values())


def _cut_all(slides: Sequence[SlideEntry], cut: Cut, workers: int, executor: str) -> dict[str, Report]:
    """{slide: report}; slides that another job held are looked at again until they are done or free."""
    reports: dict[str, Report] = {}
    todo = {entry.name: entry for entry in slides}
    progress = Progress(len(slides), unit="slide", items="tiles")
    try:
        while todo:
            for outcome in run(cut_slide, [(cut, entry) for entry in todo.values()], workers, executor=executor):
                report = _report_of(outcome)
                if outcome.trace:
                    progress.note(outcome.trace)
                if report.state == ELSEWHERE:
                    continue
                reports[report.slide] = report
                del todo[report.slide]
                if report.why:
                    progress.note(f"{report.path}: {report.state}: {report.why}")
                progress.update(len(reports), 0 if report.state == BEFORE else report.tiles)
            if todo:
                lock = Path(cut.out) / LOCKS / f"{file_stem(next(iter(todo)))}.lock"
                progress.note(f"looking again at {len(todo)} slides that {owner_of(lock)} worked on")
                time.sleep(LOOK_AGAIN_SECONDS)
    finally:
        progress.close()
    return reports


def _report_of(outcome: Outcome) -> Report:
    if not outcome.error:
        return outcome.value
    _, entry = outcome.unit
    return Report(entry.name, QUARANTINED if outcome.quarantined else FAILED, why=outcome.error, path=str(entry.path))


def _check_some(out: Path, reports: Sequence[Report], skipped: Sequence[tuple[str, str]]) -> None:
    """Raises UserError if there is no tile in the store, with the reasons; all of them are in skipped.csv then."""
    if _has_tiles(out):
        return
    reasons: dict[str, list[str]] = {}
    for report in reports:
        reasons.setdefault(report.why or f"has no tile ({report.no_tile})", []).append(report.path)
    shown = [
        f"{paths[0]}{f' and {len(paths) - 1} more' if len(paths) > 1 else ''}: {why}" for why, paths in reasons.items()
    ]
    write_table(out / "skipped.csv", ("name", "reason"), skipped)
    more = f"; and {len(shown) - 3} more reasons, see {out / 'skipped.csv'}" if len(shown) > 3 else ""
    raise UserError(f"{out}: no tile from {len(reports)} slides; {'; '.join(shown[:3])}{more}")


def _has_tiles(out: Path) -> bool:
    return any(part_facts(out, name)["tiles"] for name in parts_done(out))


def _as_json(summary: Summary) -> dict[str, Any]:
    """The summary for programs; the only file of a store with times in it."""
    return {
        "slides": {state: summary.count(state) for state in STATES if summary.count(state)},
        "tiles": sum(report.tiles for report in summary.reports),
        "rejected": dict(summary.rejected),
        "unreadable": sum(report.unreadable for report in summary.reports),
        "bytes": summary.bytes,
        "seconds": round(summary.seconds, 3),
        "each": [dataclasses.asdict(report) for report in summary.reports],
    }
