"""The weights that a run starts from: fetched, checked against the model, put in place of random ones."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import jax
from ml_collections import ConfigDict

from histojax.common.errors import UserError
from histojax.common.files import expanded
from histojax.ssl.recipe import Recipe
from histojax.weights.backbone import open_backbone
from histojax.weights.licence import as_rows
from histojax.weights.pos_embed import grid_side, resample_grid
from histojax.weights.training_parts import read_training_parts, training_files
from histojax.weights.trees import flatten
from histojax.zoo.published import Obtained, licence_chain, obtain, record_of, record_with, weights_sha256

Tree = Any
_LOADS = {"paper": "exact", "offset": "offset", "antialias": "antialias"}  # of model.position_load, in bicubic.MODES


@dataclasses.dataclass(frozen=True)
class Start:
    """Where the parameters start from. Trees hold loaded modules only, on the host; what is missing is random."""

    student: Tree = dataclasses.field(default_factory=dict)
    teacher: Tree = dataclasses.field(default_factory=dict)  # empty: an exact copy of the student
    sources: list[dict[str, Any]] = dataclasses.field(default_factory=list)  # name, file, sha256, licence
    report: str = "random parameters"
    step: int | None = None  # of the checkpoint to go on from, which has the parameters


def load_start(config: ConfigDict, recipe: Recipe, offline: bool) -> Start:
    """The weights that the configuration names, fetched, checked against the model and put on its position grid.

    model.weights starts student and teacher alike. model.continue_from goes on with a training: the teacher stays
    the teacher, and a part that only one side has is given to both. Raises UserError for another architecture,
    missing or unused tensors.
    """
    m = config.model
    names = [m.weights] if m.weights else []
    training = _training_names(m.continue_from)
    files = {name: obtain(name, offline=offline) for name in (*names, *training)}
    sides: dict[str, Tree] = {"student": {}, "teacher": {}}
    notes = []
    if m.weights:
        side = None if m.weights_key == "auto" else m.weights_key
        tree, report, how = open_backbone(files[m.weights].path, family="vit", which=side).read_to_train()
        sides = {side: {"backbone": tree} for side in sides}
        notes.append(f"{m.weights}: {report.summary()} {'; '.join(how)}")
    if training:
        found, how = read_training_parts(*(files[name].path for name in training))
        sides = {side: parts | found.get(side, {}) for side, parts in sides.items()}
        notes.append(f"continued from {', '.join(training)}: {'; '.join(how + _share(sides, recipe))}")
    if training and recipe.train.kind != "all":
        notes.append(f"model.train={m.train}: what is not trained is the teacher's in both networks")
    notes += list(_grids(config, recipe, sides))
    for side, tree in sides.items():
        _fit_to_model(config, recipe, tree, f"{side} of {', '.join(files)}")
    sources = [_source(name, fetched) for name, fetched in files.items()]
    return Start(sides["student"], sides["teacher"] if training else {}, sources, " | ".join(notes) or Start.report)


def _training_names(spec: str) -> list[str]:
    """The files that model.continue_from says: a folder with them, or names and paths separated by commas."""
    names: list[str] = []
    for part in filter(None, (part.strip() for part in spec.split(","))):
        names += [str(path) for path in training_files(expanded(part))] if expanded(part).is_dir() else [part]
    return names


def _share(sides: dict[str, Tree], recipe: Recipe) -> list[str]:
    """Gives a module that one side lacks the other's, so that both start from the same numbers; says what it did."""
    notes = []
    for module in recipe.modules:
        for side, other in (("student", "teacher"), ("teacher", "student")):
            if module not in sides[side] and module in sides[other]:
                sides[side] = sides[side] | {module: sides[other][module]}
                notes.append(f"no {side} {module} in the files: it starts as the {other}'s")
        if module not in sides["student"]:
            notes.append(f"no {module} in the files: random")
    return notes


def _grids(config: ConfigDict, recipe: Recipe, sides: dict[str, Tree]) -> Iterator[str]:
    """How the position grids of the files become that of the training."""
    wanted, patch = recipe.vit.grid, recipe.vit.patch
    for grid in dict.fromkeys(
        grid_side(tree["backbone"]["pos_embed"]) for tree in sides.values() if "backbone" in tree
    ):
        if grid != wanted:
            what = f"position grid {grid} x {grid} resampled to {wanted} x {wanted}, of {wanted * patch} px"
            yield f"{what} (model.position_load={config.model.position_load})"


def _fit_to_model(config: ConfigDict, recipe: Recipe, tree: Tree, file: str) -> None:
    """Resamples the position grid to that of the training and checks every shape; changes `tree`."""
    if "backbone" in tree:
        positions = resample_grid(tree["backbone"]["pos_embed"], recipe.vit.grid, _LOADS[config.model.position_load])
        tree["backbone"] = {**tree["backbone"], "pos_embed": positions}
    expected = flatten({name: leaves for name, leaves in parameter_shapes(recipe).items() if name in tree})
    found = flatten(tree)
    faults = [f"{name} is missing" for name in expected if name not in found]
    faults += [f"{name} has no place in the model" for name in found if name not in expected]
    faults += [
        f"{name} has shape {found[name].shape}, the model expects {leaf.shape}"
        for name, leaf in expected.items()
        if name in found and found[name].shape != leaf.shape
    ]
    if faults:
        more = f"; and {len(faults) - 4} more" if len(faults) > 4 else ""
        raise UserError(
            f"{file}: belongs to another architecture: {'; '.join(faults[:4])}{more}. Check model.size, "
            "model.patch, model.registers, model.ffn and head"
        )


@functools.lru_cache(maxsize=4)
def parameter_shapes(recipe: Recipe) -> Tree:
    """The parameters of a network as shapes; not to be changed."""
    return jax.eval_shape(lambda: recipe.init(jax.random.key(0)))


def _source(name: str, fetched: Obtained) -> dict[str, Any]:
    """What the card says of a file: the encoder whose published one it is, or what the card beside it tells."""
    path, _, terms = fetched
    digest, named = weights_sha256(path), record_of(name)
    chain = licence_chain(path, digest, terms, named[0] if named else record_with(digest))
    licence = "; ".join(dict.fromkeys(one.licence for one in chain)) or "none: trained from random parameters"
    return {"name": name, "file": path.name, "sha256": digest, "licence": licence, "licences": as_rows(chain)}
