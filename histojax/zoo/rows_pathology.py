"""Records of today's pathology encoders: vision transformers of a few sizes.

Widths, poolings and preprocessing are those of the model cards as TRIDENT, eva and slide2vec run them; the networks
agree with key listings of the published constructors, which tests compare. SHA-256: what the hub and several public
loaders state for the same file.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from histojax.models.vit import ViTConfig
from histojax.zoo.record import HALF, EncoderRecord, Preprocess, WeightFile

_BILINEAR, _BICUBIC = Preprocess(224, 224), Preprocess(224, 224, "bicubic")
_HALF = Preprocess(224, 224, mean=HALF, std=HALF)
_HOPTIMUS = Preprocess(224, 224, mean=(0.707223, 0.578729, 0.703617), std=(0.211883, 0.230117, 0.177517))
_HIBOU = Preprocess(224, 224, "bicubic", mean=(0.7068, 0.5755, 0.722), std=(0.195, 0.2316, 0.1816))
_LUNIT = Preprocess(
    224, 224, "bicubic", mean=(0.70322989, 0.53606487, 0.66096631), std=(0.21716536, 0.26081574, 0.20723464)
)

_CLOSED: dict[str, Any] = {"licence": "CC-BY-NC-ND-4.0", "commercial": False, "derivatives": False, "gated": True}
_APACHE: dict[str, Any] = {"licence": "Apache-2.0", "commercial": True, "derivatives": True}
_OWKIN: dict[str, Any] = {"licence": "Owkin non-commercial licence", "commercial": False}


def _timm(dim: int, depth: int, heads: int, patch: int, **changes: Any) -> ViTConfig:
    """A ViT for 224 px as timm builds it."""
    fields = {"image": 224, "mask_token": False, "interpolation": "antialias"}
    return ViTConfig(dim, depth, heads, patch, **{**fields, **changes})


def _hf(dim: int, depth: int, heads: int, patch: int, **changes: Any) -> ViTConfig:
    """A DINOv2 for 224 px as Hugging Face builds it."""
    return ViTConfig(dim, depth, heads, patch, **{"image": 224, "interpolation": "exact", **changes})


def _swiglu(hidden: int) -> dict[str, Any]:
    return {"ffn": "swiglu", "hidden": hidden}


def _hub(hub: str, file: str = "pytorch_model.bin", layout: str = "timm", **fields: Any) -> tuple[WeightFile]:
    return (WeightFile(file, hub=hub, layout=layout, **fields),)


_L16 = _timm(1024, 24, 16, 16)
_G14_REG = _timm(1536, 40, 24, 14, registers=4, positions="patches", **_swiglu(4096))

_VIRCHOW2 = EncoderRecord(
    "virchow2",
    _timm(1280, 32, 16, 14, registers=4, positions="all", **_swiglu(3416)),
    _hub(
        "paige-ai/Virchow2",
        "model.safetensors",
        sha256="8d6cea947eb2418c3b0dff48cfb9b238e47744ab0dfca21b2b0637b140769b4b",
        size=2_525_001_112,
    ),
    _BICUBIC,
    "cls+mean",
    2560,
    0.5,
    **_CLOSED,
    aliases=("paige-ai/Virchow2", "paige_virchow2"),
    notes="Trained at 5x, 10x, 20x and 40x.",
)

_BIG = (
    EncoderRecord(
        "uni",
        _L16,
        _hub(
            "MahmoodLab/UNI",
            sha256="56ef09b44a25dc5c7eedc55551b3d47bcd17659a7a33837cf9abc9ec4e2ffb40",
            size=1_213_527_781,
        ),
        _BILINEAR,
        "cls",
        1024,
        0.5,
        **_CLOSED,
        aliases=("uni_v1", "MahmoodLab/UNI", "mahmood_uni"),
    ),
    EncoderRecord(
        "uni2_h",
        _timm(1536, 24, 24, 14, registers=8, positions="patches", **_swiglu(4096)),
        _hub(
            "MahmoodLab/UNI2-h",
            sha256="6e077eda234bebc595868d918d3458d9dd32a050199b0ff04443b2f46a0a3b1e",
            size=2_725_669_217,
        ),
        _BILINEAR,
        "cls",
        1536,
        0.5,
        **_CLOSED,
        aliases=("uni_v2", "uni2", "MahmoodLab/UNI2-h", "mahmood_uni2_h"),
    ),
    EncoderRecord(
        "virchow",
        _timm(1280, 32, 16, 14, **_swiglu(3416)),
        _hub("paige-ai/Virchow"),
        _BICUBIC,
        "cls+mean",
        2560,
        0.5,
        **_APACHE,
        gated=True,
        aliases=("paige-ai/Virchow", "virchow_v1", "virchow_full"),
    ),
    _VIRCHOW2,
    replace(
        _VIRCHOW2,
        name="virchow2_cls",
        pooling="cls",
        features=1280,
        aliases=(),
        notes="virchow2 without the mean of the patch tokens, for models that were made for it.",
    ),
    EncoderRecord(
        "prov_gigapath",
        _timm(1536, 40, 24, 16, **_swiglu(4096)),
        _hub("prov-gigapath/prov-gigapath"),
        Preprocess(256, 224, "bicubic"),
        "cls",
        1536,
        0.5,
        "Apache-2.0 with conditions: research only",
        gated=True,
        commercial=False,
        aliases=("gigapath", "prov-gigapath/prov-gigapath"),
        notes="The tile encoder. Made for tiles of 256 px.",
    ),
    EncoderRecord(
        "h_optimus_0",
        _G14_REG,
        _hub("bioptimus/H-optimus-0"),
        _HOPTIMUS,
        "cls",
        1536,
        0.5,
        **_APACHE,
        gated=True,
        aliases=("hoptimus0", "bioptimus/H-optimus-0"),
        notes="Its authors cut tiles of 224 px; the resize for others is TRIDENT's (bilinear).",
    ),
    EncoderRecord(
        "h_optimus_1",
        _G14_REG,
        _hub("bioptimus/H-optimus-1"),
        _HOPTIMUS,
        "cls",
        1536,
        0.5,
        **_CLOSED,
        aliases=("hoptimus1", "bioptimus/H-optimus-1"),
        notes="Its authors cut tiles of 224 px; the resize for others is TRIDENT's (bilinear).",
    ),
    EncoderRecord(
        "h0_mini",
        _timm(768, 12, 12, 14, registers=4, positions="patches", **_swiglu(2048)),
        _hub("bioptimus/H0-mini", "model.safetensors"),
        replace(_HOPTIMUS, filter="bicubic"),
        "cls+mean",
        1536,
        0.5,
        **_CLOSED,
        aliases=("h0mini", "bioptimus/H0-mini"),
        notes="Its authors also name the class token alone (768). Width of the feed-forward layers: recalled, check.",
    ),
)

_HUGGING_FACE = (
    EncoderRecord(
        "phikon",
        _hf(768, 12, 12, 16, layerscale=None, eps=1e-12, mask_token=False),
        _hub("owkin/phikon", layout="hf-vit"),
        _BILINEAR,
        "cls",
        768,
        0.5,
        **_OWKIN,
        aliases=("phikon_v1", "owkin/phikon"),
    ),
    EncoderRecord(
        "phikon_v2",
        _hf(1024, 24, 16, 16),
        _hub("owkin/phikon-v2", "model.safetensors", "hf"),
        _BILINEAR,
        "cls",
        1024,
        0.5,
        **_OWKIN,
        aliases=("phikonv2", "owkin/phikon-v2"),
    ),
    EncoderRecord(
        "hibou_b",
        _hf(768, 12, 12, 14, registers=4, ffn="swiglu"),
        _hub("histai/hibou-B", "model.safetensors", "hf"),
        _HIBOU,
        "cls",
        768,
        0.5,
        **_APACHE,
        gated=True,
        aliases=("histai/hibou-B",),
        notes="Names of its tensors: recalled, check.",
    ),
    EncoderRecord(
        "hibou_l",
        _hf(1024, 24, 16, 14, registers=4, ffn="swiglu"),
        _hub("histai/hibou-L", "model.safetensors", "hf"),
        _HIBOU,
        "cls",
        1024,
        0.5,
        **_APACHE,
        gated=True,
        aliases=("histai/hibou-L",),
        notes="Names of its tensors: recalled, check.",
    ),
    EncoderRecord(
        "midnight_12k",
        _hf(1536, 40, 24, 14, ffn="swiglu"),
        _hub("kaiko-ai/midnight", "model.safetensors", "hf"),
        _HALF,
        "cls+mean",
        3072,
        0.5,
        "MIT",
        commercial=True,
        derivatives=True,
        aliases=("midnight", "midnight12k", "kaiko-ai/midnight", "kaiko_midnight_12k"),
        notes="Trained at 0.25, 0.5, 1 and 2 mpp. Its authors classify with the class token and the mean of the patch "
        'tokens; TRIDENT\'s code takes the class token alone (pooling="cls").',
    ),
)

_META = (
    EncoderRecord(
        "openmidnight",
        ViTConfig(1536, 40, 24, 14, image=224, registers=4, ffn="swiglu", interpolation="antialias"),
        _hub("SophontAI/OpenMidnight", "teacher_checkpoint_load.pt", "meta"),
        _BILINEAR,
        "cls",
        1536,
        0.5,
        **_APACHE,
        gated=True,
        aliases=("open_midnight", "SophontAI/OpenMidnight"),
        notes="Native mpp and licence: recalled, check.",
    ),
    EncoderRecord(
        "gpfm",
        _timm(1024, 24, 16, 14),
        _hub("majiabo/GPFM", "GPFM.pth"),
        _BICUBIC,
        "cls",
        1024,
        0.5,
        "CC-BY-NC-ND-4.0",
        commercial=False,
        derivatives=False,
        aliases=("majiabo/GPFM",),
        notes="The GitHub release is the training checkpoint of the same network; it is read too.",
    ),
    EncoderRecord(
        "mstar",
        _L16,
        _hub("Wangyh/mSTAR"),
        _BILINEAR,
        "cls",
        1024,
        0.5,
        **_CLOSED,
        aliases=("Wangyh/mSTAR",),
        notes="ImageNet's mean and std as on the model card, not those of the hub's config. Its file's name: recalled, "
        "check.",
    ),
)

# Kaiko and Lunit: size, patch -> network; timm's names

_DINO: dict[str, Any] = {"layerscale": None}
_SMALL, _BASE = (384, 12, 6), (768, 12, 12)


def _kaiko(short: str, timm: str, network: ViTConfig, aliases: tuple[str, ...] = ()) -> EncoderRecord:
    hub = f"1aurent/{timm}.kaiko_ai_towards_large_pathology_fms"
    return EncoderRecord(
        f"kaiko_{short}",
        network,
        _hub(hub, "model.safetensors"),
        _HALF,
        "cls",
        network.dim,
        0.5,
        "kaiko.ai terms, non-commercial (recalled, check)",
        commercial=False,
        aliases=(f"kaiko-{short.removeprefix('vit')}", hub, f"kaiko-ai/{short}", *aliases),
        notes="Trained at several magnifications.",
    )


def _lunit(patch: int) -> EncoderRecord:
    hub = f"1aurent/vit_small_patch{patch}_224.lunit_dino"
    file = f"dino_vit_small_patch{patch}_ep200.torch"
    releases = "https://github.com/lunit-io/benchmark-ssl-pathology/releases"
    github = f"{releases}/download/pretrained-weights/{file}"
    return EncoderRecord(
        f"lunit_vits{patch}",
        _timm(*_SMALL, patch, **_DINO),
        (WeightFile(file, github, layout="timm", page=releases),),
        _LUNIT,
        "cls",
        384,
        0.5,
        "Lunit non-commercial licence",
        commercial=False,
        aliases=(
            f"lunit_s{patch}",
            f"lunit_dino_s{patch}",
            hub,
            f"vit_small_patch{patch}_224.lunit_dino",
            f"lunit_vit_small_patch{patch}_dino",
        ),
        notes="Trained at 20x and 40x. The resize filter is recalled, check.",
    )


_DINO_TRAINED = (
    _kaiko("vits16", "vit_small_patch16_224", _timm(*_SMALL, 16, **_DINO)),
    _kaiko("vits8", "vit_small_patch8_224", _timm(*_SMALL, 8, **_DINO)),
    _kaiko("vitb16", "vit_base_patch16_224", _timm(*_BASE, 16, **_DINO)),
    _kaiko("vitb8", "vit_base_patch8_224", _timm(*_BASE, 8, **_DINO)),
    _kaiko(
        "vitl14",
        "vit_large_patch14_reg4_dinov2",
        _timm(1024, 24, 16, 14, image=518, registers=4, positions="patches"),
        ("1aurent/vit_large_patch14_reg4_224.kaiko_ai_towards_large_pathology_fms",),
    ),
    _lunit(8),
    _lunit(16),
)

RECORDS = (*_BIG, *_HUGGING_FACE, *_META, *_DINO_TRAINED)
