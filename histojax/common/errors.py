"""Errors meant for the person at the keyboard."""


class UserError(ValueError):
    """A mistake in a file, flag or config, worded for its owner: what, where, what was expected, the fix.

    Commands print it as one line and exit with status 2; everything else keeps its traceback.
    """
