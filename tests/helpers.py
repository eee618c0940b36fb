"What many files share: the sentence that bad input gets, and a training step on a GPU that is not there."
from contextlib import contextmanager
from html.parser import HTMLParser

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


class Page(HTMLParser):
    "Collects the text, and asserts that tags are closed and pictures have texts."
    open_tags, text, images = (), '', 0
    def handle_starttag(self, tag, attributes):
        if tag == 'img': self.images += 1; assert dict(attributes)['alt']; assert dict(attributes)['src'].startswith('data:image/')
        elif tag not in ('meta', 'br'): self.open_tags += (tag,)
    def handle_endtag(self, tag): assert self.open_tags[-1] == tag; self.open_tags = self.open_tags[:-1]
    def handle_data(self, data): self.text += data
