"""What is cut from a slide and what is left out: one frozen record, checked as a whole, hashed into every store."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

from histojax.common.errors import UserError

TISSUE = {  # how a slide's tissue is found
    "otsu": "threshold of saturation on a thumbnail (Otsu), cleaned",
    "white": "whatever is neither white nor black on a thumbnail, uncleaned",
    "histobistro": "every tile of the grid, then HistoBistro's filter on the tile's own pixels",
    "none": "every tile of the grid",
}
CHECKS = {  # what a tile's own pixels can be rejected for, in this order
    "blank": "nothing to see: the contrast of a glass slide or of a black border",
    "pen": "ink of a marker, or black that is no stain; tuned to H&E, also leaves ink out of the tissue mask",
    "blur": "out of focus",
}
STAIN = {  # normalisation of each tile
    "none": "colours as scanned",
    "macenko": "haematoxylin and eosin separated, their directions and strengths made those of a reference",
    "reinhard": "mean and spread of CIE Lab made those of a reference",
}


def _number(default: float, low: float, high: float, help: str) -> Any:
    """A field that must lie between two values; a whole number if its default is one."""
    return dataclasses.field(default=default, metadata={"low": low, "high": high, "help": help})


def _choice(default: Any, names: Any, help: str) -> Any:
    """A field that is one name of a table, or several where the default is a tuple."""
    return dataclasses.field(default=default, metadata={"names": tuple(names), "help": help})


@dataclasses.dataclass(frozen=True)
class TileSettings:
    """How tiles are chosen; every field is also a flag of `histojax.tile` (min_tissue: --min-tissue).

    Lengths and areas are in micrometres wherever a resolution must not change their meaning. Raises UserError for
    a value out of range: flag, value, what was expected.
    """

    tile_px: int = _number(256, 16, 8192, "side of a tile, pixels")
    mpp: float = _number(1.0, 0.05, 64.0, "resolution of the tiles, micrometres per pixel")
    overlap_px: int = _number(0, 0, 8191, "how far neighbours overlap, pixels of the tile")
    tissue: str = _choice("otsu", TISSUE, "how tissue is found")
    min_tissue: float = _number(0.5, 0.0, 1.0, "share of a tile that must be tissue")
    min_inside: float = _number(0.5, 0.0, 1.0, "share of a tile that must lie in the annotations to include")
    max_excluded: float = _number(0.1, 0.0, 1.0, "share of a tile that may lie in the annotations to exclude")
    checks: tuple[str, ...] = _choice(tuple(CHECKS), CHECKS, "what a tile's pixels are checked for")
    max_tiles: int | None = dataclasses.field(
        default=None, metadata={"help": "of a slide at most, drawn at random before the checks"}
    )
    seed: int = _number(0, 0, 2**63 - 1, "of the random choice of max_tiles")
    stain: str = _choice("none", STAIN, "stain normalisation")
    # the tissue mask
    mask_mpp: float = _number(8.0, 0.5, 128.0, "resolution of the tissue mask, micrometres per pixel")
    min_saturation: float = _number(10.0, 0.0, 255.0, "lowest threshold Otsu may choose; lower finds paler tissue")
    max_saturation: float = _number(15.0, 0.0, 255.0, "highest threshold Otsu may choose; higher leaves fat out")
    close_um: float = _number(80.0, 0.0, 1000.0, "gaps up to this width are closed, the size of a fat cell")
    open_um: float = _number(16.0, 0.0, 1000.0, "threads of tissue up to this width are removed")
    min_piece_um2: float = _number(20_000.0, 0.0, 1e12, "smaller pieces are specks of dust, not tissue")
    max_hole_um2: float = _number(40_000.0, 0.0, 1e12, "smaller holes count as tissue (glands, fat cells, vessels)")
    # the checks of a tile's pixels, see checks.py for what they measure
    min_contrast: float = _number(6.0, 0.0, 128.0, "blank below: standard deviation of green, grey levels")
    min_sharpness: float = _number(0.33, 0.0, 10.0, "blur below: variance of finest over coarser structure")
    max_pen: float = _number(0.1, 0.0, 1.0, "pen above: share of the tile in the colours of ink")
    histobistro_invalid: float = _number(0.3, 0.0, 1.0, "HistoBistro's filter: share that may be white or black")
    histobistro_edges: float = _number(1.0, 0.0, 100.0, "HistoBistro's filter: least percentage of edge pixels")

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            checked = _checked(field, getattr(self, field.name))
            object.__setattr__(self, field.name, checked)
        if self.overlap_px >= self.tile_px:
            raise _wrong("overlap_px", self.overlap_px, f"less than the tile's {self.tile_px} pixels")
        if self.min_saturation > self.max_saturation:
            raise _wrong("min_saturation", self.min_saturation, f"at most max_saturation, {self.max_saturation:g}")

    @property
    def reads_pixels(self) -> bool:
        """Whether it takes the pixels of a tile to know if it is kept."""
        return bool(self.checks) or self.tissue == "histobistro"

    @property
    def step_px(self) -> int:
        """From one tile to the next, pixels of the tile."""
        return self.tile_px - self.overlap_px

    def as_dict(self) -> dict[str, Any]:
        """For store.json: plain JSON values, a key a field."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}

    def digest(self) -> str:
        """16 hex digits that two settings share only if they cut the same tiles."""
        return hashlib.sha256(json.dumps(self.as_dict(), sort_keys=True).encode()).hexdigest()[:16]


def _checked(field: dataclasses.Field, value: Any) -> Any:
    """The value as it is stored, or UserError."""
    if field.name == "max_tiles":
        return None if value is None else _in_range(field.name, value, 1, 2**31, whole=True)
    if "names" in field.metadata:
        return _named(field, value)
    return _in_range(field.name, value, field.metadata["low"], field.metadata["high"], isinstance(field.default, int))


def _in_range(name: str, value: Any, low: float, high: float, whole: bool) -> float:
    kind = "a whole number" if whole else "a number"
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    fits = low <= number <= high and (not whole or number == int(number))  # false for NaN
    if isinstance(value, bool) or not fits:
        raise _wrong(name, value, f"{kind} from {low:g} to {high:g}")
    return int(value) if whole else number


def _named(field: dataclasses.Field, value: Any) -> Any:
    names = field.metadata["names"]
    if isinstance(field.default, str):
        if value not in names:
            raise _wrong(field.name, value, f"one of {', '.join(names)}")
        return value
    if isinstance(value, str) or not all(v in names for v in value):
        raise _wrong(field.name, value, f"any of {', '.join(names)}")
    return tuple(name for name in names if name in value)


def flag_of(name: str) -> str:
    """The flag of a field; --mpp is that of the slides themselves."""
    return "--target-mpp" if name == "mpp" else f"--{name.replace('_', '-')}"


def _wrong(name: str, value: Any, expected: str) -> UserError:
    return UserError(f"{flag_of(name)}: {value!r} given, expected {expected}")


PRESETS = {  # of the paper: tiles to extract features from, tiles to finetune on
    "extract": TileSettings(tile_px=256, mpp=1.0),
    "finetune": TileSettings(tile_px=512, mpp=0.5),
}


def settings_from(values: Mapping[str, Any], preset: str = "extract") -> TileSettings:
    """The settings of a preset with some fields replaced; UserError for a preset or a field that does not exist."""
    if preset not in PRESETS:
        raise _wrong("preset", preset, f"one of {', '.join(PRESETS)}")
    known = {field.name for field in dataclasses.fields(TileSettings)}
    if unknown := sorted(set(values) - known):
        raise UserError(f"tile settings have no {', '.join(unknown)}; there are {', '.join(sorted(known))}")
    return dataclasses.replace(PRESETS[preset], **values)
