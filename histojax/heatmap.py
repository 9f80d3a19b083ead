"""`histojax heatmap`: where on a slide a head looks and what it says of each tile, and tokens as colours."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from histojax.common import cli
from histojax.common.errors import UserError
from histojax.common.files import expanded, make_folder

COMMAND = "histojax heatmap"
HELP = """\
histojax heatmap: attention and class scores over slides, and the patch tokens of an image as colours

usage: histojax heatmap SLIDE ... --features DIR --head HEAD ... --out DIR
       histojax heatmap FEATURES.h5 ... [--slides DIR] --head HEAD ... --out DIR
       histojax heatmap IMAGE|SLIDE --tokens --encoder NAME [--region X,Y,WIDTH,HEIGHT] --out DIR
       (the same: python -m histojax heatmap, python -m histojax.heatmap)

  SLIDE, FEATURES.h5   slides with the folder of their features, or feature files (histojax extract, TRIDENT, CLAM,
                       STAMP, HistoBistro) with the folder of their slides; without slides the tiles alone are drawn
  --head HEAD ...      heads that histojax evaluate slide trained (OUT/heads/...), or HistoBistro's .pth and .ckpt; of
                       several (the folds of one model) the mean is shown
  --features DIR       a feature file, or a folder in which NAME.h5 of each slide lies
  --slides DIR         a slide, or a folder in which those of the feature files lie
  --encoder NAME|RUN   compute the features of the slides first, into OUT/features (--tile-px, --target-mpp as histojax
                       extract); --weights FILE as there
  --mpp M              micrometres per pixel of level 0 of slides that do not tell theirs
  --top N              how many of the most attended tiles to show (default 24; 0: none)
  --out DIR            where the pictures go

written for each slide:
  NAME_attention.png   the slide, and its tiles by the rank of their attention; 1 is what each would have if all had the
                       same. Of a transformer: the class token's in the last layer, the mean over its attention heads
  NAME_CLASS.png       what the head says of each tile as if it were the whole slide
  NAME.geojson         the tiles for QuPath (File > Import objects), level-0 pixels, coloured by attention, with all
                       values as measurements (Measure > Show measurement maps)
  NAME.csv, NAME_top.jpg
                       the same as a table; the most attended tiles as images

--tokens: the first three principal components of the patch tokens as red, green and blue, beside the image
  IMAGE                a tile (PNG, JPEG, TIFF ...), or with --region a part of a slide, level-0 pixels, at --target-mpp
                       (default 0.5), in half overlapping tiles; background stays white. Or a file with patch tokens

Attention tells which tiles a head read from, not why; scores of single tiles are outside of what it was trained on.

examples:
  histojax heatmap slides/a.svs --features features/cohort --head eval/msi/heads/transformer-*.safetensors --out maps
  histojax heatmap features/cohort/10x_256px_0px_overlap/features_uni_v1/a.h5 --head head.safetensors --out maps
  histojax heatmap slides/a.svs --tokens --encoder runs/mine --region 12000,8000,4096,4096 --out maps

exit codes:
  0 done, 2 bad input (one line on stderr)"""
TOKENS_MPP = 0.5


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code of the command line `argv` (default: that of the process)."""
    return cli.run(COMMAND, HELP, argv, _main)


def _main(argv: Sequence[str]) -> int:
    values = _parse(argv)
    for text in values.inputs:
        if not expanded(text).exists():
            raise UserError(f"{text}: no such file or folder")
    make_folder(expanded(values.out))
    if values.tokens:
        _draw_tokens(values)
    else:
        _draw_heads(values)
    return 0


def _parse(argv: Sequence[str]) -> Any:
    parser = cli.Arguments()
    parser.add_argument("inputs", nargs="*")
    parser.add_argument("--head", nargs="+", action="extend", default=[])
    parser.add_argument("--tokens", action="store_true")
    for name in ("--features", "--slides", "--encoder", "--weights", "--mpp", "--target-mpp", "--region"):
        parser.add_argument(name)
    parser.add_argument("--tile-px")
    parser.add_argument("--top", default="24")
    parser.add_argument("--out", required=True)
    values = parser.parse_args(argv)
    from histojax.slides.mpp import mpp_of_flag

    if not values.inputs:
        raise UserError("no slide and no feature file given (see --help)")
    if bool(values.head) == values.tokens:
        raise UserError("give either --head HEAD (attention and scores) or --tokens (see --help)")
    values.mpp = mpp_of_flag(values.mpp)
    values.target_mpp = mpp_of_flag(values.target_mpp, "--target-mpp")
    values.top = cli.whole_number("--top", values.top, 0, 400)
    values.region = _region(values.region)
    return values


def _region(text: str | None) -> tuple[int, int, int, int] | None:
    if text is None:
        return None
    if not re.fullmatch(r"-?\d+,-?\d+,\d+,\d+", text):
        raise UserError(
            f"--region {text}: expected X,Y,WIDTH,HEIGHT in level-0 pixels, for example 12000,8000,4096,4096"
        )
    x, y, width, height = map(int, text.split(","))
    if not width or not height:
        raise UserError(f"--region {text}: its width and height must be above 0")
    return x, y, width, height


def _draw_heads(values: Any) -> None:
    from histojax.evaluation import map_inputs, slide_map
    from histojax.evaluation.mil.head_file import load_head
    from histojax.features.read import read_features
    from histojax.parallel.backend import start_backend

    start_backend()
    heads = [load_head(path) for path in values.head]
    if values.encoder:
        values.features = _computed(values)
    pairs = map_inputs.find_pairs(values.inputs, values.features, values.slides)
    for pair in pairs:
        stored = read_features(pair.features, slide_mpp=values.mpp)
        slide = slide_map.opened_slide(pair.slide, stored, values.mpp)
        try:
            found = slide_map.map_slide(stored, heads, slide)
            files = slide_map.write_map(expanded(values.out), found, slide, stored.geometry.tile_px or 224, values.top)
        finally:
            if slide is not None:
                slide.close()
        print(f"{found.name}: {found.words()}")
        cli.warn(COMMAND, (f"{found.name}: {note}" for note in found.notes))
        print("\n".join(f"  {path}" for path in files))


def _computed(values: Any) -> str:
    """The folder of the features of the slides, by the encoder that was asked for."""
    from histojax.evaluation import map_inputs
    from histojax.features.asked import Wanted
    from histojax.slides.settings import settings_from

    if any(map_inputs.is_features(Path(text)) for text in values.inputs):
        raise UserError("--encoder is for slides; a feature file has its features")
    given = {"tile_px": values.tile_px, "mpp": values.target_mpp}
    settings = settings_from({key: value for key, value in given.items() if value is not None}, "extract")
    out = expanded(values.out) / "features"
    return map_inputs.extracted(values.inputs, Wanted(values.encoder, values.weights), out, settings, values.mpp)


def _draw_tokens(values: Any) -> None:
    from histojax.evaluation.map_inputs import is_features

    for text in values.inputs:
        path = expanded(text)
        words = _stored_tokens(path, values) if is_features(path) else _computed_tokens(path, values)
        print(words)


def _stored_tokens(path: Path, values: Any) -> str:
    from histojax.evaluation import token_map

    found = token_map.map_file(path)
    return _save(found, values, path.stem, "")


def _computed_tokens(path: Path, values: Any) -> str:
    from histojax.evaluation import map_inputs, token_map
    from histojax.parallel.backend import start_backend
    from histojax.slides.slide import slide_name
    from histojax.zoo.encoder import load_encoder

    if not values.encoder:
        raise UserError("--tokens of an image needs --encoder NAME (or give a feature file made with --patch-tokens)")
    image = map_inputs.read_place(path, values.region, values.mpp, values.target_mpp or TOKENS_MPP)
    start_backend()
    encoder = load_encoder(values.encoder, values.weights, resize=False)
    found = token_map.map_image(image, encoder.preprocess.side, encoder.tokens)
    name = slide_name(path) + ("_{}_{}_{}_{}".format(*values.region) if values.region else "")
    return _save(found, values, name, encoder.record.name)


def _save(found: Any, values: Any, name: str, encoder: str) -> str:
    from histojax.evaluation.token_map import write_tokens

    path = expanded(values.out) / f"{name}_tokens.png"
    write_tokens(path, found, (name, f"{encoder} {found.words()}".strip()))
    return f"{path}: {found.colours.shape[0]} x {found.colours.shape[1]} tokens of {found.tiles} tiles, {found.words()}"


if __name__ == "__main__":
    sys.exit(main())
