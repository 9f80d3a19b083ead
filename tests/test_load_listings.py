"""tools/load_listings.py without its files: every listing has a network, and the counts that it compares agree."""

import load_listings
import pytest
from family_cases import listing, listings
from parity_cases.backbones import backbone_tensors

from histojax.models.network import abstract, family
from histojax.weights.detect import the_layout


@pytest.mark.parametrize("name", listings())
def test_the_tool_counts_what_the_network_uses(name):
    config, side, _ = load_listings.network_of(name)
    tensors = backbone_tensors(listing(name))
    layout, _ = the_layout(tensors, family=family(config))
    _, report = layout.read(tensors, dtype=None, expected=abstract(config)[1])
    assert not report.missing and not report.unused and side % getattr(config, "patch", 1) == 0
    counted, wanted = load_listings.parameters(name, report.matched)
    assert counted == wanted
