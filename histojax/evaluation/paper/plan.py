"""What a benchmark has and what it lacks, told before anything is computed (--dry-run)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from histojax.common.errors import UserError
from histojax.common.files import expanded
from histojax.evaluation.cohort_tables import Question, read_clinical
from histojax.evaluation.paper import at_hand, datasets
from histojax.evaluation.paper.datasets import (
    CPTAC_CRC,
    NCT_TEST,
    NCT_TRAIN,
    TCGA_CRC,
    Found,
    PatchData,
    look_for_patches,
    look_for_slides,
)
from histojax.evaluation.paper.figure import Point, points_of
from histojax.evaluation.paper.numbers import CPTAC
from histojax.evaluation.paper.settings import Benchmark, Cohort, Row

CLINI, TABLE = "clinical table", "slide table"
NEAR = 0.05  # of the paper's number of patients: the same cohort, some of whose slides could not be had


@dataclass(frozen=True)
class Plan:
    """What there is of a benchmark.

    Args:
        data: {part: what is there}: train and test, or cohort and external.
        weights: {row: whether its weights are here}.
        points: steps of Figure 2.
        no_points: why there are none, "" where there are or none are asked for.
    """

    data: dict[str, Found]
    weights: dict[str, at_hand.AtHand]
    points: tuple[Point, ...] = ()
    no_points: str = ""

    @property
    def lacking(self) -> str:
        """Why nothing can be computed, "" if something can: no data to fit on, or none to report."""
        needed = [name for name in self.data if name != "external"]
        missing = [self.data[name] for name in needed if self.data[name].state == datasets.MISSING]
        return "; ".join(sentence for one in missing for sentence in one.said)

    @property
    def no_part(self) -> dict[str, str]:
        """{part of the slide results: why it is missing}."""
        external = self.data.get("external")
        lacking = external is not None and external.state == datasets.MISSING
        return {CPTAC: "; ".join(external.said)} if external and lacking else {}

    @property
    def another(self) -> str:
        """Why numbers are not comparable with the paper's, "" if they are."""
        others = [name for name, one in self.data.items() if one.state == datasets.OTHER]
        what = "patients" if any(self.data[name].patients for name in others) else "tiles"
        return f"other {what} than the paper's ({' and '.join(others)})" if others else ""

    @property
    def whole(self) -> bool:
        """Whether nothing is missing."""
        states = [one.state for one in self.data.values()] + [one.state for one in self.weights.values()]
        return datasets.MISSING not in states and not self.no_points


def make_plan(benchmark: Benchmark) -> Plan:
    """Looks at all that a benchmark is asked for; nothing is downloaded or computed but md5s."""
    look = _patches if benchmark.protocol == "patch" else _cohorts
    weights = {row.name: _weights(row, benchmark) for row in benchmark.rows}
    points, why = _points(benchmark) if benchmark.protocol == "patch" else ((), "")
    return Plan(look(benchmark), weights, points, why)


def _weights(row: Row, benchmark: Benchmark) -> at_hand.AtHand:
    """Whether a row's weights are here; they need not be where its features are."""
    cohorts = [one for one in (benchmark.internal, benchmark.external) if one.slides or one.features]
    if benchmark.protocol == "slide" and cohorts and all(one.features for one in cohorts):
        return at_hand.AtHand(at_hand.HERE, "features are given")
    return at_hand.look_for_weights(row, benchmark.offline)


def _patches(benchmark: Benchmark) -> dict[str, Found]:
    pairs = (("train", benchmark.train, NCT_TRAIN), ("test", benchmark.test, NCT_TEST))
    return {part: _look(spec, wanted, benchmark.verify) for part, spec, wanted in pairs}


def _look(spec: str, wanted: PatchData, verify: bool) -> Found:
    found = look_for_patches(spec, wanted, verify)
    meant = Path(spec).name.removesuffix(".zip") == wanted.name
    if found.state == datasets.MISSING and not meant:
        return Found(datasets.MISSING, said=(f"{spec}: not there",))
    return found


def _cohorts(benchmark: Benchmark) -> dict[str, Found]:
    def look(cohort: Cohort, wanted: datasets.SlideData) -> Found:
        optional = {TABLE: cohort.table} if cohort.table else {}
        found = look_for_slides(cohort.features or cohort.slides, {CLINI: cohort.clini, **optional}, wanted)
        return found if found.state == datasets.MISSING else _counted(found, cohort, wanted, benchmark)

    return {"cohort": look(benchmark.internal, TCGA_CRC), "external": look(benchmark.external, CPTAC_CRC)}


def question(benchmark: Benchmark) -> Question:
    """What is predicted of a patient."""
    return Question(benchmark.target, classes=benchmark.classes)


def _counted(found: Found, cohort: Cohort, wanted: datasets.SlideData, benchmark: Benchmark) -> Found:
    """The same, with the patients of the clinical table by their class."""
    table = read_clinical(expanded(cohort.clini), question(benchmark))
    number = len(table.patients)
    each = np.bincount(table.targets, minlength=len(table.classes))
    counts = dict(zip(table.classes, each.tolist()))
    said = f"{number} patients have a label, the paper had {wanted.patients}"
    near = abs(number - wanted.patients) <= NEAR * wanted.patients
    return replace(found, state=datasets.HERE if near else datasets.OTHER, patients=counts, said=(said,))


def _points(benchmark: Benchmark) -> tuple[tuple[Point, ...], str]:
    if not benchmark.run:
        return (), "no training was named (config.run): its exports at several steps (export.steps) are the points"
    try:
        return tuple(points_of(benchmark.run)), ""
    except UserError as error:
        return (), str(error)


def told(benchmark: Benchmark, plan: Plan) -> str:
    """The plan as lines of text."""
    tables = "Tables 2 and 3, Figure 2" if benchmark.protocol == "patch" else "Tables 1 and 3"
    lines = [f"{benchmark.name}: {tables}, {len(benchmark.rows)} rows", "", "data"]
    for part, one in plan.data.items():
        tiles = f"{sum(one.counts.values()):,} tiles of {len(one.counts)} classes" if one.counts else ""
        tiles = ", ".join(f"{name}: {count}" for name, count in one.patients.items()) or tiles
        lines.append(_line(part, one.state, "  ".join(text for text in (one.where, tiles) if text)))
        lines += [f"  {'':24s}{said}" for said in one.said]
    lines += ["", "weights", *(_line(name, one.state, one.said) for name, one in plan.weights.items())]
    if benchmark.protocol == "patch":
        steps = ", ".join(f"{point.step:,}" for point in plan.points)
        state = at_hand.MISSING if plan.no_points else at_hand.HERE
        lines += ["", "Figure 2", _line("training", state, plan.no_points or f"{benchmark.run}: steps {steps}")]
    return "\n".join([*lines, "", _sum(plan)])


def _line(name: str, state: str, said: str) -> str:
    return f"  {name:24s}{state:18s}{said}".rstrip()


def _sum(plan: Plan) -> str:
    if plan.lacking:
        return "nothing can be computed before the data are there"
    missing = ", ".join(name for name, one in plan.weights.items() if one.state == at_hand.MISSING)
    said = f"holes: {missing}" if missing else "all rows can be computed"
    return f"{said}; not compared with the paper: {plan.another}" if plan.another else said
