"""The tensors of a network among those of a file, which may be a listing of shapes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from histojax.weights.search import choose_place, clean_names, find_places, tensors_at, whole_level


def backbone_tensors(tensors: Mapping[str, Any], which: str | None = None) -> dict[str, Any]:
    """Return the tensors of the network, under the names of its layout; see weights.search.choose_place."""
    clean, _ = clean_names(tensors)
    places = find_places(clean)
    return tensors_at(clean, choose_place(places, which)[0] or whole_level(clean), places)
