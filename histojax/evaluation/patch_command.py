"""`histojax evaluate patch`: how well features tell classes of tiles apart, with intervals and a report."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from histojax.common import cli
from histojax.common.errors import UserError
from histojax.common.files import expanded, make_folder, read_json

HELP = """\
histojax evaluate patch: how well features tell classes of tiles apart

usage: histojax evaluate patch --train SET [--test SET] --out DIR [flags]
       (the same: python -m histojax.evaluate patch)

  --train SET ...      tiles with labels to fit on: feature files (histojax extract, TRIDENT, CLAM, STAMP .h5, .pt),
                       folders of them, or .npz with features (n, d), labels (n,) and if known groups, centres, names;
                       with --encoder tiles: a folder with one sub-folder a class, a table (file,label,patient), a zip
  --test SET ...       tiles to judge on; without it 1 part in 4 of --train is held out, whole patients or slides where
                       they are known (--test-share)
  --out DIR            results.json, predictions.csv, scores.csv, report.html (open it); of several encoders
                       DIR/NAME/... each. With --encoder also DIR/features: a second run takes what is there
  --encoder NAME|RUN   compute features first: a published encoder, a training run, a weight file; may be repeated
                       (histojax extract --help). --weights, --pooling, --which, --dtype, --batch-size, --workers,
                       --commercial and --offline as there
  --histogram          judge the joint colour histogram of the tiles, too: what colour alone can do
  --labels TABLE       csv or xlsx: tile or slide (or both) and label, if known patient, centre or scanner; it wins over
                       what the files say
  --name TEXT          what tables call the features (default: the encoder's name)

what is measured, on features as they are (nothing is standardised):
  knn                  vote of the --k (20) nearest by Euclidean distance, one vote each, ties to the first class; --knn
                       raw,centred,cosine: also after subtracting the training mean and L2-normalising (UNI's protocol)
  logistic             multinomial logistic regression with scikit-learn's objective, C = width * classes / 100 (--c),
                       --iterations 1000 at most; both as in Roth, Koch et al. 2023
  simpleshot           nearest class mean of centred, L2-normalised features; few-shot: the same from --shots 1,2,4,8,16
                       tiles a class, --few-draws 20 times (--shots 0: none)
  retrieval            is one of the 1, 3, 5 nearest training tiles of the same class, is the majority of five
  robustness           with centres in --labels: how well the centre can be read off the features, and how often
                       neighbours share the class rather than the centre

  --draws N            bootstrap draws of the 95 % intervals (default 1000; 0: none). Patients or slides are drawn where
                       they are known, else tiles, which are no independent witnesses: the report says which
  --seed N             of all random choices (default 0)

leaks, looked for before any score:
  patients, slides or tiles that training and test share are refused (--allow-leaks: said and gone on)
  --ssl SET ...        what the encoder was trained on (a run of histojax train, or its data): the test must not share
                       patients, slides or tiles with it either
  --overwrite          replace results of other settings in DIR

examples:
  histojax evaluate patch --train NCT-CRC-HE-100K --test CRC-VAL-HE-7K --encoder dinov2_vits14 --out eval/nct
  histojax evaluate patch --train tiles.csv --encoder runs/mine --encoder dinov2_vits14 --histogram --out eval/mine
  histojax evaluate patch --train f/features_uni_v1/train.h5 --test f/features_uni_v1/test.h5 --out eval/uni
  histojax compare eval/mine/mine eval/mine/dinov2_vits14

exit codes:
  0 done, 2 bad input or a leak (one line on stderr)"""


HASHES = "hashes"


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code of the command line `argv` (default: that of the process)."""
    return cli.run("histojax evaluate patch", HELP, argv, _main)


def _main(argv: Sequence[str]) -> int:
    values = _parse(argv)
    settings = _settings(values)
    out = expanded(values.out)
    from histojax.parallel.backend import start_backend

    start_backend()
    leaks: dict[str, Any] | None = None
    for name, folder, train, test, how in _sets(values, out):
        if leaks is None:
            leaks = _leaks(values, out, train, test)
        _judge(argv, values, settings, (name, folder, train, test, how), leaks)
    return 0


def _judge(argv: Sequence[str], values: Any, settings: Any, one: tuple[str, Path, Any, Any, str], leaks: Any) -> None:
    """Evaluates one encoder, writes its folder and prints its table."""
    from histojax.evaluation.patch_output import print_scores, write_judged
    from histojax.evaluation.patch_protocol import evaluate_patch

    name, folder, train, test, how = one
    _refuse_other(folder, settings, train, test, values.overwrite)
    judged = evaluate_patch(train, test, settings, name, lambda text: print(f"{text} ...", file=sys.stderr))
    added = {"split": how, "leakage": leaks, "command": ["histojax", "evaluate", "patch", *argv]}
    results = dataclasses.replace(judged.results, facts={**judged.results.facts, **added})
    judged = dataclasses.replace(judged, results=results)
    make_folder(folder)
    write_judged(folder, judged)
    print_scores(judged.results)
    print(f"{folder / 'report.html'}")


def _sets(values: Any, out: Path) -> Iterator[tuple[str, Path, Any, Any, str]]:
    """(name, folder of its results, train, test, how they were parted) of each encoder."""
    from histojax.evaluation.patch_input import read_patches

    if values.encoder:
        yield from _of_tiles(values, out)
        return
    if values.histogram or values.weights:
        raise UserError("--histogram and --weights go with --encoder: the pixels of the tiles are needed")
    test = read_patches(values.test, values.labels) if values.test else None
    yield values.name or "", out, *_parted(values, read_patches(values.train, values.labels), test)


def _of_tiles(values: Any, out: Path) -> Iterator[tuple[str, Path, Any, Any, str]]:
    from histojax.evaluation.patch_tiles import HISTOGRAM, histogram_patches

    fit, held = (_extracted(values, out, part) for part in ("train", "test"))
    parted = None
    for name in fit.folders:
        hashes = out / HASHES if parted is None else None  # leaks are looked for once
        whole = None if held is None else held.read(name, values.labels, hashes)
        parted = _parted(values, fit.read(name, values.labels, hashes), whole)
        yield values.name or name, out / name, *parted
    if values.histogram and parted is not None:
        train, test, how = parted
        yield HISTOGRAM, out / HISTOGRAM, histogram_patches(train), histogram_patches(test), how


def _parted(values: Any, train: Any, test: Any) -> tuple[Any, Any, str]:
    """(train, test, how): without a test set a part of the training is held out."""
    from histojax.evaluation.patch_protocol import hold_out

    if test is not None:
        return train, test, "a test set of its own"
    return hold_out(train, _share(values.test_share), int(values.seed))


def _extracted(values: Any, out: Path, part: str) -> Any:
    from histojax.evaluation.patch_tiles import Computing, extract_patches
    from histojax.features.asked import Wanted

    given = getattr(values, part)
    if not given:
        return None
    weights = values.weights or [None] * len(values.encoder)
    if len(weights) != len(values.encoder):
        raise UserError(
            f"--weights: given {len(weights)} times for {len(values.encoder)} encoders: once for each (- for none)"
        )
    encoders = [Wanted(spec, None if file == "-" else file) for spec, file in zip(values.encoder, weights)]
    size = None if values.batch_size == "auto" else cli.whole_number("--batch-size", values.batch_size, 1, 1 << 20)
    how = Computing(
        cli.whole_number("--workers", values.workers, 0, 4096), values.dtype, size, values.pooling, values.which,
        values.commercial, values.offline,
    )  # fmt: skip
    return extract_patches(",".join(given), encoders, out / "features" / part, how)


def _leaks(values: Any, out: Path, train: Any, test: Any) -> dict[str, Any]:
    """What was found, as facts of the results; raises UserError for leaks that are not allowed."""
    from histojax.evaluation.leakage import check_leaks, refuse_leaks
    from histojax.evaluation.leakage_sources import ssl_cases
    from histojax.evaluation.patch_protocol import cases_of

    hashes = out / HASHES if values.encoder else None
    seen, notes = [], []
    for spec in values.ssl or ():
        cases, said = ssl_cases(spec, hashes)
        seen += cases
        notes += said
    encoder = train.headers[0].origin.encoder if train.headers else ""
    leaks = check_leaks(cases_of("training", train), [cases_of("test", test)], seen, encoder)
    for sentence in [*refuse_leaks(leaks, values.allow_leaks), *notes]:
        print(f"leakage: {sentence}", file=sys.stderr)
    return leaks.facts(values.allow_leaks)


def _refuse_other(folder: Path, settings: Any, train: Any, test: Any, overwrite: bool) -> None:
    """Raises UserError where results of another question lie in the folder."""
    path = folder / "results.json"
    if overwrite or not path.exists():
        return
    facts = read_json(path).get("facts", {})
    asked = json.loads(json.dumps(dataclasses.asdict(settings)))
    there = dict(facts.get("settings", {}))
    for part, one in (("train", train), ("test", test)):
        asked |= {part: one.where, f"{part} classes": one.counts()}
        there |= {part: facts.get(part, {}).get("where"), f"{part} classes": _occurring(facts.get(part, {}))}
        asked[f"{part} classes"] = {name: count for name, count in asked[f"{part} classes"].items() if count}
    other = [f"{key} {there.get(key)}, not {value}" for key, value in asked.items() if there.get(key) != value]
    if other:
        raise UserError(
            f"{path}: results of another evaluation ({'; '.join(other)}); choose another --out, or --overwrite"
        )


def _occurring(part: dict[str, Any]) -> dict[str, int]:
    return {name: count for name, count in part.get("classes", {}).items() if count}


def _settings(values: Any) -> Any:
    from histojax.evaluation.patch_protocol import DISTANCES, PatchSettings

    distances = tuple(dict.fromkeys(values.knn.split(",")))
    for distance in distances:
        if distance not in DISTANCES:
            raise UserError(f"--knn {distance}: expected one or more of {', '.join(DISTANCES)}")
    shots = [cli.whole_number("--shots", text, 0, 1 << 20) for text in values.shots.split(",")]
    return PatchSettings(
        k=cli.whole_number("--k", values.k, 1, 10_000),
        distances=distances,
        c=None if values.c is None else _positive("--c", values.c),
        iterations=cli.whole_number("--iterations", values.iterations, 1, 1_000_000),
        shots=tuple(shot for shot in shots if shot),
        few_draws=cli.whole_number("--few-draws", values.few_draws, 1, 10_000),
        draws=cli.whole_number("--draws", values.draws, 0, 1_000_000),
        seed=cli.whole_number("--seed", values.seed, 0, 2**31 - 1),
    )


def _positive(flag: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise UserError(f"{flag}: expected a number above 0, got {text!r}")
    return value


def _share(text: str) -> float:
    value = _positive("--test-share", text)
    if value > 0.5:
        raise UserError(f"--test-share: expected a share up to 0.5, got {text!r}")
    return value


def _parse(argv: Sequence[str]) -> Any:
    parser = cli.Arguments()
    parser.add_argument("--train", nargs="+", action="extend", required=True)
    parser.add_argument("--test", nargs="+", action="extend")
    parser.add_argument("--out", required=True)
    for flag in ("--encoder", "--weights"):
        parser.add_argument(flag, action="append")
    parser.add_argument("--ssl", nargs="+", action="extend")
    for name in ("labels", "name", "c", "pooling"):
        parser.add_argument(f"--{name}")
    defaults = {
        "k": "20",
        "knn": "raw",
        "iterations": "1000",
        "shots": "1,2,4,8,16",
        "few-draws": "20",
        "draws": "1000",
    }
    for name, value in (defaults | {"seed": "0", "test-share": "0.25", "batch-size": "auto"}).items():
        parser.add_argument(f"--{name}", default=value)
    parser.add_argument("--workers", default=str(os.cpu_count() or 1))
    parser.add_argument("--which", choices=("teacher", "student"))
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    for flag in ("--histogram", "--allow-leaks", "--overwrite", "--commercial", "--offline"):
        parser.add_argument(flag, action="store_true")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
