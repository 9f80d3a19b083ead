"""Does continued training help on your tiles? Trains, judges start, steps and end on held-out tiles, writes a report.

    python tools/thesis.py --tiles TILES --out DIR [--more TILES ...] [--weights NAME|FILE] [--config FILE]

  --tiles TILES      labelled tiles (whatever histojax train takes). Parted in tiles to fit on and tiles to test on, by
                     patient or slide where they are known, else by stain (--split); training sees no test tile
  --more TILES ...   further tiles to train on, without those of patients, slides or stains of the test and copies of
                     its tiles; labels among them serve that alone
  --weights W        what training starts from: a published name (fetched once) or a file (default dinov2_vits14)
  --config FILE      of the training (default configs/finetune_cpu.py); --config.LEAF=VALUE changes it in all runs
  --variant NAME [LEAF=VALUE ...]   one more training with other settings, e.g. --variant lora model.train=lora:8
  --also NAME=TILES ...   labelled tiles that no training sees, for start, end and --encoder; half the patients are
                     held out (half the tiles, where no patient is known)
  --encoder NAME=WHAT ... further encoders to judge, e.g. small=runs/small
  --split KIND       auto (default), groups (patients or slides) or stain; --test-share 0.4 of the tiles
  --draws N          of the bootstrap (default 2000)

The paper's Figure 2 in miniature. DIR gets thesis.md (the report), thesis.png (scores over steps), thesis.csv, split/,
runs/NAME (trainings), judged/SET/ENCODER (results that `histojax compare` reads). The same command goes on where it was
stopped. Nothing is chosen by the test: the end of a training is its last step, whatever its score. Of variants the end
is judged.

Beside the encoders stand what needs no training: colour histograms, and the start's features whitened (PCA of the tiles
to fit on, 128 components of unit variance, all tiles of one length). A training that only spreads features gains no
more than whitening does.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the checkout that this tool lies in

import numpy as np  # noqa: E402
from thesis_report import HISTOGRAM, OWN, WHITENED, write_report  # noqa: E402

from histojax.audit import FOUND  # noqa: E402
from histojax.audit import main as audit  # noqa: E402
from histojax.common.errors import UserError  # noqa: E402
from histojax.common.files import read_json, replacing, write_atomic  # noqa: E402
from histojax.data.sources import open_source  # noqa: E402
from histojax.data.split import split_labelled  # noqa: E402
from histojax.data.subset import write_subset  # noqa: E402
from histojax.data.tiles import Source  # noqa: E402
from histojax.evaluation.paper.figure import points_of  # noqa: E402
from histojax.evaluation.patch_input import PatchSet, read_patches  # noqa: E402
from histojax.evaluation.results import Results, read_results  # noqa: E402
from histojax.evaluation.stain_split import outside_test, split_by_stain  # noqa: E402

MAIN = "continued"  # the training with the configuration as it is
COMPONENTS = 128  # of the whitening, at most


class Encoder(NamedTuple):
    """What is judged: its name in tables and folders, and what `histojax extract` takes."""

    name: str
    what: str


def main() -> int:
    """Exit code: 0 done, 2 bad input, else that of the command that failed."""
    asked, leaves = _arguments()
    out = Path(asked.out).expanduser().resolve()
    try:
        others = [Encoder(*_named("--encoder", text)) for text in asked.encoder]
        also = dict(_named("--also", text) for text in asked.also)
        for spec in also.values():
            open_source(spec)  # what is wrong with it is told now, not after the trainings
        changes = _changes(asked.variant)
        parts = part_tiles(asked, out / "split")
        for name in [name for name in changes if not (out / "runs" / name).exists()]:
            train(asked, out / "runs" / name, parts, [*leaves, *_flags(changes[name]), "--check"])
        runs = {name: train(asked, out / "runs" / name, parts, [*leaves, *_flags(changes[name])]) for name in changes}
        steps = _steps(MAIN, runs[MAIN])
        ends = [list(_steps(name, run).values())[-1] for name, run in runs.items()]
        few = [steps[min(steps)], ends[0], *others]
        judged = {OWN: judge(asked, out / "judged" / OWN, [*list(steps.values())[:-1], *ends, *others], parts)}
        judged |= {name: judge(asked, out / "judged" / name, few, spec) for name, spec in also.items()}
        for name, results in whitened(asked, out / "judged", few[0].name, list(judged)).items():
            judged[name][WHITENED] = results
        title = f"Continued from {asked.weights or 'the weights of the configuration'} on {asked.tiles}"
        names = {step: encoder.name for step, encoder in steps.items()}
        write_report(out, title, judged, names, [(runs[name], changes[name]) for name in runs], asked.draws)
    except UserError as error:
        print(f"thesis: error: {error}", file=sys.stderr)
        return 2
    print(out / "thesis.md")
    return 0


def _changes(variants: Sequence[Sequence[str]]) -> dict[str, list[str]]:
    """{name of a training: the leaves that it changes}."""
    changes: dict[str, list[str]] = {MAIN: []}
    for name, *leaves in variants:
        if _plain("--variant", name) in changes:
            raise UserError(f"--variant {name}: given twice; each needs a name of its own")
        changes[name] = leaves
    return changes


def _flags(changes: Iterable[str]) -> list[str]:
    return [f"--config.{change}" for change in changes]


def _named(option: str, text: str) -> tuple[str, str]:
    """(name, what) of NAME=WHAT."""
    name, found, what = text.partition("=")
    if not found or not what:
        raise UserError(f"{option} {text}: expected NAME=WHAT, such as {option} mine={text or 'WHAT'}")
    return _plain(option, name), what


def _plain(option: str, name: str) -> str:
    """The name, if it can be that of a folder beside those of the tool."""
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name) or name in (MAIN, OWN, HISTOGRAM, WHITENED):
        raise UserError(
            f"{option} {name}: names are letters, digits, _ . -, and none of {MAIN}, {OWN}, {HISTOGRAM}, {WHITENED}"
        )
    return name


def _steps(name: str, run: Path) -> dict[int, Encoder]:
    """{step: what was kept of it}, ascending."""
    return {point.step: Encoder(f"{name}_{point.step}", str(point.path)) for point in points_of(str(run))}


def part_tiles(asked: argparse.Namespace, folder: Path) -> Path:
    """The folder with fit.csv, test.csv, more.csv, train.csv (fit and more: what training sees) and split.json (how).

    To choose settings without the test, part fit.csv and more.csv once more: --tiles fit.csv --more more.csv.
    """
    source = open_source(asked.tiles)
    how = {"tiles": asked.tiles, "more": asked.more, "split": asked.split, "test_share": asked.test_share}
    how |= {"fingerprint": source.fingerprint()}
    facts = folder / "split.json"
    if facts.is_file():
        there = read_json(facts)
        if {key: there.get(key) for key in how} != how:
            raise UserError(f"{facts}: the tiles were parted in another way or are others; choose another --out")
        print(f"split      {there['words']}")
        return folder
    if not 0 < asked.test_share < 1:
        raise UserError(f"--test-share {asked.test_share}: expected a share between 0 and 1, such as 0.4")
    pools = [(spec, open_source(spec)) for spec in asked.more]
    fit, test, kept, words = _parted(asked, source, pools)
    folder.mkdir(parents=True, exist_ok=True)
    write_subset(folder / "fit.csv", [(asked.tiles, source, fit)])
    write_subset(folder / "test.csv", [(asked.tiles, source, test)])
    seen = [(asked.tiles, source, fit)]
    if any(map(len, kept)):
        more = _clean(folder, [(*pool, rows) for pool, rows in zip(pools, kept) if len(rows)])
        seen.append((str(folder / "more.csv"), more, np.arange(len(more))))
    write_subset(folder / "train.csv", seen)
    words += _counts(source, fit, test, sum(len(rows) for *_, rows in seen[1:]), [pool for _, pool in pools], kept)
    write_atomic(facts, json.dumps({**how, "words": words}, indent=1) + "\n")
    print(f"split      {words}")
    return folder


def _parted(
    asked: argparse.Namespace, source: Source, pools: Sequence[tuple[str, Source]]
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray], str]:
    """Numbers of the tiles to fit on, to test on, of each pool those that are not of a stain of the test; in words."""
    if asked.split == "stain" or (asked.split == "auto" and source.groups is None):
        split = split_by_stain(source, asked.test_share)
        kept = [np.flatnonzero(outside_test(split, pool)) for _, pool in pools]
        return split.fit, split.test, kept, "by stain"
    if source.groups is None:
        raise UserError(f"--split groups: no patient or slide of {asked.tiles} is known; take --split stain")
    for spec, pool in pools:
        if pool.groups is None:
            raise UserError(f"--more {spec}: of unknown patients or slides, so tiles of the test's may be among it")
    fit, test = split_labelled(source, asked.test_share, 0)
    return fit, test, [np.arange(len(pool)) for _, pool in pools], f"by {source.facts.group_kind}"


def _counts(
    source: Source, fit: np.ndarray, test: np.ndarray, more: int, pools: Sequence[Source], kept: Sequence[np.ndarray]
) -> str:
    """What is where, and how many tiles are nowhere, and why."""
    words = f": {len(fit)} tiles to fit on, {len(test)} to test on; training sees {len(fit) + more}"
    if unused := len(source) - len(fit) - len(test):
        words += f"; {unused} of --tiles are neither (no label, or unreadable)"
    if not pools:
        return words
    whole, outside = sum(map(len, pools)), sum(map(len, kept))
    why = f"{whole - outside} of a stain of the test, {outside - more} by histojax audit, see split/audit"
    return f"{words}; {whole - more} of --more are left out ({why})"


def _clean(folder: Path, pool: Sequence[tuple[str, Source, np.ndarray]]) -> Source:
    """What `histojax audit` leaves of further tiles (more.csv): no patient or slide and no copy of the test's."""
    write_subset(folder / "pool.csv", pool)
    words = [str(folder / "pool.csv"), "--against", str(folder / "test.csv"), "--out", str(folder / "audit")]
    if audit([*words, "--write-clean", str(folder / "more.csv")]) not in (0, FOUND):
        raise SystemExit(2)
    return open_source(str(folder / "more.csv"))


def train(asked: argparse.Namespace, workdir: Path, parts: Path, leaves: Sequence[str]) -> Path:
    """The folder of a training that came to its end (but for --check); it is begun, or gone on with, here."""
    words = ["train", "--config", asked.config, "--workdir", str(workdir), f"--config.data.train={parts / 'train.csv'}"]
    words += [f"--config.eval.data={parts / 'fit.csv'}", f"--config.eval.test={parts / 'test.csv'}"]
    words += [f"--config.model.weights={asked.weights}"] if asked.weights else []
    _histojax([*words, *leaves])
    return workdir


def judge(asked: argparse.Namespace, out: Path, encoders: Sequence[Encoder], tiles: Path | str) -> dict[str, Results]:
    """{name: results} of all encoders and of colour alone.

    `tiles` are the folder of part_tiles, or labelled tiles of which one half is held out.
    """
    words = ["--histogram", "--out", str(out)]
    for one in encoders:
        words += ["--encoder", f"{one.name}={one.what}"]
    fit, test = ([tiles / "fit.csv"], [tiles / "test.csv"]) if isinstance(tiles, Path) else ([tiles], [])
    _evaluate(asked, fit, test, words)
    return {name: read_results(out / name) for name in [*(one.name for one in encoders), HISTOGRAM]}


def _evaluate(
    asked: argparse.Namespace, fit: Sequence[str | Path], test: Sequence[str | Path], words: Sequence[str]
) -> None:
    held = ["--test", *map(str, test)] if test else ["--test-share", "0.5"]
    held += ["--shots", "0", "--draws", str(asked.draws), "--overwrite"]
    _histojax(["evaluate", "patch", "--train", *map(str, fit), *held, *words])


def whitened(asked: argparse.Namespace, judged: Path, start: str, sets: Sequence[str]) -> dict[str, Results]:
    """{set: results} of the start's features, whitened by those of the tiles that are fitted on in OWN."""
    whiten = whitening(read_patches([judged / OWN / "features" / "train" / f"features_{start}"]).features)
    found = {}
    for name in sets:
        files = []
        for part in ("train", "test") if name == OWN else ("train",):
            tiles = read_patches([judged / name / "features" / part / f"features_{start}"])
            files.append(judged / name / f"{WHITENED}_{part}.npz")
            _write_arrays(files[-1], tiles, whiten(tiles.features))
        words = ["--name", WHITENED, "--out", str(judged / name / WHITENED)]
        _evaluate(asked, files[:1], files[1:], words)
        found[name] = read_results(judged / name / WHITENED)
    return found


def whitening(features: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """A map of (n, d) features to (n, c) of length sqrt(c), in whose c components `features` vary alike."""
    from sklearn.decomposition import PCA

    count = min(COMPONENTS, len(features) - 1, features.shape[1])
    analysis = PCA(count, whiten=True, random_state=0).fit(features)

    def whiten(others: np.ndarray) -> np.ndarray:
        spread = analysis.transform(others)  # neighbours are then those of like direction
        return spread * (count**0.5 / np.maximum(np.linalg.norm(spread, axis=1, keepdims=True), 1e-12))

    return whiten


def _write_arrays(path: Path, tiles: PatchSet, features: np.ndarray) -> None:
    """The tiles with other features, as `histojax evaluate patch` reads them."""
    known = {key: value for key in ("groups", "centres") if (value := getattr(tiles, key)) is not None}
    labels = np.array(tiles.classes)[tiles.labels]
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, features=features, labels=labels, names=tiles.names, **known)


def _histojax(words: Sequence[str]) -> None:
    print("$ histojax " + " ".join(words), file=sys.stderr, flush=True)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    code = subprocess.run([sys.executable, "-m", "histojax", *words], env=env).returncode
    if code:
        raise SystemExit(code)


def _arguments() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiles", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--more", nargs="+", default=[], action="extend")
    parser.add_argument("--weights", default="")
    parser.add_argument("--config", default=str(ROOT / "configs" / "finetune_cpu.py"))
    parser.add_argument("--variant", nargs="+", default=[], action="append")
    parser.add_argument("--also", nargs="+", default=[], action="extend")
    parser.add_argument("--encoder", nargs="+", default=[], action="extend")
    parser.add_argument("--split", choices=("auto", "groups", "stain"), default="auto")
    parser.add_argument("--test-share", type=float, default=0.4)
    parser.add_argument("--draws", type=int, default=2000)
    values, rest = parser.parse_known_args()
    unknown = [word for word in rest if not word.startswith("--config.")]
    if unknown:
        parser.error(f"unknown: {' '.join(unknown)}")
    return values, rest


if __name__ == "__main__":
    sys.exit(main())
