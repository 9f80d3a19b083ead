import json

import pytest

from histojax.common.errors import UserError
from histojax.weights.licence import (
    Link,
    as_rows,
    card_beside,
    chain_beside,
    chain_of_card,
    check_commercial,
    link,
    verdict,
    warnings_of,
)


@pytest.mark.parametrize(
    "licence, commercial, derivatives",
    [
        ("Apache-2.0", True, True),
        ("MIT", True, True),
        ("BSD-3-Clause (trained on ImageNet)", True, True),
        ("CC-BY-NC-ND-4.0", False, False),
        ("CC-BY-NC-SA 4.0", False, None),
        ("Owkin non-commercial licence", False, None),
        ("GPL-3.0, academic use", False, True),
        ("Apache-2.0 with conditions: research only", False, True),
        ("unknown: a local file", None, None),
        ("see https://zenodo.org/records/10406135", None, None),
    ],
)
def test_what_the_name_of_a_licence_says(licence, commercial, derivatives):
    found = link("x", licence)
    assert (found.commercial, found.derivatives) == (commercial, derivatives)


def test_the_chain_allows_what_every_link_allows():
    free, bound, unknown = link("a", "MIT"), link("b", "CC-BY-NC-ND-4.0"), link("c", "?")
    assert verdict([], "commercial") is True and verdict([free], "commercial") is True
    assert verdict([free, unknown], "commercial") is None and verdict([unknown, bound], "commercial") is False
    check_commercial([free], "x")
    for chain, message in (([free, bound], "of b forbids"), ([unknown], "of c is not known to allow")):
        with pytest.raises(UserError, match=message):
            check_commercial(chain, "x.pth")
    assert warnings_of([bound])[0].startswith("DERIVATIVES FORBIDDEN by the licence of b")
    assert "terms not known: c" in warnings_of([unknown])[0] and not warnings_of([free])


def test_a_card_of_a_training_tells_where_it_started():
    row = {"name": "uni", "file": "u.bin", "sha256": "ab", "licence": "CC-BY-NC-ND-4.0"}
    assert chain_of_card({"starting_weights": [row]}) == (Link("uni", "CC-BY-NC-ND-4.0", False, False, "u.bin", "ab"),)
    assert chain_of_card({"starting_weights": "random"}) == () and chain_of_card({}) == ()
    inner = as_rows([link("uni", "CC-BY-NC-ND-4.0")])  # a second training, from an export of the first
    assert chain_of_card({"starting_weights": [{"name": "mine.safetensors", "licences": inner}]})[0].what == "uni"
    assert chain_of_card({"starting_weights": [{"name": "mine.safetensors", "licences": []}]}) == ()  # from nothing


def test_the_card_beside_a_file_must_be_its_own(tmp_path):
    card = {"licences": as_rows([link("uni", "MIT")]), "weights": {"file": "model.safetensors"}}
    (tmp_path / "card.json").write_text(json.dumps(card))
    assert chain_beside(tmp_path)[0].what == chain_beside(tmp_path / "model.safetensors")[0].what == "uni"
    assert card_beside(tmp_path / "other.pth") == {}
    both = card | {"weights": [{"file": "teacher.safetensors"}, {"file": "student.safetensors"}]}
    (tmp_path / "card.json").write_text(json.dumps(both))
    assert chain_beside(tmp_path / "student.safetensors")[0].what == "uni" and not chain_beside(tmp_path / "other.pth")
    (tmp_path / "card.json").write_text("{")
    assert card_beside(tmp_path) == {} and chain_beside(tmp_path / "none" / "x.pth") == ()
