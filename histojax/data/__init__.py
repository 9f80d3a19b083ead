"""Tiles in, batches out: sources (folder, CSV, zip, tile store, TFDS, synthetic), decoding, Grain pipelines.

Host work only, no jax. `open_source` gives a `Source`; `train_iterator` and `eval_batches` make uint8 batches
of it; `BadTileLog` keeps account of what cannot be read. The names are imported when first used: Grain and
ArrayRecord take seconds to import, and a config check needs neither.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from histojax.data.bad_tiles import BadTileLog, sample_check, unreadable
    from histojax.data.decode import BadTile
    from histojax.data.pipeline import TrainIterator, ensure_absl_flags_parsed, eval_batches, train_iterator
    from histojax.data.sources import open_source
    from histojax.data.split import split_in_words, split_labelled
    from histojax.data.store import write_store
    from histojax.data.synthetic import SyntheticTissue
    from histojax.data.tiles import Source, count_shared

_HOME = {
    "BadTile": "decode",
    "BadTileLog": "bad_tiles",
    "Source": "tiles",
    "SyntheticTissue": "synthetic",
    "TrainIterator": "pipeline",
    "count_shared": "tiles",
    "ensure_absl_flags_parsed": "pipeline",
    "eval_batches": "pipeline",
    "open_source": "sources",
    "sample_check": "bad_tiles",
    "split_in_words": "split",
    "split_labelled": "split",
    "train_iterator": "pipeline",
    "unreadable": "bad_tiles",
    "write_store": "store",
}

__all__ = [
    "BadTile",
    "BadTileLog",
    "Source",
    "SyntheticTissue",
    "TrainIterator",
    "count_shared",
    "ensure_absl_flags_parsed",
    "eval_batches",
    "open_source",
    "sample_check",
    "split_in_words",
    "split_labelled",
    "train_iterator",
    "unreadable",
    "write_store",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
