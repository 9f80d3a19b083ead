"""What a file is that carries the name of another kind, by its first bytes, in words."""

from __future__ import annotations

STARTS = (  # first bytes, what such a file is
    (b"version https://git-lfs", "a Git LFS pointer, not the {thing}: run `git lfs pull`"),
    (b"<!DOCTYPE", "a web page, not {a_thing}: the download failed"),
    (b"<html", "a web page, not {a_thing}: the download failed"),
    (b"<?xml", "an XML file, not {a_thing}"),
    (b"{", "a JSON or text file, not {a_thing}"),
    (b"PK\x03\x04", "a zip archive, not {a_thing}: unpack it"),
    (b"\x1f\x8b", "a gzip archive, not {a_thing}: unpack it"),
    (b"%PDF", "a PDF, not {a_thing}"),
    (b"\x89HDF", "an HDF5 file, not {a_thing}"),
    (b"\x93NUMPY", "a NumPy array, not {a_thing}"),
)


def known_start(start: bytes, thing: str, a_thing: str) -> str:
    """A sentence on a file that starts so and should be `thing`, e.g. ("image", "an image"); "" if nothing is known."""
    for prefix, what in STARTS:
        if start.lower().startswith(prefix.lower()):
            return what.format(thing=thing, a_thing=a_thing)
    return "" if start.strip(b"\0") else "only zero bytes: the copy or download was interrupted"
