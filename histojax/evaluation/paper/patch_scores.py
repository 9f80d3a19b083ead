"""A row of Table 2: features of the training and the test tiles, computed once, and what the patch protocol says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from histojax.evaluation.leakage import check_leaks, refuse_leaks
from histojax.evaluation.paper.settings import Benchmark, Row
from histojax.evaluation.patch_input import PatchSet
from histojax.evaluation.patch_protocol import PatchSettings, cases_of, evaluate_patch
from histojax.evaluation.patch_tiles import Computing, extract_patches
from histojax.evaluation.results import Results
from histojax.features.asked import Wanted


def score(row: Row, benchmark: Benchmark, where: dict[str, str], out: Path, say: Callable) -> Results:
    """The results of one encoder.

    Args:
        row, benchmark: what is asked for.
        where: {"train": its path, "test": its path}.
        out: features go to its folder `features`, hashes of the tiles (for leaks) to `hashes`; what is there is taken.
        say: is told what is done.

    Raises UserError for weights or tiles that cannot be used, and for a leak that is not allowed.
    """
    train, test = (_features(row, benchmark, where[part], out, part) for part in ("train", "test"))
    leaks = check_leaks(cases_of("training", train), [cases_of("test", test)], [], _encoder(train))
    for sentence in refuse_leaks(leaks, benchmark.allow_leaks, "config.allow_leaks=true"):
        say(f"leakage: {sentence}")
    settings = PatchSettings(draws=benchmark.draws, seed=benchmark.seed, shots=())
    results = evaluate_patch(train, test, settings, row.title, say).results
    return replace(results, facts={**results.facts, "leakage": leaks.facts(benchmark.allow_leaks)})


def _features(row: Row, benchmark: Benchmark, spec: str, out: Path, part: str) -> PatchSet:
    how = Computing(
        benchmark.workers, benchmark.dtype, benchmark.batch_size, offline=benchmark.offline, commercial=False
    )
    made = extract_patches(spec, [Wanted(f"{row.folder}={row.spec}", row.weights)], out / "features" / part, how)
    return made.read(row.folder, hashes=out / "hashes")


def _encoder(one: PatchSet) -> str:
    return one.headers[0].origin.encoder if one.headers else ""
