"One loop for every training: what it computes, what it leaves alone, how it stops and goes on."
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from copy import deepcopy
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset, WeightedRandomSampler

import visft_nb.train as T
from visft_nb.core import InputError, set_seed
from visft_nb.data import Augment, Batches, Images
from visft_nb.train import (SCHEDULES, History, Interrupt, batches_from, cosine, cross_entropy_step, eval_mode, evaluate, fit, preserve_rng,
                            load_checkpoint, load_weights, make_accelerator, make_optimizer, move_model, onecycle, predict_logits, rng_state,
                            save_checkpoint, set_rng_state)

torch.set_num_threads(1)


def digits(n=48, seed=0):
    "Small images of three classes that differ in brightness."
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 3
    return Images((torch.rand(n, 1, 8, 8, generator=g)*120 + 60*y[:, None, None, None]).to(torch.uint8), y, classes=('a', 'b', 'c'))


def net(seed=0, outputs=3):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Dropout(.3), nn.Linear(6*16, outputs))


def batches(n=48, size=8, **kw): return Batches(digits(n), size, device='cpu', transform=Augment(degrees=20, noise=.1), **kw)


def plain_batches(): return [(digits()[i:i + 8].floats(), digits()[i:i + 8].labels) for i in range(0, 48, 8)]


def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return list(a) == list(b) and all(torch.equal(a[k], b[k]) for k in a)


class StopAt:
    "Presses Ctrl-C after a step, or raises an error of its own."
    def __init__(self, step, error=None): self.step, self.error = step, error
    def on_step(self, history, model):
        if len(history.steps) != self.step: return
        if self.error: raise self.error
        signal.raise_signal(signal.SIGINT)


# ---- what the loop computes

@pytest.mark.parametrize('clip', [None, .5])
def test_equals_a_loop_written_by_hand(clip):
    theirs, ours, data = net().to(memory_format=torch.channels_last), net(), plain_batches()
    with preserve_rng(5):
        opt = torch.optim.AdamW(theirs.parameters(), lr=.01)
        rate = torch.optim.lr_scheduler.OneCycleLR(opt, max_lr=.01, total_steps=18, cycle_momentum=False)
        for step in range(18):
            x, y = data[step % 6]
            opt.zero_grad()
            F.cross_entropy(theirs(x.contiguous(memory_format=torch.channels_last)), y).backward()
            if clip: nn.utils.clip_grad_norm_(theirs.parameters(), clip)
            opt.step()
            if step < 17: rate.step()
    history = fit(ours, data, epochs=3, lr=.01, clip=clip, precision='fp32', seed=5)
    for (k, a), b in zip(theirs.state_dict().items(), ours.state_dict().values()): torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6, msg=k)
    assert len(history.steps) == 18 and set(history.steps[0]) == {'loss', 'lr'} | ({'norm'} if clip else set())
    assert history.best is None and [e['step'] for e in history.epochs] == [6, 12, 18]


def test_a_model_moves_as_torch_moves_it_and_one_of_volumes_too():
    ours, theirs = net(), net().to(memory_format=torch.channels_last)
    ours.load_state_dict(theirs.state_dict())
    tensors = lambda m: [(w.stride(), w.dtype) for w in m.state_dict().values()]
    assert move_model(ours, 'cpu') is ours and tensors(ours) == tensors(theirs)
    deep = nn.Sequential(nn.Conv3d(1, 2, 3), nn.Flatten(), nn.Linear(16, 2))
    before = deep[0].weight.detach().clone()
    fit(deep, [(torch.rand(4, 1, 4, 4, 4), torch.tensor([0, 1, 0, 1]))], epochs=1, optimizer='sgd', bar=False)
    assert deep[0].weight.is_contiguous() and not torch.equal(deep[0].weight, before), 'torch has no channels-last order of five axes'


@pytest.mark.parametrize('total', [1, 2, 3, 4, 10, 97, 1000])
def test_onecycle_is_torchs(total):
    opt = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.)
    if total*.3 <= 1: assert all(0 < onecycle(k, total) <= 1 for k in range(total)); return
    rate = torch.optim.lr_scheduler.OneCycleLR(opt, max_lr=1., total_steps=total, cycle_momentum=False)
    for k in range(total):
        assert opt.param_groups[0]['lr'] == pytest.approx(onecycle(k, total), abs=1e-12)
        opt.step()
        if k < total - 1: rate.step()


@pytest.mark.parametrize('name', SCHEDULES)
@pytest.mark.parametrize('total', [1, 2, 7, 500])
def test_schedules_stay_in_range(name, total):
    factors = [SCHEDULES[name](k, total) for k in range(total)]
    assert all(0 < f <= 1 for f in factors)
    peak = factors.index(max(factors))
    assert all(a <= b for a, b in pairwise(factors[:peak + 1])) and all(a >= b for a, b in pairwise(factors[peak:]))


def test_groups_keep_their_own_peak_and_get_it_back():
    model = net()
    opt = torch.optim.SGD([{'params': model[0].parameters(), 'lr': .01}, {'params': model[5].parameters(), 'lr': .1}])
    seen = []
    class See:
        def on_step(self, history, model): seen.append([g['lr'] for g in opt.param_groups])
    fit(model, plain_batches(), epochs=1, optimizer=opt, schedule=partial(cosine, warm=.5), callbacks=[See()])
    assert all(b == pytest.approx(10*a) for a, b in seen) and seen[0] != seen[1]
    assert [g['lr'] for g in opt.param_groups] == [.01, .1] and 'initial_lr' not in opt.param_groups[0]


def test_any_loss_and_a_loss_with_weights_of_its_own():
    class Reconstruct(nn.Module):
        def __init__(self):
            super().__init__()
            self.out = nn.Linear(3, 64)
        def forward(self, model, x): return (self.out(model(x)) - x.flatten(1)).square().mean()
    loss, model = Reconstruct(), net()
    before = deepcopy(loss.state_dict())
    history = fit(model, [x for x, _ in plain_batches()], epochs=4, loss=loss, lr=.01)
    assert history.steps[-1]['loss'] < history.steps[0]['loss'] and not torch.equal(before['out.weight'], loss.out.weight)


def test_the_best_weights_are_put_back():
    scores, seen = iter([1., 3., 2., 0.]), []
    class Keep:
        def on_epoch(self, history, model): seen.append(deepcopy(model))
    model = net()
    history = fit(model, plain_batches(), lambda model: next(scores), epochs=4, callbacks=[Keep()])
    assert history.best == 3 and history.best_epoch == 2 and same(model, seen[1]) and not same(model, seen[3])
    assert history.monitor == 'valid'


def test_early_stopping_and_the_goal():
    scores = iter([3., 1., 2., 2., 0.])
    history = fit(net(), plain_batches(), lambda model: {'error': next(scores)}, epochs=5, goal='min', patience=2)
    assert [e['error'] for e in history.epochs] == [3, 1, 2, 2] and history.best == 1 and history.monitor == 'error'


def test_metrics_and_columns():
    history = fit(net(), batches(), digits(), epochs=2, lr=.01)
    assert list(history.frame()) == ['epoch', 'step', 'loss', 'accuracy', 'valid_loss'] and history.monitor == 'accuracy'
    def half(logits, y): return .5
    history = fit(net(), batches(), digits(), epochs=1, metric={'half': half, 'accuracy': T.logits_accuracy}, loss=lambda m, b: cross_entropy_step(m, b))
    assert list(history.frame())[3:] == ['half', 'accuracy'] and history.best == .5
    assert evaluate(net(), digits(), half) == .5 and evaluate(net(), digits(), {'h': half}) == {'h': .5}


def test_callbacks_hear_everything_in_order():
    said = []
    class All:
        def on_step(self, h, m): said.append('s')
        def on_epoch(self, h, m): said.append('e')
        def on_end(self, h, m): said.append('end')
    fit(net(), plain_batches(), epochs=2, callbacks=[All(), object()])
    assert ''.join(said) == 'sssssse'*2 + 'end'


def test_learns():
    model = net()
    history = fit(model, batches(), digits(30, seed=1), epochs=12, lr=.02)
    assert .8 < history.best <= 1 and .8 < evaluate(model, digits(30, seed=1)) <= 1


# ---- what it leaves alone

def test_one_process_many_precisions_and_an_untouched_model():
    results = []
    for precision in ('fp32', 'bf16', 'fp32', 'auto'):
        model = net()
        fit(model, batches(), epochs=2, precision=precision)
        assert 'forward' not in model.__dict__ and not hasattr(model, '_original_forward')
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        results.append(model)
    assert same(results[0], results[2]) and not same(results[0], results[1])


def test_random_numbers_outside_go_on_as_if_nothing_had_been():
    draws = lambda: (random.random(), np.random.rand(), torch.rand(1).item())
    model = net()
    set_seed(3)
    expected = draws()
    set_seed(3)
    fit(model, batches(), epochs=1)
    assert draws() == expected


def test_result_depends_on_the_seed_alone():
    torch.manual_seed(1); a = net(); fit(a, batches(), epochs=1, seed=4)
    b = net(); torch.manual_seed(2); random.seed(9); fit(b, batches(), epochs=1, seed=4)
    c = net(); fit(c, batches(), epochs=1, seed=5)
    assert same(a, b) and not same(a, c)


def test_modes_are_put_back_and_frozen_batch_norm_stays_frozen():
    model = net()
    model[1].eval()
    mean = model[1].running_mean.clone()
    fit(model, batches(), digits(), epochs=1)
    assert torch.equal(model[1].running_mean, mean) and model.training and not model[1].training
    model.eval()
    fit(model, batches(), epochs=1)
    assert not model.training and not torch.equal(model[1].running_mean, mean)


def test_looking_changes_nothing():
    model = net()
    model[4].eval()
    before, modes = deepcopy(model), [m.training for m in model.modules()]
    a, y = predict_logits(model, digits())
    assert same(model, before) and modes == [m.training for m in model.modules()] and not a.requires_grad
    with pytest.raises(RuntimeError), eval_mode(model): raise RuntimeError
    assert modes == [m.training for m in model.modules()]
    torch.testing.assert_close(a, deepcopy(model).eval()(digits().floats()).detach())
    assert torch.equal(y, digits().labels)


@pytest.mark.parametrize('make', [
    lambda d: d, lambda d: d.floats(), lambda d: Batches(d, 7, shuffle=False, device='cpu'), lambda d: [(d.floats(), d.labels)],
    lambda d: DataLoader(TensorDataset(d.floats(), d.labels), batch_size=5), lambda d: list(d.floats().split(9))])
def test_predictions_of_anything_that_holds_images(make):
    model, d = net(), digits(20)
    logits, labels = predict_logits(model, make(d), batch_size=6)
    with torch.no_grad(), eval_mode(model): torch.testing.assert_close(logits, model(d.floats()), rtol=1e-5, atol=1e-5)
    assert labels is None or torch.equal(labels, d.labels)
    assert logits.dtype == torch.float32
    low, _ = predict_logits(model, make(d), precision='bf16')
    assert low.dtype == torch.float32 and 0 < (low - logits).abs().max() < .1


def test_nothing_is_printed_without_a_watcher(capfd):
    fit(net(), batches(), digits(), epochs=2)
    assert capfd.readouterr() == ('', '')


# ---- checkpoints

def test_checkpoint_round_trip(tmp_path):
    w = torch.arange(120.).reshape(2, 3, 4, 5)
    last = w.to(memory_format=torch.channels_last)
    state = {'ints': {0: 1, -3: {'x': ()}}, 'tuple': (1, (2., None)), 'list': [[], [True, 'é\n"']], 'inf': float('-inf'), 'big': 2**70, 'tiny': 5e-324,
             'shared': [w, w], 'view': w[:, 1], 'strided': w[..., ::2], 'transposed': w.mT, 'last': last, 'scalar': torch.tensor(7), 'empty': torch.empty(0, 3),
             'types': [torch.ones(3, dtype=t) for t in (torch.bfloat16, torch.float16, torch.float64, torch.bool, torch.uint8, torch.int64)],
             'parameter': nn.Parameter(w), 'numpy': np.float32(.1), 'dict': {('a', 1): {}}}
    save_checkpoint(tmp_path/'c.safetensors', **state)
    back = load_checkpoint(tmp_path/'c.safetensors')

    def equal(a, b):
        if torch.is_tensor(a): return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b) and not b.requires_grad
        if isinstance(a, dict): return list(a) == list(b) and all(equal(a[k], b[k]) for k in a)
        if isinstance(a, (list, tuple)): return type(a) is type(b) and len(a) == len(b) and all(map(equal, a, b))
        return a == b and (type(a) is type(b) or isinstance(a, np.generic))
    assert list(back) == list(state)
    for k in state: assert equal(state[k], back[k]), k
    assert back['shared'][0] is back['shared'][1] and back['last'].stride() == last.stride()
    back['view'] += 1     # what was loaded is memory of its own, not the file
    assert torch.equal(load_checkpoint(tmp_path/'c.safetensors')['view'], w[:, 1])
    assert [p.name for p in tmp_path.iterdir()] == ['c.safetensors']


def test_history_survives_a_checkpoint(tmp_path):
    history = fit(net(), batches(), digits(), epochs=2, clip=1.)
    save_checkpoint(tmp_path/'h', history=history.state())
    assert History.of(load_checkpoint(tmp_path/'h')['history']) == history
    assert History.of(History().state()) == History()
    ran = History('max', 'accuracy', [{'loss': 2., 'lr': .1}]*300, [{'epoch': 1, 'step': 150, 'loss': 1.5, 'accuracy': 60.}, {'epoch': 2, 'step': 300, 'loss': 1.25, 'accuracy': 70.}])
    assert repr(ran) == 'History(300 steps, 2 epochs: loss 1.25, accuracy 70; best in epoch 2)' and repr(History()) == 'History(0 steps, 0 epochs)'


def test_checkpoint_refuses_objects_and_keeps_the_old_file(tmp_path):
    path = tmp_path/'c.safetensors'
    save_checkpoint(path, a=1)
    with pytest.raises(InputError, match=r'state\.b\.c\[0\] is a set.*tensors, numbers'): save_checkpoint(path, b={'c': [{1}]})
    assert load_checkpoint(path) == {'a': 1} and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize('cut', [0, 1, 7, 8, 40, -1])
def test_cut_short(tmp_path, cut):
    path = tmp_path/'c.safetensors'
    save_checkpoint(path, model=net().state_dict())
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(InputError, match=r'c\.safetensors is no whole safetensors file .*cut short'): load_checkpoint(path)


def test_foreign_files(tmp_path):
    from safetensors.torch import save_file
    save_file({'w': torch.ones(2)}, tmp_path/'bare'); torch.save({'w': 1}, tmp_path/'pickle'); (tmp_path/'text').write_text('hello, world '*20)
    for name, words in (('bare', 'none of `save_checkpoint`'), ('pickle', 'no whole safetensors file'), ('text', 'no whole safetensors file'), ('none', 'There is no checkpoint'), ('', 'There is no checkpoint')):
        with pytest.raises(InputError, match=words): load_checkpoint(tmp_path/name)
    save_checkpoint(tmp_path/'mine', answer=42)
    with pytest.raises(InputError, match='has no history, model, optimizer.*not written by fit'): fit(net(), batches(), epochs=1, checkpoint=tmp_path/'mine')


def test_no_pickle_anywhere():
    source = '\n'.join(p.read_text() for p in Path(T.__file__).parent.glob('*.py'))
    for word in ('pickle', 'torch.load(', 'torch.save(', ' eval(', ' exec('): assert word not in source


def test_rng_round_trip(tmp_path):
    draws = lambda: (random.random(), random.gauss(0, 1), np.random.randn(), torch.randn(3).tolist())
    draws()
    save_checkpoint(tmp_path/'r', rng=rng_state())
    expected = draws(), draws()
    set_rng_state(load_checkpoint(tmp_path/'r')['rng'])
    assert (draws(), draws()) == expected


# ---- interrupted and resumed

class Noisy(Dataset):
    "Augmentation from the global generators, as torchvision's transforms do it."
    def __init__(self): self.x, self.y = digits().floats(), digits().labels
    def __len__(self): return len(self.x)
    def __getitem__(self, i): return self.x[i] + .1*torch.rand(1) + .1*random.random() + .1*np.random.rand(), self.y[i]


DATA = {
    'batches': batches,
    'loader': lambda: DataLoader(Noisy(), batch_size=8, shuffle=True),
    'weighted': lambda: DataLoader(Noisy(), batch_size=8, sampler=WeightedRandomSampler([1.]*24 + [2.]*24, 48)),
    'list': plain_batches,
}


@pytest.mark.parametrize('data, step, kw', [
    ('batches', 3, {}), ('batches', 8, {'precision': 'bf16'}), ('batches', 6, {'patience': 1}), ('batches', 12, {'every': 5}), ('batches', 17, {'every': 1}),
    ('loader', 9, {'optimizer': 'sgd', 'lr': .05}), ('loader', 1, {'clip': .5}), ('weighted', 10, {'schedule': 'cosine'}), ('list', 4, {'schedule': 'constant', 'optimizer': 'adam'})])
def test_resumed_is_unbroken(tmp_path, data, step, kw):
    kw = {'lr': .01, 'epochs': 3, 'seed': 7} | kw
    unbroken, broken, resumed = net(), net(), net(seed=1)
    history = fit(unbroken, DATA[data](), digits(), **kw)
    with pytest.raises(KeyboardInterrupt, match=f'after step {step}'): fit(broken, DATA[data](), digits(), checkpoint=tmp_path/'c', callbacks=[StopAt(step)], **kw)
    again = fit(resumed, DATA[data](), digits(), checkpoint=tmp_path/'c', **kw)
    assert same(resumed, unbroken) and again == history
    third = net(seed=2)     # a finished run is not run again
    assert fit(third, DATA[data](), digits(), checkpoint=tmp_path/'c', callbacks=[StopAt(1)], **kw) == history and same(third, unbroken)


def test_chain_of_interrupts_is_exact(tmp_path):
    unbroken, kw = net(), dict(epochs=2, lr=.01, checkpoint=tmp_path/'c')
    fit(unbroken, batches(), digits(), epochs=2, lr=.01)
    for step in (1, 2, 5, 6, 7, 12):
        with pytest.raises(KeyboardInterrupt): fit(net(), batches(), digits(), callbacks=[StopAt(step)], **kw)
    resumed = net(seed=3)
    fit(resumed, batches(), digits(), **kw)
    assert same(resumed, unbroken)


def test_loss_weights_are_resumed_too(tmp_path):
    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(8)
            self.out = nn.Linear(3, 3)
        def forward(self, model, batch): return F.cross_entropy(self.out(model(batch[0])), batch[1])
    a, b = Head(), Head()
    fit(net(), batches(), epochs=2, loss=a)
    with pytest.raises(KeyboardInterrupt): fit(net(), batches(), epochs=2, loss=Head(), checkpoint=tmp_path/'c', callbacks=[StopAt(7)])
    b.out.reset_parameters()
    fit(net(), batches(), epochs=2, loss=b, checkpoint=tmp_path/'c')
    assert same(a, b)


def test_constant_schedule_may_be_trained_longer(tmp_path):
    long, short = net(), net()
    fit(long, batches(), epochs=3, schedule='constant')
    fit(short, batches(), epochs=1, schedule='constant', checkpoint=tmp_path/'c')
    fit(short, batches(), epochs=3, schedule='constant', checkpoint=tmp_path/'c')
    assert same(long, short)


def test_begin_anew(tmp_path):
    a, b = net(), net()
    fit(a, batches(), epochs=1, lr=.01, checkpoint=tmp_path/'c')
    fit(b, batches(), epochs=2, lr=.01, checkpoint=tmp_path/'c', resume=False)
    assert load_checkpoint(tmp_path/'c')['plan']['epochs'] == 2


def test_order_is_the_same_from_any_batch():
    for make in DATA.values():
        data = make()
        whole = [b[1] for b in batches_from(data, 2, 0, seed=3)]
        for k in range(1, 7):
            rest = [b[1] for b in batches_from(make(), 2, k, seed=3)]
            assert len(rest) == 6 - k and all(map(torch.equal, whole[k:], rest))


KILL = '''
import os, random, select, signal, sys, time
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
from test_train import net, batches, digits
from visft_nb.train import fit, save_checkpoint, load_checkpoint
folder, kind = sys.argv[1:]
signal.signal(signal.SIGINT, signal.default_int_handler)
STEPS = 18

def train(path, out, precision, pipe=None):
    class Tell:
        def on_step(self, history, model):
            os.write(pipe, b'.')
            time.sleep(.002)
    model = net()
    fit(model, batches(), digits(), epochs=3, lr=.01, precision=precision, checkpoint=path, every=2, callbacks=[Tell()] if pipe else [])
    save_checkpoint(out, model=model.state_dict())

def fork(*args):
    pid = os.fork()
    if pid: return pid
    code = 1
    try:
        train(*args)
        code = 0
    except KeyboardInterrupt: code = 130
    except BaseException as e: print('child', repr(e), flush=True)
    finally: os._exit(code)

train(None, f'{{folder}}/warm', 'bf16')    # what is imported and set up at first use is inherited by the children
for precision in ('fp32', 'bf16'): os.waitpid(fork(None, f'{{folder}}/{{precision}}', precision), 0)
rng, good = random.Random(1), 0
for i in range(10):
    precision, path, out = ('fp32', 'bf16')[i % 2], f'{{folder}}/c{{i}}', f'{{folder}}/o{{i}}'
    r, w = os.pipe()
    pid = fork(path, out, precision, w)
    for _ in range(rng.randint(1, STEPS - 1)): os.read(r, 1)
    time.sleep(rng.random()*.01)
    os.kill(pid, getattr(signal, kind))
    status = os.waitpid(pid, 0)[1]
    ended = os.waitstatus_to_exitcode(status)
    if os.path.exists(path): load_checkpoint(path)           # whole, whenever it was
    assert os.waitstatus_to_exitcode(os.waitpid(fork(path, out, precision), 0)[1]) == 0
    a, b = load_checkpoint(out)['model'], load_checkpoint(f'{{folder}}/{{precision}}')['model']
    equal = all(torch.equal(a[k], b[k]) for k in b)
    good += equal and ended in (-9, 130)
    print(i, precision, 'ended', ended, 'equal', equal, flush=True)
print('good', good)
'''


@pytest.mark.parametrize('kind', ['SIGKILL', 'SIGINT'])
def test_killed_at_a_random_step_and_resumed_ten_of_ten(tmp_path, kind):
    run = subprocess.run([sys.executable, '-W', 'ignore', '-c', KILL.format(tests=str(Path(__file__).parent)), str(tmp_path), kind], capture_output=True, text=True,
                         timeout=120, env=os.environ | {'OMP_NUM_THREADS': '1'}, cwd=tmp_path)
    assert run.stdout.endswith('good 10\n'), run.stdout + run.stderr
    assert not [p for p in tmp_path.iterdir() if p.name.startswith('.')] or kind == 'SIGKILL'


# ---- Ctrl-C

def test_first_ctrl_c_asks_second_stops():
    handler = signal.getsignal(signal.SIGINT)
    with Interrupt() as asked:
        assert not asked
        signal.raise_signal(signal.SIGINT)
        assert asked
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
            time.sleep(1)
    assert signal.getsignal(signal.SIGINT) is handler


def test_handler_is_put_back_whatever_happens():
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match='no checkpoint was asked for'): fit(net(), batches(), epochs=1, callbacks=[StopAt(2)])
    assert signal.getsignal(signal.SIGINT) is handler
    with pytest.raises(OSError): fit(net(), batches(), epochs=1, callbacks=[StopAt(2, OSError())])
    assert signal.getsignal(signal.SIGINT) is handler


def test_ctrl_c_during_validation_stops_after_it(tmp_path):
    def valid(model):
        signal.raise_signal(signal.SIGINT)
        return 1.
    with pytest.raises(KeyboardInterrupt, match='after step 6'): fit(net(), batches(), valid, epochs=2, checkpoint=tmp_path/'c')
    assert (load_checkpoint(tmp_path/'c')['epoch'], load_checkpoint(tmp_path/'c')['step']) == (1, 0)


def test_trains_outside_the_main_thread():
    result = []
    t = threading.Thread(target=lambda: result.append(fit(net(), batches(), epochs=1)))
    t.start(); t.join()
    assert len(result[0].steps) == 6


# ---- what goes wrong

class Spoil:
    "A loss that is not a number from a step on."
    def __init__(self, step, value): self.left, self.value = step, value
    def __call__(self, model, batch):
        self.left -= 1
        loss = cross_entropy_step(model, batch)
        return loss*self.value if self.left <= 0 else loss


@pytest.mark.parametrize('value, word', [(float('nan'), 'nan'), (float('inf'), 'inf')])
def test_a_loss_that_is_no_number(tmp_path, value, word):
    model = net()
    with pytest.raises(InputError) as e: fit(model, batches(), epochs=2, loss=Spoil(9, value), checkpoint=tmp_path/'c', every=4)
    for words in (f'loss is {word} at step 9', 'epoch 2, batch 3 of 6', 'lr=', 'clip', 'has the last good state'): assert words in str(e.value)
    assert load_checkpoint(tmp_path/'c')['history']['steps']['loss'].shape == (8,)
    assert all(p.isfinite().all() for p in model.parameters())


def test_a_gradient_that_is_no_number():
    class Sqrt(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.zeros(1))
    loss = lambda m, b: m.w.abs().sum().sqrt()          # the root has an infinite slope at 0
    with pytest.raises(InputError, match='norm is nan at step 1'): fit(Sqrt(), plain_batches(), epochs=1, loss=loss, clip=1.)


def test_weights_that_are_no_numbers_never_reach_the_checkpoint(tmp_path):
    class Poison:
        def on_step(self, history, model):
            if len(history.steps) == 8: model[5].weight.data[0, 0] = float('nan')
    with pytest.raises(InputError, match=r'5\.weight is not finite after step 8.*left as it was'): fit(net(), batches(), epochs=2, checkpoint=tmp_path/'c', every=4, callbacks=[Poison()])
    assert all(v.isfinite().all() for v in load_checkpoint(tmp_path/'c')['model'].values())


def test_a_metric_that_is_no_number():
    with pytest.raises(InputError, match='metric valid is nan after epoch 1'): fit(net(), batches(), lambda m: float('nan'), epochs=1)


def frozen():
    return net().requires_grad_(False)


@pytest.mark.parametrize('call, words', [
    (lambda: fit(net(outputs=2), batches(), epochs=1), ['run from 0 to 2', 'head has 2 outputs']),
    (lambda: cross_entropy_step(net(), (torch.rand(2, 1, 8, 8), torch.tensor([-1, 0]))), ['run from -1 to 0', 'number these from 0']),
    (lambda: cross_entropy_step(net(), (torch.rand(2, 1, 8, 8), torch.rand(2))), ['float32', 'int64', 'loss of your own']),
    (lambda: cross_entropy_step(net(), (torch.rand(2, 1, 8, 8), None)), ['missing']),
    (lambda: fit(net(), [], epochs=1), ['no batch to train on']),
    (lambda: fit(net(), [(torch.rand(0, 1, 8, 8), torch.zeros(0).long())], epochs=1), ['0 items', 'empty']),
    (lambda: fit(net(), digits(), epochs=1), ['Images', 'Batches(data']),
    (lambda: fit(net(), torch.rand(4, 1, 8, 8), epochs=1), ['Tensor', 'Batches(data']),
    (lambda: fit(net(), iter(plain_batches()), epochs=1), ['list_iterator', 'no length']),
    (lambda: fit(frozen(), batches(), epochs=1), ['no trainable parameter', 'requires_grad_(True)']),
    (lambda: fit(nn.Flatten(), batches(), epochs=1), ['no trainable parameter']),
    (lambda: fit(net(), batches(), epochs=1, optimizer='adma'), ["'adma'", 'adam']),
    (lambda: fit(net(), batches(), epochs=1, optimizer=torch.optim.SGD(net().parameters(), lr=1.)), ["none of the model's"]),
    (lambda: fit(net(), batches(), epochs=1, schedule='onecycel'), ["'onecycel'", 'onecycle']),
    (lambda: fit(net(), batches(), epochs=1, precision='fp8'), ["'fp8'", 'fp32']),
    (lambda: fit(net(), batches(), epochs=1, trackers=['tensorbaord'], folder='x'), ["'tensorbaord'", 'tensorboard']),
    (lambda: fit(net(), batches(), epochs=1, trackers='tensorboard'), ['needs a folder']),
    (lambda: fit(net(), batches(), epochs=0), ['epochs=0', 'from 1']),
    (lambda: fit(net(), batches(), epochs=1.5), ['epochs=1.5']),
    (lambda: fit(net(), batches(), epochs=None), ['epochs=None']),
    (lambda: fit(net(), batches(), epochs=1, every=0), ['every=0']),
    (lambda: fit(net(), batches(), digits(), epochs=1, patience=0), ['patience=0']),
    (lambda: fit(net(), batches(), epochs=1, patience=2), ['patience needs valid']),
    (lambda: fit(net(), batches(), epochs=1, goal='low'), ["'low'"]),
    (lambda: fit(net(), batches(), epochs=1, lr=0), ['lr=0', 'positive']),
    (lambda: fit(net(), batches(), epochs=1, lr=float('nan')), ['lr=nan']),
    (lambda: fit(net(), batches(), epochs=1, lr=-1e-3), ['lr=-0.001']),
    (lambda: fit(net(), batches(), epochs=1, loss=lambda m, b: m(b[0])), ['shape (8, 3)', 'mean']),
    (lambda: fit(net(), batches(), epochs=1, loss=lambda m, b: 1.), ['a float', 'one number']),
    (lambda: fit(net(), batches(), epochs=1, loss=lambda m, b: m(b[0]).sum().detach()), ['no trainable parameter', 'detached']),
    (lambda: predict_logits(net(), []), ['no image to predict']),
])
def test_bad_input(call, words):
    with pytest.raises(InputError) as e: call()
    for word in words: assert word in str(e.value)


def test_another_architecture_is_named(tmp_path):
    path = tmp_path/'c'
    fit(net(), batches(), epochs=1, checkpoint=path)
    before = path.read_bytes()
    other = net(outputs=4)
    with pytest.raises(InputError) as e: fit(other, batches(), epochs=1, checkpoint=path)
    for word in ('c (model) is of another architecture', '5.weight is (3, 96) there and (4, 96) here', '5.bias', 'resume=False'): assert word in str(e.value)
    deeper = nn.Sequential(*net(), nn.Linear(3, 3))
    kept = deepcopy(deeper)
    with pytest.raises(InputError, match='6.weight is missing there'): fit(deeper, batches(), epochs=1, checkpoint=path)
    assert same(deeper, kept) and path.read_bytes() == before
    with pytest.raises(InputError, match='5.bias is unknown here'): load_weights(net()[:5], load_checkpoint(path)['model'])


@pytest.mark.parametrize('kw, word', [({'epochs': 2}, 'epochs was 1 and is 2'), ({'lr': .5}, 'lr was'), ({'seed': 1}, 'seed was 0 and is 1'), ({'schedule': 'cosine'}, "'onecycle'"),
                                      ({'optimizer': 'sgd'}, "'AdamW'"), ({'clip': 1.}, 'clip was None'), ({'precision': 'bf16'}, "'no'")])
def test_another_run_is_not_continued(tmp_path, kw, word):
    kw = {'epochs': 1, 'precision': 'fp32'} | kw
    fit(net(), batches(), epochs=1, precision='fp32', checkpoint=tmp_path/'c')
    with pytest.raises(InputError, match='belongs to another run') as e: fit(net(), batches(), checkpoint=tmp_path/'c', **kw)
    assert word in str(e.value)


# ---- trackers, processes, GPUs

def files(folder): return [p for p in Path(folder).rglob('*') if p.is_file()]


def test_tensorboard_writes_below_its_folder_only(tmp_path, monkeypatch):
    for name in ('home', 'here', 'runs'): (tmp_path/name).mkdir()
    monkeypatch.setenv('HOME', str(tmp_path/'home')); monkeypatch.chdir(tmp_path/'here')
    history = fit(net(), batches(), digits(), epochs=2, trackers='tensorboard', folder=tmp_path/'runs')
    assert files(tmp_path/'runs') and not files(tmp_path/'home') and not files(tmp_path/'here')
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    log = EventAccumulator(str(tmp_path/'runs'/'visft')); log.Reload()
    assert [e.value for e in log.Scalars('loss')] == pytest.approx([s['loss'] for s in history.steps])
    assert log.Scalars('epoch/accuracy')[-1].step == 12


def test_wandb_offline_writes_below_its_folder_only(tmp_path, monkeypatch):
    pytest.importorskip('wandb', reason='the tracker wandb is not installed')
    for name in ('home', 'here', 'runs'): (tmp_path/name).mkdir()
    monkeypatch.setenv('HOME', str(tmp_path/'home')); monkeypatch.chdir(tmp_path/'here')
    monkeypatch.delenv('WANDB_MODE', raising=False)
    fit(net(), batches(), epochs=1, trackers=['wandb'], folder=tmp_path/'runs')
    assert any(p.suffix == '.wandb' for p in files(tmp_path/'runs')) and not files(tmp_path/'home') and not files(tmp_path/'here')
    assert 'WANDB_MODE' not in os.environ and 'WANDB_DIR' not in os.environ


def shared(path, out, stop):
    "A training in one of several processes: interrupted in one of them, then continued in all."
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 3))
    kw = dict(epochs=2, lr=.01, precision='fp32', checkpoint=path)
    if stop:
        with pytest.raises(KeyboardInterrupt): fit(model, plain_batches(), digits(), callbacks=[StopAt(4)] if os.environ['RANK'] == '1' else [], **kw)
        assert load_checkpoint(path)['step'] == 4
    history = fit(model, plain_batches(), digits(), **kw)
    out.write_text(json.dumps([history.best, [s['loss'] for s in history.steps], sum(p.double().sum().item() for p in model.parameters())]))


@pytest.mark.skipif(not torch.distributed.is_available(), reason='this torch has no process groups')
def test_two_processes_make_the_same_steps_as_one(tmp_path, monkeypatch):
    monkeypatch.setenv('VISFT_DEVICE', 'cpu')
    shared(tmp_path/'one', tmp_path/'alone', stop=False)
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    here = dict(os.environ, ACCELERATE_USE_CPU='true', MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port), WORLD_SIZE='2', LOCAL_WORLD_SIZE='2',
                PYTHONPATH=os.pathsep.join([str(Path(__file__).parent), *sys.path]))
    code = 'import sys, pathlib, test_train; test_train.shared(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), stop=True)'
    ranks = [subprocess.Popen([sys.executable, '-c', code, str(tmp_path/'two'), str(tmp_path/rank)], env=here | dict(RANK=rank, LOCAL_RANK=rank)) for rank in '01']
    try: assert [r.wait(300) for r in ranks] == [0, 0]
    finally: [r.kill() for r in ranks]
    best, losses, total = json.loads((tmp_path/'alone').read_text())
    for rank in '01':
        b, ls, t = json.loads((tmp_path/rank).read_text())
        assert b == best and ls == pytest.approx(losses, rel=1e-5) and t == pytest.approx(total, rel=1e-5)


def test_no_tensor_on_the_wrong_device():
    from fake_cuda import FakeAccelerator, fake_cuda
    for optimizer in T.OPTIMIZERS:
        with fake_cuda():
            model = net().to(memory_format=torch.channels_last)
            batch = torch.rand(4, 1, 8, 8, device='cpu'), torch.zeros(4, dtype=torch.long, device='cpu')
            opt = make_optimizer(model, optimizer)
            with pytest.raises(RuntimeError, match='same device'): T.train_step(T.Objective(model), batch, opt, FakeAccelerator())
            for _ in range(2):
                with torch.autocast('cuda', torch.bfloat16): T.train_step(T.Objective(model), T.on_device(batch, 'cuda'), opt, FakeAccelerator(), clip=1.)
            logits, y = predict_logits(model, [batch], precision='bf16')
            assert logits.device.type == y.device.type == 'cpu' and {p.grad.device.type for p in model.parameters()} == {'cuda'}


def test_device_from_the_environment(monkeypatch):
    monkeypatch.setenv('VISFT_DEVICE', 'cpu')
    assert make_accelerator().device.type == 'cpu'


@pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device here')
def test_resumed_is_unbroken_on_a_gpu(tmp_path):
    torch.backends.cudnn.deterministic = True
    a, b = net(), net()
    data = lambda: Batches(digits(), 8, transform=Augment(degrees=20))
    fit(a, data(), epochs=2)
    with pytest.raises(KeyboardInterrupt): fit(b, data(), epochs=2, checkpoint=tmp_path/'c', callbacks=[StopAt(7)])
    fit(b, data(), epochs=2, checkpoint=tmp_path/'c')
    assert same(a, b)
