"""Golden stain normalisation: images, the stains that Macenko's method finds, and what it makes of them.

`<image>_HE` and `<image>_maxC` are the stains of an image; `norm_`, `hema_` and `eosin_` of the image `source` end in
`default` or in `to_<image>`, whose stains they were given.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from histojax.slides import macenko
from parity_cases.check import Check, compare, failed
from parity_cases.golden import ArrayFile, Arrays, Folder

SETTINGS = {"Io": macenko.LIGHT, "alpha": macenko.PERCENTILE, "beta": macenko.LEAST_OD}
LEVEL = 1.0  # grey level: fractions are cut, and float32 may fall on the other side of a whole number
STAINS_ATOL, STRENGTHS_ATOL = 1e-6, 1e-5


def cases(file: ArrayFile, folder: Folder) -> Iterator[tuple[str, Callable]]:
    """An .npz with an image `source` and normalised images of it."""
    if "source" in file.names and any(n.startswith("norm_") for n in file.names):
        yield file.name, partial(_images, file.name, file.arrays)


def _images(name: str, a: Arrays) -> Iterator[Check]:
    for key, value in SETTINGS.items():
        if key in a:
            yield compare(name, key, value, a[key])
    yield from _stains(name, "default_ref", macenko.REFERENCE, a)
    for image in [k.removesuffix("_HE") for k in a if k.endswith("_HE")]:
        if image in a:
            yield from _stains(name, image, macenko.fit(a[image]), a)
    for key in [k for k in a if re.fullmatch(r"(norm|hema|eosin)_(default|to_.+)", k)]:
        yield _image(name, key, a)


def _stains(name: str, image: str, found: macenko.Macenko | None, a: Arrays) -> Iterator[Check]:
    if found is None:
        yield failed(name, f"{image}: no stain found")
        return
    parts = {f"{image}_HE": (found.stains, STAINS_ATOL), f"{image}_maxC": (found.strengths, STRENGTHS_ATOL)}
    yield from (compare(name, key, value, a[key], atol=atol) for key, (value, atol) in parts.items() if key in a)


def _image(name: str, key: str, a: Arrays) -> Check:
    kind, ending = key.split("_", 1)
    target = macenko.REFERENCE if ending == "default" else macenko.fit(a[ending.removeprefix("to_")])
    apart = macenko.separate(a["source"], target) if target else None
    if target is None or apart is None:
        return failed(name, f"{key}: no stain found")
    ours = macenko.apply(a["source"], target) if kind == "norm" else apart[kind == "eosin"]
    return compare(name, key, ours.astype(np.int64), a[key].astype(np.int64), atol=LEVEL)
