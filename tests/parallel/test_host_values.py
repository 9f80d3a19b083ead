"""Host numbers on several devices, here all of one process."""

import jax
import numpy as np
from jax.sharding import NamedSharding

from histojax.parallel.host_values import place_rows, place_whole, rows_here
from histojax.parallel.mesh import WHOLE, make_mesh
from histojax.parallel.sharding import Layout


def test_rows_are_those_of_the_whole_array():
    sharding = Layout(make_mesh(2)).batch
    assert rows_here(sharding, 16) == list(range(16))
    assert rows_here(None, 3) == [0, 1, 2]
    rows = np.arange(48).reshape(16, 3)
    placed = place_rows(rows, sharding, 16)
    assert placed.sharding == sharding
    assert (np.asarray(placed) == rows).all()
    assert (np.asarray(place_rows(rows, None, 16)) == rows).all()


def test_whole_values_are_on_every_device():
    sharding = NamedSharding(make_mesh(), WHOLE)
    placed = place_whole({"rate": 0.5, "key": np.arange(4)}, sharding)
    assert placed["rate"].sharding == sharding and float(placed["rate"]) == 0.5
    assert [shard.data.tolist() for shard in placed["key"].addressable_shards] == [[0, 1, 2, 3]] * jax.device_count()
    assert place_whole(2.0, None) == 2.0
