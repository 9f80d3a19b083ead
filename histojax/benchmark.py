"""`histojax benchmark`: the paper's tables and Figure 2, computed anew and held against the published numbers."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from histojax.common import cli
from histojax.common.errors import UserError
from histojax.common.files import expanded

if TYPE_CHECKING:
    from histojax.evaluation.paper.settings import Benchmark, Cohort

HELP = """\
histojax benchmark: the paper's tables and Figure 2, beside ours, with a verdict a cell

usage: histojax benchmark --config FILE [--out DIR] [--dry-run] [--config.any.leaf=value ...]
       (the same: python -m histojax benchmark, python -m histojax.benchmark)

  --config FILE        configs/benchmark_nct.py: tiles, Tables 2 and 3, Figure 2; configs/benchmark_msi.py: slides,
                       Tables 1 and 3
  --config.LEAF=VALUE  changes one leaf of it (--helpconfig lists all with their meaning)
  --out DIR            where features, scores, tables and pictures go (default: benchmarks/ and the name of the
                       configuration). The same command goes on where it stopped: features are computed once, and so
                       are the scores of a row
  --dry-run            say what is there, what is missing and where to get it, and stop
  --helpconfig         every leaf with its value and meaning
  --help               this page

rows: the twelve encoders of the paper, and any of your own
  --config.rows="DINOv2 ViT-S,CTransPath"           only these of the paper; none: none of them
  --config.encoders=uni2_h,mine=runs/mine           further rows: published names and trainings
  --config.weights=CTransPath=files/ctranspath.pth  a local file for a row, or ROW=random, or ROW=FOLDER of a training

what the verdicts mean:
  agrees               ours lies within the tolerance that stands below the table with its reason
  above, below         it does not
  not compared         other tiles, or other weights, than the paper's
  hole                 nothing was computed; the list of holes says what is missing and where to get it

written to DIR: table1 or table2, table3, others_nct, figure2, each as .csv (a line a cell), .md and .png; benchmark.md
(one page), benchmark.json (for programs); results/ENCODER, which histojax compare reads; features/

examples:
  histojax benchmark --config configs/benchmark_nct.py --dry-run
  histojax benchmark --config configs/benchmark_nct.py --config.run=runs/nct_vits14
  histojax benchmark --config configs/benchmark_nct.py --out benchmarks/mine --config.train=train/ \\
      --config.test=test/ --config.rows=none --config.encoders=dinov2_vits14,mine=runs/mine
  histojax benchmark --config configs/benchmark_msi.py --dry-run

exit codes:
  0 done (dry run: all is there), 1 done with holes (dry run: something is missing), 2 bad input (one line on stderr)"""

HOLES = 1
EXAMPLE = "for example --config configs/benchmark_nct.py"


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code of the command line `argv` (default: that of the process)."""
    return cli.run("histojax benchmark", HELP, argv, _main)


def _main(argv: Sequence[str]) -> int:
    from histojax import config as defaults
    from histojax.training import config_flags

    changes, words = config_flags.split_leaves(argv, defaults.benchmark)
    values = _arguments(words)
    if not values.config and not values.helpconfig:
        raise UserError(f"--config FILE is missing, {EXAMPLE}")
    config = defaults.benchmark()
    if values.config:
        config = config_flags.read_config(values.config, changes, defaults.benchmark)
    if values.helpconfig:
        print(config_flags.helpconfig(config, defaults.benchmark))
        return 0
    return _benchmark(as_asked(config, values.config), values)


def _benchmark(benchmark: Benchmark, values: Any) -> int:
    from histojax.evaluation.paper.plan import make_plan, told
    from histojax.parallel.backend import start_backend

    start_backend()
    plan = make_plan(benchmark)
    print(told(benchmark, plan))
    if values.dry_run:
        return 0 if plan.whole else HOLES
    from histojax.evaluation.paper.run import run, summary
    from histojax.evaluation.paper.tables import hole_lines

    out = expanded(values.out or f"benchmarks/{benchmark.name}")
    print(file=sys.stderr)
    outcome = run(benchmark, plan, out, _scorer(benchmark), lambda text: print(text, file=sys.stderr))
    print(f"\n{summary(outcome)}")
    for line in hole_lines(outcome.tables):
        print(f"hole: {line}")
    several = len(list(out.glob("results/*/results.json"))) > 1
    advice = f"; which differences are real: histojax compare {out / 'results'}/*" if several else ""
    print(f"{out / 'benchmark.md'}{advice}")
    return HOLES if outcome.holes else 0


def _scorer(benchmark: Benchmark) -> Any:
    """The function that scores a row, imported when the first one is."""

    def score(*given: Any) -> Any:
        module = importlib.import_module(f"histojax.evaluation.paper.{benchmark.protocol}_scores")
        return module.score(*given)

    return score


def as_asked(config: Any, file: str) -> Benchmark:
    """The settings of a configuration; raises UserError for leaves that do not exist and values that cannot be."""
    from histojax import config as defaults
    from histojax.evaluation.paper.settings import Benchmark, make_rows

    known = dict(defaults.leaves(defaults.benchmark()))
    unknown = [name for name, _ in defaults.leaves(config) if name not in known]
    lacking = [name for name in known if name not in dict(defaults.leaves(config))]
    if unknown or lacking:
        what = f"has an unknown leaf {unknown[0]}" if unknown else f"lacks the leaf {lacking[0]}"
        raise UserError(f"{file}: {what}; a benchmark's configuration begins with histojax.config.benchmark()")
    if config.protocol not in ("patch", "slide"):
        raise UserError(f"config.protocol={config.protocol!r}: expected patch or slide")
    if config.dtype not in ("float32", "bfloat16"):
        raise UserError(f"config.dtype={config.dtype!r}: expected float32 or bfloat16")
    if config.choice not in ("first", "all", "each"):
        raise UserError(f"config.choice={config.choice!r}: expected first, all or each")
    if config.epochs < 1 or config.draws < 0:
        raise UserError(f"config.epochs={config.epochs}, config.draws={config.draws}: expected 1 or more, 0 or more")
    chosen = {"all": (), "none": ("none",), "": ("none",)}.get(config.rows, tuple(_names(config.rows)))
    rows = make_rows(config.protocol, chosen, [*map(str, config.encoders)], [*map(str, config.weights)])
    if not rows:
        raise UserError("no rows: config.rows=none needs config.encoders")
    copied = "name protocol train test run run_row target choice epochs seed draws dtype batch_size offline allow_leaks"
    return Benchmark(
        rows=rows,
        classes=tuple(map(str, config.classes)),
        internal=_cohort(config.cohort),
        external=_cohort(config.external),
        workers=(os.cpu_count() or 1) if config.workers is None else config.workers,
        **{name: getattr(config, name) for name in (*copied.split(), "verify")},
    )


def _names(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _cohort(group: Any) -> Cohort:
    from histojax.evaluation.paper.settings import Cohort

    return Cohort(group.slides, group.features, group.clini, group.table, group.mpp or None)


def _arguments(words: Sequence[str]) -> Any:
    parser = cli.Arguments()
    for name in ("--config", "--out"):
        parser.add_argument(name)
    for name in ("--dry-run", "--helpconfig"):
        parser.add_argument(name, action="store_true")
    return parser.parse_args(words)


if __name__ == "__main__":
    sys.exit(main())
