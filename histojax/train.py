"""`histojax train`: continue DINOv2 training on tiles. Flags in, one call, an exit code out."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence

from ml_collections import ConfigDict

from histojax.common import cli
from histojax.common.errors import UserError
from histojax.common.files import expanded
from histojax.common.host_memory import restart_with_huge_pages
from histojax.parallel.launchers import find_cluster
from histojax.training import config_flags
from histojax.training.check import check

HELP = """\
histojax train: continue DINOv2 self-supervised training of a ViT on tiles

usage: histojax train --config FILE --workdir DIR [--config.any.leaf=value ...]
       (the same: python -m histojax train, python -m histojax.train)

flags:
  --config FILE        a file of configs/: what to train, on what, for how long
  --config.LEAF=VALUE  changes one leaf of it, e.g. --config.batch_size=64 --config.data.train=tiles.zip
  --workdir DIR        the run's folder: metrics, curves, checkpoints, exported weights. The same command again
                       resumes from the last checkpoint; a folder that belongs to another config is refused
  --offline            never download; weights must be in the cache or a local file
  --check              validate everything, print the plan (data, steps, parameters, memory) and stop
  --helpconfig         every leaf with its default (or, after --config FILE, that file's value) and meaning
  --help               this page

examples:
  histojax train --config configs/quickstart.py --workdir runs/quickstart
  histojax train --config configs/finetune_cpu.py --workdir runs/mine --config.data.train=my_tiles/
  histojax train --config configs/nct_vits14.py --workdir runs/nct --config.data.train=NCT-CRC-HE-100K --check

tiles:
  an image folder (class sub-folders give labels), a CSV list, a zip, a tile store, tfds:NAME:SPLIT or synthetic

several processes or hosts:
  start the same command in each: with srun, mpirun, on every host of a TPU slice, or with the variables
  JAX_COORDINATOR_ADDRESS=HOST:PORT (of process 0), JAX_NUM_PROCESSES and JAX_PROCESS_ID (from 0). --workdir must be
  on storage that all share. Any number of processes and devices resumes the run. JAX_NUM_PROCESSES=1 runs alone

exit codes:
  0 done, 2 bad input (one line on stderr), 3 stopped by the monitor,
  4 another process of the run died or did not come: start all again,
  130 / 143 left on Ctrl-C / SIGTERM: saved, if steps were made since the start; a second one leaves without saving"""


def program() -> int:
    """Exit code of the command line: as `main`, but the process may start itself again and catches signals."""
    restart_with_huge_pages()
    return main(sys.argv[1:], as_program=True)


def main(argv: Sequence[str], as_program: bool = False) -> int:
    """Exit code of the run that `argv` describes.

    Ctrl-C and SIGTERM mean "save and leave" only `as_program`; called from a notebook they stay what they were.
    """
    return cli.run("histojax train", HELP, argv, lambda words: _main(words, as_program))


def _main(argv: list[str], as_program: bool) -> int:
    try:
        asked = _asked(argv)
    except UserError as error:
        _tell_others(error)
        raise
    if asked is None:
        return 0
    from histojax.training import run  # jax is imported only now: a typo above costs no start-up

    config, values = asked
    return run.train(
        config, expanded(values.workdir), offline=values.offline, plan_only=values.check, catch_signals=as_program
    )


def _asked(argv: list[str]) -> tuple[ConfigDict, argparse.Namespace] | None:
    """The checked configuration and the other flags of a run; None if all that was asked for is printed."""
    changes, words = config_flags.split_leaves(argv)
    values = _arguments(words)
    if values.config is None and values.helpconfig and not changes:
        print(config_flags.helpconfig())
        return None
    if not values.config:
        raise UserError(f"--config FILE is missing, {config_flags.EXAMPLE}")
    config = config_flags.read_config(values.config, changes)
    if values.helpconfig:
        print(config_flags.helpconfig(config))
        return None
    if not values.workdir:
        raise UserError("--workdir DIR is missing: the folder of this run, for example --workdir runs/first")
    check(config)
    return config, values


def _tell_others(error: UserError) -> None:
    """Where this is one of several processes, the others wait for it to start: they hear why it does not."""
    with contextlib.suppress(UserError):
        if find_cluster(os.environ) is not None:
            from histojax.training import run

            run.tell_others(error)


def _arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = cli.Arguments()
    for name in ("--config", "--workdir"):
        parser.add_argument(name)
    for name in ("--offline", "--check", "--helpconfig"):
        parser.add_argument(name, action="store_true")
    return parser.parse_args(words)


if __name__ == "__main__":
    sys.exit(program())
