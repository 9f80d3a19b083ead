"""What a file is that is no slide, by its first bytes, in words."""

from __future__ import annotations

from pathlib import PurePath

from histojax.common.first_bytes import known_start

NOT_READ = {  # suffix: format that OpenSlide lacks
    ".czi": "Zeiss .czi",
    ".isyntax": "Philips .isyntax",
    ".vsi": "Olympus .vsi",
    ".kfb": "KFBIO .kfb",
    ".sdpc": "Sqray .sdpc",
    ".mds": "Motic .mds",
    ".tmap": "Unic .tmap",
}


def what_it_is(start: bytes, name: str) -> str:
    """A sentence on a file of this name that starts so."""
    known = known_start(start, "slide", "a slide")
    if known:
        return known
    if start[:2] in (b"II", b"MM"):
        return "a TIFF of a kind that is not read"
    unread = NOT_READ.get(PurePath(name).suffix.lower())
    if unread:
        return f"{unread} files are not read by OpenSlide: export it as pyramidal TIFF"
    if all(byte in b"\t\n\r" or byte >= 32 for byte in start[:64]) and start[:64].isascii():
        return f"a text file, not a slide (starts with {start[:24].decode('ascii')!r})"
    return f"no slide or image that is read (starts with {start[:8]!r})"
