"""What `convert`, `export` and `load_encoder` share: a weight file in; tree, licences, input and history out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from histojax import __version__
from histojax.common.errors import UserError
from histojax.models.network import POOLINGS, abstract, family
from histojax.models.resnet import ResNetConfig
from histojax.models.vit import ViTConfig
from histojax.weights.backbone import Backbone, open_backbone
from histojax.weights.how_to_load import epsilon_warning
from histojax.weights.library_configs import InputRule
from histojax.weights.licence import card_beside, warnings_of
from histojax.weights.search import SIDES
from histojax.zoo.known_weights import KnownWeights, Tree
from histojax.zoo.published import licence_chain, not_published, obtain, record_of, record_with, weights_sha256
from histojax.zoo.record import EncoderRecord
from histojax.zoo.run_weights import find_run, reading_of
from histojax.zoo.stated import heads_by_size, heads_of, stated_beside, usual_eps


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
) -> KnownWeights:
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
            f"{source}: belongs to a training run; this wants one weight file, such as "
            f"{run.folder / 'export' / 'teacher_checkpoint.safetensors'}"
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
    weights = KnownWeights(
        name, found.family, found.layout.name, tree, report, notes, facts, chain, path=path, sha256=digest
    )
    if record:
        _describe(weights, record)
        if published and not named:
            notes.append(f"its SHA-256 is that of the published file of {published.name}")
        if note := not_published(record, named[1] if named else record.weights[0], digest):
            notes.append(note)
    else:
        _describe_by_card(weights, card)
    _settle(weights, path, heads)
    return weights


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


def _describe(weights: KnownWeights, record: EncoderRecord) -> None:
    """Fills in what the record knows of input, feature and network."""
    rule, config = record.preprocess, record.network
    grey = rule.scale * 255  # means of records are in units of x * scale, those of cards of x / 255
    mean, std = (tuple(value / grey for value in values) for values in (rule.mean, rule.std))
    weights.rule = InputRule(rule.size, rule.crop, rule.filter, mean, std)
    weights.image, weights.heads = rule.side, heads_of(config)
    weights.eps, weights.mode = getattr(config, "eps", None), getattr(config, "interpolation", None)
    weights.facts |= {"name": record.name, "feature": POOLINGS[record.pooling][0], "pooling": record.pooling}
    weights.facts |= {"features": record.features, "mpp": record.mpp}


def _describe_by_card(weights: KnownWeights, card: Mapping[str, Any]) -> None:
    """Fills in what a card written by us knows."""
    shape, rule = card.get("architecture", {}), card.get("preprocessing", {})
    weights.heads, weights.eps = shape.get("heads"), shape.get("eps")
    weights.assumed = list(card.get("assumed", ()))
    if {"size", "crop", "filter", "mean", "std"} <= set(rule):
        mean, std = tuple(rule["mean"]), tuple(rule["std"])
        weights.rule = InputRule(rule["size"], rule["crop"], rule["filter"], mean, std)
    if {"model", "eval"} <= set(card.get("recipe", {})):  # of a training of ours
        reading = reading_of(card["recipe"])
        weights.mode, weights.image = reading.mode, weights.rule.side if weights.rule else reading.image
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
    weights.facts |= {key: card[key] for key in kept if key in card}


def _settle(weights: KnownWeights, path: Path, heads: int | None) -> None:
    """Fills in heads and epsilon where neither record nor card knew them, and says what had to be assumed."""
    if heads and weights.heads not in (None, heads):
        raise UserError(f"{path}: --heads {heads}, but {weights.name} has {weights.heads}; leave --heads out")
    stated = stated_beside(path, weights.family, weights.tree)
    weights.heads = heads or weights.heads or stated.heads
    if weights.heads is None and weights.family in ("vit", "dinov3"):
        weights.heads, who = heads_by_size(weights.family, weights.tree)
        if who:
            weights.assumed.append(f"{weights.heads} attention heads, as {who} of this width and depth")
    if weights.eps is None and weights.family != "resnet":  # a ResNet has BatchNorm, always with one epsilon
        weights.eps = stated.eps or usual_eps(weights.family, weights.layout)
        if stated.eps is None:
            weights.assumed.append(f"a LayerNorm epsilon of {weights.eps:g}, usual in files of this layout")


def warnings(weights: KnownWeights, layout: str) -> list[str]:
    """What the licences forbid, and what the library of a layout would get wrong."""
    epsilon = "" if weights.eps is None else epsilon_warning(layout, weights.family, weights.eps)
    return [*warnings_of(weights.chain), *([epsilon] if epsilon else [])]


def check_heads(weights: KnownWeights) -> None:
    """Raise UserError if the number of heads, without which nobody can run the network, is not known."""
    if weights.heads is None and weights.family in ("vit", "dinov3"):
        file = weights.facts.get("source", {}).get("file", weights.name)
        raise UserError(
            f"{file}: nothing says how many attention heads this network has (no published one is of its width and "
            "depth): give --heads N, or --encoder NAME"
        )
