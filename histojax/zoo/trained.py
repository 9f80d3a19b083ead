"""Encoders by path: a training run, its export, one of its checkpoints, or a weight file with the card beside it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from histojax.common.errors import UserError
from histojax.common.files import expanded
from histojax.models.network import POOLINGS, feature_width
from histojax.models.vit import ViTConfig
from histojax.weights.families import FAMILIES
from histojax.weights.library_configs import InputRule, architecture
from histojax.weights.licence import Link, card_beside, verdict
from histojax.zoo.known_weights import KnownWeights
from histojax.zoo.published import ENDINGS, record_with, weights_sha256
from histojax.zoo.record import EncoderRecord, Preprocess, WeightFile
from histojax.zoo.run_checkpoints import BEST
from histojax.zoo.run_weights import find_run, open_run, sha256_of_tree
from histojax.zoo.table import ENCODERS, is_known
from histojax.zoo.transfer import open_file


def path_of(name: str | Path) -> Path | None:
    """The path that `name` says, None if it is an encoder's name.

    A name of the table is a path only where weights of ours lie under it. Raises UserError for a Path that does not
    exist, and for a string that can only be meant as one.
    """
    path = expanded(name)
    if path.exists() or (path.name == BEST and find_run(path)):
        ours = find_run(path) is not None or bool(card_beside(path))
        return path if ours or isinstance(name, Path) or not is_known(name) else None
    text = str(name)
    if isinstance(name, Path) or text.startswith((".", "/", "~")) or path.suffix in ENDINGS:
        raise UserError(f"{text}: no such file or folder")
    if "/" in text and not is_known(text):
        raise UserError(f"{text}: no such file or folder, and no encoder of that name (`histojax encoders` lists all)")
    return None


def published_at(path: Path) -> EncoderRecord | None:
    """The published encoder whose weights lie at a path, by the card beside them or by their hash; None if none does.

    Its input is the one that the card tells, if that is another size.
    """
    if find_run(path) is not None:
        return None
    card = card_beside(path)
    name = str(card.get("encoder", ""))
    if name not in ENCODERS:
        return None if card or not _has_weights(path) else record_with(weights_sha256(path))
    record, rule = ENCODERS[name], card.get("preprocessing", {})
    if not {"size", "crop", "filter"} <= set(rule):
        return record
    told = dataclasses.replace(record.preprocess, size=rule["size"], crop=rule["crop"], filter=rule["filter"])
    return dataclasses.replace(record, preprocess=told)


def open_trained(path: Path, which: str | None = None) -> tuple[EncoderRecord, KnownWeights]:
    """(record of the encoder, its weights) at a path where none of the published ones lies.

    Args:
        path: folder of a run, its export or one exported layout, a checkpoint's folder, or a weight file with a card.
        which: "teacher" (default) or "student", where both are there.

    Raises UserError for anything else, for a run that has saved nothing yet, and for a network without its input.
    """
    run = find_run(path)
    if run is not None:
        opened = open_run(run.folder, which=which or "teacher", step=run.step)
    elif card_beside(path):
        opened = open_file(path, which=which)
    else:
        raise UserError(f"{path}: {_not_ours(path)}")
    if opened.family != "vit":
        raise UserError(
            f"{path}: its card does not say which encoder it is, and only ViTs are known without that: "
            f"load_encoder(NAME, weights={str(path)!r})"
        )
    return _record_of(opened, path), opened


def _record_of(opened: KnownWeights, path: Path) -> EncoderRecord:
    """The record of a ViT by its weights and what is known of them."""
    shape = architecture(opened.tree, opened.heads, opened.eps or FAMILIES["vit"].eps)
    trained = "recipe" in opened.facts
    side = opened.image or shape.image
    rule = opened.rule or (InputRule(side, side) if trained else None)
    if rule is None:
        raise UserError(
            f"{path}: its card does not say which input the network wants (size, mean, standard deviation): name the "
            f"encoder it is of, load_encoder(NAME, weights={str(path)!r})"
        )
    config = _config(shape, opened.mode or ("antialias" if shape.registers else "offset"))
    pooling = str(opened.facts.get("pooling", "cls"))
    if pooling not in POOLINGS:
        raise UserError(f"{path}: its card names an unknown feature, {pooling!r}; known are {', '.join(POOLINGS)}")
    fitted = Preprocess(rule.size, rule.crop, rule.filter, _three(rule.mean), _three(rule.std))
    running = dataclasses.replace(config, image=fitted.side, positions="cls", mask_token=False)
    return EncoderRecord(
        str(opened.facts.get("name") or opened.name),
        config,
        (WeightFile(opened.path.name, sha256=opened.sha256 or sha256_of_tree(opened.tree)),),
        fitted,
        pooling,
        feature_width(running, pooling, fitted.side),
        opened.facts.get("mpp"),
        _licence(opened.chain),
        commercial=verdict(opened.chain, "commercial"),
        derivatives=verdict(opened.chain, "derivatives"),
    )


def _config(shape: Any, interpolation: str) -> ViTConfig:
    fields = {
        name: getattr(shape, name)
        for name in ("dim", "depth", "heads", "patch", "image", "registers", "ffn", "hidden", "positions", "eps")
    }
    return ViTConfig(**fields, layerscale=1e-5 if shape.layerscale else None, interpolation=interpolation)


def _licence(chain: tuple[Link, ...]) -> str:
    return "that of the weights it comes from" if chain else "yours: trained from random parameters"


def _three(values: tuple[float, ...]) -> tuple[float, float, float]:
    red, green, blue = values
    return red, green, blue


def _has_weights(path: Path) -> bool:
    """Whether a path is a weight file, an index of shards, or a folder with one of these."""
    files = [path] if path.is_file() else list(path.iterdir())
    return any(file.suffix in ENDINGS or file.name.endswith(".index.json") for file in files)


def _not_ours(path: Path) -> str:
    """What to do with a path that nothing is known of."""
    if _has_weights(path):
        return (
            "nothing beside it says which network this is (no card.json of histojax): name the encoder it is of, "
            f"load_encoder(NAME, weights={str(path)!r})"
        )
    if path.is_file():
        return f"not a weight file ({', '.join(ENDINGS)})"
    return (
        "neither the folder of a training run (no config.json of one), nor an export of one, nor a folder with "
        "weights and their card.json"
    )
