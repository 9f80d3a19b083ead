"""Golden encoders: arrays (.npz), the network's description (.json) and weight files that belong together by name.

A file belongs to the case whose name has the most words among those whose words it has, in their order:
`a_b_checkpoint.pth` and `a_b.safetensors` to `a_b`, `a_b_c.npz` has the description `a_b.json` if it has none itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from histojax.errors import UserError
from parity_cases import networks
from parity_cases.check import Check, compare, failed, skipped
from parity_cases.files import WEIGHTS, expected_tensors

LABELS = {"ln_eps_x10": "LayerNorm epsilon x 10", "bn_eps_x100": "BatchNorm epsilon x 100", "gelu_tanh": "tanh GELU"}
LIMIT = f"{networks.ATOL:g} + {networks.RTOL:g} rel"


def cases(folder: Path) -> Iterator[tuple[str, Callable]]:
    """An .npz with inputs `x` and `features` or `logits` is a case; one with bags of features is a head's."""
    arrays = {path: _names(path) for path in sorted(folder.glob("*.npz"))}
    encoders = {path.stem: path for path, names in arrays.items() if _is_encoder(names)}
    heads = {path.stem for path, names in arrays.items() if any(name.startswith("bag") for name in names)}
    descriptions = {path.stem: path for path in sorted(folder.glob("*.json")) if _describes(path)}
    weights: dict[str, list[Path]] = {}
    others = expected_tensors(folder)
    for path in sorted(p for p in folder.glob("*") if p.suffix in WEIGHTS and p not in others):
        owner = belongs(path.stem, (*encoders, *heads))
        if owner is None and (encoders or heads):
            yield path.stem, partial(_one, skipped(path.stem, f"{path.name}: no arrays are recorded for it"))
        weights.setdefault(owner or "", []).append(path)
    sensitivity = _sensitivity(folder)
    for stem, path in encoders.items():
        description = descriptions.get(belongs(stem, descriptions) or "")
        yield stem, partial(_encoder, stem, path, description, weights.get(stem, []), sensitivity.get(stem, {}))
    for stem in sorted(heads):
        yield stem, partial(_one, skipped(stem, "an MIL head: not covered yet"))


def belongs(name: str, cases: Iterable[str]) -> str | None:
    """The case with the most words among those whose words `name` has in their order; None if there is none."""
    words = re.split(r"[_.\-]", name)

    def within(case: str) -> bool:
        rest = iter(words)
        return all(word in rest for word in re.split(r"[_.\-]", case))

    fitting = [case for case in cases if within(case)]
    return max(fitting, key=lambda case: (len(re.split(r"[_.\-]", case)), case), default=None)


def _one(check: Check) -> Iterator[Check]:
    yield check


def _names(path: Path) -> list[str]:
    with np.load(path) as data:
        return list(data.files)


def _is_encoder(names: list[str]) -> bool:
    return "x" in names and any(name.startswith(("features", "logits")) for name in names)


def _describes(path: Path) -> bool:
    content = json.loads(path.read_text())
    return isinstance(content, dict) and bool(networks.architecture(content))


def _sensitivity(folder: Path) -> dict[str, dict[str, float]]:
    """Case: {wrong choice: the change that it made in the reference}, from a list of files with such an entry."""
    found: dict[str, dict[str, float]] = {}
    for path in sorted(folder.glob("*.json")):
        content = json.loads(path.read_text())
        entries = content if isinstance(content, list) else [{"file": path.name, **content}]
        for entry in entries:
            if isinstance(entry, dict) and isinstance(entry.get("sensitivity"), dict):
                found[Path(entry["file"]).stem] = entry["sensitivity"]
    return found


def _encoder(
    stem: str, arrays: Path, description: Path | None, weights: list[Path], recorded: dict[str, float]
) -> Iterator[Check]:
    if description is None or not weights:
        lacking = ".json that describes the network" if description is None else "weight file"
        yield failed(stem, f"{arrays.name} has no {lacking}")
        return
    said = json.loads(description.read_text())
    if networks.architecture(said) not in networks.FAMILIES:
        yield failed(stem, f"{description.name}: unknown architecture {networks.architecture(said)!r}")
        return
    with np.load(arrays) as data:
        golden = {name: data[name] for name in data.files}
    config, images = networks.network_of(said), networks.inputs_of(golden)
    program = networks.program(config, said)
    for file in weights:
        try:
            named = program(networks.load(config, file), images)
        except UserError as error:
            yield failed(f"{stem} {file.name}", str(error))
            continue
        yield from _outputs(f"{stem} {file.name}", named, golden)
    yield from _wrong_choices(stem, config, said, weights[0], golden, recorded)


def _outputs(name: str, named: dict[str, Any], golden: dict[str, np.ndarray]) -> Iterator[Check]:
    """One line for each recorded array; `_f64` is the reference's own result in double precision."""
    for key in (key for key in golden if not re.fullmatch(r"x(_.+)?", key)):
        ours = named.get(key.removesuffix("_f64"))
        if ours is None:
            yield skipped(name, f"{key}: our network has no such output")
            continue
        ours = networks.first_images(ours, golden[key]) if key.startswith("tap:") else ours
        yield compare(name, key, ours, golden[key], atol=networks.ATOL, rtol=networks.RTOL)


def _wrong_choices(
    stem: str, config: Any, said: dict, weights: Path, golden: dict[str, np.ndarray], recorded: dict[str, float]
) -> Iterator[Check]:
    """A network with a wrong epsilon or GELU must leave the tolerance; where the reference does not, that is said."""
    key = next(key for key in golden if key.startswith(("features", "logits")) and not key.endswith("_f64"))
    for choice in networks.WRONG:
        change, label = recorded.get(choice), LABELS[choice]
        if networks.wrong_choice(config, choice) is None:
            if change is not None:
                yield failed(stem, f"{label}: recorded, but our network has no such choice")
            continue
        if change is not None and change < networks.ATOL:
            yield skipped(stem, f"{label} is not detectable: it changes the reference by {change:.1e}, below {LIMIT}")
            continue
        ours = networks.run(weights, said, golden, only=key, choice=choice)[key]
        if change is None and _hopeless(config, choice):
            yield skipped(stem, f"{label} is not detectable: an epsilon of {config.eps:g} changes nothing in float32")
            continue
        yield _seen(stem, f"{label} is detected", ours, golden[key], change)


def _hopeless(config: Any, choice: str) -> bool:
    return choice == "ln_eps_x10" and config.eps < 1e-9


def _seen(stem: str, what: str, ours: np.ndarray, golden: np.ndarray, recorded: float | None) -> Check:
    """`ok` if `ours` differs from `golden` by more than the tolerance."""
    excess, gap = networks.excess(ours, golden), float(np.abs(ours - golden).max())
    said = "" if recorded is None else f"; the reference changes by {recorded:.1e}"
    return Check(stem, what, gap, gap / float(np.abs(golden).max()), f"must exceed {LIMIT}{said}", excess > 1)
