"What PyTorch users bring with them: losses, optimisers, loaders, collated batches and metrics as they are, and a loop that waits for no GPU."
import os
import signal
import subprocess
import sys
import warnings
from collections import OrderedDict, namedtuple
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import sentence
from test_contrast import several, together
from test_train import Noisy, StopAt, batches, digits, net, plain_batches, same
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import visft_nb.train as T
from visft_nb.core import InputError
from visft_nb.data import Augment, Batches, Images
from visft_nb.train import (Criterion, History, Objective, as_pair, batches_from, cross_entropy_step, evaluate, evaluation, fit, fitting, load_checkpoint,
                            make_optimizer, on_device, predict_logits, share)

torch.set_num_threads(1)
ROOT = Path(__file__).resolve().parents[1]
QUIET = dict(bar=False, precision='fp32')


def vectors(n=24, seed=0):
    "Batches of images with a target that is a number."
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(n, 1, 8, 8, generator=g)
    return list(zip(x.split(8), x.mean((1, 2, 3))[:, None].split(8)))


def line(outputs=3, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, outputs))


def weights(model): return torch.cat([p.detach().flatten() for p in model.parameters()])


# ---------------------------------------------------------------- losses

@pytest.mark.parametrize('loss', [nn.CrossEntropyLoss(), nn.CrossEntropyLoss, F.cross_entropy, partial(F.cross_entropy, label_smoothing=0.), Criterion(lambda z, y: F.cross_entropy(z, y))])
def test_a_loss_of_torch_is_taken_as_it_is(loss):
    ours, theirs = net(), net()
    a, b = fit(ours, plain_batches(), digits(), epochs=2, loss=loss, **QUIET), fit(theirs, plain_batches(), digits(), epochs=2, **QUIET)
    assert same(ours, theirs) and a.steps == b.steps
    if not isinstance(loss, Criterion): assert a.monitor == 'accuracy' and a.epochs[-1]['valid_loss'] == pytest.approx(b.epochs[-1]['valid_loss'], rel=1e-6)


def test_any_other_function_is_called_with_model_and_batch():
    class Own(nn.Module):
        def forward(self, model, batch): return F.cross_entropy(model(batch[0]), batch[1])
    runs = []
    for loss in (Own(), lambda m, b: F.cross_entropy(m(b[0]), b[1])):
        runs.append(net())
        fit(runs[-1], plain_batches(), epochs=1, loss=loss, **QUIET)
    assert same(*runs)
    sentence(lambda: fit(net(), plain_batches(), epochs=1, loss=Own), 'Own', 'instance')
    sentence(lambda: fit(net(), plain_batches(), epochs=1, loss='mse'), "'mse'", 'loss(model, batch)')


def test_losses_of_other_packages_are_told_by_where_they_are_defined():
    smp = pytest.importorskip('segmentation_models_pytorch')
    from timm.loss import LabelSmoothingCrossEntropy
    from torchvision.ops import sigmoid_focal_loss
    model = nn.Conv2d(1, 1, 1)
    masks = [(x, (x[:, 0] > .5).long()) for x, _ in vectors()]
    for loss, data, m in ((smp.losses.DiceLoss('binary'), masks, model), (LabelSmoothingCrossEntropy(), plain_batches(), net()),
                          (partial(sigmoid_focal_loss, reduction='mean'), [(x, (y > .5).float()) for x, y in vectors()], line(1))):
        before = weights(m)
        fit(m, data, epochs=1, loss=loss, **QUIET)
        assert not torch.equal(before, weights(m)), loss


def test_weights_of_a_criterion_are_trained_moved_and_kept(tmp_path):
    loss = nn.CrossEntropyLoss(weight=torch.tensor([1., 2., 3.]))
    model = net()
    fit(model, plain_batches(), epochs=1, loss=loss, checkpoint=tmp_path/'c', **QUIET)
    assert torch.equal(load_checkpoint(tmp_path/'c')['loss']['loss.weight'], loss.weight)


def test_a_regression_is_judged_by_its_loss():
    history = fit(line(1), vectors(), vectors(seed=1), epochs=3, lr=.05, loss=nn.MSELoss(), **QUIET)
    assert history.monitor == 'valid_loss' and history.goal == 'min' and history.best == min(e['valid_loss'] for e in history.epochs)
    model = line(1)
    whole = vectors(seed=1)
    with torch.no_grad(): expected = F.mse_loss(model(torch.cat([x for x, _ in whole])), torch.cat([y for _, y in whole])).item()
    assert evaluate(model, whole, {'e': F.mse_loss})['e'] == pytest.approx(expected)


@pytest.mark.parametrize('loss, batch, words', [
    (nn.MSELoss(), (torch.rand(8, 1, 8, 8), torch.rand(8)), ['MSELoss', '(8, 1)', '(8,)']),
    (nn.BCEWithLogitsLoss(), (torch.rand(8, 1, 8, 8), torch.rand(8)), ['BCEWithLogitsLoss', '(8, 1)', '(8,)']),
    (nn.CrossEntropyLoss(), (torch.rand(8, 1, 8, 8), torch.full((8,), 5)), ['run from 5 to 5', '1 output']),
    (nn.CrossEntropyLoss(), (torch.rand(8, 1, 8, 8), torch.full((8,), -100)), ['-100', 'every label']),
    (nn.TripletMarginLoss(), (torch.rand(8, 1, 8, 8), torch.rand(8)), ['TripletMarginLoss', 'float32']),
    (nn.MSELoss(), torch.rand(8, 1, 8, 8), ['pair']),
    (nn.MSELoss(), {'image': torch.rand(8, 1, 8, 8), 'caption': ['a']*8}, ['image', 'caption', 'label'])])
def test_what_a_criterion_cannot_compare_gets_a_sentence(loss, batch, words):
    sentence(lambda: fit(line(1), [batch], epochs=1, loss=loss, **QUIET), *words)


def test_whole_numbers_are_fine_for_a_loss_of_numbers():
    data = [(x, (y > .5).long()) for x, y in vectors()]
    fit(line(1), data, epochs=1, loss=nn.BCEWithLogitsLoss(), **QUIET)
    fit(line(1), data, epochs=1, loss=nn.MSELoss(), **QUIET)
    fit(net(), [(x, y.to(torch.uint8)) for x, y in plain_batches()], epochs=1, loss=nn.CrossEntropyLoss(), **QUIET)


# ---------------------------------------------------------------- label -100

def test_label_minus_100_is_ignored_in_training_and_validation():
    x, y = digits().floats(), digits().labels
    kept = torch.arange(48) % 4 != 0
    void = torch.where(kept, y, -100)
    model = line()
    z = model(x)
    torch.testing.assert_close(cross_entropy_step(model, (x, void)), F.cross_entropy(z[kept], y[kept]))
    found = evaluate(model, [(x[:20], void[:20]), (x[20:], void[20:])])
    assert found == (z.argmax(1) == y)[kept].double().mean().item()
    history = fit(model, [(x, void)], [(x[:20], void[:20]), (x[20:], void[20:])], epochs=1, **QUIET)
    with torch.no_grad(): assert history.epochs[0]['valid_loss'] == pytest.approx(F.cross_entropy(model(x)[kept], y[kept]).item(), rel=1e-5)
    assert T.logits_accuracy(z, void) == found


@pytest.mark.parametrize('loss', [cross_entropy_step, nn.CrossEntropyLoss()])
def test_a_batch_without_labels_in_validation_counts_for_nothing(loss):
    data = plain_batches()
    void = [*data, (data[0][0], torch.full_like(data[0][1], -100))]
    a, b = (fit(net(), data, valid, epochs=1, loss=loss, **QUIET).epochs for valid in (data, void))
    assert a == b and np.isfinite(a[0]['valid_loss'])
    x = torch.rand(2, 1, 6, 6)
    y = (x[:, 0] > .5).long()
    y[0] = -100
    model = nn.Conv2d(1, 2, 1)
    found = fit(model, [(x, y)], [(x, y), (x, torch.full_like(y, -100))], epochs=1, loss=loss, **QUIET).epochs[0]
    with torch.no_grad(): assert found['valid_loss'] == pytest.approx(F.cross_entropy(model(x), y).item(), rel=1e-6)


def test_nothing_but_minus_100_is_said():
    x = torch.rand(4, 1, 8, 8)
    for loss in (cross_entropy_step, nn.CrossEntropyLoss()): sentence(lambda loss=loss: fit(line(), [(x, torch.full((4,), -100))], epochs=1, loss=loss, **QUIET), 'every label', '-100')
    sentence(lambda: evaluate(line(), [(x, torch.full((4,), -100))]), 'every label', '-100')
    sentence(lambda: cross_entropy_step(line(), (x, torch.tensor([-100, 0, 1, 7]))), 'run from 0 to 7', '3 outputs')
    sentence(lambda: cross_entropy_step(line(), (x, torch.tensor([-100, 0, -1, 2]))), 'run from -1 to 2')
    assert cross_entropy_step(line(), (x, torch.tensor([255, 0, 1, 2]).clamp(max=2).to(torch.uint8))).isfinite()


# ---------------------------------------------------------------- optimisers

@pytest.mark.parametrize('given, lr, decay, momentum', [
    (torch.optim.SGD, .02, .3, 0), (partial(torch.optim.SGD, momentum=.5), .02, .3, .5), (partial(torch.optim.SGD, lr=.5, weight_decay=0.), .5, 0, 0),
    (lambda params: torch.optim.SGD(params, lr=.7, momentum=.1), .7, 0, .1), (lambda params, lr: torch.optim.SGD(params, lr=lr), .02, 0, 0)])
def test_a_class_or_a_factory_makes_the_optimizer(given, lr, decay, momentum):
    opt = make_optimizer(net(), given, lr=.02, weight_decay=.3)
    group = opt.param_groups[0]
    assert isinstance(opt, torch.optim.SGD) and (group['lr'], group['weight_decay'], group['momentum']) == (lr, decay, momentum)
    fit(net(), plain_batches(), epochs=1, optimizer=given, **QUIET)


def test_a_class_is_the_same_as_its_name():
    a, b = net(), net()
    fit(a, plain_batches(), epochs=1, optimizer=torch.optim.AdamW, **QUIET)
    fit(b, plain_batches(), epochs=1, optimizer='adamw', **QUIET)
    assert same(a, b)


@pytest.mark.parametrize('given, words', [
    (lambda params: None, ['NoneType', 'torch.optim.Optimizer']), (lambda: 1, ['could not be made']), (lambda params: torch.optim.SGD(net().parameters(), lr=1.), ["none of the model's"]),
    (3, ['3', 'adamw']), (partial(torch.optim.SGD, momentum='much'), ['could not be made']), (partial(torch.optim.Adam, betas=2), ['could not be made'])])
def test_a_factory_that_makes_none_gets_a_sentence(given, words): sentence(lambda: make_optimizer(net(), given), *words)


# ---------------------------------------------------------------- collated batches

Pair = namedtuple('Pair', 'image label')


class Held:
    "A batch of somebody's own that can move."
    def __init__(self, x, y): self.x, self.y, self.moved = x, y, None
    def to(self, device):
        new = Held(self.x.to(device), self.y.to(device))
        new.moved = device
        return new


@pytest.mark.parametrize('collate', [lambda x, y: Pair(x, y), lambda x, y: {'image': x, 'label': y}, lambda x, y: OrderedDict(pixel_values=x, labels=y, path=['a']*len(x))])
def test_named_batches_train_and_validate(collate):
    ours, theirs = net(), net()
    named = [collate(x, y) for x, y in plain_batches()]
    a = fit(ours, named, named, epochs=2, **QUIET)
    b = fit(theirs, plain_batches(), plain_batches(), epochs=2, **QUIET)
    assert same(ours, theirs) and a == b and torch.equal(predict_logits(ours, named)[1], predict_logits(theirs, plain_batches())[1])


def test_a_dict_goes_through_a_loader():
    class Named(Noisy):
        def __getitem__(self, i): return {'image': self.x[i], 'label': self.y[i], 'name': f'image {i}'}
    history = fit(net(), DataLoader(Named(), batch_size=8), DataLoader(Named(), batch_size=8), epochs=1, loss=nn.CrossEntropyLoss(), **QUIET)
    assert 0 <= history.best <= 1


def test_models_that_return_a_dict():
    class Named(nn.Module):
        def __init__(self, key):
            super().__init__()
            self.net, self.key = net(), key
        def forward(self, x): return {'aux': None, self.key: self.net(x)}
    for key in ('out', 'logits'):
        ours, theirs = Named(key), net()
        a, b = (fit(m, plain_batches(), plain_batches(), epochs=1, **QUIET) for m in (ours, theirs))
        assert a == b and same(ours.net, theirs) and torch.equal(predict_logits(ours, digits())[0], predict_logits(theirs, digits())[0])
        fit(ours, plain_batches(), epochs=1, loss=nn.CrossEntropyLoss(), **QUIET)


def test_every_structure_moves_and_keeps_its_kind():
    x = torch.rand(4, 3, 5, 5)
    moved = on_device(Pair(x, ['a', None, 3, np.float32(1)]), 'cpu')
    assert type(moved) is Pair and moved.image.is_contiguous(memory_format=torch.channels_last) and moved.label[:3] == ['a', None, 3]
    assert on_device(Held(x, x), 'cpu').moved == 'cpu' and on_device((Held(x, x),), 'cpu')[0].moved == 'cpu'
    packed = nn.utils.rnn.pack_sequence([torch.rand(3, 2), torch.rand(2, 2)])
    assert type(on_device(packed, 'cpu')) is type(packed)
    assert as_pair({'x': 1, 'y': 2}) == (1, 2) == as_pair(Pair(1, 2)) == as_pair([1, 2])


def test_detection_batches_with_an_image_that_has_no_boxes():
    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Linear(3, 4)
        def forward(self, images, targets): return sum(((self.w(i.mean((1, 2))) - t['boxes']).square().sum() for i, t in zip(images, targets)), self.w.bias.sum()*0)
    images = [torch.rand(3, 6, 6), torch.rand(3, 5, 7), torch.rand(3, 4, 4)]
    targets = [{'boxes': torch.rand(n, 4), 'labels': torch.zeros(n, dtype=torch.long)} for n in (2, 0, 1)]
    seen = []
    def loss(model, batch):
        seen.append([tuple(i.shape) for i in batch[0]])
        return model(*batch)
    loader = DataLoader(list(zip(images, targets)), batch_size=3, collate_fn=lambda rows: tuple(zip(*rows)))
    history = fit(Head(), loader, epochs=1, loss=loss, **QUIET)
    assert len(history.steps) == 1 and seen == [[(3, 6, 6), (3, 5, 7), (3, 4, 4)]]
    fit(Head(), [(images, [{'boxes': torch.zeros(0, 4)}]*3)], epochs=1, loss=loss, **QUIET)
    sentence(lambda: on_device((x := torch.rand(0, 3), x), 'cpu'), '0 items')
    sentence(lambda: on_device(([], []), 'cpu'), '0 items')


def test_a_loader_without_a_length_gets_a_sentence():
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self): return iter(zip(digits().floats(), digits().labels))
    sentence(lambda: fit(net(), DataLoader(Stream(), batch_size=8), epochs=1, **QUIET), 'no length')


# ---------------------------------------------------------------- a last batch of one

def deep(seed=0):
    "Its second batch norm sees one pixel."
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 4, 3, stride=2), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(4), nn.Dropout(.2), nn.Flatten(), nn.Linear(4, 3))


def some(n): return Images(digits(48).images[:n], digits(48).labels[:n])


LOADERS = {
    'batches': lambda n: Batches(some(n), 8, device='cpu', transform=Augment(noise=.1)),
    'loader': lambda n: DataLoader(TensorDataset(some(n).floats(), some(n).labels), batch_size=8, shuffle=True),
    'list': lambda n: [(some(n).floats()[i:i + 8], some(n).labels[i:i + 8]) for i in range(0, n, 8)],
}


@pytest.mark.parametrize('kind', LOADERS)
def test_batch_norm_drops_a_last_batch_of_one_and_says_so(kind, tmp_path):
    model = deep()
    with pytest.warns(UserWarning, match='last batch.*one image.*drop_last') as said: history = fit(model, LOADERS[kind](17), epochs=2, **QUIET)
    assert len(history.steps) == 4 and len([w for w in said if 'one image' in str(w.message)]) == 1
    again, first = deep(1), deep()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        with pytest.raises(KeyboardInterrupt): fit(first, LOADERS[kind](17), epochs=2, checkpoint=tmp_path/'c', callbacks=[StopAt(3)], **QUIET)
        fit(again, LOADERS[kind](17), epochs=2, checkpoint=tmp_path/'c', **QUIET)
    assert same(model, again), 'and the run goes on exactly'


@pytest.mark.parametrize('kind', LOADERS)
def test_what_batch_norm_can_learn_from_is_kept(kind):
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)
        assert len(fit(net(), LOADERS[kind](17), epochs=1, **QUIET).steps) == 3, 'batch norm sees more than a pixel'
        assert len(fit(deep(), LOADERS[kind](18), epochs=1, **QUIET).steps) == 3
        frozen = deep()
        frozen[3].eval()
        assert len(fit(frozen, LOADERS[kind](17), epochs=1, **QUIET).steps) == 3, 'a frozen batch norm learns from nothing'


def test_looking_for_batch_norm_leaves_no_trace():
    class Counts(nn.Module):
        calls = 0
        def forward(self, model, batch):
            self.calls += 1
            return cross_entropy_step(model, batch)
    model, loss = net(), Counts()
    fit(model, LOADERS['batches'](17), epochs=1, loss=loss, **QUIET)
    plain = net()
    fit(plain, [*batches_from(LOADERS['batches'](17), 0)], epochs=1, **QUIET)
    assert loss.calls == 3 and same(model, plain)


def test_where_every_batch_is_of_one_a_sentence_says_what_to_do():
    sentence(lambda: fit(deep(), LOADERS['batches'](1), epochs=1, **QUIET), 'batch norm', 'one image')
    sentence(lambda: fit(deep(), [(x[None], y[None]) for x, y in zip(some(4).floats(), some(4).labels)], epochs=1, **QUIET), 'batch norm', 'one image', 'batch')
    sentence(lambda: fit(deep(), [LOADERS['list'](17)[-1], *LOADERS['list'](16)], epochs=1, **QUIET), 'batch norm', 'one image')


# ---------------------------------------------------------------- worker processes, continued exactly

def stateful(workers=2, **kw):
    from torchdata.stateful_dataloader import StatefulDataLoader
    return StatefulDataLoader(Noisy(), **{'batch_size': 8, 'shuffle': True, 'num_workers': workers} | kw)


PLAN = dict(epochs=3, lr=.01, seed=7, **QUIET)


@pytest.mark.parametrize('step, kw, more', [
    (8, {}, {}), (1, {}, {'every': 2}), (11, {'snapshot_every_n_steps': 4}, {}), (12, {}, {'every': 6}), (9, {'sampler': list(range(48)), 'shuffle': False}, {}), (10, {'workers': 0}, {})])
def test_stateful_loader_goes_on_within_an_epoch_bit_for_bit(tmp_path, step, kw, more):
    unbroken, resumed, file = net(), net(seed=1), tmp_path/'c'
    history = fit(unbroken, stateful(**kw), digits(), **PLAN)
    with pytest.raises(KeyboardInterrupt, match='goes on from there'): fit(net(), stateful(**kw), digits(), checkpoint=file, callbacks=[StopAt(step)], **more, **PLAN)
    kept = load_checkpoint(file)
    assert kept['epoch']*6 + kept['step'] == step
    assert fit(resumed, stateful(**kw), digits(), checkpoint=file, **more, **PLAN) == history and same(resumed, unbroken)


KILLED = '''
import os, signal, sys
sys.path.insert(0, sys.argv[2])
from test_ecosystem import *
class Kill:
    def on_step(self, history, model):
        if len(history.steps) == 10: os.kill(os.getpid(), signal.SIGKILL)
fit(net(), stateful(), digits(), checkpoint=sys.argv[1], every=3, callbacks=[Kill()], **PLAN)
'''


def test_killed_with_two_workers_in_the_middle_of_an_epoch(tmp_path):
    run = subprocess.run([sys.executable, '-W', 'ignore', '-c', KILLED, str(tmp_path/'c'), str(ROOT/'tests')], capture_output=True, text=True, timeout=120,
                         env=os.environ | {'PYTHONPATH': str(ROOT)}, cwd=tmp_path)
    assert run.returncode == -signal.SIGKILL, run.stderr
    assert load_checkpoint(tmp_path/'c')['step'] == 3
    unbroken, resumed = net(), net(seed=1)
    fit(unbroken, stateful(), digits(), **PLAN)
    fit(resumed, stateful(), digits(), checkpoint=tmp_path/'c', every=3, **PLAN)
    assert same(resumed, unbroken)


def test_the_data_set_of_a_stateful_loader_stays_what_it_was():
    loader = stateful()
    data = loader.dataset
    fit(net(), loader, epochs=1, **QUIET)
    assert loader.dataset is data and next(iter(loader))[0].shape == (8, 1, 8, 8)


def test_a_plain_loader_is_told_the_way_out(tmp_path):
    plain = lambda **kw: DataLoader(Noisy(), batch_size=8, num_workers=2, **kw)
    sentence(lambda: fit(net(), plain(), checkpoint=tmp_path/'c', every=2, **PLAN), 'StatefulDataLoader', 'num_workers=0')
    sentence(lambda: fit(net(), stateful(persistent_workers=True), checkpoint=tmp_path/'c', every=2, **PLAN), 'persistent_workers')
    with pytest.raises(KeyboardInterrupt): fit(net(), stateful(), checkpoint=tmp_path/'c', callbacks=[StopAt(8)], **PLAN)
    sentence(lambda: fit(net(), stateful(3), checkpoint=tmp_path/'c', **PLAN), 'another run', 'workers')


# ---------------------------------------------------------------- several processes

class Traced(Dataset):
    "Says which images were asked for."
    def __init__(self): self.seen = []
    def __len__(self): return 48
    def __getitem__(self, i):
        self.seen.append(i)
        return digits().floats()[i], digits().labels[i], i


@several
def test_two_processes_each_load_their_own_images_once(tmp_path):
    from torch.utils.data.distributed import DistributedSampler
    makers = {
        'loader': lambda d: DataLoader(d, batch_size=8, shuffle=True),
        'sampler': lambda d: DataLoader(d, batch_size=8, sampler=torch.utils.data.SubsetRandomSampler(range(48))),
        'batch sampler': lambda d: DataLoader(d, batch_sampler=[list(range(i, i + 8)) for i in range(0, 48, 8)]),
        'distributed': lambda d: DataLoader(d, batch_size=4, sampler=DistributedSampler(d, shuffle=True)),
    }
    def work(rank):
        out = {}
        loss = lambda m, b: F.cross_entropy(m(b[0]), b[1])
        for name, make in makers.items():
            data, model = Traced(), line()
            torch.distributed.is_initialized() or T.make_accelerator('fp32')
            history = fit(model, make(data), epochs=2, loss=loss, **QUIET)
            out[name] = {'seen': torch.tensor(data.seen), 'steps': len(history.steps), 'w': weights(model), 'loss': torch.tensor([s['loss'] for s in history.steps])}
        batches, seen = Batches(Images(digits().images, torch.arange(48)), 8, device='cpu'), []
        def regress(m, b):
            seen.extend(b[1].tolist())
            return m(b[0]).square().mean()
        fit(line(), batches, epochs=1, loss=regress, **QUIET)
        out['batches'] = {'seen': torch.tensor(seen), 'steps': 6, 'whole': len(next(iter(batches))[0])}
        return out
    first, second = together(work, tmp_path)
    for name in makers:
        a, b = first[name], second[name]
        assert a['steps'] == b['steps'] == 12 and torch.equal(a['w'], b['w']) and torch.equal(a['loss'], b['loss']), name
        for epoch in (0, 1):
            mine, yours = a['seen'][24*epoch:24*epoch + 24], b['seen'][24*epoch:24*epoch + 24]
            assert sorted([*mine.tolist(), *yours.tolist()]) == list(range(48)), f'{name}: every image once in an epoch'
        if name in ('loader', 'sampler', 'distributed'): assert a['seen'][:24].tolist() != a['seen'][24:].tolist(), f'{name}: another order in the second epoch'
    assert sorted([*first['batches']['seen'].tolist(), *second['batches']['seen'].tolist()]) == list(range(48)) and first['batches']['whole'] == 8
    alone = line()
    steps = fit(alone, makers['loader'](Traced()), epochs=2, loss=lambda m, b: F.cross_entropy(m(b[0]), b[1]), **QUIET).steps
    assert torch.allclose(first['loader']['loss'], torch.tensor([s['loss'] for s in steps]), rtol=1e-5), 'the same batches as in one process'
    assert torch.allclose(first['loader']['w'], weights(alone), atol=1e-5)


@several
def test_two_processes_with_workers_go_on_exactly(tmp_path):
    def work(rank):
        runs = []
        for name in ('unbroken', 'broken'):
            model, kw = line(), dict(epochs=2, lr=.01, seed=3, **QUIET)
            if name == 'broken':
                kw['checkpoint'] = tmp_path/'c'
                try: fit(line(), stateful(), callbacks=[StopAt(8)] if rank else [], **kw)
                except KeyboardInterrupt: pass
            fit(model, stateful(), **kw)
            runs.append(weights(model))
        return {'unbroken': runs[0], 'broken': runs[1]}
    first, second = together(work, tmp_path)
    assert torch.equal(first['unbroken'], first['broken']) and torch.equal(second['unbroken'], second['broken']) and torch.equal(first['broken'], second['broken'])


def test_workers_of_each_process_draw_numbers_of_their_own():
    class Draws(Dataset):
        def __len__(self): return 16
        def __getitem__(self, i): return torch.tensor([i, torch.rand(1).item()], dtype=torch.float64)
    loader = DataLoader(Draws(), batch_size=8, shuffle=True, num_workers=1)
    first, second, again = (torch.cat([*batches_from(loader, 1, 0, 3, (rank, 2))]) for rank in (0, 1, 0))
    assert torch.equal(first, again) and not torch.equal(first[:, 1], second[:, 1])
    assert sorted([*first[:, 0].tolist(), *second[:, 0].tolist()]) == list(range(16))
    assert torch.equal(torch.cat([*batches_from(loader, 1, 1, 3, (0, 2))])[:, 0], first[4:, 0]), 'the order from any batch on'


def test_batches_of_one_process_are_a_part_of_those_of_all():
    from visft_nb.data import load_dataset
    from visft_nb.finetune.detection import DetectionBatches
    shapes = load_dataset('synthetic_shapes', 'train')[:12]
    for loader in (Batches(digits(), 8, device='cpu'), DetectionBatches(shapes, 6, device='cpu')):
        whole = [loader.batch(i) for i in range(2)]
        parts = []
        for rank in (0, 1):
            loader.part = rank, 2
            parts.append([loader.batch(i) for i in range(2)])
        for i, (x, y) in enumerate(whole):
            for rank in (0, 1):
                mine, target = parts[rank][i]
                assert torch.equal(mine, x[rank::2])
                if torch.is_tensor(y): assert torch.equal(target, y[rank::2])
                else: assert all(torch.equal(target[k], v[rank::2]) for k, v in y.items())
    noisy = Batches(digits(), 8, device='cpu', transform=Augment(noise=.1))
    draws = []
    for noisy.part in ((0, 2), (1, 2), (0, 2)): draws.append(noisy.batch(0, torch.zeros(8, dtype=torch.long))[0])
    assert torch.equal(draws[0], draws[2]) and not torch.equal(draws[0], draws[1]), 'each process draws numbers of its own'
    noisy.part = 0, 9
    sentence(lambda: noisy.batch(0), '8 items for 9 processes')


@several
def test_two_processes_stop_together_where_they_look_seldom(tmp_path):
    def work(rank):
        fitting.LOOK, calls = 4, []
        for m in (fitting, evaluation): m.host_waits = lambda device: True
        def loss(model, batch):
            calls.append(1)
            if rank == 1 and len(calls) == 5: signal.raise_signal(signal.SIGINT)
            return cross_entropy_step(model, batch)
        with pytest.raises(KeyboardInterrupt) as e: fit(line(), plain_batches()*2, epochs=1, loss=loss, **QUIET)
        return {'said': str(e.value), 'steps': len(calls)}
    assert together(work, tmp_path) == [{'said': 'stopped after step 8; no checkpoint was asked for', 'steps': 8}]*2


def test_a_share_is_one_of_images_never_of_channels():
    x, y = torch.rand(6, 3, 5, 5), torch.arange(6)
    a, b = share((x, y), (0, 2)), share((x, y), (1, 2))
    assert torch.equal(a[0], x[::2]) and torch.equal(b[1], y[1::2])
    boxes = [{'boxes': torch.rand(n, 4)} for n in (2, 0, 1, 3, 1, 1)]
    images, mine = share((list(x), boxes), (1, 2))
    assert len(images) == 3 and torch.equal(images[0], x[1]) and mine[0] is boxes[1]
    named = share({'image': x, 'objects': {'labels': torch.rand(6, 2)}, 'name': list('abcdef'), 'epoch': 3}, (1, 2))
    assert len(named['image']) == len(named['objects']['labels']) == len(named['name']) == 3 and named['epoch'] == 3
    assert [len(v) for v in share([x, x], (0, 2))] == [3, 3] and len(share(((x, x), y), (0, 2))[0][0]) == 3
    for odd in ([torch.rand(3, 5, 5)]*4, (x, y, torch.rand(5)), (list(x), torch.rand(4, 2)), (x, [torch.rand(4)])):
        sentence(lambda odd=odd: share(odd, (0, 2)), 'DataLoader', 'process')
    sentence(lambda: share((x[:1], y[:1]), (0, 2)), '1 items for 2 processes')
    assert share([torch.rand(3, 5, 5)]*4, (0, 1))[3].shape == (3, 5, 5)


# ---------------------------------------------------------------- validation that streams

def test_torchmetrics_are_streamed_and_mix_with_functions():
    from torchmetrics import MetricCollection
    from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score
    model, data = net(), digits()
    one = MulticlassAccuracy(3, average='micro')
    assert evaluate(model, data, one) == evaluate(model, data) == pytest.approx(one.compute().item())
    assert evaluate(model, data, one) == evaluate(model, data), 'a second time begins anew'
    several = MetricCollection({'accuracy': MulticlassAccuracy(3, average='micro'), 'f1': MulticlassF1Score(3)})
    found = evaluate(model, data, several)
    assert list(found) == ['accuracy', 'f1'] and found['accuracy'] == evaluate(model, data)
    mixed = evaluate(model, data, {'own': lambda z, y: len(z), 'f1': MulticlassF1Score(3), 'all': several})
    assert mixed['own'] == 48 and mixed['f1'] == mixed['all_f1'] == found['f1']
    history = fit(net(), plain_batches(), digits(), epochs=2, metric=several, **QUIET)
    assert history.monitor == 'accuracy' and list(history.frame())[3:] == ['accuracy', 'f1', 'valid_loss']
    history = fit(net(), plain_batches(), plain_batches(), epochs=1, metric=MulticlassF1Score(3), **QUIET)
    assert history.monitor == 'MulticlassF1Score' and 0 <= history.best <= 1
    sentence(lambda: evaluate(model, data, MulticlassAccuracy(3, average=None)), '(3,)', 'one number')


def test_batches_that_cannot_be_validated_get_a_sentence():
    x, y = plain_batches()[0]
    for metric in (None, {'own': lambda z, y: 1.}):
        for batch, words in (([x], 'images, labels'), ({'caption': ['a']}, 'caption'), ((list(x), y), 'list'), ((x, ['a']*8), 'list'), ([], 'nothing')):
            sentence(lambda batch=batch, metric=metric: evaluate(net(), [batch], metric), words)
    sentence(lambda: evaluate(net(), [{'image': x}]), 'labels are missing')
    assert predict_logits(net(), [{'image': x, 'path': 'a'}])[1] is None


def test_metrics_of_objects_get_lists_as_they_are():
    class Boxes(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Linear(1, 1)
        def forward(self, images): return [{'boxes': torch.zeros(len(i), 4)} for i in images]
    class Seen:
        def reset(self): self.n = 0
        def update(self, found, targets): self.n += len(found) == len(targets)
        def compute(self): return {'batches': self.n, 'two': torch.tensor(2.)}
    batch = [torch.rand(3, 5, 4), torch.rand(3, 6, 6)], [{'boxes': torch.zeros(0, 4)}, {'boxes': torch.rand(2, 4)}]
    assert evaluate(Boxes(), [batch]*3, Seen()) == {'batches': 3, 'two': 2}


def test_a_streamed_metric_sees_batches_and_only_functions_see_all():
    class Sizes:
        def reset(self): self.n = []
        def update(self, z, y): self.n.append(len(z))
        def compute(self): return len(self.n)
    sizes, seen = Sizes(), []
    assert evaluate(net(), plain_batches(), {'sizes': sizes, 'whole': lambda z, y: seen.append(len(z)) or 1}) == {'sizes': 6, 'whole': 1}
    assert sizes.n == [8]*6 and seen == [48]


def test_the_default_streams_and_equals_the_whole():
    model = net()
    z, y = predict_logits(model, digits())
    assert evaluate(model, digits()) == T.logits_accuracy(z, y) == (z.argmax(1) == y).double().mean().item()
    history = fit(model, plain_batches(), plain_batches(), epochs=1, **QUIET)
    z, y = predict_logits(model, plain_batches())
    assert history.epochs[0]['valid_loss'] == pytest.approx(F.cross_entropy(z, y).item(), rel=1e-6) and history.best == T.logits_accuracy(z, y)


PEAK = '''
import resource, sys, torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from visft_nb.data import Images
from visft_nb.train import evaluate, fit
torch.set_num_threads(1)
class Masks(Dataset):
    def __init__(self, n): self.n = n
    def __len__(self): return self.n
    def __getitem__(self, i): return torch.full((3, SIDE, SIDE), i/self.n), torch.full((SIDE, SIDE), i % 21)
kind, n, SIDE = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
model = nn.Conv2d(3, 21, 1)
loader = DataLoader(Masks(n), batch_size=4)
if kind == 'fit': fit(model, [tuple(v[:1] for v in next(iter(loader)))], loader, epochs=1, bar=False, precision='fp32')
if kind == 'torchmetrics':
    from torchmetrics.classification import MulticlassJaccardIndex
    evaluate(model, loader, MulticlassJaccardIndex(21))
if kind == 'images': evaluate(model, Images(torch.zeros(n, 3, SIDE, SIDE, dtype=torch.uint8), masks=torch.zeros(n, SIDE, SIDE, dtype=torch.uint8)))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss//1024)
'''


def peak(kind, n, side): # megabytes
    run = subprocess.run([sys.executable, '-c', PEAK, kind, str(n), str(side)], capture_output=True, text=True, timeout=300, env=os.environ | {'PYTHONPATH': str(ROOT)})
    assert run.returncode == 0, run.stderr
    return int(run.stdout)


@pytest.mark.skipif(sys.platform != 'linux', reason='peak memory is counted in other units elsewhere')
@pytest.mark.parametrize('kind', ['fit', 'torchmetrics', 'images'])
def test_memory_of_validation_does_not_grow_with_the_images(kind):
    few, many, side = 8, 72, 160
    logits = (many - few)*21*side**2*4/2**20
    own = (many - few)*4*side**2/2**20 if kind == 'images' else 0   # the images themselves lie in memory there
    assert peak(kind, many, side) - peak(kind, few, side) < own + logits/4, f'the logits alone take {logits:.0f} MB'


# ---------------------------------------------------------------- nothing waits for the device

@pytest.fixture
def quiet(monkeypatch):
    "As on a GPU: the losses are looked at now and then."
    for m in (fitting, evaluation): monkeypatch.setattr(m, 'host_waits', lambda device: True)
    monkeypatch.setattr(fitting, 'LOOK', 4)


@pytest.mark.parametrize('kw', [{}, {'clip': .5}, {'every': 5, 'checkpoint': 'c'}, {'optimizer': 'sgd', 'loss': nn.CrossEntropyLoss()}])
def test_looking_seldom_changes_no_number(kw, quiet, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    a, b = net(), net()
    history = fit(a, batches(), digits(), epochs=3, **kw, **QUIET)
    Path('c').unlink(missing_ok=True)
    for m in (fitting, evaluation): monkeypatch.setattr(m, 'host_waits', lambda device: False)
    assert fit(b, batches(), digits(), epochs=3, **kw, **QUIET) == history and same(a, b)


def test_callbacks_of_steps_see_numbers_and_the_weights_of_the_step(quiet):
    seen = []
    class See:
        def on_step(self, history, model): seen.append((len(history.steps), type(history.steps[-1]['loss']), weights(model).sum().item()))
    a = net()
    fit(a, batches(), epochs=1, callbacks=[See()], **QUIET)
    assert [s[:2] for s in seen] == [(i, float) for i in range(1, 7)] and len({s[2] for s in seen}) == 6


def test_a_run_that_looks_seldom_stops_with_the_step_and_the_last_weights_that_were_good(quiet):
    class Spoil:
        def __init__(self, step): self.left = step
        def __call__(self, model, batch):
            self.left -= 1
            return cross_entropy_step(model, batch)*(float('nan') if self.left == 0 else 1)
    model, good = net(), net()
    with pytest.raises(InputError) as e: fit(model, batches(), epochs=2, loss=Spoil(7), **QUIET)
    for words in ('loss is nan at step 7', 'epoch 2, batch 1 of 6', 'after step 6'): assert words in str(e.value), str(e.value)
    fit(good, batches(), epochs=2, **QUIET, callbacks=[])
    kept = []
    class At:
        def on_step(self, history, m):
            if len(history.steps) == 6: kept.append({k: v.clone() for k, v in m.state_dict().items()})
    other = net()
    fit(other, batches(), epochs=2, callbacks=[At()], **QUIET)
    assert all(torch.equal(v, kept[0][k]) for k, v in model.state_dict().items())
    with pytest.raises(InputError, match='loss is nan at step 2.*after step 0'): fit(net(), batches(), epochs=1, clip=1., loss=Spoil(2), **QUIET)


def test_wrong_labels_are_named_though_it_looks_seldom(quiet):
    data = [(x, torch.where(y == 2, 9, y)) for x, y in plain_batches()]
    sentence(lambda: fit(net(), data, epochs=1, **QUIET), 'run from 0 to 9', '3 outputs')
    sentence(lambda: fit(net(), data, epochs=1, loss=nn.CrossEntropyLoss(), **QUIET), 'run from 0 to 9')
    sentence(lambda: fit(net(), [(x, torch.full_like(y, -100)) for x, y in data], epochs=1, **QUIET), 'every label', '-100')


def test_wrong_labels_of_validation_are_named_though_it_looks_at_the_end(quiet):
    data = [(x, torch.where(y == 2, 9, y)) for x, y in plain_batches()]
    sentence(lambda: fit(net(), plain_batches(), data, epochs=1, **QUIET), 'run from 0 to 9', '3 outputs')


def test_ctrl_c_and_resumption_where_it_looks_seldom(quiet, tmp_path):
    unbroken, resumed, calls = net(), net(1), []
    def loss(model, batch):
        calls.append(1)
        if len(calls) == 9: signal.raise_signal(signal.SIGINT)
        return cross_entropy_step(model, batch)
    with pytest.raises(KeyboardInterrupt, match='after step 9'): fit(net(), batches(), epochs=2, loss=loss, checkpoint=tmp_path/'c', **QUIET)
    again = fit(resumed, batches(), epochs=2, checkpoint=tmp_path/'c', **QUIET)
    assert fit(unbroken, batches(), epochs=2, **QUIET) == again and same(resumed, unbroken)


class Waits:
    "Counts, on the device that is not there, what makes the host wait: values asked for, sizes that data decide, and copies that block."
    NAMES = '_local_scalar_dense', 'nonzero', 'masked_select', 'equal.default', 'unique'
    def __init__(self, mode, read=lambda: None):
        self.found, self.read, dispatch = [], read, mode.dispatch
        def counted(func, types, args=(), kwargs=None):
            name, kwargs = str(func), kwargs or {}
            if any(w in name for w in self.NAMES) and args[0].device.type != 'cpu': self.found.append(name)
            if '_to_copy' in name: self.copy(name, args[0].device, kwargs.get('device') or args[0].device, kwargs.get('non_blocking'))
            if 'aten.copy_' in name: self.copy(name, args[1].device, args[0].device, kwargs.get('non_blocking') or len(args) > 2 and args[2])
            return dispatch(func, types, args, kwargs)
        mode.dispatch = counted

    def copy(self, name, source, target, at_once):
        if torch.device(target).type == source.type or at_once: return
        self.found.append(f'{name} {source.type} to {torch.device(target).type}')
        self.read()


def fake_batch(): return torch.rand(4, 1, 8, 8, device='cpu'), torch.zeros(4, dtype=torch.long, device='cpu')


@pytest.mark.parametrize('clip', [None, 1.])
@pytest.mark.parametrize('optimizer', [*T.OPTIMIZERS, partial(torch.optim.RMSprop, momentum=.5)])
@pytest.mark.parametrize('loss', [cross_entropy_step, nn.CrossEntropyLoss()])
def test_no_step_waits_for_the_gpu(clip, optimizer, loss):
    from fake_cuda import FakeAccelerator, fake_cuda
    for steps in (3, 9):
        with fake_cuda() as mode:
            objective = Objective(net(), loss)
            acc = FakeAccelerator()
            acc.trackers, acc.is_main_process = [], False
            run = T.Run(acc, objective, make_optimizer(objective, optimizer), T.constant, dict(epochs=1, batches=steps, seed=0, lr=1e-3), History(), look=T.LOOK)
            waits = Waits(mode, lambda: setattr(mode, 'number', 0))   # what is read says that no check failed
            with torch.device('cpu'): T.loop(run, [fake_batch()]*steps, lambda model: {}, clip, bar=False)   # Adam counts its steps on the CPU
            assert len(run.history.steps) == steps and ('norm' in run.history.steps[0]) == (clip is not None)
            assert waits.found == ['aten._to_copy.default cuda to cpu'], 'one copy for all losses, whatever the number of steps'


def test_the_step_asks_for_nothing_and_the_counter_sees_one_that_does():
    from fake_cuda import FakeAccelerator, fake_cuda
    with fake_cuda() as mode, torch.device('cpu'):
        objective = Objective(net()).to('cuda')
        optimizer = make_optimizer(objective)
        batch = on_device(fake_batch(), 'cuda')
        waits = Waits(mode)
        with T.checked_later() as later:
            for _ in range(3): row = T.queue_step(objective, batch, optimizer, FakeAccelerator(), clip=1.)
        assert waits.found == [] and set(row) == {'loss', 'norm'} and torch.is_tensor(row['loss']) and len(later) == 6
        T.train_step(objective, batch, optimizer, FakeAccelerator())
        assert len(waits.found) >= 2, 'labels and loss are asked for'


def test_validation_asks_once_however_many_batches():
    from fake_cuda import fake_cuda
    found = []
    for n in (2, 7):
        with fake_cuda() as mode:
            model = net().eval()
            data = [fake_batch()]*n
            waits = Waits(mode)
            with torch.device('cpu'): T.run_metrics(model, data, {'accuracy': T.RunningAccuracy(), 'loss': T.RunningLoss(T.mean_cross_entropy)}, 'fp32')
            found.append(waits.found)
    assert found[0] == found[1] and len(found[0]) == 4, 'the checks, two counts and the mean'


def test_batches_on_the_device_are_made_without_waiting():
    from fake_cuda import fake_cuda
    with fake_cuda() as mode:
        data = Images(torch.zeros(16, 1, 8, 8, dtype=torch.uint8, device='cuda'), torch.zeros(16, dtype=torch.long, device='cuda'))
        loader = Batches(data, 4, device='cuda', transform=Augment(degrees=10, translate=.1, crop=(.5, 1), flip=True, brightness=.1, contrast=.1, noise=.1))
        order = loader.order()
        waits = Waits(mode)
        for i in range(4): loader.batch(i, order)
        assert waits.found == []


# ---------------------------------------------------------------- probes of public reports

def test_resnet18_with_a_rest_of_one():
    from torchvision.models import resnet18
    data = Images(torch.randint(0, 255, (17, 3, 32, 32), dtype=torch.uint8), torch.arange(17) % 10)
    with pytest.warns(UserWarning, match='one image'): history = fit(resnet18(num_classes=10), Batches(data, 16, device='cpu'), epochs=1, **QUIET)
    assert len(history.steps) == 1
