"""Names that tell patients and slides apart: barcodes of the large collections, and what hospitals and labs write."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

BARCODES = (  # the part of a name that is the patient
    re.compile(r"(?<![A-Za-z0-9])TCGA-[A-Z0-9]{2}-[A-Z0-9]{4}(?![A-Za-z0-9])", re.IGNORECASE),
    re.compile(r"(?<![A-Za-z0-9])C3[LN]-\d{5}(?!\d)", re.IGNORECASE),  # CPTAC
    re.compile(r"(?<![A-Za-z0-9])GTEX-[A-Z0-9]{4,5}(?![A-Za-z0-9])", re.IGNORECASE),
)
_PERSON = r"patients?|pat|p|cases?|subjects?|subj|donors?|participants?|individuals?|person|pid"
_OTHER = r"slides?|wsis?|samples?|specimens?|spec|blocks?|biops(y|ies)|cores?|images?|s|id"
IDS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"({_PERSON}|{_OTHER})([-_ .]?(id|no|nr))?[-_ .#]?\d+[a-z]?([-_ .].*)?",
        r"[a-z]{0,4}[-_ ]?\d{2,4}[-_./ ]\d{3,}.*",  # accession numbers: S19-12345, B2019.00123
        r"\d{4,}([-_ ].*)?",
        r"[0-9a-f]{8}-[0-9a-f]{4}-.*",  # a UUID
        r"\d+(\.\d+){3,}",  # of DICOM
        r"(?=.*\d)[0-9a-f]{16,}",
        r".*\.(svs|ndpi|mrxs|scn|bif|tiff?|czi|dcm)",
        r"(normal|tumou?r|test|train|he|ihc|wsi)[-_ ]?\d{3,}([-_ ].*)?",  # CAMELYON16: tumor_001
        r"(patient|center|node)[-_ ]?\d+[-_ ]node[-_ ]?\d+",  # CAMELYON17
        r"SOB_[BM]_[A-Z]+[-_]\d+[-_].*",  # BreakHis
    )
)
PERSON = re.compile(rf"({_PERSON})([-_ .]?(id|no|nr))?[-_ .#]?\d+[a-z]?", re.IGNORECASE)


def patient_of(name: str) -> str:
    """The patient that a barcode in a name, or anywhere in a path, tells; "" without one."""
    for pattern in BARCODES:
        if found := pattern.search(name):
            return found[0].upper()
    return ""


def patients_of(names: Sequence[str]) -> list[str] | None:
    """One patient a name where all names that are not empty tell one, else None."""
    found = [patient_of(name) for name in names]
    return found if any(found) and all(p or not n for p, n in zip(found, names)) else None


def looks_like_ids(names: Iterable[str]) -> bool:
    """Whether names are those of patients or slides rather than classes: at least four of five do."""
    known = set(names)
    like = sum(bool(patient_of(name)) or any(pattern.fullmatch(name) for pattern in IDS) for name in known)
    numbers = sum(name.isdigit() for name in known)
    return bool(known) and (like >= 0.8 * len(known) or (numbers == len(known) > 20))


def group_kind(ids: Iterable[str]) -> str:
    """ "patient" where the names say so, else "slide": the smaller claim."""
    known = set(ids) - {""}
    return "patient" if known and all(PERSON.fullmatch(name) for name in known) else "slide"
