"""`histojax tile`: whole slides in, a tile store out."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from histojax.common import cli
from histojax.common.files import expanded
from histojax.common.progress import hms
from histojax.slides.flags import add_tile_flags, thresholds_help, tile_flags_help, tile_settings
from histojax.slides.settings import CHECKS

HELP = f"""\
histojax tile: whole slides in, a tile store out

usage: histojax tile SLIDES... --out DIR [--preset extract|finetune] [flags]
       (the same: python -m histojax tile, python -m histojax.tile)

  SLIDES               slides, folders of slides (sub-folders, too), patterns in quotes, or tables (CSV, TSV) with the
                       columns slide, patient, mpp, label in the spellings people have; what OpenSlide reads (svs,
                       ndpi, mrxs, scn, bif, tiff, DICOM ...) and plain images with a given mpp
  --slides-dir DIR     where the files of a table lie, in sub-folders too (default: beside the table)
  --out DIR            the store: a folder that is missing, empty, or was begun by the same command

what is cut:
{tile_flags_help()}
  --mpp M              micrometres per pixel of the slides' own level 0, for those of which neither a table nor their
                       metadata tell it; never guessed: without it such a slide is refused
  --include, --exclude GeoJSON (as of QuPath, level-0 pixels): a file, or a folder with one SLIDE.geojson a slide;
                       --include-class and --exclude-class: only annotations of this class

how it is stored:
  --image jpeg|png     default jpeg
  --quality Q          of the JPEG, 1 to 100, colours at full resolution (default 90)
  --coordinates        only the places: training and extraction read the slides themselves
  --no-tiles-csv       leave tiles.csv out

who does it:
  --workers N          processes (default: one a core)
  --executor ray       tasks on a Ray cluster (pip install 'histojax[ray]'; RAY_ADDRESS), N at a time; default local
  --shard I/N          only every N-th slide from the I-th on (1/8 ... 8/8), for job arrays; jobs may also run the same
                       command side by side: each slide is cut once

thresholds:
{thresholds_help()}

the store: tiles/ (ArrayRecord), index.arrow, slides.csv, tiles.csv, qc/SLIDE.jpg (look at them), contours_geojson/ (the
tissue, for QuPath), skipped.csv (what could not be read or found), left_out.csv (what is no slide), summary.json
(of a job array one a job). Killed at any moment, the same command goes on.

examples:
  histojax tile slides/ --out stores/mine                              256 px at 1.0 mpp, for features
  histojax tile slides/ --out stores/train --preset finetune --max-tiles 2000
  histojax tile cohort.csv --out stores/cohort --mpp 0.25              slides that do not tell their mpp have 0.25
  histojax train --config configs/tcga_vits14.py --workdir runs/mine --config.data.train=stores/train

exit codes:
  0 done, 1 done but some slides could not be used or found (skipped.csv), 2 bad input (one line on stderr)"""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code of the command line `argv` (default: that of the process)."""
    return cli.run("histojax tile", HELP, argv, _main)


def _main(argv: Sequence[str]) -> int:
    arguments = _parse(argv)
    settings, shard = tile_settings(arguments), cli.shard(arguments.shard)
    from histojax.data.cut_slide import Cut
    from histojax.data.cutting import cut_slides
    from histojax.data.slide_list import find_slides
    from histojax.data.slide_marks import Marks
    from histojax.data.slide_table import MISSING
    from histojax.slides.mpp import mpp_of_flag

    slides = find_slides(arguments.slides, arguments.slides_dir)
    cli.warn("histojax tile", slides.notes)
    marks = Marks(
        _absolute(arguments.include), _absolute(arguments.exclude), arguments.include_class, arguments.exclude_class
    )
    cut = Cut(
        str(expanded(arguments.out)),
        settings,
        coordinates=arguments.coordinates,
        image=arguments.image,
        quality=cli.whole_number("--quality", arguments.quality, 1, 100),
        mpp=mpp_of_flag(arguments.mpp),
        marks=marks,
    )
    workers = cli.whole_number("--workers", arguments.workers, 0, 4096)
    summary = cut_slides(
        slides.entries,
        cut,
        workers=workers,
        executor=arguments.executor,
        shard=shard,
        tiles_csv=arguments.tiles_csv,
        left_out=slides.left_out,
    )
    print(in_words(summary, cut.out, slides.left_out))
    missing = any(reason == MISSING for _, reason in slides.left_out)
    return 1 if summary.failures or missing else 0


def _absolute(path: str | None) -> str | None:
    return None if path is None else str(expanded(path).absolute())


def _parse(argv: Sequence[str]) -> Any:
    parser = cli.Arguments()
    parser.add_argument("slides", nargs="+")
    parser.add_argument("--out", required=True)
    add_tile_flags(parser)
    for flag in ("--mpp", "--include", "--exclude", "--include-class", "--exclude-class", "--slides-dir"):
        parser.add_argument(flag)
    parser.add_argument("--image", default="jpeg", choices=("jpeg", "png"))
    parser.add_argument("--quality", default="90")
    parser.add_argument("--coordinates", action="store_true")
    parser.add_argument("--no-tiles-csv", dest="tiles_csv", action="store_false")
    parser.add_argument("--workers", default=str(os.cpu_count() or 1))
    parser.add_argument("--executor", default="local", choices=("local", "ray"))
    parser.add_argument("--shard", default="1/1")
    return parser.parse_args(argv)


def in_words(summary: Any, out: str, left_out: Sequence[tuple[str, str]] = ()) -> str:
    """What was done, for the end of the command."""
    done, before, failed = summary.count("done"), summary.count("done before"), len(summary.failures)
    empty = [f"{r.slide} ({r.no_tile})" for r in summary.reports if not r.tiles and not r.why]
    tiles = sum(report.tiles for report in summary.reports)
    rate = tiles / summary.seconds if summary.seconds and not before else 0
    lines = [
        f"slides      {len(summary.reports)}: {done} cut now, {before} before, {failed} could not be used",
        f"tiles       {tiles:,}" + (f" ({rate:,.0f}/s)" if rate else "") + f", {summary.bytes / 1e6:,.1f} MB",
    ]
    lines += [f"no tile     {report}" for report in _listed(empty)]
    lines += [f"rejected    {count:,} places: {why}" for why, count in sorted(summary.rejected.items())]
    if unreadable := sum(report.unreadable for report in summary.reports):
        lines.append(f"unreadable  {unreadable:,} tiles, listed in {Path(out) / 'skipped.csv'}")
    lines += [f"note        {note}" for note in _notes(summary.reports)]
    lines += [f"look        {many}" for many in _listed(_too_many_rejected(summary.reports))]
    lines += [f"{report.state:11s} {report.path}: {report.why}" for report in summary.failures]
    if left_out:
        lines += [f"left out    {reason}" for reason in _reasons(left_out)]
        lines.append(f"            all {len(left_out)} are listed in {Path(out) / 'left_out.csv'}")
    lines.append(f"seconds     {summary.seconds:.1f} ({hms(summary.seconds)})")
    lines.append(f"look at     {Path(out) / 'qc'}")
    lines.append(f"next        histojax train ... --config.data.train={out}, or histojax extract ... --input {out}")
    return "\n".join(lines)


def _notes(reports: Sequence[Any]) -> list[str]:
    """Each note once, with the slides it is on."""
    slides: dict[str, list[str]] = {}
    for report in reports:
        for note in report.notes:
            slides.setdefault(note, []).append(report.slide)
    return [f"{on[0]}{f' and {len(on) - 1} more slides' * (len(on) > 1)}: {note}" for note, on in slides.items()]


def _too_many_rejected(reports: Sequence[Any]) -> list[str]:
    """Slides that lost more tiles to one check than they kept: a scanner out of focus, or a threshold that is wrong."""
    return [
        f"{report.slide}: {count} rejected for {why}, {report.tiles} kept"
        for report in reports
        for why, count in report.rejected.items()
        if why in CHECKS and count > report.tiles
    ]


def _reasons(left_out: Sequence[tuple[str, str]]) -> list[str]:
    """E.g. 12 files: not slides (slides/README.md ...)."""
    counts, example = Counter(why for _, why in left_out), {why: name for name, why in reversed(left_out)}
    return [f"{count} files: {why} ({example[why]}{' ...' * (count > 1)})" for why, count in counts.most_common()]


def _listed(names: Sequence[str], most: int = 5) -> list[str]:
    return [*names[:most], *([f"... and {len(names) - most} more slides"] if len(names) > most else [])]


if __name__ == "__main__":
    sys.exit(main())
