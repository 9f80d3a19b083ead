"""Whether the targets of bags fit the task, and what a class weighs."""

from __future__ import annotations

import numpy as np

from histojax.common.errors import UserError
from histojax.evaluation.mil.tasks import Task


def checked_targets(
    task: Task, targets: np.ndarray, count: int, train: np.ndarray, validation: np.ndarray, classes: tuple[str, ...]
) -> np.ndarray:
    """The targets, int64 or float64; UserError where they do not fit the task or a part has nothing to learn from."""
    targets = np.asarray(targets)
    shape = (count, 2) if task == "survival" else (count,)
    if targets.shape != shape:
        raise UserError(f"targets {targets.shape} of {count} bags: {task} needs {shape}")
    for name, rows in (("training", train), ("validation", validation)):
        if not len(rows):
            raise UserError(f"the {name} part has no bags; use fewer folds or more patients")
    used = targets[np.concatenate([train, validation])]
    if not np.isfinite(used.astype(np.float64)).all():
        raise UserError(f"{task}: a target is not a finite number; leave its bag out")
    if task == "classification":
        return _classes(targets, train, classes)
    if task == "survival" and not targets[train][:, 1].any():
        raise UserError("survival: no event in the training part, so there is nothing to compare; use fewer folds")
    return targets.astype(np.float64)


def _classes(targets: np.ndarray, train: np.ndarray, classes: tuple[str, ...]) -> np.ndarray:
    if len(classes) < 2:
        raise UserError(f"classification needs two classes or more, found {', '.join(classes) or 'none'}")
    if not np.issubdtype(targets.dtype, np.integer) or targets.min() < 0 or targets.max() >= len(classes):
        raise UserError(f"targets must be integers from 0 to {len(classes) - 1}, one for each class")
    lacking = [name for i, name in enumerate(classes) if not (targets[train] == i).any()]
    if lacking:
        raise UserError(
            f"the training part has no bag of {', '.join(lacking)}; use fewer folds, or leave the class out"
        )
    return targets.astype(np.int64)


def positive_weight(task: Task, targets: np.ndarray) -> float:
    """Bags of class 0 for each of class 1, for two classes; 1 for all else."""
    if task != "classification" or targets.max() > 1:
        return 1.0
    return float((targets == 0).sum() / max((targets == 1).sum(), 1))
