"""What is written beside exported weights: card.json for programs, README.md for people and for model hubs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from histojax.weights.how_to_load import epsilon_warning, feature_lines, how_to_load
from histojax.weights.library_configs import InputRule, Shape
from histojax.weights.licence import Link, as_rows, verdict, warnings_of

METHODS = {  # of bicubic.MODES, in words
    "exact": "bicubic, step G / g, no antialias",
    "offset": "bicubic, step G / (g + 0.1), no antialias: facebookresearch/dinov2 without registers",
    "antialias": "bicubic, antialiased: timm, and facebookresearch/dinov2 with registers",
    "antialias-offset": "bicubic, antialiased, step G / (g + 0.1)",
}
_HUB_LICENCES = {"apache-2.0", "mit", "cc-by-4.0", "cc-by-nc-4.0", "cc-by-nc-nd-4.0", "cc-by-sa-4.0", "gpl-3.0"}


def position_statement(grid: int, image: int, how: str = "as stored in the source") -> str:
    """Return the sentences on the position grid that every export carries."""
    return (
        f"The position grid is {grid} x {grid}, for {image} px input ({how}). At this size every library "
        "gives the same features. At any other size they differ, because each resamples the grid in its own "
        "way: facebookresearch/dinov2 bicubic with 0.1 added to the scale (with registers: antialiased, no "
        "offset), timm always antialiased, transformers its own variant."
    )


def resampled(old: int, new: int, mode: str) -> str:
    """Return how a stored grid came about."""
    return f"resampled from {old} x {old} to {new} x {new} by {mode!r}: {METHODS[mode]}"


def card_of(
    facts: Mapping[str, Any],
    chain: Sequence[Link],
    *,
    layout: str,
    family: str,
    parameters: int,
    file: str,
    sha256: str,
    rule: InputRule | None,
    network: Shape | Mapping[str, Any],
    positions: str,
    assumed: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the content of card.json: the facts given, and what follows from the file.

    Args:
        facts: kept as they are.
        chain: the licences.
        layout, family, parameters, file, sha256: of the file.
        rule: its input, None if that is not known.
        network: what is known of the network: the shape of a ViT, or heads and eps.
        positions: see position_statement.
        assumed: sentences on what the source does not state and was taken for granted.
    """
    out: dict[str, Any] = {**facts, "family": family, "layout": layout, "parameters": parameters}
    out["architecture"] = asdict(network) if isinstance(network, Shape) else dict(network)
    out["weights"] = {"file": file, "sha256": sha256}
    if rule is not None:
        out["preprocessing"] = asdict(rule)
    if positions:
        out["positions"] = positions
    if warning := epsilon_warning(layout, family, out["architecture"]["eps"]):
        out["epsilon"] = warning
    if assumed:
        out["assumed"] = list(assumed)
    out["licences"] = as_rows(chain)
    out["commercial_use"], out["derivatives"] = verdict(chain, "commercial"), verdict(chain, "derivatives")
    return out


def readme(card: Mapping[str, Any], chain: Sequence[Link], shape: Shape | None) -> str:
    """Return the text of README.md, a model card with the header that model hubs read."""
    rows = _header(card, chain)
    rows += [f"# {card.get('name') or card.get('encoder') or 'Weights written by histojax'}", ""]
    for warning in [*warnings_of(chain), *([card["epsilon"]] if "epsilon" in card else [])]:
        rows += [f"> **{warning[0].upper()}{warning[1:]}.**", ""]
    for sentence in card.get("assumed", ()):
        rows += [f"> Assumed, not stated by the source: {sentence}.", ""]
    eps, classes = card["architecture"]["eps"], card["architecture"].get("classes", 0)
    code = how_to_load(card["layout"], card["family"], shape, eps, classes, str(card.get("encoder", "")))
    prefix = 1 + int(card["architecture"].get("registers", 0))
    if lines := feature_lines(card["layout"], card.get("pooling", ""), prefix):
        code += ["", "# x: (N, 3, height, width), normalised as below", *lines]
    rows += [str(card.get("what", "Weights of an image encoder.")), "", "## Load", "", "```python", *code, "```", ""]
    rows += ["## Input and features", "", *_input(card), ""]
    rows += ["## Licences", "", *_licences(chain), "", "## Facts", "", *_facts(card), ""]
    rows += ["`card.json` beside this file has everything in machine-readable form.", ""]
    return "\n".join(rows)


def _header(card: Mapping[str, Any], chain: Iterable[Link]) -> list[str]:
    names = {one.licence.lower() for one in chain}
    known = names.pop() if len(names) == 1 and names <= _HUB_LICENCES else "other"
    library = {"timm": "timm", "hf": "transformers"}.get(str(card["layout"]), "histojax")
    return [
        "---",
        f"license: {known}",
        f"library_name: {library}",
        "pipeline_tag: image-feature-extraction",
        "tags: [histopathology, histojax]",
        "---",
        "",
    ]


def _input(card: Mapping[str, Any]) -> list[str]:
    rows = []
    if rule := card.get("preprocessing"):
        crop = f", centre crop {rule['crop']}" if rule["crop"] else ""
        rows.append(
            f"RGB; shorter side to {rule['size']} px ({rule['filter']}){crop}; scaled to 0..1; mean "
            f"{tuple(rule['mean'])}, standard deviation {tuple(rule['std'])}."
        )
    if feature := card.get("feature"):
        rows.append(f"Feature: {feature}.")
    if positions := card.get("positions"):
        rows += ["", str(positions)]
    return rows or ["Not known to the program that wrote this file."]


def _licences(chain: Sequence[Link]) -> list[str]:
    if not chain:
        return ["No published weights went into this file: it was trained from random parameters."]
    rows = ["This file is derived from, and comes under the terms of:", ""]
    for one in chain:
        digest = f", SHA-256 `{one.sha256}`" if one.sha256 else ""
        rows.append(f"- {one.terms()}{f', file `{one.file}`' if one.file else ''}{digest}")
    return rows


def _facts(card: Mapping[str, Any]) -> list[str]:
    rows = [f"- parameters: {card['parameters']:,}", f"- SHA-256 of the weights: `{card['weights']['sha256']}`"]
    wanted = ("encoder", "mpp", "steps", "images_seen", "before", "after", "data", "source", "histojax")
    rows += [f"- {name.replace('_', ' ')}: {_shown(card[name])}" for name in wanted if card.get(name)]
    return rows


def _shown(value: Any) -> str:
    """Return a value for people: numbers short, groups in one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{str(key).replace('_', ' ')} {_shown(inner)}" for key, inner in value.items())
    if isinstance(value, (list, tuple)):
        return "; ".join(map(_shown, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
