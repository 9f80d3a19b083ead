"""`histojax extract`: tiles of slides, stores or folders through encoders into feature files."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from histojax.common import cli
from histojax.common.errors import UserError
from histojax.slides.flags import add_tile_flags, settings_given, thresholds_help, tile_flags_help, tile_settings
from histojax.slides.mpp import mpp_of_flag
from histojax.slides.settings import flag_of

HELP = f"""\
histojax extract: features of tiles, one HDF5 file a slide, in a folder that TRIDENT and Patho-Bench read

usage: histojax extract --encoder NAME|RUN [--encoder ...] --input STORE|SLIDES|FOLDER... --out DIR [flags]
       (the same: python -m histojax extract, python -m histojax.extract)

  --encoder            a published encoder (histojax encoders lists them), the folder of a training run, or a weight
                       file with its card. Several are run in one pass over the tiles. FOLDER=NAME files the features
                       under another name: --encoder mine_v2=runs/mine
  --weights FILE       a local file for the encoder, or "random"; with several encoders once for each, "-" for none
  --input              tile stores (histojax tile); or slides: files, folders, patterns in quotes, tables with the
                       columns slide, patient, mpp, label; or patches without a slide: an image folder (sub-folders are
                       classes), a table (file,label,patient), a zip. If that is not told apart: --kind stores, slides
                       or patches
  --slides-dir DIR     where the files of a table lie, in sub-folders too (default: beside the table)
  --out DIR            DIR/10x_256px_0px_overlap/{{patches,features_NAME}}/SLIDE.h5 for tiles of slides,
                       DIR/features_NAME/FOLDER.h5 for patches. With extract.json, slides.csv and failed.csv; of slides
                       also visualization/SLIDE.jpg (look at them) and contours_geojson/ (the tissue, for QuPath)
  --which NAME         teacher (default) or student, where a run or file has both
  --pooling NAME       another feature than the encoder's own: cls, cls+mean, mean ...
  --positions WHOSE    as meta, hf, timm or paper resamples the position grid (default: as the encoder's authors)
  --clam               also DIR/.../clam_NAME/{{h5_files,pt_files}}, the data_root_dir that CLAM's training takes
  --patch-tokens       keep the tokens of all patches, too (dataset patch_tokens; large)

slides are cut on the way, as histojax tile does (a store has its own settings):
{tile_flags_help()}
  --mpp M              micrometres per pixel of the slides' own level 0, for those of which neither a table nor their
                       metadata tell it; never guessed
  --include, --exclude GeoJSON (as of QuPath, level-0 pixels): a file, or a folder with one SLIDE.geojson a slide;
                       --include-class and --exclude-class: only annotations of this class

how it is computed:
  --dtype D            float32 (default) or bfloat16, of the matrix products: twice as fast or more on GPU and TPU, and
                       features that differ in the third digit
  --save D             float32 (default) or float16, of the numbers in the files
  --batch-size N       tiles of a batch over all devices of this machine (default auto; halved where memory is short)
  --workers N          processes that read and prepare tiles (default: one a core)
  --shard I/N          only every N-th slide from the I-th on (1/8 ... 8/8), for job arrays; jobs may also run the same
                       command side by side: each slide is done once
  --executor ray       slides as tasks on a Ray cluster (pip install 'histojax[ray]'; RAY_ADDRESS), N at a time, each
                       with a GPU where there are any; default local
  --commercial         refuse weights whose licences do not clearly allow commercial use
  --offline            never download

thresholds:
{thresholds_help()}

Killed at any moment, the same command goes on: finished slides are recognised by their files and left alone, and the
final files are the same. Files of other weights, preprocessing or tiles are refused by name, never overwritten.

examples:
  histojax extract --encoder dinov2_vits14 --input stores/mine --out features/mine
  histojax extract --encoder runs/mine --encoder uni2_h --input slides/ --out features/cohort
  histojax extract --encoder dinov2_vits14 --input cohort.csv --out features/cohort --shard $SLURM_ARRAY_TASK_ID/16
  histojax extract --encoder runs/mine --input CRC-VAL-HE-7K --out features/nct

in Python:
  from histojax.features.read import read_features
  found = read_features("features/mine/10x_256px_0px_overlap/features_dinov2_vits14/slide.h5")
  found.features, found.coords, found.geometry, found.origin      # TRIDENT's, CLAM's, STAMP's files are read, too

exit codes:
  0 done, 1 done but some slides could not be used (failed.csv), 2 bad input (one line on stderr)"""


MARKS = ("include", "exclude", "include_class", "exclude_class")


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code of the command line `argv` (default: that of the process)."""
    return cli.run("histojax extract", HELP, argv, _main)


def _main(argv: Sequence[str]) -> int:
    values = _parse(argv)
    workers, shard = cli.whole_number("--workers", values.workers, 0, 4096), cli.shard(values.shard)
    checked = _checked(values)
    from histojax.features import asked  # jax is imported only now
    from histojax.features.summary import in_words
    from histojax.parallel.backend import start_backend

    encoders = tuple(asked.Wanted(spec, weights) for spec, weights in checked.pop("encoders"))
    marks = asked.Marks(*(getattr(values, name) for name in MARKS))
    wanted = asked.Asked(encoders, marks=marks, **checked)
    if values.executor == "ray":
        summary = asked.run_on_ray(wanted, workers=workers, shard=shard)
    else:
        start_backend()
        summary = asked.run_here(wanted, workers=workers, shard=shard)
    print("\n".join(in_words(summary)))
    if not any(report.tiles for report in summary.reports):
        raise UserError(f"{values.out}: none of {len(summary.reports)} slides gave features; see failed.csv there")
    return 1 if summary.count("failed", "quarantined") else 0


def _checked(values: Any) -> dict[str, Any]:
    """The fields of features.asked.Asked; raises UserError for values that cannot be, before anything is loaded."""
    batch = None if values.batch_size == "auto" else cli.whole_number("--batch-size", values.batch_size, 1, 1 << 20)
    copied = "out slides_dir kind which pooling positions dtype save commercial offline clam".split()
    return {
        "encoders": _encoders(values.encoder, values.weights or []),
        "inputs": tuple(values.input),
        "settings": tile_settings(values),
        "mpp": mpp_of_flag(values.mpp),
        "tokens": values.patch_tokens,
        "batch_size": batch,
        "of_slides": (*_flags_of_slides(values),),
        **{name: getattr(values, name) for name in copied},
    }


def _flags_of_slides(values: Any) -> Iterator[str]:
    yield from (flag_of(name) for name in settings_given(values))
    yield from (f"--{name.replace('_', '-')}" for name in ("mpp", *MARKS) if getattr(values, name) is not None)


def _encoders(specs: Sequence[str], weights: Sequence[str]) -> tuple[tuple[str, str | None], ...]:
    """(encoder, its weights) in the order given."""
    if weights and len(weights) != len(specs):
        given = f"given {len(weights)} times for {len(specs)} encoders"
        raise UserError(f"--weights: {given}: once for each, in their order (- for none)")
    files = [None if text == "-" else text for text in weights] or [None] * len(specs)
    return tuple(zip(specs, files))


def _parse(argv: Sequence[str]) -> Any:
    parser = cli.Arguments()
    parser.add_argument("--encoder", action="append", required=True)
    parser.add_argument("--weights", action="append")
    parser.add_argument("--input", nargs="+", action="extend", required=True)
    parser.add_argument("--out", required=True)
    add_tile_flags(parser)
    for name in ("mpp", "slides_dir", "pooling", "positions", *MARKS):
        parser.add_argument(f"--{name.replace('_', '-')}")
    parser.add_argument("--which", choices=("teacher", "student"))
    parser.add_argument("--kind", default="auto", choices=("auto", "slides", "stores", "patches"))
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--save", default="float32", choices=("float32", "float16"))
    parser.add_argument("--batch-size", default="auto")
    parser.add_argument("--workers", default=str(os.cpu_count() or 1))
    parser.add_argument("--executor", default="local", choices=("local", "ray"))
    parser.add_argument("--shard", default="1/1")
    for flag in ("--patch-tokens", "--clam", "--commercial", "--offline"):
        parser.add_argument(flag, action="store_true")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
