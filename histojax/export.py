"""`histojax export`: a trained run, an encoder or a weight file for timm, transformers or Meta's DINOv2 class."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from typing import Any

from histojax.common import cli
from histojax.common.errors import UserError
from histojax.common.files import expanded

HELP = """\
histojax export: write weights so that other libraries load them unchanged

usage: histojax export SOURCE --to timm|hf|meta --out DIR [--image PX] [--commercial] ...
       (the same: python -m histojax export, python -m histojax.export)

SOURCE is the folder of a training run (its --workdir) or of one of its checkpoints (RUN/checkpoints/best: the one that
the run chose), a weight file or folder of any kind, or an encoder's name (histojax encoders lists them). The folder DIR
then holds model.safetensors, the library's config.json, card.json and a README.md with the licences of everything that
went in.

  --to timm            timm.create_model("local-dir:DIR", pretrained=True)
  --to hf              transformers.AutoModel.from_pretrained("DIR")
  --to meta            facebookresearch/dinov2: load_state_dict(strict=True); the README has the constructor
  ViTs can be written in all three, SAM and BEiT for timm and hf, DINOv3 for hf, ResNet-50 and plain Swins for timm;
  with names alone, without a config: SAM as meta, BEiT as unilm, CTransPath as ctranspath, any ResNet as torchvision.
  ImageBind has no other library (histojax convert).

The position grid: libraries resample it in different ways, so the same file gives different features at another
size than its own. The grid is therefore stored at the size that features are wanted for (16 x 16 for 224 px at patch
14): there every library gives the same. The file's metadata and the card say how it came about.

flags:
  --out DIR            folder to write; an older export in it is replaced once the new one is whole
  --image PX           input size to store the grid for (default: the encoder's own; of a run that of its evaluations,
                       eval.image_px; of a file: as it is)
  --positions WHOSE    how to get there: as meta, hf, timm or paper does, or exact, offset, antialias,
                       antialias-offset (default: as the model's library)
  --which NAME         teacher (default) or student of a run or of a file that has both; or the key or prefix of the
                       network that is wanted, of a file with several (model_ema, net.encoder)
  --step N             checkpoint of a run (default: its final export, or else the newest checkpoint)
  --encoder NAME       the encoder that a local file is of: its input, feature and licence go into the card
  --heads N            attention heads of a ViT, where neither the encoder nor a card or config.json beside it says it
  --licence TEXT       of a local file whose licence we cannot know
  --commercial         stop unless every licence in the chain clearly allows commercial use
  --offline            never download
  --help               this page

examples:
  histojax export runs/mine --to timm --out exports/mine_timm
  histojax export dinov2_vits14 --to hf --out exports/dinov2_hf
  histojax export teacher_checkpoint.pth --to meta --image 224 --out exports/meta

exit codes:
  0 done, 2 bad input (one line on stderr); nothing is left behind then"""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code of the export that `argv` (default: the command line) describes."""
    return cli.run("histojax export", HELP, argv, _main)


def _main(argv: Sequence[str]) -> int:
    values = _arguments(argv)
    for name, what in (("to", "timm, hf or meta"), ("out", "the folder to write to")):
        if not getattr(values, name):
            raise UserError(f"--{name} is missing: {what} (see --help)")
    from histojax.parallel.backend import start_backend
    from histojax.weights.licence import check_commercial
    from histojax.weights.write import check_target, write_weights
    from histojax.zoo import transfer  # jax is imported only from here on

    start_backend()
    weights = _open(values)
    check_target(weights.family, values.to, weights.tree)
    transfer.check_heads(weights)
    if values.commercial:
        check_commercial(weights.chain, values.source)
    cli.warn("histojax export", transfer.warnings(weights, values.to))
    positions = _fit_grid(weights, values.image, values.positions)
    path = write_weights(
        expanded(values.out),
        weights.tree,
        values.to,
        weights.facts,
        family=weights.family,
        chain=weights.chain,
        heads=weights.heads,
        eps=weights.eps,
        rule=weights.rule,
        positions=positions,
        assumed=weights.assumed,
    )
    print("\n".join([*weights.notes, *(f"assumed: {one}" for one in weights.assumed), f"written {path}"]))
    return 0


def _arguments(argv: Sequence[str]) -> Any:
    parser = cli.Arguments()
    parser.add_argument("source", metavar="SOURCE")
    for name in ("--to", "--out", "--positions", "--which", "--encoder", "--licence"):
        parser.add_argument(name)
    for name in ("--image", "--step", "--heads"):
        parser.add_argument(name, type=int)
    for name in ("--commercial", "--offline"):
        parser.add_argument(name, action="store_true")
    return parser.parse_args(argv)


def _open(values: Any) -> Any:
    """The weights that SOURCE names."""
    from histojax.zoo import run_weights, transfer
    from histojax.zoo.table import find

    run = run_weights.find_run(values.source)
    if run is not None:
        given = [name for name in ("encoder", "licence", "heads") if getattr(values, name)]
        if given:
            raise UserError(f"--{given[0]} is for files: the run {values.source} knows its own")
        if None not in (run.step, values.step):
            raise UserError(f"{values.source} is a checkpoint: leave --step out, or name the run {run.folder}")
        step = run.step if values.step is None else values.step
        return run_weights.open_run(run.folder, which=values.which or "teacher", step=step)
    if values.step is not None:
        raise UserError(f"--step is for a training run, which {values.source} is not (no config.json of one)")
    return transfer.open_file(
        values.source,
        find(values.encoder) if values.encoder else None,
        which=values.which,
        licence=values.licence,
        heads=values.heads,
        offline=values.offline,
    )


def _fit_grid(weights: Any, image: int | None, mode: str | None) -> str:
    """How the position grid came about, after it was brought to the wanted size; changes the weights."""
    if weights.family != "vit":
        if image is not None or mode is not None:
            raise UserError("--image and --positions are for ViTs: this network's positions are not resampled")
        return ""
    from histojax.weights.library_configs import architecture
    from histojax.weights.pos_embed import mode_of
    from histojax.weights.reading_size import fit_to_input
    from histojax.weights.vit_tree import grid_of

    old, patch = grid_of(weights.tree), architecture(weights.tree, weights.heads).patch
    wanted = image or weights.image or old * patch
    if wanted % patch:
        raise UserError(f"--image {wanted} is not a multiple of the patch, {patch}")
    if weights.rule is not None and image is not None:
        size = round(weights.rule.size * image / (weights.rule.crop or weights.rule.size))
        weights.rule = dataclasses.replace(weights.rule, size=size, crop=weights.rule.crop and image)
    if wanted // patch == old:
        return str(weights.grid)
    mode = mode_of(mode or weights.mode or "meta", "register_tokens" in weights.tree)
    weights.tree, how = fit_to_input(weights.tree, wanted // patch, mode, weights.grid)
    weights.notes.append(f"position grid {how}")
    return how


if __name__ == "__main__":
    sys.exit(main())
