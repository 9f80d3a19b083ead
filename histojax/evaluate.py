"""`histojax evaluate patch|slide`: is an encoder good for a task? A protocol's flags are in evaluation.NAME_command."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from histojax.common import cli
from histojax.common.errors import UserError

PROTOCOLS = {
    "patch": "label tiles by their features: 20-NN, logistic regression, SimpleShot, few-shot, retrieval",
    "slide": "label patients by the features of their slides: multiple-instance learning with folds",
}

HELP = (
    "histojax evaluate: what a task says of an encoder\n\n"
    "usage: histojax evaluate PROTOCOL [flags]       (the same: python -m histojax.evaluate PROTOCOL)\n\n"
    + "\n".join(f"  {name:6s} {what}" for name, what in PROTOCOLS.items())
    + "\n\nhistojax evaluate PROTOCOL --help explains a protocol. Results of two encoders: histojax compare."
)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code of the command line `argv` (default: that of the process)."""
    argv = list(sys.argv[1:] if argv is None else argv)
    return cli.guarded("histojax evaluate", lambda: _main(argv))


def _main(argv: Sequence[str]) -> int:
    if not argv or argv[0] in ("--help", "-h", "-help", "help"):
        print(HELP)
        return 0 if argv else cli.BAD_INPUT
    if argv[0] not in PROTOCOLS:
        raise UserError(f"expected patch or slide, got {argv[0]!r} (see histojax evaluate --help)")
    return importlib.import_module(f"histojax.evaluation.{argv[0]}_command").main(argv[1:])


if __name__ == "__main__":
    sys.exit(main())
