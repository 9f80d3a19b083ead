import json
import tracemalloc

import numpy as np
import pytest
from tile_files import file_bytes, make_folder, picture, spoil

from histojax.common.errors import UserError
from histojax.data.bad_tiles import BadTileLog, sample_check, unreadable
from histojax.data.sources import open_source


class Numbers:
    """A source of `n` records of which `bad` cannot be read."""

    def __init__(self, n, bad=()):
        self.n, self.bad = n, set(bad)

    def __len__(self):
        return self.n

    def name(self, index):
        return f"tile{index}.png"

    def read(self, index):
        from histojax.data.decode import BadTile

        if index in self.bad:
            raise BadTile(self.name(index), "broken")
        return np.zeros((16, 16, 3), np.uint8)


def run(log, source, order, batch=10):
    """Batches until the log stops the run; None when it never does."""
    for first in range(0, len(order), batch):
        chunk = order[first : first + batch]
        try:
            log.update(np.array([i if i in source.bad else -1 for i in chunk]))
        except UserError as error:
            return first // batch + 1, str(error)
    return None


def test_one_percent_survives_and_is_listed_once(tmp_path):
    source = Numbers(1000, range(0, 1000, 100))
    log = BadTileLog(source, 0.05, tmp_path / "bad_tiles.csv")
    order = np.random.default_rng(0).permutation(1000)
    assert run(log, source, [*order, *order]) is None
    lines = (tmp_path / "bad_tiles.csv").read_text().splitlines()
    assert lines[0] == "path,reason" and sorted(lines[1:]) == sorted(f"tile{i}.png,broken" for i in source.bad)
    assert len(log) == 10


def test_sixty_percent_stops_early_with_count_share_limit_and_paths():
    source = Numbers(1000, [i for i in range(1000) if i % 10 < 6])
    batches, message = run(BadTileLog(source, 0.05), source, np.random.default_rng(0).permutation(1000))
    assert batches <= 2
    for part in ("limit 5.0%", "tile", "(broken)", "max_bad_share", " of 20 tiles seen"):
        assert part in message


@pytest.mark.parametrize("seed", range(20))
def test_just_below_the_limit_survives_and_just_above_stops_within_the_pass(seed):
    order = np.random.default_rng(seed).permutation(1000)
    below, above = Numbers(1000, range(48)), Numbers(1000, range(53))
    assert run(BadTileLog(below, 0.05), below, order) is None
    assert run(BadTileLog(above, 0.05), above, order) is not None


def test_small_sets_are_judged_after_one_pass_and_a_zero_limit_at_once():
    six = Numbers(10, range(6))
    assert run(BadTileLog(six, 0.05), six, list(range(10)), batch=5)[0] == 2
    one = Numbers(1000, [0])
    assert run(BadTileLog(one, 0.0), one, list(range(1000)))[0] == 1
    everything = Numbers(20, range(20))
    assert run(BadTileLog(everything, 1.0), everything, list(range(20))) is None


def test_state_goes_through_json_and_stops_at_the_same_batch():
    source = Numbers(400, range(0, 400, 4))
    order = np.random.default_rng(1).permutation(400)
    straight = run(BadTileLog(source, 0.15), source, order)
    log = BadTileLog(source, 0.15)
    assert run(log, source, order[:20]) is None
    resumed = BadTileLog(source, 0.15)
    resumed.set_state(json.loads(json.dumps(log.get_state())))
    batches, message = run(resumed, source, order[20:])
    assert (batches + 2, message) == straight


def test_a_tile_that_reads_at_the_second_try_is_listed_as_such(tmp_path):
    log = BadTileLog(Numbers(100), 0.5, tmp_path / "b.csv")
    log.update(np.array([7, -1]))
    assert "tile7.png,failed once but readable now" in (tmp_path / "b.csv").read_text() and log.paths == ["tile7.png"]


def test_sample_check(tmp_path):
    folder = make_folder(tmp_path / "f", {"": 30})
    assert sample_check(open_source(folder), 16) == []
    spoil(folder, {0})
    assert [bad.path for bad in sample_check(open_source(folder), 16)] == [f"{folder}/tile_000.png"]
    spoil(folder, range(20))
    with pytest.raises(UserError, match=r"of 16 tiles tried are unreadable: .*tile_000.png \(not a JPEG"):
        sample_check(open_source(folder), 16)


@pytest.mark.parametrize(("grey", "reason"), [(0, "black tiles"), (255, "white tiles"), (90, "nothing can be learnt")])
def test_a_set_of_one_colour_is_refused_with_the_reason(tmp_path, grey, reason):
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(file_bytes(np.full((32, 32, 3), grey, np.uint8)))
    with pytest.raises(UserError, match=rf"all 3 tiles tried are of one colour .*0\.png, mean {grey}.0 .*{reason}"):
        sample_check(open_source(tmp_path))
    (tmp_path / "9.png").write_bytes(file_bytes(picture(1)))  # empty glass among tissue is usual
    assert sample_check(open_source(tmp_path)) == []


def test_broken_files_leave_no_bytes_behind(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, 5 << 20, np.uint8).tobytes()
    for number in range(12):  # a header that is right, and 5 MiB that are not
        (tmp_path / f"{number}.png").write_bytes(file_bytes(picture(number))[:60] + noise)
    source = open_source(tmp_path)
    tracemalloc.start()
    try:
        found = unreadable(source, range(12), threads=2)
        kept, _ = tracemalloc.get_traced_memory()
        assert len(found) == 12 and kept < 1 << 20
        tracemalloc.reset_peak()
        for name in ("zeros.tif", "zeros.png"):
            with open(tmp_path / name, "wb") as file:
                file.truncate(3 << 30 if name == "zeros.tif" else 100 << 20)
        errors = unreadable(open_source(tmp_path), [12, 13])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [error.reason for error in errors.values()] == [
        "only zero bytes: the copy or download was interrupted",
        "3072 MiB, more than the 256 MiB of a tile: cut it into tiles first",
    ]
    assert peak < 4 << 20


def test_unreadable_tries_exactly_the_records_asked_for():
    found = unreadable(Numbers(100, [3, 50, 99]), np.array([0, 3, 98, 99]))
    assert {index: str(error) for index, error in found.items()} == {3: "tile3.png: broken", 99: "tile99.png: broken"}
    assert unreadable(open_source("synthetic:8", tile_px=32), range(8)) == {}
