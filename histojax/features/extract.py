"""Extraction: tiles of slides, stores or folders through encoders into feature files.

Worker processes read and prepare chunks of tiles; this process fills batches from whatever chunks are ready, across
the borders of slides, and keeps the devices one batch ahead; a slide's files are written, whole, when its last tile is
in. A slide that is done is known by its files: run again, only the others are worked on, in any number of jobs.
"""

from __future__ import annotations

import contextlib
import io
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Any

from histojax.common.locks import Lock, owner_of, try_lock
from histojax.common.progress import Progress
from histojax.common.work import Outcome, ahead, run
from histojax.features.batches import Rows, batch_of, taken
from histojax.features.collect import BAD, GOOD, REJECTED, Gathered
from histojax.features.device import Devices, Model
from histojax.features.finished import Written, draw, look, write_job
from histojax.features.folder import EMPTY, FAILED, QUARANTINED, Report
from histojax.features.jobs import Job, Work
from histojax.features.reading import CHUNK, Chunk, Pixels, Plan, Planner, Reader
from histojax.features.summary import Summary, reason_of, told
from histojax.parallel.backend import is_out_of_memory
from histojax.slides.slide import BadSlide

LOOK_AGAIN_SECONDS = 2.0
CHUNKS_AHEAD = 2  # of each worker, waiting to be put into a batch
CHUNK_BYTES = 16 << 20  # of prepared tiles in a chunk at most


@dataclass
class _Open:
    """A job that is being worked on."""

    job: Job
    gathered: Gathered
    lock: Lock
    plan: Plan | None = None  # where its tiles were chosen now

    @property
    def planned_out(self) -> int:
        """Places that were left out when its tiles were chosen."""
        return self.job.rejected if self.plan is None else self.plan.rejected


def extract(
    work: Work,
    devices: Devices,
    written: Written,
    *,
    workers: int,
    shard: tuple[int, int] = (0, 1),
    show: bool = True,
    wanted: Sequence[Model] = (),
) -> Summary:
    """The summary, once every slide of `work` that can be used has its files.

    Args:
        work: what is read.
        devices: with the encoders, each of which has a folder of its own.
        written: where to, and what is written beside the numbers.
        workers: processes that read tiles; 0: a thread of this one.
        shard: (i, n) takes every n-th slide from the i-th on.
        show: whether progress is shown.
        wanted: all encoders whose files belong to a slide, where those of `devices` are only the ones it lacks.

    Slides that another job works on are waited for. Raises UserError for files that were made otherwise and for what
    cannot be written.
    """
    one = _Extraction(work, devices, written, workers, show, wanted)
    try:
        return one.all(list(work.jobs)[shard[0] :: shard[1]])
    finally:
        one.close()


class _Extraction:
    """The state of `extract`."""

    def __init__(
        self, work: Work, devices: Devices, written: Written, workers: int, show: bool, wanted: Sequence[Model]
    ):
        self.work, self.devices, self.written, self.workers, self.show = work, devices, written, workers, show
        self.models, self.folder = devices.models, written.folder
        self.wanted = tuple(wanted) or self.models
        self.reader = Reader(devices.rules, work.sources, work.settings, work.check)
        self.summary = Summary(notes=list(work.notes))
        self.chunk = max(1, min(CHUNK, CHUNK_BYTES // sum(3 * rule.side**2 for rule in devices.rules)))
        self.held: list[Lock] = []
        self.open: dict[int, _Open] = {}
        self.pending: deque[Rows] = deque()
        self.in_flight: deque[tuple[Future, list[Rows]]] = deque()
        self.writer = ThreadPoolExecutor(1, "write")
        self.writing: deque[tuple[Future, int]] = deque()
        self.reports: dict[str, Report] = {}
        self.elsewhere: list[Job] = []
        self.guard = threading.Lock()
        self.busy_seconds = 0.0
        self.left_out = 0  # tiles
        self.idle_before = self.idle_told = devices.idle_seconds

    def all(self, jobs: Sequence[Job]) -> Summary:
        began = time.monotonic()
        todo = list(jobs)
        self.progress = self._progress(todo)
        try:
            while todo:
                self._round(todo)
                todo = self.elsewhere
                if todo:
                    owner = owner_of(self.folder.lock(todo[0].name))
                    self.progress.note(f"waiting for {len(todo)} slides that {owner} works on")
                    time.sleep(LOOK_AGAIN_SECONDS)
        finally:
            self.progress.close()
        self.summary.reports = [told(self.reports[job.name], job) for job in jobs]
        self.summary.notes += self.written.notes
        self.summary.seconds = time.monotonic() - began
        return self.summary

    def close(self) -> None:
        """Ends the threads and lets go of the slides that are not done."""
        self.writer.shutdown(cancel_futures=True)
        for lock in self.held:
            lock.release()

    # from jobs to chunks, in the threads of `ahead`

    def _round(self, jobs: Sequence[Job]) -> None:
        """Works on all jobs that are free; the others are in `elsewhere` then."""
        self.elsewhere = []
        started: Any = self._started(jobs)
        first = next(started, None)
        if first is None:  # nothing to do: no need to compile anything
            return
        chunks: Any = self._chunks(chain([first], started))
        outcomes: Any = ahead(run(self.reader, chunks, self.workers), CHUNKS_AHEAD * max(1, self.workers))
        # closed from the last one back: each of them may have a thread that takes from the one before
        with (
            contextlib.closing(started),
            contextlib.closing(chunks),
            contextlib.closing(outcomes),
            ThreadPoolExecutor(1) as starter,
        ):
            opening = starter.submit(next, outcomes, None)  # workers start while the programs are compiled
            self.devices.warm_up(self.progress.note)
            began = time.monotonic()
            for outcome in chain([opening.result()], outcomes):
                if outcome is not None:
                    self._take(outcome)
                    self._dispatch()
        self._dispatch(last=True)
        while self.in_flight:
            self._collect()
        self._write_finished(wait=True)
        self.busy_seconds += time.monotonic() - began
        idle = self.devices.idle_seconds - self.idle_before
        self.summary.waited = idle / max(self.busy_seconds, 1e-9)

    def _started(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Plan | None, Lock]]:
        """The jobs that are ours to do, with the tiles that were chosen of those whose slides had to be opened."""
        mine, work = self._locked(jobs), self.work
        if work.settings is None or all(job.planned for job in jobs):
            for job, lock in mine:
                yield job, None, lock
            return
        locks: dict[str, tuple[Job, Lock]] = {}

        def units() -> Iterator[Any]:
            for job, lock in mine:
                locks[job.name] = job, lock
                yield job.entry

        planners = max(1, self.workers // 4) if self.workers else 0
        planner = Planner(work.settings, work.mpp, work.marks)
        plans: Any = ahead(run(planner, units(), planners), 2 * max(1, planners))
        with contextlib.closing(plans):
            for outcome in plans:
                job, lock = locks.pop(outcome.unit.name)
                if outcome.error:
                    self._fail(job, outcome, lock)
                else:
                    yield job.with_plan(outcome.value, work.settings), outcome.value, lock

    def _locked(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Lock]]:
        """The jobs that are not done and that no other process holds."""
        names = [model.name for model in self.wanted]
        for job in jobs:
            lock = try_lock(self.folder.lock(job.name))
            if lock is None:
                self.elsewhere.append(job)
                continue
            self.held.append(lock)
            self.folder.remove_leftovers(job.name, names)
            try:
                done = look(self.written, job, self.wanted)
            except BadSlide as error:
                self._fail(job, Outcome(job.entry, error=error.reason), lock)
                continue
            if done is None:
                yield job, lock
                continue
            lock.release()
            with self.guard:
                self.reports[job.name] = done
                self.summary.before += 1

    def _chunks(self, started: Iterator[tuple[Job, Plan | None, Lock]]) -> Iterator[Chunk]:
        numbers = {job.name: number for number, job in enumerate(self.work.jobs)}
        widths = [model.widths for model in self.models]
        folders = [self.folder.out / self.folder.within(model.name) for model in self.models]
        for job, plan, lock in started:
            number = numbers[job.name]
            gathered = Gathered(job.count, widths, self.written.save, folders)
            with self.guard:
                self.open[number] = _Open(job, gathered, lock, plan)
                if plan is not None:
                    self.summary.notes += [f"{job.path}: {note}" for note in plan.notes]
            for chunk in job.chunks(number, self.work.mpp, self.chunk):
                if number not in self.open:  # one of its chunks failed, or ended every process that tried it
                    break
                yield chunk

    # from chunks to batches, in the main thread

    def _take(self, outcome: Outcome) -> None:
        """Notes what became of a chunk; its good tiles wait for a batch."""
        chunk: Chunk = outcome.unit
        one = self.open.get(chunk.job)
        if one is None:  # the job failed before
            return
        if outcome.error:
            del self.open[chunk.job]
            self._fail(one.job, outcome, one.lock)
            return
        pixels: Pixels = outcome.value
        for place, why in pixels.bad:
            one.gathered.leave_out(pixels.first + place, why, BAD)
        for place, why in pixels.rejected:
            one.gathered.leave_out(pixels.first + place, why, REJECTED)
        self.left_out += len(pixels.bad) + len(pixels.rejected)
        if len(pixels.places):
            self.pending.append(Rows(chunk.job, pixels.first + pixels.places, pixels.prepared))
        self._close_complete(chunk.job)

    def _dispatch(self, last: bool = False) -> None:
        """Gives the devices what fills a batch; with `last` whatever there is."""
        while sum(len(rows) for rows in self.pending) >= (1 if last and self.pending else self.devices.size):
            parts = taken(self.pending, self.devices.size)
            while len(self.in_flight) >= 2:
                self._collect()
            try:
                future = self.devices.start(batch_of(parts, self.devices))
            except Exception as error:
                self._again(parts, error)
                continue
            self.in_flight.append((future, parts))

    def _collect(self) -> None:
        """Takes the oldest batch's features to their slides."""
        future, parts = self.in_flight.popleft()
        try:
            outputs = future.result()
        except Exception as error:
            self._again(parts, error)
            return
        at = 0
        for rows in parts:
            chosen = slice(at, at + len(rows))
            at += len(rows)
            if rows.job in self.open:
                self.open[rows.job].gathered.add(rows.numbers, [tuple(a[chosen] for a in one) for one in outputs])
                self._close_complete(rows.job)
        self.summary.tiles += at
        self._write_finished()
        self._tell(at)

    def _again(self, parts: list[Rows], error: Exception) -> None:
        """Puts a batch back that did not fit into the memory of the devices, and halves the size of the next ones."""
        if not is_out_of_memory(error):
            raise error
        for rows in reversed(parts):
            self.pending.appendleft(rows)
        size = self.devices.size
        while self.in_flight:
            self._collect()
        if self.devices.size == size:  # else a batch in flight met the same
            self.devices.halve(self.progress.note)

    # from features to files

    def _close_complete(self, number: int) -> None:
        """Hands a job whose tiles are all accounted for to the writer."""
        one = self.open.get(number)
        if one is None or not one.gathered.complete:
            return
        rows = one.gathered
        if not len(rows.rows(GOOD)):
            del self.open[number]
            self._without_tiles(one)
            return
        task = partial(write_job, self.written, one.job, self.models, rows, one.planned_out, one.plan)
        self.writing.append((self.writer.submit(task), number))

    def _write_finished(self, wait: bool = False) -> None:
        """Notes the jobs whose files are there, or raises what went wrong with one."""
        while self.writing and (wait or self.writing[0][0].done()):
            future, number = self.writing.popleft()
            report = future.result()
            one = self.open.pop(number)
            one.lock.release()
            self.reports[one.job.name] = report

    def _without_tiles(self, one: _Open) -> None:
        bad = one.gathered.rows(BAD)
        rejected = one.planned_out + len(one.gathered.rows(REJECTED))
        draw(self.folder, one.job, one.plan, one.gathered)
        one.lock.release()
        report = Report(one.job.name, one.job.path, 0, len(bad), rejected)
        if len(bad):
            why = f"none of its {len(bad)} tiles can be read, the first: {one.gathered.reasons[int(bad[0])]}"
            self._note(replace(report, state=FAILED, reason=why))
        else:
            counts = Counter(one.gathered.reasons.values())
            counts.update(one.plan.drawing.choice.rejected if one.plan and one.plan.drawing else {})
            why = ", ".join(f"{count} {reason}" for reason, count in counts.most_common())
            why = f"no tile is left ({why})" if why else "there are no tiles"
            self._note(replace(report, state=EMPTY, reason=why))

    def _fail(self, job: Job, outcome: Outcome, lock: Lock) -> None:
        lock.release()
        state = QUARANTINED if outcome.quarantined else FAILED
        self._note(Report(job.name, job.path, state=state, reason=reason_of(outcome)))

    def _note(self, report: Report) -> None:
        with self.guard:
            self.reports[report.slide] = report
            self.progress.note(f"{report.path}: {report.state}: {report.reason}")

    # what is shown

    def _progress(self, jobs: Sequence[Job]) -> Progress:
        self.by_tile = all(job.planned for job in jobs)
        total = sum(job.count for job in jobs) if self.by_tile else len(jobs)
        stream = None if self.show else io.StringIO()
        return Progress(total, unit="tile" if self.by_tile else "slide", stream=stream)

    def _tell(self, tiles: int) -> None:
        idle = self.devices.idle_seconds
        with self.guard:
            begun = sum(one.gathered.share for one in self.open.values())
        step = self.summary.tiles + self.left_out if self.by_tile else len(self.reports) + begun
        self.progress.update(step, tiles, idle - self.idle_told)
        self.idle_told = idle
