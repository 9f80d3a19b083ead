import pytest

from histojax.ssl.choice import Choice, parse_choice


@pytest.mark.parametrize(
    ("word", "choice", "first"),
    [
        ("all", Choice("all"), 0),
        ("norms", Choice("norms"), 0),
        ("last:2", Choice("last", 2), 10),
        ("last:12", Choice("last", 12), 0),
        ("lora:8", Choice("lora", None, 8), 0),
        ("lora:0", Choice("lora", None, 0), 0),
        ("lora:4@last:3", Choice("lora", 3, 4), 9),
    ],
)
def test_words(word, choice, first):
    found = parse_choice(word, depth=12, width=384)
    assert found == choice and found.first_blocks(12) == first


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("", "is not all, norms, last:K, lora:R or lora:R@last:K"),
        ("last", "is not all"),
        ("last:-1", "is not all"),
        ("lora:8@norms", "is not all"),
        ("last:0", "names 0 blocks of 12: last:K takes K from 1 to 12"),
        ("lora:2@last:13", "names 13 blocks of 12"),
        ("lora:385", "lora:R takes R from 0 to 384"),
    ],
)
def test_words_that_say_nothing(word, reason):
    with pytest.raises(ValueError, match=rf"^'{word}'.*{reason}"):
        parse_choice(word, depth=12, width=384)
