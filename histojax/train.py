"""`histojax train`: continue DINOv2 training on tiles. Flags in, one call, an exit code out."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from absl import flags

from histojax.common import cli
from histojax.common.errors import UserError
from histojax.common.host_memory import restart_with_huge_pages
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
  histojax train --config configs/small_cpu.py --workdir runs/mine --config.data.train=my_tiles/
  histojax train --config configs/nct_vits14.py --workdir runs/nct --config.data.train=NCT-CRC-HE-100K --check

tiles:
  an image folder (class sub-folders give labels), a CSV list, a zip, a tile store, tfds:NAME:SPLIT or synthetic

exit codes:
  0 done, 2 bad input (one line on stderr), 3 stopped by the monitor, 130 / 143 left on Ctrl-C / SIGTERM: saved,
  if steps were made since the start; a second signal leaves without saving"""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code of the run that `argv` (default: the command line) describes."""
    if argv is None:
        restart_with_huge_pages()
    argv = list(sys.argv[1:] if argv is None else argv)
    return cli.guarded("histojax train", lambda: _main(argv))


def _main(argv: Sequence[str]) -> int:
    if not argv or {"--help", "-h", "-help", "help"} & set(argv):
        print(HELP, file=sys.stdout if argv else sys.stderr)
        return 0 if argv else cli.BAD_INPUT
    if "--helpconfig" in argv and not any(word.startswith("--config") for word in argv):
        print(config_flags.helpconfig())
        return 0
    values = _flags()
    config_flags.parse(values, argv)
    if values.helpconfig:
        print(config_flags.helpconfig(values.config))
        return 0
    if values.config is None:
        raise UserError("--config FILE is missing, for example --config configs/quickstart.py")
    if not values.workdir:
        raise UserError("--workdir DIR is missing: the folder of this run, for example --workdir runs/first")
    check(values.config)
    from histojax.training import loop  # jax is imported only now: a typo above costs no start-up

    return loop.run(values.config, values.workdir, offline=values.offline, plan_only=values.check)


def _flags() -> flags.FlagValues:
    values = flags.FlagValues()
    config_flags.define_config(values)
    flags.DEFINE_string("workdir", "", "the run's folder", flag_values=values)
    flags.DEFINE_bool("offline", False, "never download", flag_values=values)
    flags.DEFINE_bool("check", False, "print the plan and stop", flag_values=values)
    flags.DEFINE_bool("helpconfig", False, "list the leaves of the config", flag_values=values)
    return values


if __name__ == "__main__":
    sys.exit(main())
