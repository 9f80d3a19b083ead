"""A row of Table 1: features of the slides of both cohorts, computed once, and what the slide protocol says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from histojax.common.errors import UserError
from histojax.common.files import expanded
from histojax.evaluation.cohort import Cohort, read_cohort, read_means
from histojax.evaluation.leakage import Cases, check_leaks, refuse_leaks
from histojax.evaluation.mil.settings import TrainSettings
from histojax.evaluation.paper import settings
from histojax.evaluation.paper.numbers import CPTAC, FOLDS, TABLE_1
from histojax.evaluation.paper.plan import question
from histojax.evaluation.paper.settings import Benchmark, Row
from histojax.evaluation.results import Results
from histojax.evaluation.slide_folds import Judge
from histojax.evaluation.slide_protocol import SlideSettings, choose_folds, evaluate_slides
from histojax.features.asked import Asked, Wanted, run_here
from histojax.features.folder import JobFolder, geometry_name
from histojax.slides.settings import TileSettings

MODEL = TABLE_1[0].evaluator
TILES = TileSettings(tile_px=256, mpp=1.0, tissue="histobistro", checks=())  # as the paper's pipeline cuts slides


def score(row: Row, benchmark: Benchmark, where: dict[str, str], out: Path, say: Callable) -> Results:
    """The results of one encoder.

    Args:
        row, benchmark: what is asked for.
        where: {"cohort": its folder, "external": that of the external cohort, "" without}.
        out: features go to its folder `features`, heads and folds to `folds`; what is there is taken.
        say: is told what is done.

    Raises UserError for weights, slides or tables that cannot be used, and for a leak that is not allowed.
    """
    own = _judge(row, benchmark, benchmark.internal, out / "features" / "cohort")
    external = {}
    if where["external"]:
        external[CPTAC] = _judge(row, benchmark, benchmark.external, out / "features" / "external")
    leaks = check_leaks(
        _cases("training", own.cohort), [_cases(name, one.cohort) for name, one in external.items()], [], row.spec
    )
    for sentence in refuse_leaks(leaks, benchmark.allow_leaks, "config.allow_leaks=true"):
        say(f"leakage: {sentence}")
    say(f"{row.name}: {own.cohort.summary()}")
    folds, notes = choose_folds(own.cohort, FOLDS, benchmark.seed)
    asked = SlideSettings(
        (MODEL,), TrainSettings(epochs=benchmark.epochs, seed=benchmark.seed), benchmark.draws, row.title
    )
    facts = {"notes": notes, "leakage": leaks.facts(benchmark.allow_leaks)}
    return evaluate_slides(out / "folds" / row.folder, own, folds, asked, external, facts, _telling(row, say))


def _judge(row: Row, benchmark: Benchmark, cohort: settings.Cohort, out: Path) -> Judge:
    folder = _given(row, cohort) if cohort.features else _extracted(row, benchmark, cohort, out)
    table = cohort.table or None
    return Judge(*read_means(read_cohort([folder], cohort.clini, table, question(benchmark), benchmark.choice)))


def _given(row: Row, cohort: settings.Cohort) -> Path:
    """The folder of a row's features among those that were extracted before."""
    root = expanded(cohort.features)
    name = f"features_{row.folder}"
    found = [
        path for path in (root, root / name, *sorted(root.glob(f"*/{name}"))) if path.name == name and path.is_dir()
    ]
    if not found:
        raise UserError(
            f"{root}: no folder {name} there; extract with --encoder {row.folder}={row.spec}, or give slides"
        )
    return found[0]


def _extracted(row: Row, benchmark: Benchmark, cohort: settings.Cohort, out: Path) -> Path:
    asked = Asked(
        (Wanted(f"{row.folder}={row.spec}", row.weights),),
        (cohort.slides,),
        str(out),
        TILES,
        mpp=cohort.mpp,
        kind="slides",
        dtype=benchmark.dtype,
        offline=benchmark.offline,
        batch_size=benchmark.batch_size,
    )
    summary = run_here(asked, workers=benchmark.workers)
    if not any(report.tiles for report in summary.reports):
        raise UserError(f"{cohort.slides}: no slide gave features; see {summary.base / 'failed.csv'}")
    return out / JobFolder(out, geometry_name(asked.work().geometry)).within(row.folder)


def _cases(name: str, cohort: Cohort) -> Cases:
    return Cases(name, np.unique(cohort.patients).tolist(), list(cohort.files))


def _telling(row: Row, say: Callable) -> Callable:
    """Says each fold once."""
    told: set[str] = set()

    def tell(fold: str, done: int, total: int, values: object) -> None:
        if fold not in told:
            told.add(fold)
            say(f"{row.name}: {fold}, {done} of {total} steps done")

    return tell
