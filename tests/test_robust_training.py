"Adversarial training: losses against their formulas, attacks in their ball, exact resumption, no side effects, bad input."
import math
from copy import deepcopy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fake_cuda import fake_cuda
from helpers import fake_step, refused
from nets import Disturbed
from visft_nb.cnn.models import small_cnn
from visft_nb.core import InputError
from visft_nb.data import Batches, Images
from visft_nb.robust import AdversarialTrainer, adversarial_step, mart_loss, pgd, trades_loss
from visft_nb.robust.headline import RandomLength
from visft_nb.robust.training import METHODS, FreeStep, MartStep, NoisyStep, PerturbedStep, Replayed, TradesStep, ascend, attacked, stands
from visft_nb.train import fit

pytestmark = pytest.mark.filterwarnings('ignore')


def images(n=36, classes=3):
    x = torch.randint(0, 90, (n, 1, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    y = torch.arange(n) % classes
    for i in range(n): x[i, :, 4*int(y[i]):4*int(y[i]) + 4] += 120
    return Images(x, y, tuple(map(str, range(classes))))


def net(seed=0):
    torch.manual_seed(seed)
    return small_cnn(3, width=4)


def weights(model): return torch.cat([v.flatten().float() for v in model.state_dict().values()])


quick = partial(Batches, batch_size=12, seed=0)
plain = dict(bar=False, precision='fp32')


@pytest.fixture(scope='module')
def setup():
    "A network that has learned a little, in eval mode, with images and labels."
    model, data = net(), images()
    fit(model, quick(data), epochs=6, lr=1e-2, **plain)
    model.zero_grad()
    return model.eval(), data.floats(), data.labels


def logits(seed=0, n=40, k=7):
    g = torch.Generator().manual_seed(seed)
    return 3*torch.randn(n, k, generator=g), 3*torch.randn(n, k, generator=g), torch.randint(0, k, (n,), generator=g)


@pytest.mark.parametrize('beta', [0, .5, 6.])
def test_trades_equals_its_formula(beta):
    z, z2, y = (v.requires_grad_() if v.is_floating_point() else v for v in logits())
    ours = trades_loss(z, z2, y, beta)
    theirs = F.cross_entropy(z, y) + beta*nn.KLDivLoss(reduction='sum')(F.log_softmax(z2, 1), F.softmax(z, 1))/len(z)
    assert abs(ours - theirs) <= 1e-6*abs(theirs)
    if beta:
        for a, b in zip(torch.autograd.grad(ours, (z, z2)), torch.autograd.grad(theirs, (z, z2))): assert torch.allclose(a, b, atol=1e-6), 'both predictions are moved'


def test_mart_equals_its_formula_and_stays_finite():
    z, z2, y = logits()
    p, q, rows = z.double().softmax(1), z2.double().softmax(1), range(len(z))
    rival = torch.stack([torch.cat([r[:c], r[c + 1:]]).max() for r, c in zip(q, y)])
    theirs = (-q[rows, y].log() - (1 - rival).log() + 5*(p*(p/q).log()).sum(1)*(1 - p[rows, y])).mean()
    assert abs(mart_loss(z, z2, y) - theirs) <= 1e-5*abs(theirs)
    sure = (100*z2).requires_grad_()
    loss = mart_loss(100*z, sure, y)
    assert loss.isfinite() and torch.autograd.grad(loss, sure)[0].isfinite().all()


def test_the_step_attacks_as_pgd_does(setup):
    model, x, y = setup
    for norm, eps in (('linf', .1), ('l2', 1.)):
        torch.manual_seed(5); ours = adversarial_step(eps, steps=4, norm=norm).images(model, x, y)
        torch.manual_seed(5); theirs = pgd(model, x, y, eps, steps=4, norm=norm, drop=False)
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize('step,reach', [(adversarial_step(.1, steps=3), .1), (adversarial_step(.1, .1, 1, start='zero'), .1), (TradesStep(.1, steps=3), .1), (MartStep(.1, steps=3), .1), (NoisyStep(.1), .3)])
def test_images_lie_in_ball_and_box_and_do_harm(setup, step, reach):
    model, x, y = setup
    torch.manual_seed(0)
    adv = step.images(model, x, y)
    assert adv.min() >= 0 and adv.max() <= 1 and (adv - x).abs().max() <= reach + 1e-6 and not adv.requires_grad
    with torch.no_grad(): assert F.cross_entropy(model(adv), y) > F.cross_entropy(model(x), y)


def test_trades_attack_needs_no_labels_and_moves_the_prediction(setup):
    model, x, y = setup
    runs = []
    for labels in (y, (y + 1) % 3):
        torch.manual_seed(0); runs.append(TradesStep(.1, steps=5).images(model, x, labels))
    assert torch.equal(*runs)
    with torch.no_grad(): assert (model(runs[0]) - model(x)).abs().mean() > .1
    stuck = TradesStep(.1, steps=5, start='zero').images(model, x, y)
    assert (stuck - x).abs().mean() < (runs[0] - x).abs().mean(), 'from the image itself there is no way up'


@pytest.mark.parametrize('mode', ['eval', 'train'])
@pytest.mark.parametrize('make', [adversarial_step, TradesStep, MartStep, NoisyStep])
def test_an_attack_leaves_the_network_as_it_was(mode, make):
    data, model = images(), Disturbed(3).train()
    state, flags = {k: v.clone() for k, v in model.state_dict().items()}, [p.requires_grad for p in model.parameters()]
    make(.1, mode=mode).images(model, data.floats(), data.labels)
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items()) and [p.requires_grad for p in model.parameters()] == flags
    assert all(m.training for m in model.modules()) and all(p.grad is None for p in model.parameters())


def test_the_mode_of_the_attack_is_the_one_asked_for():
    seen, model = [], Disturbed(3).train()
    model.net[1].eval()
    for mode in ('eval', 'train'):
        with attacked(model, mode): seen.append((model.training, model.net[1].training, model.net[3].training))
    assert seen == [(False, False, False), (True, False, True)], 'in train mode, what was frozen stays frozen'


def test_ascend_asks_for_no_gradient_of_the_weights(setup):
    model, x, y = setup
    with attacked(model): adv = ascend(lambda v: F.cross_entropy(model(v), y, reduction='none'), x.clone(), x, .1, .05, 2)
    assert all(p.grad is None for p in model.parameters()) and adv.shape == x.shape


@pytest.mark.parametrize('method', METHODS)
def test_every_method_trains_and_a_seed_decides_all(method):
    data, runs = images(), []
    for _ in range(2):
        model = net()
        history = AdversarialTrainer(method, .1, epochs=2, warmup=1, lr=1e-2, **({} if method in ('fgsm', 'fast', 'n-fgsm') else {'steps': 2})).fit(model, quick(data), **plain)
        torch.rand(3)   # what is drawn outside does not matter
        runs.append((weights(model), [r['loss'] for r in history.steps]))
    assert torch.equal(runs[0][0], runs[1][0]) and runs[0][1] == runs[1][1] and not torch.equal(runs[0][0], weights(net()))
    assert len(runs[0][1]) == (12 if method == 'free' else 6)


@pytest.mark.parametrize('method', METHODS)
def test_a_stopped_run_goes_on_exactly(method, tmp_path):
    class Stop:
        def on_step(self, history, model):
            if len(history.steps) == 5: raise KeyboardInterrupt
    trainer = AdversarialTrainer(method, .1, epochs=2, warmup=1.5, lr=1e-2, awp=None if method == 'free' else .01, **({'steps': 2} if 'alpha' not in METHODS[method][1] or method == 'free' else {}))
    data, whole, parts = images(), net(), net()
    trainer.fit(whole, quick(data), data, checkpoint=tmp_path/'a.safetensors', **plain)
    with pytest.raises(KeyboardInterrupt): trainer.fit(parts, quick(data), data, checkpoint=tmp_path/'b.safetensors', every=1, callbacks=[Stop()], **plain)
    again = net(9)
    history = trainer.fit(again, quick(data), data, checkpoint=tmp_path/'b.safetensors', every=1, **plain)
    assert torch.equal(weights(whole), weights(again)) and len(history.steps) == (12 if method == 'free' else 6)


@pytest.mark.parametrize('method', ['pgd', 'free', 'trades', 'awp'])
def test_bf16(method):
    model = net()
    history = AdversarialTrainer(method, .1, epochs=2, lr=1e-2, steps=2).fit(model, quick(images()), bar=False, precision='bf16')
    assert all(math.isfinite(r['loss']) for r in history.steps) and all(p.dtype == torch.float32 and p.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize('method', METHODS)
def test_gradients_are_counted_right(setup, method):
    model, x, y = setup
    trainer, count = AdversarialTrainer(method, .1), [0]
    step = trainer.loss_for([(x, y)])
    step = step.to(x.device)
    getattr(step, 'step', step).checked = True
    class Counted(nn.Module):
        def __init__(self): super().__init__(); self.inner = model
        def forward(self, v): count[0] += torch.is_grad_enabled(); return self.inner(v)
    step(Counted(), (x, y))
    assert count[0] == step.gradients


def test_free_is_the_fgsm_step_of_the_training_gradient(setup):
    model, x, y = setup
    step = FreeStep(.1, (40, *x.shape[1:]))
    step(model, (x, y)).backward()
    v = x.clone().requires_grad_()
    g, = torch.autograd.grad(F.cross_entropy(model(v), y), v)
    assert torch.equal(step.delta[:36], .1*g.sign()) and not step.delta[36:].any()
    first = step.delta.clone()
    step(model, (x[:8], y[:8])).backward()
    assert torch.equal(step.delta[8:], first[8:]) and step.delta.abs().max() <= .1
    model.zero_grad()


def test_replayed_goes_on_in_the_middle():
    batches = quick(images())
    whole = [b[1] for b in Replayed(batches, 3)]
    assert len(whole) == len(Replayed(batches, 3)) == 9 and torch.equal(whole[0], whole[2]) and not torch.equal(whole[2], whole[3])
    for k in range(9): assert all(torch.equal(a, b[1]) for a, b in zip(whole[k:], Replayed(batches, 3).iter_from(k), strict=True))
    assert [len(Replayed([1, 2], 4)), *Replayed([1, 2], 2)] == [8, 1, 1, 2, 2]


def test_perturbed_weights_give_the_gradient_there_and_stay_where_they_are(setup):
    model, x, y = deepcopy(setup[0]).double().train(), setup[1].double(), setup[2]
    inner = adversarial_step(.1, .1, 1, start='zero')
    adv = inner.images(model, x, y)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    PerturbedStep(inner, .02)(model, (x, y)).backward()
    assert all(torch.equal(p, before[k]) for k, p in model.named_parameters())
    by_hand = deepcopy(setup[0]).double().train()
    w = [p for p in by_hand.parameters() if p.ndim > 1]
    up = torch.autograd.grad(F.cross_entropy(by_hand(adv), y), w)
    with torch.no_grad():
        for p, g in zip(w, up): p += .02*p.norm()/g.norm()*g
    F.cross_entropy(by_hand(adv).float(), y).backward()
    for (k, p), q in zip(model.named_parameters(), by_hand.parameters()): assert torch.allclose(p.grad, q.grad, rtol=1e-4, atol=1e-6), k
    tracked = [int(m.num_batches_tracked - before[f'{k}.num_batches_tracked']) for k, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)]
    assert set(tracked) == {1}, 'of two training passes one moves the running averages'


def test_warmup_counts_steps():
    step = adversarial_step(.2, steps=1, warmup=4)
    assert [step.share() for _ in range(6)] == [.25, .5, .75, 1, 1, 1]
    assert AdversarialTrainer('fast', .1, warmup=1.5).loss_for([0]*4).warmup == 6 and AdversarialTrainer('free', .1, steps=3, warmup=2).loss_for([(torch.zeros(2, 1, 4, 4), 0)]).warmup == 6


def test_early_stop_keeps_the_best_epoch():
    falling = iter([50., 70., 60., 55., 90.])
    kept, model = [], net()
    def validation(m):
        kept.append(weights(m)); return {'robust': next(falling)}
    history = AdversarialTrainer('fast', .1, epochs=5, early_stop=2).fit(model, quick(images()), validation, **plain)
    assert len(history.epochs) == 4 and history.best_epoch == 2 and torch.equal(weights(model), kept[1])


def test_validation_is_robust_accuracy_under_pgd(setup):
    model, x, y = setup
    measure = stands((x, y), .1, steps=5)
    a, b = measure(model), measure(model.train())
    assert a == b and model.training and a['robust'] <= a['clean'], 'the same starts each time, in eval mode'
    model.eval()
    assert stands(images(), .1, steps=5, batch_size=36)(model) == stands((x, y), .1, steps=5, batch_size=36)(model)
    with torch.no_grad(): assert a['clean'] == pytest.approx((model(x).argmax(1) == y).double().mean().item())


def test_adversarial_training_helps():
    data = images(120)
    x, y = data.floats(), data.labels
    accuracy = {}
    for name, loss in (('standard', None), ('pgd', adversarial_step(.15, steps=2, warmup=20))):
        model = net()
        fit(model, quick(data), epochs=8, lr=1e-2, **plain, **({} if loss is None else {'loss': loss}))
        accuracy[name] = stands((x, y), .15)(model)['robust']
    assert accuracy['pgd'] > accuracy['standard'] + .1, accuracy


@pytest.mark.skipif(not torch.distributed.is_available() or not hasattr(__import__('os'), 'fork'), reason='this torch has no process groups')
def test_two_processes_end_in_the_same_weights(tmp_path):
    from test_contrast import together
    def work(rank):
        out = {}
        for method in ('pgd', 'trades', 'awp'):
            model = net()
            AdversarialTrainer(method, .1, steps=2, warmup=1, epochs=1, lr=1e-2).fit(model, quick(images()), **plain)
            out[method] = torch.cat([p.detach().flatten() for p in model.parameters()])
        try: AdversarialTrainer('free', .1, epochs=1).fit(net(), quick(images()), **plain)
        except InputError as e: out['free'] = 'one process' in str(e)
        return out
    first, second = together(work, tmp_path)
    for method in ('pgd', 'trades', 'awp'): assert torch.equal(first[method], second[method]) and first[method].isfinite().all()
    assert first['free'] and second['free']


class Sure(nn.Module):
    def __init__(self): super().__init__(); self.net = net()
    def forward(self, x): return self.net(x).softmax(1)


def train(method='pgd', eps=.1, model=None, data=None, **kw):
    how = {k: kw.pop(k) for k in list(kw) if k in ('validation',)}
    return AdversarialTrainer(method, eps, epochs=1, **kw).fit(model or net(), data or quick(images()), **how, **plain)


def outside():
    data = images()
    return [(2*data.floats() - 1, data.labels)]


BAD = {
    'method': (lambda: train('trade'), ['trade', 'trades']),
    'eps': (lambda: train(eps=0), ['eps=0', 'above 0']),
    'eps of bytes': (lambda: train(eps=math.inf), ['eps=inf']),
    'negative eps': (lambda: adversarial_step(-.1), ['eps=-0.1']),
    'beta': (lambda: train('trades', beta=-1.), ['beta=-1.0', 'at least 0']),
    'beta of the loss': (lambda: trades_loss(*logits(), beta=-1), ['beta=-1']),
    'beta where there is none': (lambda: train('pgd', beta=6.), ['beta=6.0', 'pgd', 'trades', 'mart']),
    'steps of fast': (lambda: train('fast', steps=7), ['steps=7', 'one step', 'pgd']),
    'no steps': (lambda: train(steps=0), ['steps=0']),
    'norm': (lambda: train(norm='l3'), ['norm', 'l3']),
    'free in l2': (lambda: train('free', norm='l2'), ['l2', 'l-inf']),
    'mode': (lambda: train(mode='test'), ['mode', 'test']),
    'warmup': (lambda: train(warmup=-1), ['warmup=-1']),
    'alpha': (lambda: train(alpha=0.), ['alpha=0.0']),
    'noise': (lambda: train('n-fgsm', noise=0.), ['noise=0.0']),
    'awp': (lambda: train(awp=2.), ['awp=2.0']),
    'awp of free': (lambda: train('free', awp=.01), ['Free']),
    'early stop without validation': (lambda: train(early_stop=3), ['early_stop', 'validation']),
    'no validation image': (lambda: train(validation=images()[:0]), ['no image']),
    'images outside': (lambda: train(data=outside()), ['[0, 1]', 'normalisation']),
    'images outside, free': (lambda: train('free', data=outside()), ['[0, 1]', 'normalisation']),
    'probabilities': (lambda: train(model=Sure()), ['probabilities', 'softmax']),
    'labels': (lambda: train(data=[(b[0], b[1] + 5) for b in quick(images())]), ['Labels', '3 outputs']),
    'no labels': (lambda: train(data=[(images().floats(), None)]), ['Labels']),
    'no batches': (lambda: train(data=images()), ['Batches']),
    'no batches, free': (lambda: train('free', data=images()), ['Batches']),
    'nan': (lambda: train(lr=1e30, data=list(quick(images()))*4), ['step', 'lower the rate']),
    'shapes': (lambda: mart_loss(torch.zeros(4, 3), torch.zeros(5, 3), torch.zeros(4).long()), ['(4, 3)', '(5, 3)']),
}


@pytest.mark.parametrize('name', BAD)
def test_bad_input(name):
    call, words = BAD[name]
    with refused(words): call()


@pytest.mark.parametrize('method', METHODS)
def test_on_another_device(method):
    trainer = AdversarialTrainer(method, .1, warmup=1)
    with fake_cuda():
        batch = torch.rand(6, 1, 16, 16), torch.zeros(6).long()
        loss = FreeStep(.1, batch[0].shape, warmup=3) if method == 'free' else trainer.loss_for([batch])
        fake_step(small_cnn(width=4), batch, loss)


@pytest.mark.parametrize('shortest', [1., .4])
def test_a_step_of_random_length(shortest):
    data, model, eps = images(), net().eval(), .2
    x, y = data.floats(), data.labels
    torch.manual_seed(5); ours = RandomLength(eps, shortest=shortest).images(model, x, y)
    torch.manual_seed(5); whole = adversarial_step(eps, 1.25*eps, steps=1, start='uncut').images(model, x, y)
    assert (ours - x).abs().max() <= eps + 1e-6 and ours.min() >= 0 and ours.max() <= 1
    far = lambda a: ((a - x).abs() > eps - 1e-6).flatten(1).float().mean(1)
    if shortest == 1: assert torch.allclose(ours, whole, atol=1e-6), 'the step of Wong et al.'
    else:
        assert far(ours).mean() < far(whole).mean() - .05, 'shorter steps end inside the ball'
        assert far(ours).std() > far(whole).std(), 'each image has its own length'


@pytest.mark.parametrize('shortest', [-.1, 1.1])
def test_lengths_that_are_no_share(shortest):
    with pytest.raises(InputError, match='share of alpha'): RandomLength(.3, shortest=shortest)


def test_random_lengths_are_for_linf():
    with pytest.raises(InputError, match='l-inf ball'): RandomLength(.3, norm='l2')


def test_the_start_is_not_cut():
    "A black pixel may start below 0, so that after a step upwards it lies inside the ball."
    x, y = torch.zeros(64, 1, 16, 16), torch.zeros(64, dtype=torch.long)
    torch.manual_seed(0)
    ends = {start: adversarial_step(.3, .375, steps=1, start=start).images(net().eval(), x, y) for start in ('random', 'uncut')}
    inside = {k: ((v > 0) & (v < .3 - 1e-6)).float().mean().item() for k, v in ends.items()}
    up = {k: (v > 0).float().mean().item() for k, v in ends.items()}
    assert inside['random'] == 0 and inside['uncut'] > .3*up['uncut']
