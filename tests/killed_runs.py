"""Kills a training as SIGTERM would, so that tests can see whether the same command goes on with it."""

import contextlib

import pytest

from models import epochs


class Killed(BaseException):
    """Nothing in a command catches it."""


@contextlib.contextmanager
def killed_in_epoch(number, training=1):
    """What is called here dies when an epoch (the first is 0) of the given training (the first is 1) begins."""
    tell, begun = epochs.TellEpoch.on_epoch_begin, []

    def die(self, epoch, logs=None):
        if self not in begun:
            begun.append(self)
        if (len(begun), epoch) == (training, number):
            raise Killed
        tell(self, epoch, logs)

    with pytest.MonkeyPatch.context() as patched, pytest.raises(Killed):
        patched.setattr(epochs.TellEpoch, "on_epoch_begin", die)
        yield


@contextlib.contextmanager
def epochs_begun():
    """A list, to which every epoch that begins here is added."""
    tell, found = epochs.TellEpoch.on_epoch_begin, []

    def count(self, epoch, logs=None):
        found.append(epoch)
        tell(self, epoch, logs)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(epochs.TellEpoch, "on_epoch_begin", count)
        yield found
