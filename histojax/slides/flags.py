"""The flags of every command that cuts tiles: one a field of TileSettings, so that they are never two things."""

from __future__ import annotations

import argparse
import dataclasses
import textwrap
from typing import Any

from histojax.slides.settings import PRESETS, TileSettings, flag_of, settings_from

PREFIX = "tile_setting_"  # of the names in the parsed arguments
FIRST = ("tile_px", "mpp", "overlap_px", "tissue", "min_tissue", "checks", "max_tiles", "seed", "stain")
WIDTH = 118


def add_tile_flags(parser: argparse.ArgumentParser) -> None:
    """Adds --preset and a flag for every setting."""
    parser.add_argument("--preset", default="extract")
    for field in dataclasses.fields(TileSettings):
        parser.add_argument(flag_of(field.name), dest=PREFIX + field.name, default=None)


def settings_given(arguments: argparse.Namespace) -> dict[str, Any]:
    """{field: value} of the flags that were given."""
    given = {field.name: getattr(arguments, PREFIX + field.name) for field in dataclasses.fields(TileSettings)}
    return {name: _value(name, value) for name, value in given.items() if value is not None}


def tile_settings(arguments: argparse.Namespace) -> TileSettings:
    """The settings of the preset and the flags; raises UserError for a value that is out of range."""
    return settings_from(settings_given(arguments), arguments.preset)


def tile_flags_help(fields: tuple[str, ...] = FIRST) -> str:
    """Lines for a --help page, a flag each."""
    presets = "; ".join(f"{name}: {s.tile_px} px at {s.mpp:g} mpp" for name, s in PRESETS.items())
    rows = [("--preset", f"{presets} (the paper's two; default extract)")]
    rows += [(flag_of(f.name), _described(f)) for f in dataclasses.fields(TileSettings) if f.name in fields]
    return "\n".join(_line(flag, text) for flag, text in rows)


def thresholds_help() -> str:
    """The same of all other settings."""
    others = tuple(field.name for field in dataclasses.fields(TileSettings) if field.name not in FIRST)
    return tile_flags_help(others).partition("\n")[2]


def _value(name: str, value: str) -> Any:
    if name == "checks":
        words = [word.strip() for word in value.split(",") if word.strip()]
        return () if words == ["none"] else tuple(words)
    return value


def _described(field: dataclasses.Field) -> str:
    names = field.metadata.get("names")
    choices = f": {', '.join(names)}" if names else ""
    if field.name == "checks":
        choices += ", or none"
    default = ",".join(field.default) if isinstance(field.default, tuple) else field.default
    return f"{field.metadata.get('help', '')}{choices} (default {'all' if default is None else default})"


def _line(flag: str, text: str) -> str:
    return "\n".join(textwrap.wrap(text, WIDTH, initial_indent=f"  {flag:20s} ", subsequent_indent=" " * 23))
