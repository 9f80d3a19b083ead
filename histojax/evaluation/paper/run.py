"""The benchmark: every row once, its scores kept, and the tables and the figure written anew each time.

OUT/features/{train,test}/features_ENCODER/   what was extracted (features of slides: features/{cohort,external})
OUT/results/ENCODER/                          results.json and predictions.csv of a row
OUT/table*.{csv,md,png}, figure2.*, others_*.*
OUT/benchmark.md, benchmark.json              all of it on one page; verdicts and holes for programs
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from histojax import __version__
from histojax.common.errors import UserError
from histojax.common.files import make_folder, read_json, write_atomic
from histojax.common.tables import write_table
from histojax.evaluation.paper import at_hand
from histojax.evaluation.paper.cells import Cell
from histojax.evaluation.paper.figure import cells_of, curve_of, write_figure
from histojax.evaluation.paper.plan import Plan
from histojax.evaluation.paper.settings import Benchmark, Row
from histojax.evaluation.paper.tables import Table, encoder_table, holes, others_msi, others_table, score_table
from histojax.evaluation.paper.write_tables import markdown, write_all
from histojax.evaluation.results import RESULTS, Results, read_results, write_results
from histojax.report.paper_tables import markdown_table
from histojax.zoo.table import find, is_known

Scorer = Callable[[Row, Benchmark, dict[str, str], Path, Callable], Results]  # patch_scores.score, slide_scores.score
BEFORE = "step 0000000"
REPORT, FACTS = "benchmark.md", "benchmark.json"


@dataclass(frozen=True)
class Outcome:
    """What came of a benchmark: its tables, and the cells of Figure 2 (none for slides)."""

    tables: tuple[Table, ...]
    figure: tuple[Cell, ...] = ()

    @property
    def holes(self) -> dict[tuple[str, str], list[str]]:
        """{(row, why): columns} of the tables."""
        return holes(self.tables)

    @property
    def verdicts(self) -> dict[str, int]:
        """{verdict: cells} of the tables but those of others."""
        found: dict[str, int] = {}
        for cell in (cell for table in self.tables if not table.optional for cell in table.cells):
            found[cell.verdict] = found.get(cell.verdict, 0) + 1
        return found


def run(benchmark: Benchmark, plan: Plan, out: Path, score: Scorer, say: Callable = print) -> Outcome:
    """Computes what is missing, writes all files below `out`, and tells what came of it.

    Args:
        benchmark, plan: see paper.plan.
        out: folder; the same command goes on in it.
        score: of a row, by the protocol.
        say: is told what is done.
    """
    make_folder(out)
    say = _once(say)
    if benchmark.protocol == "patch" and not plan.another:
        benchmark = replace(benchmark, allow_leaks=True)  # the paper's own split: leaks are told, not refused
    found = {row.name: _row(row, benchmark, plan, out, score, say) for row in benchmark.rows}
    tables = [score_table(benchmark.protocol, benchmark.rows, found, plan.another, plan.no_part)]
    tables.append(encoder_table(benchmark.protocol, benchmark.rows))
    figure: list[Cell] = []
    if benchmark.protocol == "patch":
        tables.append(others_table(benchmark.rows, found, plan.another))
        figure = _figure(benchmark, plan, out, score, say)
    outcome = Outcome(tuple(tables), tuple(figure))
    _write(benchmark, plan, outcome, out)
    return outcome


def _once(say: Callable) -> Callable:
    """The same, but what is said of leaks in every row is said once."""
    heard: set[str] = set()

    def tell(text: str) -> None:
        if not text.startswith("leakage: ") or text not in heard:
            say(text)
        heard.add(text)

    return tell


def _row(row: Row, benchmark: Benchmark, plan: Plan, out: Path, score: Scorer, say: Callable) -> Results | str:
    """The results of a row, from its folder or computed; or why there are none."""
    if plan.lacking:
        return plan.lacking
    weights = plan.weights.get(row.name) or at_hand.look_for_weights(row, benchmark.offline)
    if weights.state == at_hand.MISSING:
        return weights.said
    folder, stamp = out / "results" / row.folder, _stamp(row, benchmark, plan)
    try:
        if _stamped(folder) == stamp:
            say(f"{row.name}: done before")
            return read_results(folder)
        say(f"{row.name}: {row.spec}")
        where = {part: one.where for part, one in plan.data.items()}
        results = score(row, benchmark, where, out, say)
        facts = {**results.facts, "benchmark": stamp}
        results = replace(results, facts=facts)
        make_folder(folder)
        write_results(folder, results)
    except UserError as error:
        say(f"{row.name}: hole: {error}")
        return str(error)
    return results


def _stamp(row: Row, benchmark: Benchmark, plan: Plan) -> dict[str, Any]:
    """What decides the scores of a row, as JSON gives it back."""
    data = {part: [one.where, dict(one.counts)] for part, one in plan.data.items()}
    keys = (*("protocol", "target", "classes", "choice", "epochs", "seed", "draws", "dtype", "internal", "external"),)
    settings = {key: value for key, value in asdict(benchmark).items() if key in keys}
    return json.loads(json.dumps({"spec": row.spec, "weights": row.weights, "data": data, **settings}))


def _stamped(folder: Path) -> dict[str, Any] | None:
    if not (folder / RESULTS).is_file():
        return None
    return read_json(folder / RESULTS).get("facts", {}).get("benchmark")


def _figure(benchmark: Benchmark, plan: Plan, out: Path, score: Scorer, say: Callable) -> list[Cell]:
    """Cells of Figure 2, and its files; without a training only the points of the paper, as holes."""
    rows = {point.step: Row(point.label, str(point.path)) for point in plan.points}
    before = "" if 0 in rows else _before(benchmark)
    if before:
        rows[0] = Row(BEFORE, before)
    found: dict[int, Results | str] = {
        step: _row(row, benchmark, plan, out, score, say) for step, row in sorted(rows.items())
    }
    if not plan.points:
        curve = curve_of(benchmark.run_row)
        found = dict.fromkeys((0, curve.step) if curve else (), plan.no_points)
    cells = cells_of(found, benchmark.run_row, plan.another)
    if cells:
        name = benchmark.run_row or Path(benchmark.run).name
        write_figure(out, cells, f"Figure 2: {name}, score over training steps", _of_before(before))
    return cells


def _before(benchmark: Benchmark) -> str:
    """The published encoder, or file, that the training began with; "" where it began at random or is not told."""
    if not benchmark.run:
        return ""
    try:
        weights = str(read_json(Path(benchmark.run).expanduser() / "config.json")["config"]["model"]["weights"])
    except (UserError, KeyError, TypeError):
        return ""
    if not is_known(weights):
        return ""
    curve = curve_of(benchmark.run_row)
    as_run = {row.name: row.spec for row in benchmark.rows if row.paper}.get(curve.before, "") if curve else ""
    same_file = bool(as_run) and find(as_run).weights == find(weights).weights
    return as_run if same_file else weights


def _of_before(before: str) -> list[str]:
    return [f"Step 0: {before}, with the input size of its own."] if before else []


def _write(benchmark: Benchmark, plan: Plan, outcome: Outcome, out: Path) -> None:
    for table in outcome.tables:
        write_all(out, table)
    if benchmark.protocol == "slide":
        write_table(out / "others_msi.csv", *others_msi())
    write_atomic(out / REPORT, page(benchmark, plan, outcome))
    facts = {
        "histojax": __version__,
        "name": benchmark.name,
        "protocol": benchmark.protocol,
        "rows": {row.name: {"encoder": row.spec, "weights": row.weights} for row in benchmark.rows},
        "data": {
            part: {"state": one.state, "where": one.where, "tiles": dict(one.counts)} for part, one in plan.data.items()
        },
        "not_compared": plan.another,
        "verdicts": outcome.verdicts,
        "holes": [{"row": row, "why": why, "columns": names} for (row, why), names in outcome.holes.items()],
    }
    write_atomic(out / FACTS, json.dumps(facts, indent=1) + "\n")


def page(benchmark: Benchmark, plan: Plan, outcome: Outcome) -> str:
    """benchmark.md: every table with its picture."""
    parts = [f"# {benchmark.name}\n", f"{summary(outcome)}\n"]
    if plan.another:
        parts.append(f"Nothing is compared with the paper: {plan.another}.\n")
    for table in outcome.tables:
        parts += [markdown(table), f"![{table.title}]({table.key}.png)\n"]
    if outcome.figure:
        parts += ["## Figure 2\n", "![Figure 2](figure2.png), numbers in [figure2.md](figure2.md)\n"]
    if benchmark.protocol == "slide":
        parts += ["## Published by others: MSI\n", markdown_table(*others_msi())]
    return "\n".join(parts)


def summary(outcome: Outcome) -> str:
    """One line: cells by verdict."""
    counts: Mapping[str, int] = outcome.verdicts
    return f"{sum(counts.values())} cells: " + ", ".join(f"{number} {name}" for name, number in counts.items())
