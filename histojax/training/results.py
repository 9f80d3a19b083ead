"""What a run leaves behind: exported weights with their card, the curves, the closing words."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

import histojax
from histojax.common.files import replacing, write_atomic
from histojax.common.progress import hms
from histojax.common.versions import versions
from histojax.data.bad_tiles import bad_tiles_csv
from histojax.evaluation.evaluators import HISTOGRAM, TEST, Evaluator
from histojax.report.curves import save_curves
from histojax.runs.metrics import METRICS, read_metrics
from histojax.training import choice
from histojax.training.panels import panels
from histojax.weights.layouts.dinov2 import META, write_head
from histojax.weights.licence import CARD, as_rows, chain_of_card
from histojax.weights.reading_size import fit_to_input
from histojax.weights.safetensors_file import write_safetensors
from histojax.weights.write import write_weights
from histojax.zoo.run_checkpoints import BEST, network_of
from histojax.zoo.run_weights import reading_of

if TYPE_CHECKING:
    from histojax.training.loop import Loop

BAD_EVAL_TILES, LEFT_OUT = "bad_eval_tiles.csv", "left_out.csv"


def devices() -> dict[str, Any]:
    """The devices of this run, for its provenance."""
    return {
        "devices": jax.device_count(),
        "device_kind": jax.devices()[0].device_kind,
        "processes": jax.process_count(),
    }


def card(loop: Loop) -> dict[str, Any]:
    """What has to be known about exported weights: recipe, data, source weights and licence, scores."""
    config = loop.config.to_dict()
    return {
        "what": "teacher of DINOv2 training by histojax",
        "name": f"{config['name']}_{config['model']['size']}",
        "feature": "class token after the final norm",
        "histojax": histojax.__version__,
        "steps": loop.step,
        "images_seen": loop.step * config["batch_size"],
        "data": {
            "train": config["data"]["train"],
            "tiles": len(loop.source),
            "fingerprint": loop.source.fingerprint(),
        },
        "starting_weights": loop.notes.sources or "random",
        "before": loop.notes.first,
        "after": loop.notes.last,
        "versions": versions(),
        "recipe": config,
    }


def export(loop: Loop, folder: Path) -> list[Path]:
    """The weight files written below `folder`: the teacher in each layout of export.layouts, and teacher and student
    with their heads, from which a training can be continued (model.continue_from). Each folder has a card.

    The layouts are for reading: their position grid is that of eval.image_px. The others have the grid as trained.

    One process does it, from the checkpoint of the step, one network after the other: nothing is gathered from devices.
    """
    folder.mkdir(parents=True, exist_ok=True)
    facts, files = card(loop), []
    for side in ("teacher", "student"):
        tree = _network(loop, side)
        if side == "teacher":
            files += write_layouts(folder, tree["backbone"], facts, loop.recipe.vit.heads)
        path = folder / f"{side}_checkpoint.safetensors"
        with replacing(path) as temporary:
            write_safetensors(temporary, training_tensors(side, tree), {"format": "pt"})
        files.append(path)
        del tree
    states = [{"file": f"{side}_checkpoint.safetensors"} for side in ("teacher", "student")]
    known = {**facts, "weights": states, "licences": as_rows(chain_of_card(facts))}
    write_atomic(folder / CARD, json.dumps(known, indent=2, default=str) + "\n")
    return files


def write_layouts(folder: Path, backbone: Any, facts: dict[str, Any], heads: int) -> list[Path]:
    """The files of a backbone in the layouts of facts["recipe"], each with the position grid of the size that
    evaluations read (eval.image_px): there every library gives the features that were scored."""
    recipe = facts["recipe"]
    how = reading_of(recipe)
    tree, positions = fit_to_input(backbone, how.image // recipe["model"]["patch"], how.mode, how.grid)
    layouts = recipe["export"]["layouts"]
    return [write_weights(folder / name, tree, name, facts, heads=heads, positions=positions) for name in layouts]


def training_tensors(side: str, tree: Any) -> dict[str, np.ndarray]:
    """{"teacher.backbone.blocks.0...": array}: the names of facebookresearch/dinov2's training state."""
    modules = {name: META.write(part) if name == "backbone" else write_head(part) for name, part in tree.items()}
    return {
        f"{side}.{module}.{name}": np.ascontiguousarray(array)
        for module, tensors in modules.items()
        for name, array in tensors.items()
    }


def _network(loop: Loop, side: str) -> Any:
    """The parameters of "teacher" or "student" as they were saved at the loop's step, numpy arrays."""
    assert loop.checkpoints
    return network_of(loop.checkpoints.folder, loop.step, side)[0]


def is_exported(folder: Path) -> bool:
    """Whether `export` came to its end there."""
    return (folder / CARD).exists()


def list_unused(loop: Loop) -> None:
    """Writes what will not be used, as soon as it is known: unreadable evaluation tiles, files that are no tiles."""
    for name, rows in ((BAD_EVAL_TILES, loop.tiles.bad), (LEFT_OUT, loop.source.facts.left_out)):
        if rows:
            write_atomic(loop.workdir / name, bad_tiles_csv(rows))


def finish(loop: Loop) -> str:
    """Exports the teacher, draws the curves, and returns the closing words."""
    files = export(loop, loop.workdir / "export")
    curves = loop.workdir / "curves.png"
    save_curves(loop.workdir / METRICS, curves, panels(loop.evaluators), loop.config.name)
    lines = [
        f"done: {loop.step} steps, {hms(loop.notes.seconds)} of training, compilation included",
        *_scores(loop),
    ]
    lines.append(f"curves     {curves}")
    lines += [f"weights    {path}" for path in files]
    if len(loop.bad):
        lines.append(f"unreadable {len(loop.bad)} tiles were replaced, listed in {loop.workdir / 'bad_tiles.csv'}")
    if bad := loop.tiles.bad:
        lines.append(f"unreadable {len(bad)} evaluation tiles were left out, listed in {loop.workdir / BAD_EVAL_TILES}")
    if left_out := loop.source.facts.left_out:
        lines.append(f"left out   {len(left_out)} files that are no tiles, listed in {loop.workdir / LEFT_OUT}")
    lines += _commands(loop)
    lines += ["next, on your own tiles (a folder, CSV, zip or tile store):", f"  {next_command(loop)}"]
    return "\n".join(lines)


def _scores(loop: Loop) -> list[str]:
    """What the evaluations say, and which tiles said it."""
    c, tiles, rows = loop.config, loop.tiles, loop.evaluators
    if not tiles.labelled:
        told = (row for row in rows if row.watch and not row.needs_labels)
        where = f"on {len(tiles.labels)} tiles ({tiles.how})"
        lines = [f"{row.panel}: {_before_and_after(loop, row, row.metric())}, {where}" for row in told]
        return [*lines, _chosen(loop)]
    judged_by = c.eval.test or c.eval.data or c.data.train
    what = ", which is not histology" if judged_by.startswith("synthetic") else ""
    lines = [f"reported on test ({tiles.count(TEST)} tiles of {judged_by}{what}; {tiles.how}):"]
    for row in (row for row in rows if row.needs_labels):
        words = f"  {row.panel} by {row.title}: {_before_and_after(loop, row, row.metric(TEST))}"
        colour = loop.notes.first.get(f"{HISTOGRAM}/{row.metric(TEST)}")
        lines.append(words + (f" (colour histogram {colour:.3f})" if colour is not None else ""))
    return [*lines, _chosen(loop)]


def _before_and_after(loop: Loop, row: Evaluator, name: str) -> str:
    first, last = (values.get(name, math.nan) for values in (loop.notes.first, loop.notes.last))
    wide = loop.notes.last.get(row.interval(TEST)) if row.needs_labels else None
    return f"before {first:.4g}, after {last:.4g}" + (f" +- {wide:.2g}" if wide else "")


def _chosen(loop: Loop) -> str:
    """Which checkpoint is the best, by which tiles, and where it is."""
    path, best = loop.workdir / METRICS, loop.notes.best
    rows = read_metrics(path) if path.exists() else []
    said = choice.told(loop.config, loop.tiles, best, loop.notes.first, rows)
    if said.startswith("no "):
        return said
    return f"{said}, {f'kept in {loop.workdir}/checkpoints' if _best_is_there(loop) else 'no longer there'}"


def _best_is_there(loop: Loop) -> bool:
    return loop.checkpoints is not None and loop.notes.best.get("step") in loop.checkpoints.steps()


def _commands(loop: Loop) -> list[str]:
    """The commands for the features of the last step, and for those of the best one where it is another."""
    lines = [f"features   python -m histojax.extract --encoder {loop.workdir} --input SLIDES --out features"]
    if _best_is_there(loop) and loop.notes.best["step"] != loop.step and choice.chooser_of(loop.config, loop.tiles):
        best = loop.workdir / "checkpoints" / BEST
        lines.append(f"           (those of step {loop.notes.best['step']}, the best: --encoder {best})")
        lines.append(f"the best   python -m histojax.export {best} --to timm --out {loop.workdir / 'best_timm'}")
    return lines


def next_command(loop: Loop) -> str:
    """The command to type for other tiles."""
    config = "configs/finetune_cpu.py" if jax.default_backend() == "cpu" else "configs/nct_vits14.py"
    return f"python -m histojax.train --config {config} --workdir runs/mine --config.data.train=YOUR_TILES"
