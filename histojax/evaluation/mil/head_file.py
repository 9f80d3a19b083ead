"""Heads in files: ours, safetensors with a card in the header, and those that HistoBistro and Lightning wrote."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from histojax.common.errors import UserError
from histojax.common.files import expanded, replacing
from histojax.evaluation.mil.head import Head
from histojax.evaluation.mil.models import abstract
from histojax.evaluation.mil.published import read_published
from histojax.evaluation.mil.settings import HeadSettings
from histojax.evaluation.mil.tasks import TASKS
from histojax.weights.containers import open_tensors
from histojax.weights.safetensors_file import write_safetensors
from histojax.weights.trees import flatten, shape_of, unflatten

CARD = "histojax_head"  # the key in the metadata
FORMAT = "histojax head 1"


def save_head(path: str | os.PathLike, head: Head) -> None:
    """Writes a .safetensors file, whole or not at all; the names of its tensors are the paths of the parameters."""
    card = {
        "format": FORMAT,
        "settings": asdict(head.settings),
        "task": head.task,
        "classes": list(head.classes),
        "facts": dict(head.facts),
    }
    tensors = {name: np.asarray(leaf) for name, leaf in flatten(head.params).items()}
    path = expanded(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        write_safetensors(temporary, tensors, {CARD: json.dumps(card, allow_nan=False)})


def load_head(path: str | os.PathLike, heads: int = 0, pool: str = "") -> Head:
    """The head of a file; nothing that a pickle in it names is run.

    Args:
        path: what `save_head` wrote, or weights of HistoBistro: .pth, or .ckpt of Lightning.
        heads, pool: of a published transformer; 0 and "": as its file says, else as published (64 features a head, the
            class token).

    Raises:
        UserError: missing and damaged files, and those of something else.
    """
    path = expanded(path)
    file = open_tensors(path)
    if CARD not in file.metadata:
        return read_published(file, heads, pool)
    try:
        card = json.loads(file.metadata[CARD])
        settings, task = HeadSettings(**card["settings"]), card["task"]
        classes, facts = tuple(card["classes"]), card["facts"]
        known = card["format"] == FORMAT and task in TASKS
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: the head's card is damaged ({error!r}); train it again") from error
    if not known:
        raise UserError(f"{path}: not in the format {FORMAT!r}; train the head again or update histojax")
    params = unflatten({name: tensor.numpy() for name, tensor in file.tensors.items()})
    check_shapes(path, settings, params)
    return Head(settings, task, classes, params, facts)


def check_shapes(path: Any, settings: HeadSettings, params: Mapping[str, Any]) -> None:
    """Raises UserError unless the tree is that of the settings."""
    wanted = {name: shape_of(leaf) for name, leaf in flatten(abstract(settings)[1]).items()}
    found = {name: shape_of(leaf) for name, leaf in flatten(params).items()}
    wrong = sorted(name for name in {*wanted, *found} if wanted.get(name) != found.get(name))
    if wrong:
        name = wrong[0]
        raise UserError(
            f"{path}: {len(wrong)} parameters do not fit the model {settings.model!r}, as {name}: {found.get(name)} "
            f"in the file, {wanted.get(name)} in the model"
        )
