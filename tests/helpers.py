"What many files share: the sentence that bad input gets, and a training step on a GPU that is not there."
from contextlib import contextmanager

import pytest
from fake_cuda import FakeAccelerator

from visft_nb.core import InputError
from visft_nb.train import Objective, cross_entropy_step, make_optimizer, train_step


@contextmanager
def refused(words):
    "Inside, an `InputError` must be raised whose one sentence holds all the words; yields what `pytest.raises` does."
    with pytest.raises(InputError) as e: yield e
    assert all(w in str(e.value) for w in words) and '\n' not in str(e.value), str(e.value)


def sentence(call, *words):
    "A call that must be refused."
    with refused(words): call()


def fake_step(model, batch, loss=cross_entropy_step, optimizer=None):
    "One step of training, inside `fake_cuda`."
    objective = Objective(model, loss)
    return train_step(objective, batch, optimizer or make_optimizer(objective), FakeAccelerator())
