"""The page tools/BENCHMARKS.md of lines that the benchmarks printed: aims, the machine, a table a benchmark.

    python tools/bench_page.py LINES.jsonl [MORE.jsonl ...] [--out tools/BENCHMARKS.md] [--quick]

tools/bench_all.sh makes the lines and calls this. Of lines of one benchmark and case the last one counts.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench_common import OURS

Row = dict[str, Any]
STEP = "vit_small, batch 8, 2 x 224 + 8 x 98 px, 65536 prototypes"
AUTOCAST = "PyTorch, bfloat16 autocast"
PRODUCTS = "most of the step is float32 matrix products, which run about equally fast in both"
SIXTEEN = (
    "PyTorch multiplies in 16 bits, 2 to 3 times faster on processors that have instructions for it; ours in float32"
)
SECTIONS = {  # bench: (title, how it is measured)
    "step": ("Training step", "`bench_step.py --peer`: eager PyTorch without making the crops; ours makes them"),
    "crops": ("Multi-crop", "`bench_crops.py --peer`: the same parameters, pictures compared first"),
    "extract": ("Features", "`bench_extract.py --peer`: timm in eager mode"),
    "tiles": ("Tiles from slides", "`bench_tiles.py --peer`: OpenSlide's read_region; PyTorch has no reader of slides"),
    "store": ("Tile store", "`bench_store.py`: beside the same files in a folder; PyTorch has no such store"),
    "probes": ("Probes", "`bench_probes.py --peer`: scikit-learn, with the same neighbours and an objective as good"),
    "mil": ("Training on bags", "`bench_mil.py --peer`: the same steps in PyTorch with fused attention"),
    "decode": ("Decoding", "`bench_data.py --peer`: one thread; Pillow's pixels are ours"),
    "workers": ("Batches", "`bench_data.py --peer`: threads or worker processes, beside a DataLoader"),
    "waiting": ("Waiting for batches", "`bench_data.py`: a device that takes so many times what the pipeline gives"),
    "start": ("Starts", "`bench_start.py --peer`: a process from start to end; ratios to the start with the cache"),
    "growth": ("Growth of a step", "`bench_growth.py`: one number changed at a time, exponents of a * x**b"),
    "plan": ("Planned for accelerators", "`bench_plans.py`: compiled for devices that are not there, nothing measured"),
}
SHOWN_APART = {"bench", "case", "unit", "rounds", "sides", "ratios", "readings"}


class Aim(NamedTuple):
    """What a line should show: `value` of it, at least or at most `limit`; `why` if it does not."""

    what: str
    bench: str
    case: str  # how the case begins
    value: Callable[[Row], float]
    limit: float
    at_least: bool = True
    why: str = ""
    unit: str = "x"


def _ratio(peer: str, kind: str) -> Callable[[Row], float]:
    return lambda row: row["ratios"][peer][kind]


AIMS = (
    Aim("step, CPU seconds beside PyTorch's", "step", STEP, _ratio("PyTorch", "cpu"), 2.0, why=PRODUCTS),
    Aim("step, wall-clock seconds beside PyTorch's", "step", STEP, _ratio("PyTorch", "wall"), 2.0, why=PRODUCTS),
    Aim("step, peak memory", "step", STEP, lambda r: r["peak_gib"][OURS], 2.6, False, unit=" GiB"),
    Aim("step, seconds beside PyTorch's bfloat16", "step", STEP, _ratio(AUTOCAST, "wall"), 1.0, why=SIXTEEN),
    Aim("multi-crop, a CPU second, 256 px tiles", "crops", "256 px", _ratio("torchvision + Pillow", "cpu"), 2.0),
    Aim("multi-crop, a CPU second, 224 px tiles", "crops", "224 px", _ratio("torchvision + Pillow", "cpu"), 2.0),
    Aim("growth with batch, time", "growth", "batch", lambda r: r["exponents"]["cpu_seconds"], 1.15, False, unit=""),
    Aim("with prototypes, time", "growth", "prototypes", lambda r: r["exponents"]["cpu_seconds"], 1.15, False, unit=""),
    Aim("with tokens, time", "growth", "tokens", lambda r: r["exponents"]["cpu_seconds"], 2.15, False, unit=""),
    Aim("with depth, time", "growth", "depth", lambda r: r["exponents"]["cpu_seconds"], 1.15, False, unit=""),
    Aim("planned: ViT-S, batch 256, A100", "plan", "nct_vits14", lambda r: r["peak_gib"], 16, False, unit=" GiB"),
    Aim("planned: ViT-g, batch 32, a card of 40 GB", "plan", "nct_vitg14, batch 32", lambda r: r["peak_gib"], 37, False,
        unit=" GiB"),
    Aim("planned: compiling ViT-S for an A100", "plan", "nct_vits14", lambda r: r["compile_seconds"], 60, False,
        why="on one core of this machine; the next start reads it from the cache", unit=" s"),
)  # fmt: skip


def read(paths: Iterable[Path]) -> list[Row]:
    """All lines; of a benchmark and a case the last."""
    found: dict[tuple[str, str], Row] = {}
    for path in paths:
        for line in path.read_text().splitlines():
            if line.startswith("{"):
                row = json.loads(line)
                found[row["bench"], row.get("case", "")] = row
    return [*found.values()]


def page(rows: Sequence[Row], quick: bool = False) -> str:
    """The page in Markdown."""
    about = next((row for row in rows if row["bench"] == "machine"), {})
    parts = ["# Benchmarks", "Written by `tools/bench_all.sh`; do not edit." + _quick_words(quick), _machine(about)]
    parts += ["## Aims", _aims(rows)]
    for bench, (title, how) in SECTIONS.items():
        mine = [row for row in rows if row["bench"] == bench and "failed" not in row]
        if mine:
            parts += [f"## {title}", f"{how}.", _table(mine)]
    if failed := [row for row in rows if "failed" in row]:
        parts += ["## Failed", "\n".join(f"- `{row['case']}`: exit code {row['failed']}" for row in failed)]
    return "\n\n".join(parts) + "\n"


def _quick_words(quick: bool) -> str:
    return " **Quick run: tiny cases, one round; a proof that the tools work, no figures.**" if quick else ""


def _machine(about: Row) -> str:
    if not about:
        return "The machine was not recorded."
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    load = about["load"]
    busy = " (busy: compare nothing but CPU seconds, and these with care: PyTorch's threads wait actively)"
    return (
        f"{about['cores']} cores of {about['processor']}, {about['memory_gib']:g} GiB, {about['system']}; load "
        f"{load:g} before{busy if load > 0.5 * about['cores'] else ''}. Python {about['python']}, {versions}.\n\n"
        "Medians for one unit, behind it the number of readings; CPU seconds count all threads and processes, in "
        "brackets their range. Ratios say how many times fewer seconds we take. Readings drift on shared machines: "
        "compare ratios."
    )


def _aims(rows: Sequence[Row]) -> str:
    lines = ["| aim | wanted | found | |", "|---|---:|---:|---|"]
    for aim in AIMS:
        words = f"{'at least' if aim.at_least else 'at most'} {aim.limit:g}{aim.unit}"
        value = _value(aim, rows)
        if value is None:
            verdict = ("-", "not measured in this run")
        else:
            reached = value >= aim.limit if aim.at_least else value <= aim.limit
            verdict = (
                f"{value:.3g}{aim.unit}",
                "reached" if reached else f"**not reached**{': ' * bool(aim.why)}{aim.why}",
            )
        lines.append(f"| {aim.what} | {words} | {verdict[0]} | {verdict[1]} |")
    return "\n".join(lines)


def _value(aim: Aim, rows: Sequence[Row]) -> float | None:
    """The aim's value of the first line that has it."""
    for row in rows:
        if row["bench"] == aim.bench and row.get("case", "").startswith(aim.case):
            try:
                return aim.value(row)
            except KeyError:
                continue
    return None


def _table(rows: Sequence[Row]) -> str:
    """A line a case and side, or a line a case where there are no sides."""
    if not any("sides" in row for row in rows):
        lines = [f"| {row['case']} | {_facts(row)} |" for row in rows]
        return "\n".join(["| case | found |", "|---|---|", *lines])
    lines = ["| case | side | wall s | CPU s | ratio wall | ratio CPU | |", "|---|---|---:|---:|---:|---:|---|"]
    for row in rows:
        for i, (side, told) in enumerate(row.get("sides", {}).items()):
            ratio = row["ratios"].get(side, {})
            low, high = told["cpu_range"]
            cells = [
                f"{row['case']} (per {row['unit']}; {row['rounds']})" if i == 0 else "",
                side,
                f"{told['wall_seconds']:.3g}",
                f"{told['cpu_seconds']:.3g} [{low:.3g}, {high:.3g}]",
                *(f"**{ratio[kind]:.2f}**" if ratio else "" for kind in ("wall", "cpu")),
                _facts(row) if i == 0 else "",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _facts(row: Row) -> str:
    """What else a line says, in words."""
    return "; ".join(f"{_words(key)} {_plain(value)}" for key, value in row.items() if key not in SHOWN_APART)


def _words(key: str) -> str:
    return key.replace("_", " ")


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{_words(key)} {_plain(one)}" for key, one in value.items())
    if isinstance(value, list):
        return "none" if not value else " ".join(map(_plain, value))
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if type(value) is int else str(value)


def main(argv: list[str] | None = None) -> None:
    """Writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lines", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("BENCHMARKS.md"))
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args(argv)
    rows = read(args.lines)
    args.out.write_text(page(rows, args.quick))
    print(f"{args.out}: {len(rows)} lines", file=sys.stderr)


if __name__ == "__main__":
    main()
