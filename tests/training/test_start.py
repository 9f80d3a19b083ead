"""Where a training starts from: which numbers each side gets of the files that a configuration names."""

import dataclasses

import jax
import numpy as np
import pytest
from tiny_recipe import tiny_config, tiny_recipe
from torch_writer import save

from histojax.common.errors import UserError
from histojax.ssl.trainable import whole
from histojax.training.evaluation_tiles import open_evaluation, open_training
from histojax.training.first_state import abstract_state, first_state
from histojax.training.plan import plan
from histojax.training.start import Start, load_start
from histojax.weights.layouts.dinov2 import META, write_head
from histojax.weights.licence import as_rows, chain_of_card, link
from histojax.weights.write import write_weights
from histojax.zoo.published import weights_sha256
from histojax.zoo.table import ENCODERS

ITERATION = "eval/training_1999"


@pytest.fixture(scope="module")
def trees():
    """Two sides that differ everywhere."""
    make = jax.jit(tiny_recipe().init)
    return {side: jax.device_get(make(jax.random.key(i))) for i, side in enumerate(("teacher", "student"))}


@pytest.fixture(scope="module")
def folder(trees, tmp_path_factory):
    """What the paper's code leaves after an evaluation, named as it names them; heads lie in files of their own."""
    folder = tmp_path_factory.mktemp("run") / ITERATION
    folder.mkdir(parents=True)
    for side, tree in trees.items():
        backbone = {f"backbone.{name}": x for name, x in META.write(tree["backbone"]).items()}
        head = write_head(tree["dino_head"])
        whole = backbone | {f"dino_head.{name}": x for name, x in head.items()}
        save(folder / f"{side}_checkpoint.pth", {side: whole if side == "teacher" else backbone})
        save(folder / f"{side}_dino_head_checkpoint.pth", {f"{side}_dino_head": head})
    return folder


def start_of(folder, *names, weights="", train="all"):
    files = ",".join(str(folder / name) for name in names)
    leaves = {"model__continue_from": files, "model__weights": weights and str(folder / weights), "model__train": train}
    start = load_start(tiny_config(**leaves), tiny_recipe(model__train=train), offline=True)
    return {"student": start.student, "teacher": start.teacher}, start


def assert_is(tree, expected):
    assert jax.tree.structure(tree) == jax.tree.structure(expected)
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(tree), jax.tree.leaves(expected)))


def test_the_paper_s_files_continue_each_side_as_itself(folder, trees):
    """Their own code then overwrites the teacher with the student."""
    for names in (("",), ("student_dino_head_checkpoint.pth", "student_checkpoint.pth", "teacher_checkpoint.pth")):
        sides, start = start_of(folder, *names)
        for side, tree in sides.items():
            assert_is(tree, trees[side])
        assert "random" not in start.report
        assert len(start.sources) == (4 if names == ("",) else 3)


def test_the_first_state_has_what_was_loaded_and_lets_go_of_the_rest(folder, trees):
    _, start = start_of(folder, "")
    state = first_state(tiny_recipe(), start, jax.random.key(5), None)
    assert_is(jax.device_get(state.networks["student"]), trees["student"])
    assert_is(jax.device_get(state.networks["teacher"]), trees["teacher"])
    assert start.student == {} and start.teacher == {}


def test_what_is_frozen_is_the_teacher_s_in_both_networks(folder, trees):
    _, start = start_of(folder, "", train="last:1")
    assert "model.train=last:1: what is not trained is the teacher's in both networks" in start.report
    state = first_state(tiny_recipe(model__train="last:1"), start, jax.random.key(5), None)
    for side in ("student", "teacher"):
        found = whole(jax.device_get(state.parameters(side)))
        assert_is(found["dino_head"], trees[side]["dino_head"])
        assert_is(found["backbone"]["norm"], trees[side]["backbone"]["norm"])
        assert_is(found["backbone"]["pos_embed"], trees["teacher"]["backbone"]["pos_embed"])
        for i, owner in enumerate(("teacher", side)):
            blocks = (tree["backbone"]["blocks"] for tree in (found, trees[owner]))
            assert_is(*(jax.tree.map(lambda x, i=i: x[i], part) for part in blocks))


def test_what_is_not_loaded_is_random_and_the_same_for_both(folder):
    """Drawn as for a random start of the same key, in whichever modules are missing."""
    _, start = start_of(folder, weights="teacher_checkpoint.pth")
    state = first_state(tiny_recipe(), start, jax.random.key(5), None)
    alone = first_state(tiny_recipe(), Start(), jax.random.key(5), None)
    assert_is(state.networks["student"]["dino_head"], alone.networks["student"]["dino_head"])
    assert_is(state.networks["teacher"], state.networks["student"])
    assert not np.array_equal(
        state.networks["student"]["backbone"]["pos_embed"], alone.networks["student"]["backbone"]["pos_embed"]
    )


def test_a_state_is_restored_into_shapes_of_its_own_kind():
    state, shapes = first_state(tiny_recipe(), Start(), jax.random.key(5), None), abstract_state(tiny_recipe(), None)
    for leaf, shape in zip(jax.tree.leaves(state.as_dict()), jax.tree.leaves(shapes.as_dict()), strict=True):
        assert (leaf.shape, leaf.dtype, leaf.sharding) == (shape.shape, shape.dtype, shape.sharding)


def test_a_part_of_one_side_is_given_to_both_and_said(folder, trees):
    sides, start = start_of(folder, "teacher_checkpoint.pth")
    for tree in sides.values():
        assert_is(tree, trees["teacher"])
    assert "no student backbone in the files: it starts as the teacher's" in start.report
    sides, start = start_of(folder, "student_dino_head_checkpoint.pth", weights="student_checkpoint.pth")
    for tree in sides.values():
        assert_is(tree, trees["student"])
    assert "no teacher dino_head in the files: it starts as the student's" in start.report


def test_a_backbone_starts_both_sides_with_one_random_head(folder, trees):
    sides, start = start_of(folder, weights="teacher_checkpoint.pth")
    assert sides["teacher"] == {} and set(start.student) == {"backbone"}
    sides, start = start_of(folder, "student_checkpoint.pth", "teacher_dino_head_checkpoint.pth")
    assert_is(sides["teacher"]["dino_head"], sides["student"]["dino_head"])
    assert_is(sides["teacher"]["backbone"], trees["student"]["backbone"])


def test_heads_of_another_size_are_refused(folder):
    config = tiny_config(model__continue_from=str(folder), head__hidden=64)
    with pytest.raises(UserError, match="dino_head/mlp_0/kernel has shape"):
        load_start(config, tiny_recipe(head__hidden=64), offline=True)


def row_of_plan(name, start, config):
    """The line of that name in the plan."""
    recipe = tiny_recipe()
    source = open_training(config)
    text = plan(config, recipe, source, open_evaluation(config, source), start)
    return next((line for line in text.splitlines() if line.startswith(f"{name} ")), "")


def licence_row(start, config):
    """The line of the plan that says what the starting weights allow."""
    return row_of_plan("licence", start, config)


def test_exports_after_the_end_are_told(folder):
    _, start = start_of(folder, weights="teacher_checkpoint.pth")
    config = tiny_config(export__steps=(0, 1, 98, 99))
    config.epochs, config.epoch_steps, config.stop_step = 10, 10, 3
    assert row_of_plan("steps", start, config).endswith("; none is exported at 98, 99, after the end (export.steps)")
    config.export.steps = (0, 3)
    assert row_of_plan("steps", start, config).endswith("schedules over 100")


def test_a_copy_of_a_published_file_comes_under_its_licence(folder, monkeypatch):
    digest, record = weights_sha256(folder / "teacher_checkpoint.pth"), ENCODERS["uni"]
    weights = (dataclasses.replace(record.weights[0], sha256=digest), *record.weights[1:])
    monkeypatch.setitem(ENCODERS, "uni", dataclasses.replace(record, weights=weights))
    _, start = start_of(folder, weights="teacher_checkpoint.pth")
    assert start.sources[0]["licence"] == "CC-BY-NC-ND-4.0"
    (one,) = chain_of_card({"starting_weights": start.sources})
    assert (one.what, one.commercial, one.derivatives, one.sha256) == ("uni", False, False, digest)
    row = licence_row(start, tiny_config())
    assert "uni: CC-BY-NC-ND-4.0 (commercial use: NO, derivatives: NO)" in row


@pytest.mark.parametrize(
    ("facts", "licence"),
    [
        ({"licences": as_rows([link("uni", "CC-BY-NC-ND-4.0")])}, "CC-BY-NC-ND-4.0"),
        ({"starting_weights": [{"name": "uni", "licence": "CC-BY-NC-ND-4.0"}]}, "CC-BY-NC-ND-4.0"),
        ({"starting_weights": "random"}, "none: trained from random parameters"),
    ],
    ids=["chain", "training", "random"],
)
def test_the_card_beside_a_file_is_heard(trees, tmp_path, facts, licence):
    file = write_weights(tmp_path / "mine", trees["teacher"]["backbone"], "meta", facts, heads=2)
    _, start = start_of(tmp_path, weights=f"mine/{file.name}")
    assert start.sources[0]["licence"] == licence
    row = licence_row(start, tiny_config())
    assert row.removeprefix("licence ").strip().startswith(licence if "random" in licence else f"uni: {licence}")


def test_a_file_that_nobody_knows_is_said_to_be_unknown(folder):
    _, start = start_of(folder, weights="teacher_checkpoint.pth")
    assert start.sources[0]["licence"] == "unknown: a local file"
    row = licence_row(start, tiny_config())
    assert "teacher_checkpoint.pth: unknown: a local file (commercial use: unknown, derivatives: unknown)" in row
    assert licence_row(Start(), tiny_config()) == ""
