"""An extraction as the command line asks for it: plain values that can be sent to another machine and done there."""

from __future__ import annotations

import dataclasses
import math
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import jax
import numpy as np

from histojax.common.errors import UserError
from histojax.common.files import expanded
from histojax.common.progress import Progress
from histojax.common.work import Outcome, cluster_gpus, run
from histojax.data.slide_marks import NO_MARKS, Marks
from histojax.features.clam_folder import write_clam
from histojax.features.device import Devices, Model, automatic_size, check_tokens
from histojax.features.extract import extract
from histojax.features.finished import Written
from histojax.features.folder import DONE, FAILED, QUARANTINED, JobFolder, Report, geometry_name
from histojax.features.jobs import Job, Work, find_work
from histojax.features.summary import Summary, joined, reason_of, told
from histojax.slides.settings import TileSettings
from histojax.zoo.encoder import load_encoder
from histojax.zoo.run_weights import find_run
from histojax.zoo.table import find, is_known

WITHIN_A_RUN = {"export", "meta", "timm", "checkpoints", "model.safetensors"}  # no name of their own
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


@dataclass(frozen=True)
class Wanted:
    """One encoder: NAME, PATH of a run or weights, or FOLDER=NAME to file its features under another name."""

    spec: str
    weights: str | None = None

    def split(self) -> tuple[str, str]:
        """(name of the folder, "" for that of the encoder; what to load)."""
        folder, equals, what = self.spec.partition("=")
        if not equals or expanded(self.spec).exists():
            return "", self.spec
        if not NAME.fullmatch(folder) or not what:
            raise UserError(f"--encoder {self.spec}: expected FOLDER=NAME, FOLDER of letters, digits and . _ + -")
        return folder, what


@dataclass(frozen=True)
class Asked:
    """Everything that decides the files of an extraction, and how it is computed.

    Args:
        encoders: one or more.
        inputs: as given by `--input`.
        out: folder.
        settings: of tiles from slides.
        mpp: of slides that do not tell theirs.
        marks: annotations that slides are cut by.
        slides_dir: where the files of a table lie.
        kind: of the inputs, a key of jobs.KINDS.
        which: teacher or student.
        pooling, positions: other than the encoder's own.
        dtype: of the matrix products.
        save: dtype of the numbers in the files.
        tokens: whether patch tokens are kept.
        commercial, offline: as of load_encoder.
        batch_size: tiles of a batch over all devices; None: by device and input.
        clam: whether CLAM's folder is made, too.
        of_slides: the flags that were given and say how slides are cut.
    """

    encoders: tuple[Wanted, ...]
    inputs: tuple[str, ...]
    out: str
    settings: TileSettings
    mpp: float | None = None
    marks: Marks = NO_MARKS
    slides_dir: str | None = None
    kind: str = "auto"
    which: str | None = None
    pooling: str | None = None
    positions: str | None = None
    dtype: str = "float32"
    save: str = "float32"
    tokens: bool = False
    commercial: bool = False
    offline: bool = False
    batch_size: int | None = None
    clam: bool = False
    of_slides: tuple[str, ...] = ()

    def work(self) -> Work:
        """What there is to do."""
        work = find_work(self.inputs, self.settings, self.mpp, self.kind, self.marks, self.slides_dir)
        if self.of_slides and work.sources:
            why = "is cut already" if work.settings else "is read as patches (--kind slides: its images are slides)"
            raise UserError(f"{self.of_slides[0]} is for slides, and {self.inputs[0]} {why}; leave the flag out")
        if self.clam and work.settings is None:
            raise UserError(f"--clam is for slides, and {self.inputs[0]} is read as patches; leave the flag out")
        return work

    def models(self) -> list[Model]:
        """The encoders, loaded; raises UserError for two of one name."""
        models: list[Model] = []
        for wanted in self.encoders:
            folder, what = wanted.split()
            encoder = load_encoder(
                what,
                wanted.weights,
                which=self.which,
                pooling=self.pooling,
                positions=self.positions,
                commercial=self.commercial,
                offline=self.offline,
                dtype=self.dtype,
            )
            model = Model(folder or _folder_of(what, encoder.record.name), encoder, self.tokens)
            check_tokens(model)
            if any(one.name == model.name for one in models):
                raise UserError(
                    f"--encoder {wanted.spec}: features of {model.name} are asked for twice; name one "
                    f"otherwise, --encoder other={what}"
                )
            models.append(model)
        return models

    def written(self, work: Work) -> Written:
        """Where the files go."""
        folder = JobFolder(expanded(self.out), geometry_name(work.geometry))
        return Written(folder, work, self.save, self.dtype)


def _folder_of(what: str, record: str) -> str:
    """The name under which features are filed: of a path its own, mine of runs/mine and mine_200 of a checkpoint."""
    path = expanded(what)
    name = record
    if path.exists() and not is_known(what):
        own = [part for part in path.absolute().parts if part not in WITHIN_A_RUN]
        name = f"{own[-2]}_{own[-1]}" if own[-1].isdigit() else Path(own[-1]).stem
    return re.sub(r"[^A-Za-z0-9._+-]+", "_", name)


def folder_names(encoders: Sequence[Wanted]) -> list[str]:
    """The names under which the features of encoders are filed, without loading any."""
    names = []
    for wanted in encoders:
        folder, what = wanted.split()
        names.append(folder or _folder_of(what, find(what).name if is_known(what) else what))
    return names


def run_here(asked: Asked, *, workers: int, shard: tuple[int, int] = (0, 1)) -> Summary:
    """The summary of an extraction by this process and its workers."""
    work = asked.work()
    models = asked.models()
    written = asked.written(work)
    written.begin(models)
    _say_tokens(models, written)
    mine = dataclasses.replace(work, jobs=work.jobs[shard[0] :: shard[1]])
    parts = []
    for lacking, jobs in by_missing(written, models, mine.jobs):
        devices = Devices(lacking, asked.batch_size or automatic_size(models, len(jax.local_devices())))
        try:
            part = dataclasses.replace(mine, jobs=tuple(jobs))
            parts.append(extract(part, devices, written, workers=workers, wanted=models))
        finally:
            devices.close()
    summary = joined(parts, mine.jobs)
    _beside(asked, models, written, summary)
    return _told(summary, written)


def _say_tokens(models: Sequence[Model], written: Written) -> None:
    """How large the patch tokens will be, before hours have gone into them."""
    each = sum(math.prod(model.widths[1]) for model in models if model.tokens) * np.dtype(written.save).itemsize
    if not each:
        return
    said = f"patch tokens: {each / 1e6:,.2f} MB a tile"
    if (total := written.work.total) is not None:
        free = shutil.disk_usage(written.folder.base).free
        said += f", {each * total / 1e9:,.1f} GB for {total:,} tiles ({free / 1e9:,.1f} GB are free)"
    half = "" if written.save == "float16" else "; --save float16 halves them"
    print(f"{said}{half}", file=sys.stderr)


def _beside(asked: Asked, models: Sequence[Model], written: Written, summary: Summary) -> None:
    """CLAM's folder of the slides that are done, where it is wanted."""
    for report in summary.reports if asked.clam else ():
        if report.state == DONE:
            for model in models:
                write_clam(written.folder, model.name, report.slide)


def by_missing(
    written: Written, models: Sequence[Model], jobs: Sequence[Job]
) -> list[tuple[Sequence[Model], Sequence[Job]]]:
    """The jobs by the encoders whose files they lack: another encoder is added without computing the first again."""
    if len(models) == 1 or not jobs:
        return [(models, jobs)]
    parts: dict[tuple[Model, ...], list[Job]] = {}
    for job in jobs:
        lacking = tuple(model for model in models if not written.has(model, job))
        parts.setdefault(lacking or tuple(models), []).append(job)
    return list(parts.items())


def run_on_ray(asked: Asked, *, workers: int, shard: tuple[int, int] = (0, 1)) -> Summary:
    """The summary of an extraction whose slides are tasks on a Ray cluster, each with a GPU where there are any.

    All machines see the inputs, the weights and the output under the same paths.
    """
    gpus = 1.0 if cluster_gpus() else 0.0
    jax.config.update("jax_platforms", "cpu")  # this process only looks after the others
    work = asked.work()
    models, written = asked.models(), asked.written(work)
    written.begin(models)
    _say_tokens(models, written)
    jobs = list(work.jobs)[shard[0] :: shard[1]]
    summary = Summary(notes=list(work.notes))
    progress = Progress(len(jobs), unit="slide", items="tiles")
    reports: dict[str, Report] = {}
    by_name = {job.name: job for job in jobs}
    units = [(_absolute(asked), name) for name in by_name]
    try:
        for outcome in run(extract_one, units, workers, executor="ray", gpus=gpus):
            report, tiles, notes = _of_outcome(outcome, by_name)
            reports[report.slide] = report
            summary.tiles += tiles
            summary.notes += notes
            summary.before += not tiles and not report.reason
            if report.reason:
                progress.note(f"{report.path}: {report.state}: {report.reason}")
            progress.update(len(reports), tiles)
    finally:
        progress.close()
    summary.reports = [reports[job.name] for job in jobs]
    summary.seconds = progress.elapsed_seconds
    return _told(summary, written)


def _told(summary: Summary, written: Written) -> Summary:
    """The same, in the tables of the folder and with what is said at the end."""
    summary.base, summary.left_out = written.folder.base, written.work.left_out
    written.folder.summarise(summary.reports)
    return summary


def _of_outcome(outcome: Outcome, jobs: dict[str, Job]) -> tuple[Report, int, list[str]]:
    if not outcome.error:
        return outcome.value
    job = jobs[outcome.unit[1]]
    state = QUARANTINED if outcome.quarantined else FAILED
    return told(Report(job.name, job.path, state=state, reason=reason_of(outcome)), job), 0, []


def _absolute(asked: Asked) -> Asked:
    """The same for a process in another folder."""

    def whole(text: str | None) -> str | None:
        return str(expanded(text).absolute()) if text is not None and expanded(text).exists() else text

    encoders = tuple(_wanted_at(one, whole) for one in asked.encoders)
    inputs = tuple(str(whole(text)) for text in asked.inputs)
    out = str(expanded(asked.out).absolute())
    marks = dataclasses.replace(asked.marks, include=whole(asked.marks.include), exclude=whole(asked.marks.exclude))
    placed = dataclasses.replace(asked, encoders=encoders, inputs=inputs, out=out, marks=marks)
    return dataclasses.replace(placed, slides_dir=whole(asked.slides_dir))


def _wanted_at(one: Wanted, whole: Callable[[str | None], str | None]) -> Wanted:
    folder, what = one.split()
    found = what if find_run(expanded(what)) is None and "/" not in what else str(whole(what))
    return Wanted(f"{folder}={found}" if folder else found, whole(one.weights))


@lru_cache(maxsize=1)
def _ready(asked: Asked) -> tuple[Work, list[Model]]:
    """What a worker process needs for every slide of an extraction."""
    return asked.work(), asked.models()


@lru_cache(maxsize=2)
def _devices(asked: Asked, names: tuple[str, ...]) -> Devices:
    """The devices of a worker process with the encoders of these names."""
    models = _ready(asked)[1]
    size = asked.batch_size or automatic_size(models, len(jax.local_devices()))
    return Devices([model for model in models if model.name in names], size)


def extract_one(unit: tuple[Asked, str]) -> tuple[Report, int, list[str]]:
    """(report, tiles computed now, notes) of one slide; runs in a worker process. Raises UserError."""
    asked, name = unit
    work, models = _ready(asked)
    one = dataclasses.replace(work, jobs=tuple(job for job in work.jobs if job.name == name), notes=())
    written = asked.written(work)
    ((lacking, _),) = by_missing(written, models, one.jobs)
    devices = _devices(asked, tuple(model.name for model in lacking))
    summary = extract(one, devices, written, workers=0, show=False, wanted=models)
    _beside(asked, models, written, summary)
    return summary.reports[0], summary.tiles, summary.notes
