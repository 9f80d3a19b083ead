"""--config FILE and --config.any.leaf=value: a configuration with its changes, and the list of its leaves."""

from __future__ import annotations

import difflib
import inspect
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

from histojax import config as config_module
from histojax.common.errors import UserError


def parse(values: flags.FlagValues, argv: Sequence[str]) -> None:
    """Reads `argv` (without the program) into `values`; raises UserError for anything it does not know."""
    if not flags.FLAGS.is_parsed():
        flags.FLAGS(["histojax"])  # Grain's workers read absl's global flags
    _check_overrides(argv)
    words, before = ["histojax", *argv], sys.argv
    sys.argv = words  # config_flags looks there for the overrides, whatever it is called with
    try:
        rest = values(words)[1:]
    except flags.Error as error:
        raise UserError(_tidy(str(error))) from error
    except Exception as error:  # a config file is a program: it can fail in any way
        raise UserError(f"{_config_path(argv)}: {type(error).__name__}: {_tidy(str(error))}") from error
    finally:
        sys.argv = before
    if rest:
        raise UserError(f"unexpected argument {rest[0]!r}: flags are written --name=value (see --help)")


def define_config(values: flags.FlagValues) -> None:
    """Adds --config FILE and --config.any.leaf=value to the flags."""
    config_flags.DEFINE_config_file("config", None, "configuration file", flag_values=values, lock_config=True)


def _config_path(argv: Sequence[str]) -> str:
    """The FILE of --config FILE or --config=FILE; checks that it is there."""
    for i, word in enumerate(argv):
        name, equals, value = word.lstrip("-").partition("=")
        if word.startswith("-") and name == "config":
            value = value if equals else next(iter(argv[i + 1 : i + 2]), "")
            if not value or value.startswith("-"):
                raise UserError("--config needs a file, for example --config configs/quickstart.py")
            if not Path(value.partition(":")[0]).is_file():
                raise UserError(f"--config {value}: no such file{_beside(value)}")
            return value
    raise UserError("--config FILE is missing, for example --config configs/quickstart.py")


def _beside(path: str) -> str:
    folder = Path(path).parent if Path(path).parent.is_dir() else Path("configs")
    names = [str(p) for p in sorted(folder.glob("*.py"))]
    near = difflib.get_close_matches(path, names, n=1, cutoff=0.3)
    return f" (did you mean {near[0]}?)" if near else ""


def _check_overrides(argv: Sequence[str]) -> None:
    """Raises UserError at a --config.x.y that is no leaf, with the nearest one."""
    names = [word[2:].split("=")[0] for word in argv if word.startswith("--config.")]
    if names or any(word.lstrip("-").split("=")[0] == "config" for word in argv):
        _config_path(argv)
    known = [name for name, _ in config_module.leaves(config_module.paper())]
    for name in (n.removeprefix("config.") for n in names):
        if name in known:
            continue
        inside = [leaf for leaf in known if leaf.startswith(name + ".")]
        near = inside[:3] or difflib.get_close_matches(name, known, n=1, cutoff=0.4)
        what = "is a group of leaves" if inside else "is not a leaf of the configuration"
        hint = f"; did you mean --config.{' or --config.'.join(near)}?" if near else ""
        raise UserError(f"--config.{name} {what}{hint} (--helpconfig lists all)")


def _tidy(text: str) -> str:
    return " ".join(text.replace("\\n", " ").replace("\\", "").split())


def helpconfig(config: ConfigDict | None = None) -> str:
    """Every leaf with its value and its comment in histojax/config.py, one a line."""
    config, comments = config or config_module.paper(), _comments()
    rows = [
        (f"--config.{name}={_shown(value)}", comments.get(name, "")) for name, value in config_module.leaves(config)
    ]
    return "\n".join(f"{flag:48s} {comment}".rstrip() for flag, comment in rows)


def _shown(value: object) -> str:
    return "" if value is None else str(value).replace(" ", "")


def _comments() -> dict[str, str]:
    """{dotted leaf: comment} read from the source that sets the defaults."""
    found = {}
    for prefix in ("", *(name for name, value in config_module.paper().items() if isinstance(value, ConfigDict))):
        function = getattr(config_module, f"_{prefix}" if prefix else "paper")
        for line in inspect.getsource(function).splitlines():
            if match := re.match(r"\s+(?:c\.)?(\w+)\s?=.*?#\s*(.*)$", line):
                found[f"{prefix}.{match[1]}" if prefix else match[1]] = match[2]
    return found
