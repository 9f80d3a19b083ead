"""Small bags and heads for the tests of the models of bags."""

from pathlib import Path

import numpy as np

from histojax.evaluation.mil.bags import Bag
from histojax.evaluation.mil.head import Head
from histojax.evaluation.mil.models import draw_params
from histojax.evaluation.mil.settings import HeadSettings

GOLDEN = Path(__file__).parents[2] / "golden" / "extractors"
SMALL = {  # models as small as they go
    "transformer": HeadSettings("transformer", 6, width=8, heads=2),
    "transformer_mean": HeadSettings("transformer", 6, 3, width=8, heads=2, pool="mean"),
    "attention": HeadSettings("attention", 6, width=8, hidden=4),
    "gated_attention": HeadSettings("gated_attention", 6, 3, width=8, hidden=4),
    "transmil": HeadSettings("transmil", 6, 3, width=8, heads=2, landmarks=4),
    "mean": HeadSettings("mean", 6),
}


def bag(x: np.ndarray, name: str = "a bag") -> Bag:
    return Bag(name, lambda: x, len(x))


def head(name: str) -> Head:
    """An untrained head of `SMALL`."""
    settings = SMALL[name]
    classes = ("a", "b", "c")[: max(settings.outputs, 2)]
    return Head(settings, "classification", classes, draw_params(settings, 1))


def toy(count: int = 24, classes: int = 2, seed: int = 0) -> tuple[list[Bag], np.ndarray]:
    """Bags of 2 to 12 tiles in 6 dimensions, a third of which tell the class by one of them; and the classes."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    bags = []
    for i, label in enumerate(labels):
        x = rng.normal(size=(rng.integers(2, 13), 6)).astype(np.float32)
        x[: -(-len(x) // 3), label] += 4
        bags.append(bag(x, f"bag {i}"))
    return bags, labels
