"""Letters and colours of what is drawn on pixels."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import matplotlib
from PIL import ImageFont

INK, FAINT = (27, 31, 36), (92, 102, 112)
GREEN, RED = (0, 140, 90), (205, 40, 30)


@functools.lru_cache
def font(size: int) -> Any:
    """DejaVu Sans, which matplotlib brings along: it has the letters of most languages."""
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)
