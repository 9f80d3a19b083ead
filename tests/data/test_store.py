import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from tile_files import file_bytes, make_folder, picture, spoil

from histojax.common.errors import UserError
from histojax.data.decode import BadTile
from histojax.data.sources import open_source
from histojax.data.store import Tile, finish_store, start_store, write_shard, write_store
from histojax.data.synthetic import SyntheticTissue
from histojax.data.tiles import Joined


def test_round_trip_keeps_bytes_labels_groups_and_skips_bad_tiles(tmp_path):
    folder = make_folder(tmp_path / "f", {"a": 5, "b": 5})
    spoil(folder, {3})
    (folder / "b" / "z.tif").write_bytes(file_bytes(picture(10), "TIFF"))
    source = Joined([open_source(folder), SyntheticTissue(4, 24, classes=["tumour"])])
    done = write_store(source, tmp_path / "s", shard_size=4)
    assert done.tiles == 14 and "tile_003.png" in done.skipped[0][0] and "not a JPEG" in done.skipped[0][1]
    assert "tile_003.png" in (tmp_path / "s" / "skipped.csv").read_text()
    store = open_source(tmp_path / "s")
    assert store.facts.found == "14 tiles of a store; left out when it was written: 1 (skipped.csv)"
    assert store.facts.group_kind == "patient"
    assert store.classes == ("a", "b", "tumour") and store.labels.tolist() == [0] * 4 + [1] * 6 + [2] * 4
    assert store.groups.tolist() == [""] * 10 + [str(g) for g in source.groups[-4:]]
    good = [i for i in range(15) if i != 3]
    assert all((store.read(j) == source.read(i)).all() for j, i in enumerate(good))
    original = (folder / "a" / "tile_000.png").read_bytes()
    assert store.encoded(0) == original and store.encoded(9).startswith(b"\x89PNG")  # TIFF was re-encoded
    assert store.name(0).endswith("s/a/tile_000.png")
    assert len(list((tmp_path / "s").glob("*.arrayrecord"))) == 4 and not list((tmp_path / "s").glob("tiles-*.json"))
    assert write_store(source, tmp_path / "s", shard_size=4) == done  # finished: nothing to do


def test_slides_and_coordinates_survive_two_stores(tmp_path):
    start_store(tmp_path / "s", {"made": "by hand"})
    png = file_bytes(picture(1))
    write_shard(tmp_path / "s", 0, [Tile(png, "t0", "slide1", 10, 20, "a"), BadTile("t1", "gone")])
    write_shard(tmp_path / "s", 1, [Tile(png, "t2", "slide2", 30, 40)])
    assert finish_store(tmp_path / "s").skipped == (("t1", "gone"),)
    first = open_source(tmp_path / "s")
    write_store(first, tmp_path / "again")
    for store in (first, open_source(tmp_path / "again")):
        assert store.coords.tolist() == [[10, 20], [30, 40]] and store.groups.tolist() == ["slide1", "slide2"]
        assert store.labels.tolist() == [0, -1]


SLOW = """
import sys, time
from histojax.data import synthetic, store
read = synthetic.SyntheticTissue.read
def slow(self, index):
    time.sleep(0.05)
    return read(self, index)
synthetic.SyntheticTissue.read = slow
store.write_store(synthetic.SyntheticTissue(40, 24), sys.argv[1], shard_size=5, threads=1)
"""


def test_killed_writer_goes_on_after_the_last_whole_shard(tmp_path):
    out = tmp_path / "s"
    writer = subprocess.Popen([sys.executable, "-c", SLOW, str(out)])
    deadline = time.monotonic() + 30
    while not (out / "tiles-00001.json").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    with pytest.raises(UserError, match="unfinished"):
        open_source(out)
    kept = (out / "tiles-00000.arrayrecord").stat().st_mtime_ns
    source = SyntheticTissue(40, 24)
    assert write_store(source, out, shard_size=5).tiles == 40
    assert (out / "tiles-00000.arrayrecord").stat().st_mtime_ns == kept  # not written again
    store = open_source(out)
    assert all((store.read(i) == source.read(i)).all() for i in range(40))
    assert sorted(p.suffix for p in out.iterdir()) == [".arrayrecord"] * 8 + [".csv", ".json"]


def test_kill_while_parts_are_removed_loses_nothing(tmp_path):
    source = SyntheticTissue(6, 24)
    done = write_store(source, tmp_path / "s", shard_size=2)
    left_over = {"rows": [["tiles-00001.arrayrecord", "x", "", -1, -1, "", "", 1]], "skipped": []}
    (tmp_path / "s" / "tiles-00001.json").write_text(json.dumps(left_over))
    assert write_store(source, tmp_path / "s", shard_size=2) == done
    assert len(open_source(tmp_path / "s")) == 6


def test_wrong_folders_are_user_errors(tmp_path):
    source = SyntheticTissue(4, 24)
    write_store(source, tmp_path / "s", shard_size=2)
    with pytest.raises(UserError, match="another source or shard size"):
        write_store(source, tmp_path / "s", shard_size=3)
    make_folder(tmp_path / "photos", {"": 1})
    with pytest.raises(UserError, match="not empty"):
        write_store(source, tmp_path / "photos")
    (tmp_path / "s" / "tiles-00001.arrayrecord").unlink()
    with pytest.raises(UserError, match="tiles-00001"):
        open_source(tmp_path / "s")


def test_store_of_nothing_readable_is_a_user_error(tmp_path):
    folder = make_folder(tmp_path / "f", {"": 2})
    spoil(folder, {0, 1})
    with pytest.raises(UserError, match="none of 2 tiles"):
        write_store(open_source(folder), tmp_path / "s")


def test_store_coordinates_are_int64(tmp_path):
    write_store(SyntheticTissue(1, 24), tmp_path / "s")
    assert open_source(tmp_path / "s").coords.dtype == np.int64
