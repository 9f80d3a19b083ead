"""What the licences of weights allow, and the chain of them that a derived file carries."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from histojax.common.errors import UserError

CARD = "card.json"
_OPEN = re.compile(r"^(apache|mit\b|bsd|cc0|cc-by-4|cc-by-sa|gpl)", re.I)
_NOT_COMMERCIAL = re.compile(r"\bnc\b|non-?commercial|research[ -]only|academic", re.I)
_NOT_DERIVED = re.compile(r"\bnd\b|no[ -]?deriv", re.I)


@dataclass(frozen=True)
class Link:
    """One origin of a file of weights, with the terms it came under.

    Args:
        what: name of the weights, or of the file.
        licence: as its authors call it.
        commercial: whether it allows commercial use; None: not known.
        derivatives: whether it allows passing on derived weights; None: not known.
        file, sha256: of the weights, where known.
    """

    what: str
    licence: str
    commercial: bool | None = None
    derivatives: bool | None = None
    file: str = ""
    sha256: str | None = None

    def terms(self) -> str:
        """Return one line for people."""
        said = {None: "unknown", True: "yes", False: "NO"}
        return (
            f"{self.what}: {self.licence} (commercial use: {said[self.commercial]}, "
            f"derivatives: {said[self.derivatives]})"
        )


def link(what: str, licence: str, *, file: str = "", sha256: str | None = None) -> Link:
    """Return the link of a licence that is known by its name only; what the name does not say stays unknown."""
    known = True if _OPEN.search(licence) else None
    commercial = False if _NOT_COMMERCIAL.search(licence) else known
    derivatives = False if _NOT_DERIVED.search(licence) else known
    return Link(what, licence, commercial, derivatives, file, sha256)


def chain_of_card(card: Mapping[str, Any]) -> tuple[Link, ...]:
    """Return the chain that a card carries: its `licences`, else what its `starting_weights` say (our training)."""
    fields = set(Link.__dataclass_fields__)
    stored = card.get("licences")
    if isinstance(stored, list):
        rows = [row for row in stored if isinstance(row, Mapping) and {"what", "licence"} <= set(row)]
        return tuple(Link(**{key: row[key] for key in fields & set(row)}) for row in rows)
    start = card.get("starting_weights")
    if isinstance(start, list):
        rows = [row for row in start if isinstance(row, Mapping)]
        return tuple(one for row in rows for one in _chain_of_source(row))
    return ()


def chain_beside(path: str | Path) -> tuple[Link, ...]:
    """Return the chain in the card beside a weight file that we wrote, () if there is none."""
    return chain_of_card(card_beside(path))


def card_beside(path: str | Path) -> dict[str, Any]:
    """Return the card.json that belongs to a weight file (or to the folder it is in), {} if there is none."""
    path = Path(path)
    folder = path if path.is_dir() else path.parent
    try:
        card = json.loads((folder / CARD).read_text())
        weights = card["weights"]  # of a training's state several files
        files = [one["file"] for one in (weights if isinstance(weights, list) else [weights])]
        belongs = path.is_dir() or path.name in files
        return card if belongs else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def verdict(chain: Iterable[Link], field: str) -> bool | None:
    """Return whether the whole chain allows `field` ("commercial", "derivatives"): False if any forbids it."""
    said = [getattr(one, field) for one in chain]
    return False if False in said else None if None in said else True


def check_commercial(chain: Iterable[Link], file: Any) -> None:
    """Raise UserError unless every link is known to allow commercial use."""
    for one in chain:
        if one.commercial is not True:
            why = "forbids commercial use" if one.commercial is False else "is not known to allow commercial use"
            raise UserError(f"{file}: the licence of {one.what} {why} ({one.licence}), which was asked for")


def warnings_of(chain: Iterable[Link]) -> list[str]:
    """Return a sentence for each thing that the chain forbids."""
    chain = list(chain)
    words = [
        f"DERIVATIVES FORBIDDEN by the licence of {one.what} ({one.licence}): do not share this file; ask its authors"
        for one in chain
        if one.derivatives is False
    ]
    words += [f"no commercial use: {one.what} is {one.licence}" for one in chain if one.commercial is False]
    unknown = [one for one in chain if one.commercial is None or one.derivatives is None]
    words += [f"terms not known: {one.what} is {one.licence}; read its licence before sharing" for one in unknown]
    return words


def as_rows(chain: Iterable[Link]) -> list[dict[str, Any]]:
    """Return the chain for a card."""
    return [asdict(one) for one in chain]


def _chain_of_source(row: Mapping[str, Any]) -> tuple[Link, ...]:
    """A source's own chain, () if it was trained from nothing; of one that brought none, what its name says."""
    chain = chain_of_card(row)
    if chain or row.get("licences") == []:
        return chain
    name, licence = str(row.get("name", "unknown")), str(row.get("licence", "unknown"))
    return (link(name, licence, file=str(row.get("file", "")), sha256=row.get("sha256")),)
