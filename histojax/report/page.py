"""A page of HTML that needs nothing but itself: its style and pictures are inside, and it runs no script.

    page = Page("title", "what it is about", [Section("Scores", [Table(("metric", "value"), [("accuracy", "0.9")])])])
    write_page("report.html", page)

Everything that is shown is escaped; the browser is told to load nothing from elsewhere.
"""

from __future__ import annotations

import base64
import html
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from histojax.common.files import write_atomic


@dataclass(frozen=True)
class Text:
    """Sentences, a paragraph each; kind is "", "box" or "warning"."""

    sentences: tuple[str, ...]
    kind: str = ""


@dataclass(frozen=True)
class Table:
    """Titles of the columns and the rows of cells; cells that read as numbers are set to the right.

    Args:
        bold: (row, column) of the cells to stand out.
        note: below it.
    """

    titles: Sequence[str]
    rows: Sequence[Sequence[Any]]
    bold: frozenset[tuple[int, int]] = frozenset()
    note: str = ""


@dataclass(frozen=True)
class Facts:
    """Names and their values."""

    values: Mapping[str, Any]


@dataclass(frozen=True)
class Picture:
    """A picture with a sentence below it.

    Args:
        data: of a PNG or JPEG file.
        alt: what it shows, for those who do not see it.
        caption: below it.
        width: in CSS pixels, at most; 0: its own.
    """

    data: bytes
    alt: str
    caption: str = ""
    width: int = 0


@dataclass(frozen=True)
class Chain:
    """Steps that follow from one another: (title, {name: value}) each."""

    steps: Sequence[tuple[str, Mapping[str, Any]]]


@dataclass(frozen=True)
class Folded:
    """Parts that are seen after a click on the title."""

    title: str
    parts: Sequence[Part]


Part = Text | Table | Facts | Picture | Chain | Folded


@dataclass(frozen=True)
class Section:
    """A heading with what stands below it; pictures that follow one another share a line where there is room."""

    title: str
    parts: Sequence[Part]


@dataclass(frozen=True)
class Page:
    """A page: its title, a line on what it is about, the sections, and a line at its end."""

    title: str
    subtitle: str
    sections: Sequence[Section] = field(default_factory=tuple)
    footer: str = ""


STYLE = """
:root { color-scheme: light; --ink: #1b1f24; --faint: #5c6670; --line: #d9dee3; --pale: #f5f7f9; --blue: #0060a0; }
* { box-sizing: border-box; }
body { margin: 0; color: var(--ink); background: #fff; font: 15px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue",
  "DejaVu Sans", sans-serif; }
header, main, footer { max-width: 1180px; margin: 0 auto; padding: 0 24px; }
header { padding-top: 28px; border-bottom: 1px solid var(--line); padding-bottom: 12px; }
h1 { font-size: 25px; line-height: 1.25; margin: 0 0 4px; overflow-wrap: anywhere; }
header p { margin: 0; max-width: none; color: var(--faint); overflow-wrap: anywhere; }
nav { margin-top: 10px; font-size: 14px; line-height: 1.9; }
nav a { color: var(--blue); text-decoration: none; margin-right: 16px; white-space: nowrap; }
nav a:hover { text-decoration: underline; }
h2 { font-size: 19px; margin: 34px 0 10px; }
p { margin: 6px 0; max-width: 86ch; overflow-wrap: anywhere; }
.box { background: var(--pale); border-left: 4px solid var(--faint); padding: 6px 12px; margin: 10px 0; }
.warning { background: #fff4e0; border-left: 4px solid #d98200; padding: 6px 12px; margin: 10px 0; }
.wide { overflow-x: auto; margin: 10px 0; }
table { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 4px 12px; border-bottom: 1px solid var(--line); vertical-align: top; }
th { background: var(--pale); font-weight: 600; white-space: nowrap; }
td.number, th.number { text-align: right; white-space: nowrap; }
td.best { font-weight: 700; }
.note, figcaption { color: var(--faint); font-size: 13.5px; max-width: 86ch; }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: 2px 16px; margin: 8px 0; font-size: 14px; }
dt { color: var(--faint); }
dd { margin: 0; overflow-wrap: anywhere; }
.figures { display: flex; flex-wrap: wrap; gap: 18px 28px; align-items: flex-start; }
figure { margin: 8px 0; min-width: 0; max-width: 100%; }
figure img { display: block; width: 100%; height: auto; }
ol.chain { list-style: none; padding: 0; margin: 8px 0; display: flex; flex-wrap: wrap; gap: 10px 30px; }
ol.chain li { position: relative; flex: 1 1 235px; max-width: 520px; border: 1px solid var(--line); border-radius: 6px;
  padding: 8px 12px; background: var(--pale); }
ol.chain li:not(:last-child)::after { content: "\\2192"; position: absolute; right: -23px; top: 8px;
  color: var(--faint); }
ol.chain b { display: block; margin-bottom: 2px; }
ol.chain dl { grid-template-columns: auto minmax(0, 1fr); gap: 0 10px; margin: 0; font-size: 13px; }
details { margin: 10px 0; }
summary { cursor: pointer; color: var(--blue); }
footer { margin-top: 40px; padding: 14px 24px 28px; color: var(--faint); font-size: 13px; }
@media print { nav { display: none; } figure, tr { break-inside: avoid; } }
"""

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"  # for the browser: nothing from elsewhere
_NUMBER = re.compile(r"[-+−]?(\d[\d,]*\.?\d*|\.\d+)(e[-+]?\d+)?( ?%)?([ (±\[–].*)?", re.I)


def write_page(path: str | os.PathLike, page: Page) -> None:
    """Writes the page to a file, whole or not at all; raises UserError."""
    write_atomic(path, html_of(page))


def html_of(page: Page) -> str:
    """The page as the text of an HTML file."""
    sections = [section for section in page.sections if section.parts]
    links = " ".join(f'<a href="#s{i}">{_shown(one.title)}</a>' for i, one in enumerate(sections))
    body = "".join(
        f'<section id="s{i}"><h2>{_shown(one.title)}</h2>{_of_parts(one.parts)}</section>\n'
        for i, one in enumerate(sections)
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_shown(page.title)}</title>\n<style>{STYLE}</style></head>\n"
        f"<body><header><h1>{_shown(page.title)}</h1><p>{_shown(page.subtitle)}</p><nav>{links}</nav></header>\n"
        f"<main>\n{body}</main>\n<footer>{_shown(page.footer)}</footer></body></html>\n"
    )


def _shown(value: Any) -> str:
    """A value as text of HTML; bytes of a file name that are no UTF-8 become question marks in a box."""
    return html.escape(str(value).encode("utf-8", "surrogateescape").decode("utf-8", "replace"))


def _of_parts(parts: Sequence[Part]) -> str:
    return "".join(_runs(parts))


def _runs(parts: Sequence[Part]) -> Iterator[str]:
    """The HTML of the parts, pictures that follow one another in one box."""
    waiting: list[str] = []
    for part in parts:
        if isinstance(part, Picture):
            waiting.append(_picture(part))
            continue
        if waiting:
            yield f'<div class="figures">{"".join(waiting)}</div>\n'
            waiting = []
        yield _of_part(part)
    if waiting:
        yield f'<div class="figures">{"".join(waiting)}</div>\n'


def _of_part(part: Part) -> str:
    match part:
        case Text():
            inner = "".join(f"<p>{_shown(one)}</p>" for one in part.sentences)
            return f'<div class="{_shown(part.kind)}">{inner}</div>\n' if part.kind else inner + "\n"
        case Table():
            return _table(part)
        case Facts():
            return _facts(part.values)
        case Chain():
            steps = "".join(f"<li><b>{_shown(title)}</b>{_facts(values)}</li>" for title, values in part.steps)
            return f'<ol class="chain">{steps}</ol>\n'
        case Folded():
            return f"<details><summary>{_shown(part.title)}</summary>{_of_parts(part.parts)}</details>\n"
        case Picture():
            return _picture(part)


def _facts(values: Mapping[str, Any]) -> str:
    return "<dl>" + "".join(f"<dt>{_shown(k)}</dt><dd>{_shown(v)}</dd>" for k, v in values.items()) + "</dl>\n"


def _table(table: Table) -> str:
    columns = range(len(table.titles))
    numeric = [bool(table.rows) and all(_is_number(row[j]) for row in table.rows) for j in columns]

    def cell(tag: str, i: int, j: int, value: Any) -> str:
        kinds = " ".join(["number"] * numeric[j] + ["best"] * ((i, j) in table.bold))
        marked = f' class="{kinds}"' if kinds else ""
        return f"<{tag}{marked}>{_shown(value)}</{tag}>"

    head = "".join(cell("th", -1, j, table.titles[j]) for j in columns)
    cells = ("".join(cell("td", i, j, row[j]) for j in columns) for i, row in enumerate(table.rows))
    rows = "".join(f"<tr>{row}</tr>\n" for row in cells)
    note = f'<p class="note">{_shown(table.note)}</p>' if table.note else ""
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead>\n<tbody>{rows}</tbody></table></div>{note}\n'


def _is_number(value: Any) -> bool:
    return not isinstance(value, str) or value in ("", "–") or bool(_NUMBER.fullmatch(value))


def _picture(picture: Picture) -> str:
    kind = "png" if picture.data.startswith(b"\x89PNG") else "jpeg"
    data = base64.b64encode(picture.data).decode("ascii")
    width = f' style="width:{picture.width}px"' if picture.width else ""
    caption = f"<figcaption>{_shown(picture.caption)}</figcaption>" if picture.caption else ""
    return f'<figure{width}><img src="data:image/{kind};base64,{data}" alt="{_shown(picture.alt)}">{caption}</figure>\n'
