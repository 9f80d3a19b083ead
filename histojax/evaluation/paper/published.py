"""What others report of NCT-CRC-HE and of MSI in colorectal cancer, to be read beside the paper's tables.

Their heads, splits or images differ from the paper's, so agreement is looser here, and where the images differ nothing
is compared.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Source:
    """Who reports.

    Args:
        name: short, heads a column.
        where: the document.
        what: how it differs from the paper's protocol.
        tolerance: largest difference from our linear balanced accuracy that counts as agreement; None: other images.
    """

    name: str
    where: str
    what: str
    tolerance: float | None


EVA = Source(
    "eva",
    "eva tools/data/leaderboards/pathology.csv; rows of random and natural-image weights: kaiko Midnight README",
    "CRC-100K to CRC-VAL-HE-7K, balanced accuracy of a linear layer trained by gradient descent",
    0.03,
)
HIBOU = Source("Hibou", "HistAI/hibou README", "the same data, linear probe of its authors", 0.03)
UNI_RAW = Source("UNI, Raw", "UNI README_old", "CRC-100K-Raw: images that are not colour normalised", None)

# encoder of histojax ("" for one that it does not have, or where it is left open which of two is meant), as its source
# calls it, number
NCT_LINEAR: tuple[tuple[Source, str, str, float], ...] = (
    (EVA, "dinov2_vitg14", "DINOv2 ViT-g", 0.943),
    (EVA, "", "ViT-g, random weights", 0.754),
    (EVA, "lunit_vits16", "Lunit ViT-S/16", 0.940),
    (EVA, "kaiko_vits16", "Kaiko ViT-S/16", 0.940),
    (EVA, "kaiko_vitb8", "Kaiko ViT-B/8", 0.959),
    (EVA, "phikon", "Phikon", 0.940),
    (EVA, "phikon_v2", "Phikon-v2", 0.939),
    (EVA, "uni", "UNI", 0.944),
    (EVA, "uni2_h", "UNI2-h", 0.965),
    (EVA, "prov_gigapath", "Prov-GigaPath", 0.951),
    (EVA, "h_optimus_0", "H-optimus-0", 0.955),
    (EVA, "hibou_l", "Hibou-L", 0.932),
    (EVA, "virchow2", "Virchow2", 0.967),
    (EVA, "midnight_12k", "Midnight-12k", 0.966),
    (EVA, "", "Midnight-92k/392", 0.966),
    (HIBOU, "kaiko_vitb8", "Kaiko ViT-B/8", 0.949),
    (HIBOU, "", "Phikon or Phikon-v2", 0.917),
    (HIBOU, "prov_gigapath", "Prov-GigaPath", 0.968),
    (HIBOU, "h_optimus_0", "H-optimus-0", 0.970),
    (HIBOU, "hibou_l", "Hibou-L", 0.966),
    (HIBOU, "virchow", "Virchow", 0.968),
    (UNI_RAW, "resnet50", "ResNet50", 0.797),
    (UNI_RAW, "ctranspath", "CTransPath", 0.836),
    (UNI_RAW, "", "Phikon or Phikon-v2", 0.845),
    (UNI_RAW, "uni", "UNI", 0.925),
    (UNI_RAW, "prov_gigapath", "Prov-GigaPath", 0.929),
    (UNI_RAW, "", "Virchow or Virchow2", 0.919),
    (UNI_RAW, "", "CONCH", 0.941),
    (UNI_RAW, "", "REMEDIS", 0.908),
)

# what, metric, number, of whom: other cohorts than the paper's, so none of it is compared
MSI: tuple[tuple[str, str, str, str], ...] = (
    ("clinical transformer, CTransPath features, 13,000 patients", "sensitivity / NPV", ".99 / >.99", "Wagner 2023"),
    ("Deepath-MSI, 5,070 slides", "AUROC, test", ".98", "npj Precis. Oncol. 2025"),
    ("earlier work, as quoted there", "AUROC", ".85 to .96", "npj Precis. Oncol. 2025"),
    ("CTransPath, MMR, 423 slides", "AUROC, test", ".688", "MIUA 2024"),
    ("UNI, MMR, 423 slides", "AUROC, test", ".714", "MIUA 2024"),
    ("ResNet50, MMR, 423 slides", "AUROC, test", ".671", "MIUA 2024"),
    ("UNI, Virchow2, CONCH on PAIP", "balanced accuracy, external", ".764 to .778", "study not noted"),
)
