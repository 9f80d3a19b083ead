"""TFDS data sets through `tfds.data_source`: ArrayRecord files, no TensorFlow. Nothing is downloaded here."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from histojax.common.errors import UserError
from histojax.data.decode import encode_png
from histojax.data.tiles import EncodedTiles

SPEC = re.compile(r"(?P<name>.+?):(?P<split>[A-Za-z_]\w*(\[.*\])?(\+.*)?)")


class _Records:
    """Images of a data source, left encoded; every record is fetched anew, so workers hold nothing."""

    def __init__(self, records: Any):
        self.records = records

    def load(self, index: int) -> bytes:
        image = self.records[index]["image"]
        return image if isinstance(image, bytes) else encode_png(image)

    def size(self, index: int) -> int:
        return len(self.load(index))


def open_tfds(spec: str, data_dir: str | None = None) -> EncodedTiles:
    """The tiles of "name:split", e.g. "colorectal_histology:train[:80%]" or "/prepared/folder:test".

    The data set needs an `image` feature and may have a class `label`; labels are read once at the start, which
    reads every record. Raises UserError when it is unknown or not prepared as array_record in `data_dir`.
    """
    match = SPEC.fullmatch(spec)
    if match is None:
        raise UserError(f"tfds:{spec}: expected tfds:NAME:SPLIT, for example tfds:colorectal_histology:train")
    name, split = match["name"], match["split"]
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder_from_directory(name) if Path(name).is_dir() else tfds.builder(name, data_dir=data_dir)
        features = builder.info.features
        if features is None or "image" not in features:
            raise UserError(f"tfds:{spec}: has no feature named image (has: {', '.join(features or ())})")
        records = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
    except UserError:
        raise
    except Exception as error:  # unknown name, split, file format, missing files: each its own exception type
        first = str(error).strip().split("\n")[0]
        raise UserError(
            f"tfds:{spec}: cannot be opened in {data_dir or 'the default data folder'} ({first}). Prepare it once "
            f'with tfds.builder("{name}", file_format="array_record").download_and_prepare()'
        ) from None
    names = [f"{i}" for i in range(len(records))]
    return EncodedTiles(f"tfds:{spec}", names, _Records(records), _class_names(features, records))


def _class_names(features: Any, records: Any) -> list[str] | None:
    if "label" not in features or not hasattr(features["label"], "names"):
        return None
    names = features["label"].names
    return [names[label] if (label := int(record["label"])) >= 0 else "" for record in records]
