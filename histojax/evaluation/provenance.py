"""From slides to score: where the features of an evaluation are from, as facts of its results and as a chain."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from histojax.common.files import expanded
from histojax.features.stored import Header
from histojax.weights.licence import as_rows

Step = tuple[str, dict[str, Any]]
_SHOWN_OF_TILES = {
    "tile_px": "size, px",
    "mpp": "mpp",
    "read_from": "read from",
    "stain": "stain",
    "slide_mpp": "slides, mpp",
}
_SHOWN_OF_WEIGHTS = {"encoder": "encoder", "weights": "file", "weights_sha256": "SHA-256"}
_SHOWN_OF_FEATURES = {
    **{"producer": "made by", "pooling": "pooling", "compute_dtype": "arithmetic", "width": "numbers a tile"},
    **{"preprocess_sha256": "preprocessing", "files": "files", "tiles": "tiles"},
}


def features_facts(headers: Sequence[Header]) -> dict[str, Any]:
    """What feature files of one encoder have in common, as JSON for `Results.facts["features"]`.

    A value that differs between files is left out; licences and notes are those of all. `files` and `tiles` are counts.
    """
    found: dict[str, Any] = {"files": len(headers), "tiles": sum(header.tiles for header in headers)}
    each = [
        dataclasses.asdict(dataclasses.replace(header.origin, licences=(), notes=()))
        | dataclasses.asdict(header.geometry)
        | {"width": header.width, "kind": header.kind}
        for header in headers
    ]
    for key in each[0] if each else ():
        values = [one[key] for one in each]
        if all(value == values[0] for value in values) and values[0] not in ("", None, (), []):
            found[key] = values[0]
    found["licences"] = as_rows(dict.fromkeys(link for header in headers for link in header.origin.licences))
    found["notes"] = list(dict.fromkeys(note for header in headers for note in header.origin.notes))
    return found


def encoder_name(headers: Sequence[Header]) -> str:
    """What tables call features: as the folder of an extraction does (features_NAME), else their encoder, else their
    folder; "features" of plain arrays."""
    if not headers:
        return "features"
    folder = headers[0].path.parent.name
    if folder.startswith("features_"):
        return folder.removeprefix("features_")
    return headers[0].origin.encoder or folder or "features"


def chain(features: Any, run: Mapping[str, Any] | None, score: Mapping[str, Any]) -> list[Step]:
    """The steps from slides to score that are known.

    Args:
        features: facts of features, of one set or {"train": ..., "test": ...}, see `features_facts`.
        run: of `run_facts`, the training that the weights are from.
        score: what stands at the end.
    """
    sets = _sets(features)
    first = next(iter(sets.values()), {})
    tiles = {name: _chosen(facts, _SHOWN_OF_TILES) for name, facts in sets.items()}
    one = all(known == tiles[name] for name in tiles for known in tiles.values())
    steps = _titled("Tiles", dict(list(tiles.items())[:1]) if one else tiles)
    if run:
        steps.append(("Training run", dict(run)))
    weights = _chosen(first, _SHOWN_OF_WEIGHTS)
    if terms := [f"{row['what']}: {row['licence']}" for row in first.get("licences", [])]:
        weights["licences"] = "; ".join(terms)
    steps += [("Weights", weights)] if weights else []
    steps += _titled("Features", {name: _chosen(facts, _SHOWN_OF_FEATURES) for name, facts in sets.items()})
    return [*steps, ("Score", dict(score))]


def _titled(title: str, sets: Mapping[str, dict[str, Any]]) -> list[Step]:
    """A step for each set of which anything is known."""
    return [(f"{title} ({name})" if len(sets) > 1 else title, known) for name, known in sets.items() if known]


def _sets(features: Any) -> dict[str, Mapping[str, Any]]:
    """{name of a set: its facts}, the dicts of a Header flattened."""
    if not isinstance(features, Mapping) or not features:
        return {}
    inner = {name: facts for name, facts in features.items() if isinstance(facts, Mapping)}
    if inner and not {"encoder", "origin", "weights"} & set(features):
        return {str(name): _flat(facts) for name, facts in inner.items()}
    return {"": _flat(features)}


def _flat(facts: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(facts)
    for key in ("origin", "geometry"):
        if isinstance(found.get(key), Mapping):
            found |= found.pop(key)
    return found


def _chosen(facts: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    found = {shown: facts[key] for key, shown in names.items() if facts.get(key) not in (None, "", [], ())}
    return {key: value[:12] + "…" if key in ("SHA-256", "preprocessing") else value for key, value in found.items()}


def run_of(facts: Mapping[str, Any], name: str) -> Path | None:
    """The folder of the training run that features called `name` are from, if the facts of results tell it.

    They do by the key run, or by the command line of the evaluation; of several runs in it, by the name.
    """
    if isinstance(facts.get("run"), str):
        return expanded(facts["run"])
    words = [str(word).rpartition("=")[2] for word in facts.get("command") or ()]
    paths = [expanded(word) for word in words if word]
    found = {folder for path in paths for folder in (path, *path.parents[:2]) if _is_run(folder)}
    if len(found) > 1:
        found = {folder for folder in found if folder.name == name}
    return found.pop() if len(found) == 1 else None


def _is_run(folder: Path) -> bool:
    return all((folder / name).is_file() for name in ("config.json", "provenance.json"))


def run_facts(folder: str | Path) -> dict[str, Any]:
    """What a training run says of itself: name, steps, data, starting weights, start, commit; {} if it says nothing."""
    folder = expanded(folder)
    config, started = _json(folder / "config.json").get("config", {}), _json(folder / "provenance.json")
    starts = started.get("starts") or [{}]
    card = _json(folder / "export" / "card.json")
    facts = {
        "folder": folder.name,
        "name": config.get("name"),
        "trained on": config.get("data", {}).get("train"),
        "tiles": card.get("data", {}).get("tiles"),
        "steps": card.get("steps"),
        "from": "; ".join(_sources(card)),
        "started": starts[0].get("start_time"),
        "commit": (starts[-1].get("commit") or "")[:12],
        "histojax": starts[-1].get("versions", {}).get("histojax"),
    }
    return {key: value for key, value in facts.items() if value not in (None, "")} if config or card else {}


def run_config(folder: Path) -> dict[str, Any]:
    """The configuration of a training run, {} if it is not there."""
    return _json(folder / "config.json").get("config", {})


def _sources(card: Mapping[str, Any]) -> Iterator[str]:
    start = card.get("starting_weights")
    if isinstance(start, list):
        yield from (str(row.get("name") or row.get("file") or "a file") for row in start if isinstance(row, Mapping))
    elif start:
        yield str(start)


def _json(path: Path) -> dict[str, Any]:
    """The object in a file, {} if there is none: a report does without."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
