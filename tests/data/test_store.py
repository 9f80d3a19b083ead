import os
import pickle
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from tile_files import file_bytes, make_folder, picture, spoil

from histojax.common.errors import UserError
from histojax.data import shards
from histojax.data.decode import BadTile
from histojax.data.sources import open_source
from histojax.data.store import Tile, finish_store, part_done, part_facts, start_store, write_part, write_store
from histojax.data.store_parts import file_stem
from histojax.data.synthetic import SyntheticTissue
from histojax.data.tiles import Joined, count_shared


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
    assert len(list((tmp_path / "s" / "tiles").iterdir())) == 4
    assert write_store(source, tmp_path / "s", shard_size=4) == done  # finished: nothing to do


def test_slides_and_coordinates_survive_two_stores(tmp_path):
    out = tmp_path / "s"
    start_store(out, {"made": "by hand"})
    png = file_bytes(picture(1))
    assert not part_done(out, "slide1")
    write_part(out, "slide1", [Tile(png, slide="slide1", x=10, y=20, label="a"), BadTile("t1", "gone")], {"path": "s1"})
    write_part(out, "slide2", [Tile(png, "t2", "slide2", 30, 40, tissue=0.5)], {"path": "s2", "rejected": {"blur": 3}})
    write_part(out, "empty", [], {"path": "s3"})
    assert part_done(out, "slide1") and part_facts(out, "slide2")["facts"]["rejected"] == {"blur": 3}
    done = finish_store(out, ["slide1", "slide2", "empty"], [("s4", "no slide")], tiles_csv=True)
    assert done.skipped == (("s4", "no slide"), ("t1", "gone")) and (done.tiles, done.slides) == (2, 3)
    first = open_source(out)
    write_store(first, tmp_path / "again")
    for store in (first, open_source(tmp_path / "again")):
        assert store.coords.tolist() == [[10, 20], [30, 40]] and store.groups.tolist() == ["slide1", "slide2"]
        assert store.coords.dtype == np.int64 and store.labels.tolist() == [0, -1] and store.facts.group_kind == "slide"
        assert [store.name(i).rpartition("/")[2] for i in range(2)] == ["slide1_10_20", "t2"]
    assert (out / "slides.csv").read_text().splitlines() == [
        "slide,path,patient,label,tiles,rejected_blur",
        "slide1,s1,,a,1,",
        "slide2,s2,,,1,3",
        "empty,s3,,,0,",
    ]
    assert (out / "tiles.csv").read_text().splitlines()[1:] == [
        f'"slide1",10,20,"a","",,,{len(png)}', f'"slide2",30,40,"","",0.5,"t2",{len(png)}'
    ]  # fmt: skip


def test_patients_are_groups_where_all_are_known_else_slides(tmp_path):
    png = file_bytes(picture(1))
    for name, second in (("all", "P2"), ("some", "")):
        start_store(tmp_path / name, {})
        write_part(tmp_path / name, "b", [Tile(png, slide="b", x=0, y=0, group="P1")])
        write_part(tmp_path / name, "a", [Tile(png, slide="a", x=0, y=0, group=second)])
        finish_store(tmp_path / name, ["b", "a"])
    stores = [open_source(tmp_path / name) for name in ("all", "some")]
    assert [(s.groups.tolist(), s.facts.group_kind) for s in stores] == [
        (["P1", "P2"], "patient"),
        (["P1", "a"], "slide"),
    ]
    assert stores[0].fingerprint() != stores[1].fingerprint()


def test_the_same_parts_give_the_same_files_in_any_order(tmp_path):
    def write(out, order):
        start_store(out, {"mpp": 1.0})
        for number in order:
            tiles = [Tile(file_bytes(picture(number + k)), slide=f"s{number}", x=k, y=0, label="ab"[k]) for k in (1, 0)]
            write_part(out, f"s{number}", tiles, {"mpp": 0.25 * number})
        finish_store(out, ["s2", "s0", "s1"], tiles_csv=True)
        return {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*") if p.is_file()}

    first = write(tmp_path / "one", [0, 1, 2])
    assert first == write(tmp_path / "two", [2, 0, 1]) and len(first) == 10
    moved = open_source((tmp_path / "two").rename(tmp_path / "moved"))
    assert moved.fingerprint() == open_source(tmp_path / "one").fingerprint()
    assert moved.classes == ("a", "b") and moved.labels.tolist() == [1, 0] * 3
    assert count_shared(moved, moved) == 6 and count_shared(moved, Joined([open_source(tmp_path / "one")])) == 0
    again = pickle.loads(pickle.dumps(moved))
    assert len(pickle.dumps(moved)) < 1000 and (again.read(5) == moved.read(5)).all()


def test_names_that_no_file_can_have(tmp_path):
    names = ["a/b", "a_b", "a:b", "..", "x" * 300, "Müller 1", "\udcff", "CON.", ".hidden", "a~b"]
    stems = [file_stem(name) for name in names]
    assert len(set(stems)) == len(names) and stems[1] == "a_b" and stems[5] == "Müller 1"
    start_store(tmp_path / "s", {})
    for name in names:
        write_part(tmp_path / "s", name, [Tile(file_bytes(picture(1)), slide=name, x=1, y=2)])
    assert finish_store(tmp_path / "s", names).slides == len(names)
    assert [open_source(tmp_path / "s").read(i).shape for i in range(10)] == [(32, 32, 3)] * 10


def test_many_shards_need_few_open_files(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "MOST_OPEN", 3)
    write_store(SyntheticTissue(20, 24), tmp_path / "s", shard_size=2)
    store = open_source(tmp_path / "s")
    with ThreadPoolExecutor(4) as pool:
        tiles = list(pool.map(store.read, [*range(20)] * 3))
    assert all((tiles[i] == SyntheticTissue(20, 24).read(i % 20)).all() for i in range(60))
    assert len(store._shards._open) <= 3


def test_full_disk_leaves_no_part(tmp_path):
    start_store(tmp_path / "s", {})
    code = (
        "import resource, signal, sys, pathlib; from histojax.data.store import Tile, write_part\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (200000, 200000))\n"
        "write_part(pathlib.Path(sys.argv[1]), 's', [Tile(bytes(9000), slide='s')] * 40)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "s")], capture_output=True, text=True)
    assert "UserError" in done.stderr and "s.arrayrecord: cannot be written" in done.stderr
    assert not list((tmp_path / "s" / "tiles").iterdir()) and not part_done(tmp_path / "s", "s")


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
    while not part_done(out, "tiles-00001") and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    with pytest.raises(UserError, match="unfinished"):
        open_source(out)
    kept = (out / "tiles" / "tiles-00000.arrayrecord").stat().st_mtime_ns
    source = SyntheticTissue(40, 24)
    assert write_store(source, out, shard_size=5).tiles == 40
    assert (out / "tiles" / "tiles-00000.arrayrecord").stat().st_mtime_ns == kept  # not written again
    store = open_source(out)
    assert all((store.read(i) == source.read(i)).all() for i in range(40))
    assert sorted(p.name for p in (out / "tiles").iterdir()) == [f"tiles-{i:05d}.arrayrecord" for i in range(8)]
    assert sorted(p.name for p in out.iterdir()) == ["index.arrow", "parts", "store.json", "tiles"]


def test_wrong_folders_are_user_errors(tmp_path):
    source = SyntheticTissue(4, 24)
    write_store(source, tmp_path / "s", shard_size=2)
    with pytest.raises(UserError, match="shard_size was 2 and is 3"):
        write_store(source, tmp_path / "s", shard_size=3)
    make_folder(tmp_path / "photos", {"": 1})
    with pytest.raises(UserError, match="not empty"):
        write_store(source, tmp_path / "photos")
    shard = tmp_path / "s" / "tiles" / "tiles-00001.arrayrecord"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-70000])
    with pytest.raises(UserError, match=r"tiles-00001.*has 61072 bytes, expected 131072"):
        open_source(tmp_path / "s")
    shard.write_bytes(bytes(len(whole)))
    with pytest.raises(BadTile, match=r"tiles-00001.*holds 0 tiles, expected 2"):
        open_source(tmp_path / "s").read(2)
    shard.unlink()
    with pytest.raises(UserError, match=r"tiles-00001.*is missing"):
        open_source(tmp_path / "s")
    (tmp_path / "s" / "index.arrow").write_bytes(b"x")
    with pytest.raises(UserError, match="cannot be read"):
        open_source(tmp_path / "s")
    (tmp_path / "s" / "store.json").write_text('{"format": 1}')
    with pytest.raises(UserError, match=r"format 1.*make it anew"):
        open_source(tmp_path / "s")


def test_store_of_nothing_readable_is_a_user_error(tmp_path):
    folder = make_folder(tmp_path / "f", {"": 2})
    spoil(folder, {0, 1})
    with pytest.raises(UserError, match="none of 2 tiles"):
        write_store(open_source(folder), tmp_path / "s")
