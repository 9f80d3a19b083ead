"""Compare histojax with arrays recorded from the reference implementations, and certify the result.

    python tools/parity.py GOLDEN_DIR... [--json certificate.json] [--only TEXT]

Every case is found by the contents of the folders: no list of cases, seed or size is written here. Each is run
through histojax's public functions in float32 on the CPU and prints one line. The exit status is 1 if a line fails
or if nothing could be compared.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the checkout that this tool lies in

from parity_cases import all_checks
from parity_cases.check import Check


def main(argv: list[str] | None = None) -> int:
    """0 if every comparison held, 1 if one failed or nothing was compared, 2 for a folder that does not exist."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="GOLDEN_DIR")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the certificate here")
    parser.add_argument("--table", action="store_true", help="print the certificate as a Markdown table")
    parser.add_argument("--only", default="", metavar="TEXT", help="run the cases whose name contains this")
    args = parser.parse_args(argv)
    missing = [str(f) for f in args.folders if not f.is_dir()]
    if missing:
        print(f"parity: not a folder: {', '.join(missing)}", file=sys.stderr)
        return 2
    start, checks = time.monotonic(), []
    for folder in args.folders:
        for check in all_checks(folder, args.only):
            print(check.line(), flush=True)
            checks.append(check)
    compared, failed = [c for c in checks if c.compared], [c for c in checks if not c.ok]
    left = f"{len(checks) - len(compared)} left out (skip), " if len(compared) < len(checks) else ""
    print(f"\n{len(compared)} comparisons, {len(failed)} failed, {left}{time.monotonic() - start:.0f} s")
    for check in failed:
        print("FAIL", check.name, check.what)
    if not compared:
        print(f"parity: nothing to compare in {', '.join(map(str, args.folders))}", file=sys.stderr)
    if args.table:
        print("\n".join(table(checks)))
    if args.json:
        args.json.write_text(json.dumps(certificate(checks), indent=1) + "\n")
    return int(bool(failed) or not compared)


def certificate(checks: list[Check]) -> dict:
    """The comparisons with the versions that they hold for."""
    import flax
    import jax
    import numpy as np

    import histojax

    versions = {"histojax": histojax.__version__, "jax": jax.__version__, "flax": flax.__version__}
    versions |= {"numpy": np.__version__, "python": platform.python_version(), "machine": platform.machine()}
    compared = [c for c in checks if c.compared]
    held = bool(compared) and all(c.ok for c in compared)
    left_out = [f"{c.name}: {c.what}" for c in checks if not c.compared]
    return {"versions": versions, "ok": held, "checks": [c.as_dict() for c in compared], "left_out": left_out}


def table(checks: list[Check]) -> list[str]:
    """Lines of a Markdown table: per golden file the comparisons, those that hold, and what was left out."""
    rows = ["| golden arrays | comparisons | hold | left out |", "|---|---|---|---|"]
    for group in dict.fromkeys(c.name.split()[0] for c in checks):
        own = [c for c in checks if c.name.split()[0] == group]
        compared = [c for c in own if c.compared]
        left = "; ".join(c.what for c in own if not c.compared)
        rows.append(f"| `{group}` | {len(compared)} | {sum(c.ok for c in compared)} | {left} |")
    return rows


if __name__ == "__main__":
    sys.exit(main())
