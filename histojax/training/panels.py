"""The panels of a run's curves: what the evaluators measure, between the loss and the health of the training."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from histojax.evaluation.evaluators import HISTOGRAM, TEST, VALIDATION, Evaluator
from histojax.report.curves import Panel
from histojax.ssl.terms import TERMS

LOSS = (Panel("Loss", {"loss": "total"}), *(Panel(term.panel, {term.name: term.label}) for term in TERMS))
HEALTH = (
    Panel("Feature spread (1: random directions)", {"feature_spread": "training crops"}, zero=True),
    Panel("Entropy of the teacher's targets (nats)", {"teacher_entropy": "entropy"}),
    Panel("Prototypes in use (share of possible)", {"prototype_use": "share"}, zero=True),
    Panel(
        "Gradient norm before clipping",
        {"grad_norm/backbone": "backbone", "grad_norm/dino_head": "DINO head", "grad_norm/ibot_head": "iBOT head"},
        log=True,
    ),
    Panel(
        "Learning rate",
        {"lr": "heads", "backbone_lr": "last block of the backbone", "last_layer_lr": "last layer of the heads"},
        zero=True,
    ),
)


def panels(rows: Sequence[Evaluator]) -> list[Panel]:
    """All panels, in the order in which they are drawn."""
    return _joined([*LOSS, *(panel for row in rows for panel in evaluation_panels(row)), *HEALTH])


def evaluation_panels(row: Evaluator) -> list[Panel]:
    """The headline of an evaluator: in one panel, or in one for each part that is judged, with the baseline's level."""
    if not row.needs_labels:
        return [Panel(row.panel, {row.metric(): row.title}, zero=row.zero)]
    found = []
    for part in (TEST, VALIDATION):
        levels = {f"{HISTOGRAM}/{row.metric(part)}": f"{row.title} on colour histograms"} if row.baseline else {}
        found.append(Panel(f"{row.panel}: {part}", {row.metric(part): row.title}, levels, zero=row.zero))
    return found


def _joined(found: Iterable[Panel]) -> list[Panel]:
    """Panels of one title made one, where the first of them stands."""
    panels: dict[str, Panel] = {}
    for panel in found:
        before = panels.get(panel.title, Panel(panel.title, {}))
        series, levels = before.series | panel.series, before.levels | panel.levels
        zero, log = before.zero or panel.zero, before.log or panel.log
        panels[panel.title] = dataclasses.replace(before, series=series, levels=levels, zero=zero, log=log)
    return list(panels.values())
