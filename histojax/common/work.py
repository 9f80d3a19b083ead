"""Many units of work, each by itself: in this process, in processes of this machine, or on a Ray cluster.

A unit that ends its process (a crash in a C library, the out-of-memory killer) is tried again in another one and,
after some tries, quarantined: the others go on.
"""

from __future__ import annotations

import collections
import contextlib
import logging
import multiprocessing
import os
import queue
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from histojax.common.errors import UserError

TRIES = 3
Function = Callable[[Any], Any]


@dataclass(frozen=True)
class Outcome:
    """What became of a unit: its value, or in words why there is none."""

    unit: Any
    value: Any = None
    error: str = ""  # one line; "" if it succeeded
    quarantined: bool = False  # it ended every process that tried it
    trace: str = ""  # of an exception that nobody expects


def run(
    function: Function,
    units: Iterable[Any],
    workers: int,
    *,
    executor: str = "local",
    tries: int = TRIES,
    gpus: float = 0.0,
) -> Iterator[Outcome]:
    """Outcomes of `function(unit)` in the order in which they are ready; units are taken as workers become free.

    `function` lies in a module, units and values can be pickled. `workers` processes are used (0: this process), with
    the executor "ray" as many tasks at a time, each with `gpus` GPUs. An exception is the outcome of its unit alone;
    only a UserError, which its reader has to act on (a full disk), is raised here and ends everything.
    """
    if executor not in EXECUTORS:
        raise UserError(f"unknown executor {executor!r}; known are {', '.join(EXECUTORS)}")
    if executor == "ray":
        return _run_on_ray(function, units, workers or 1, tries, gpus)
    return _run_locally(function, units, workers, tries) if workers else (_try(function, unit) for unit in units)


def ahead(outcomes: Iterator[Any], count: int) -> Iterator[Any]:
    """The same items, up to `count` of them made ahead by a thread while the caller is busy."""
    ready: queue.Queue = queue.Queue(count)
    stop = threading.Event()
    thread = threading.Thread(target=_fill, args=(outcomes, ready, stop), daemon=True)
    thread.start()
    try:
        while True:
            kind, item = ready.get()
            if kind == "end":
                return
            if kind == "error":
                raise item
            yield item
    finally:
        stop.set()
        while thread.is_alive():
            with contextlib.suppress(queue.Empty):
                ready.get(timeout=0.05)
        close = getattr(outcomes, "close", None)
        if close is not None:
            close()


def _fill(items: Iterator[Any], ready: queue.Queue, stop: threading.Event) -> None:
    try:
        for item in items:
            ready.put(("item", item))
            if stop.is_set():
                return
        ready.put(("end", None))
    except BaseException as error:
        ready.put(("error", error))


def _try(function: Function, unit: Any) -> Outcome:
    """The outcome of one unit in this process; a UserError is raised."""
    try:
        return Outcome(unit, function(unit))
    except UserError:
        raise
    except Exception as error:
        return _failed(unit, error)


def _failed(unit: Any, error: BaseException) -> Outcome:
    words = getattr(error, "reason", None)  # of BadSlide and BadTile
    if isinstance(words, str):
        return Outcome(unit, error=" ".join(words.split()))
    trace = "".join(traceback.format_exception(error))
    return Outcome(unit, error=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}", trace=trace)


class _Worker:
    """A process and what it works on."""

    def __init__(self, function: Function):
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, function, os.getpid()), daemon=True)
        self.process.start()
        theirs.close()
        self.unit: Any = None
        self.tried = 0
        self.busy = False

    def give(self, unit: Any, tried: int) -> None:
        self.unit, self.tried, self.busy = unit, tried, True
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it died while idle: `wait` will tell
            self.connection.send(unit)

    def close(self) -> None:
        self.connection.close()
        self.process.terminate()
        self.process.join()


def _run_locally(function: Function, units: Iterable[Any], workers: int, tries: int) -> Iterator[Outcome]:
    left, again = iter(units), collections.deque[tuple[Any, int]]()
    team: list[_Worker] = []
    try:
        while True:
            _employ(function, team, left, again, workers)
            busy = [worker for worker in team if worker.busy]
            if not busy:
                return
            for ready in wait([worker.connection for worker in busy]):
                worker = next(w for w in busy if w.connection is ready)
                outcome = _received(worker, tries, again)
                if not worker.process.is_alive() and not worker.busy:
                    team.remove(worker)
                    worker.close()
                if isinstance(outcome, UserError):
                    raise outcome
                if outcome is not None:
                    yield outcome
    finally:
        for worker in team:
            worker.close()


def _employ(
    function: Function, team: list[_Worker], left: Iterator[Any], again: collections.deque, workers: int
) -> None:
    """Gives every idle worker a unit, and starts workers while there are units for them."""
    while True:
        idle = next((worker for worker in team if not worker.busy), None)
        if idle is None and len(team) >= workers:
            return
        unit, tried = again.popleft() if again else (next(left, _NOTHING), 0)
        if unit is _NOTHING:
            return
        if idle is None:
            idle = _Worker(function)
            team.append(idle)
        idle.give(unit, tried)


_NOTHING = object()


def _received(worker: _Worker, tries: int, again: collections.deque) -> Outcome | UserError | None:
    """What a worker sent; None if it died and its unit is to be tried again."""
    worker.busy = False
    try:
        return worker.connection.recv()
    except (EOFError, ConnectionResetError):
        worker.process.join()
    tried = worker.tried + 1
    if tried < tries:
        again.append((worker.unit, tried))
        return None
    return _quarantined(worker.unit, tried, _how_it_ended(worker.process.exitcode))


def _quarantined(unit: Any, tried: int, how: str) -> Outcome:
    return Outcome(unit, error=f"quarantined: {tried} processes that worked on it ended ({how})", quarantined=True)


def _how_it_ended(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        return f"{name}{', out of memory?' if name == 'SIGKILL' else ''}"
    return f"exit code {code}"


def _serve(connection: Connection, function: Function, parent: int) -> None:
    """The life of a worker: unit in, outcome out, until the connection or the parent ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    end_with(parent)
    while True:
        try:
            unit = connection.recv()
        except (EOFError, OSError):
            return
        outcome: Outcome | UserError
        try:
            outcome = _try(function, unit)
        except UserError as error:
            outcome = UserError(str(error))
        try:
            connection.send(outcome)
        except OSError:
            return


def end_with(parent: int, seconds: float = 1.0) -> None:
    """Ends this process soon after its parent has ended, however that came about."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(seconds)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _run_on_ray(function: Function, units: Iterable[Any], workers: int, tries: int, gpus: float) -> Iterator[Outcome]:
    ray = _started_ray()
    task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=0, max_calls=0)(_try_remotely)
    left, again = iter(units), collections.deque[tuple[Any, int]]()
    running: dict[Any, tuple[Any, int]] = {}
    try:
        while True:
            while len(running) < workers:
                unit, tried = again.popleft() if again else (next(left, _NOTHING), 0)
                if unit is _NOTHING:
                    break
                running[task.remote(function, unit)] = unit, tried
            if not running:
                return
            (done, *_), _ = ray.wait(list(running), num_returns=1)
            unit, tried = running.pop(done)
            try:
                outcome = ray.get(done)
            except ray.exceptions.RayError as error:  # the worker or its machine is gone
                tried, outcome = tried + 1, None
                if tried < tries:
                    again.append((unit, tried))
                else:
                    outcome = _quarantined(unit, tried, type(error).__name__)
            if isinstance(outcome, UserError):
                raise outcome
            if outcome is not None:
                yield outcome
    finally:
        for reference in running:
            ray.cancel(reference, force=True)


def _try_remotely(function: Function, unit: Any) -> Outcome | UserError:
    try:
        return _try(function, unit)
    except UserError as error:
        return UserError(str(error))


def cluster_gpus() -> float:
    """The GPUs of the Ray cluster that tasks run on."""
    return float(_started_ray().cluster_resources().get("GPU", 0))


def _started_ray() -> Any:
    """Ray, connected to the cluster that RAY_ADDRESS names or that runs here; else one on this machine is started."""
    try:
        import ray
    except ImportError:
        raise UserError("the executor ray needs Ray: pip install 'histojax[ray]'") from None
    if not ray.is_initialized():
        ray.init(log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR)
    return ray


EXECUTORS = ("local", "ray")
