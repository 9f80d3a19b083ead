"""What `convert` and `export` share: a file, an encoder or a run in; tree, licences, input and history out."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from histojax import __version__
from histojax.errors import UserError
from histojax.models.network import POOLINGS, abstract, family
from histojax.models.record import EncoderRecord
from histojax.models.resnet import ResNetConfig
from histojax.models.vit import ViTConfig
from histojax.published import fetch_file, fetch_weights, weights_sha256
from histojax.weights.library_configs import InputRule
from histojax.weights.licence import Link, card_beside, chain_of_card, link
from histojax.weights.mapping import Report
from histojax.weights.read import Found, open_weights
from histojax.weights.vit_tree import grid_of

Tree = dict[str, Any]


@dataclasses.dataclass
class Parcel:
    """Weights on their way from one file to another, and what has to be known of them."""

    name: str
    family: str
    tree: Tree
    report: Report
    notes: list[str]
    facts: dict[str, Any]  # for the card
    chain: tuple[Link, ...]
    heads: int | None = None
    eps: float = 1e-6
    rule: InputRule | None = None
    image: int | None = None  # input side for which features are wanted; None: that of the stored grid
    mode: str | None = None  # how the position grid is resampled to it, see weights.pos_embed
    grid: str = "as stored in the source"  # how the position grid came about


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
        source: what weights.read.read_tree or published.fetch_weights takes.
        record: the encoder it is of; None: what the file says, and the card beside it.
        layout, which, ignore: see weights.read.read_tree.
        licence: of a file that brings none.
        heads: of a ViT, if they are not 64 channels each.
        offline: never download.

    Raises UserError as these functions do.
    """
    path, _, terms = fetch_weights(source, offline=offline)
    found = open_weights(path, family=family(record.network) if record else None, layout=layout, which=which)
    tree, report, notes = found.read(_expected(record, found), ignore)
    digest, card = weights_sha256(path), card_beside(path)
    facts = _facts(found, path, digest, notes) | ({"encoder": record.name} if record else {})
    chain = _chain(record, card, path, digest, licence or terms)
    parcel = Parcel(record.name if record else path.stem, found.family, tree, report, notes, facts, chain)
    if record:
        _describe(parcel, record)
        if record.weights[0].sha256 not in (None, digest):
            notes.append(f"not the published file of {record.name}: its SHA-256 is {record.weights[0].sha256}")
    else:
        _describe_by_card(parcel, card)
    parcel.heads = heads or parcel.heads
    return parcel


def open_encoder(record: EncoderRecord, *, offline: bool = False) -> Parcel:
    """The published weights of an encoder."""
    file = record.weights[0]
    path = fetch_file(file, offline=offline)
    found = open_weights(path, family=family(record.network), layout=file.layout or None, which=file.which)
    tree, report, notes = found.read(_expected(record, found))
    digest = weights_sha256(path)
    facts = {**_facts(found, path, digest, notes), "encoder": record.name}
    chain = (_link(record, path, digest),)
    parcel = Parcel(record.name, found.family, tree, report, notes, facts, chain)
    _describe(parcel, record)
    return parcel


def _expected(record: EncoderRecord | None, found: Found) -> Tree | None:
    """The tree of the record's network with the file's own position grid, and its mask token or classifier if any."""
    if record is None:
        return None
    config, shapes = record.network, found.shapes()[0]
    if isinstance(config, ViTConfig) and "pos_embed" in shapes:
        config = dataclasses.replace(config, image=grid_of(shapes) * config.patch, mask_token="mask_token" in shapes)
    if isinstance(config, ResNetConfig) and "fc" not in shapes:
        config = dataclasses.replace(config, classes=0)
    return abstract(config)[1]


def _facts(found: Found, path: Path, digest: str, notes: Sequence[str]) -> dict[str, Any]:
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


def _chain(
    record: EncoderRecord | None, card: Mapping[str, Any], path: Path, digest: str, terms: str
) -> tuple[Link, ...]:
    """The licences of a file: those of the card beside it, and of the encoder that it is said to be of."""
    chain = chain_of_card(card)
    if record and all(one.what != record.name for one in chain):
        chain = (_link(record, path, digest), *chain)
    trained_from_nothing = card.get("starting_weights") == "random" or card.get("licences") == []
    if chain or trained_from_nothing:
        return chain
    return (link(path.name, terms, file=path.name, sha256=digest),)


def _link(record: EncoderRecord, path: Path, digest: str) -> Link:
    return Link(record.name, record.licence, record.commercial, record.derivatives, path.name, digest)


def _describe(parcel: Parcel, record: EncoderRecord) -> None:
    """Fills in what the record knows of input, feature and network."""
    rule, config = record.preprocess, record.network
    grey = rule.scale * 255  # means of records are in units of x * scale, those of cards of x / 255
    mean, std = (tuple(value / grey for value in values) for values in (rule.mean, rule.std))
    parcel.rule = InputRule(rule.size, rule.crop, rule.filter, mean, std)
    parcel.image, parcel.heads = rule.side, getattr(config, "heads", None)
    parcel.eps, parcel.mode = getattr(config, "eps", 1e-6), getattr(config, "interpolation", None)
    parcel.facts |= {"name": record.name, "feature": POOLINGS[record.pooling][0]}
    parcel.facts |= {"features": record.features, "mpp": record.mpp}


def _describe_by_card(parcel: Parcel, card: Mapping[str, Any]) -> None:
    """Fills in what a card written by us knows."""
    shape, rule = card.get("architecture", {}), card.get("preprocessing", {})
    parcel.heads, parcel.eps = shape.get("heads"), shape.get("eps", 1e-6)
    if {"size", "crop", "filter", "mean", "std"} <= set(rule):
        mean, std = tuple(rule["mean"]), tuple(rule["std"])
        parcel.rule = InputRule(rule["size"], rule["crop"], rule["filter"], mean, std)
    kept = (
        "name",
        "encoder",
        "feature",
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


def is_run(folder: str | Path) -> bool:
    """Whether a folder is that of a training run."""
    try:
        stored = json.loads((Path(folder) / "config.json").read_text())
        return isinstance(stored.get("config"), dict) and "fingerprint" in stored
    except (OSError, ValueError, AttributeError):
        return False


def open_run(folder: str | Path, *, which: str = "teacher", step: int | None = None) -> Parcel:
    """The teacher's (or student's) backbone of a training run: as exported at its end, else of a checkpoint.

    Args:
        folder: the run's --workdir.
        which: "teacher" or "student".
        step: of the checkpoint to take; None: the export, or the newest checkpoint if there is none.

    Raises UserError if the run has saved nothing yet.
    """
    folder = Path(folder)
    config = json.loads((folder / "config.json").read_text())["config"]
    file = folder / "export" / f"{which}_checkpoint.safetensors"
    cards = sorted((folder / "export").glob("*/card.json"))
    card = json.loads(cards[0].read_text()) if cards else {}
    if step is None and file.is_file():
        found = open_weights(file, family="vit", layout="meta", which=which)
        tree, report, notes = found.read()
    else:
        tree, saved = _checkpoint(folder, config, which, step)
        report, notes = Report(), [f"checkpoint of step {saved['step']}"]
        card = {"starting_weights": saved["sources"] or "random", "recipe": config, "steps": saved["step"]}
    known = {key: value for key, value in card.items() if key not in _OF_THE_FILE}
    facts = {"what": f"{which} of DINOv2 training by histojax", **known, "histojax": __version__}
    facts["name"] = f"{config['name']}_{config['model']['size']}"
    from histojax.config import SIZES

    heads = SIZES[config["model"]["size"]][2]
    facts.setdefault("feature", POOLINGS["cls"][0])
    return Parcel(folder.name, "vit", tree, report, notes, facts, chain_of_card(card), heads=heads, grid="as trained")


_OF_THE_FILE = {"layout", "architecture", "parameters", "weights", "preprocessing", "positions", "licences", "family"}


def _checkpoint(folder: Path, config: Mapping[str, Any], which: str, step: int | None) -> tuple[Tree, dict[str, Any]]:
    """(backbone, {"step", "sources"}) of a run's checkpoint."""
    from ml_collections import ConfigDict

    from histojax.checkpoint import backbone_of, newest_step

    newest = newest_step(folder / "checkpoints")
    if newest is None:
        raise UserError(f"{folder}: the run has saved nothing yet; let it reach its first checkpoint")
    chosen = newest if step is None else step
    tree, notes = backbone_of(folder / "checkpoints", chosen, ConfigDict(config), which)
    return tree, {"step": chosen, "sources": notes.get("sources", [])}
