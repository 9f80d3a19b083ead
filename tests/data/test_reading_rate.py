import pytest
from PIL import Image

from histojax.data.reading_rate import rate_of_source, rate_of_stand_in
from histojax.data.sources import open_source
from histojax.data.synthetic import SyntheticTissue


def test_the_rate_of_files_is_told_with_their_number_and_size(tmp_path):
    tissue = SyntheticTissue(3, 32)
    for i in range(3):
        Image.fromarray(tissue.read(i)).save(tmp_path / f"{i}.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno")
    rate = rate_of_source(open_source(tmp_path), 32, seconds=0.01)
    sizes = [path.stat().st_size for path in tmp_path.iterdir()]
    assert rate.tiles == 4 and rate.bytes_a_tile == pytest.approx(sum(sizes) / 4)
    assert rate.images_a_second > 0


def test_a_source_without_files_and_a_stand_in():
    assert rate_of_source(SyntheticTissue(5, 32), 32, seconds=0.01).bytes_a_tile is None
    rate = rate_of_stand_in(64, seconds=0.01)
    assert rate.tiles is None and 500 < rate.bytes_a_tile < 64 * 64 * 3 and "64 px" in rate.what
