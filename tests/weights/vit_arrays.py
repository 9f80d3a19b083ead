"""Small random state dicts with the names of the published models, for the tests."""

import itertools
import json
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).parent.parent / "golden"
MODELS = json.loads((GOLDEN / "dinov2" / "state_dict_names.json").read_text())["models"]
BACKBONES = [name for name in MODELS if name.startswith("dinov2_")]
DEPTH = 11  # two digits: blocks.10 must come after blocks.9


def state_dict(model, depth=DEPTH, grid=3, seed=0):
    """Every tensor of a published model, with its width as 16 and its other sizes in proportion."""
    rng = np.random.default_rng(seed)
    row = MODELS[model]["keys_and_shapes"]
    dim = row["cls_token"][-1]
    small = {8192: 80, 4096: 40, dim: 16, 3 * dim: 48, 4 * dim: 64, 1370: 1 + grid * grid, 14: 2}
    tensors = {}
    for name, shape in row.items():
        for layer in range(depth) if name.startswith("blocks.0.") else [0]:
            one = tuple(small.get(n, n) for n in shape)
            tensors[name.replace("blocks.0.", f"blocks.{layer}.")] = rng.standard_normal(one).astype(np.float32)
    return tensors


def head(layers=3, dim=16, hidden=12, bottleneck=6, prototypes=20, seed=1):
    """The tensors of a DINO head."""
    rng = np.random.default_rng(seed)
    sizes = [dim, *[hidden] * (layers - 1), bottleneck]
    tensors = {}
    for index, (n, m) in enumerate(itertools.pairwise(sizes)):
        name = "mlp" if layers == 1 else f"mlp.{2 * index}"
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = rng.standard_normal((m, n)), rng.standard_normal(m)
    tensors["last_layer.weight_g"] = rng.standard_normal((prototypes, 1))
    tensors["last_layer.weight_v"] = rng.standard_normal((prototypes, bottleneck))
    return {name: value.astype(np.float32) for name, value in tensors.items()}


def assert_same(found, expected):
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert found[name].shape == value.shape, name
        assert found[name].dtype == value.dtype, name
        assert found[name].tobytes() == value.tobytes(), name
