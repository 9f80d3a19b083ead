"""The weights that a training run left behind: of its export or of a checkpoint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from histojax import __version__
from histojax.common.errors import UserError
from histojax.common.files import expanded, read_json
from histojax.models.network import POOLINGS
from histojax.models.sizes import SIZES
from histojax.weights.backbone import open_backbone
from histojax.weights.checks import value_faults
from histojax.weights.library_configs import InputRule
from histojax.weights.licence import CARD, card_beside, chain_of_card
from histojax.weights.pos_embed import mode_of
from histojax.weights.report import Report
from histojax.weights.search import SIDES
from histojax.weights.trees import flatten
from histojax.zoo.known_weights import KnownWeights, Tree
from histojax.zoo.published import weights_sha256
from histojax.zoo.run_checkpoints import BEST, backbone_of, best_step, newest_step


def is_run(folder: str | Path) -> bool:
    """Whether a folder is that of a training run."""
    try:
        stored = json.loads((Path(folder) / "config.json").read_text())
        return isinstance(stored.get("config"), dict) and "fingerprint" in stored
    except (OSError, ValueError, AttributeError):
        return False


class Run(NamedTuple):
    """Where a training run's weights lie."""

    folder: Path  # of the run, or its export, moved elsewhere
    step: int | None  # of a checkpoint; None: the export, or the newest checkpoint if there is none


def find_run(path: str | Path) -> Run | None:
    """The run that a path is of: its folder, the folder `export` or `checkpoints` in it, a checkpoint; else None.

    "checkpoints/best" is the checkpoint that the run chose, though no folder of that name is there. Raises UserError
    if it chose none.
    """
    path = expanded(path)
    if is_run(path) or _is_export(path):
        return Run(path, None)
    # an absolute path has the names that "." and ".." stand for
    folder = path.absolute().parent
    if path.is_dir() and path.absolute().name == "checkpoints" and is_run(folder):
        return Run(folder, newest_step(path) or 0)
    if path.is_dir() and path.absolute().name.isdigit() and folder.name == "checkpoints" and is_run(folder.parent):
        return Run(folder.parent, int(path.absolute().name))
    if path.absolute().name == BEST and folder.name == "checkpoints" and is_run(folder.parent):
        return Run(folder.parent, best_step(folder))
    return None


def _is_export(folder: Path) -> bool:
    """Whether a folder is what a training wrote at its end: the card of teacher and student, with its recipe."""
    return folder.is_dir() and isinstance(card_beside(folder).get("weights"), list)


def open_run(folder: str | Path, *, which: str = "teacher", step: int | None = None) -> KnownWeights:
    """The teacher's (or student's) backbone of a training run: as exported at its end, else of a checkpoint.

    Args:
        folder: the run's --workdir, or its export folder.
        which: "teacher" or "student".
        step: of the checkpoint to take; None: the export, or the newest checkpoint if there is none.

    Raises UserError if the run has saved nothing yet.
    """
    folder = Path(folder)
    if which not in SIDES:
        raise UserError(f"{folder}: a run has a {' and a '.join(SIDES)}, no {which!r}")
    export = folder if _is_export(folder) else folder / "export"
    file, card = export / f"{which}_checkpoint.safetensors", _card_of_run(export)
    config = card["recipe"] if export == folder else read_json(folder / "config.json")["config"]
    newest = newest_step(folder / "checkpoints")
    if step is None and (file.is_file() or export == folder):
        found = open_backbone(file, family="vit", layout="meta", which=which)
        tree, report, notes = found.read()
        if newest is not None and newest > card.get("steps", newest):
            notes.append(f"of step {card['steps']}, when it was exported; the newest checkpoint is of step {newest}")
        path, digest = file, weights_sha256(file)
    else:
        path, digest = folder / "checkpoints" / str(newest if step is None else step), ""
        tree, saved = _checkpoint(folder, which, step)
        report, notes = Report(), [f"checkpoint of step {saved['step']}"]
        card = {"starting_weights": saved["sources"] or "random", "recipe": config, "steps": saved["step"]}
        card |= saved["scores"]
    known = {key: value for key, value in card.items() if key not in _OF_THE_FILE}
    reading = reading_of(config)
    facts = {"what": f"{which} of DINOv2 training by histojax", **known, "histojax": __version__}
    facts["name"] = f"{config['name']}_{config['model']['size']}"
    facts.setdefault("feature", POOLINGS["cls"][0])
    facts.setdefault("pooling", "cls")
    return KnownWeights(
        folder.name,
        "vit",
        "meta",
        tree,
        report,
        notes,
        facts,
        chain_of_card(card),
        heads=SIZES[config["model"]["size"]][2],
        rule=InputRule(reading.image, reading.image),
        image=reading.image,
        mode=reading.mode,
        grid=reading.grid,
        path=path,
        sha256=digest,
    )


class Reading(NamedTuple):
    """At which size the weights of a training are read, and what becomes of their position grid there."""

    image: int  # input side: that at which the training's evaluations read them and chose a checkpoint
    mode: str  # how the training resampled the grid to sizes that are not its own, see weights.pos_embed
    grid: str  # how the numbers of the grid came about


def reading_of(config: Mapping[str, Any]) -> Reading:
    """How to read the weights of a training of this configuration, the "recipe" in its cards."""
    model, trained = config["model"], config["model"].get("train", "all")
    mode = model.get("interpolation", "auto")
    mode = mode_of("meta", model.get("registers", 0) > 0) if mode == "auto" else mode
    fixed = f"as the training found it (model.train={trained} leaves it alone)"
    return Reading(config["eval"]["image_px"], mode, "as trained" if trained == "all" else fixed)


def _card_of_run(export: Path) -> dict[str, Any]:
    """The card of a run's export, {} if there is none."""
    cards = sorted(export.glob(CARD)) or sorted(export.glob(f"*/{CARD}"))
    return read_json(cards[0]) if cards else {}


_OF_THE_FILE = {
    "layout", "architecture", "parameters", "weights", "preprocessing", "positions", "licences", "family", "epsilon",
    "assumed",
}  # fmt: skip


def _checkpoint(folder: Path, which: str, step: int | None) -> tuple[Tree, dict[str, Any]]:
    """(backbone, {"step", "sources", "scores"}) of a checkpoint; raises UserError for one that was not trained."""
    newest = newest_step(folder / "checkpoints")
    if newest is None:
        raise UserError(
            f"{folder}: the run has saved nothing yet, neither an export nor a whole checkpoint; let it reach its "
            "first one (checkpoint.every steps)"
        )
    chosen = newest if step is None else step
    tree, notes = backbone_of(folder / "checkpoints", chosen, which)
    if faults := value_faults(flatten(tree), {}):
        raise UserError(f"{folder / 'checkpoints' / str(chosen)}: {faults[0]}; take an earlier checkpoint")
    best = notes.get("best", {})  # of other steps the notes do not say when they were evaluated
    scores = {"before": notes.get("first", {}), "after": best["values"]} if best.get("step") == chosen else {}
    return tree, {"step": chosen, "sources": notes.get("sources", []), "scores": scores}


def sha256_of_tree(tree: Tree) -> str:
    """SHA-256 in hex of parameters that no file holds: of their names, shapes and bytes."""
    digest = hashlib.sha256()
    for name, leaf in sorted(flatten(tree).items()):
        digest.update(f"{name} {leaf.dtype} {leaf.shape}\n".encode())
        digest.update(np.ascontiguousarray(leaf).data)
    return digest.hexdigest()
