import bench_store


def test_rates_and_a_small_index(tmp_path, capsys, monkeypatch):
    bench_store.rates(tmp_path, 16, 32)
    monkeypatch.setattr(bench_store, "DRAWN", 256)
    bench_store.build(tmp_path / "index", 100, 7)
    bench_store.sample(tmp_path / "index")
    said = capsys.readouterr().out
    assert all(
        words in said for words in ("write: ", "store, random, decoded: ", "100 tiles of 7 slides", "opened: 100")
    )
    assert "100 different ones" in said
