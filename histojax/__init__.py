"""histojax: self-supervised finetuning of pathology encoders in JAX, and published encoders by name."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from histojax.features.read import read_features
    from histojax.zoo.encoder import Encoder, load_encoder

__version__ = "0.1.0"
__all__ = ["Encoder", "__version__", "load_encoder", "read_features"]
_HOME = {
    "Encoder": "histojax.zoo.encoder",
    "load_encoder": "histojax.zoo.encoder",
    "read_features": "histojax.features.read",
}


def __getattr__(name: str) -> Any:
    """Names that need jax are imported when they are first asked for."""
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'histojax' has no attribute {name!r}")
