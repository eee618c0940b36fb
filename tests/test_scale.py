"Pre-training at scale: LARS against the peer, recipes, streams of folders, several processes, the timed ways."
import math, os

import pytest
import torch
from torch import nn

from helpers import refused
from visft_nb.cnn.models import resnet18, small_cnn
from visft_nb.core import InputError
from visft_nb.data import Images, seeded
from visft_nb.pretrain import LARS, RECIPES, ColourViews, FolderStream, NTXentLoss, embed, embed_stream, launch, pretrain, shape_patches, simclr_step_times
from visft_nb.pretrain.scale import WAYS, PairStep, SimCLRWay, peer_loss, warm_cosine
from visft_nb.train import make_accelerator

pytestmark = pytest.mark.filterwarnings('ignore')


def net(seed=0):
    torch.manual_seed(seed)
    return resnet18(3, stem='cifar', width=2)


def total(model): return sum(p.double().sum().item() for p in model.parameters())


@pytest.mark.peer
@pytest.mark.parametrize('decay', [0, 1e-2])
def test_lars_equals_lightly(decay):
    pytest.importorskip('lightly')
    from lightly.utils.lars import LARS as Theirs
    def parameters():
        g = seeded(1)
        return [nn.Parameter(torch.randn(*s, generator=g, dtype=torch.float64)) for s in ((5, 4), (6, 3, 3, 3), (7,), (2, 2))]
    ours, theirs = parameters(), parameters()
    for ps in (ours, theirs): ps[3].data.zero_()
    a = LARS(ours, .3, weight_decay=decay, clip=False)
    flat = [p for p in theirs if p.ndim == 1]
    # there a group without decay is not scaled either, so a tiny decay stands for none
    b = Theirs([{'params': [p for p in theirs if p.ndim > 1], 'weight_decay': decay or 1e-300}, {'params': flat, 'weight_decay': 0}], lr=.3, momentum=.9, trust_coefficient=.02)
    for i in range(4):
        for p, q in zip(ours, theirs): p.grad = torch.randn(p.shape, generator=seeded(i, p.numel()), dtype=torch.float64); q.grad = p.grad.clone()
        a.step(); b.step()
    for p, q in zip(ours, theirs): assert torch.allclose(p, q, rtol=1e-9, atol=1e-12)


def test_lars_clips_at_the_rate_and_leaves_vectors_to_sgd():
    w, b = nn.Parameter(torch.full((3, 3), 100.)), nn.Parameter(torch.ones(3))
    w.grad, b.grad = torch.full((3, 3), 1e-3), torch.full((3,), 2.)
    LARS([w, b], .1, weight_decay=.5).step()
    moved = 100 - w[0, 0].item()
    assert math.isclose(moved, min(.02*300/(3e-3 + 150)/.1, 1)*.1*(1e-3 + 50), rel_tol=1e-4) and torch.allclose(b, torch.full((3,), .8))
    w.grad = torch.full((3, 3), 1e-6)
    before = w.detach().clone()
    LARS([w], .1).step()
    assert torch.allclose(before - w, .1*w.grad, atol=2e-5), 'not faster than plain SGD'


@pytest.mark.parametrize('method', RECIPES)
def test_each_recipe_learns_and_repeats(method):
    data, runs = shape_patches(48, 16, 1), []
    for labels in (True, False):
        model = net(); head = model.head.weight.clone()
        history = pretrain(model, data if labels else Images(data.images), method, 4, 16, hidden=32, bar=False, precision='fp32')
        assert torch.equal(model.head.weight, head) and all(p.requires_grad for p in model.parameters()) and len(history.steps) == 12
        runs.append(total(model))
    assert runs[0] == runs[1] and runs[0] != total(net())
    assert all(math.isfinite(s['loss']) for s in history.steps)


def test_the_rate_follows_the_batch_and_the_schedule_warms_up():
    rates = [[s['lr'] for s in pretrain(net(), shape_patches(64, 16, 1), 'simclr', 10, b, hidden=16, bar=False, precision='fp32').steps] for b in (16, 32)]
    assert max(rates[0]) <= .4*16/256 + 1e-9 and math.isclose(max(rates[1])/max(rates[0]), 2, rel_tol=.1)
    assert rates[0][0] < rates[0][3] and rates[0][-1] < .02*max(rates[0])
    assert warm_cosine(1000)(0, 1000*10) == 1/(.01*10000 + 1)


def test_projectors_are_as_published():
    shapes = {m: [tuple(p.shape) for p in r.projector(512).parameters() if p.ndim == 2] for m, r in RECIPES.items()}
    assert shapes == {'simclr': [(2048, 512), (256, 2048)], 'barlow': [(2048, 512), (2048, 2048), (2048, 2048)], 'vicreg': [(2048, 512), (2048, 2048), (2048, 2048)]}
    assert {m: any(isinstance(k, nn.BatchNorm1d) for k in r.projector(8, 16)) for m, r in RECIPES.items()} == {'simclr': False, 'barlow': True, 'vicreg': True}
    assert len({id(k) for k in RECIPES['barlow'].projector(8, 16)}) == 7, 'every layer is its own'


def test_stopped_and_continued_is_unbroken(tmp_path):
    class Stop:
        def on_step(self, history, model):
            if len(history.steps) == 3: raise KeyboardInterrupt
    data, kw = shape_patches(48, 16, 1), dict(method='simclr', epochs=2, batch_size=16, hidden=16, bar=False, precision='fp32')
    whole, parts = net(), net()
    pretrain(whole, data, **kw)
    with pytest.raises(KeyboardInterrupt): pretrain(parts, data, checkpoint=tmp_path/'c', every=1, callbacks=[Stop()], **kw)
    pretrain(parts, data, checkpoint=tmp_path/'c', **kw)
    assert total(whole) == total(parts)


def folder(path, n=5, side=40):
    "Class folders of JPEG, PNG, grey and wide images."
    from PIL import Image
    for c, name in enumerate('ab'):
        (path/name).mkdir(parents=True)
        for i, x in enumerate(shape_patches(n, side, 5 + c).images):
            im = Image.fromarray(x.permute(1, 2, 0).numpy())
            if i == 1: im = im.convert('L')
            if i == 2: im = im.resize((3*side, side))
            im.save(path/name/f'{i}.{"png" if i % 2 else "jpg"}')
    (path/'a'/'.hidden').write_bytes(b'')
    return path


def test_stream_gives_every_image_once_and_any_batch_again(tmp_path):
    folder(tmp_path)
    s = FolderStream(tmp_path, 4, 24, seed=3, workers=0)
    assert len(s) == 2 and s.classes == ('a', 'b') and len(s.files) == 10
    first = list(s)
    assert all(x.shape == (4, 3, 24, 24) and x.dtype == torch.uint8 and x.is_contiguous(memory_format=torch.channels_last) for x, _ in first)
    again, = s.iter_from(1)
    assert torch.equal(again[0], first[1][0]) and torch.equal(again[1], first[1][1]), 'a batch does not depend on those before'
    s.epoch = 1
    assert not torch.equal(next(iter(s))[0], first[0][0]), 'every epoch has its own order'
    ordered = list(FolderStream(tmp_path, 4, 24, shuffle=False, workers=1))
    assert [len(y) for _, y in ordered] == [4, 4, 2] and torch.cat([y for _, y in ordered]).tolist() == [0]*5 + [1]*5


def test_stream_is_the_middle_square(tmp_path):
    from PIL import Image
    (tmp_path/'k').mkdir()
    wide = torch.zeros(3, 20, 60, dtype=torch.uint8); wide[0, :, 20:40] = 255; wide[1, :, :20] = 255
    Image.fromarray(wide.permute(1, 2, 0).numpy()).save(tmp_path/'k'/'wide.png')
    (x, _), = FolderStream(tmp_path, 1, 20, workers=0)
    assert (x[0, 0] > 250).float().mean() > .9 and (x[0, 1] > 5).float().mean() < .1


def test_stream_leaves_torchs_numbers_alone(tmp_path):
    s, state = FolderStream(folder(tmp_path), 4, 16, workers=0), torch.get_rng_state()
    list(s)
    assert torch.equal(state, torch.get_rng_state())


def test_each_process_decodes_its_share(tmp_path, monkeypatch):
    s = FolderStream(folder(tmp_path), 4, 16, workers=0)
    whole = next(iter(s))
    monkeypatch.setenv('WORLD_SIZE', '2')
    for rank in (0, 1):
        monkeypatch.setenv('RANK', str(rank))
        x, y = next(iter(s))
        assert torch.equal(x[rank::2], whole[0][rank::2]) and torch.equal(y, whole[1])


def test_pretraining_and_features_from_a_stream(tmp_path):
    s, model = FolderStream(folder(tmp_path), 4, 24, workers=0), net()
    history = pretrain(model, s, 'simclr', 2, hidden=16, views=ColourViews(size=16), bar=False, precision='fp32')
    assert len(history.steps) == 4
    z, y = embed_stream(model, FolderStream(tmp_path, 3, 16, shuffle=False, workers=0))
    x = torch.cat([x for x, _ in FolderStream(tmp_path, 3, 16, shuffle=False, workers=0)])
    assert z.shape == (10, model.dim) and y.tolist() == [0]*5 + [1]*5 and torch.allclose(z, embed(model, Images(x.contiguous())), atol=1e-5)


several = pytest.mark.skipif(not torch.distributed.is_available() or not hasattr(os, 'fork') or torch.cuda.is_initialized(), reason='several processes cannot be started here')


def in_each(z1, z2, data):
    "What one of several processes does."
    rank, n = int(os.environ.get('RANK', 0)), int(os.environ.get('WORLD_SIZE', 1))
    make_accelerator('fp32')
    loss = NTXentLoss(.2)(z1[rank::n], z2[rank::n]).item()
    model = net()
    history = pretrain(model, data, 'simclr', 1, 16, hidden=16, bar=False, precision='fp32')
    return {'loss': loss, 'weights': torch.cat([p.detach().flatten() for p in model.parameters()]), 'losses': [s['loss'] for s in history.steps], 'threads': torch.get_num_threads()}


@several
def test_two_processes_train_one_network(monkeypatch):
    monkeypatch.setenv('VISFT_DEVICE', 'cpu')
    z1, z2 = torch.randn(2, 10, 6, generator=seeded(2))
    a, b = launch(in_each, z1, z2, shape_patches(32, 16, 1), processes=2)
    assert torch.equal(a['weights'], b['weights']) and a['losses'] == b['losses'] and len(a['losses']) == 2
    whole = NTXentLoss(.2)(z1, z2).item()
    assert math.isclose(a['loss'], whole, rel_tol=1e-5) and math.isclose(b['loss'], whole, rel_tol=1e-5)
    assert 'RANK' not in os.environ and 'ACCELERATE_USE_CPU' not in os.environ
    pretrain(net(), shape_patches(32, 16, 1), 'simclr', 1, 16, hidden=16, bar=False)   # this process still trains alone


def refuses(): raise InputError('there is no sugar')
def breaks(): return 1/0


@several
@pytest.mark.parametrize('function,words', [(refuses, ['Process', 'of 2', 'there is no sugar']), (breaks, ['ZeroDivisionError'])])
def test_what_goes_wrong_in_a_process_is_told(function, words, monkeypatch):
    monkeypatch.setenv('VISFT_DEVICE', 'cpu')
    with refused(words): launch(function, processes=2)


def test_one_process_is_this_one():
    assert launch(lambda v: os.getpid() + v, 1, processes=1) == [os.getpid() + 1]


def test_the_timed_ways_do_the_same_work():
    data = shape_patches(24, 16, 1).images
    table = simclr_step_times(data, 4, 2, rounds=1, workers=1)
    assert table.way.tolist() == list(WAYS) and (table.ms > 0).all() and table.times[0] == 1 and math.isclose(table.gain.prod(), table.times.iloc[-1], rel_tol=1e-6)
    ways = [SimCLRWay(data, w, 8, 2, workers=0) for w in WAYS]
    assert len({total(w.model) for w in ways}) == 1, 'all start from the same weights'
    for w in ways:
        before = total(w.model); w.step()
        assert total(w.model) != before
    assert {w.model.conv1.weight.is_contiguous(memory_format=torch.channels_last) for w in ways[2:]} == {True}


@pytest.mark.peer
def test_the_peers_loss_and_views():
    pytest.importorskip('lightly')
    z = torch.randn(2, 8, 5, generator=seeded(3))
    loss, whose = peer_loss(.2)
    assert whose == 'lightly' and math.isclose(loss(*z).item(), NTXentLoss(.2)(*z).item(), rel_tol=1e-5)
    from lightly.transforms import SimCLRTransform
    theirs = SimCLRTransform(16, cj_strength=.5, min_scale=.2, gaussian_blur=0., normalize=None).transforms[0].transform.transforms
    from visft_nb.pretrain.timing import _Photos
    ours = _Photos(shape_patches(1, 16, 1).images).change.transforms
    crop, jitter = (lambda t: next(v for v in t if type(v).__name__ == 'RandomResizedCrop')), (lambda t: next(v for v in t if type(v).__name__ == 'RandomApply'))
    assert tuple(crop(ours).scale) == tuple(crop(theirs).scale) and tuple(crop(ours).ratio) == tuple(crop(theirs).ratio)
    a, b = jitter(ours), jitter(theirs)
    assert a.p == b.p and all(tuple(getattr(a.transforms[0], k)) == pytest.approx(tuple(getattr(b.transforms[0], k))) for k in ('brightness', 'contrast', 'saturation', 'hue'))


def broken(tmp_path):
    folder(tmp_path)
    (tmp_path/'b'/'torn.jpg').write_bytes((tmp_path/'b'/'0.jpg').read_bytes()[:300])
    return tmp_path


BAD = {
    'method': (lambda t: pretrain(net(), shape_patches(8, 16), 'simclar', 1), ['simclar', 'simclr']),
    'no features': (lambda t: pretrain(nn.Linear(2, 2), shape_patches(8, 16), 'simclr', 1), ['Linear', 'features']),
    'too few': (lambda t: pretrain(net(), shape_patches(8, 16), 'simclr', 1, 16), ['batch_size=16', '8 images']),
    'grey': (lambda t: pretrain(small_cnn(width=2), Images(torch.zeros(8, 1, 16, 16, dtype=torch.uint8)), 'simclr', 1, 8, hidden=8, bar=False), ['(B, 3, H, W)']),
    'processes': (lambda t: launch(print, processes=0), ['processes=0']),
    'way': (lambda t: SimCLRWay(shape_patches(8, 16).images, 'fast'), ['fast']),
    'no folder': (lambda t: FolderStream(t/'nowhere'), ['nowhere']),
    'no classes': (lambda t: FolderStream(t), ['CLASS/IMAGE']),
    'empty class': (lambda t: (folder(t), (t/'c').mkdir(), FolderStream(t, 2)), ['without images', 'c']),
    'batch': (lambda t: FolderStream(folder(t), 40), ['batch_size=40', '10 images']),
    'bad file': (lambda t: list(FolderStream(broken(t), 11, 16, workers=0)), ['torn.jpg', 'cannot be decoded']),
    'bad file in a worker': (lambda t: list(FolderStream(broken(t), 11, 16, workers=1)), ['torn.jpg', 'cannot be decoded']),
}


@pytest.mark.parametrize('name', BAD)
def test_bad_input(name, tmp_path):
    call, words = BAD[name]
    with refused(words): call(tmp_path)


def test_on_another_device():
    from fake_cuda import FakeAccelerator, fake_cuda
    from visft_nb.pretrain import contrastive_step
    from visft_nb.train import Objective, train_step
    with fake_cuda():
        recipe = RECIPES['simclr']
        objective = Objective(resnet18(3, stem='cifar', width=2), contrastive_step(recipe.loss(), recipe.views, recipe.projector(16, 8)))
        optimizer = LARS(objective.parameters(), .1, weight_decay=1e-4)
        for _ in range(2): train_step(objective, torch.zeros(6, 3, 16, 16, dtype=torch.uint8), optimizer, FakeAccelerator())
        pair = Objective(resnet18(3, stem='cifar', width=2), PairStep(NTXentLoss(.2), nn.Linear(16, 4)))
        train_step(pair, [torch.rand(4, 3, 16, 16)]*2, torch.optim.Adam(pair.parameters()), FakeAccelerator())
