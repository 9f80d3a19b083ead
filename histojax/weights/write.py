"""Write a network as safetensors that others load: timm, transformers, facebookresearch/dinov2, or histojax again."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from histojax.common.errors import UserError
from histojax.common.files import file_sha256
from histojax.weights import family_configs as configs
from histojax.weights import own
from histojax.weights.card import card_of, position_statement, readme
from histojax.weights.families import FAMILIES, layouts_of
from histojax.weights.layouts import Layout
from histojax.weights.library_configs import (
    InputRule,
    Shape,
    architecture,
    hf_config,
    hf_preprocessor,
    meta_call,
    timm_config,
)
from histojax.weights.licence import CARD, Link, chain_of_card
from histojax.weights.safetensors_file import write_safetensors
from histojax.weights.vit_tree import with_class_row

WEIGHTS, CONFIG, README, PREPROCESSOR = "model.safetensors", "config.json", "README.md", "preprocessor_config.json"
FILES = (WEIGHTS, CONFIG, README, PREPROCESSOR, CARD)
_WITH_CONFIG = ("timm", "hf")  # layouts of libraries that read a config.json


def write_weights(
    out_dir: str | Path,
    tree: Mapping[str, Any],
    layout: str,
    card: Mapping[str, Any],
    *,
    family: str = "vit",
    chain: Sequence[Link] | None = None,
    heads: int | None = None,
    eps: float | None = None,
    rule: InputRule | None = None,
    positions: str = "as stored in the source",
    assumed: Sequence[str] = (),
) -> Path:
    """Return the path of the weights in `out_dir`: model.safetensors, card.json, README.md and the library's configs.

    Load them with `timm.create_model("local-dir:<out_dir>", pretrained=True)`, with
    `AutoModel.from_pretrained("<out_dir>")`, or by `load_state_dict` under Meta's names.

    Args:
        out_dir: created; an older export in it is replaced once the new one is whole.
        tree: the network's parameters.
        layout: "histojax", or one of the family's targets.
        card: JSON-able facts to keep with the file (source, run, scores ...).
        family: which network it is, a key of families.FAMILIES.
        chain: licences that the weights come under; default: those that the card tells.
        heads: attention heads of a ViT; default: 64 channels each, as in all DINOv2 models.
        eps: of its LayerNorms; default: what is usual for the family.
        rule: its input. None: not known, and a config.json that has to say it gets the usual one (the size of the
            position grid, ImageNet's mean), which the card calls assumed; a training of ours has that input.
        positions: how the position grid came about, see card.position_statement.
        assumed: sentences on what else the source does not state.

    Raises:
        UserError: unknown layout, or a tree that the layout cannot express.
    """
    check_target(family, layout, tree)
    _check_heads(heads, tree)
    links = chain_of_card(card) if chain is None else tuple(chain)
    eps = FAMILIES[family].eps if eps is None else eps
    shape = architecture(tree, heads, eps) if family == "vit" else None
    network = shape or _network(tree, heads, eps)
    if rule is None:
        rule, more = _usual_input(family, layout, tree, shape, "recipe" in card)
        assumed = (*assumed, *more)
    statement = position_statement(shape.image // shape.patch, shape.image, positions) if shape else ""
    files = _configs(family, layout, tree, network, rule)
    tensors = _layout(family, layout, tree).write(_prepared(dict(tree), family, layout))
    out_dir = Path(out_dir)
    with _written_whole(out_dir) as temporary:
        write_safetensors(temporary / WEIGHTS, tensors, _metadata(family, layout, tensors, links, statement))
        for name, content in files.items():
            _write_json(temporary / name, content)
        full = card_of(
            card,
            links,
            layout=layout,
            family=family,
            parameters=_parameters(tensors),
            file=WEIGHTS,
            sha256=file_sha256(temporary / WEIGHTS),
            rule=rule,
            network=network,
            positions=statement,
            assumed=assumed,
        )
        _write_json(temporary / CARD, full)
        text = readme(full, links, shape)  # it names files, which need not be UTF-8
        (temporary / README).write_text(text, encoding="utf-8", errors="surrogateescape")
    return out_dir / WEIGHTS


def _check_heads(heads: int | None, tree: Mapping[str, Any]) -> None:
    """Raise UserError if a network of this width cannot have so many attention heads."""
    if heads is None or "attn" not in tree.get("blocks", {}):
        return
    width = tree["blocks"]["attn"]["qkv"]["kernel"].shape[1]
    if heads < 1 or width % heads:
        raise UserError(f"--heads {heads}: the width of this network, {width}, is no multiple of it; most have 64 each")


def _network(tree: Mapping[str, Any], heads: int | None, eps: float) -> dict[str, Any]:
    """What a card says of a network that is no plain ViT, beside its family."""
    classes = {"classes": tree["fc"]["bias"].shape[0]} if "fc" in tree else {}
    registers = {"registers": tree["register_tokens"].shape[1]} if "register_tokens" in tree else {}
    return {"heads": heads, "eps": eps, **classes, **registers}


def _usual_input(
    family: str, layout: str, tree: Mapping[str, Any], shape: Shape | None, trained: bool
) -> tuple[InputRule | None, list[str]]:
    """The input where none is stated: that of our own training, or what a config.json has to say at least."""
    if not trained and layout not in _WITH_CONFIG:
        return None, []
    rule = InputRule(shape.image, shape.image) if shape is not None else configs.default_rule(family, tree)
    crop = f", crop {rule.crop}" if rule.crop else ""
    said = f"the input in config.json (resize {rule.size} {rule.filter}{crop}, ImageNet's mean and standard deviation)"
    return rule, [] if trained else [said]


def check_target(family: str, layout: str, tree: Mapping[str, Any] | None = None) -> None:
    """Raise UserError if a family, or the very network of a tree, cannot be written in a layout."""
    targets = (*FAMILIES[family].targets, own.NAME)
    if layout not in targets:
        raise UserError(f"unknown layout {layout!r}: {FAMILIES[family].title} can be written as {', '.join(targets)}")
    if family == "swin" and tree is not None and layout != own.NAME:
        conv = "conv1" in tree["stem"]
        if conv and layout == "timm":
            raise UserError(
                "timm has no Swin with CTransPath's convolutional stem: write it as ctranspath (names only)"
            )
        if not conv and layout == "ctranspath":
            raise UserError(
                "ctranspath's names are for its convolutional stem, which this Swin has not: write it as timm"
            )


def _layout(family: str, layout: str, tree: Mapping[str, Any]) -> Layout:
    if layout == own.NAME:
        return own.layout_of(family)
    gated = "-gated" if family == "dinov3" and "gate" in tree["blocks"]["mlp"] else ""
    return layouts_of(family)[FAMILIES[family].targets[layout] + gated]


def _prepared(tree: dict[str, Any], family: str, layout: str) -> dict[str, Any]:
    """Return an equal tree with the parts that the library's network has in every model."""
    if family == "vit" and layout in ("meta", "hf"):
        tree = with_class_row(tree)
        dim = tree["cls_token"].shape[-1]
        tree.setdefault("mask_token", np.zeros((1, dim), np.float32))
        blocks = tree["blocks"]
        if layout == "hf" and "ls1" not in blocks:
            ones = {"gamma": np.ones(blocks["norm1"]["scale"].shape, np.float32)}
            tree["blocks"] = {**blocks, "ls1": ones, "ls2": ones}
    if family == "dinov3" and layout == "hf":
        tree.setdefault("mask_token", np.zeros((1, tree["cls_token"].shape[-1]), np.float32))
    return tree


def _configs(
    family: str, layout: str, tree: Mapping[str, Any], network: Shape | Mapping[str, Any], rule: InputRule | None
) -> dict[str, dict[str, Any]]:
    """Return {file name: content} of what the library reads beside the weights."""
    if isinstance(network, Shape) and layout == "meta":
        meta_call(network)  # raises if Meta's class cannot express it
    if layout not in _WITH_CONFIG or rule is None:
        return {}
    config = _CONFIGS[family, layout](tree, network, rule)
    if layout == "timm":
        return {CONFIG: config}
    return {CONFIG: config, PREPROCESSOR: hf_preprocessor(rule.crop or config["image_size"], rule)}


_CONFIGS: dict[tuple[str, str], Callable[[Mapping[str, Any], Any, InputRule], dict[str, Any]]] = {
    ("vit", "timm"): lambda tree, network, rule: timm_config(network, rule),
    ("vit", "hf"): lambda tree, network, rule: hf_config(network),
    ("resnet", "timm"): lambda tree, network, rule: configs.resnet_timm(tree, rule),
    ("sam", "timm"): lambda tree, network, rule: configs.sam_timm(tree, rule, network["eps"]),
    ("sam", "hf"): lambda tree, network, rule: configs.sam_hf(tree, network["eps"]),
    ("beit", "timm"): lambda tree, network, rule: configs.beit_timm(tree, rule, network["heads"]),
    ("beit", "hf"): lambda tree, network, rule: configs.beit_hf(tree, network["eps"], network["heads"]),
    ("swin", "timm"): lambda tree, network, rule: configs.swin_timm(tree, rule),
    ("dinov3", "hf"): lambda tree, network, rule: configs.dinov3_hf(tree, network["eps"], network["heads"]),
}


def _metadata(family: str, layout: str, names: Iterable[str], chain: Sequence[Link], statement: str) -> dict[str, str]:
    facts = {"format": "pt"} if layout != own.NAME else own.metadata_of(family, names)
    if chain:
        facts["licence"] = "; ".join(one.terms() for one in chain)
    return facts | ({"positions": statement} if statement else {})


def _parameters(tensors: Mapping[str, np.ndarray]) -> int:
    """Return the number of parameters; running statistics of BatchNorm are none."""
    statistics = (".running_mean", ".running_var", "/mean", "/var")
    return sum(int(array.size) for name, array in tensors.items() if not name.endswith(statistics))


@contextlib.contextmanager
def _written_whole(out_dir: Path) -> Iterator[Path]:
    """Yield a folder beside `out_dir`; its files are put in place when the block ends, and only if it ends well."""
    if out_dir.exists() and not out_dir.is_dir():
        raise UserError(f"{out_dir}: is a file; name a folder")
    strangers = [name for name in FILES if (out_dir / name).exists()] if not (out_dir / CARD).exists() else []
    if strangers:
        raise UserError(
            f"{out_dir}: holds {strangers[0]}, which no export wrote ({CARD} is missing); name a new folder"
        )
    temporary = None
    try:
        out_dir.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{out_dir.name}.", dir=out_dir.parent))
        yield temporary
        _publish(temporary, out_dir)
    except OSError as error:
        raise UserError(f"{out_dir}: cannot be written ({error}); make room or name another folder") from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, default=str) + "\n", encoding="utf-8")


def _publish(folder: Path, out_dir: Path) -> None:
    """Put the finished files in place: the folder at once if it is new, else one by one, the card last."""
    files = sorted(folder.iterdir(), key=lambda path: (path.name == CARD, path.name))
    for path in files:
        with open(path, "rb") as file:
            os.fsync(file.fileno())
    if not out_dir.exists():
        folder.chmod(0o755)  # mkdtemp makes it private
        os.rename(folder, out_dir)
        return
    (out_dir / CARD).unlink(missing_ok=True)  # no card: not whole
    for name in FILES:
        if not (folder / name).exists():  # of an older export in another layout
            (out_dir / name).unlink(missing_ok=True)
    for path in files:
        os.replace(path, out_dir / path.name)
