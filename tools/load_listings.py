"""Every published encoder's file in full size, with random numbers: written, recognised, loaded and run.

    python tools/load_listings.py                      # all, smallest first, one line each
    python tools/load_listings.py uni resnet50_torchvision
    python tools/load_listings.py imagebind_huge --no-forward   # how much memory reading its vision branch takes

The names and shapes are the key listings of tests/golden/extractors. For each a safetensors file of that size is made
in a temporary folder (so disk space for the largest, 4.8 GB, is needed), read by weights.backbone against the network
of the encoder's record, and the network computes one image. Each runs in a process of its own; columns:

    parameters    of the network, counted on the tensors that were used; equal to the listing's, or the line says NO
    file, tree    GB on disk, and of the parameters in float32
    read          seconds, and the peak of memory (GB) while reading, above that of the bare program
    forward       seconds of one image, compilation excluded, and the shape of the feature
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "models")]

from family_cases import listings  # noqa: E402
from parity_cases.backbones import backbone_tensors  # noqa: E402

from histojax.models.beit import BEIT_BASE  # noqa: E402
from histojax.models.network import POOLINGS, abstract  # noqa: E402
from histojax.models.sam import SAM_B  # noqa: E402
from histojax.models.swin import SWIN_TINY  # noqa: E402
from histojax.weights.backbone import open_backbone  # noqa: E402
from histojax.weights.trees import flatten  # noqa: E402
from histojax.zoo.table import find  # noqa: E402

RECORDS = {  # listing: record of another name
    "resnet50_torchvision": "resnet50",
    "retccl_resnet50": "retccl",
    "beit_base_patch16_224_pt22k": "beit_base_pt22k",
    "beit_base_patch16_224_pt22k_ft22k": "beit_base_pt22k_ft22k",
}
CONFIGS = {  # listing without a record: network, side, feature
    "beit_base_timm": (BEIT_BASE, 224, "norm_of_mean"),
    "sam_vit_b_hf": (SAM_B, 1024, "neck_mean"),
    "samvit_base_timm": (SAM_B, 1024, "neck_mean"),
    "swin_tiny_timm": (SWIN_TINY, 224, "last_stage"),
}
PARTS = {  # parameters of the encoder where the file holds more
    "beit_base_patch16_224_pt22k": 85_665_360,
    "beit_base_patch16_224_pt22k_ft22k": 85_761_984,
    "data2vec_vision_base_ft1k": 86_530_984 - 769_000,
    "dinov3_vitl16": 303_129_600 - 1024,  # the mask token is for training only
    "imagebind_huge": 632_829_440,
    "sam_vit_b": 89_670_912,
    "sam_vit_b_hf": 89_670_912,
    "sam_vit_h": 637_026_048,
    "sam_vit_l": 308_278_272,
}
_DTYPES = {"float32": ("F32", 4), "int64": ("I64", 8)}


def write_random(path: Path, keys: Mapping[str, Sequence[Any]]) -> None:
    """Write a safetensors file of the listed names and shapes, a tensor at a time."""
    header, at = {}, 0
    for name, (shape, dtype) in keys.items():
        kind, size = _DTYPES[dtype]
        end = at + int(np.prod(shape)) * size
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    rng = np.random.default_rng(0)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, (shape, dtype) in keys.items():
            file.write(_random(name, tuple(shape), dtype, rng).tobytes())


def _random(name: str, shape: tuple[int, ...], dtype: str, rng: np.random.Generator) -> np.ndarray:
    if dtype == "int64":
        return np.zeros(shape, np.int64)
    if name.endswith(("running_var", "norm.weight")) or (
        "norm" in name and name.endswith("weight") and len(shape) == 1
    ):
        return np.ones(shape, np.float32)
    fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else 1
    return rng.standard_normal(shape, np.float32) * np.float32(min(0.02, fan_in**-0.5))


def network_of(name: str) -> tuple[Any, int, str]:
    """Return (configuration, side of the input in pixels, feature) for a listing."""
    if name in CONFIGS:
        return CONFIGS[name]
    record = find(RECORDS.get(name, name))
    side = getattr(record.network, "image", record.preprocess.side)
    return record.network, side, record.pooling


def parameters(name: str, matched: Sequence[str]) -> tuple[int, int]:
    """Return (number of parameters in the tensors that were used, number that there should be) of a listing."""
    used = [key for key in matched if not key.endswith(("running_mean", "running_var"))]
    plain = backbone_tensors(listings()[name]["keys"])  # the names without a prefix
    return sum(int(np.prod(plain[key][0])) for key in used), PARTS.get(name, listings()[name]["params"])


def one(name: str, forward: bool) -> str:
    """Return the line of one listing."""
    config, side, pooling = network_of(name)
    row = listings()[name]
    graph, shapes = abstract(config)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        write_random(path, row["keys"])
        base, start = _peak(), time.perf_counter()
        opened = open_backbone(path)
        found = opened.read(shapes)
        seconds, peak, size = time.perf_counter() - start, _peak() - base, path.stat().st_size
    count, wanted = parameters(name, found.report.matched)
    leaves = flatten(found.tree)
    words = [
        f"{name:34s} {opened.family}/{opened.layout.name:12s}",
        f"{count:>13,d} parameters {'' if count == wanted else f'NO, {wanted:,d} expected '}",
        f"file {size / 1e9:5.2f} tree {sum(leaf.nbytes for leaf in leaves.values()) / 1e9:5.2f} GB",
        f"read {seconds:6.1f} s, peak {peak:5.2f} GB",
    ]
    if forward:
        words.append(_forward(graph, found.tree, side, pooling))
    return "  ".join(words)


def _forward(graph: Any, tree: Any, side: int, pooling: str) -> str:
    run = jax.jit(lambda tree, x: POOLINGS[pooling][1](nnx.merge(graph, tree)(x)))
    x = jnp.asarray(np.random.default_rng(1).normal(size=(1, side, side, 3)), jnp.float32)
    parameters = jax.tree.map(jnp.asarray, tree)
    program = run.lower(parameters, x).compile()
    start = time.perf_counter()
    feature = np.asarray(program(parameters, x))
    seconds = time.perf_counter() - start
    fault = "" if np.isfinite(feature).all() else " NOT FINITE"
    return f"forward {side} px {seconds:6.2f} s, feature {feature.shape[1]}{fault}"


def _peak() -> float:
    """Return the largest resident memory of this process so far, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def main() -> int:
    """Exit code: 0 if every line is as it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="key listings (default: all)")
    parser.add_argument("--no-forward", action="store_true", help="load only")
    parser.add_argument("--max-parameters", type=float, default=float("inf"), help="leave larger ones out, e.g. 4e8")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    values = parser.parse_args()
    sizes = {name: row["params"] for name, row in listings().items()}
    if unknown := set(values.names) - set(sizes):
        parser.error(f"unknown listing {sorted(unknown)[0]}; known are {', '.join(sizes)}")
    if values.one:
        print(one(values.names[0], not values.no_forward), flush=True)
        return 0
    names = sorted(values.names or sizes, key=sizes.__getitem__)
    failed = 0
    for name in (name for name in names if sizes[name] <= values.max_parameters):
        words = [sys.executable, __file__, name, "--one", *(["--no-forward"] if values.no_forward else [])]
        done = subprocess.run(words, capture_output=True, text=True)
        line = done.stdout.strip() or f"{name:34s} FAILED: {done.stderr.strip().splitlines()[-1]}"
        failed += any(mark in line for mark in ("FAILED", " NO, ", "NOT FINITE"))
        print(line, flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
