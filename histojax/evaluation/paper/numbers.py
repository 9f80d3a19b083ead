"""What Roth, Koch et al. 2023 (arXiv 2401.04720) report, as rows, and how near a number of ours must come to agree.

Two decimals are printed, so a printed number is known to 0.005. Cells whose number we do not have are None: they stay
a named hole. Table 3's parameters are in zoo.table.PAPER.
"""

from __future__ import annotations

from dataclasses import dataclass

from histojax.zoo.table import PAPER

PRINTED = 0.005  # half a unit of the last digit that the paper prints
SOURCE = "Roth, Koch et al. 2023 (arXiv 2401.04720)"
ROWS = tuple(PAPER)  # of all three tables, as Table 3 names them
FINETUNED = tuple(name for name in ROWS if name.endswith("finetuned"))
TCGA, CPTAC = "test", "cptac"  # parts of slide results: the folds of TCGA, the external cohort
FOLDS = 5


@dataclass(frozen=True)
class Column:
    """A column of scores: where ours come from, and how far they may lie from the paper's.

    Args:
        title: as the table prints it.
        evaluator, metric, part: of evaluation.results.Score.
        tolerance: largest difference that counts as agreement, for published weights.
        trained: the same for weights of a training of one's own.
        why: where the tolerance is from.
    """

    title: str
    evaluator: str
    metric: str
    part: str
    tolerance: float
    trained: float
    why: str


_PATCH = (
    "0.005 are the paper's rounding; the rest is what it leaves open: the size of the input (224 or 252 px), and how "
    "far from the optimum scikit-learn's solver stopped. A training of the user has other random numbers"
)
_SLIDE = "five folds of another seed: standard deviations of 0.05 to 0.12 on TCGA do not resolve differences under 0.05"

TABLE_2 = (
    Column("20-NN ACC", "knn", "balanced_accuracy", "test", 0.01, 0.02, _PATCH),
    Column("20-NN F1", "knn", "weighted_f1", "test", 0.01, 0.02, _PATCH),
    Column("Linear ACC", "logistic", "balanced_accuracy", "test", 0.015, 0.02, _PATCH),
    Column("Linear F1", "logistic", "weighted_f1", "test", 0.015, 0.02, _PATCH),
)
TABLE_1 = (
    Column("TCGA AUROC", "transformer", "auroc", TCGA, 0.05, 0.05, _SLIDE),
    Column("CPTAC AUROC", "transformer", "auroc", CPTAC, 0.05, 0.05, _SLIDE),
)

# Table 2: NCT-CRC-HE-100K -> CRC-VAL-HE-7K, in the order of the columns. ACC is balanced accuracy, F1 weighted.
PATCH: dict[str, tuple[float | None, ...]] = {
    "ResNet50": (0.78, 0.81, 0.86, 0.88),
    "ResNet50 truncated": (0.87, 0.91, 0.88, 0.89),
    "SAM ViT-B": (0.75, 0.76, 0.83, 0.81),
    "SAM ViT-H": (0.69, 0.71, 0.79, 0.84),
    "BEiT ViT-B": (0.63, 0.66, 0.59, 0.65),
    "ImageBind ViT-H": (0.87, 0.89, 0.90, 0.91),
    "DINOv2 ViT-S": (0.88, 0.90, 0.90, 0.92),
    "DINOv2 ViT-g": (0.91, 0.93, 0.92, 0.94),
    "RetCCL": (0.91, 0.93, 0.92, 0.94),
    "CTransPath": (0.95, 0.96, 0.94, 0.95),
    "DINOv2 ViT-S finetuned": (0.94, 0.95, 0.93, 0.94),
    "DINOv2 ViT-g finetuned": (0.93, 0.95, 0.94, 0.96),
}

# Table 1: MSI-H, AUROC, mean of five folds on TCGA-CRC and of their models on CPTAC. Our sources give the numbers
# without that of the table, which is the one left; standard deviations are known as a range only (_SLIDE).
SLIDE: dict[str, tuple[float | None, ...]] = {
    "ResNet50": (0.67, 0.65),
    "ResNet50 truncated": (0.68, 0.68),
    "SAM ViT-B": (0.56, 0.62),
    "SAM ViT-H": (0.55, 0.64),
    "BEiT ViT-B": (0.52, 0.51),
    "ImageBind ViT-H": (0.64, 0.71),
    "DINOv2 ViT-S": (0.73, 0.72),
    "DINOv2 ViT-g": (0.66, 0.60),
    "RetCCL": (0.84, 0.77),
    "CTransPath": (0.85, 0.82),
    "DINOv2 ViT-S finetuned": (0.89, 0.85),
    "DINOv2 ViT-g finetuned": (0.84, 0.79),
}

# Table 3: widths of features, where our sources tell what is printed
PRINTED_WIDTH: dict[str, int] = {"ResNet50": 1024}
WIDTH_NOTE = {"ResNet50": "printed 1024, almost certainly a slip: the pooled feature of ResNet-50 has 2048"}

# The README of the released weights: balanced accuracy, 20-NN and linear, with a digit more
RELEASED: dict[str, tuple[float, float]] = {
    "DINOv2 ViT-S finetuned": (0.938, 0.927),
    "DINOv2 ViT-g finetuned": (0.934, 0.937),
}

MSI_ENCODERS = {  # Table 1 was computed with the weights that were finetuned on TCGA slides
    "DINOv2 ViT-S finetuned": "dinov2_vits14_tcga",
    "DINOv2 ViT-g finetuned": "dinov2_vitg14_tcga",
}


@dataclass(frozen=True)
class Curve:
    """What is known of a curve of Figure 2: the row before training, and the step whose weights were released."""

    row: str
    before: str
    step: int


# Figure 2, score over training iterations. The paper shows the curves as a picture; the points between are not known.
FIGURE_2 = (
    Curve("DINOv2 ViT-S finetuned", "DINOv2 ViT-S", 2_000),
    Curve("DINOv2 ViT-g finetuned", "DINOv2 ViT-g", 10_000),
)


def encoder_of(row: str, protocol: str) -> str:
    """The published encoder behind a row of Table 2 ("patch") or Table 1 ("slide")."""
    if protocol == "slide" and row in MSI_ENCODERS:
        return MSI_ENCODERS[row]
    return PAPER[row][1]


def reported(protocol: str) -> tuple[str, tuple[Column, ...], dict[str, tuple[float | None, ...]]]:
    """(name of the table, columns, {row: numbers}) of the protocol "patch" or "slide"."""
    return ("Table 2", TABLE_2, PATCH) if protocol == "patch" else ("Table 1", TABLE_1, SLIDE)
