"""A folder of DICOM files as one slide."""

from __future__ import annotations

from pathlib import Path

from histojax.common.files import reason
from histojax.slides.bad_slide import BadSlide

SERIES_UID = b"\x20\x00\x0e\x00UI"  # tag (0020,000E) with explicit type, little endian, as slides have it
HEADER_BYTES = 1 << 16


def first_of_series(folder: Path, shown: str) -> Path:
    """A file of the DICOM series in a folder; OpenSlide finds the others. Raises BadSlide if there is not just one."""
    try:
        files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    except OSError as error:
        raise BadSlide(shown, f"the folder cannot be read ({reason(error)})") from error
    series: dict[str, Path] = {}
    for path in files:
        uid = series_uid(path)
        if uid is not None:
            series.setdefault(uid, path)
    if not series:
        raise BadSlide(shown, "a folder without DICOM files; name the slide files in it (of MIRAX the .mrxs beside it)")
    if len(series) > 1:
        some = ", ".join(path.name for path in list(series.values())[:3])
        raise BadSlide(shown, f"a folder of {len(series)} DICOM series; name one file of each that you mean, as {some}")
    return next(iter(series.values()))


def series_uid(path: Path) -> str | None:
    """The series that a DICOM file belongs to, "" if its header does not say; None if it is no DICOM file."""
    try:
        with open(path, "rb") as file:
            header = file.read(HEADER_BYTES)
    except OSError:
        return None
    if header[128:132] != b"DICM":
        return None
    _, found, rest = header.partition(SERIES_UID)
    length = int.from_bytes(rest[:2], "little")
    return rest[2 : 2 + length].rstrip(b"\0 ").decode("ascii", "replace") if found else ""
