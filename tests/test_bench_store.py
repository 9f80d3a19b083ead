import json

import bench_store


def test_rates_and_a_small_index(tmp_path, capsys, monkeypatch):
    bench_store.rates(tmp_path, 16, 32)
    monkeypatch.setattr(bench_store, "DRAWN", 256)
    bench_store.build(tmp_path / "index", 100, 7)
    bench_store.sample(tmp_path / "index")
    rows = {row["case"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}
    assert rows["write, JPEG tiles of 32 px"]["tiles_a_second"] > 0
    assert rows["random read of a store, decoded, JPEG tiles of 32 px"]["by_eight_threads"] > 0
    assert rows["build of 100 tiles of 7 slides"]["index_bytes_a_tile"] > 0
    assert {"open 100 tiles", "fingerprint", "after 256 tiles"} <= set(rows)
    assert rows["draw 256 tiles"]["different"] == 100
