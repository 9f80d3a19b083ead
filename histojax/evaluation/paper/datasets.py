"""The data of the paper's tables: what must be there, where to get it, and what of it is at a place."""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from histojax.common.errors import UserError
from histojax.common.files import expanded
from histojax.data.formats import is_tile_name

CHUNK = 1 << 22
HERE, MISSING, OTHER = "there", "missing", "another set"


@dataclass(frozen=True)
class PatchData:
    """A published set of tiles in class folders.

    Args:
        name: of the set, and of its folder.
        counts: {class: tiles}.
        md5: of the archive NAME.zip.
        size: of the archive, in words.
        page: where to get it.
        licence: of the images.
        about: what is in it.
    """

    name: str
    counts: Mapping[str, int]
    md5: str
    size: str
    page: str
    licence: str
    about: str

    @property
    def total(self) -> int:
        """Tiles in all."""
        return sum(self.counts.values())

    @property
    def advice(self) -> str:
        """How to get it, in one sentence."""
        return (
            f"download {self.name}.zip ({self.size}, md5 {self.md5}, {self.licence}) from {self.page}; the zip can be "
            "used as it is"
        )


_PAGE, _LICENCE = "https://zenodo.org/records/1214456", "CC BY 4.0"
_CLASSES = ("ADI", "BACK", "DEB", "LYM", "MUC", "MUS", "NORM", "STR", "TUM")
# the counts a class are from memory (their sums are published)
NCT_TRAIN = PatchData(
    "NCT-CRC-HE-100K",
    dict(zip(_CLASSES, (10407, 10566, 11512, 11557, 8896, 13536, 8763, 10446, 14317))),
    "035777cf327776a71a05c95da6d6325f",
    "11.7 GB",
    _PAGE,
    _LICENCE,
    "224 px, 0.5 um/px, 9 classes, 86 slides, colours normalised by its authors",
)
NCT_TEST = PatchData(
    "CRC-VAL-HE-7K",
    dict(zip(_CLASSES, (1338, 847, 339, 634, 1035, 592, 741, 421, 1233))),
    "2fd1651b4f94ebd818ebf90ad2b6ce06",
    "0.8 GB",
    _PAGE,
    _LICENCE,
    "224 px, 0.5 um/px, 9 classes, 50 patients, none of those of NCT-CRC-HE-100K",
)


@dataclass(frozen=True)
class SlideData:
    """A published cohort of slides: what the paper took of it, and where it is. Label tables are not part of it."""

    name: str
    patients: int
    about: str
    page: str


TCGA_CRC = SlideData(
    "TCGA-CRC",
    632,
    "diagnostic slides of TCGA-COAD and TCGA-READ, patients with an MSI label",
    "https://portal.gdc.cancer.gov (projects TCGA-COAD, TCGA-READ; licence: see there)",
)
CPTAC_CRC = SlideData(
    "CPTAC-CRC",
    110,
    "slides of CPTAC's colon cohort, patients with an MSI label",
    "https://www.cancerimagingarchive.net/collection/cptac-coad (licence: see there)",
)


@dataclass(frozen=True)
class Found:
    """What is at a place.

    Args:
        state: HERE, MISSING, or OTHER: usable, and not the published set.
        where: as it is to be opened; "" if it is missing.
        counts: {class: tiles}; empty where there are none.
        said: sentences.
        patients: {class: patients}, of cohorts.
    """

    state: str
    where: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)
    said: tuple[str, ...] = ()
    patients: Mapping[str, int] = field(default_factory=dict)


def look_for_patches(spec: str, wanted: PatchData | None, verify: bool = False) -> Found:
    """What there is of a set at `spec`: a folder of class folders, or such a zip, also found as SPEC.zip.

    Args:
        spec: a folder, a zip, a table or a tile store; the latter two are taken as they are, and not counted.
        wanted: the set that it should be, or None for any.
        verify: also compute the md5 of a zip (a minute for 12 GB).
    """
    path = _place(spec)
    if path is None:
        return Found(MISSING, said=(f"{spec}: not there" + (f"; {wanted.advice}" if wanted else ""),))
    counts = _counts(path)
    if not counts:
        said = f"{path}: not counted (neither class folders nor a zip of them)" if path.suffix or path.is_dir() else ""
        return Found(OTHER if wanted else HERE, str(path), {}, (said,) if said else ())
    notes = () if wanted is None else _differences(path, counts, wanted)
    if verify and wanted is not None and path.suffix.lower() == ".zip":
        digest = file_md5(path)
        if digest != wanted.md5:
            notes += (f"{path}: md5 {digest}, published {wanted.md5}: another file, or a damaged one",)
    return Found(OTHER if notes else HERE, str(path), counts, notes)


def look_for_slides(folder: str, tables: Mapping[str, str], wanted: SlideData) -> Found:
    """What there is of a cohort: a folder of slides, and tables {what it is: path} ("" is a missing one, too)."""
    lacking = [f"{wanted.name}: no {what} given" for what, path in tables.items() if not path]
    lacking += [f"{path}: no such {what}" for what, path in tables.items() if path and not expanded(path).is_file()]
    if not folder or not expanded(folder).is_dir():
        get = f"{wanted.about}: {wanted.patients} patients in the paper; {wanted.page}"
        lacking.insert(0, f"{folder or wanted.name}: no folder of slides (nor of features); {get}")
    return Found(MISSING if lacking else HERE, folder if not lacking else "", {}, tuple(lacking))


def _place(spec: str) -> Path | None:
    """The path of `spec`, or of SPEC.zip."""
    path = expanded(spec)
    beside = path.with_name(path.name + ".zip")
    if path.exists():
        return path
    return beside if beside.is_file() else None


def _counts(path: Path) -> dict[str, int]:
    """{class folder: images in it}, {} where there is none; raises UserError for a damaged zip."""
    if path.is_dir():
        names = _walk(path)
    elif path.suffix.lower() == ".zip":
        try:
            with zipfile.ZipFile(path) as archive:
                names = [one for one in archive.namelist() if not one.startswith("__MACOSX")]
        except (OSError, zipfile.BadZipFile) as error:
            raise UserError(f"{path}: cannot be read as a zip ({error}); download it again") from error
    else:
        return {}
    folders = [PurePosixPath(name).parent.name for name in names if is_tile_name(name)]
    return dict(sorted(Counter(folder for folder in folders if folder).items()))


def _walk(folder: Path) -> list[str]:
    names = []
    for where, _, files in os.walk(folder):
        inner = os.path.relpath(where, folder)
        names += [name if inner == "." else f"{inner}/{name}" for name in files]
    return [name.replace(os.sep, "/") for name in names]


def _differences(path: Path, counts: Mapping[str, int], wanted: PatchData) -> tuple[str, ...]:
    if set(counts) != set(wanted.counts):
        return (f"{path}: classes {', '.join(sorted(counts)[:12])}; {wanted.name} has {', '.join(wanted.counts)}",)
    off = [
        f"{name} {counts[name]:,} (published {count:,})"
        for name, count in wanted.counts.items()
        if counts[name] != count
    ]
    return (f"{path}: not the tiles of {wanted.name}: {', '.join(off)}",) if off else ()


def file_md5(path: Path) -> str:
    """MD5 of a file, in hex."""
    digest = hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
