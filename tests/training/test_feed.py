"""Batches on their way to the devices, whatever happens to the workers that make them."""

import multiprocessing
import os
import signal

import numpy as np
from tiny import get_config

from histojax.data import open_source
from histojax.training.feed import Feed


def feed(workers):
    config = get_config()
    config.data.workers = workers
    return Feed(config, open_source(config.data.train, tile_px=config.data.tile_px), None, {})


def take(feed, count):
    return [np.asarray(feed.take()[0]) for _ in range(count)]


def test_the_batches_after_a_killed_worker_are_the_same():
    straight, killed = feed(0), feed(2)
    expected = take(straight, 8)
    first = take(killed, 2)
    os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
    assert np.array_equal(first + take(killed, 6), expected)
    assert killed.state == straight.state
    straight.close()
    killed.close()
