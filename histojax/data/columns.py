"""Which columns of a table hold the tiles, classes, patients and slides: by the titles that labs and tools give them.

Titles are compared without case, spaces and signs, so PatientID, patient_id and "Patient ID" are one. Known are those
of TCGA and GDC tables, CLAM, STAMP, HistoBistro, pandas and what people write by hand.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from histojax.common.errors import UserError
from histojax.data.formats import OTHER_OF, is_tile_name, suffix_of

FILE = (
    *("file", "path", "filename", "filepath", "files", "paths", "fname", "fullpath"),
    *("image", "imagepath", "imagefile", "imagefilename", "imagename", "img", "imgpath", "imgname", "imgfile"),
    *("tile", "tilepath", "tilefile", "tilename", "patch", "patchpath", "patchfile", "patchname", "png", "jpg"),
    *("tileid", "patchid", "imageid", "id"),
)
LABEL = (
    *("label", "class", "labels", "target", "category", "classname", "classlabel", "labelname", "tissuetype"),
    *("tissueclass", "diagnosis", "groundtruth", "gt", "annotation", "subtype", "classid", "labelid"),
    *("klasse", "classe", "clase", "diagnose"),
)
PATIENT = (
    *("patient", "patientid", "patientbarcode", "bcrpatientbarcode", "case", "caseid", "casesubmitterid"),
    *("submitterid", "subject", "subjectid", "participant", "participantid", "donor", "donorid", "individual"),
    *("individualid", "patientname", "patientno", "patientnr", "patientnumber", "patid", "pid", "tcgaid", "mrn"),
    *("patients", "patientids", "patientcode", "casename", "caseno", "personid"),
    *("patientenid", "paciente", "fallnummer"),
)
SLIDE = (
    *("slide", "slideid", "slidename", "slidefile", "slidepath", "slidebarcode", "wsi", "wsiid", "wsiname", "wsipath"),
    *("wsifile", "svs", "slides", "slideno", "slidenumber", "slidesubmitterid", "wholeslideimage", "sourceslide"),
)
SAMPLE = (
    *("sample", "sampleid", "samplebarcode", "samplesubmitterid", "specimen", "specimenid", "block", "blockid"),
    *("biopsy", "biopsyid", "core", "coreid", "aliquotsubmitterid", "portionsubmitterid"),
)
MPP = (
    *("mpp", "mppx", "micronsperpixel", "micronperpixel", "umperpixel", "umperpx", "umpx", "micrometersperpixel"),
    *("micrometresperpixel", "resolutionum", "resolutionmpp", "pixelsizeum", "pixelsize", "pixelsizemicrons"),
    *("spacing", "spacingum", "spacingatlevel0", "slidempp", "wsimpp", "basempp", "level0mpp", "mpplevel0"),
)
CENTRE = (
    *("centre", "center", "site", "scanner", "hospital", "institution", "institute", "laboratory", "clinic", "tss"),
    *("tissuesourcesite", "scannermodel", "scannerid", "centreid", "centerid", "siteid", "lab", "source"),
)
GROUP = ("group", "groupid", "groups")
SPLIT = (
    "split",
    "fold",
    "set",
    "partition",
    "subset",
    "datasplit",
    "part",
    "phase",
    "cohort",
    "trainvaltest",
    "istest",
)
YES_OR_NO = {"0", "1", "0.0", "1.0", "yes", "no", "true", "false", "case", "control"}  # no patient is called that
NOTHING = {"", "nan", "na", "n/a", "none", "null", "<na>", "#n/a", "nat", "-", "?"}  # values that say: unknown
EXPECTED = "expected a header row (file,label,patient) and one row a tile"


@dataclass(frozen=True)
class Columns:
    """Positions in a row; None where the table has no such column."""

    file: int
    label: int | None
    patient: int | None
    slide: int | None
    sample: int | None
    group: int | None
    split: int | None

    def read(self) -> dict[str, int]:
        """{role: position} of the columns that are used."""
        roles = ("file", "label", "patient", "slide", "sample", "group")
        return {role: i for role in roles if (i := getattr(self, role)) is not None}


def find_columns(path: Path, titles: Sequence[str], rows: Sequence[Sequence[str]]) -> Columns:
    """The columns of a table; raises UserError if none of them holds tiles, or two have the same known title."""
    keys = [plain(title) for title in titles]
    for known in (FILE, LABEL, PATIENT, SLIDE, SAMPLE, GROUP):
        for key in known:
            if keys.count(key) > 1:
                raise UserError(
                    f"{path}: {keys.count(key)} columns are titled {titles[keys.index(key)]}: rename all but one"
                )
    file = _file_column(path, titles, keys, rows)
    others = [key if i != file else "" for i, key in enumerate(keys)]

    def position(known: Sequence[str]) -> int | None:
        return next((others.index(name) for name in known if name in others), None)

    slide = position(SLIDE)
    if slide is None:  # tables of slides call them files
        slide = next((i for i, key in enumerate(others) if key in FILE and _holds_slides(i, rows)), None)
    patient = position(tuple(key for key in PATIENT if not _is_yes_or_no(others, key, rows)))
    return Columns(file, position(LABEL), patient, slide, position(SAMPLE), position(GROUP), position(SPLIT))


def _is_yes_or_no(keys: Sequence[str], key: str, rows: Sequence[Sequence[str]]) -> bool:
    """Whether a column, say "case", holds answers and not names."""
    return key in keys and {row[keys.index(key)].lower() for row in rows} - NOTHING <= YES_OR_NO


def plain(title: str) -> str:
    """A title without case and signs, and without what GDC writes in front: cases.submitter_id is submitterid."""
    return re.sub(r"[^a-z0-9]", "", title.lower().rpartition(".")[2] or title.lower())


def is_nothing(value: str) -> bool:
    """Whether a cell says that its value is not known."""
    return value.lower() in NOTHING


def by_value(name: str) -> tuple[int, float, str]:
    """The sort key of class names: numbers by their value, then text by its letters."""
    return (0, float(name), name) if re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", name) else (1, 0.0, name)


def whole_numbers(cells: Sequence[str]) -> list[str]:
    """The cells of a column of names; 1.0 is 1, as pandas writes whole numbers where one is missing."""
    if all(re.fullmatch(r"-?\d+(\.0+)?", cell) for cell in cells if cell):
        return [cell.partition(".")[0] for cell in cells]
    return list(cells)


def _file_column(path: Path, titles: Sequence[str], keys: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    """The column of tiles: of those with a known title the first that holds tiles, else the only one that does."""
    named = [keys.index(name) for name in FILE if name in keys]
    taken = {*LABEL, *PATIENT, *SLIDE, *SAMPLE, *GROUP, *SPLIT}
    for i in named:
        if _share(i, rows, is_tile_name) > 0:
            return i
    other = [i for i, key in enumerate(keys) if i not in named and _share(i, rows, is_tile_name) > 0.5]
    free = [i for i in other if keys[i] not in taken]
    if len(free or other) == 1:
        return (free or other)[0]
    if len(other) > 1:
        raise UserError(f"{path}: which of the columns {_some(titles, other)} holds the tiles? Title it file")
    for i in [*named, *range(len(keys))]:
        if _holds_slides(i, rows):
            raise UserError(
                f"{path}: the column {titles[i]} holds no tiles but {_what(i, rows)} (e.g. {rows[0][i]}); {EXPECTED}"
            )
    if named and keys[named[0]] not in ("id", "imageid", "tileid", "patchid"):
        return named[0]
    raise UserError(
        f"{path}: none of the columns {', '.join(title for title in titles if title)} is titled file or holds names of "
        f"images; {EXPECTED}"
    )


def _share(column: int, rows: Sequence[Sequence[str]], test) -> float:
    """Share of the first rows whose cell passes."""
    cells = [row[column] for row in rows[:200] if row[column]]
    return sum(bool(test(cell)) for cell in cells) / len(cells) if cells else 0.0


def _holds_slides(column: int, rows: Sequence[Sequence[str]]) -> bool:
    return _share(column, rows, lambda cell: suffix_of(cell) in OTHER_OF) > 0.5


def _what(column: int, rows: Sequence[Sequence[str]]) -> str:
    kinds = [OTHER_OF[suffix] for row in rows[:200] if (suffix := suffix_of(row[column])) in OTHER_OF]
    return max(set(kinds), key=kinds.count)


def _some(titles: Sequence[str], positions: Sequence[int]) -> str:
    return ", ".join(titles[i] or f"number {i + 1}" for i in positions)
