"""Records of DINOv2 and DINOv3 on natural images, of the paper's finetuned DINOv2, and of DinoBloom.

DINOv2 rows do to a tile what its authors' evaluation does (resize 256 bicubic, crop 224); the two `*_paper` rows do
what the pipeline of Roth, Koch et al. 2023 does (resize 252, 18 x 18 patches). Position grids are resampled as
facebookresearch/dinov2 does at run time: with an offset of 0.1, or antialiased in models with registers.
"""

from __future__ import annotations

from dataclasses import replace

from histojax.models import dinov3
from histojax.models.vit import ViTConfig, vit_config
from histojax.zoo.record import EncoderRecord, Preprocess, WeightFile

_SIZES = {"s": "vit_small", "b": "vit_base", "l": "vit_large", "g": "vit_giant2"}
_WORDS = {"s": "small", "b": "base", "l": "large", "g": "giant"}
_PAPER = Preprocess(252)

# DINOv2; (bytes, SHA-256) of the backbones of Oquab et al. 2023 and Darcet et al. 2024

_DINOV2 = {
    "s": (88283115, "b938bf1bc15cd2ec0feacfe3a1bb553fe8ea9ca46a7e1d8d00217f29aef60cd9"),
    "b": (346378731, "0b8b82f85de91b424aded121c7e1dcc2b7bc6d0adeea651bf73a13307fad8c73"),
    "l": (1217586395, "d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428"),
    "g": (4546108579, "baf8467e50af277596bbbafa06887c177ee899ab46033649c383577d7e9309d3"),
}
_DINOV2_REG = {
    "s": (88291785, "f433177089a681826f849f194ece3bb48f4d63fb38d32fc837e3dc7a4e5641fb"),
    "b": (346393545, "73182a088cf94833c94b1666d1c99e02fe87e2007bff57b564fb6206e25dba71"),
    "l": (1217607321, "36e4deffbaef061a2576705b0c36f93621e2ae20bf6274694821b0b492551b51"),
    "g": (4546140349, "746ecb8c6301c645c5c855be91687d274587d6e48fdaec4a729753160b34a283"),
}


def _config(size: str, registers: int = 0, image: int = 518) -> ViTConfig:
    mode = "antialias" if registers else "offset"
    return vit_config(_SIZES[size], registers=registers, image=image, interpolation=mode)


def _dinov2(size: str, registers: int) -> EncoderRecord:
    bytes_, sha256 = (_DINOV2_REG if registers else _DINOV2)[size]
    short, tail = ("_reg", "_reg4") if registers else ("", "")
    file = f"dinov2_vit{size}14{tail}_pretrain.pth"
    url = f"https://dl.fbaipublicfiles.com/dinov2/dinov2_vit{size}14/{file}"
    word, timm = _WORDS[size], f"vit_{_WORDS[size]}_patch14{tail}_dinov2"
    hub = f"facebook/dinov2{'-with-registers' if registers else ''}-{word}"
    spellings = (f"dinov2_vit{size}14{tail}",) if registers else ()
    return EncoderRecord(
        f"dinov2_vit{size}14{short}",
        _config(size, registers),
        (WeightFile(file, url, sha256=sha256, size=bytes_, layout="meta"),),
        Preprocess(256, 224, "bicubic"),
        "cls",
        _config(size).dim,
        None,
        "Apache-2.0",
        commercial=True,
        derivatives=True,
        aliases=(*spellings, timm, f"{timm}.lvd142m", hub),
    )


_PLAIN = {size: _dinov2(size, 0) for size in _DINOV2}
_REGISTERS = {size: _dinov2(size, 4) for size in _DINOV2_REG}
_AS_RUN = tuple(
    replace(
        _PLAIN[size],
        name=f"dinov2_vit{size}14_paper",
        preprocess=_PAPER,
        aliases=(),
        paper_row=f"DINOv2 ViT-{size.upper() if size == 's' else size}",
        notes="The weights of dinov2_vit{s,g}14 in the paper's slide pipeline: 18 x 18 patches.",
    )
    for size in "sg"
)

# Roth, Koch et al. 2023: size, tiles -> stem of the files on Zenodo, input

_FINETUNED = {
    ("s", "nct"): ("dinov2_vits_NCT_10k_training_1999", Preprocess(224)),
    ("g", "nct"): ("dinov2_vitg_NCT_training_9999", Preprocess(224)),
    ("s", "tcga"): ("dinov2_vits_TCGA_training_29999", _PAPER),
    ("g", "tcga"): ("dinov2_vitg_TCGA_training_59999", _PAPER),
}
_PARTS = ("teacher", "student", "teacher_dino_head", "student_dino_head")


def _finetuned_file(stem: str, part: str) -> WeightFile:
    file = f"{stem}_{part}_checkpoint.pth"
    return WeightFile(
        file,
        f"https://zenodo.org/records/10406135/files/{file}?download=1",
        layout="meta" if not part.endswith("head") else "",
        which=part.partition("_")[0],
        part=part,
        page="https://zenodo.org/records/10406135",
    )


def _finetuned(size: str, tiles: str) -> EncoderRecord:
    stem, preprocess = _FINETUNED[size, tiles]
    data = {"nct": "NCT-CRC-HE-100K tiles", "tcga": "TCGA slides"}[tiles]
    return EncoderRecord(
        f"dinov2_vit{size}14_{tiles}",
        _config(size, image=224),
        tuple(_finetuned_file(stem, part) for part in _PARTS),
        preprocess,
        "cls",
        _config(size).dim,
        0.5 if tiles == "nct" else None,
        "see https://zenodo.org/records/10406135",
        aliases=(f"dinov2_vit{size}_{tiles}", f"roth_koch_vit{size}14_{tiles}"),
        paper_row=f"DINOv2 ViT-{size.upper() if size == 's' else size} finetuned",
        notes=f"DINOv2 finetuned on {data} by Roth, Koch et al.; the teacher is what they evaluate.",
    )


# DinoBloom (Koch et al. 2024): single white blood cells; the SHA-256 of S is the one that STAMP asserts


def _dinobloom(size: str) -> EncoderRecord:
    file = f"DinoBloom-{size.upper()}.pth"
    sha256 = "c2f7990b003e89bcece80e379fb8fe0ba2ec392ce19b286e8a294abd99568e44" if size == "s" else None
    return EncoderRecord(
        f"dinobloom_{size}",
        _config(size, image=224),
        (
            WeightFile(
                file,
                f"https://zenodo.org/records/10908163/files/{file}?download=1",
                sha256=sha256,
                layout="meta",
                which="teacher",
                page="https://zenodo.org/records/10908163",
            ),
        ),
        Preprocess(224, 224, "bicubic"),
        "cls",
        _config(size).dim,
        None,
        "Apache-2.0",
        commercial=True,
        derivatives=True,
        aliases=(f"dinobloom_vit{size}14", f"dino_bloom_{size}"),
        notes="Haematology: images of single cells, not tissue. The resize filter is recalled, check.",
    )


# DINOv3 on natural images

_DINOV3 = {
    "vits16": (dinov3.DINOV3_S, "vit_small_patch16_dinov3"),
    "vits16plus": (dinov3.DINOV3_S_PLUS, "vit_small_plus_patch16_dinov3"),
    "vitb16": (dinov3.DINOV3_B, "vit_base_patch16_dinov3"),
    "vitl16": (dinov3.DINOV3_L, "vit_large_patch16_dinov3"),
    "vith16plus": (dinov3.DINOV3_H_PLUS, "vit_huge_plus_patch16_dinov3"),
    "vit7b16": (dinov3.DINOV3_7B, "vit_7b_patch16_dinov3"),
}


def _dinov3(name: str) -> EncoderRecord:
    config, timm = _DINOV3[name]
    hub = f"facebook/dinov3-{name}-pretrain-lvd1689m"
    file = "model.safetensors.index.json" if name == "vit7b16" else "model.safetensors"
    return EncoderRecord(
        f"dinov3_{name}",
        config,
        (WeightFile(file, hub=hub, layout="hf"),),
        Preprocess(224),
        "cls",
        config.dim,
        None,
        "DINOv3 License (https://ai.meta.com/resources/models-and-libraries/dinov3-license)",
        gated=True,
        aliases=(hub, timm, f"{timm}.lvd1689m"),
        notes="Hugging Face's file or Meta's. The resize filter and the names of the hub's files: recalled, check.",
    )


RECORDS = (
    *_PLAIN.values(),
    *_REGISTERS.values(),
    *_AS_RUN,
    *(_finetuned(*key) for key in _FINETUNED),
    *(_dinobloom(size) for size in "sblg"),
    *(_dinov3(name) for name in _DINOV3),
)
