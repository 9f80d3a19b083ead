"""What a file is that is no slide, by its first bytes, in words."""

from __future__ import annotations

from pathlib import PurePath

STARTS = (
    (b"version https://git-lfs", "a Git LFS pointer, not the slide: run `git lfs pull`"),
    (b"<!DOCTYPE", "a web page, not a slide: the download failed"),
    (b"<html", "a web page, not a slide: the download failed"),
    (b"<?xml", "an XML file, not a slide"),
    (b"PK\x03\x04", "a zip archive: unpack it"),
    (b"\x1f\x8b", "a gzip archive: unpack it"),
    (b"ZISRAWFILE", "a Zeiss .czi file, which OpenSlide does not read: export it as OME-TIFF or pyramidal TIFF"),
    (b"\x89HDF", "an HDF5 file, not a slide"),
    (b"%PDF", "a PDF, not a slide"),
    (b"II", "a TIFF that is not read"),
    (b"MM", "a TIFF that is not read"),
)
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
    for prefix, what in STARTS:
        if start.lower().startswith(prefix.lower()):
            return what
    if not start.strip(b"\0"):
        return "only zero bytes: the copy or download was interrupted"
    unread = NOT_READ.get(PurePath(name).suffix.lower())
    if unread:
        return f"{unread} files are not read by OpenSlide: export it as pyramidal TIFF"
    if all(byte in b"\t\n\r" or byte >= 32 for byte in start[:64]) and start[:64].isascii():
        return f"a text file, not a slide (starts with {start[:24].decode('ascii')!r})"
    return f"no slide or image that is read (starts with {start[:8]!r})"
