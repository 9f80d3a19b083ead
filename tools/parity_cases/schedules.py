"""Schedules: whole plans, and those of recorded steps of training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from histojax import config as configs
from histojax.ssl.schedules import scaled_lr
from histojax.training.recipe import schedules_of
from parity_cases.check import Check, compare, skipped
from parity_cases.golden import ArrayFile, Arrays, Folder

ATOL = 1e-12
COLUMNS = {  # the reference's name: ours
    "lr": "lr",
    "last_layer_lr": "last_layer_lr",
    "wd": "weight_decay",
    "momentum": "momentum",
    "teacher_temp": "teacher_temp",
}
SETTINGS = {  # of a plan: the leaf of our configuration
    "epochs": "epochs",
    "iterations_per_epoch": "epoch_steps",
    "batch": "batch_size",
    "base_lr": "optim.base_lr",
    "min_lr": "optim.min_lr",
    "warmup_epochs": "optim.warmup_epochs",
    "weight_decay": "optim.weight_decay",
    "weight_decay_end": "optim.weight_decay_end",
    "freeze_last_layer_epochs": "optim.freeze_last_layer_epochs",
    "momentum_teacher": "teacher.momentum",
    "final_momentum_teacher": "teacher.momentum_end",
    "teacher_temp": "teacher.temp",
    "warmup_teacher_temp": "teacher.temp_start",
    "warmup_teacher_temp_epochs": "teacher.temp_warmup_epochs",
}


def cases(file: ArrayFile, folder: Folder) -> Iterator[tuple[str, Callable]]:
    """Files whose meta has `plans`, with `<plan>/iteration` and the columns that belong to it."""
    for plan, settings in file.meta.get("plans", {}).items():
        name = f"{file.name} {plan}"
        yield name, partial(_plan, name, settings, file.arrays.below(f"{plan}/"))


def _plan(name: str, settings: dict, want: Arrays) -> Iterator[Check]:
    iteration = want["iteration"]
    config = _configured(settings)
    peak = scaled_lr(config.optim.base_lr, config.batch_size)
    if "scaled_lr" in settings:
        yield compare(name, "scaled lr", peak, settings["scaled_lr"], atol=ATOL)
    yield from _columns(name, schedules_of(config).table(iteration), want)
    absent = [theirs for theirs in COLUMNS if theirs not in want]
    if absent:
        yield skipped(name, f"no {', '.join(absent)} recorded")
    unknown = sorted(set(settings) - set(SETTINGS) - {"scaled_lr"})
    if unknown:
        yield skipped(name, f"settings that are not understood: {', '.join(unknown)}")


def of_training(name: str, meta: dict, want: Arrays) -> Iterator[Check]:
    """The schedules of recorded steps, by the settings in the meta of their case."""
    settings = {**meta.get("optim", {}), **meta.get("teacher", {})}
    settings["iterations_per_epoch"] = meta.get("OFFICIAL_EPOCH_LENGTH")
    # its learning rate is the one after scaling, which a batch of 1024 leaves as it is
    settings |= {"base_lr": settings.get("lr"), "batch": 1024}
    lacking = [k for k in SETTINGS if settings.get(k) is None]
    if lacking:
        yield skipped(name, f"schedules: the meta does not say {', '.join(lacking)}")
        return
    steps = np.arange(len(want["lr"]))
    yield from _columns(name, schedules_of(_configured(settings)).table(steps), want, "schedule of ")


def _configured(settings: dict[str, Any]) -> ConfigDict:
    config = configs.paper()
    with config.ignore_type():  # whole numbers of epochs by default, and any number in a plan
        config.update_from_flattened_dict({SETTINGS[k]: v for k, v in settings.items() if k in SETTINGS})
    return config


def _columns(name: str, ours: dict, want: Arrays, label: str = "") -> Iterator[Check]:
    for theirs, column in COLUMNS.items():
        if theirs in want:
            recorded = want[theirs]
            yield compare(name, f"{label}{column}, {len(recorded)} steps", ours[column], recorded, atol=ATOL)
