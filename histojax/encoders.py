"""`histojax encoders`: the published encoders that can be loaded by name, and what is known of each."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

from histojax.common import cli
from histojax.common.errors import UserError

HELP = """\
histojax encoders: the published encoders that can be loaded by name

usage: histojax encoders [NAME ...] [--paper] [--commercial] [--markdown] [--json]
       (the same: python -m histojax encoders, python -m histojax.encoders)

  without a NAME       one line an encoder: width of its feature, input, feature, native mpp, who may use it, licence
  NAME                 everything about one encoder: network, parameters, files, preprocessing, licence, other names.
                       Meta's, timm's, Hugging Face's and TRIDENT's spellings are known; case and - _ . / do not matter

flags:
  --paper              Table 3 of Roth, Koch et al. 2023: parameters counted on the networks, width, input, mean / std
  --commercial         only encoders whose licence clearly allows commercial use
  --markdown           the table for a README
  --json               the same for programs, on stdout
  --help               this page

examples:
  histojax encoders
  histojax encoders uni2-h
  histojax encoders MahmoodLab/UNI2-h --json
  histojax encoders --paper

in Python:
  import histojax
  encoder = histojax.load_encoder("dinov2_vits14")               # downloads once, checks, prints the licence
  encoder = histojax.load_encoder("uni", weights="my/file.bin")  # a local file; nothing is downloaded
  encoder = histojax.load_encoder("runs/mine")                   # what `histojax train` made
  features = encoder(tiles)                                      # (N, H, W, 3) uint8 -> (N, D) float32

gated encoders (marked *): accept the terms on the page that `histojax encoders NAME` shows, then set HF_TOKEN or run
`hf auth login`; or download the file by hand and give its path.

exit codes:
  0 done, 2 bad input (one line on stderr)"""

FLAGS = ("paper", "commercial", "markdown", "json")
HOW_IT_RUNS = ("attention", "drop_path", "drop_path_uniform", "dtype", "mask_token", "remat", "unroll")


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code of the command line `argv` (default: that of the process)."""
    return cli.run("histojax encoders", HELP, argv, _main, without_words=True)


def _main(argv: Sequence[str]) -> int:
    names, flags = _parse(argv)
    if "paper" in flags and (names or flags & {"commercial", "markdown"}):
        raise UserError("--paper takes neither names nor --commercial nor --markdown")
    if "markdown" in flags and (names or "json" in flags):
        raise UserError("--markdown is for the table: it takes neither names nor --json")
    from histojax.parallel.backend import start_backend  # jax is imported only now
    from histojax.zoo.table import ENCODERS, find

    start_backend()
    if "paper" in flags:
        rows = paper_rows()
        print(json.dumps(rows, indent=1) if "json" in flags else _paper(rows))
        return 0
    records = [find(name) for name in names] or list(ENCODERS.values())
    if "commercial" in flags:
        records = [record for record in records if record.commercial]
    if "json" in flags:
        print(json.dumps([as_dict(record) for record in records], indent=1))
    elif names:
        print("\n\n".join(details(record) for record in records))
    else:
        print(markdown(records) if "markdown" in flags else overview(records))
    return 0


def _parse(argv: Sequence[str]) -> tuple[list[str], set[str]]:
    names, flags = [], set()
    for word in argv:
        if not word.startswith("-"):
            names.append(word)
        elif word.lstrip("-") in FLAGS:
            flags.add(word.lstrip("-"))
        else:
            known = ", ".join(f"--{flag}" for flag in FLAGS)
            raise UserError(f"unknown flag {word}; known are {known} (see --help)")
    return names, flags


def overview(records: Sequence[Any]) -> str:
    """The table: a line an encoder."""
    note = "* gated: terms to accept first. histojax encoders NAME tells more; histojax encoders --help explains."
    return f"{_columns(_overview(records), right=(1, 2, 4))}\n\n{len(records)} encoders; {note}"


def markdown(records: Sequence[Any]) -> str:
    """The same table for a README."""
    head, *rows = _overview(records)
    lines = [
        head,
        ("---",) * len(head),
        *((f"`{row[0].rstrip('*')}`{'*' * row[0].count('*')}", *row[1:]) for row in rows),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _overview(records: Sequence[Any]) -> list[tuple[str, ...]]:
    use = {True: "any", False: "non-commercial", None: "unknown"}
    rows: list[tuple[str, ...]] = [("name", "width", "input", "feature", "mpp", "use", "licence")]
    for r in records:
        short = r.licence.partition(" (")[0]
        rows.append((
            r.name + "*" * r.gated, str(r.features), f"{r.preprocess.side} px", r.pooling,
            "-" if r.mpp is None else f"{r.mpp:g}", use[r.commercial], short,
        ))  # fmt: skip
    return rows


def details(record: Any) -> str:
    """All of one record, a line a subject."""
    from histojax.models.network import POOLINGS, family, parameter_count

    terms = f"{record.terms}{', see ' + record.weights[0].home if record.gated else ''}"
    rows = [
        ("name", record.name),
        ("also", ", ".join(record.aliases) or "-"),
        ("network", f"{family(record.network)}: {_settings(record.network)}"),
        ("parameters", f"{parameter_count(record.network):,}"),
        ("feature", f"{record.features} numbers: {POOLINGS[record.pooling][0]} ({record.pooling})"),
        ("input", record.preprocess.describe()),
        ("native mpp", "-" if record.mpp is None else f"{record.mpp:g}"),
        ("licence", terms),
        *((f"weights {file.part}".rstrip(), _file(file)) for file in record.weights),
        ("paper", f"Table 3 of Roth, Koch et al. 2023: {record.paper_row}" if record.paper_row else "-"),
        ("notes", record.notes or "-"),
        ("load", f'histojax.load_encoder("{record.name}")'),
    ]
    return _columns(rows)


def _settings(network: Any) -> str:
    """The fields of a configuration that make its parameters and its result."""
    values = {field.name: getattr(network, field.name) for field in dataclasses.fields(network)}
    return ", ".join(f"{name} {_plain(value)}" for name, value in values.items() if name not in HOW_IT_RUNS)


def _plain(value: Any) -> str:
    text = "/".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return {"None": "-", "True": "yes", "False": "no"}.get(text, text)


def _file(file: Any) -> str:
    from histojax.zoo.published import address

    size = f", {file.size / 1e6:,.0f} MB" if file.size else ""
    where = address(file) or f"by hand from {file.home}"
    layout = f", layout {file.layout}" if file.layout else ""
    return f"{where}{size}{layout}, SHA-256 {file.sha256 or 'not known (unverified)'}"


def as_dict(record: Any) -> dict[str, Any]:
    """The record for programs, with parameters counted."""
    from histojax.models.network import family, parameter_count
    from histojax.zoo.published import address

    fields = dataclasses.asdict(dataclasses.replace(record, network=None))
    network = {field.name: getattr(record.network, field.name) for field in dataclasses.fields(record.network)}
    network.pop("dtype", None)
    urls = [{**file, "address": address(row)} for file, row in zip(fields["weights"], record.weights)]
    return {
        **fields,
        "network": {"family": family(record.network), **network},
        "parameters": parameter_count(record.network),
        "weights": urls,
        "preprocess_hash": record.preprocess_hash,
    }


def paper_rows() -> list[dict[str, Any]]:
    """Table 3 of the paper from the records: printed and counted parameters, width, input, mean and std."""
    from histojax.models.network import parameter_count
    from histojax.zoo.table import ENCODERS, PAPER

    rows = []
    for name, (printed, key) in PAPER.items():
        record = ENCODERS[key]
        p = record.preprocess
        rows.append({
            "row": name, "encoder": key, "printed": printed, "parameters": parameter_count(record.network),
            "features": record.features, "input": f"resize {p.size} {p.filter}", "mean": p.mean, "std": p.std,
        })  # fmt: skip
    return rows


def _paper(rows: Sequence[dict[str, Any]]) -> str:
    table: list[tuple[str, ...]] = [("Table 3", "encoder", "printed", "counted", "width", "input", "mean / std")]
    for r in rows:
        numbers = " / ".join(" ".join(f"{x:g}" for x in r[key]) for key in ("mean", "std"))
        counted = f"{r['parameters']:,}"
        table.append((r["row"], r["encoder"], r["printed"], counted, str(r["features"]), r["input"], numbers))
    notes = (
        "Counted: all parameters of the network, with classifier (ResNet50) and mask token (DINOv2). The paper prints "
        "width 1024\nfor ResNet50; its pooled feature has 2048. The finetuned rows are those for NCT; for TCGA slides "
        "see *_tcga."
    )
    return f"{_columns(table, right=(2, 3, 4))}\n\n{notes}"


def _columns(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """The rows as text in columns, those numbered in `right` flush right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    place: list[Callable[..., str]] = [str.rjust if i in right else str.ljust for i in range(len(widths))]
    return "\n".join("  ".join(f(c, w) for f, c, w in zip(place, row, widths)).rstrip() for row in rows)


if __name__ == "__main__":
    sys.exit(main())
