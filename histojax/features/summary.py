"""What an extraction did: added up from its parts, and told in words at the end of the command."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from histojax.common.work import Outcome
from histojax.features.folder import FAILED, QUARANTINED, Report
from histojax.features.jobs import Job


@dataclass
class Summary:
    """What an extraction did: a report a slide; tiles computed, seconds, and the share in which devices waited."""

    reports: list[Report] = field(default_factory=list)
    before: int = 0  # slides that were done when it began
    tiles: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    notes: list[str] = field(default_factory=list)
    base: Path = Path()  # of the tables
    left_out: Sequence[tuple[str, str]] = ()

    def count(self, *states: str) -> int:
        """Slides in one of these states."""
        return sum(report.state in states for report in self.reports)


def joined(parts: Sequence[Summary], jobs: Sequence[Job]) -> Summary:
    """One summary of several, its reports in the order of `jobs`."""
    reports = {report.slide: report for part in parts for report in part.reports}
    seconds = sum(part.seconds for part in parts)
    return Summary(
        [reports[job.name] for job in jobs],
        sum(part.before for part in parts),
        sum(part.tiles for part in parts),
        seconds,
        sum(part.waited * part.seconds for part in parts) / max(seconds, 1e-9),
        [note for part in parts for note in part.notes],
    )


def reason_of(outcome: Outcome) -> str:
    """Why there is nothing, without the state, which stands beside it."""
    return outcome.error.removeprefix("quarantined: ")


def told(report: Report, job: Job) -> Report:
    """The same, with the patient and the label of the slide."""
    return replace(report, patient=job.patient, label=job.label)


def in_words(summary: Summary) -> Iterator[str]:
    """What was done, line by line, for the end of the command."""
    bad = [report for report in summary.reports if report.state in (FAILED, QUARANTINED)]
    empty = [report for report in summary.reports if report.state == "no tile"]
    now = summary.count("done") - summary.before
    without = f", {len(empty)} without a tile" if empty else ""
    done = f"{now} done now, {summary.before} before{without}, {len(bad)} could not be used"
    yield f"slides      {len(summary.reports)}: {done}"
    rate = f" ({summary.tiles / summary.seconds:,.1f}/s)" if summary.tiles and summary.seconds else ""
    yield f"tiles       {summary.tiles:,} computed now{rate}; in all {sum(r.tiles for r in summary.reports):,}"
    if summary.tiles and summary.waited:
        yield f"waiting     {summary.waited:.0%} of the time the device had no tiles"
    if skipped := sum(report.skipped for report in summary.reports):
        yield f"unreadable  {skipped:,} tiles, listed in the feature files (skipped)"
    if rejected := sum(report.rejected for report in summary.reports):
        yield f"rejected    {rejected:,} places (no tissue, blank, pen, blur ...)"
    yield from (f"no tile     {report.slide}: {report.reason}" for report in empty[:5])
    if len(empty) > 5:
        yield f"no tile     and {len(empty) - 5} more"
    notes = list(dict.fromkeys(summary.notes))
    yield from (f"note        {note}" for note in notes[:20])
    if len(notes) > 20:
        yield f"note        and {len(notes) - 20} more"
    yield from (f"{report.state:11s} {report.path}: {report.reason}" for report in bad[:20])
    if len(bad) > 20:
        yield f"failed      and {len(bad) - 20} more, see {summary.base / 'failed.csv'}"
    if left_out := summary.left_out:
        yield f"left out    {len(left_out)} files, e.g. {left_out[0][0]} ({left_out[0][1]})"
    yield f"written     {summary.base}"
