"""What the commands share: flags that fail in one line, the config file with its overrides, exit codes."""

from __future__ import annotations

import argparse
import difflib
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import NoReturn

from histojax.common.errors import UserError

BAD_INPUT, STOPPED = 2, 3  # exit codes: the user's input; the monitor's verdict


HELP_WORDS = {"--help", "-h", "-help", "help"}


def run(
    command: str,
    page: str,
    argv: Sequence[str] | None,
    work: Callable[[list[str]], int],
    without_words: bool = False,
) -> int:
    """The exit code of a command line (None: that of the process): its page where help is asked for, else `work`.

    A line without any word is no input for most commands: the page goes to stderr. `without_words` runs them.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if HELP_WORDS & set(words) or not (words or without_words):
        print(page, file=sys.stdout if words else sys.stderr)
        return 0 if words else BAD_INPUT
    return guarded(command, lambda: work(words))


def guarded(command: str, work: Callable[[], int]) -> int:
    """The exit code of `work`; a UserError becomes one line on stderr and its own exit code."""
    try:
        return work()
    except UserError as error:
        print(f"{command}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"{command}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has seen enough: | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def warn(command: str, sentences: Iterable[str]) -> None:
    """Prints warnings on stderr, a line each."""
    for sentence in sentences:
        print(f"{command}: warning: {sentence}", file=sys.stderr)


def whole_number(flag: str, text: str, low: int, high: int) -> int:
    """The number of a flag; raises UserError if it is none from low to high."""
    if not re.fullmatch(r"[+-]?\d+", text.strip()) or not low <= int(text) <= high:
        raise UserError(f"{flag}: expected a whole number from {low} to {high}, got {text!r}")
    return int(text)


def shard(text: str) -> tuple[int, int]:
    """(index from 0, count) of --shard I/N, with I from 1 to N; raises UserError for anything else."""
    found = re.fullmatch(r"(\d+)/(\d+)", text.strip())
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise UserError(f"--shard: expected I/N with I from 1 to N, for example 1/8, got {text!r}")
    return int(found[1]) - 1, int(found[2])


class Arguments(argparse.ArgumentParser):
    """An argument parser for commands with positional arguments: errors are UserErrors, help is the command's own."""

    def __init__(self) -> None:
        super().__init__(add_help=False, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Raises UserError with the nearest flag."""
        unknown = re.search(r"unrecognized arguments: (--[\w-]+)", message)
        flags = [name for action in self._actions for name in action.option_strings]
        near = difflib.get_close_matches(unknown[1], flags, n=1) if unknown else []
        raise UserError(f"{message}{f'; did you mean {near[0]}?' if near else ''} (see --help)")
