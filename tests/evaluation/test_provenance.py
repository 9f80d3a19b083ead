"""The chain from slides to score, from headers of feature files and the folder of a training."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np

from histojax.evaluation.provenance import chain, features_facts, run_facts, run_of
from histojax.features.stored import Geometry, Header, Origin
from histojax.weights.licence import Link

ORIGIN = Origin("histojax 1", "vits", "w.safetensors", "ab" * 32, licences=(Link("vits", "Apache-2.0"),), notes=("n",))


def header(**changed) -> Header:
    made = Header(Path("a.h5"), "histojax", "a", 7, 384, np.dtype("f4"), Geometry(224, 1.0, slide_mpp=0.25), ORIGIN)
    return dataclasses.replace(made, **changed)


def test_facts_are_what_all_files_say():
    other = header(
        tiles=3, geometry=Geometry(224, 1.0, slide_mpp=0.5), origin=dataclasses.replace(ORIGIN, stain="none")
    )
    facts = features_facts([header(), other])
    assert (facts["files"], facts["tiles"], facts["tile_px"], facts["encoder"]) == (2, 10, 224, "vits")
    assert "slide_mpp" not in facts and "stain" not in facts and facts["notes"] == ["n"]
    assert json.loads(json.dumps(facts)) == facts and features_facts([])["files"] == 0


def test_the_chain_goes_from_tiles_to_score():
    facts = features_facts([header()])
    run = {"folder": "mine", "steps": 5}
    steps = chain(facts, run, {"logistic": "0.9"})
    assert [title for title, _ in steps] == ["Tiles", "Training run", "Weights", "Features", "Score"]
    assert dict(steps)["Weights"]["licences"] == "vits: Apache-2.0"
    steps = chain({"train": facts, "test": facts}, None, {})
    assert [title for title, _ in steps] == ["Tiles", "Weights", "Features (train)", "Features (test)", "Score"]
    steps = chain({"train": facts, "test": {**facts, "mpp": 0.5}}, None, {})
    assert [title for title, _ in steps][:2] == ["Tiles (train)", "Tiles (test)"]
    assert [title for title, _ in chain(None, None, {})] == ["Score"]


def test_a_training_run_says_what_it_was(tmp_path):
    assert run_facts(tmp_path) == {}
    (tmp_path / "config.json").write_text(json.dumps({"config": {"name": "mine", "data": {"train": "stores/a"}}}))
    (tmp_path / "provenance.json").write_text(json.dumps({"starts": [{"start_time": "2026", "commit": None}]}))
    found = run_facts(tmp_path)
    assert found == {"folder": tmp_path.name, "name": "mine", "trained on": "stores/a", "started": "2026"}


def test_the_run_is_found_by_the_command_line(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name / "checkpoints").mkdir(parents=True)
        for file in ("config.json", "provenance.json"):
            (tmp_path / name / file).write_text("{}")
    a, b = str(tmp_path / "a" / "checkpoints"), f"mine={tmp_path / 'b'}"
    assert run_of({"command": ["histojax", "--encoder", a]}, "x") == tmp_path / "a"
    assert run_of({"command": ["--encoder", a, "--encoder", b]}, "b") == tmp_path / "b"
    assert run_of({"command": ["--encoder", a, "--encoder", b]}, "c") is None and run_of({}, "c") is None
    assert run_of({"run": "b"}, "c") == Path("b")
