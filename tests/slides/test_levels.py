import pytest

from histojax.slides.levels import choose_level, make_levels

APERIO = [(46001, 32914), (11500, 8228), (2875, 2057)]


def test_whole_downsamples_are_recognised():
    levels = make_levels(APERIO)
    assert [level.downsample for level in levels] == [1, 4, 16]
    assert levels[1].ratio == (4, 4)
    assert make_levels([(4443, 3567), (2222, 1784)])[1].downsample == 2  # rounded up


def test_other_downsamples_are_quotients_of_each_axis():
    level = make_levels([(4000, 3000), (1007, 756)])[1]
    assert level.ratio == (4000 / 1007, 3000 / 756) and level.downsample == pytest.approx(3.970, abs=1e-3)


@pytest.mark.parametrize(("downsample", "level"), [(0.99, 0), (1, 0), (3.9, 0), (3.93, 1), (4, 1), (15, 1), (99, 2)])
def test_the_next_finer_level_serves(downsample, level):
    assert choose_level(make_levels(APERIO), downsample) == level


def test_a_level_of_other_proportions_serves_nothing():
    levels = make_levels([(4000, 3000), (1000, 750), (600, 300), (7, 6)])
    assert [choose_level(levels, d) for d in (5, 6, 600)] == [1, 1, 3]
