"What must hold when the machine fails: killed processes, full disks, closed terminals, hostile names."
import os, signal, subprocess, sys, time, warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import refused, sentence
from test_train import Noisy, StopAt, batches, digits, net, same
from torch.utils.data import DataLoader

from visft_nb.core import InputError
from visft_nb.train import fit, load_checkpoint, unresumable

ROOT = Path(__file__).resolve().parents[1]


# ---------------------------------------------------------------- exact resumption with worker processes

def noisy(workers=2, **kw): return DataLoader(Noisy(), batch_size=8, shuffle=True, num_workers=workers, **kw)


class NoisyOwn(Noisy):
    "Augmentation from a generator that the data set keeps."
    def __init__(self):
        super().__init__()
        self.rng = np.random.default_rng(0)
    def __getitem__(self, i): return self.x[i] + float(self.rng.random()), self.y[i]


PLAN = dict(epochs=3, lr=.01, seed=7, precision='fp32')


@pytest.mark.parametrize('step, goes_on', [(8, 'the end of epoch 1'), (12, 'there'), (15, 'the end of epoch 2')])
def test_workers_go_on_exactly_from_the_end_of_an_epoch(tmp_path, step, goes_on):
    "Stopped within an epoch, whatever the step: what goes on is the end of the epoch before, bit for bit."
    unbroken, resumed, file = net(), net(seed=1), tmp_path/'c'
    valid = noisy(1 if step == 8 else 0)
    history = fit(unbroken, noisy(), valid, **PLAN)
    with pytest.raises(KeyboardInterrupt) as e: fit(net(), noisy(), valid, checkpoint=file, callbacks=[StopAt(step)], **PLAN)
    kept = load_checkpoint(file)
    assert f'goes on from {goes_on}' in str(e.value) and kept['epoch']*6 + kept['step'] == step//6*6, e.value
    assert fit(resumed, noisy(), valid, checkpoint=file, **PLAN) == history and same(resumed, unbroken)


@pytest.mark.parametrize('data, valid, every, words', [
    (lambda: noisy(), None, 3, ['train', '2 worker processes', 'num_workers=0', 'resume=False']),
    (lambda: noisy(persistent_workers=True), None, None, ['train', 'persistent_workers']),
    (lambda: noisy(0), lambda: noisy(persistent_workers=True), None, ['valid', 'persistent_workers'])])
def test_what_cannot_be_continued_exactly_is_refused_before_it_begins(tmp_path, data, valid, every, words):
    model, kw = net(), dict(every=every, checkpoint=tmp_path/'c', **PLAN)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with refused(['continued exactly', *words]): fit(model, data(), valid and valid(), **kw)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items()) and not list(tmp_path.iterdir())


def test_a_file_within_an_epoch_is_written_on_request_and_not_gone_on_from(tmp_path):
    file = tmp_path/'c'
    with pytest.raises(KeyboardInterrupt) as e: fit(net(), noisy(), every=3, resume=False, checkpoint=file, callbacks=[StopAt(10)], **PLAN)
    assert 'holds an earlier state' in str(e.value) and load_checkpoint(file)['step'] == 3
    sentence(lambda: fit(net(), noisy(), checkpoint=file, **PLAN), 'step 3', 'resume=False')
    fit(net(), noisy(), resume=False, checkpoint=file, **PLAN)
    sentence(lambda: fit(net(), noisy(0), checkpoint=file, **PLAN), 'another run', 'workers')


def test_stopped_before_the_first_epoch_is_over_nothing_is_claimed(tmp_path, capsys):
    with pytest.raises(KeyboardInterrupt, match='no checkpoint was written'): fit(net(), noisy(), checkpoint=tmp_path/'c', callbacks=[StopAt(2)], **PLAN)
    assert not list(tmp_path.iterdir()) and 'checkpoint' not in capsys.readouterr().err
    with pytest.raises(KeyboardInterrupt): fit(net(), batches(), callbacks=[StopAt(2)], **PLAN)
    assert 'checkpoint' not in capsys.readouterr().err
    with pytest.raises(KeyboardInterrupt, match='goes on from there'): fit(net(), batches(), checkpoint=tmp_path/'c', callbacks=[StopAt(2)], **PLAN)
    assert 'the checkpoint written' in capsys.readouterr().err and load_checkpoint(tmp_path/'c')['step'] == 2


def test_what_is_known_to_be_exact_is_not_refused():
    assert unresumable(batches()) is unresumable([]) is unresumable(None) is unresumable(noisy(0)) is unresumable(noisy(), within=False) is None


def test_a_generator_that_no_checkpoint_holds_is_named(tmp_path):
    load = lambda: DataLoader(NoisyOwn(), batch_size=8)
    with pytest.raises(KeyboardInterrupt): fit(net(), load(), checkpoint=tmp_path/'c', callbacks=[StopAt(4)], **PLAN)
    with pytest.warns(UserWarning, match=r'train\.dataset\.rng is a random number generator of its own'): fit(net(), load(), checkpoint=tmp_path/'c', **PLAN)
    with pytest.raises(KeyboardInterrupt): fit(net(), noisy(0), checkpoint=tmp_path/'d', callbacks=[StopAt(4)], **PLAN)
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)
        fit(net(), noisy(0), checkpoint=tmp_path/'d', **PLAN)
