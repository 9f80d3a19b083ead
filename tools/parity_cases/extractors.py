"""Golden encoders: arrays (.npz), the network's description (.json) and weight files that belong together by name.

A file belongs to the case whose name has the most words among those whose words it has, in their order:
`a_b_checkpoint.pth` and `a_b.safetensors` to `a_b`, `a_b_c.npz` has the description `a_b.json` if it has none itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from histojax.common.errors import UserError
from parity_cases import networks
from parity_cases.check import Check, compare, failed, skipped
from parity_cases.containers import belongs, is_encoder, weights_for
from parity_cases.golden import ArrayFile, Arrays, Folder, TableFile, WeightFile

LABELS = {"ln_eps_x10": "LayerNorm epsilon x 10", "bn_eps_x100": "BatchNorm epsilon x 100", "gelu_tanh": "tanh GELU"}
LIMIT = f"{networks.ATOL:g} + {networks.RTOL:g} rel"
NOISE = 1e-5  # our own rounding and the reference's, which a change this near to the tolerance may be lost in


def cases(file: ArrayFile, folder: Folder) -> Iterator[tuple[str, Callable]]:
    """An .npz with inputs `x` and `features` or `logits` is a case."""
    description = description_of(file, folder)
    if is_encoder(file):
        yield file.name, partial(_encoder, file, description, folder)


def description_of(file: ArrayFile, folder: Folder) -> TableFile | None:
    """The table that says which network it is."""
    described = {t.name: t for t in folder.tables if isinstance(t.content, dict) and networks.architecture(t.content)}
    return described.get(belongs(file.name, described) or "")


def sensitivity_of(file: ArrayFile, folder: Folder) -> dict[str, float]:
    """{wrong choice: the change that it made in the reference}, from a list of files or a description that has it."""
    for table in folder.tables:
        entries = table.content if isinstance(table.content, list) else [{"file": table.shown, **_dict(table.content)}]
        for entry in entries:
            if isinstance(entry, dict) and isinstance(entry.get("sensitivity"), dict):
                table.used = True
                if Path(entry["file"]).stem == file.name:
                    return entry["sensitivity"]
    return {}


def _dict(content: Any) -> dict:
    return content if isinstance(content, dict) else {}


def _encoder(file: ArrayFile, description: TableFile | None, folder: Folder) -> Iterator[Check]:
    weights, recorded = weights_for(file, folder), sensitivity_of(file, folder)
    if description is None or not weights:
        lacking = ".json that describes the network" if description is None else "weight file"
        yield failed(file.name, f"{file.shown} has no {lacking}")
        return
    said = description.content
    description.used = True
    if networks.architecture(said) not in networks.FAMILIES:
        reason = f"no network of ours is a {networks.architecture(said)!r} ({description.shown})"
        file.arrays.aside(file.names, reason)
        return
    for one in weights:
        yield from _outputs(file, one, said)
    yield from _wrong_choices(file, said, weights[0], recorded)


def _outputs(file: ArrayFile, weights: WeightFile, said: dict) -> Iterator[Check]:
    """One line for each recorded array; `_f64` is the reference's own result in double precision."""
    name, golden = f"{file.name} {weights.path.name}", file.arrays
    try:
        named = networks.run(weights.path, said, golden)
    except UserError as error:
        yield failed(name, str(error))
        return
    for key in (k for k in golden if not networks.is_input(k)):
        ours = named.get(key.removesuffix("_f64"))
        if ours is None:
            golden.aside([key], "our network has no such output")
            continue
        ours = networks.first_images(ours, golden[key]) if key.startswith("tap:") else ours
        yield compare(name, key, ours, golden[key], atol=networks.ATOL, rtol=networks.RTOL)


def _wrong_choices(file: ArrayFile, said: dict, weights: WeightFile, recorded: dict[str, float]) -> Iterator[Check]:
    """A network with a wrong epsilon or GELU must leave the tolerance; where the reference does not, that is said."""
    name, golden = file.name, file.arrays
    key = next(k for k in golden if k.startswith(("features", "logits")) and not k.endswith("_f64"))
    try:
        config = networks.network_of(said, weights.path)
    except UserError:
        return  # the lines of the outputs say so
    for choice in networks.WRONG:
        change, label = recorded.get(choice), LABELS[choice]
        if networks.wrong_choice(config, choice) is None:
            if change is not None:
                yield failed(name, f"{label}: recorded, but our network has no such choice")
            continue
        if change is None and _hopeless(config, choice):
            yield skipped(name, f"{label} is not detectable: an epsilon of {config.eps:g} changes nothing in float32")
            continue
        yield detection(name, label, change, golden[key], partial(_chosen, weights, said, golden, key, choice))


def _chosen(weights: WeightFile, said: dict, golden: Arrays, key: str, choice: str) -> np.ndarray:
    return networks.run(weights.path, said, golden, only=key, choice=choice)[key]


def _hopeless(config: Any, choice: str) -> bool:
    return choice == "ln_eps_x10" and config.eps < 1e-9


def detection(name: str, label: str, change: float | None, golden: np.ndarray, ours: Callable[[], np.ndarray]) -> Check:
    """A recorded change within the tolerance cannot be seen; one just above it may be lost in rounding."""
    tolerance = networks.ATOL + networks.RTOL * float(np.abs(golden).max())
    hidden = f"{label} is not detectable: it changes the reference by {change or 0:.1e}, the tolerance is {LIMIT}"
    if change is not None and change <= tolerance:
        return skipped(name, hidden)
    wrong = ours()
    excess, gap = networks.excess(wrong, golden), float(np.abs(wrong - golden).max())
    if change is not None and change <= tolerance + NOISE and excess <= 1:
        return skipped(name, f"{hidden}, and rounding hides it")
    said = "" if change is None else f"; the reference changes by {change:.1e}"
    rel = gap / float(np.abs(golden).max())
    return Check(name, f"{label} is detected", gap, rel, f"{LIMIT}{said}", excess, 1.0, excess > 1, at_least=True)
