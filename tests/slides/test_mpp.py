import math

import pytest

from histojax.slides.bad_slide import BadSlide
from histojax.slides.mpp import find_mpp, parse_mpp

BOTH = ("openslide.mpp-x", "openslide.mpp-y")


def stated(x, y=None):
    return dict(zip(BOTH, (x, x if y is None else y)))


def test_metadata_are_taken_and_named():
    assert find_mpp("a", stated("0.2503")) == (0.2503, "metadata (openslide.mpp-x)", ())
    assert find_mpp("a", stated("0.250", "0.254")).value == pytest.approx(0.252)
    assert find_mpp("a", {"openslide.mpp-y": "0.5"}).origin == "metadata (openslide.mpp-y)"
    assert find_mpp("a", {"aperio.MPP": "0,2527"}) == (0.2527, "metadata (aperio.MPP)", ())


@pytest.mark.parametrize("properties", [{}, {"openslide.mpp-x": " "}, {"tiff.XResolution": "40000"}])
def test_an_unknown_mpp_says_how_to_give_it(properties):
    with pytest.raises(BadSlide, match=r"a\.svs: its metadata give no mpp .*: give it with --mpp or in an mpp column"):
        find_mpp("a.svs", properties)


@pytest.mark.parametrize("text", ["0.25 µm", "0.25 \u03bcm/px", "0,25um per pixel", "0.25 mpp", " 0.25 microns/pixel"])
def test_units_of_an_mpp_are_understood(text):
    assert parse_mpp(text) == (0.25, "")
    assert parse_mpp("0.25 mm")[1] and parse_mpp("250 nm")[1]


def test_a_given_mpp_wins_and_disagreement_is_noted():
    assert find_mpp("a", {}, 0.25) == (0.25, "given", ())
    assert find_mpp("a", stated("0.2512"), "0.25") == (0.25, "given", ())
    assert find_mpp("a", stated("0.5"), 0.25).notes == (
        "mpp 0.25 was given, but its metadata say 0.5 (openslide.mpp-x)",
    )
    assert "mpp 0.25 was given; its metadata say mpp 250" in find_mpp("a", stated("250"), 0.25).notes[0]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0, "is no length"),
        (-0.25, "is no length"),
        (math.nan, "is no length"),
        ("inf", "is no length"),
        ("about 0.5", "is no number"),
        (2.5e-7, "are these metres? then it is 0.25"),
        ("0,00025", "are these millimetres? then it is 0.25"),
        (250, "are these nanometres? then it is 0.25"),
        (101600, "are these dots per inch? then it is 0.25"),
        (352.78, "72 dots per inch"),
        (0.04, "is not between 0.05 and 20"),
        (25, "is not between 0.05 and 20"),
    ],
)
def test_implausible_values_are_refused_wherever_they_come_from(value, words):
    assert words in parse_mpp(value)[1]
    with pytest.raises(BadSlide) as given:
        find_mpp("a", {}, value)
    assert "(given)" in given.value.reason and words in given.value.reason
    with pytest.raises(BadSlide) as found:
        find_mpp("a", stated(str(value)))
    assert words in found.value.reason and "give the right one with --mpp" in found.value.reason


def test_pixels_must_be_square():
    with pytest.raises(BadSlide, match=r"0\.25 \(openslide\.mpp-x\) and 0\.5 \(openslide\.mpp-y\): .* not square"):
        find_mpp("a", stated("0.25", "0.5"))
