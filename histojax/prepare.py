"""What a run needs before its first step: tiles, evaluation tiles, starting weights, the plan to print."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from histojax.config import last_step
from histojax.data import eval_batches, open_source, sample_check, split_labelled
from histojax.errors import UserError
from histojax.evaluation import online
from histojax.published import Fetched, fetch_weights, weights_sha256
from histojax.ssl.recipe import Recipe
from histojax.ssl.state import parameter_count
from histojax.weights.licence import as_rows, chain_beside
from histojax.weights.load import load_backbone, load_ssl, training_files
from histojax.weights.mapping import flatten
from histojax.weights.pos_embed import resample_grid

Tree = Any


def open_training(config: ConfigDict) -> Any:
    """The source of the training tiles; raises UserError when it is missing, empty or mostly unreadable."""
    source = _open(config, config.data.train)
    sample_check(source)
    return source


def open_evaluation(config: ConfigDict, train_source: Any) -> online.EvalTiles:
    """The tiles that judge the teacher: eval.data (else the training tiles), split or with eval.test beside it."""
    e = config.eval
    source = _open(config, e.data, seed=1) if e.data else train_source
    if not (source.labels >= 0).any():
        if e.test:
            raise UserError(f"eval.test={e.test} needs labelled tiles to fit on: name them in eval.data")
        chosen = _some(np.arange(len(source)), e.max_tiles, e.split_seed)
        return online.EvalTiles(_reader(config, (source, chosen)), source.labels[chosen], 0, "no labels")
    if e.test:
        test_source, how = _open(config, e.test, seed=2), f"tested on {e.test}"
        if set(test_source.classes) - set(source.classes):
            raise UserError(
                f"eval.test={e.test}: its classes ({', '.join(test_source.classes)}) are not those of the tiles "
                f"to fit on ({', '.join(source.classes)})"
            )
        fit, test = np.flatnonzero(source.labels >= 0), np.flatnonzero(test_source.labels >= 0)
    else:
        test_source = source
        fit, test = split_labelled(source, e.test_share, e.split_seed)
        how = "split by class (no patients known: tiles of one slide may be on both sides)"
        if source.groups is not None:
            how = f"split by patient or slide ({_count(source, fit)} to fit, {_count(source, test)} to test)"
    share = len(fit) / (len(fit) + len(test))
    fit = _some(fit, max(1, round(e.max_tiles * share)), e.split_seed)
    test = _some(test, max(1, e.max_tiles - len(fit)), e.split_seed)
    if not len(test):
        raise UserError(f"eval.test={e.test}: no tile of it is labelled")
    names = {name: i for i, name in enumerate(source.classes)}
    table = np.array([names[name] for name in test_source.classes], np.int32)
    labels = np.concatenate([source.labels[fit], table[test_source.labels[test]]])
    return online.EvalTiles(_reader(config, (source, fit), (test_source, test)), labels, len(fit), how)


def _open(config: ConfigDict, spec: str, seed: int = 0) -> Any:
    """The source; synthetic tissue is drawn at the size that is trained on, other patients for another `seed`."""
    return open_source(spec, tile_px=config.data.tile_px, seed=seed)


def _count(source: Any, chosen: np.ndarray) -> int:
    return len(np.unique(np.asarray(source.groups)[chosen]))


def _some(indices: np.ndarray, limit: int, seed: int) -> np.ndarray:
    """Ascending, at most `limit` of them, drawn at random."""
    if len(indices) > limit:
        indices = np.random.default_rng(seed).choice(indices, limit, replace=False)
    return np.sort(indices)


def _reader(config: ConfigDict, *parts: tuple[Any, np.ndarray]) -> Callable[[], Iterator[online.Batch]]:
    def batches() -> Iterator[online.Batch]:
        for source, chosen in parts:
            yield from eval_batches(source, chosen, config.eval.batch_size, config.data.tile_px)

    return batches


@dataclasses.dataclass(frozen=True)
class Start:
    """Where the parameters start from. Trees hold loaded modules only, on the host; what is missing is random."""

    student: Tree = dataclasses.field(default_factory=dict)
    teacher: Tree = dataclasses.field(default_factory=dict)  # empty: an exact copy of the student
    sources: list[dict[str, Any]] = dataclasses.field(default_factory=list)  # name, file, sha256, licence
    report: str = "random parameters"


def load_start(config: ConfigDict, recipe: Recipe, offline: bool) -> Start:
    """The weights that the configuration names, fetched, checked against the model and put on its position grid.

    model.weights starts student and teacher alike. model.continue_from goes on with a training: the teacher stays
    the teacher, and a part that only one side has is given to both. Raises UserError for another architecture,
    missing or unused tensors.
    """
    m = config.model
    names = [m.weights] if m.weights else []
    training = _training_names(m.continue_from)
    files = {name: fetch_weights(name, offline=offline) for name in (*names, *training)}
    sides: dict[str, Tree] = {"student": {}, "teacher": {}}
    notes = []
    if m.weights:
        tree, report, how = load_backbone(files[m.weights].path, None if m.weights_key == "auto" else m.weights_key)
        sides = {side: {"backbone": tree} for side in sides}
        notes.append(f"{m.weights}: {report.summary()} {'; '.join(how)}")
    if training:
        found, how = load_ssl(*(files[name].path for name in training))
        sides = {side: parts | found.get(side, {}) for side, parts in sides.items()}
        notes.append(f"continued from {', '.join(training)}: {'; '.join(how + _share(sides, recipe))}")
    for side, tree in sides.items():
        _fit(config, recipe, tree, f"{side} of {', '.join(files)}")
    sources = [_source(name, fetched) for name, fetched in files.items()]
    return Start(sides["student"], sides["teacher"] if training else {}, sources, " | ".join(notes) or Start.report)


def _training_names(spec: str) -> list[str]:
    """The files that model.continue_from says: a folder with them, or names and paths separated by commas."""
    names: list[str] = []
    for part in filter(None, (part.strip() for part in spec.split(","))):
        names += [str(path) for path in training_files(part)] if Path(part).is_dir() else [part]
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


def _fit(config: ConfigDict, recipe: Recipe, tree: Tree, file: str) -> None:
    """Resamples the position grid to the global crops and checks every shape; changes `tree`."""
    modes = {"paper": "exact", "offset": "offset", "antialias": "antialias"}
    if "backbone" in tree:
        positions = resample_grid(tree["backbone"]["pos_embed"], recipe.vit.grid, modes[config.model.position_load])
        tree["backbone"] = {**tree["backbone"], "pos_embed": positions}
    expected = flatten({name: leaves for name, leaves in _shapes(recipe).items() if name in tree})
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


def _shapes(recipe: Recipe) -> Tree:
    return jax.eval_shape(lambda: recipe.init(jax.random.key(0)))


def _source(name: str, fetched: Fetched) -> dict[str, Any]:
    path, _, licence = fetched
    row: dict[str, Any] = {"name": name, "file": path.name, "sha256": weights_sha256(path), "licence": licence}
    chain = chain_beside(path)  # of a file that histojax wrote: what went into it
    return row | {"licences": as_rows(chain)} if chain else row


def put_in(start: Start, random: Tree) -> tuple[Tree, Tree | None]:
    """(student, teacher or None) float32: the loaded modules in the place of the random ones."""
    student, teacher = (
        {**random, **jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), side)}
        for side in (start.student, start.teacher)
    )
    return student, teacher if start.teacher else None


def plan(config: ConfigDict, recipe: Recipe, source: Any, tiles: online.EvalTiles, start: Start) -> str:
    """What is about to happen, a line a subject."""
    shapes = jax.eval_shape(recipe.start, _shapes(recipe))
    sizes = {name: parameter_count(tree) for name, tree in shapes.student.items()}
    heads = ", ".join(f"{name} {count / 1e6:.1f}M" for name, count in sizes.items() if name != "backbone")
    groups = "" if source.groups is None else f", {len(np.unique(source.groups))} patients or slides"
    devices, v, c, steps = jax.devices(), recipe.vit, config.crops, last_step(config)
    passes = steps * config.batch_size / len(source)
    rows = {
        "encoder": f"{config.model.size}/{v.patch}, {sizes['backbone'] / 1e6:.1f}M parameters; {heads}",
        "start": start.report,
        "tiles": f"{config.data.train}: {len(source)} tiles, {_classes(source)}{groups}",
        "crops": f"2 x {c.global_px} px + {c.local_crops} x {c.local_px} px from {config.data.tile_px} px",
        "steps": f"{steps} of {config.batch_size} images ({passes:.1f} passes), schedules over "
        f"{config.epochs * config.epoch_steps}",
        "device": f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform}), "
        f"{np.dtype(v.dtype).name} matmuls, state {_bytes(shapes) / 2**30:.2f} GiB"
        + (" over all devices" if config.mesh.fsdp else ""),
        "evaluation": f"every {config.eval.every} steps on {len(tiles.labels)} tiles, {tiles.how}",
    }
    return "\n".join(f"{name:11s} {value}" for name, value in rows.items())


def _classes(source: Any) -> str:
    return f"{len(source.classes)} classes" if source.classes else "no labels"


def _bytes(tree: Tree) -> int:
    return sum(int(np.prod(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))
