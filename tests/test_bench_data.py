"""tools/bench_data.py: the readers see the same pixels; a line a format, a number of workers and a demand."""

import json

import bench_data
import numpy as np
import pytest


@pytest.fixture
def few(monkeypatch):
    """Two formats instead of eight, of small tiles."""
    monkeypatch.setattr(bench_data, "TILE_PX", 32)
    formats = {"JPEG 90": ("JPEG", {"quality": 90}, 32), "PNG of 48 px": ("PNG", {}, 48)}
    monkeypatch.setattr(bench_data, "FORMATS", formats)


def test_lines_of_all_parts(few, capsys):
    words = ["--tiles", "2", "--rounds", "1", "--batch", "4", "--batches", "2", "--workers", "0"]
    assert bench_data.main([*words, "--rounds-of-workers", "1"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["bench"] for row in rows] == ["decode"] * 2 + ["workers"] + ["waiting"] * 4
    assert rows[0]["case"] == "JPEG 90" and rows[0]["images_a_core_second"] > 0
    assert rows[2]["images_a_second"]["histojax"] > 0 and 0 <= rows[3]["waiting_share"] <= 1


def test_ours_are_pillow_s_pixels(few):
    for name in bench_data.FORMATS:
        for data in bench_data.encoded(2, name):
            assert (bench_data.ours(data) == bench_data.by_pillow(data)).all()


def test_peers_read_the_same(few, tmp_path):
    pytest.importorskip("torchvision", reason="pip install '.[bench]'")
    data = bench_data.encoded(1, "JPEG 90")[0]
    assert np.abs(bench_data.by_torchvision(data).astype(int) - bench_data.ours(data)).max() <= 1
    bench_data.write_folder(tmp_path, 6)
    batch = next(bench_data.loader_batches(tmp_path, 4, 0))
    assert batch.shape == (4, 3, 32, 32) and next(bench_data.our_batches(tmp_path, 4, 0)).shape == (4, 32, 32, 3)
