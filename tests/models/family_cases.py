"""The golden encoders of the repository, for the tests of their families; tools/parity_cases runs them."""

from __future__ import annotations

import functools
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
from parity_cases.backbones import backbone_tensors
from parity_cases.networks import excess, first_images, run

from histojax.models.network import abstract, family
from histojax.weights.detect import the_layout

GOLDEN = Path(__file__).parents[1] / "golden" / "extractors"


def run_case(name: str, weights: str | None = None, **how: Any) -> tuple[dict, dict]:
    """(outputs, golden arrays) of `name`; `weights` is the file's name if it is not that of the case.

    `how` is that of parity_cases.networks.run: the one output wanted, a wrong choice, or fields of the configuration.
    """
    description = json.loads((GOLDEN / f"{name}.json").read_text())
    golden = dict(np.load(GOLDEN / f"{name}.npz"))
    files = [weights] if weights else [name + suffix for suffix in (".safetensors", ".pth", ".bin")]
    path = next(path for file in files if (path := GOLDEN / file).exists())
    return run(path, description, golden, **how), golden


def worst_excess(outputs: dict, golden: dict) -> dict[str, float]:
    """Per array that both have, the largest error as a multiple of the tolerance; more than 1 fails."""
    found = {}
    for name in (name for name in golden if name in outputs and not name.startswith("x")):
        got = first_images(outputs[name], golden[name]) if name.startswith("tap:") else outputs[name]
        assert got.shape == golden[name].shape, (name, got.shape, golden[name].shape)
        found[name] = excess(got, golden[name])
    return found


def listing(name: str) -> dict[str, np.ndarray]:
    """Tensors with the names and shapes of a published checkpoint, whose items take no memory."""
    return {key: np.empty(shape, "V0") for key, (shape, _) in listings()[name]["keys"].items()}


@functools.cache
def listings() -> dict[str, dict]:
    """Published checkpoint: `params` (count of all), `groups` (counts of parts), `keys` {name: [shape, dtype]}."""
    return json.loads(gzip.decompress((GOLDEN / "keys.json.gz").read_bytes()))


def read_listing(config: Any, tensors: dict[str, np.ndarray]) -> int:
    """The number of parameters that the layout finds for the network in `tensors`, BatchNorm statistics excepted.

    Every tensor must be used or known to be unwanted, and the tree must be shaped like the network's.
    """
    tensors = backbone_tensors(tensors)
    layout, _ = the_layout(tensors, family=family(config))
    expected = abstract(config)[1]
    _, report = layout.read(tensors, dtype=None, expected=expected)
    report.raise_if_bad(expected)
    assert not report.unused, report.unused
    return sum(tensors[name].size for name in report.matched if not name.endswith(("running_mean", "running_var")))


def rewritten(family: str, tensors: dict[str, Any]) -> dict[str, np.ndarray]:
    """The tensors after a round through our tree."""
    layout, _ = the_layout(tensors, family=family)
    return layout.write(layout.read(tensors)[0])
