"""What the processes of a run compare before it starts, as process 0 hears it."""

import pytest

from histojax.common.errors import UserError
from histojax.config import paper
from histojax.training.same_everywhere import check_same_config


class Two:
    """Process 0 of two; the other one was given the configuration with some leaves changed."""

    def __init__(self, **changes):
        self.changes = {name.replace("__", "."): repr(value) for name, value in changes.items()}

    def gather(self, value):
        _, leaves = value
        return [value, ["other", {name: self.changes.get(name, said) for name, said in leaves.items()}]]


def test_another_configuration_of_one_process_is_refused_by_leaf():
    with pytest.raises(UserError, match=r"process 1 on other has another .* optim.base_lr=0.5, not 0.0002; give all"):
        check_same_config(Two(optim__base_lr=0.5), paper())
    with pytest.raises(UserError, match=r"log.every=3, not 10; seed=1, not 0 \.\.\.;"):
        check_same_config(Two(stop_step=7, seed=1, batch_size=2, log__every=3), paper())


def test_each_host_may_have_its_tiles_elsewhere():
    check_same_config(Two(data__train="/local/tiles", data__workers=3), paper())
