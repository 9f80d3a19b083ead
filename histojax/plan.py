"""`histojax plan`: what a training takes on a device, before one is rented."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from histojax.common import cli
from histojax.common.errors import UserError
from histojax.training import config_flags
from histojax.training.check import check

DOES_NOT_FIT = 3  # exit code

HELP = """\
histojax plan: what a training takes on a device, before one is rented

usage: histojax plan --config FILE --device NAME[,NAME ...] [--config.any.leaf=value ...]
       (the same: python -m histojax plan, python -m histojax.plan)

The real training step is compiled for the device, which need not be there: whether it fits, memory by kind, the
largest batch that fits, operations a step, hours, what the host must read, and disk. A compilation takes minutes, and
several find the largest batch. Memory is what XLA plans, not checked on a card; hours are computed from the maker's
peak and a utilisation that you state. Nothing here was measured on a device.

flags:
  --config FILE        a file of configs/: what to train, for how long
  --config.LEAF=VALUE  changes one leaf of it, e.g. --config.batch_size=64 --config.model.remat=block
  --device NAME        a100-80gb, a100-40gb, h100, h200, b200, l4, l40s, a10, a10g, a6000, rtx3090, rtx4090; several
                       of one host as 8xa100-80gb; a TPU slice as it is rented: v5e-8, v5p-8, v6e-8, v4-8, v3-8
  --utilisation X      share of the peak that a step is taken to reach, above 0, at most 1 (default: 0.35)
  --quick              compile the configured batch only, and look for no larger one
  --json               a line a device for programs, on stdout
  --help               this page

examples:
  histojax plan --config configs/nct_vits14.py --device a100-40gb,l4 --quick
  histojax plan --config configs/nct_vitg14.py --device v5p-8 --config.mesh.fsdp=true --config.batch_size=128

needs, to compile:
  for GPUs  pip install "histojax[cuda]"    for TPUs  pip install "histojax[tpu]"    (neither needs a card)

exit codes:
  0 fits (each device), 2 bad input or a compiler that is not installed (one line on stderr), 3 does not fit"""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code of the command line `argv` (default: that of the process)."""
    return cli.run("histojax plan", HELP, argv, _main)


def _main(argv: list[str]) -> int:
    changes, words = config_flags.split_leaves(argv)
    values = _arguments(words)
    if not values.config:
        raise UserError(f"--config FILE is missing, {config_flags.EXAMPLE}")
    names = [name for name in (values.device or "").split(",") if name.strip()]
    if not names:
        raise UserError("--device NAME is missing, for example --device a100-80gb (see --help)")
    utilisation = _share(values.utilisation)
    config = config_flags.read_config(values.config, changes)
    check(config)
    from histojax.parallel import deviceless, devices  # jax is imported only now: a typo above costs no start-up
    from histojax.training.device_report import as_json, in_words, make_plan

    asked = [devices.parse(name) for name in names]
    deviceless.start_without_devices()
    plans = []
    for device, count in asked:
        plan = make_plan(
            config, device, count, utilisation, not values.quick, lambda text: print(text, file=sys.stderr)
        )
        print(json.dumps(as_json(plan)) if values.json else in_words(plan) + "\n" * (len(asked) > 1), flush=True)
        plans.append(plan)
    absent = sorted({deviceless.missing(plan.device.platform) or "" for plan in plans if plan.fits is None})
    if absent:
        raise UserError(f"whether it fits is not known, because jax's plugin is missing: {', '.join(absent)}")
    return 0 if all(plan.fits for plan in plans) else DOES_NOT_FIT


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise UserError(f"--utilisation: expected a number above 0, at most 1, got {text!r}")
    return value


def _arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = cli.Arguments()
    for name in ("--config", "--device"):
        parser.add_argument(name)
    parser.add_argument("--utilisation", default="0.35")
    for name in ("--quick", "--json"):
        parser.add_argument(name, action="store_true")
    return parser.parse_args(words)


if __name__ == "__main__":
    sys.exit(main())
