"""Forward speed of our encoders beside PyTorch's, on this machine, in alternated rounds.

    python tools/bench_extract.py                              # all models, ours alone, three rounds
    pip install '.[bench]' && python tools/bench_extract.py --peer
    python tools/bench_extract.py vits14 --sides histojax,torch,compiled --rounds 5

Each reading is a process of its own, so that the thread pools of the two never meet; the sides take turns within a
round. Ours is the product's own path: load_encoder(NAME, weights="random"), then encoder.forward on a prepared uint8
batch, normalisation included. PyTorch gets a normalised float32 batch and runs in inference mode. Both float32, with
random parameters; compilation and the first batches are left out. A line of JSON a model; seconds are for an image.

sides:
    histojax    ours
    torch       timm, eager (--peer is histojax,torch); of CTransPath the plain Swin-T, as timm has no such stem
    compiled    the same under torch.compile
    hf          Hugging Face transformers, eager (vits14, vitb16)
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from bench_common import OURS, ROOT, Spent, need, own_process, summary, tell, timed

SIDES = (OURS, "torch", "compiled", "hf")


class Model(NamedTuple):
    """One network on every side."""

    title: str
    ours: str  # a name of load_encoder
    timm: str
    options: dict[str, Any]  # of timm
    hf: str  # class of transformers, "" if it has none
    note: str = ""


MODELS = {
    "vits14": Model("ViT-S/14", "dinov2_vits14", "vit_small_patch14_dinov2", {"img_size": 224}, "Dinov2"),
    "vitb16": Model("ViT-B/16", "kaiko_vitb16", "vit_base_patch16_224", {}, "ViT"),
    "resnet50": Model("ResNet-50", "resnet50", "resnet50", {}, ""),
    "ctranspath": Model("CTransPath", "ctranspath", "swin_tiny_patch4_window7_224", {}, "", "torch: plain Swin-T"),
}
_HF = {  # sizes of ViT-S/14 and ViT-B/16
    "Dinov2": {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "patch_size": 14},
    "ViT": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "patch_size": 16},
}


def ours(model: Model, batch: int) -> Callable[[], Any]:
    """Return a function that computes the features of one batch through the product's own path."""
    sys.path.insert(0, str(ROOT))
    import numpy as np

    from histojax import load_encoder

    encoder = load_encoder(model.ours, weights="random", batch_size=batch)
    side = encoder.preprocess.side
    prepared = encoder.prepare(np.random.default_rng(0).integers(0, 256, (batch, side, side, 3), np.uint8))
    return lambda: np.asarray(encoder.forward(prepared))


def theirs(model: Model, batch: int, side: str) -> Callable[[], Any]:
    """Return a function that runs PyTorch's network on one batch."""
    import torch

    torch.manual_seed(0)
    if side == "hf":
        import transformers

        settings = getattr(transformers, f"{model.hf}Config")(image_size=224, **_HF[model.hf])
        network = getattr(transformers, f"{model.hf}Model")(settings).eval()
    else:
        import timm

        network = timm.create_model(model.timm, num_classes=0, **model.options).eval()
    if side == "compiled":
        network = torch.compile(network)
    images = torch.randn(batch, 3, 224, 224)

    def run() -> Any:
        with torch.inference_mode():
            return network(images)

    return run


def measure(name: str, side: str, batch: int, batches: int) -> Spent:
    """Seconds for an image of one side, measured in this process."""
    model = MODELS[name]
    run = ours(model, batch) if side == OURS else theirs(model, batch, side)
    for _ in range(2):
        run()
    _, spent = timed(lambda: [run() for _ in range(batches)])
    images = batch * batches
    return Spent(spent.wall / images, spent.cpu / images)


def rounds(names: list[str], sides: list[str], values: argparse.Namespace) -> dict[str, dict[str, list[Spent]]]:
    """All readings by model and side; the order of the sides turns from round to round."""
    found: dict[str, dict[str, list[Spent]]] = {
        name: {side: [] for side in sides if side != "hf" or MODELS[name].hf} for name in names
    }
    for turn in range(values.rounds):
        for name in names:
            for side in found[name] if turn % 2 == 0 else reversed([*found[name]]):
                words = (name, "--one", side, "--batch", values.batch, "--batches", values.batches)
                found[name][side].append(Spent(*own_process(__file__, *words)["reading"]))
                progress = f"round {turn + 1} of {values.rounds}: {name:10s} {side:8s}"
                print(f"{progress} {found[name][side][-1].cpu:.4f} CPU s an image", file=sys.stderr, flush=True)
    return found


def main(argv: list[str] | None = None) -> int:
    """Exit code 0, or 2 with one line on stderr."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help=f"of {', '.join(MODELS)} (default: all)")
    parser.add_argument("--peer", action="store_true", help="timm in turns")
    parser.add_argument("--sides", default="", help="in turns, with commas between (default: histojax)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=16, help="images (default: 16)")
    parser.add_argument("--batches", type=int, default=4, help="timed in each reading, after two that are not")
    parser.add_argument("--one", choices=SIDES, help=argparse.SUPPRESS)
    values = parser.parse_args(argv)
    names = values.models or list(MODELS)
    sides = (values.sides or (f"{OURS},torch" if values.peer else OURS)).split(",")
    for given, known, what in ((names, MODELS, "model"), (sides, SIDES, "side")):
        if unknown := [one for one in given if one not in known]:
            parser.error(f"unknown {what} {unknown[0]!r}; known are {', '.join(known)}")
    if min(values.rounds, values.batch, values.batches) < 1:
        parser.error("--rounds, --batch and --batches must be 1 or more")
    if values.one:
        print(json.dumps({"reading": measure(names[0], values.one, values.batch, values.batches)}))
        return 0
    needed = {"torch": ("torch", "timm"), "compiled": ("torch", "timm"), "hf": ("torch", "transformers")}
    need(parser, *(name for side in sides for name in needed.get(side, ())), without=f"--sides {OURS}")
    for name, readings in rounds(names, sides, values).items():
        told = summary(readings)
        rates = {side: round(1 / one["wall_seconds"], 1) for side, one in told["sides"].items()}
        note = {"note": MODELS[name].note} if MODELS[name].note and "torch" in readings else {}
        case = f"{MODELS[name].title}, 224 px, batch {values.batch}"
        tell("extract", case=case, unit="image", **told, images_a_second=rates, **note)
    return 0


if __name__ == "__main__":
    sys.exit(main())
