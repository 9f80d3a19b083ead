"""What the patch protocol leaves behind: results, scores and few-shot tables, a report; and what it prints."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from histojax.common.tables import write_table
from histojax.evaluation import robustness
from histojax.evaluation.patch_protocol import Judged
from histojax.evaluation.results import Results, write_results
from histojax.evaluation.results_page import Pictures, write_report
from histojax.evaluation.score_table import in_lines, write_scores

SHOWN = ("balanced_accuracy", "weighted_f1", "accuracy", "auroc")


def write_judged(folder: Path, judged: Judged) -> None:
    """Writes scores.csv, few_shot.csv, predictions.csv, results.json and report.html; raises UserError."""
    results, train, test = judged.results, judged.train, judged.test
    write_scores(folder / "scores.csv", results)
    rows = results.facts.get("few_shot", [])
    if rows:
        write_table(folder / "few_shot.csv", list(rows[0]), (list(row.values()) for row in rows))
    write_results(folder, results)

    def tile(part: str, row: int) -> np.ndarray | None:
        reader = (train if part == "train" else test).tile
        return None if reader is None else reader(row)

    pictures = Pictures(
        test.features,
        test.names,
        labels=test.labels,
        classes=test.classes,
        centres=test.centres,
        neighbours=judged.neighbours,
        train_labels=train.labels,
        tile=tile if train.tile is not None and test.tile is not None else None,
    )
    write_report(folder, results, pictures)


def print_scores(results: Results) -> None:
    """Prints the scores, few-shot and retrieval as tables, and every note."""
    print(f"\n{results.name}")
    print("\n".join(in_lines(results, SHOWN)))
    for row in results.facts.get("few_shot", []):
        if not row["draws"]:
            print(f"few-shot: shots {row['shots']}: a class has fewer tiles")
            continue
        print("few-shot: " + ", ".join(f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()))
    retrieved = results.facts.get("retrieval", {})
    if retrieved:
        print("retrieval: " + ", ".join(f"{k} {v:.3f}" for k, v in retrieved.items()))
    if "robustness" in results.facts:
        print("\n".join(robustness.sentences(results.facts["robustness"])))
    for note in results.facts.get("notes", []):
        print(f"note: {note}")
