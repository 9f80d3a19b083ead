"""Which checkpoint of a run is kept as the best, judged at every evaluation, and how much that judgement is worth.

With labels it is the highest 20-NN on the validation tiles, whose patients (where they are known) are neither fitted
on nor tested. Without, or with too few of them to split, it is the highest RankMe (Garrido et al. 2023) among steps
whose features keep their spread. That is a hint and no score. How it fails:

- it rises with noise, and with all that differs between slides and is no tissue: stain, scanner, compression;
- it falls when training makes features compact, as classes that become clusters do: a better encoder may rank lower;
- features that fell together with a little noise around them rank high: so the spread has to hold (`KEPT`);
- it grows with the number of tiles and is at most the width of the feature: it compares checkpoints of one run on the
  same tiles, never runs, encoders or data.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict

from histojax.evaluation import online
from histojax.evaluation.evaluators import FIT, TEST, VALIDATION, Evaluator, chooser, evaluators
from histojax.evaluation.intervals import FEW

KEPT = 0.8  # share of its earlier value that the guard of a chooser must keep
HINT = (
    "a hint only: RankMe rises with noise and stain and falls when features become compact; judge with labelled tiles"
)


def chooser_of(config: ConfigDict, tiles: online.EvalTiles) -> Evaluator | None:
    """The evaluator that chooses in a run with these evaluation tiles; None where none does."""
    by = config.checkpoint.best
    if by == "last" or (by == "knn" and tiles.no_best):
        return None
    return chooser(evaluators(config.eval.k), by, labelled=not tiles.no_best)


def why_none(config: ConfigDict, tiles: online.EvalTiles) -> str:
    """Why no evaluator chooses."""
    return "checkpoint.best=last" if config.checkpoint.best == "last" else tiles.no_best


def better(
    row: Evaluator | None, step: int, values: Mapping[str, float], first: Mapping[str, float], best: Mapping[str, Any]
) -> dict[str, Any]:
    """The new best {"metric", "score", "step", "values"} if this step's values are better, else {}.

    `first` are the values before training, `best` what was the best so far; one by another metric does not count.
    """
    metric = row.metric() if row else ""
    before = best if best.get("metric") == metric else {}
    score = values.get(metric, math.nan)
    if row is None or not score > before.get("score", -math.inf):
        return {}
    guarded = [known[row.guard] for known in (first, before.get("values", {})) if row.guard in known]
    if guarded and not values.get(row.guard, -math.inf) >= KEPT * max(guarded):
        return {}
    return {"metric": metric, "score": score, "step": step, "values": dict(values)}


def doubt(row: Evaluator, new: Mapping[str, Any], old: Mapping[str, Any]) -> str:
    """The sentence to say where a new best differs from the old one by less than its interval, else ""."""
    wide = new["values"].get(row.interval(), math.nan)
    if old.get("metric") != new["metric"] or not new["score"] - old["score"] < wide:
        return ""
    return (
        f"best checkpoint: step {new['step']} instead of {old['step']}, {row.title} {new['score']:.4g} after "
        f"{old['score']:.4g} on validation, a difference within its interval of +- {wide:.2g}"
    )


def rivals(row: Evaluator, best: Mapping[str, Any], rows: Iterable[Mapping[str, float]]) -> list[int]:
    """The other evaluated steps whose score is within the interval of the best one's; rows as of metrics.jsonl."""
    wide = best["values"].get(row.interval(), 0.0)
    close = (one for one in rows if one.get(best["metric"], -math.inf) >= best["score"] - wide)
    return sorted({int(one["step"]) for one in close} - {0, best["step"]}) if wide else []


def in_words(config: ConfigDict, tiles: online.EvalTiles) -> str:
    """What will choose, for the plan."""
    row = chooser_of(config, tiles)
    if row is None:
        return f"none is picked: {why_none(config, tiles)}"
    if row.needs_labels:
        return f"the checkpoint with the highest {row.title} on validation; test is reported, never chosen on"
    why = f" ({tiles.no_best})" if tiles.no_best else ""
    return f"the checkpoint with the highest {row.title}, while its spread holds{why}: {HINT}"


def told(
    config: ConfigDict,
    tiles: online.EvalTiles,
    best: Mapping[str, Any],
    first: Mapping[str, float],
    rows: Iterable[Mapping[str, float]],
) -> str:
    """Which checkpoint is the best, by which tiles, what the test says of it, and how sure that is.

    `first` are the values before training, `rows` those of metrics.jsonl.
    """
    row = chooser_of(config, tiles)
    none = "no checkpoint was chosen as the best"
    if row is None:
        return f"{none} ({why_none(config, tiles)})"
    if best.get("metric") != row.metric():
        return f"{none}: none was evaluated{f' ({tiles.no_best})' if tiles.no_best else ''}"
    words = f"the checkpoint of step {best['step']}, {row.title} {best['score']:.4g}"
    values = best.get("values", {})
    if not row.needs_labels:
        said = f"on {tiles.count(FIT) + tiles.count(VALIDATION)} tiles"
        return f"chosen without labels: {words} {said}, {row.guard} {values.get(row.guard, math.nan):.3g}; {HINT}"
    words = f"chosen on validation ({tiles.in_words(VALIDATION)}): {words}{_width(row, tiles, values)} there"
    if row.metric(TEST) in values:
        words += f" and {values[row.metric(TEST)]:.4g} on test"
    if close := rivals(row, best, rows):
        words += f", no surer than step{'s' * (len(close) > 1)} {', '.join(map(str, close))}"
    if first.get(row.metric(), -math.inf) >= best["score"]:
        words += f", and no better than the start, {first[row.metric()]:.4g}"
    return words


def _width(row: Evaluator, tiles: online.EvalTiles, values: Mapping[str, float]) -> str:
    """Half of the interval of the best score, and why it is not the whole truth where few groups were drawn."""
    wide, groups = values.get(row.interval()), tiles.count_groups(VALIDATION)
    if not wide:
        return ""
    return f" +- {wide:.2g}" + (" (too narrow, of so few groups)" if 0 < groups < FEW else "")
