"""Training a model of bags, as published: AdamW, a step a bag, the best step by the validation part kept."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from histojax.evaluation.mil.bags import Bag, Reader, one_ahead
from histojax.evaluation.mil.baseline import fit_linear
from histojax.evaluation.mil.head import Head
from histojax.evaluation.mil.models import draw_params, forward
from histojax.evaluation.mil.settings import HeadSettings, TrainSettings
from histojax.evaluation.mil.steps import joint_step, optimiser, single_step
from histojax.evaluation.mil.targets import checked_targets, positive_weight
from histojax.evaluation.mil.tasks import TASKS, Task, outputs, probabilities

Tell = Callable[[int, int, Mapping[str, float]], None]  # steps done, of how many, values to show
Tree = Any
AHEAD = 3  # steps that may wait for a device, each with its bag


def fit_head(
    bags: Sequence[Bag],
    targets: np.ndarray,
    train: np.ndarray,
    validation: np.ndarray,
    task: Task,
    settings: HeadSettings,
    training: TrainSettings,
    classes: Sequence[str] = (),
    facts: Mapping[str, Any] | None = None,
    progress: Tell | None = None,
) -> Head:
    """The head with the parameters of the best step.

    Args:
        bags: of all parts.
        targets: a row a bag: class numbers (n,), numbers (n,), or (n, 2) time and event.
        train, validation: rows of the two parts; what keeps a step, or a penalty, is the validation part alone.
        settings: its `outputs` are set by the task, whatever they say.
        classes: names, of a classification.
        facts: go into the head's, beside the history of this training.
        progress: called after each step.

    Raises:
        UserError: targets that do not fit the task, parts that lack what is to be learned, bags that are broken.
    """
    train, validation = np.asarray(train), np.asarray(validation)
    targets = checked_targets(task, targets, len(bags), train, validation, tuple(classes))
    settings = HeadSettings(**asdict(settings) | {"outputs": outputs(task, len(classes))})
    reader = Reader(bags, settings.inputs)
    began = time.monotonic()
    if settings.model == "mean":
        means = np.zeros((len(bags), settings.inputs))
        for row in (*train, *validation):
            means[row] = reader.load(row).mean(axis=0, dtype=np.float64)
        params, told = fit_linear(means, targets, train, validation, task, len(classes))
    else:
        params, told = _Training(reader, targets, train, validation, task, settings, training).run(progress)
    told = {"training": asdict(training), **told, "seconds": time.monotonic() - began}
    return Head(settings, task, tuple(classes), params, {**(facts or {}), **told})


@dataclass
class _Training:
    """One fold."""

    reader: Reader
    targets: np.ndarray
    train: np.ndarray
    validation: np.ndarray
    task: Task
    settings: HeadSettings
    training: TrainSettings

    def run(self, progress: Tell | None) -> tuple[Tree, dict[str, Any]]:
        """(parameters of the best step, facts)."""
        weight = np.float32(positive_weight(self.task, self.targets[self.train]))
        every = min(self.training.validate_every, self.steps_a_pass)
        best: Tree = draw_params(self.settings, self.training.seed)
        best_value, best_step = math.inf, 0
        history: list[dict[str, float]] = []
        losses: list[Any] = []
        for number, (params, loss) in enumerate(self._steps(best, weight), 1):
            losses.append(loss)
            jax.block_until_ready(losses[-AHEAD:][0])
            if number % every == 0:
                row = {"step": number, "train_loss": float(np.mean([np.asarray(one) for one in losses]))}
                row |= self._look(params, weight)
                history.append({key: v for key, v in row.items() if math.isfinite(v)})  # no AUROC of one class
                losses = []
                value = self._value(row)
                if value < best_value or not best_step:
                    best, best_value, best_step = jax.device_get(params), value, number
            if progress:
                progress(number, self.steps, history[-1] if history else {})
        facts = {"history": history, "best_step": best_step, "positive_weight": float(weight)}
        return jax.device_get(best), facts

    @property
    def steps_a_pass(self) -> int:
        return -(-len(self.train) // self.training.risk_set) if TASKS[self.task].joint else len(self.train)

    @property
    def steps(self) -> int:
        return self.training.epochs * self.steps_a_pass

    def _steps(self, params: Tree, weight: np.float32) -> Iterator[tuple[Tree, Any]]:
        """(parameters, loss) after each step; only the last ones may be used, those given none any more."""
        order, state = self._order(), optimiser(self.training).init(params)
        if TASKS[self.task].joint:
            yield from self._joint_steps(params, state, order)
            return
        step = single_step(self.settings, self.training, self.task)
        key = jax.random.key(self.training.seed)
        for number, (row, bag) in enumerate(zip(order, self._bags(order))):
            once = jax.random.fold_in(key, number) if self.settings.rate else None
            target = self.targets[row : row + 1].astype(np.float32)
            params, state, loss = step(params, state, *bag, target, weight, once)
            yield params, loss

    def _order(self) -> np.ndarray:
        """Rows of all steps: each pass has each training bag once."""
        rng = np.random.default_rng(self.training.seed)
        return np.concatenate([rng.permutation(self.train) for _ in range(self.training.epochs)])

    def _bags(self, order: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        rng = np.random.default_rng([self.training.seed, 1])
        tiles, augmented = self.training.max_tiles, self.training.augmented
        return one_ahead(partial(self.reader.draw, row, rng, tiles, augmented) for row in order)

    def _joint_steps(self, params: Tree, state: Tree, order: np.ndarray) -> Iterator[tuple[Tree, Any]]:
        """Steps whose loss compares `risk_set` bags: all risks first, then each bag's share of the gradient."""
        passes = order.reshape(self.training.epochs, -1)
        size = self.training.risk_set
        key = jax.random.key(self.training.seed)
        rng = np.random.default_rng([self.training.seed, 1])
        number = 0
        for rows in (one[i : i + size] for one in passes for i in range(0, len(one), size)):
            draws = [self.reader.draw(r, rng, self.training.max_tiles, self.training.augmented) for r in rows]
            keys = [jax.random.fold_in(key, number + i) if self.settings.rate else None for i in range(len(rows))]
            number += len(rows)
            params, state, loss = joint_step(self.settings, self.training, self.task)(
                params, state, draws, keys, self.targets[rows].astype(np.float32)
            )
            yield params, loss

    def _look(self, params: Tree, weight: np.float32) -> dict[str, float]:
        """Loss and, of a classification, AUROC of the validation part."""
        run = forward(self.settings)
        bags = one_ahead(partial(self.reader.load, row) for row in self.validation)
        logits = np.concatenate([np.asarray(run(params, *bag)) for bag in bags])
        targets = self.targets[self.validation]
        loss = TASKS[self.task].loss(jnp.asarray(logits), jnp.asarray(targets, jnp.float32), weight).mean()
        row = {"validation_loss": float(loss)}
        if self.task == "classification":
            row["validation_auroc"] = auroc(targets, probabilities(logits))
        return row

    def _value(self, row: Mapping[str, float]) -> float:
        """What the best step has least of; the loss, too, where the AUROC is undefined."""
        auc = row.get("validation_auroc", math.nan)
        if self.training.keep == "auroc" and not math.isnan(auc):
            return -auc
        return row["validation_loss"] if math.isfinite(row["validation_loss"]) else math.inf


def auroc(truth: np.ndarray, shares: np.ndarray) -> float:
    """Area under the ROC curve, macro one-against-one for several classes; NaN where a class is missing."""
    from sklearn.metrics import roc_auc_score

    if len(np.unique(truth)) < shares.shape[1]:
        return math.nan
    return float(roc_auc_score(truth, shares[:, 1] if shares.shape[1] == 2 else shares, multi_class="ovo"))
