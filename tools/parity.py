"""Compare histojax with arrays recorded from the reference implementations, and certify the result.

    python tools/parity.py GOLDEN_DIR... [--json certificate.json] [--table] [--only TEXT] [--weights FILE]

Every case is found by the contents of the folders: no list of cases, seed or size is written here. Each is run
through histojax's public functions in float32 on the CPU and prints one line. What is in a folder and was not
compared is listed too (skip). The exit status is 1 if a line fails or if nothing could be compared.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the checkout that this tool lies in

from parity_cases import certificate
from parity_cases.certificate import Result

from histojax.common.files import write_atomic


def main(argv: list[str] | None = None) -> int:
    """0 if every comparison held, 1 if one failed or nothing was compared, 2 for folders or files that cannot be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="GOLDEN_DIR")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the certificate here")
    parser.add_argument("--table", action="store_true", help="print the certificate as a Markdown table")
    parser.add_argument("--only", default="", metavar="TEXT", help="run the cases whose name contains this")
    parser.add_argument(
        "--weights", type=Path, metavar="FILE", help="weights for cases whose network is too large for a golden folder"
    )
    args = parser.parse_args(argv)
    problem = _problem(args)
    if problem:
        print(f"parity: {problem}", file=sys.stderr)
        return 2
    results = []
    for result, checks in certificate.run(args.folders, args.only, args.weights):
        if len(args.folders) > 1:
            print(f"== {result.label}")
        for check in checks:
            print(check.line(), flush=True)
        results.append(result)
    _say(results)
    if args.table:
        print("\n" + "\n".join(certificate.table(results)))
    if args.json:
        write_atomic(args.json, certificate.to_json(certificate.certificate(results, args.only)))
    return int(not all(r.ok for r in results))


def _problem(args: argparse.Namespace) -> str:
    missing = [str(f) for f in args.folders if not f.is_dir()]
    if missing:
        return f"not a folder: {', '.join(missing)}"
    if args.weights and not args.weights.exists():
        return f"no such file of weights: {args.weights}"
    reason = certificate.why_not_writable(args.json) if args.json else ""
    return f"the certificate cannot be written to {args.json}: {reason}" if reason else ""


def _say(results: list[Result]) -> None:
    """The sums, and what failed once more."""
    print()
    for result in results:
        failed, left = [c for c in result.compared if not c.ok], [c for c in result.checks if not c.compared]
        arrays = sum(c.arrays for c in left)
        skips = f"{len(left)} left out (skip; {arrays} arrays), " if left else ""
        print(
            f"{result.label}: {len(result.compared)} comparisons, {len(failed)} failed, {skips}{result.seconds:.0f} s"
        )
        for check in failed:
            print("FAIL", check.name, check.what)
        if not result.compared:
            print(f"parity: nothing to compare in {result.label}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
