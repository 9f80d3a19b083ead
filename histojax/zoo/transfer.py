"""What `convert` and `export` share: a file, an encoder or a run in; tree, licences, input and history out."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from histojax import __version__
from histojax.common.errors import UserError
from histojax.common.files import expanded, read_json
from histojax.models.network import POOLINGS, abstract, family
from histojax.models.resnet import ResNetConfig
from histojax.models.sizes import SIZES
from histojax.models.vit import ViTConfig
from histojax.weights.backbone import Backbone, open_backbone
from histojax.weights.checks import value_faults
from histojax.weights.how_to_load import epsilon_warning
from histojax.weights.library_configs import InputRule
from histojax.weights.licence import CARD, Link, card_beside, chain_of_card, warnings_of
from histojax.weights.pos_embed import mode_of
from histojax.weights.report import Report
from histojax.weights.search import SIDES
from histojax.weights.trees import flatten
from histojax.zoo.published import licence_chain, not_published, obtain, record_of, record_with, weights_sha256
from histojax.zoo.record import EncoderRecord
from histojax.zoo.run_checkpoints import backbone_of, newest_step
from histojax.zoo.stated import heads_by_size, heads_of, stated_beside, usual_eps

Tree = dict[str, Any]


@dataclasses.dataclass
class Parcel:
    """Weights on their way from one file to another, and what has to be known of them."""

    name: str
    family: str
    layout: str
    tree: Tree
    report: Report
    notes: list[str]
    facts: dict[str, Any]  # for the card
    chain: tuple[Link, ...]
    heads: int | None = None
    eps: float | None = None
    rule: InputRule | None = None
    image: int | None = None  # input side for which features are wanted; None: that of the stored grid
    mode: str | None = None  # how the position grid is resampled to it, see weights.pos_embed
    grid: str = "as stored in the source"  # how the position grid came about
    path: Path = Path()  # what was read
    sha256: str = ""  # of the file or files; "": a checkpoint, which is no file
    assumed: list[str] = dataclasses.field(default_factory=list)  # what the source does not state


def open_file(
    source: str | Path,
    record: EncoderRecord | None = None,
    *,
    layout: str | None = None,
    which: str | None = None,
    ignore: Sequence[str] = (),
    licence: str | None = None,
    heads: int | None = None,
    offline: bool = False,
) -> Parcel:
    """The weights of a file: a path, a URL or the name of a published file.

    Args:
        source: what published.obtain takes.
        record: the encoder it is of; None: the one of that name or of that SHA-256, else what the card beside the
            file says, or the config.json of timm or transformers.
        layout, which, ignore: see weights.backbone.
        licence: of a file that brings none.
        heads: of a ViT, where nothing else says it.
        offline: never download.

    Raises UserError as these functions do, and for a `which`, `licence` or `heads` that contradicts what is known.
    """
    if (run := find_run(source)) is not None:
        raise UserError(
            f"{source}: belongs to a training run; `histojax export` takes runs and their checkpoints, this wants one "
            f"weight file, such as {run.folder / 'export' / 'teacher_checkpoint.safetensors'}"
        )
    named = record_of(source)
    path, file, terms = obtain(source, offline=offline)
    digest, card = weights_sha256(path), card_beside(path)
    published = named[0] if named else record_with(digest)
    record = record or published
    found = open_backbone(
        path,
        family=family(record.network) if record else None,
        layout=layout,
        which=which or file.which,
    )
    if which in SIDES and which not in found.sides:
        raise UserError(f"{path}: has one set of weights, neither of a teacher nor of a student; leave --which out")
    tree, report, notes = found.read(_expected(record, found), ignore)
    facts = _facts(found, path, digest, notes) | ({"encoder": record.name} if record else {})
    chain = licence_chain(path, digest, licence or terms, record, published)
    if licence and all(one.licence != licence for one in chain):
        known = chain[0].terms() if chain else "none: it was trained from random parameters"
        raise UserError(f"{path}: --licence is for a file whose licence is not known; this one's is {known}")
    name = record.name if record else path.stem
    parcel = Parcel(name, found.family, found.layout.name, tree, report, notes, facts, chain, path=path, sha256=digest)
    if record:
        _describe(parcel, record)
        if published and not named:
            notes.append(f"its SHA-256 is that of the published file of {published.name}")
        if note := not_published(record, named[1] if named else record.weights[0], digest):
            notes.append(note)
    else:
        _describe_by_card(parcel, card)
    _settle(parcel, path, heads)
    return parcel


def _expected(record: EncoderRecord | None, found: Backbone) -> Tree | None:
    """The tree of the record's network with the file's own position grid, and its mask token or classifier if any."""
    if record is None:
        return None
    config, shapes, grid = record.network, found.shapes()[0], found.position_grid()
    if isinstance(config, ViTConfig) and grid is not None:
        config = dataclasses.replace(config, image=grid * config.patch, mask_token="mask_token" in shapes)
    if isinstance(config, ResNetConfig) and "fc" not in shapes:
        config = dataclasses.replace(config, classes=0)
    return abstract(config)[1]


def _facts(found: Backbone, path: Path, digest: str, notes: Sequence[str]) -> dict[str, Any]:
    source = {
        "file": path.name,
        "sha256": digest,
        "container": found.container,
        "layout": found.layout.name,
        "recognised": list(notes),
    }
    return {"what": "Weights rewritten by histojax; the numbers are those of the source.", "source": source} | {
        "histojax": __version__
    }


def _describe(parcel: Parcel, record: EncoderRecord) -> None:
    """Fills in what the record knows of input, feature and network."""
    rule, config = record.preprocess, record.network
    grey = rule.scale * 255  # means of records are in units of x * scale, those of cards of x / 255
    mean, std = (tuple(value / grey for value in values) for values in (rule.mean, rule.std))
    parcel.rule = InputRule(rule.size, rule.crop, rule.filter, mean, std)
    parcel.image, parcel.heads = rule.side, heads_of(config)
    parcel.eps, parcel.mode = getattr(config, "eps", None), getattr(config, "interpolation", None)
    parcel.facts |= {"name": record.name, "feature": POOLINGS[record.pooling][0], "pooling": record.pooling}
    parcel.facts |= {"features": record.features, "mpp": record.mpp}


def _describe_by_card(parcel: Parcel, card: Mapping[str, Any]) -> None:
    """Fills in what a card written by us knows."""
    shape, rule = card.get("architecture", {}), card.get("preprocessing", {})
    parcel.heads, parcel.eps = shape.get("heads"), shape.get("eps")
    parcel.assumed = list(card.get("assumed", ()))
    if {"size", "crop", "filter", "mean", "std"} <= set(rule):
        mean, std = tuple(rule["mean"]), tuple(rule["std"])
        parcel.rule = InputRule(rule["size"], rule["crop"], rule["filter"], mean, std)
    kept = (
        "name",
        "encoder",
        "feature",
        "pooling",
        "features",
        "mpp",
        "steps",
        "images_seen",
        "data",
        "before",
        "after",
        "recipe",
    )
    parcel.facts |= {key: card[key] for key in kept if key in card}


def _settle(parcel: Parcel, path: Path, heads: int | None) -> None:
    """Fills in heads and epsilon where neither record nor card knew them, and says what had to be assumed."""
    if heads and parcel.heads not in (None, heads):
        raise UserError(f"{path}: --heads {heads}, but {parcel.name} has {parcel.heads}; leave --heads out")
    stated = stated_beside(path, parcel.family, parcel.tree)
    parcel.heads = heads or parcel.heads or stated.heads
    if parcel.heads is None and parcel.family in ("vit", "dinov3"):
        parcel.heads, who = heads_by_size(parcel.family, parcel.tree)
        if who:
            parcel.assumed.append(f"{parcel.heads} attention heads, as {who} of this width and depth")
    if parcel.eps is None and parcel.family != "resnet":  # a ResNet has BatchNorm, always with one epsilon
        parcel.eps = stated.eps or usual_eps(parcel.family, parcel.layout)
        if stated.eps is None:
            parcel.assumed.append(f"a LayerNorm epsilon of {parcel.eps:g}, usual in files of this layout")


def warnings(parcel: Parcel, layout: str) -> list[str]:
    """What the licences forbid, and what the library of a layout would get wrong."""
    epsilon = "" if parcel.eps is None else epsilon_warning(layout, parcel.family, parcel.eps)
    return [*warnings_of(parcel.chain), *([epsilon] if epsilon else [])]


def check_heads(parcel: Parcel) -> None:
    """Raise UserError if the number of heads, without which nobody can run the network, is not known."""
    if parcel.heads is None and parcel.family in ("vit", "dinov3"):
        file = parcel.facts.get("source", {}).get("file", parcel.name)
        raise UserError(
            f"{file}: nothing says how many attention heads this network has (no published one is of its width and "
            "depth): give --heads N, or --encoder NAME"
        )


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
    """The run that a path is of: its folder, the folder `export` or `checkpoints` in it, a checkpoint; else None."""
    path = expanded(path)
    if is_run(path) or _is_export(path):
        return Run(path, None)
    # an absolute path has the names that "." and ".." stand for
    folder = path.absolute().parent
    if path.is_dir() and path.absolute().name == "checkpoints" and is_run(folder):
        return Run(folder, newest_step(path) or 0)
    if path.is_dir() and path.absolute().name.isdigit() and folder.name == "checkpoints" and is_run(folder.parent):
        return Run(folder.parent, int(path.absolute().name))
    return None


def _is_export(folder: Path) -> bool:
    """Whether a folder is what a training wrote at its end: the card of teacher and student, with its recipe."""
    return folder.is_dir() and isinstance(card_beside(folder).get("weights"), list)


def open_run(folder: str | Path, *, which: str = "teacher", step: int | None = None) -> Parcel:
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
    known = {key: value for key, value in card.items() if key not in _OF_THE_FILE}
    facts = {"what": f"{which} of DINOv2 training by histojax", **known, "histojax": __version__}
    facts["name"] = f"{config['name']}_{config['model']['size']}"
    facts.setdefault("feature", POOLINGS["cls"][0])
    facts.setdefault("pooling", "cls")
    return Parcel(
        folder.name,
        "vit",
        "meta",
        tree,
        report,
        notes,
        facts,
        chain_of_card(card),
        heads=SIZES[config["model"]["size"]][2],
        mode=_mode_of_training(config["model"]),
        grid="as trained",
        path=path,
        sha256=digest,
    )


def _mode_of_training(model: Mapping[str, Any]) -> str:
    """How the training resamples positions to its local crops."""
    mode = model.get("interpolation", "auto")
    return mode_of("meta", model.get("registers", 0) > 0) if mode == "auto" else mode


def _card_of_run(export: Path) -> dict[str, Any]:
    """The card of a run's export, {} if there is none."""
    cards = sorted(export.glob(CARD)) or sorted(export.glob(f"*/{CARD}"))
    return read_json(cards[0]) if cards else {}


_OF_THE_FILE = {
    "layout", "architecture", "parameters", "weights", "preprocessing", "positions", "licences", "family", "epsilon",
    "assumed",
}  # fmt: skip


def _checkpoint(folder: Path, which: str, step: int | None) -> tuple[Tree, dict[str, Any]]:
    """(backbone, {"step", "sources"}) of a run's checkpoint; raises UserError for one that was not trained."""
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
    return tree, {"step": chosen, "sources": notes.get("sources", [])}


def sha256_of_tree(tree: Tree) -> str:
    """SHA-256 in hex of parameters that no file holds: of their names, shapes and bytes."""
    digest = hashlib.sha256()
    for name, leaf in sorted(flatten(tree).items()):
        digest.update(f"{name} {leaf.dtype} {leaf.shape}\n".encode())
        digest.update(np.ascontiguousarray(leaf).data)
    return digest.hexdigest()
