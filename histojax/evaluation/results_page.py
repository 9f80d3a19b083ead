"""The report of an evaluation: one HTML file that needs nothing but itself.

Shown is what the results hold; of their facts these keys have a place of their own, all others stand with the settings:

notes        sentences, shown first
leakage      of evaluation.leakage.Leaks.facts, or sentences
features     of evaluation.provenance.features_facts, or {"train": ..., "test": ...}
run, command the folder of the training run that the weights are from, or the command line with it
curves       {title: {name of a line: [[x, y], ...]}}: losses of heads ...
few_shot     rows {"shots": 1, "mean": 0.7, ...}
settings     of the evaluation; retrieval, robustness: names and numbers
"""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from histojax import __version__
from histojax.common.files import expanded, make_folder
from histojax.evaluation import pictures as shown
from histojax.evaluation import provenance
from histojax.evaluation import results_figures as drawn
from histojax.evaluation.facts_page import curves, few_shot, first_of_all, told, words_of
from histojax.evaluation.pictures import Pictures
from histojax.evaluation.results import TEST, Results, Score
from histojax.report.page import Chain, Folded, Page, Part, Section, Table, Text, write_page

__all__ = ["REPORT", "Pictures", "write_report"]
REPORT = "report.html"
OWN_SECTIONS = ("retrieval", "robustness")
_PLACED = ("notes", "leakage", "features", "run", "curves", "settings", "few_shot", *OWN_SECTIONS)


def write_report(folder: str | os.PathLike, results: Results, pictures: Pictures | None = None) -> Path:
    """The file `folder`/report.html, written whole; raises UserError.

    Args:
        folder: of the results; made if it is missing.
        results: what `write_results` takes.
        pictures: features and tiles of the test part; without them the report has no PCA, neighbours and images.
    """
    folder = expanded(folder)
    make_folder(folder)
    page = Page(_title(results), _subtitle(results), list(_sections(results, pictures)), f"histojax {__version__}")
    write_page(folder / REPORT, page)
    return folder / REPORT


def _title(results: Results) -> str:
    what = "tiles" if results.protocol == "patch" else "patients"
    return f"{results.name}: {results.target} of {what}"


def _subtitle(results: Results) -> str:
    parts = [f"histojax evaluate {results.protocol}", results.task]
    what = "tiles" if results.protocol == "patch" else "units"
    for part in _parts(results):
        units = {str(unit) for one in results.predictions if one.part == part for unit in one.units}
        parts.append(f"{part}: {len(units):,} {what}")
    if results.classes:
        parts.append("classes " + ", ".join(results.classes))
    return "  ·  ".join(parts)


def _parts(results: Results) -> list[str]:
    return list(dict.fromkeys(one.part for one in results.predictions))


def _sections(results: Results, pictures: Pictures | None) -> Iterator[Section]:
    facts, run = results.facts, provenance.run_of(results.facts, results.name)
    yield Section("To know first", list(first_of_all(facts)))
    yield Section("Scores", list(_scores(results)))
    for part in _parts(results):
        where = "" if part == TEST else f": {part}"
        yield Section(f"ROC{where}", list(drawn.roc_pictures(results, part)))
        table = drawn.class_table(results, part)
        confusion: list[Part] = [*drawn.confusion_pictures(results, part), *([table] if table else [])]
        yield Section(f"Confusion{where}", confusion)
        yield Section(f"Calibration{where}", list(drawn.calibration_pictures(results, part)))
        title = "Survival" if results.task == "survival" else "Agreement"
        yield Section(f"{title}{where}", list(drawn.number_pictures(results, part)))
    yield Section("Few-shot", list(few_shot(facts.get("few_shot"))))
    for key in OWN_SECTIONS:
        yield Section(words_of(key), list(told(facts.get(key))))
    yield from _of_pictures(results, pictures)
    yield Section("Curves", list(curves(facts, run)))
    yield Section("From slides to score", list(_provenance(results, run)))
    rest = {key: value for key, value in facts.items() if key not in _PLACED}
    if isinstance(rest.get("command"), list):
        rest["command"] = shlex.join(map(str, rest["command"]))
    yield Section("Settings", [*told(facts.get("settings")), *told(rest)])


# scores


def _scores(results: Results) -> Iterator[Part]:
    bars = drawn.score_bars(results)
    yield from [bars] if bars else []
    for part in dict.fromkeys(score.part for score in results.scores):
        chosen = [one for one in results.scores if one.part == part and one.fold is None]
        if chosen:
            several = len(_parts(results)) > 1 or part != TEST
            yield from [Text((f"Part {part}:",))] if several else []
            yield _score_table(chosen)
        single = [one for one in results.scores if one.part == part and one.fold is not None]
        if single:
            rows = [(one.evaluator, str(one.fold), drawn.metric_words(one.metric), _value(one)) for one in single]
            yield Folded(f"Each fold's model ({part})", [Table(("evaluator", "fold", "metric", "value"), rows)])


def _score_table(scores: Sequence[Score]) -> Table:
    """A row a metric, a column an evaluator; the best of each row stands out."""
    evaluators = list(dict.fromkeys(one.evaluator for one in scores))
    metrics = list(dict.fromkeys(one.metric for one in scores))
    known = {(one.metric, one.evaluator): one for one in scores}
    rows, bold = [], set()
    for i, metric in enumerate(metrics):
        found = [known.get((metric, name)) for name in evaluators]
        values = [one.value if one else math.nan for one in found]
        if len(evaluators) > 1 and np.isfinite(values).any():
            best = np.nanmin(values) if metric in drawn.SMALLER_IS_BETTER else np.nanmax(values)
            bold |= {(i, j + 1) for j, value in enumerate(values) if value == best}
        rows.append((drawn.metric_words(metric), *(_value(one) if one else "–" for one in found)))
    return Table(("metric", *evaluators), rows, frozenset(bold), _how(scores))


def _how(scores: Sequence[Score]) -> str:
    """What the numbers are: in general, and of the metrics of which it is something else."""
    metrics: dict[str, list[str]] = {}
    for one in scores:
        if one.how:
            metrics.setdefault(one.how, []).append(drawn.metric_words(one.metric))
    ordered = sorted(metrics, key=lambda how: -len(metrics[how]))
    others = (f"{', '.join(dict.fromkeys(metrics[how]))}: {how}." for how in ordered[1:])
    return " ".join([f"{how}." for how in ordered[:1]] + list(others))


def _value(score: Score) -> str:
    if not math.isfinite(score.value):
        return "–"
    spread = f" ± {score.spread:.3f}" if math.isfinite(score.spread) else ""
    interval = f" [{score.low:.3f}, {score.high:.3f}]" if math.isfinite(score.low + score.high) else ""
    return f"{score.value:.3f}{spread}{interval}"


# pictures


def _of_pictures(results: Results, pictures: Pictures | None) -> Iterator[Section]:
    name = shown.spokesman(results)
    folds = [one for one in results.predictions if (one.part, one.evaluator) == (TEST, name)]
    mistakes = shown.worst_mistakes(folds)
    if pictures is not None:
        yield Section("Features", list(shown.pca_pictures(pictures)))
        yield Section("Nearest neighbours", list(shown.neighbour_pictures(pictures, mistakes)))
    if mistakes:
        grid = None if pictures is None else shown.mistake_picture(mistakes, pictures)
        table = shown.mistake_table(mistakes, results.classes)
        words = Text((f"The mistakes that {name} made with the highest probability.",))
        yield Section("Worst mistakes", [words, grid, Folded("In words", [table])] if grid else [words, table])


# facts


def _provenance(results: Results, run: Path | None) -> Iterator[Part]:
    known = provenance.run_facts(run) if run is not None else {}
    metric = drawn.headline(results)
    found = {
        f"{score.evaluator}, {score.part}": f"{drawn.metric_words(metric)} {_value(score)}"
        for score in results.scores
        if score.metric == metric and score.fold is None
    }
    features = results.facts.get("features")
    yield Chain(provenance.chain(features, known, {"of": results.target, **found}))
    if features:
        yield Folded("All that the feature files say", list(told(features)))
    if run is not None and (config := provenance.run_config(run)):
        yield Folded("The configuration of the training run", list(told(config)))
