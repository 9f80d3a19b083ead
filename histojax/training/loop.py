"""The training loop: what happens on the host between the compiled steps.

Nothing on the device waits for the host: the next batch is sent while a step runs, metrics stay on the device and
are fetched one step late, checkpoints are written behind the following steps. Everything that the loop itself has
to remember goes into the checkpoint's notes, so a resumed run repeats the uninterrupted one bit for bit.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from histojax.common import cli
from histojax.common.errors import UserError
from histojax.common.host_memory import give_back_freed, resident_mib
from histojax.common.progress import Progress
from histojax.common.signals import Interrupted, Stop
from histojax.common.versions import versions
from histojax.config import last_step
from histojax.data import BadTileLog
from histojax.evaluation import online
from histojax.evaluation.evaluators import evaluators
from histojax.parallel.agreement import Together
from histojax.parallel.compile_cache import programs_read
from histojax.parallel.host_values import place_whole
from histojax.parallel.sharding import Layout
from histojax.runs.folder import RunFolder
from histojax.runs.metrics import MetricWriter
from histojax.ssl import terms
from histojax.ssl.recipe import Recipe
from histojax.ssl.step import make_features, make_step
from histojax.training import choice, results
from histojax.training.checkpoints import Checkpoints
from histojax.training.feed import Feed
from histojax.training.first_state import abstract_state, first_state
from histojax.training.monitor import Monitor, Verdict
from histojax.training.pace import mfu_of_a_step_a_second, with_mfu
from histojax.training.recipe import schedules_of
from histojax.training.resume import MAY_CHANGE, TILES
from histojax.training.start import Start
from histojax.training.teacher_evaluation import baseline, evaluate_teacher

SHOWN = ("loss", *terms.NAMES, "mfu")  # on the progress line


@dataclasses.dataclass
class Notes:
    """What the loop remembers besides arrays; JSON, saved with every checkpoint."""

    iterator: dict[str, Any] = dataclasses.field(default_factory=dict)
    pending: list[dict[str, float]] = dataclasses.field(default_factory=list)  # steps since the last row
    monitor: dict[str, Any] = dataclasses.field(default_factory=dict)
    bad_tiles: dict[str, Any] = dataclasses.field(default_factory=dict)
    first: dict[str, float] = dataclasses.field(default_factory=dict)  # the evaluation before training
    last: dict[str, float] = dataclasses.field(default_factory=dict)
    best: dict[str, Any] = dataclasses.field(default_factory=dict)  # metric, its score, step, all values there
    sources: list[dict[str, Any]] = dataclasses.field(default_factory=list)  # of the starting weights
    seconds: float = 0.0  # spent training, over all starts
    evaluation_due: bool = False  # a signal came before the evaluation of this step was done
    metrics_bytes: int | None = None  # size of metrics.jsonl

    @classmethod
    def read(cls, saved: dict[str, Any], where: str) -> Notes:
        """The notes of the checkpoint `where`; raises UserError for those of another version of histojax."""
        differs = set(saved) ^ {field.name for field in dataclasses.fields(cls)}
        if saved.get("best") and "metric" not in saved["best"]:
            differs.add("best")
        if differs:
            raise UserError(
                f"{where}: was saved by another version of histojax (its notes differ: {', '.join(sorted(differs))}); "
                "finish the run with that version, or start anew in another --workdir"
            )
        return cls(**saved)


class Stopped(Exception):
    """Leaves the loop with an exit code; what had to be said was printed."""

    def __init__(self, code: int):
        super().__init__(code)
        self.code = code


class Loop:
    """One run between its first and its last step."""

    def __init__(
        self,
        config: ConfigDict,
        recipe: Recipe,
        mesh: Mesh | None,
        workdir: Path,
        source: Any,
        tiles: online.EvalTiles,
        start: Start,
        stop: Stop,
        together: Together | None = None,
    ):
        self.config, self.recipe, self.mesh, self.workdir = config, recipe, mesh, workdir
        self.source, self.tiles, self.start, self.stop = source, tiles, start, stop
        self.together = together or Together()
        self.main = self.together.main
        self.asked = 0  # the signal that came to any of several processes
        self.layout = None if mesh is None else Layout(mesh)
        self.split = self.layout.batch if self.layout else None
        self.whole = self.layout.whole if self.layout else None
        self.last = last_step(config)
        self.schedules = schedules_of(config)
        self.evaluators = evaluators(config.eval.k)
        self.chooser = choice.chooser_of(config, tiles)
        self.monitor = Monitor.from_config(config)
        self.mfu = mfu_of_a_step_a_second(recipe, config.batch_size)
        self.bad = BadTileLog(source, config.data.max_bad_share, workdir / "bad_tiles.csv" if self.main else None)
        self.notes = Notes(sources=start.sources)
        self.waiting: list[dict[str, jax.Array]] = []  # metrics of steps not fetched yet
        self.due: list[tuple[int, list[dict[str, jax.Array]]]] = []  # rows to be written, with their step
        self.checkpoints: Checkpoints | None = None
        self.writer: MetricWriter | None = None
        self.feed: Feed | None = None
        self.progress: Progress | None = None

    def begin(self, folder: RunFolder | None, facts: dict[str, Any]) -> None:
        """Restores the last checkpoint or makes the first state, opens the files, evaluates at step 0.

        `facts` go into the run's folder, for its next start.
        """
        c = self.config
        if folder:
            folder.bind(c.to_dict(), MAY_CHANGE + TILES, facts)
            results.list_unused(self)
        root = jax.random.key(c.seed)
        self.key = jax.random.wrap_key_data(place_whole(jax.random.key_data(root), self.whole))
        self.checkpoints = Checkpoints(self.workdir / "checkpoints", c.checkpoint.keep, self.together)
        resumed = self.start.step
        split = self.layout.state if self.layout else None
        if resumed is None:
            self.state = first_state(self.recipe, self.start, jax.random.fold_in(root, 2**31 - 1), split)
        else:
            self.state, saved = self.checkpoints.restore(abstract_state(self.recipe, split), resumed)
            self.notes = Notes.read(saved, f"{self.checkpoints.folder}/{resumed}")
            self.monitor.set_state(self.notes.monitor)
            self.bad.set_state(self.notes.bad_tiles)
            self._print(f"resumed at step {resumed} of {self.last}")
        self.step = resumed or 0
        self.feed = Feed(c, self.source, self.split, self.notes.iterator)
        self.features = make_features(self.recipe, self.mesh)
        if folder:
            known = {"data": self.source.fingerprint(), "starting_weights": self.notes.sources or "random"}
            folder.write_provenance(self.step, versions(), **known, **results.devices())
            self.writer = MetricWriter(folder.path, resumed, c.log.tensorboard, self.notes.metrics_bytes)
        stream = sys.stderr if self.main else open(os.devnull, "w")  # noqa: SIM115 (as long as the process)
        self.progress = Progress(self.last, self.step, stream=stream)
        if resumed is None:
            self.evaluate()
            if 0 in c.export.steps:
                self.save()
        elif self.notes.evaluation_due:
            self._evaluate()
        self._export()

    def train(self) -> None:
        """Steps from where the run stands to its end; raises Stopped on a signal or a verdict.

        Within it nothing goes between host and devices unless it is sent or fetched by name; a transfer that slips in
        is an error. Evaluations, exports and checkpoints are free.
        """
        with jax.transfer_guard("disallow"):
            self._train()

    def _train(self) -> None:
        c, began = self.config, time.monotonic()
        assert self.feed and self.progress and self.checkpoints
        if self.step < self.last:
            train_step = self._compiled_step()
        before: dict[str, jax.Array] | None = None
        waited = 0.0
        while self.step < self.last:
            images, bad = self.feed.take()
            self.stop.unsaved = True
            self.state, metrics = train_step(self.state, images, self.key, self._schedule())
            self.step += 1
            self.waiting.append(metrics)
            self._agree(bad)
            if self.step < self.last:
                waited += self._draw_ahead(metrics)
            self._write_due()  # rows of earlier steps: the device is busy with this one
            if before is not None:
                jax.block_until_ready(before)  # never more than two steps under way: bounds memory
            before = metrics
            if self.step % c.log.every == 0:
                self.due.append((self.step, self.waiting))
                self.waiting = []
            self.progress.update(self.step, c.batch_size, waited)
            waited = 0.0
            self.notes.seconds += time.monotonic() - began
            began = time.monotonic()
            with jax.transfer_guard("allow"):
                self._after_step()
        self.checkpoints.wait()
        self.stop.unsaved = False

    def _compiled_step(self) -> Callable:
        """The training step for what this run gives it; says how long that took and what memory it plans."""
        c, began = self.config, time.monotonic()
        assert self.progress
        self.progress.note("compiling the training step (once a start) ...")
        shape = (c.batch_size, c.data.tile_px, c.data.tile_px, 3)
        images = jax.ShapeDtypeStruct(shape, np.uint8, sharding=self.split)
        step = make_step(self.recipe, self.mesh)
        known = programs_read()
        compiled = step.lower(self.state, images, self.key, self._schedule()).compile()
        give_back_freed()
        self.together.gather("compiled")  # the first collective operation of a step waits for the others 30 s at most
        plan, words = compiled.memory_analysis(), f"compiled in {time.monotonic() - began:.0f} s"
        words += " (an earlier start had done it)" if programs_read() > known else ""
        if plan is not None:
            sizes = (plan.argument_size_in_bytes, plan.temp_size_in_bytes)
            words += ", a step needs {:.2f} GiB for its state and {:.2f} to work".format(*(n / 2**30 for n in sizes))
            words += " on each device" if self.mesh else ""
        self.progress.note(words)
        return compiled

    def _draw_ahead(self, metrics: dict[str, jax.Array]) -> float:
        """Seconds that the device had nothing to do because the next batch was not there."""
        assert self.feed
        done: Any = metrics["loss"]
        idle = done.is_ready()
        begin = time.monotonic()
        self.feed.draw()
        return time.monotonic() - begin if idle or done.is_ready() else 0.0

    def _schedule(self) -> dict[str, jax.Array]:
        return place_whole(self.schedules.at(self.step), self.whole)

    def _agree(self, bad: np.ndarray) -> None:
        """What any process learned in this step: unreadable tiles among its own, a signal. All act on it alike."""
        assert self.progress
        said = self.together.gather({"bad": self.bad.look(bad), "signal": self.stop.signal})
        self.asked = max(one["signal"] for one in said)
        known = len(self.bad)
        self.bad.add(self.config.batch_size, [found for one in said for found in one["bad"]])
        for path in self.bad.paths[known:]:
            self.progress.note(f"unreadable tile replaced by another: {path}")

    def _after_step(self) -> None:
        """Evaluates, exports, saves and leaves on a signal, each at the steps where it is due."""
        c, step = self.config, self.step
        improved = False
        if self._evaluates() or step in c.export.steps:
            try:
                if asked := self._asked_to_stop():
                    raise Interrupted(asked)
                improved = self._evaluate()
            except Interrupted as interrupted:
                self.notes.evaluation_due = True
                self.save()
                self._leave(interrupted.number)
        asked = self._asked_to_stop()
        if step % c.checkpoint.every == 0 or step == self.last or step in c.export.steps or improved or asked:
            self.save()
            self._export()
        if asked:
            self._leave(asked)

    def _evaluates(self) -> bool:
        return self.step % self.config.eval.every == 0 or self.step == self.last

    def _evaluate(self) -> bool:
        """Evaluates where that is due at this step; whether the teacher is the best one so far."""
        values: dict[str, float] = {}
        if self._evaluates():
            self.flush()
            values = self.evaluate()
        self.notes.evaluation_due = False
        best = choice.better(self.chooser, self.step, values, self.notes.first, self.notes.best)
        if self.progress and self.chooser and best and (said := choice.doubt(self.chooser, best, self.notes.best)):
            self.progress.note(said)
        self.notes.best = best or self.notes.best
        return bool(best)

    def _export(self) -> None:
        """Writes the weights of this step where they are asked for and not there yet, from its checkpoint."""
        folder = self.workdir / "export" / f"step_{self.step:07d}"
        if self.step not in self.config.export.steps:
            return
        assert self.checkpoints
        self.checkpoints.wait()
        if self.main and not results.is_exported(folder):
            results.export(self, folder)

    def _asked_to_stop(self) -> int:
        """The signal that came, to this process or, as all learned in this step, to another."""
        return self.stop.signal if self.together.count == 1 else self.asked

    def _leave(self, number: int) -> None:
        assert self.checkpoints
        self.checkpoints.wait()
        self._print(f"saved at step {self.step}: the same command goes on from there")
        raise Stopped(128 + number)

    def _print(self, words: str) -> None:
        if self.main:
            print(words, file=sys.stderr)

    def flush(self) -> None:
        """Fetches and writes all complete rows; those of a window begun stay pending in the notes."""
        self._write_due()
        self.notes.pending += _fetch(self.waiting)
        self.waiting = []

    def _write_due(self) -> None:
        for step, metrics in self.due:
            rows, self.notes.pending = self.notes.pending + _fetch(metrics), []
            self._write_row(step, rows)
        self.due = []

    def _write_row(self, step: int, rows: list[dict[str, float]]) -> None:
        """One line of means over the steps of a window, the schedules at its last step, and the verdict."""
        assert self.progress
        means = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
        scheduled = {name: float(value) for name, value in self.schedules.at(step - 1).items()}
        rates = with_mfu(self.progress.rates(), self.mfu)
        if self.writer:
            self.writer.write(step, means | scheduled)
            give_back_freed()  # evaluations and checkpoints leave gaps in the heap
            clocks = {"train_seconds": self.notes.seconds, "resident_mib": resident_mib()}
            self.writer.write_timing(step, rates | {k: v for k, v in clocks.items() if v is not None})
        shown = means | {"mfu": rates["mfu"]} if "mfu" in rates else means
        self.progress.update(step=self.step, values={name: shown[name] for name in SHOWN if name in shown})
        self._judge(self.monitor.update(step, means))

    def _judge(self, verdict: Verdict | None) -> None:
        """Prints a verdict of the monitor; stops the run if the configuration says so."""
        assert self.progress and self.checkpoints
        said = self.together.from_first(verdict and dataclasses.asdict(verdict))
        if said is None:
            return
        verdict = Verdict(**said)
        self.progress.note(f"monitor: {verdict}")
        if verdict.stop and self.config.monitor.action == "stop":
            self.checkpoints.wait()
            good = self.checkpoints.latest()
            kept = f"the last good checkpoint is step {good}" if good is not None else "no checkpoint was written yet"
            self.progress.note(f"stopped at step {self.step}; {kept} (monitor.action=continue goes on regardless)")
            raise Stopped(cli.STOPPED)

    def evaluate(self) -> dict[str, float]:
        """Judges the teacher as it stands; returns {metric: value}, empty if its features are not finite."""
        assert self.progress
        backbone, rows = self.state.parameters("teacher")["backbone"], self.evaluators
        values = evaluate_teacher(self.tiles, rows, self.features, backbone, self.split, self.together, self.stop)
        told = values
        if self.step == 0 and values:
            told = values | baseline(self.tiles, rows, self.together)
        if self.step == 0:
            self.notes.first = told
        self.notes.last = values
        if self.writer and told:
            self.writer.write(self.step, told)
        shown = " ".join(f"{name} {value:.4g}" for name, value in told.items())
        self.progress.note(f"evaluation at step {self.step}: {shown or 'features are not finite'}")
        self._judge(self.monitor.update_evaluation(self.step, values))
        return values

    def save(self) -> None:
        """Starts to write a checkpoint of this step, unless the monitor objects to what led here."""
        assert self.checkpoints and self.feed
        self.flush()
        if self.writer:
            self.notes.metrics_bytes = self.writer.sync()
        self.notes.iterator = self.feed.state
        self.notes.monitor, self.notes.bad_tiles = self.monitor.get_state(), self.bad.get_state()
        best = self.notes.best.get("step") if self.chooser else None
        self.checkpoints.save(self.state, dataclasses.asdict(self.notes), None if best is None else int(best))

    def close(self) -> None:
        """Ends workers, writers and the saving in progress."""
        if self.progress:
            self.progress.close()
        if self.feed:
            self.feed.close()
        if self.writer:
            self.writer.close()
        if self.checkpoints:
            self.checkpoints.close()


def _fetch(metrics: list[dict[str, jax.Array]]) -> list[dict[str, float]]:
    """The device scalars of several steps as Python floats, in one transfer."""
    return [{name: float(value) for name, value in row.items()} for row in jax.device_get(metrics)]
