"""--config FILE and --config.any.leaf=value: a configuration with its changes, and the list of its leaves.

Values are read by the kind of the leaf's default, so that None, comma lists and tuples work for every leaf; what
ml_collections' own flags make of them depends on the value that a file happens to hold.
"""

from __future__ import annotations

import ast
import difflib
import importlib.util
import inspect
import re
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from histojax import config as config_module
from histojax.common.errors import UserError
from histojax.common.files import expanded

LEAF = "--config."
EXAMPLE = "for example --config configs/quickstart.py"
_BOOLS = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}


Defaults = Callable[[], ConfigDict]  # a function of histojax.config


def split_leaves(argv: Sequence[str], defaults: Defaults = config_module.paper) -> tuple[dict[str, str], list[str]]:
    """({dotted leaf: value as typed}, the other words) of a command line; the last value of a leaf counts.

    Both --config.leaf=value and --config.leaf value are read; a bare --config.leaf is "true" for a leaf that is a
    bool. Raises UserError at a leaf that does not exist, with the nearest one.
    """
    known = dict(config_module.leaves(defaults()))
    changes, others, words = {}, [], list(argv)
    while words:
        word = words.pop(0)
        if not word.startswith(LEAF):
            others.append(word)
            continue
        name, equals, value = word.removeprefix(LEAF).partition("=")
        if name not in known:
            raise UserError(_no_leaf(name, known))
        if not equals and isinstance(known[name], bool) and not (words and words[0].lower() in _BOOLS):
            value = "true"
        elif not equals:
            if not words:
                raise UserError(f"{word} needs a value: {word}=...")
            value = words.pop(0)
        changes[name] = value
    return changes, others


def read_config(file: str, changes: dict[str, str], defaults: Defaults = config_module.paper) -> ConfigDict:
    """The configuration of `file` (FILE.py, or FILE.py:WORD for get_config(WORD)) with its changes, locked.

    `defaults` makes the leaves that there are, with values of the right kinds.

    Raises UserError, in one line, for whatever is wrong with the file: it is a program and can fail in any way.
    """
    if not flags.FLAGS.is_parsed():
        flags.FLAGS(["histojax"])  # Grain's workers read absl's global flags
    config = _run_file(file)
    kinds = defaults()
    for name, text in changes.items():
        _set(config, name, _value(name, text, _leaf(kinds, name)))
    return config.lock()


def _run_file(file: str) -> ConfigDict:
    """What get_config() of a file returns."""
    name, colon, word = file.partition(":") if not expanded(file).is_file() else (file, "", "")
    path = expanded(name)
    if not path.is_file():
        raise UserError(f"--config {file}: no such file{_beside(path)}")
    spec = importlib.util.spec_from_file_location("histojax_config_file", path)
    if spec is None or spec.loader is None:
        raise UserError(f"--config {file}: is no Python file (its name must end in .py); {EXAMPLE}")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        get_config = getattr(module, "get_config", None)
        if not callable(get_config):
            raise UserError(f"{path}: has no function get_config() that returns the configuration; see configs/")
        config = get_config(word) if colon else get_config()
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{path}{_line_in(path, error)}: {type(error).__name__}: {_tidy(str(error))}") from error
    if not isinstance(config, ConfigDict):
        raise UserError(f"{path}: get_config() returns {type(config).__name__}, expected an ml_collections ConfigDict")
    return config


def _line_in(path: Path, error: Exception) -> str:
    """ ":LINE" of the file where an error came from, if it can be told."""
    here = path.resolve()
    if isinstance(error, SyntaxError) and error.filename and Path(error.filename).resolve() == here:
        return f":{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename).resolve() == here]
    return f":{lines[-1]}" if lines else ""


def _leaf(config: ConfigDict, name: str) -> Any:
    for part in name.split("."):
        config = config[part]
    return config


def _set(config: ConfigDict, name: str, value: Any) -> None:
    *groups, last = name.split(".")
    try:
        for group in groups:
            config = config[group]
        with config.unlocked(), config.ignore_type():
            config[last] = value
    except (KeyError, AttributeError, TypeError) as error:
        raise UserError(f"--config.{name}: the configuration file has no such leaf: {_tidy(str(error))}") from error


def _value(name: str, text: str, default: Any) -> Any:
    """A typed value as the kind of `default`; None is a leaf that may be absent, which is always a whole number."""
    is_none = text.strip().lower() in ("none", "")
    if default is None:
        return None if is_none else _number(name, text, int)
    if isinstance(default, bool):
        if text.strip().lower() not in _BOOLS:
            raise UserError(f"--config.{name}={text}: expected true or false")
        return _BOOLS[text.strip().lower()]
    if isinstance(default, (tuple, list)):
        return () if is_none else _items(text, default)
    if isinstance(default, (int, float)):
        return _number(name, text, type(default))
    return "" if is_none else text


def _number(name: str, text: str, kind: type) -> int | float:
    """A whole number may be written 1e4 or 1_000; a decimal one in any way that Python reads."""
    try:
        number = float(text)
        if kind is float:
            return number
        if not number.is_integer():
            raise ValueError
        return int(text) if re.fullmatch(r"[+-]?[\d_]+", text.strip()) else int(number)
    except (ValueError, OverflowError):
        what = "a whole number" if kind is int else "a number"
        raise UserError(f"--config.{name}={text}: expected {what}") from None


def _items(text: str, default: Sequence[Any]) -> tuple[Any, ...]:
    """The items of "a,b", "(a, b)", "['a', 'b']"; numbers as such, other words as text."""
    inner = text.strip()
    if inner[:1] + inner[-1:] in ("()", "[]"):
        inner = inner[1:-1]
    parts = [part.strip().strip("'\"") for part in inner.split(",")]
    as_text = bool(default) and isinstance(default[0], str)
    return tuple(part if as_text else _literal(part) for part in parts if part)


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _beside(path: Path) -> str:
    folder = path.parent if path.parent.is_dir() else Path("configs")
    names = [str(p) for p in sorted(folder.glob("*.py"))]
    near = difflib.get_close_matches(str(path), names, n=1, cutoff=0.3)
    return f" (did you mean {near[0]}?)" if near else ""


def _no_leaf(name: str, known: dict[str, Any]) -> str:
    inside = [leaf for leaf in known if leaf.startswith(name + ".")]
    near = inside[:3] or difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    what = "is a group of leaves" if inside else "is not a leaf of the configuration"
    hint = f"; did you mean --config.{' or --config.'.join(near)}?" if near else ""
    return f"--config.{name} {what}{hint} (--helpconfig lists all)"


def _tidy(text: str) -> str:
    return " ".join(text.replace("\\n", " ").replace("\\", "").split())


def helpconfig(config: ConfigDict | None = None, defaults: Defaults = config_module.paper) -> str:
    """Every leaf with its value and its comment in histojax/config.py, one a line."""
    config, comments = config or defaults(), _comments(defaults)
    rows = [
        (f"--config.{name}={_shown(value)}", comments.get(name, "")) for name, value in config_module.leaves(config)
    ]
    return "\n".join(f"{flag:48s} {comment}".rstrip() for flag, comment in rows)


def _shown(value: object) -> str:
    return value if isinstance(value, str) else "" if value is None else str(value).replace(" ", "")


def _comments(defaults: Defaults) -> dict[str, str]:
    """{dotted leaf: comment} read from the source that sets the defaults."""
    found = {}
    for prefix in ("", *(name for name, value in defaults().items() if isinstance(value, ConfigDict))):
        function = getattr(config_module, f"_{prefix}") if prefix else defaults
        for line in inspect.getsource(function).splitlines():
            if match := re.match(r"\s+(?:c\.)?(\w+)\s?=.*?#\s*(.*)$", line):
                found[f"{prefix}.{match[1]}" if prefix else match[1]] = match[2]
    return found
