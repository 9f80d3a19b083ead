"""The one error of this room: a slide, or a region of one, that cannot be read."""

from __future__ import annotations

from os import PathLike


class BadSlide(Exception):
    """A file that is no usable slide, or a region of one that cannot be read: skipped by name, never fatal for others.

    `path` is the file as it was given, `reason` one line in words. Survives pickling, so it may cross processes.
    """

    def __init__(self, path: str | PathLike, reason: str) -> None:
        super().__init__(str(path), reason)
        self.path = str(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"
