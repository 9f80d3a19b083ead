"""Records of the extractors that Roth, Koch et al. 2023 (arXiv 2401.04720) compare, DINOv2 excepted; and of their kin.

`resnet50`, `resnet50_trunc`, `sam_vit_*`, `retccl`, `ctranspath`, `beit_paper` and `imagebind_paper` do to a tile what
the paper's pipeline does: resize the shorter side, bilinear, no crop. Where the authors of a model do otherwise, the
model has a row of its own.

SHA-256: of the torchvision files the first eight digits are in the file's name; the others are those that public
loaders of the same file assert (STAMP for CTransPath, CHIEF and RetCCL; micro-sam for SAM).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from histojax.models.beit import BEIT_BASE, BEIT_BASE_PRETRAINED, DATA2VEC_BASE, DATA2VEC_BASE_FT1K
from histojax.models.imagebind import IMAGEBIND_HUGE
from histojax.models.resnet import RESNET50, RESNET50_TRUNCATED, RETCCL
from histojax.models.sam import SAM_B, SAM_H, SAM_L
from histojax.models.swin import CTRANSPATH
from histojax.zoo.record import CLIP_MEAN, CLIP_STD, HALF, EncoderRecord, Preprocess, WeightFile

RESIZE_224 = Preprocess(224)
_CLIP: dict[str, Any] = {"mean": CLIP_MEAN, "std": CLIP_STD}

# torchvision

_V1 = WeightFile(
    "resnet50-0676ba61.pth",
    "https://download.pytorch.org/models/resnet50-0676ba61.pth",
    sha256="0676ba61b6795bbe1773cffd859882e5e297624d384b6993f7c9e683e722fb8a",
    size=102_530_333,
    layout="torchvision",
)
_V2 = WeightFile(
    "resnet50-11ad3fa6.pth",
    "https://download.pytorch.org/models/resnet50-11ad3fa6.pth",
    sha256="11ad3fa62ca79e40addfd354a8ec4b7c75143b3038b8d2a807fbc68deab379ca",
    size=102_540_417,
    layout="torchvision",
)
_RESNET = EncoderRecord(
    "resnet50",
    RESNET50,
    (_V2,),
    RESIZE_224,
    "last_stage",
    2048,
    None,
    "BSD-3-Clause (trained on ImageNet, which has terms of its own)",
    derivatives=True,
    aliases=("resnet50_v2", "resnet50.tv2_in1k", "torchvision/resnet50", "resnet50_imagenet1k_v2"),
    paper_row="ResNet50",
    notes="The paper prints 1024 features for it; the network's pooled feature has 2048. torchvision's own "
    "evaluation of these weights resizes to 232 and crops 224.",
)
_RESNETS = (
    _RESNET,
    replace(
        _RESNET,
        name="resnet50_v1",
        weights=(_V1,),
        preprocess=Preprocess(224, 224),
        aliases=("resnet50.tv_in1k", "resnet50_imagenet1k_v1"),
        paper_row="",
        notes="The older ImageNet weights.",
    ),
    replace(
        _RESNET,
        name="resnet50_trunc",
        network=RESNET50_TRUNCATED,
        features=1024,
        aliases=("resnet50_truncated", "resnet50_trunc_v2", "resnet50_layer3"),
        paper_row="ResNet50 truncated",
        notes="Ends after layer3. The paper takes the V2 weights, unlike CLAM and TRIDENT.",
    ),
    replace(
        _RESNET,
        name="resnet50_trunc_v1",
        network=RESNET50_TRUNCATED,
        weights=(_V1,),
        preprocess=Preprocess(224, 224),
        features=1024,
        aliases=("trident_resnet50", "clam_resnet50", "resnet50_truncated_v1"),
        paper_row="",
        notes='What CLAM and TRIDENT call "resnet50": the V1 weights, up to layer3.',
    ),
)

# segment-anything

_SAM_PREPROCESS = Preprocess(1024, mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375), scale=1.0)


def _sam(
    size: str, word: str, network: Any, file: str, sha256: str, bytes_: int | None, row: str = ""
) -> EncoderRecord:
    url = f"https://dl.fbaipublicfiles.com/segment_anything/{file}"
    return EncoderRecord(
        f"sam_vit_{size}",
        network,
        (WeightFile(file, url, sha256=sha256, size=bytes_, layout="meta"),),
        _SAM_PREPROCESS,
        "neck_mean",
        256,
        None,
        "Apache-2.0",
        commercial=True,
        derivatives=True,
        aliases=(f"facebook/sam-vit-{word}", f"samvit_{word}_patch16", f"samvit_{word}_patch16.sa1b"),
        paper_row=row,
        notes="Image encoder only. Tiles are enlarged to 1024 px: by far the slowest extractor.",
    )


_SAMS = (
    _sam(
        "b", "base", SAM_B, "sam_vit_b_01ec64.pth",
        "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912", None, "SAM ViT-B",
    ),
    _sam(
        "l", "large", SAM_L, "sam_vit_l_0b3195.pth",
        "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622", None,
    ),
    _sam(
        "h", "huge", SAM_H, "sam_vit_h_4b8939.pth",
        "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e", 2_564_550_879, "SAM ViT-H",
    ),
)  # fmt: skip

# data2vec-vision and BEiT

_BEIT_PREPROCESS = Preprocess(224, mean=HALF, std=HALF)
_DATA2VEC = EncoderRecord(
    "data2vec_vision_base",
    DATA2VEC_BASE,
    (WeightFile("pytorch_model.bin", hub="facebook/data2vec-vision-base", layout="hf"),),
    _BEIT_PREPROCESS,
    "prenorm_mean",
    768,
    None,
    "Apache-2.0",
    commercial=True,
    derivatives=True,
    aliases=("facebook/data2vec-vision-base", "data2vec_vision"),
    notes='The paper\'s "BEiT" with the right preprocessing, and its pooling: hidden state 12, before the final norm.',
)
_BEIT = EncoderRecord(
    "beit_base_pt22k",
    BEIT_BASE_PRETRAINED,
    (
        WeightFile(
            "beit_base_patch16_224_pt22k.pth",
            "https://github.com/addf400/files/releases/download/v1.0/beit_base_patch16_224_pt22k.pth",
            layout="unilm",
        ),
    ),
    _BEIT_PREPROCESS,
    "mean",
    768,
    None,
    "MIT",
    commercial=True,
    derivatives=True,
    aliases=("beit_base_patch16_224_pt22k", "microsoft/beit-base-patch16-224-pt22k"),
    notes="Self-supervised only; its authors finetune it and name no frozen feature: the mean of the normed patches.",
)


def _beit_finetuned(name: str, aliases: tuple[str, ...]) -> EncoderRecord:
    file = f"beit_base_patch16_224_{name}.pth"
    url = f"https://github.com/addf400/files/releases/download/v1.0/{file}"
    return replace(
        _BEIT,
        name=f"beit_base_{name}",
        network=BEIT_BASE,
        weights=(WeightFile(file, url, layout="unilm"),),
        pooling="norm_of_mean",
        aliases=(f"beit_base_patch16_224_{name}", *aliases),
        notes="Finetuned on ImageNet labels after pretraining. Its feature is the one in front of its classifier.",
    )


_BEITS = (
    replace(
        _DATA2VEC,
        name="beit_paper",
        preprocess=Preprocess(224, mean=HALF, std=HALF, scale=1 / 255**2),
        aliases=("beit_vit_b_paper",),
        paper_row="BEiT ViT-B",
        notes="The paper's pipeline as run: facebook/data2vec-vision-base, very likely fed with images divided by 255 "
        "twice, almost black. Use data2vec_vision_base or beit_base_* for a fair comparison.",
    ),
    _DATA2VEC,
    replace(
        _DATA2VEC,
        name="data2vec_vision_base_ft1k",
        network=DATA2VEC_BASE_FT1K,
        weights=(WeightFile("pytorch_model.bin", hub="facebook/data2vec-vision-base-ft1k", layout="hf"),),
        pooling="norm_of_mean",
        aliases=("facebook/data2vec-vision-base-ft1k",),
        notes="Finetuned on ImageNet-1k labels. Its feature is the one in front of its classifier.",
    ),
    _BEIT,
    _beit_finetuned(
        "pt22k_ft22k",
        ("beit_base", "beit_base_patch16_224.in22k_ft_in22k", "microsoft/beit-base-patch16-224-pt22k-ft22k"),
    ),
    _beit_finetuned(
        "pt22k_ft22kto1k",
        (
            "beit_base_patch16_224.in22k_ft_in22k_in1k",
            "beit_base_patch16_224",
            "microsoft/beit-base-patch16-224",
        ),
    ),
)

# ImageBind

_IMAGEBIND = EncoderRecord(
    "imagebind_huge",
    IMAGEBIND_HUGE,
    (
        WeightFile(
            "imagebind_huge.pth",
            "https://dl.fbaipublicfiles.com/imagebind/imagebind_huge.pth",
            sha256="d6f6c22bedcc90708448d5d2fbb7b2db9c73f505dc89bd0b2e09b23af1b62157",
            size=4_803_584_173,
            layout="meta",
        ),
    ),
    Preprocess(224, 224, "bicubic", **_CLIP),
    "unit",
    1024,
    None,
    "CC-BY-NC-SA-4.0",
    commercial=False,
    derivatives=True,
    aliases=("imagebind", "facebook/imagebind", "facebook/imagebind-huge", "imagebind_vision"),
    notes="The vision branch. Its features have unit norm; no other extractor's have.",
)
_IMAGEBINDS = (
    _IMAGEBIND,
    replace(
        _IMAGEBIND,
        name="imagebind_paper",
        preprocess=Preprocess(224, **_CLIP),
        aliases=(),
        paper_row="ImageBind ViT-H",
        notes="The paper's pipeline as run: bilinear and without a crop; unit norm.",
    ),
)

# trained on histology before the paper

_RETCCL = EncoderRecord(
    "retccl",
    RETCCL,
    (
        WeightFile(
            "best_ckpt.pth",
            sha256="931956f31d3f1a3f6047f3172b9e59ee3460d29f7c0c2bb219cbc8e9207795ff",
            size=94_367_005,
            layout="torchvision",
            page="https://github.com/Xiyue-Wang/RetCCL",
        ),
    ),
    Preprocess(256),
    "last_stage",
    2048,
    1.0,
    "GPL-3.0, non-commercial academic use",
    commercial=False,
    derivatives=True,
    aliases=("ret_ccl", "xiyuewang_retccl"),
    paper_row="RetCCL",
)
_CTRANSPATH = EncoderRecord(
    "ctranspath",
    CTRANSPATH,
    (
        WeightFile(
            "ctranspath.pth",
            sha256="7c998680060c8743551a412583fac689db43cec07053b72dfec6dcd810113539",
            layout="ctranspath",
            page="https://github.com/Xiyue-Wang/TransPath",
        ),
    ),
    RESIZE_224,
    "last_stage",
    768,
    1.0,
    "GPL-3.0, non-commercial academic use",
    commercial=False,
    derivatives=True,
    aliases=("ctrans_path", "xiyuewang_ctranspath", "transpath"),
    paper_row="CTransPath",
)
_CHIEF = replace(
    _CTRANSPATH,
    name="chief_ctranspath",
    weights=(
        WeightFile(
            "fm_v1/ctranspath/CHIEF_CTransPath.pth",
            hub="datasets/MahmoodLab/hest-bench",
            sha256="1646f23001214f74cf432ef0e80b808ee6605143802ae6ed53a87564ddc4924a",
            layout="ctranspath",
        ),
    ),
    licence="AGPL-3.0, non-commercial use",
    aliases=("chief", "ctranspath_chief", "CHIEF_CTransPath"),
    paper_row="",
    notes="CTransPath's network with the weights that CHIEF released; TRIDENT's ctranspath is this one.",
)

RECORDS = (*_RESNETS, *_SAMS, *_BEITS, *_IMAGEBINDS, _RETCCL, _CTRANSPATH, _CHIEF)
