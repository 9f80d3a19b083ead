"""Errors meant for the person at the keyboard."""


class UserError(ValueError):
    """A mistake in a file, flag or config, worded for its owner: what, where, what was expected, the fix.

    Commands print it as one line and exit with its `exit_code`; everything else keeps its traceback.
    """

    exit_code = 2


class OthersMissing(UserError):
    """The other processes of a run are not there. Nothing that was given is wrong: a later start may find them."""

    exit_code = 4
