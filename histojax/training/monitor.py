"""Looks at the numbers of a run while it trains and says what goes wrong, why, and what to change.

What people report when they continue DINOv2 from released weights: NaN and infinite KoLeo, features that collapse
to one vector, a loss that stands at ln(prototypes), a kNN score that falls from the first epoch on. Each has a
signature in the scalars that the step returns. Pure Python; the whole memory is a JSON value.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from histojax.evaluation.evaluators import Evaluator, evaluators
from histojax.models.sizes import SIZES
from histojax.ssl import terms

Finding = tuple[str, str, str]  # level ("" if all is well), cause, advice
Rule = Callable[[int, Mapping[str, float]], Finding]
FINE: Finding = ("", "", "")

LEARNING_RATE = (
    "The learning rate is too high for this batch: divide optim.base_lr by 3 to 10, lengthen optim.warmup_epochs "
    "(or try compute_dtype=float32); go on from the last good checkpoint in a new workdir"
)
BROKEN_TEACHER = "Check that the starting weights are whole; if they are, divide optim.base_lr by 3 to 10"
KOLEO_EPS = "Set loss.koleo_eps=1e-4, and remove duplicate and blank tiles"
COLLAPSE = (
    "Divide optim.base_lr by 3 to 10, raise batch_size or teacher.momentum, keep loss.koleo_weight at 0.1; "
    "a small set of similar tiles needs fewer steps (stop_step)"
)
UNIFORM = (
    "Nothing is learned from such targets: lower teacher.temp, check that the tiles are not blank, "
    "and divide optim.base_lr by 3 if the feature spread fell before"
)
ONE_HOT = "Raise teacher.temp (0.07 is usual), or with loss.centering=softmax try sinkhorn"
DUPLICATES = (
    "The batch has duplicate or blank tiles, or the features collapse: remove duplicates and background "
    "(tiles without tissue), or lower batch_size if the set is smaller than a few batches"
)
FALLING = (
    "Training forgets what the starting weights knew: use the best checkpoint, divide optim.base_lr by 3 to 10, "
    "stop earlier (stop_step) or train less of the network (model.train=last:4 or lora:8)"
)


@dataclasses.dataclass(frozen=True)
class Thresholds:
    """When a number counts as a problem. A look is a logged row; what must hold for several looks is not noise."""

    looks: int = 3  # consecutive looks before anything but a number that is not finite counts
    spread_stop: float = 0.1  # of the best spread of the run: three looks at a tenth is a collapse, not a dip
    spread_warn: float = 0.3
    spread_floor: float = 0.01  # 1 is random directions: below this all tiles are one vector
    entropy_gap: float = 0.02  # nats below ln K: untrained heads on good features start 0.1 to 0.4 below it
    entropy_floor: float = 0.05  # nats: targets are one-hot
    koleo_stop: float = 0.95  # of its cap: nearly every row has an equal neighbour
    koleo_warn: float = 0.5  # of its cap: half of the rows may have one
    loss_factor: float = 1.5  # of its median: warm-up of the teacher's temperature alone raises it 1.2 times
    loss_window: int = 50  # looks in that median
    loss_looks: int = 5  # consecutive looks above it
    first_stop: float = 0.2  # of the first value: specialising on one organ halves RankMe at most
    first_warn: float = 0.5
    best_margin: float = 0.03  # below the best: three standard errors of an accuracy on 1000 tiles
    best_evaluations: int = 3  # consecutive evaluations below it
    repeat_looks: int = 50  # a problem that stays is told again after so many looks


@dataclasses.dataclass(frozen=True)
class Verdict:
    """A problem. `level` is "warning" or "stop", `kind` a short name that stays, the rest is for people."""

    level: str
    kind: str
    step: int
    cause: str
    advice: str

    @property
    def stop(self) -> bool:
        """Whether going on wastes the machine."""
        return self.level == "stop"

    def __str__(self) -> str:
        return f"{self.level} at step {self.step}: {self.cause}. {self.advice}"


class Monitor:
    """Judges the rows of one run. `prototypes` is K of the head; `koleo_cap` the largest value that the KoLeo term
    can take (0: not watched). Before `grace_steps` only numbers that are not finite count. A sign of collapse that
    was there from the first row has until `warmup_steps` to go: with LayerScale 1e-5 a random ViT starts from one
    vector for all tiles, and leaves it as the learning rate rises. Of the evaluations it watches what the `rows` say,
    on validation tiles where there are labels, never on those of the test."""

    def __init__(
        self,
        prototypes: int,
        koleo_cap: float = 0.0,
        grace_steps: int = 200,
        warmup_steps: int = 0,
        thresholds: Thresholds | None = None,
        rows: Sequence[Evaluator] | None = None,
    ):
        self.most_entropy = math.log(prototypes)
        self.koleo_cap = koleo_cap
        self.grace_steps, self.warmup_steps = grace_steps, max(grace_steps, warmup_steps)
        self.limits = thresholds or Thresholds()
        self.rows = [row for row in (evaluators() if rows is None else rows) if row.watch]
        self._losses: list[float] = []
        self._counts: dict[str, int] = {}  # consecutive looks that each sign has held
        self._told: dict[str, list] = {}  # kind: [level, looks since it was told]
        self._reference: dict[str, float] = {}  # best spread, entropy gap, KoLeo share; best or first headlines

    @classmethod
    def from_config(cls, config: ConfigDict) -> Monitor:
        """The monitor of a training configuration."""
        loss, dim = config.loss, SIZES[config.model.size][0]
        cap = 2 * loss.koleo_weight * -math.log(loss.koleo_eps * dim**0.5 + 1e-8)  # two views
        warmup = round(config.optim.warmup_epochs * config.epoch_steps)
        rows = evaluators(config.eval.k)
        return cls(config.head.prototypes, cap, config.monitor.grace_steps, warmup, rows=rows)

    def get_state(self) -> dict[str, Any]:
        """All that it remembers, as a JSON value."""
        return {
            "losses": list(self._losses),
            "counts": dict(self._counts),
            "told": {kind: list(entry) for kind, entry in self._told.items()},
            "reference": dict(self._reference),
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Goes on where `get_state` was called; an empty mapping changes nothing."""
        if state:
            self._losses, self._counts = list(state["losses"]), dict(state["counts"])
            self._told = {kind: list(entry) for kind, entry in state["told"].items()}
            self._reference = dict(state["reference"])

    def update(self, step: int, values: Mapping[str, float]) -> Verdict | None:
        """The worst new problem in a row of training metrics (see ssl.step; missing ones are not judged), or None.

        A problem is returned when it appears or gets worse, then every `repeat_looks` looks while it lasts.
        """
        rules = {
            "not_finite": self._not_finite,
            "collapse": self._collapse,
            "uniform": self._uniform,
            "one_hot": self._one_hot,
            "duplicates": self._duplicates,
            "divergence": self._divergence,
        }
        return self._judge(step, values, rules)

    def update_evaluation(self, step: int, values: Mapping[str, float]) -> Verdict | None:
        """The same for an evaluation of the teacher (see evaluation.online); empty if its features are broken."""
        rules: dict[str, Rule] = {"no_features": _no_features}
        for row in self.rows:
            rule = self._below_first if row.watch == "first" else self._below_best
            rules[f"{row.name}_fell"] = functools.partial(rule, row)
        return self._judge(step, values, rules)

    def _judge(self, step: int, values: Mapping[str, float], rules: Mapping[str, Rule]) -> Verdict | None:
        told = []
        for kind, rule in rules.items():
            level, cause, advice = rule(step, values)
            if self._is_news(kind, level):
                told.append(Verdict(level, kind, step, cause, advice))
        return min(told, key=lambda verdict: not verdict.stop, default=None)

    def _is_news(self, kind: str, level: str) -> bool:
        """Whether a problem of this level has to be told now; remembers that it was."""
        if not level:
            self._told.pop(kind, None)
            return False
        before, since = self._told.get(kind, ("", 0))
        worse = level != before and before != "stop"
        tell = worse or since + 1 >= self.limits.repeat_looks
        self._told[kind] = [level, 0 if tell else since + 1]
        return tell

    def _held(self, sign: str, present: bool, looks: int | None = None) -> bool:
        """Whether the sign has been there for `looks` consecutive looks, this one included."""
        self._counts[sign] = self._counts.get(sign, 0) + 1 if present else 0
        return self._counts[sign] >= (self.limits.looks if looks is None else looks)

    def _best(self, name: str, value: float) -> float:
        """The largest finite value that the run has seen under this name; -inf if none."""
        if math.isfinite(value):
            self._reference[name] = max(value, self._reference.get(name, -math.inf))
        return self._reference.get(name, -math.inf)

    def _due(self, step: int, was_well: bool = True) -> bool:
        """Whether a problem counts by now: after the grace steps, or the warm-up if the run began with it."""
        return step >= (self.grace_steps if was_well else self.warmup_steps)

    def _not_finite(self, step: int, values: Mapping[str, float]) -> Finding:
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        lasts = self._held("not_finite", bool(bad))
        if not bad:
            return FINE
        cause, advice = _first_cause(bad, [name for name in terms.NAMES if name in values])
        # the step leaves out an update that is not finite: a lone one in a window of good steps does no harm
        level = "warning" if values.get("skipped", 1.0) <= 0.5 and not lasts else "stop"
        return level, ", ".join(f"{name}={values[name]}" for name in bad[:4]) + f": {cause}", advice

    def _collapse(self, step: int, values: Mapping[str, float]) -> Finding:
        spread, limits = values.get("feature_spread", math.nan), self.limits
        best = self._best("spread", spread)
        fell = best > limits.spread_floor and self._due(step)
        flat = spread < limits.spread_floor and self._due(step, best > limits.spread_floor)
        gone = self._held("spread_stop", flat or (fell and spread < limits.spread_stop * best))
        low = self._held("spread_warn", fell and spread < limits.spread_warn * best)
        cause = f"the teacher's features fall together: spread {spread:.4g} after {best:.4g} (1 is random)"
        return _level(gone, low), cause, COLLAPSE

    def _uniform(self, step: int, values: Mapping[str, float]) -> Finding:
        entropy, limit = values.get("teacher_entropy", math.nan), self.limits.entropy_gap
        gap = self.most_entropy - entropy
        was_well = self._best("entropy_gap", gap) > 2 * limit
        stuck = self._held("uniform", gap < limit and self._due(step, was_well))
        cause = f"the teacher's targets are uniform: entropy {entropy:.4f} of at most {self.most_entropy:.4f}"
        return _level(stuck), cause, UNIFORM

    def _one_hot(self, step: int, values: Mapping[str, float]) -> Finding:
        entropy = values.get("teacher_entropy", math.nan)
        sharp = self._held("one_hot", entropy < self.limits.entropy_floor and self._due(step))
        return _level(False, sharp), f"the teacher's targets are one-hot: entropy {entropy:.4f} nats", ONE_HOT

    def _duplicates(self, step: int, values: Mapping[str, float]) -> Finding:
        share = values.get("koleo", math.nan) / self.koleo_cap if self.koleo_cap > 0 else math.nan
        was_well = self._best("koleo_room", 1 - share) > 1 - self.limits.koleo_warn
        due = self._due(step, was_well)
        capped = self._held("koleo_stop", due and share >= self.limits.koleo_stop)
        high = self._held("koleo_warn", due and share >= self.limits.koleo_warn)
        cause = f"KoLeo is at {100 * share:.0f}% of its cap {self.koleo_cap:.3f}: images have equal features"
        return _level(capped, high), cause, DUPLICATES

    def _divergence(self, step: int, values: Mapping[str, float]) -> Finding:
        loss, limits = values.get("loss", math.nan), self.limits
        usual = statistics.median(self._losses) if len(self._losses) >= limits.loss_looks else math.inf
        high = loss > usual + (limits.loss_factor - 1) * max(abs(usual), 1.0)
        if math.isfinite(loss) and not high:  # so the median stays that of the run before the rise
            self._losses = [*self._losses, loss][-limits.loss_window :]
        lasts = self._held("loss", high and self._due(step), limits.loss_looks)
        return _level(lasts), f"the loss diverges: {loss:.4g}, its median was {usual:.4g}", LEARNING_RATE

    def _below_first(self, row: Evaluator, step: int, values: Mapping[str, float]) -> Finding:
        value, name = values.get(row.metric(), math.nan), row.metric()
        if not math.isfinite(value):
            return FINE
        first = self._reference.setdefault(name, value)
        level = _level(value < self.limits.first_stop * first, value < self.limits.first_warn * first)
        return level, f"{row.title} fell from {first:.1f} to {value:.1f}: the features collapse", COLLAPSE

    def _below_best(self, row: Evaluator, step: int, values: Mapping[str, float]) -> Finding:
        value, name = values.get(row.metric(), math.nan), row.metric()
        if value > self._reference.get(name, -math.inf):
            self._reference[f"{name} step"] = step
        best, when = self._best(name, value), self._reference.get(f"{name} step", step)
        below = value < best - self.limits.best_margin
        lasts = self._held(name, below, self.limits.best_evaluations)
        return _level(lasts, below), f"{name} {value:.3f} is below the {best:.3f} of step {when}", FALLING


def _level(stop: bool, warning: bool = False) -> str:
    return "stop" if stop else "warning" if warning else ""


def _no_features(step: int, values: Mapping[str, float]) -> Finding:
    return _level(not values), "the teacher's features of the evaluation tiles are not finite", BROKEN_TEACHER


def _first_cause(bad: list[str], terms: list[str]) -> tuple[str, str]:
    """(cause, advice) for metrics that are not finite: what comes first on the way from weights to update."""
    broken = [name for name in terms if name in bad]
    if {"feature_spread", "teacher_entropy"} & set(bad):
        return "the teacher's output broke first", BROKEN_TEACHER
    if len(terms) > 1 and broken == terms:
        return "every loss term is hit, so the student's features broke first", LEARNING_RATE
    if broken == ["koleo"]:
        return "KoLeo broke first: the batch holds equal images and its epsilon is too small", KOLEO_EPS
    if broken:
        return f"{broken[0]} broke first", LEARNING_RATE
    return f"the loss is finite, {bad[0]} overflowed in the backward pass", LEARNING_RATE
