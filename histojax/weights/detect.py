"""Which network a file is of and which layout it has, judged by its tensors' names alone, with the reason."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from histojax.common.errors import UserError
from histojax.weights.families import FAMILIES, LAYOUTS, check_family, title
from histojax.weights.layouts import Layout
from histojax.weights.mapping import to_tree
from histojax.weights.report import some
from histojax.weights.strangers import known_stranger
from histojax.weights.trees import ghost


def detect_layout(names: Iterable[str], layouts: Iterable[Layout] = LAYOUTS) -> list[tuple[Layout, str]]:
    """Return the layouts that fit the tensor names (clean ones, see search.clean_names), each with the reason."""
    known = set(names)
    return [(layout, why) for layout in layouts if (why := layout.recognise(known))]


def the_layout(
    names: Iterable[str],
    layouts: Iterable[Layout] = LAYOUTS,
    *,
    family: str | None = None,
    want: str | None = None,
    file: Any = "weights",
) -> tuple[Layout, str]:
    """Return the one layout that fits, and why.

    Args:
        layouts: the candidates.
        family: the network that the weights are for, if known; a file of another one is refused by name.
        want: the layout's name, if it is known. Where one layout has that name it is not questioned; where several
            have ("hf" is in many families) the names in the file choose among them.
        file: named in messages.

    Raises:
        UserError: none or several fit, or one of another family; the candidates are listed.
    """
    names, layouts = sorted(names), tuple(layouts)
    check_family(family)
    if want is not None:
        layouts = _named(want, layouts, family)
        if len(layouts) == 1:
            return layouts[0], "as asked for"
    found = detect_layout(names, layouts)
    own = [pair for pair in found if family in (None, pair[0].family)]
    if len(own) == 1:
        return own[0]
    if own:
        raise UserError(f"{file}: the names fit several layouts: {_listing(own)}. Say which one with --layout")
    if found:
        expected = FAMILIES[family or ""].title
        raise UserError(f"{file}: these are weights of another architecture, {_listing(found)}; expected {expected}")
    raise UserError(f"{file}: {_nothing_fits(names, layouts, family)}")


def _named(want: str, layouts: tuple[Layout, ...], family: str | None) -> tuple[Layout, ...]:
    """Return the layouts called `want`, or else those whose name begins so ("hf" of "hf-vit")."""
    own = [layout for layout in layouts if family in (None, layout.family)]
    exact = tuple(layout for layout in own if layout.name == want)
    kin = tuple(layout for layout in own if layout.name.partition("-")[0] == want)
    if not kin and not exact:
        known = ", ".join(dict.fromkeys(layout.name for layout in own))
        raise UserError(f"unknown layout {want!r}; known are {known}")
    return kin or exact


def _listing(found: list[tuple[Layout, str]]) -> str:
    return "; ".join(f"{title(layout)} ({why})" for layout, why in found)


def _closest(names: Sequence[str], layouts: Iterable[Layout], family: str | None) -> tuple[Layout, list[str]] | None:
    """Return (layout, missing names) of the one that has a place for most names, if that is nine of ten."""
    best: tuple[int, Layout, list[str]] | None = None
    ghosts = {name: ghost((1,)) for name in names}
    for layout in layouts:
        if family in (None, layout.family):
            try:
                _, report = to_tree(ghosts, layout.rules, ignore=layout.ignore, dtype=None)
            except UserError:  # numbers that no network has
                continue
            used = len(names) - len(report.unused)
            if report.missing and 10 * used >= 9 * len(names) > 90 and (best is None or used > best[0]):
                best = used, layout, report.missing
    return best and best[1:]


def _nothing_fits(names: list[str], layouts: tuple[Layout, ...], family: str | None) -> str:
    shown = ", ".join(names[:5])
    if what := known_stranger(names):
        return f"this looks like {what} (the first names are {shown})"
    if (near := _closest(names, layouts, family)) is not None:
        layout, missing = near
        return (
            f"the names are nearly those of {title(layout)}, but {len(missing)} tensors are missing: {some(missing)}. "
            "The file is incomplete, or of a variant that is not known here"
        )
    choices = ", ".join(title(layout) for layout in layouts if family in (None, layout.family))
    return f"the names of its {len(names)} tensors fit none of the layouts {choices}; the first are {shown}"
