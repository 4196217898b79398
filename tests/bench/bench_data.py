"""A few images against the whole data set, where `NTKLAB_DATA` names the files."""

from functools import partial

from run import Pair

from ntklab.data import found, load


def pairs():
    """300 and 100 images of MNIST must cost less than all 70,000."""
    if found()["mnist"] is not None:
        few = partial(load, "mnist", n_train=300, n_test=100)
        yield Pair("MNIST, 400 images / all of them", few, partial(load, "mnist"), 1.0)
