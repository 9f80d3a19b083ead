"""The report of tools/thesis.py: scores with intervals and paired tests, a picture over steps, what would be kept."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from histojax.common.files import read_json, replacing, write_atomic
from histojax.common.tables import write_table
from histojax.evaluation.comparison import compare
from histojax.evaluation.evaluators import chooser, evaluators
from histojax.evaluation.pairing import named_runs
from histojax.evaluation.results import Results
from histojax.report.paper_figure import Line, draw_lines
from histojax.report.paper_tables import markdown_table
from histojax.runs.metrics import METRICS, TIMING, read_metrics
from histojax.training.choice import better

METRIC = "balanced_accuracy"
EVALUATORS = {"knn": "20-NN", "logistic": "logistic probe"}
OWN = "tiles"  # the set of --tiles
HISTOGRAM = "colour_histogram"
WHITENED = "start_whitened"


def write_report(
    out: Path,
    title: str,
    judged: dict[str, dict[str, Results]],
    steps: dict[int, str],
    runs: Sequence[tuple[Path, Sequence[str]]],
    draws: int,
) -> None:
    """thesis.md, thesis.csv and thesis.png of {set: {encoder: results}}.

    `steps` names the encoders that are steps of the first of `runs`, the first of them the start; `runs` are folders of
    trainings, each with the leaves that were changed in it.
    """
    start = steps[min(steps)]
    titles = ["set", "encoder"]
    titles += [f"{name}{what}" for name in EVALUATORS.values() for what in ("", " against start", " against colour")]
    rows = [row for name, results in judged.items() for row in _rows(name, results, start, draws)]
    write_table(out / "thesis.csv", titles, rows)
    _draw(out / "thesis.png", judged[OWN], steps)
    split = read_json(out / "split" / "split.json")["words"]
    words = [
        f"# {title}",
        f"Tiles parted {split}.",
        "![scores over steps](thesis.png)",
        markdown_table(titles, rows),
        f"Balanced accuracy with 95 % bootstrap intervals; against `{start}` and `{HISTOGRAM}` the difference, its "
        "interval and p by the paired bootstrap (as `histojax compare`).",
        "\n".join(_effort(run, changes) for run, changes in runs),
        "## Which step would have been kept",
        markdown_table(*choices(runs[0][0])),
        "Validation tiles are a part of those to fit on, which training saw without their labels. RankMe and spread "
        "need no labels; how they mislead is told in histojax.training.choice. The columns of the test chose nothing.",
    ]
    write_atomic(out / "thesis.md", "\n\n".join(words) + "\n")


def _rows(name: str, results: dict[str, Results], start: str, draws: int) -> Iterable[list[str]]:
    """A row an encoder: scores with intervals, differences to the start and to colour with theirs."""
    for encoder, one in results.items():
        row = [name, encoder]
        for evaluator in EVALUATORS:
            score = _score(one, evaluator)
            row.append(f"{score.value:.3f} [{score.low:.3f}, {score.high:.3f}]")
            for other in (start, HISTOGRAM):
                row.append("" if other == encoder else _difference(results[other], one, evaluator, draws))
        yield row


def _difference(base: Results, other: Results, evaluator: str, draws: int) -> str:
    """How much better `other` is, its interval and p, over the test's patients, slides or tiles."""
    tables = compare(named_runs([base, other], ["base", "other"]), [METRIC], draws=draws).tables
    table = next(table for table in tables if table.evaluator == evaluator and table.metric == METRIC)
    test = table.pairs[0].patients  # of base - other
    gain, low, high = (f"{0.0 - round(x, 3):+.3f}" for x in (test.difference, test.high, test.low))
    return f"{gain} [{low}, {high}], p {test.p:.2g}"


def choices(run: Path) -> tuple[list[str], list[list[str]]]:
    """(titles, rows) of the evaluations of a training: what could choose, what each chooses, what the test says."""
    evaluations = [row for row in read_metrics(run / METRICS) if "rankme" in row]
    kept = {by: _chosen(chooser(evaluators(), by), evaluations) for by in ("knn", "rankme")}
    columns = {
        "validation 20-NN": "validation/knn_balanced_accuracy", "RankMe": "rankme", "spread": "eval_spread",
        "test 20-NN": "test/knn_balanced_accuracy", "test ridge probe": "test/ridge_balanced_accuracy",
    }  # fmt: skip
    rows = []
    for row in evaluations:
        cells = [f"{row[key]:.4g}" if key in row else "" for key in columns.values()]
        by = [name for name, step in kept.items() if step == row["step"]]
        rows.append([str(row["step"]), *cells, " and ".join(by)])
    return ["step", *columns, "chosen by"], rows


def _chosen(row: Any, evaluations: Sequence[dict[str, float]]) -> int | None:
    best: dict[str, Any] = {}
    for values in evaluations:
        best = better(row, int(values["step"]), values, evaluations[0], best) or best
    return best.get("step")


def _effort(run: Path, changes: Sequence[str]) -> str:
    """What a training changed, how much it saw and how long it took, from its own clock."""
    batch = read_json(run / "config.json")["config"]["batch_size"]
    last = read_metrics(run / TIMING)[-1:]
    seen = [f"{row['step']} steps of {batch} tiles in {row['train_seconds'] / 60:.0f} minutes" for row in last]
    return f"- `{run.name}`: " + "; ".join([*seen, *(f"`{change}`" for change in changes)])


def _draw(path: Path, results: dict[str, Results], steps: dict[int, str]) -> None:
    """Scores over steps; dotted lines are those of colour, dashed ones those of the whitened start."""
    figure = draw_lines(
        [_line(results, evaluator, steps) for evaluator in EVALUATORS],
        [],
        "Continued training, judged on held-out tiles",
        ["dotted: colour histogram; dashed: the start, whitened; bands: 95 % bootstrap intervals of the test"],
    )
    axes = figure.axes[0]
    colours = [line.get_color() for line in axes.lines]
    for colour, evaluator in zip(colours, EVALUATORS):
        for name, style in ((HISTOGRAM, ":"), (WHITENED, "--")):
            axes.axhline(_score(results[name], evaluator).value, color=colour, linestyle=style, linewidth=0.9)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130)


def _score(results: Results, evaluator: str) -> Any:
    score = results.score(evaluator, METRIC)
    assert score is not None
    return score


def _line(results: dict[str, Results], evaluator: str, steps: dict[int, str]) -> Line:
    scores = [_score(results[name], evaluator) for _, name in sorted(steps.items())]
    kinds = ([getattr(score, kind) for score in scores] for kind in ("value", "low", "high"))
    return Line(EVALUATORS[evaluator], sorted(steps), *kinds)
