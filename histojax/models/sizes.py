"""Width, depth and heads of the released ViTs and of small ones for CPUs."""

from __future__ import annotations

SIZES = {  # name: (width, depth, heads, feed-forward unless told otherwise)
    "vit_micro": (64, 2, 2, "mlp"),
    "vit_mini": (192, 6, 3, "mlp"),
    "vit_tiny": (192, 12, 3, "mlp"),
    "vit_small": (384, 12, 6, "mlp"),
    "vit_base": (768, 12, 12, "mlp"),
    "vit_large": (1024, 24, 16, "mlp"),
    "vit_giant2": (1536, 40, 24, "swiglu"),
}
