"""histojax: self-supervised finetuning of pathology encoders in JAX, and published encoders by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from histojax.zoo.encoder import Encoder, load_encoder

__version__ = "0.1.0"
__all__ = ["Encoder", "__version__", "load_encoder"]


def __getattr__(name: str) -> Any:
    """Names that need jax are imported when they are first asked for."""
    if name in ("Encoder", "load_encoder"):
        from histojax.zoo import encoder

        return getattr(encoder, name)
    raise AttributeError(f"module 'histojax' has no attribute {name!r}")
