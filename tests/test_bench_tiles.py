import bench_tiles
import numpy as np
from pyramids import picture, write_pyramid

from histojax.slides.slide import open_slide


def test_the_sides_cut_the_same_tiles(tmp_path):
    with open_slide(write_pyramid(tmp_path / "a.svs", picture(1300, 1000))) as slide:
        where = bench_tiles.grid(slide, 64, 1.0, 99), 64, 1.0
        assert len(where[0]) == 5 * 3
        for a, b, c in zip(
            bench_tiles.ours(slide, *where),
            bench_tiles.by_region(slide, *where),
            bench_tiles.by_region(slide, *where, pillow=True),
            strict=True,
        ):
            assert (a == b).all() and np.abs(a.astype(int) - c).max() <= 1


def test_a_table_is_printed(tmp_path, capsys, monkeypatch):
    path = write_pyramid(tmp_path / "a.svs", picture(700, 600))
    monkeypatch.setattr("sys.argv", ["bench_tiles.py", str(path), "--tile-px", "64", "--rounds", "1", "--tiles", "3"])
    bench_tiles.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["ours", "read_region", "pillow"] * 2
