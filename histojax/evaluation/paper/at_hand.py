"""Which weights a benchmark has, which it can download, and which a person has to get."""

from __future__ import annotations

from dataclasses import dataclass

from histojax.common.errors import UserError
from histojax.common.files import expanded
from histojax.evaluation.paper.settings import RANDOM, Row
from histojax.zoo.published import address, download
from histojax.zoo.table import find, is_known

HERE, DOWNLOAD, MISSING = "there", "to be downloaded", "missing"


@dataclass(frozen=True)
class AtHand:
    """Whether the weights of a row are here; `said` is where, or how to get them."""

    state: str
    said: str


def look_for_weights(row: Row, offline: bool = False) -> AtHand:
    """Where the weights of a row are; nothing is downloaded."""
    if row.weights == RANDOM:
        return AtHand(HERE, "random weights")
    if row.trained or row.weights is not None:
        path = expanded(row.weights or row.spec)
        return AtHand(HERE, str(path)) if path.exists() else AtHand(MISSING, _no_path(row, str(path)))
    record = find(row.spec)
    file = record.weights[0]
    try:
        return AtHand(HERE, str(download(file, offline=True)))
    except UserError as error:
        lacking = " ".join(str(error).removeprefix("offline: ").split())
    lacking = lacking if offline else lacking.replace(" on another machine", " by hand")
    if offline or not address(file):
        return AtHand(MISSING, f"{lacking}{' (terms to accept first)' if record.gated else ''}")
    size = f", {file.size / 1e6:,.0f} MB" if file.size else ""
    gated = f"; accept the terms on {file.home} first" if record.gated else ""
    return AtHand(DOWNLOAD, f"{address(file)}{size}{gated}")


def _no_path(row: Row, path: str) -> str:
    if row.weights is None and not is_known(row.spec) and "/" not in row.spec:
        return f"{path}: no such path, and no encoder of that name (histojax encoders lists all)"
    return f"{path}: no such file or folder"
