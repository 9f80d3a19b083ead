"""`histojax audit`: copies, blank and unreadable tiles in sets of tiles, and what two sets share that they must not."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from histojax.common import cli
from histojax.common.errors import UserError
from histojax.common.files import expanded
from histojax.data.find import is_of_store

HELP = """\
histojax audit: what is wrong with a set of tiles, and what it shares with another

usage: histojax audit SET ... [--against SET ...] [--out DIR] [--write-clean FILE.csv]
       (the same: python -m histojax audit, python -m histojax.audit)

SET is whatever `histojax train` takes as data: a tile store, an image folder, a CSV list, a zip, synthetic:N.

found in each SET     unreadable tiles; blank ones (--min-contrast); copies of one another: identical pixels,
                      near-identical (saved anew as JPEG, a little lighter or darker, resized, shifted by a pixel or
                      two), and both also turned by quarters or mirrored
found in pairs        patients, slides (TCGA barcodes, and names without case, suffix and UUID), tiles and copies of
                      tiles that both have: of each SET with each set after --against, else of every two SETs

flags:
  --against SET ...   sets to judge by (evaluation); nothing in the others may be in these
  --out DIR           where the tables go (default: audit). It also keeps the hashes of the tiles, by which a run that
                      was killed goes on, and a second one is quick
  --write-clean FILE  a list of the tiles to train on: readable, not blank, of copies the first, none of a patient or
                      slide, and no copy of a tile, in a set after --against. `--config.data.train=FILE` takes it
  --near N            how many of the 255 signs of a tile's hash may differ in a copy (default 48; 0: identical tiles
                      alone). Two different tiles differ in 127 +- 8; of 1.6 million pairs of a real set the nearest in
                      81 (tools/measure_tiles.py)
  --min-contrast X    blank below: standard deviation of green, grey levels (default 4)
  --workers N         processes that read tiles (default: one a CPU core, none for few tiles; 0:
                      this one)
  --help              this page

written to DIR: audit.json (all numbers), duplicates.csv (a row a tile with copies), overlap.csv (a row a patient, slide
or tile that two sets share), left_out.csv (unreadable and blank tiles), pairs.png (the most doubtful copies: look at
them), hashes/

not found: copies turned by other angles, cut elsewhere by more than 2 px (of tiles of about 224 px; of 50 px none), of
other magnification, or strongly recoloured.

examples:
  histojax audit stores/crc
  histojax audit stores/crc --against nct_val_folder --write-clean crc_clean.csv
  histojax train --config configs/tcga_vits14.py --config.data.train=crc_clean.csv --workdir runs/crc

exit codes:
  0 nothing found, 1 something found, 2 bad input (one line on stderr)"""

FOUND = 1
FEW = 4096  # tiles that are hashed before other processes have started


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code of the command line `argv` (default: that of the process)."""
    return cli.run("histojax audit", HELP, argv, _main, without_words=True)


def _main(argv: Sequence[str]) -> int:
    values = _parse(argv)
    from histojax.data.audit import audit
    from histojax.data.audit_report import facts, summary, write_clean, write_tables

    out = expanded(values.out)
    sets = _hashed(values, out)
    print(f"comparing {sum(len(one.rows) for one in sets)} tiles (a minute for two million)", file=sys.stderr)
    found = audit(sets, values.near, values.min_contrast)
    known = facts(found)
    write_tables(out, found, known)
    print(summary(found, known))
    if values.write_clean:
        path = expanded(values.write_clean)
        count, why = write_clean(path, found)
        left = ", ".join(f"{number} {reason}" for reason, number in why.items()) or "none"
        print(f"{path}: {count} tiles to train on; left out: {left}")
    print(f"tables in {out}" + ("" if found.clean() else "; look at pairs.png" if (out / "pairs.png").exists() else ""))
    return 0 if found.clean() else FOUND


def _parse(argv: Sequence[str]) -> Any:
    parser = cli.Arguments()
    parser.add_argument("sets", nargs="*")
    parser.add_argument("--against", nargs="+", default=[])
    parser.add_argument("--out", default="audit")
    parser.add_argument("--write-clean", default="")
    parser.add_argument("--near", type=int, default=48)
    parser.add_argument("--min-contrast", type=float, default=4.0)
    parser.add_argument("--workers", type=int, default=None)
    values = parser.parse_args(argv)
    if not values.sets:
        raise UserError("no set of tiles given (see --help)")
    if not 0 <= values.near <= 80:
        raise UserError(
            f"--near {values.near} must lie between 0 (identical) and 80: different tiles may come as near as that"
        )
    if values.min_contrast < 0 or (values.workers or 0) < 0:
        raise UserError(f"--min-contrast {values.min_contrast:g} and --workers {values.workers} must be 0 or more")
    if values.write_clean and not values.write_clean.endswith(".csv"):
        raise UserError(f"--write-clean {values.write_clean}: name a file ending in .csv, which data.train takes")
    _check_places(values)
    return values


def _check_places(values: Any) -> None:
    """Raises UserError for a set that is named twice, and for files that would be written where they cannot be."""
    known: dict[str, str] = {}
    for spec in values.sets + values.against:
        path = expanded(spec)
        key = os.path.realpath(path) if path.exists() else spec
        if key in known:
            raise UserError(
                f"{spec} is named twice{f', as {known[key]}' * (known[key] != spec)}: it shares all with itself"
            )
        known[key] = spec
    out = expanded(values.out)
    if out.is_dir() and any(is_of_store(name) for name in os.listdir(out)):
        raise UserError(f"--out {out}: a tile store; choose a folder of its own for the tables")
    folder = expanded(values.write_clean).parent
    if not folder.is_dir():
        raise UserError(f"--write-clean {values.write_clean}: the folder {folder} does not exist")


def _hashed(values: Any, out: Path) -> list[Any]:
    """The sets with the hashes of all their tiles, which are kept in `out`."""
    from histojax.common.progress import Progress
    from histojax.data.audit import TileSet
    from histojax.data.hash_sources import hash_source
    from histojax.data.sources import open_source

    specs = [(spec, False) for spec in values.sets] + [(spec, True) for spec in values.against]
    sources = [open_source(spec) for spec, _ in specs]
    for source in sources:
        cli.warn("histojax audit", source.facts.notes)
    count = sum(map(len, sources))
    workers = (os.cpu_count() or 1) * (count > FEW) if values.workers is None else values.workers
    progress = Progress(count, unit="tile", items="tiles")
    sets, done = [], 0
    for (spec, judges), source in zip(specs, sources):
        hashes = hash_source(spec, source, out / "hashes", workers, progress, done)
        done += len(source)
        sets.append(TileSet(spec, source, hashes.rows(), hashes.bad(), judges))
    progress.close()
    return sets


if __name__ == "__main__":
    sys.exit(main())
