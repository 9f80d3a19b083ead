"""What of a run may be said otherwise when it goes on, and what has to be the same."""

import json

import pytest
from tiny_recipe import tiny_config

from histojax.common.errors import UserError
from histojax.runs.folder import RunFolder
from histojax.training.resume import MAY_CHANGE, TILES, begun_run, check_same_tiles, check_step, facts_of, shards_to_use

SETS = {"training": "aaa", "evaluation": "bbb"}


def begin(folder, facts, **leaves):
    """A run that was begun with a configuration."""
    with RunFolder(folder) as run:
        run.bind(tiny_config(**leaves).to_dict(), MAY_CHANGE + TILES, facts)
        (folder / "metrics.jsonl").write_text("")


def test_a_new_folder_has_no_run(tmp_path):
    assert begun_run(tmp_path / "run", tiny_config()) is None


@pytest.mark.parametrize(
    "leaves",
    [
        {"stop_step": 90},
        {"stop_step": None},
        {"data__workers": 2},
        {"log__every": 7},
        {"data__train": "somewhere/else"},
        {"eval__data": "other.csv", "eval__test": "third.csv"},
        {"mesh__fsdp": True},
    ],
    ids=str,
)
def test_what_does_not_change_the_meaning_may_change(leaves, tmp_path):
    facts = facts_of(tiny_config(), 4, SETS)
    begin(tmp_path, facts, stop_step=10)
    assert begun_run(tmp_path, tiny_config(**leaves)) == facts


@pytest.mark.parametrize(
    "leaves", [{"seed": 1}, {"batch_size": 16}, {"mesh__batch_shards": 2}, {"eval__k": 3}], ids=str
)
def test_what_changes_the_numbers_is_refused_by_name(leaves, tmp_path):
    begin(tmp_path, facts_of(tiny_config(), 4, SETS))
    name = next(iter(leaves)).replace("__", ".")
    with pytest.raises(UserError, match=f"belongs to another config: {name} was"):
        begun_run(tmp_path, tiny_config(**leaves))


def test_tiles_of_a_run_that_did_not_note_them_keep_their_names(tmp_path):
    begin(tmp_path, {})
    record = json.loads((tmp_path / "config.json").read_text())
    del record["facts"]
    (tmp_path / "config.json").write_text(json.dumps(record))
    assert begun_run(tmp_path, tiny_config()) == {}
    with pytest.raises(UserError, match=r"data\.train was"):
        begun_run(tmp_path, tiny_config(data__train="elsewhere"))


def test_the_same_tiles_elsewhere_go_on_and_others_do_not(tmp_path):
    was = facts_of(tiny_config(data__train="old/place"), 1, SETS)
    check_same_tiles(tmp_path, was, facts_of(tiny_config(data__train="new/place"), 1, SETS))
    with pytest.raises(UserError, match=r"the training tiles are not those .* \(old/place\).* differ in new/place"):
        check_same_tiles(tmp_path, was, facts_of(tiny_config(data__train="new/place"), 1, SETS | {"training": "x"}))
    with pytest.raises(UserError, match="the evaluation tiles are not those"):
        check_same_tiles(tmp_path, was, facts_of(tiny_config(), 1, SETS | {"evaluation": "x"}))


def test_the_parts_of_a_batch_stay_what_they_were_on_another_number_of_devices():
    assert shards_to_use(tiny_config(), None, 8) == 8
    assert shards_to_use(tiny_config(), facts_of(tiny_config(), 8, SETS), 1) == 8
    assert shards_to_use(tiny_config(mesh__batch_shards=2), None, 8) == 2


def test_a_run_past_the_last_step_is_named(tmp_path):
    check_step(tmp_path, 10, 10)
    with pytest.raises(UserError, match=r"at step 10, past the last step 7 .* later stop_step"):
        check_step(tmp_path, 10, 7)
