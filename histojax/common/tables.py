"""Tables for people: CSV in UTF-8, whole or not there."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from histojax.common.files import replacing


def csv_text(titles: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """The text of a table with a header row."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(chain([titles], rows))
    return text.getvalue()


def write_table(path: Path, titles: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Writes a table row by row as they come; where there is none, no file is left. Raises UserError."""
    rows = iter(rows)
    first = next(rows, None)
    if first is None:
        path.unlink(missing_ok=True)
        return
    # a file name that is no UTF-8 gets the bytes back that Python read
    with replacing(path) as partial, open(partial, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        csv.writer(file, lineterminator="\n").writerows(chain([titles, first], rows))
