import json

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


def test_lines_of_a_slide(tmp_path, capsys):
    path = write_pyramid(tmp_path / "a.svs", picture(700, 600))
    bench_tiles.main([str(path), "--tile-px", "64", "--rounds", "1", "--tiles", "3", "--peer"])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [sorted(row["sides"]) for row in rows] == [["histojax", "pillow", "read_region"]] * 2
    assert rows[1]["case"].endswith("64 px at 1 mpp, encoded as JPEG") and rows[0]["tiles"] == 3
