"""Which runs may be compared: those that judged the same units by the same truth, fold by fold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from histojax.common.errors import UserError
from histojax.evaluation.results import TEST, Predictions, Results

Key = tuple[str, str]  # evaluator, part


@dataclass(frozen=True)
class Run:
    """A run by the name that tables show; `where` is its folder, for messages."""

    name: str
    results: Results
    where: str = ""

    def judged(self) -> list[Key]:
        """(evaluator, part) of what it judged, in order."""
        return list(dict.fromkeys((one.evaluator, one.part) for one in self.results.predictions))

    def folds(self, key: Key) -> list[Predictions]:
        """What it said under a key, by fold."""
        found = [one for one in self.results.predictions if (one.evaluator, one.part) == key]
        return sorted(found, key=lambda one: -1 if one.fold is None else one.fold)


def named_runs(results: Sequence[Results], where: Sequence[str] = ()) -> list[Run]:
    """Runs of different names: equal ones of one task get their folder behind."""
    places = list(where) or [""] * len(results)
    last = [Path(place).name for place in places]
    short = last if len(set(last)) == len(last) else places
    runs = [Run(one.name, one, place) for one, place in zip(results, places)]
    for i, run in enumerate(runs):
        twins = [j for j, two in enumerate(runs) if _task(two) == _task(run) and two.results.name == run.results.name]
        if len(twins) > 1:
            runs[i] = replace(run, name=f"{run.name} ({short[i] or twins.index(i) + 1})")
    return runs


def of_evaluators(runs: Sequence[Run]) -> list[Run]:
    """A run an evaluator, so that the evaluators of a run are compared with each other on its features."""
    found = []
    for run in runs:
        for name in dict.fromkeys(one.evaluator for one in run.results.predictions):
            said = tuple(replace(p, evaluator=run.name) for p in run.results.predictions if p.evaluator == name)
            found.append(Run(name, replace(run.results, predictions=said), f"{name} of {run.where or run.name}"))
    return found


def by_task(runs: Sequence[Run], common: bool = False) -> list[list[Run]]:
    """Runs that may be paired, a list a task, in order; raises UserError for a run that none can be paired with."""
    tasks: list[list[Run]] = []
    if len(runs) == 1:
        raise UserError("one run alone: give two or more, each the --out of histojax evaluate")
    for run in runs:
        home = next((task for task in tasks if not _difference(task[0], run, common)), None)
        if home is None:
            tasks.append([run])
        else:
            home.append(run)
    for task in tasks:
        if len(task) == 1:
            others = [run for run in runs if run is not task[0]]
            nearest = next((run for run in others if _task(run) == _task(task[0])), others[0])
            raise UserError(
                f"{task[0].where or task[0].name} cannot be paired with {nearest.where or nearest.name}: "
                f"{_difference(nearest, task[0], common)}"
            )
    return tasks


def aligned(runs: Sequence[Run], key: Key, common: bool = False) -> tuple[list[list[Predictions]], list[str]]:
    """(for each run its folds, units in the order of the first run's; sentences on what was left out).

    Groups that one run knows hold for all. Raises UserError where folds, units or truths differ; with `common`, units
    that a run lacks are left out and counted.
    """
    each = [run.folds(key) for run in runs]
    for run, folds in zip(runs, each):
        _check_folds(run, folds, runs[0], each[0], key)
    result: list[list[Predictions]] = [[] for _ in runs]
    left_out = 0
    for place in range(len(each[0])):
        parts = [folds[place] for folds in each]
        units = [_unique(run, one) for run, one in zip(runs, parts)]
        shared = set(units[0]).intersection(*units[1:])
        order = [unit for unit in units[0] if unit in shared]
        left_out += max(map(len, units)) - len(order)
        if not common and any(len(order) != len(one) for one in units):
            worst = max(range(len(runs)), key=lambda i: len(set(units[i]) ^ set(units[0])))
            raise UserError(_other_units(runs[0], units[0], runs[worst], units[worst], key, parts[0].fold))
        taken = [_taken(one, names, order) for one, names in zip(parts, units)]
        groups = next((one.groups for one in taken if one.groups is not None), None)
        for i, one in enumerate(taken):
            _check_truth(runs[0], taken[0], runs[i], one)
            result[i].append(replace(one, groups=groups))
    note = [f"{key[0]}, {key[1]}: {left_out} units that not every run judged are left out"] if left_out else []
    return result, note


def _task(run: Run) -> tuple:
    one = run.results
    return one.protocol, one.task, one.target, tuple(one.classes)


def _difference(one: Run, other: Run, common: bool) -> str:
    """Why two runs cannot be paired; "" if they can."""
    for what, mine, theirs in zip(("protocol", "task", "target", "classes"), _task(other), _task(one)):
        if mine != theirs:
            return f"other {what} ({_short(mine)}, not {_short(theirs)})"
    keys = [key for key in other.judged() if key in one.judged()]
    if not keys:
        return f"no evaluator in common ({_evaluators(other)}, not {_evaluators(one)})"
    part = TEST if any(key[1] == TEST for key in keys) else keys[0][1]
    mine, theirs = (_units_of(run, part) for run in (other, one))
    if mine == theirs or (common and mine & theirs):
        return ""
    fix = "; --common compares those that both judged" if mine & theirs else ""
    return (
        f"other {part} units ({len(mine)}, not {len(theirs)}; {len(mine ^ theirs)} in one of them only: "
        f"{', '.join(sorted(mine ^ theirs)[:3])}){fix}"
    )


def _short(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _evaluators(run: Run) -> str:
    return ", ".join(dict.fromkeys(key[0] for key in run.judged()))


def _units_of(run: Run, part: str) -> set[str]:
    return {str(unit) for one in run.results.predictions if one.part == part for unit in one.units}


def _check_folds(run: Run, folds: list[Predictions], first: Run, of_first: list[Predictions], key: Key) -> None:
    mine, theirs = [one.fold for one in folds], [one.fold for one in of_first]
    if mine != theirs:
        raise UserError(
            f"{key[0]}, {key[1]}: {run.where or run.name} has folds {_listed(mine)}, {first.where or first.name} "
            f"{_listed(theirs)}; evaluate both with the same fold file"
        )


def _listed(folds: list[int | None]) -> str:
    return "none" if folds in ([], [None]) else ", ".join(map(str, folds))


def _unique(run: Run, one: Predictions) -> list[str]:
    units = [str(unit) for unit in one.units]
    if len(set(units)) < len(units):
        twice = next(unit for unit in units if units.count(unit) > 1)
        raise UserError(f"{run.where or run.name}: {one.evaluator}, {one.part}: unit {twice} was judged twice")
    return units


def _other_units(first: Run, units: list[str], run: Run, others: list[str], key: Key, fold: int | None) -> str:
    where = f"{key[0]}, {key[1]}" + ("" if fold is None else f", fold {fold}")
    odd = sorted(set(units) ^ set(others))
    fix = "evaluate both with the same fold file" if fold is not None else "--common compares those that both judged"
    return (
        f"{where}: {run.where or run.name} and {first.where or first.name} judged other units "
        f"({len(odd)} in one of them only: {', '.join(odd[:3])}); {fix}"
    )


def _taken(one: Predictions, units: list[str], order: list[str]) -> Predictions:
    """The predictions of some units, in another order."""
    places = {unit: i for i, unit in enumerate(units)}
    rows = np.array([places[unit] for unit in order], np.int64)
    arrays = {f.name: getattr(one, f.name) for f in fields(one)}
    changed: dict[str, Any] = {name: value[rows] for name, value in arrays.items() if isinstance(value, np.ndarray)}
    return replace(one, **changed)


def _check_truth(first: Run, of_first: Predictions, run: Run, one: Predictions) -> None:
    same = np.asarray(one.truth) == np.asarray(of_first.truth)
    if one.events is not None and of_first.events is not None:
        same &= np.asarray(one.events) == np.asarray(of_first.events)
    if not same.all():
        unit = one.units[int(np.argmin(same))]
        raise UserError(
            f"{run.where or run.name} and {first.where or first.name} have another truth for {int((~same).sum())} "
            f"units ({unit} first): they were evaluated with different tables"
        )
