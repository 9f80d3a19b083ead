"""Copies of golden folders with something changed, for the tests of tools/parity.py."""

import json
import shutil
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).parent / "golden" / "dinov2"
ENCODERS = Path(__file__).parent / "golden" / "extractors"


def copy(into: Path, *names: str, source: Path = GOLDEN) -> Path:
    """The folder `into` with copies of these files."""
    for name in names:
        shutil.copyfile(source / name, into / name)
    return into


def change(path: Path, key: str, how) -> None:
    """One array of an .npz replaced by `how` of it; of `meta_json`, the dict is changed."""
    with np.load(path) as data:
        arrays = {k: data[k] for k in data.files}
    if key == "meta_json":
        meta = json.loads(str(arrays[key]))
        how(meta)
        arrays[key] = np.array(json.dumps(meta))
    else:
        arrays[key] = how(arrays[key])
    np.savez(path, **arrays)


def altered(into: Path, source: str, key: str, how) -> Path:
    """A folder with the files of one kind of case, one array of one file changed."""
    kind = source.split("_")[0]
    copy(into, *(p.name for p in GOLDEN.iterdir() if p.stem.startswith(kind) or p.stem == "features_inputs"))
    change(into / f"{source}.npz", key, how)
    return into


def nudge(x):
    """One element moved by 1 %, of the array's scale."""
    x = np.array(x)
    x.flat[x.size // 2] += 0.01 * np.abs(x).max() + 1e-3 if x.dtype.kind == "f" else 1
    return x
