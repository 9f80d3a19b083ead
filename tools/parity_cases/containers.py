"""Weight files: the tensors of every container against recorded values, and what each file belongs to."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from parity_cases.check import Check, compare, failed, same, skipped
from parity_cases.golden import ArrayFile, Folder, WeightFile


def cases(file: WeightFile, folder: Folder) -> Iterator[tuple[str, Callable]]:
    """A file whose tensors an .npz has by name, most of them at least; others belong to a network, or to nothing."""
    recorded = recorded_tensors(file, folder)
    if recorded is not None:
        yield file.name, partial(_container, file, recorded)
    elif owner_of(file, folder) is None:
        yield file.name, partial(_alone, file)


def recorded_tensors(file: WeightFile, folder: Folder) -> ArrayFile | None:
    """The .npz with the tensors of a weight file."""
    names = set(file.tensors)
    return next((a for a in folder.arrays if a.names and len(set(a.names) & names) * 2 > len(a.names)), None)


def owner_of(file: WeightFile, folder: Folder) -> ArrayFile | None:
    """The .npz with inputs and outputs of the network that a weight file is for, by their names."""
    owners = {a.name: a for a in folder.arrays if is_encoder(a) or is_head(a)}
    return owners.get(belongs(file.name, owners) or "")


def weights_for(arrays: ArrayFile, folder: Folder) -> list[WeightFile]:
    """All weight files of a network."""
    candidates = (f for f in folder.weights if recorded_tensors(f, folder) is None)
    return [f for f in candidates if owner_of(f, folder) is arrays]


def is_encoder(file: ArrayFile) -> bool:
    """Inputs `x` and `features` or `logits` of a network for images."""
    return "x" in file.names and any(n.startswith(("features", "logits")) for n in file.names)


def is_head(file: ArrayFile) -> bool:
    """Bags of features, the inputs of a head."""
    return any(n.startswith("bag") for n in file.names)


def belongs(name: str, cases: Iterable[str]) -> str | None:
    """The case with the most words among those whose words `name` has in their order; None if there is none."""
    words = re.split(r"[_.\-]", name)

    def within(case: str) -> bool:
        rest = iter(words)
        return all(word in rest for word in re.split(r"[_.\-]", case))

    fitting = [case for case in cases if within(case)]
    return max(fitting, key=lambda case: (len(re.split(r"[_.\-]", case)), case), default=None)


def _container(file: WeightFile, recorded: ArrayFile) -> Iterator[Check]:
    """Bit for bit; a bfloat16 is recorded as the float32 of the same value."""
    name = file.path.name
    for key, wanted in recorded.arrays.items():
        if key not in file.tensors:
            yield failed(name, f"{key} is not in the file")
            continue
        ours = file.tensors[key].numpy()
        alike = ours.dtype == wanted.dtype or (str(ours.dtype), str(wanted.dtype)) == ("bfloat16", "float32")
        what = f"{key} {ours.dtype}"
        yield compare(name, what, ours, wanted) if alike else failed(name, f"{what}, expected {wanted.dtype}")
    yield same(name, "nothing else in it", sorted(set(file.tensors) - set(recorded.names)))


def _alone(file: WeightFile) -> Iterator[Check]:
    yield skipped(file.name, f"{file.shown}: no arrays are recorded for it")
