"""A page is whole HTML, shows what it is given and nothing that was put into it."""

from __future__ import annotations

from html.parser import HTMLParser

from histojax.report.page import Chain, Facts, Folded, Page, Picture, Section, Table, Text, html_of, write_page

VOID = {"meta", "img", "br", "hr", "link", "input"}


class Checked(HTMLParser):
    """Raises for tags that are not closed in their order; keeps what is shown and what is referred to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.tags: list[str] = []
        self.references: list[str] = []
        self.classes: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        known = dict(attrs)
        self.references += [known[key] for key in ("src", "href", "action", "data") if key in known]
        self.classes.append((tag, known.get("class") or ""))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def a_page(*parts) -> Page:
    return Page("a title", "about", [Section("first", parts), Section("empty", [])], "end")


def test_all_parts_make_whole_html_that_refers_to_nothing_outside(tmp_path):
    png = b"\x89PNG\r\n"
    parts = (
        Text(("one", "two"), "warning"),
        Table(("name", "n"), [("a", "1,000")]),
        Facts({"k": 1}),
        Picture(png, "p"),
    )
    page = a_page(
        *parts, Picture(b"\xff\xd8", "q", "below", 300), Chain([("tiles", {"mpp": 1})]), Folded("more", parts)
    )
    write_page(tmp_path / "a.html", page)
    found = Checked((tmp_path / "a.html").read_text(encoding="utf-8"))
    assert all(one.startswith(("#", "data:image/")) for one in found.references)
    assert "script" not in found.tags and "link" not in found.tags
    assert found.tags.count("img") == 3 and "empty" not in found.words and "below" in found.words


def test_what_is_shown_is_escaped():
    evil = "<script>alert('\"&')</script>"
    found = Checked(
        html_of(Page(evil, evil, [Section(evil, [Table((evil,), [(evil,)], note=evil), Facts({evil: evil})])]))
    )
    assert "script" not in found.tags and found.words.count(evil) >= 6


def test_numbers_stand_right_and_the_best_is_bold():
    table = Table(("what", "score"), [("a", "0.912 [0.90, 0.92]"), ("b", "–")], bold=frozenset({(0, 1)}))
    cells = [kind for tag, kind in Checked(html_of(a_page(table))).classes if tag == "td"]
    assert cells == ["", "number best", "", "number"]


def test_a_file_name_that_is_no_utf8_is_shown():
    name = b"caf\xe9.png".decode("utf-8", "surrogateescape")
    html_of(a_page(Text((name,)))).encode("utf-8")
