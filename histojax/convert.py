"""`histojax convert`: any weight file into one that is loaded without questions, with a strict report."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from histojax.common import cli
from histojax.common.errors import UserError
from histojax.common.files import expanded

HELP = """\
histojax convert: read a weight file of any kind, say what is in it, and write it anew

usage: histojax convert FILE --out DIR [--encoder NAME] [--layout NAME] [--which teacher|student] [--to LAYOUT] ...
       (the same: python -m histojax convert, python -m histojax.convert)

FILE is a .pth, .pt, .bin, .ckpt or .safetensors file, an index of shards, a folder with one of these, a URL, the name
of published weights, or a training run's folder, its export or a checkpoint of it. No code in it is run, and PyTorch is
not needed. What is recognised, and by which names, is printed; every tensor is either used, known to be of no use, or
an error that names it.

flags:
  --out DIR            folder for model.safetensors, card.json (source, SHA-256, licence) and README.md
  --check              report only, write nothing
  --encoder NAME       the encoder it is of (histojax encoders lists them): shapes are compared with that network,
                       and its input, feature and licence go into the card
  --layout NAME        how the tensors are named: auto (default), meta, timm, hf, hf-vit, torchvision, unilm,
                       ctranspath ... Needed only where the names fit several
  --which NAME         teacher (default) or student, where the file has both; or the key or prefix of the network that
                       is wanted, where it has several (model_ema, net.encoder)
  --ignore PATTERN     names that may be left out though nothing is known of them, e.g. --ignore 'neck.*'; repeatable
  --to LAYOUT          histojax (default: our own names, for every family), or meta, timm, hf ... as histojax export
  --heads N            attention heads of a ViT, where neither the encoder nor a card or config.json beside it says it
  --licence TEXT       of a local file whose licence we cannot know, for the card
  --commercial         stop unless every licence in the chain clearly allows commercial use
  --offline            never download
  --help               this page

examples:
  histojax convert dinov2_vits_NCT_10k_training_1999_teacher_checkpoint.pth --check
  histojax convert pytorch_model.bin --encoder uni --out weights/uni
  histojax convert imagebind_huge.pth --encoder imagebind_huge --out weights/imagebind   # 2.5 of its 4.5 GB
  histojax convert model_0009999.rank_0.pth --which student --to timm --out weights/mine

then, in Python:
  encoder = histojax.load_encoder("uni", weights="weights/uni")

exit codes:
  0 done, 2 bad input (one line on stderr); nothing is left behind then"""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code of the conversion that `argv` (default: the command line) describes."""
    return cli.run("histojax convert", HELP, argv, _main)


def _main(argv: Sequence[str]) -> int:
    values = _arguments(argv)
    if not values.out and not values.check:
        raise UserError("--out DIR is missing: the folder to write to (or --check to write nothing)")
    from histojax.parallel.backend import start_backend
    from histojax.weights.licence import check_commercial
    from histojax.weights.write import check_target, write_weights
    from histojax.zoo import transfer  # jax is imported only now

    start_backend()
    weights = _open(values)
    check_target(weights.family, values.to, weights.tree)
    if values.commercial:
        check_commercial(weights.chain, values.file)
    print(report_of(weights))
    cli.warn("histojax convert", transfer.warnings(weights, values.to))
    if values.check:
        return 0
    transfer.check_heads(weights)
    path = write_weights(
        expanded(values.out),
        weights.tree,
        values.to,
        {**weights.facts, "report": _counts(weights)},
        family=weights.family,
        chain=weights.chain,
        heads=weights.heads,
        eps=weights.eps,
        rule=weights.rule,
        assumed=weights.assumed,
    )
    print(f"written    {path}")
    return 0


def _open(values: Any) -> Any:
    """The weights of FILE: of a run, its export or a checkpoint of it, or of any weight file."""
    from histojax.zoo import run_weights, transfer
    from histojax.zoo.table import find

    layout = None if values.layout == "auto" else values.layout
    run = run_weights.find_run(values.file)
    if run is not None:
        given = {"encoder": values.encoder, "layout": layout, "licence": values.licence, "heads": values.heads}
        for name in (*filter(given.get, given), *["ignore"] * bool(values.ignore)):
            raise UserError(f"--{name} is for files: the run {values.file} knows its own")
        return run_weights.open_run(run.folder, which=values.which or "teacher", step=run.step)
    return transfer.open_file(
        values.file,
        find(values.encoder) if values.encoder else None,
        layout=layout,
        which=values.which,
        ignore=values.ignore,
        licence=values.licence,
        heads=values.heads,
        offline=values.offline,
    )


def _arguments(argv: Sequence[str]) -> Any:
    parser = cli.Arguments()
    parser.add_argument("file", metavar="FILE")
    for name in ("--out", "--encoder", "--which", "--licence"):
        parser.add_argument(name)
    parser.add_argument("--layout", default="auto")
    parser.add_argument("--to", default="histojax")
    parser.add_argument("--ignore", action="append", default=[])
    parser.add_argument("--heads", type=int)
    for name in ("--check", "--commercial", "--offline"):
        parser.add_argument(name, action="store_true")
    return parser.parse_args(argv)


def report_of(weights: Any) -> str:
    """What was recognised and what became of every tensor, a line a subject."""
    source = weights.facts.get("source") or {"file": weights.path, "sha256": weights.sha256}  # the latter of a run
    rows = [("file", ", SHA-256 ".join(filter(None, (str(source["file"]), source["sha256"]))))]
    rows += [("step", note) for note in weights.notes]
    if weights.report.matched:
        rows += [("matched", f"{len(weights.report.matched)} tensors, {_kinds(weights)}")]
    for title in ("ignored", "unused", "missing"):
        names = getattr(weights.report, title)
        shown = f": {', '.join(names[:6])}{' ...' if len(names) > 6 else ''}" if names else ""
        rows.append((title, f"{len(names)}{shown}"))
    rows += [("assumed", sentence) for sentence in weights.assumed]
    rows += [("licence", one.terms()) for one in weights.chain]
    return "\n".join(f"{title:10s} {text}" for title, text in rows)


def _kinds(weights: Any) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in sorted(weights.report.dtypes.items()))


def _counts(weights: Any) -> dict[str, Any]:
    report = weights.report
    return {"matched": len(report.matched), "ignored": report.ignored, "stored_as": report.dtypes}


if __name__ == "__main__":
    sys.exit(main())
