"""All encoder records, by name and alias."""

from __future__ import annotations

import difflib
import re
from pathlib import Path

from histojax.common.errors import UserError
from histojax.zoo import rows_dino, rows_paper, rows_pathology
from histojax.zoo.record import EncoderRecord, WeightFile

ENCODERS: dict[str, EncoderRecord] = {
    record.name: record for record in (*rows_paper.RECORDS, *rows_dino.RECORDS, *rows_pathology.RECORDS)
}

# Table 3 of Roth, Koch et al. 2023: row -> (parameters as printed, record)
PAPER: dict[str, tuple[str, str]] = {
    "ResNet50": ("25.6 M", "resnet50"),
    "ResNet50 truncated": ("8.5 M", "resnet50_trunc"),
    "SAM ViT-B": ("91 M", "sam_vit_b"),
    "SAM ViT-H": ("636 M", "sam_vit_h"),
    "BEiT ViT-B": ("85.7 M", "beit_paper"),
    "ImageBind ViT-H": ("630 M", "imagebind_paper"),
    "DINOv2 ViT-S": ("21 M", "dinov2_vits14_paper"),
    "DINOv2 ViT-g": ("1.1 B", "dinov2_vitg14_paper"),
    "RetCCL": ("23.5 M", "retccl"),
    "CTransPath": ("27.5 M", "ctranspath"),
    "DINOv2 ViT-S finetuned": ("21 M", "dinov2_vits14_nct"),
    "DINOv2 ViT-g finetuned": ("1.1 B", "dinov2_vitg14_nct"),
}


def spelling(name: str) -> str:
    """What is left of a name when case, separators and "hf-hub:", "timm/" or "pathology/" in front do not matter."""
    return re.sub(r"[-_./ ]", "", re.sub(r"^(hf[-_]hub:)?(timm/|pathology/)?", "", name.strip().lower()))


def _files(record: EncoderRecord) -> dict[str, WeightFile]:
    """Every name under which a file of the record is asked for."""
    names = {spelling(name): record.weights[0] for name in (record.name, *record.aliases)}
    for file in record.weights:
        if file.part:
            names[spelling(f"{record.name}_{file.part}")] = file
        if not file.hub:  # many hubs call their file pytorch_model.bin
            names[spelling(file.file)] = names[spelling(file.file.rpartition(".")[0])] = file
    return names


_FILES: dict[str, tuple[EncoderRecord, WeightFile]] = {}
for _record in ENCODERS.values():
    for _name, _file in _files(_record).items():
        _FILES.setdefault(_name, (_record, _file))  # several records run one file in different ways
_RECORDS: dict[str, EncoderRecord] = {
    name: record for name, (record, file) in _FILES.items() if file == record.weights[0]
} | {spelling(name): record for record in ENCODERS.values() for name in (record.name, *record.aliases)}


def find(name: str) -> EncoderRecord:
    """The record of a name or alias in any spelling, or of its file's name; raises UserError with the nearest names."""
    record = _RECORDS.get(spelling(name))
    if record is None:
        raise UserError(f"{name}: no encoder of that name; {_nearest(name)}")
    return record


def is_known(name: str | Path) -> bool:
    """Whether `find` knows a name."""
    return spelling(str(name)) in _RECORDS


def find_file(name: str) -> tuple[EncoderRecord, WeightFile]:
    """(record, file) of a record's name or alias, of one of its parts (NAME_student_dino_head) or of a file's name."""
    known = _FILES.get(spelling(name))
    if known is None:
        raise UserError(f"{name}: neither an existing file nor published weights; {_nearest(name)}")
    return known


def _nearest(name: str) -> str:
    """A phrase with the names that are most like `name`."""
    wanted = spelling(name)
    close = difflib.get_close_matches(wanted, _RECORDS, n=9, cutoff=0.55)
    close += [key for key in _RECORDS if wanted and key.startswith(wanted) and key not in close]
    names = list(dict.fromkeys(_RECORDS[key].name for key in close))[:3]
    guess = f"did you mean {', '.join(names)}? " if names else ""
    return f"{guess}`histojax encoders` lists all"
