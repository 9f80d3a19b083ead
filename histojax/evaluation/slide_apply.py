"""Trained heads on a new cohort: its predictions, and its scores where its table has the answers."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from histojax.common.errors import UserError
from histojax.common.files import expanded
from histojax.evaluation.cohort_tables import Question
from histojax.evaluation.mil.head import Head
from histojax.evaluation.mil.head_file import load_head
from histojax.evaluation.mil.predict import predict
from histojax.evaluation.provenance import features_facts
from histojax.evaluation.results import Predictions
from histojax.evaluation.slide_folds import Judge, predictions_of

NUMBERED = re.compile(r"(.+)-fold(\d+)")


@dataclass(frozen=True)
class Loaded:
    """A head from a file; `fold` 0 where it is alone."""

    path: Path
    model: str
    fold: int
    head: Head


def load_heads(path: str | os.PathLike, models: Sequence[str] = ()) -> list[Loaded]:
    """The head of a file, or all (of these models) that an evaluation left in its folder; raises UserError."""
    path = expanded(path)
    if path.is_dir():
        folder = path / "heads" if (path / "heads").is_dir() else path
        found = [(int(m[2]), m[1], file) for file in folder.iterdir() if (m := NUMBERED.fullmatch(file.stem))]
        chosen = sorted((model, fold, file) for fold, model, file in found if not models or model in models)
        if not chosen:
            has = ", ".join(sorted({model for _, model, _ in found})) or "none"
            raise UserError(f"{path}: no heads of {', '.join(models) or 'an evaluation'} there (it has {has})")
        heads = [Loaded(file, model, fold, load_head(file)) for model, fold, file in chosen]
    else:
        head = load_head(path)
        match = NUMBERED.fullmatch(path.stem)
        heads = [Loaded(path, match[1] if match else head.settings.model, int(match[2]) if match else 0, head)]
    first = heads[0].head
    for one in heads[1:]:
        if (one.head.task, one.head.classes) != (first.task, first.classes):
            raise UserError(f"{one.path}: answers another question than {heads[0].path}; apply one after the other")
    return heads


def question_of(head: Head) -> dict[str, Any]:
    """The arguments of `cohort_tables.Question` that a head was trained with; of a published one, what it tells."""
    told = dict(head.facts.get("question", {}))
    found = {key: told[key] for key in ("target", "event", "label_map", "patient", "slide", "centre") if key in told}
    return {"target": "", "task": head.task} | found | {"classes": tuple(head.classes)}


def apply_heads(heads: Sequence[Loaded], judge: Judge, part: str) -> list[Predictions]:
    """What each head says of the cohort; raises UserError for features of another encoder than it was trained on."""
    for one in heads:
        check_features(one, judge)
    found: list[Predictions] = []
    for one in heads:
        logits = predict(one.head, judge.bags(one.head.settings.model))
        found += predictions_of(judge.cohort, logits, one.head.task, one.model, part, one.fold)
    return found


def check_features(one: Loaded, judge: Judge) -> None:
    """Raises UserError unless the features are, as far as both say, those that the head was trained on."""
    facts = features_facts(judge.cohort.headers)
    known = {"width": one.head.settings.inputs, **dict(one.head.facts.get("features", {}))}
    for key, value in known.items():
        if key in facts and value and facts[key] != value:
            raise UserError(
                f"{one.path}: was trained on features of {key} {value}, {judge.cohort.headers[0].path} has "
                f"{facts[key]}; extract the features that it was trained on"
            )


def asked_question(heads: Sequence[Loaded], given: dict[str, Any], labelled: bool) -> Question:
    """The question of the heads; what is `given` wins. Raises UserError where a target is needed and unknown."""
    arguments = question_of(heads[0].head) | {key: value for key, value in given.items() if value}
    if arguments["task"] == "survival" and not arguments.get("event"):
        arguments["event"] = "event"
    if not arguments["target"]:
        if labelled:
            raise UserError(f"{heads[0].path}: does not say what it predicts; name the column with --target")
        arguments["target"] = "target"
    known = heads[0].head.classes
    if len(arguments["classes"]) != len(known):
        raise UserError(
            f"--classes {','.join(arguments['classes'])}: {heads[0].path} knows {len(known)} classes "
            f"({', '.join(known)}); give as many names, in its order"
        )
    return Question(**arguments)
