"""`histojax slide-info`: what slides are and how they are read."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from histojax.common import cli
from histojax.common.errors import UserError
from histojax.common.files import expanded, write_atomic

COMMAND = "histojax slide-info"
SOME_BAD = 1
HELP = """\
histojax slide-info: what slides are: size, mpp, objective, levels, associated images, and how they are read

usage: histojax slide-info SLIDES... [--mpp MPP] [--json] [--associated DIR]
       (the same: python -m histojax slide-info, python -m histojax.slide_info)

  SLIDES               slide files, folders of them, patterns, folders of DICOM files, plain images (PNG, JPEG, TIFF) or
                       tables (.csv, .tsv) with a column slide; of one slide everything is shown, of several a line each

flags:
  --mpp MPP            micrometres per pixel of level 0, for slides whose metadata do not say or are wrong
  --json               a list for programs, on stdout; levels with tile size and compression
  --associated DIR     save thumbnail, label and macro of each slide there as PNG (labels may show a patient's name)
  --help               this page

examples:
  histojax slide-info a.svs
  histojax slide-info slides/ --json
  histojax slide-info scan.png --mpp 0.5
  histojax slide-info a.svs --associated looks/

mpp is what its metadata state, or --mpp, or what a table's column mpp says; it is never guessed. "decoder" says whether
JPEG and JPEG 2000 tiles are decoded directly (fast; compared with OpenSlide's pixels first) or through OpenSlide.

exit codes:
  0 all could be read, 1 some could not (named on stderr), 2 none could, or bad input"""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code of the command line `argv` (default: that of the process)."""
    return cli.run(COMMAND, HELP, argv, _main, without_words=True)


def _main(argv: Sequence[str]) -> int:
    parser = cli.Arguments()
    parser.add_argument("slides", nargs="+", metavar="SLIDES")
    parser.add_argument("--mpp")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--associated", metavar="DIR")
    args = parser.parse_args(list(argv))
    from histojax.slides.mpp import parse_mpp

    if args.mpp is not None and (wrong := parse_mpp(args.mpp)[1]):
        raise UserError(f"--mpp {args.mpp} {wrong}")
    found, bad = _describe_all(args.slides, args.mpp)
    _show(found, args.json)
    saved = list(_save_associated(found, expanded(args.associated), bad)) if args.associated else []
    for path in saved:
        print(f"saved {path}", file=sys.stderr)
    for sentence in bad:
        print(f"{COMMAND}: error: {sentence}", file=sys.stderr)
    return (SOME_BAD if found else cli.BAD_INPUT) if bad else 0


def _show(found: list[dict[str, Any]], as_json: bool) -> None:
    from histojax.slides.info import overview, page

    if as_json:
        print(json.dumps(found, indent=1))
    elif len(found) == 1:
        print(page(found[0]))
    elif found:
        print(overview(found))


def _describe_all(specs: Sequence[str], mpp: str | None) -> tuple[list[dict[str, Any]], list[str]]:
    """The facts of each slide that can be opened, and a sentence on each that cannot."""
    from histojax.data.slide_list import find_slides
    from histojax.data.slide_table import MISSING
    from histojax.slides.bad_slide import BadSlide
    from histojax.slides.info import describe

    found, bad = [], []
    for spec in specs:
        try:
            slides = find_slides([spec], same_names=True)
        except UserError as error:
            bad.append(str(error))
            continue
        cli.warn(COMMAND, slides.notes)
        bad += [f"{name}: does not exist" for name, reason in slides.left_out if reason == MISSING]
        for entry in slides.entries:
            try:
                found.append(describe(entry.path, mpp if mpp is not None else entry.mpp))
            except BadSlide as error:
                bad.append(str(error))
    return found, bad


def _save_associated(found: list[dict[str, Any]], folder: Path, bad: list[str]) -> Iterator[Path]:
    """Writes the associated images of the slides; those that cannot be read become sentences in `bad`."""
    import imagecodecs

    from histojax.slides.bad_slide import BadSlide
    from histojax.slides.open_file import open_file

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--associated {folder}: cannot be made ({error.strerror}); choose another folder") from error
    names: set[Path] = set()
    for facts in found:
        file = open_file(Path(facts["path"]))
        for image in facts["associated"]:
            path = folder / f"{facts['name']}_{image.replace('/', '_')}.png"
            if path in names:
                raise UserError(f"{path}: two slides are called {facts['name']}; save their images one by one")
            names.add(path)
            try:
                write_atomic(path, bytes(imagecodecs.png_encode(file.associated_image(image))))
            except BadSlide as error:
                bad.append(str(error))
            else:
                yield path
        file.close()


if __name__ == "__main__":
    sys.exit(main())
