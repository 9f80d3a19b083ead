import itertools
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
from tile_files import HostOnly, file_bytes, make_folder, picture, spoil

from histojax.common.errors import UserError
from histojax.data.bad_tiles import BadTileLog
from histojax.data.pipeline import ensure_absl_flags_parsed, eval_batches, train_iterator
from histojax.data.sources import open_source


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Ten tiles of two classes, number 4 unreadable, number 7 of another size."""
    root = make_folder(tmp_path_factory.mktemp("tiles") / "f", {"a": 5, "b": 5}, px=24)
    spoil(root, {4})
    (root / "b" / "tile_007.png").write_bytes(file_bytes(picture(7, px=40)))
    return root


def make(folder, workers=0, batch_size=4, seed=1, **options):
    source = HostOnly(open_source(folder))
    return train_iterator(source, batch_size, tile_px=24, seed=seed, workers=workers, **options)


def take(iterator, count):
    return list(itertools.islice(iterator, count))


def same(a, b):
    return len(a) == len(b) and all((x[k] == y[k]).all() for x, y in zip(a, b) for k in x)


def drawn(batches):
    """Record numbers in the order drawn, before replacement."""
    index, bad = (np.concatenate([b[k] for b in batches]) for k in ("index", "bad"))
    return np.where(bad >= 0, bad, index)


def test_batch_contents(folder):
    batch = next(make(folder))
    assert {k: (v.shape, v.dtype.name) for k, v in batch.items()} == {
        "image": ((4, 24, 24, 3), "uint8"),
        "label": ((4,), "int32"),
        "index": ((4,), "int64"),
        "bad": ((4,), "int64"),
    }
    assert (batch["image"][:, 0, 0, 0] == batch["index"]).all()  # picture i has the colour i
    assert (batch["label"] == (batch["index"] >= 5)).all()


def test_passes_are_complete_differ_and_run_over_batch_borders(folder):
    order = drawn(take(make(folder), 10))  # 40 records, batches of 4, passes of 10
    passes = order.reshape(4, 10)
    assert (np.sort(passes, 1) == np.arange(10)).all()
    assert len({tuple(p) for p in passes}) == 4
    assert tuple(order) != tuple(drawn(take(make(folder, seed=2), 10)))
    assert tuple(order[10:20]) != tuple(drawn(take(make(folder, seed=2), 10))[:10])  # seeds are no shifted passes


def test_bad_tile_is_replaced_the_same_way_each_time(folder):
    batches = take(make(folder), 10)
    rows = [(i, b) for batch in batches for i, b in zip(batch["index"], batch["bad"]) if b >= 0]
    assert len(rows) == 4 and all(b == 4 and i != 4 for i, b in rows)
    assert same(batches, take(make(folder), 10))


def test_order_and_resume_do_not_depend_on_the_workers(folder, monkeypatch):
    monkeypatch.delenv("JAX_PLATFORMS")  # the workers keep off the accelerator by themselves
    straight = take(make(folder), 9)
    with_two = make(folder, workers=2)
    assert same(take(with_two, 5), straight[:5])
    state = json.loads(json.dumps(with_two.get_state()))
    with_two.close()
    with_one = make(folder, workers=1)
    with_one.set_state(state)
    assert same(take(with_one, 4), straight[5:])
    with_one.close()


PROGRAM = """
import multiprocessing, signal, sys
from histojax.data import open_source, train_iterator

if __name__ == "__main__":
    iterator = train_iterator(open_source("synthetic:16", tile_px=16), 4, 16, seed=0, workers=2)
    for _ in range(4):
        next(iterator)
    print(*(process.pid for process in multiprocessing.active_children()), flush=True)
    for how in sys.stdin.readline().split():
        if how == "next":
            for _ in range(8):
                next(iterator)
        elif how == "close":
            iterator.close()
        elif how == "drop":
            del iterator
        elif how == "raise":
            raise KeyboardInterrupt
"""


@pytest.mark.parametrize(
    ("signals", "then", "code"),
    [
        ("TERM INT to the workers", "next close", 0),
        ("", "next", 0),
        ("", "drop", 0),
        ("", "raise", -signal.SIGINT),
        ("KILL to the parent", "", -signal.SIGKILL),
    ],
)
def test_workers_outlive_a_signal_to_the_group_and_never_their_parent(tmp_path, signals, then, code):
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, str(tmp_path / "program.py")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        workers = [psutil.Process(int(pid)) for pid in process.stdout.readline().split()]
        assert len(workers) == 2
        if "workers" in signals:
            for number, worker in itertools.product((signal.SIGTERM, signal.SIGINT), workers):
                worker.send_signal(number)
            time.sleep(0.2)
        elif signals:
            os.kill(process.pid, signal.SIGKILL)
        process.communicate(then, timeout=60)
    assert process.returncode == code
    assert not psutil.wait_procs(workers, timeout=10)[1]


def test_resume_without_workers_at_every_position(folder):
    straight = take(make(folder), 6)
    for position in range(6):
        first = make(folder)
        assert same(take(first, position), straight[:position])
        second = make(folder)
        second.set_state(first.get_state())
        assert second.get_state() == first.get_state()
        assert same(take(second, 6 - position), straight[position:])


def test_set_state_rewinds_a_running_iterator(folder):
    iterator = make(folder)
    start = iterator.get_state()
    first = take(iterator, 3)
    iterator.set_state(start)
    assert same(take(iterator, 3), first)


def test_state_of_other_data_or_settings_is_refused(folder, tmp_path):
    state = make(folder).get_state()
    with pytest.raises(UserError, match="seed was 1 and is 2"):
        make(folder, seed=2).set_state(state)
    with pytest.raises(UserError, match="batch_size was 4 and is 5"):
        make(folder, batch_size=5).set_state(state)
    with pytest.raises(UserError, match="source was"):
        make(make_folder(tmp_path / "g", {"": 10})).set_state(state)


def test_checkpointed_by_orbax(folder, tmp_path):
    import grain.checkpoint as grain_checkpoint
    import orbax.checkpoint as ocp

    iterator = make(folder)
    take(iterator, 3)
    with ocp.Checkpointer(grain_checkpoint.CheckpointHandler()) as checkpointer:
        checkpointer.save(tmp_path / "c", args=grain_checkpoint.CheckpointSave(iterator))
        other = checkpointer.restore(tmp_path / "c", args=grain_checkpoint.CheckpointRestore(make(folder)))
    assert same(take(other, 2), take(iterator, 2))


def test_hosts_share_the_batches_of_one(folder):
    whole = take(make(folder, batch_size=6), 5)
    for shares in ([[0, 1], [2, 3], [4, 5]], [[0, 3, 4, 5], [1, 2]]):
        parts = [take(make(folder, batch_size=6, rows=rows), 5) for rows in shares]
        for step in range(5):
            for rows, part in zip(shares, parts):
                assert same([part[step]], [{k: v[rows] for k, v in whole[step].items()}])


def test_the_position_of_one_host_is_that_of_two(folder):
    one = make(folder, batch_size=6)
    take(one, 3)
    second = make(folder, batch_size=6, rows=[3, 4, 5])
    second.set_state(one.get_state())
    assert same(take(second, 2), [{k: v[3:] for k, v in batch.items()} for batch in take(one, 2)])
    assert second.get_state() == one.get_state()


def test_hosts_share_evaluation_batches(folder):
    source = open_source(folder)
    whole = list(eval_batches(source, [9, 4, 0, 7, 2], 4, 24))
    parts = [list(eval_batches(source, [9, 4, 0, 7, 2], 4, 24, rows=rows)) for rows in ([0, 2], [1, 3])]
    for rows, part in zip(([0, 2], [1, 3]), parts):
        assert same(part, [{k: v[rows] for k, v in batch.items()} for batch in whole])


def test_one_percent_bad_survives_and_sixty_stops(tmp_path):
    folder = make_folder(tmp_path / "f", {"": 100}, px=16)
    spoil(folder, {50})
    source = open_source(folder)
    log = BadTileLog(source, 0.05, tmp_path / "bad_tiles.csv")
    for batch in take(train_iterator(source, 10, 16, seed=0), 20):
        log.update(batch["bad"])
    assert log.paths == [f"{folder}/tile_050.png"] and "tile_050.png" in (tmp_path / "bad_tiles.csv").read_text()
    spoil(folder, range(60))
    log = BadTileLog(source, 0.05)
    with pytest.raises(UserError, match=r"limit 5.0%"):
        for batch in take(train_iterator(source, 10, 16, seed=0), 10):
            log.update(batch["bad"])


def test_nothing_readable_is_a_user_error(tmp_path):
    folder = make_folder(tmp_path / "f", {"": 3}, px=16)
    spoil(folder, range(3))
    with pytest.raises(UserError, match="33 tiles in a row are unreadable"):
        next(train_iterator(open_source(folder), 2, 16, seed=0))


def test_eval_batches_keep_order_pad_the_last_and_mark_bad(folder):
    source = open_source(folder)
    batches = list(eval_batches(source, [9, 4, 0, 7, 2], 2, 24))
    assert [b["index"].tolist() for b in batches] == [[9, 4], [0, 7], [2, -1]]
    assert [b["valid"].tolist() for b in batches] == [[True, False], [True, True], [True, False]]
    assert [b["bad"].tolist() for b in batches] == [[-1, 4], [-1, -1], [-1, -1]]
    assert [b["label"].tolist() for b in batches] == [[1, -1], [0, 1], [0, -1]]
    assert all(b["image"].shape == (2, 24, 24, 3) for b in batches)
    assert (batches[1]["image"][1, ..., :2] == (7, 0)).all() and (batches[2]["image"][1] == 0).all()
    assert list(eval_batches(source, [], 2, 24)) == []


def test_absl_flags_are_parsed_after_the_helper():
    from absl import flags

    ensure_absl_flags_parsed()
    assert flags.FLAGS.is_parsed()
