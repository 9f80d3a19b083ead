"""A trained model of bags with all that is needed to use it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from histojax.evaluation.mil.settings import HeadSettings
from histojax.evaluation.mil.tasks import Task


@dataclass(frozen=True)
class Head:
    """A model of bags that answers one question.

    Args:
        classes: their names, in the order of the class numbers; empty for regression and survival.
        params: tree of float32 arrays.
        facts: anything that is JSON: settings of the training, its history, where the features are from ...
    """

    settings: HeadSettings
    task: Task
    classes: tuple[str, ...]
    params: Mapping[str, Any]
    facts: Mapping[str, Any] = field(default_factory=dict)
