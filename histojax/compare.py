"""`histojax compare`: which of several evaluated encoders is better, and whether that may be believed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from histojax.common import cli
from histojax.common.errors import UserError
from histojax.common.files import expanded, make_folder

HELP = """\
histojax compare: which of several evaluated encoders is better, and whether that may be believed

usage: histojax compare RUN RUN ... [--metric NAME ...] [--evaluators] [--common] [--out DIR]
       (the same: python -m histojax compare, python -m histojax.compare)

RUN is the --out of histojax evaluate, or a folder of several such folders. Compared are runs that judged the same
units (tiles, slides, patients) by the same truth and, with folds, fold by fold: evaluate all with one fold file. Runs
of several tasks may be given at once; each task needs two runs or more.

what is asked of every pair of runs
  other patients?     DeLong's test (AUROC of two classes), exact McNemar test (accuracy of units that stand alone),
                      else a paired bootstrap. Where patients or slides are known, they count, not their tiles
  other training?     with folds: the corrected resampled t-test (Nadeau and Bengio 2003), and how large a difference
                      has to be for so many folds to resolve it
  many pairs?         Holm's correction over all pairs of a table

"better" is said only where all of them say so; of equal encoders one is called better in 5 % of tables at most.
Over several tables the mean ranks are told, with the distance that they resolve (Nemenyi; Demsar 2006).

flags:
  --metric NAME ...   the metrics to compare; the first is the one that is printed and ranked. Default: all, first
                      auroc (two classes), balanced_accuracy (more), r2, concordance
  --evaluators        compare the evaluators of each run with each other (is the transformer better than the mean?);
                      one run is enough then
  --common            leave out units that a run lacks, and say how many
  --level X           of intervals and verdicts (default 0.95)
  --draws N           of the bootstrap (default 1000)
  --seed N            of the draws (default 0)
  --out DIR           where the tables go (default: comparison)
  --help              this page

written to DIR: comparison.csv (a row a pair and metric), comparison.md, comparison.png (scores with intervals; a bar
joins models that could not be told apart)

examples:
  histojax evaluate patch --train nct_a.h5 --test crc_a.h5 --out results/a
  histojax evaluate patch --train nct_b.h5 --test crc_b.h5 --out results/b
  histojax compare results/a results/b
  histojax compare results/a --evaluators
  histojax compare results --metric balanced_accuracy --out results/comparison

exit codes:
  0 compared (whatever the verdict), 2 bad input (one line on stderr)"""

MOST_DRAWS = 100_000


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code of the command line `argv` (default: that of the process)."""
    return cli.run("histojax compare", HELP, argv, _main)


def _main(argv: Sequence[str]) -> int:
    values = _parse(argv)
    from histojax.evaluation.comparison import compare
    from histojax.evaluation.comparison_files import told, write_comparison
    from histojax.evaluation.pairing import named_runs, of_evaluators
    from histojax.evaluation.results import read_results

    folders = _folders(values.runs)
    runs = named_runs([read_results(folder) for folder in folders], [str(folder) for folder in folders])
    runs = of_evaluators(runs) if values.evaluators else runs
    found = compare(runs, values.metric, values.common, values.draws, values.seed, values.level)
    print("\n".join(told(found)))
    out = expanded(values.out)
    make_folder(out)
    write_comparison(out, found)
    print(f"tables in {out}")
    return 0


def _parse(argv: Sequence[str]) -> Any:
    parser = cli.Arguments()
    parser.add_argument("runs", nargs="*")
    parser.add_argument("--metric", nargs="+", default=[])
    parser.add_argument("--common", action="store_true")
    parser.add_argument("--evaluators", action="store_true")
    parser.add_argument("--level", type=float, default=0.95)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="comparison")
    values = parser.parse_args(argv)
    if not values.runs:
        raise UserError("no run given (see --help)")
    if not 0.5 <= values.level < 1:
        raise UserError(f"--level {values.level:g} must lie between 0.5 and 1, for example 0.95")
    if not 100 <= values.draws <= MOST_DRAWS:
        raise UserError(f"--draws {values.draws} must lie between 100 and {MOST_DRAWS}")
    if values.seed < 0:
        raise UserError(f"--seed {values.seed} must be 0 or more")
    return values


def _folders(names: Sequence[str]) -> list[Path]:
    """Folders of results: those named, and those in named folders that are none themselves."""
    from histojax.evaluation.results import RESULTS

    found: list[Path] = []
    for name in names:
        folder = expanded(name)
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder; give the --out of histojax evaluate")
        inner = [] if (folder / RESULTS).is_file() else sorted(path.parent for path in folder.glob(f"*/{RESULTS}"))
        found += inner or [folder]
    known: dict[Path, Path] = {}
    for folder in found:
        if folder.resolve() in known:
            raise UserError(f"{folder} is given twice: a run is equal to itself")
        known[folder.resolve()] = folder
    return found


if __name__ == "__main__":
    sys.exit(main())
