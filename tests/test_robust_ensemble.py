"APGD, FAB, Square and AutoAttack: as strong as pyautoattack, exact where it is exact, inside ball and box, without side effects."
import inspect
import logging
import warnings
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from torch import nn

from fake_cuda import fake_cuda
from helpers import refused
from nets import Disturbed
from visft_nb.cnn.models import small_cnn
from visft_nb.data import load_dataset
from visft_nb.robust import apgd, autoattack, autoattack_table, fab, pgd, square
from visft_nb.robust.attacks import dlr_loss
from visft_nb.robust.apgd_attack import _climb, _inwards, objective
from visft_nb.robust.ensemble import HALVINGS, L1_VERSIONS, VERSIONS, L1Box, checkpoints, dlr_targeted, nearest_on_plane, project_l1_box, window_share
from visft_nb.robust.square_attack import twin_bumps

GEN = lambda seed=0: torch.Generator().manual_seed(seed)
THEIR = {'linf': 'Linf', 'l2': 'L2', 'l1': 'L1'}
LENGTH = {'linf': lambda d: d.abs().amax(1), 'l2': lambda d: d.norm(dim=1), 'l1': lambda d: d.abs().sum(1)}   # of rows
SHORT = {'apgd-ce': {'steps': 10}, 'apgd-t': {'steps': 5, 'targets': 2}, 'fab-t': {'steps': 5, 'targets': 2}, 'square': {'queries': 50}}


def trained(robust, images, labels):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(8*16, 10))
    opt = torch.optim.Adam(model.parameters(), 5e-3)
    for i in torch.randperm(len(images)).repeat(5).split(100):
        x = pgd(model, images[i], labels[i], .12, steps=3, drop=False, check=False) if robust else images[i]
        opt.zero_grad(); F.cross_entropy(model(x), labels[i]).backward(); opt.step()
    return model.eval()


@pytest.fixture(scope='module')
def digits():
    "A plain and a robust network on small digits, and 150 images."
    train, test = load_dataset('mnist5k', 'train')[:2000], load_dataset('mnist5k', 'test')[:150]
    small = lambda d: F.avg_pool2d(F.pad(d.floats(), (2, 2, 2, 2)), 2)
    return {r: trained(r == 'robust', small(train), train.labels) for r in ('plain', 'robust')}, small(test), test.labels


def accuracy(model, x, y):
    with torch.no_grad(): return 100*(model(x).argmax(1) == y).float().mean().item()


def theirs(model, x, y, eps, norm, attacks):
    "What pyautoattack leaves standing, per cent."
    pyautoattack = pytest.importorskip('pyautoattack')
    logging.getLogger('auto-attack').setLevel(logging.CRITICAL)
    attack = pyautoattack.AutoAttack(model, norm=THEIR[norm], eps=eps, seed=0, version='custom', attacks=attacks)
    attack.apgd.n_restarts = attack.fab.n_restarts = 1
    attack.apgd.use_largereps = attack.apgd_targeted.use_largereps = norm == 'l1'   # as in their standard version
    attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = 3   # of nine, to save time
    attack.square.n_queries = 800
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return accuracy(model, attack.run_standard_evaluation(x, y, batch_size=250)[0], y)


@pytest.mark.peer
@pytest.mark.parametrize('kind,norm,eps', [('plain', 'linf', .04), ('robust', 'linf', .12), ('robust', 'l2', .7), ('plain', 'l1', 2.), ('robust', 'l1', 2.5)])
def test_as_strong_as_pyautoattack(digits, kind, norm, eps):
    nets, x, y = digits
    x, y, model = x[:80], y[:80], nets[kind]
    plan = {'apgd-ce': {}, 'apgd-t': {'targets': 3}, 'fab-t': {'targets': 3}, 'square': {'queries': 800}}
    ours = accuracy(model, autoattack(model, x, y, eps, norm, plan, generator=GEN()), y)
    other = theirs(model, x, y, eps, norm, ['apgd-ce', 'apgd-t', 'fab-t', 'square'])
    assert abs(ours - other) <= 1.3, f'{ours} against {other}'
    assert 5 < other < 90, 'this network or radius tells nothing'


@pytest.mark.peer
@pytest.mark.parametrize('stage,attack,norm,eps', [('apgd-dlr', partial(apgd, loss='dlr'), 'linf', .12), ('fab-t', partial(fab, targets=3), 'linf', .12),
                                                   ('fab-t', partial(fab, targets=3), 'l2', .7), ('fab', partial(fab, targets=0), 'l2', .7),
                                                   ('apgd-ce', apgd, 'l1', 2.), ('apgd-t', partial(apgd, loss='dlr-targeted', targets=3), 'l1', 2.),
                                                   ('fab-t', partial(fab, targets=3), 'l1', 2.), ('fab', partial(fab, targets=0), 'l1', 2.)])
def test_each_stage_is_as_strong_as_theirs(digits, stage, attack, norm, eps):
    nets, x, y = digits
    x, y = x[:40], y[:40]
    ours = accuracy(nets['robust'], attack(nets['robust'], x, y, eps, norm, generator=GEN(), check=False), y)
    assert ours <= theirs(nets['robust'], x, y, eps, norm, [stage]) + 2.6


@pytest.mark.peer
@pytest.mark.parametrize('norm,eps', [('linf', .15), ('l2', .8), ('l1', 4.)])
def test_square_is_as_strong_as_theirs(digits, norm, eps):
    reference = pytest.importorskip('pyautoattack.square')
    nets, x, y = digits
    attack = reference.SquareAttack(nets['robust'], norm=THEIR[norm], n_queries=500, eps=eps, seed=0, resc_schedule=False)
    ours = accuracy(nets['robust'], square(nets['robust'], x, y, eps, norm, queries=500, generator=GEN()), y)
    assert ours <= accuracy(nets['robust'], attack.perturb(x, y), y) + 4


@pytest.mark.peer
def test_square_in_l1_is_as_strong_as_theirs_in_colour():
    "Each channel proposes the whole budget: without that the changes stay dense and weak."
    reference = pytest.importorskip('pyautoattack.square')
    def colour(d):
        ink = F.interpolate(d.floats(), 25)
        return ink*torch.rand(len(d), 3, 1, 1, generator=GEN(1)) + (1 - ink)*torch.rand(len(d), 3, 1, 1, generator=GEN(2))
    train, test = load_dataset('mnist5k', 'train')[:1500], load_dataset('mnist5k', 'test')[:60]
    images, x, y = colour(train), colour(test), test.labels
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(16*49, 10))
    opt = torch.optim.Adam(model.parameters(), 5e-3)
    for i in torch.randperm(len(train)).repeat(15).split(100): opt.zero_grad(); F.cross_entropy(model(images[i]), train.labels[i]).backward(); opt.step()
    attack = reference.SquareAttack(model, norm='L1', n_queries=150, eps=3., seed=0, resc_schedule=False)
    ours = accuracy(model, square(model, x, y, 3., 'l1', queries=150, generator=GEN()), y)
    assert accuracy(model, x, y) > ours + 20 and ours <= accuracy(model, attack.perturb(x, y), y) + 7


@pytest.mark.peer
@pytest.mark.parametrize('norm,eps', [('linf', .1), ('l2', .5)])
def test_apgd_walks_the_same_way_as_theirs(digits, norm, eps):
    "From the same random point the same images: momentum, halving and going back to the best agree."
    base = pytest.importorskip('pyautoattack.autopgd_base')
    nets, x, y = digits
    model, (x, y) = nets['robust'].double(), (x[:40].double(), y[:40])
    try:
        keep = model(x).argmax(1) == y
        reference = base.APGDAttack(model, n_iter=60, norm=THEIR[norm], eps=eps, loss='ce', seed=3, device='cpu')
        start = {'linf': lambda: 2*torch.rand(x[keep].shape, generator=GEN(3)) - 1, 'l2': lambda: torch.randn(x[keep].shape, generator=GEN(3))}[norm]
        begin = start().double()
        begin = x[keep] + eps*begin/LENGTH[norm](begin.flatten(1)).view(-1, 1, 1, 1)
        torch.set_default_dtype(torch.float64)
        reference.init_hyperparam(x)
        best, _, _, fallen = reference.attack_single_run(x[keep], y[keep], x_init=begin)
        torch.set_default_dtype(torch.float32)
        ours = apgd(model, x, y, eps, norm, steps=60, generator=GEN(3), check=False)[keep]
        stands = model(ours).argmax(1) == y[keep]
        assert torch.equal(stands, model(fallen).argmax(1) == y[keep]) and 3 < int(stands.sum()) < len(stands)
        assert (ours - best)[stands].abs().max() < (1e-5 if norm == 'linf' else 2e-3) # in l2 the walk ends at points whose losses are equal to rounding
    finally: torch.set_default_dtype(torch.float32); model.float()


@pytest.mark.peer
def test_apgd_in_l1_walks_the_same_way_as_theirs(digits):
    "From the same point of a ball three times as large through the same points: sparsity, step and radius agree."
    base = pytest.importorskip('pyautoattack.autopgd_base')
    nets, x, y = digits
    model = nets['robust']
    i = (model(x).argmax(1) == y).nonzero()[:40, 0]
    x, y, eps, n = x[i], y[i], 1.5, 50
    start = L1Box.project_(x + torch.randn(x.shape, generator=GEN(3)), x, 3*eps)
    reference = base.APGDAttack(model, n_iter=n, norm='L1', eps=eps, loss='ce', seed=3, device='cpu')
    reference.init_hyperparam(x)
    theirs, phases = start, zip((3*eps, 2*eps, eps), (15, 15, 20))
    for reference.eps, reference.n_iter in phases:
        best, _, _, fallen = reference.attack_single_run(x, y, x_init=theirs + base.L1_projection(x, theirs - x, reference.eps))
        theirs = best
    climb = partial(_climb, model, x, y, y, torch.arange(len(x)), norm='l1', f=objective('ce'))
    ours, fell = _inwards(climb, x, start, (3*eps, 2*eps, eps), 'l1', n)
    assert (fell != (model(fallen).argmax(1) != y)).sum() <= 1 and 3 < int(fell.sum()) < len(x) - 3
    same = (ours - best)[~fell].flatten(1).abs().amax(1) < 1e-3
    assert same.float().mean() > .8, 'the walks part only where two derivatives are equal to rounding'


@pytest.mark.peer
@pytest.mark.parametrize('steps', [1, 3, 10, 40, 50, 75, 100, 200, 1000])
def test_checkpoints_equal_theirs(steps):
    base = pytest.importorskip('pyautoattack.autopgd_base')
    a = base.APGDAttack(None, n_iter=steps, eps=.1)
    k, counter, out = a.n_iter_2, 0, []
    for i in range(steps):
        counter += 1
        if counter == k: k, counter = max(k - a.size_decr, a.n_iter_min), out.append(i + 1) or 0
    assert checkpoints(steps) == out


@pytest.mark.peer
def test_losses_and_patterns_equal_theirs():
    base, reference = pytest.importorskip('pyautoattack.autopgd_base'), pytest.importorskip('pyautoattack.square')
    z, y = torch.randn(200, 10, generator=GEN()), torch.arange(200) % 10
    attack = base.APGDAttack_targeted(None, eps=.1)
    attack.y_target = (y + 3) % 10
    assert torch.allclose(dlr_loss(z, y), attack.dlr_loss(z, y), atol=1e-6)
    assert torch.allclose(dlr_targeted(z, y, attack.y_target), attack.dlr_loss_targeted(z, y), atol=1e-6)
    for norm, p in (('L2', 2), ('L1', 1)):
        search = reference.SquareAttack(None, norm=norm, eps=1., device='cpu', resc_schedule=False)
        for side in (3, 5, 11):
            eta, pair = search.eta(side), twin_bumps(side, p)
            assert min((eta - pair).abs().max(), (eta - pair.T).abs().max()) < 1e-6
    assert all(window_share(q) == search.p_selection(q) for q in range(10_000))


@pytest.mark.peer
@pytest.mark.parametrize('norm', ['linf', 'l2', 'l1'])
def test_projection_equals_theirs(norm):
    reference = pytest.importorskip('pyautoattack.fab_projections')
    g = GEN(1)
    x = (torch.rand(300, 60, dtype=torch.float64, generator=g)*1.6 - .3).clamp(0, 1)
    w, f = torch.randn(300, 60, dtype=torch.float64, generator=g), torch.randn(300, dtype=torch.float64, generator=g)*4
    w[:, :5] = 0
    want = getattr(reference, f'projection_{norm}')(x, w, (w*x).sum(1) - f)
    got = nearest_on_plane(x, w, f, norm)
    reach = ((w*got).sum(1) + f).abs() < 1e-9
    assert reach.sum() > 100 and torch.allclose(got[reach], want[reach], atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(norm=st.sampled_from(['linf', 'l2', 'l1']), scale=st.floats(1e-6, 1e3), seed=st.integers(0, 999))
def test_nearest_on_plane_is_exact(norm, scale, seed):
    g = GEN(seed)
    x, w = torch.rand(20, 9, dtype=torch.float64, generator=g).round(decimals=1), scale*torch.randn(20, 9, dtype=torch.float64, generator=g)
    room = torch.where(w > 0, 1 - x, x)
    f = -(w.abs()*room).sum(1)*torch.rand(20, dtype=torch.float64, generator=g)*1.2    # one in six out of reach
    d, reach = nearest_on_plane(x, w, f, norm), (w.abs()*room).sum(1) >= -f
    assert ((x + d) >= -1e-12).all() and ((x + d) <= 1 + 1e-12).all()
    assert ((w*d).sum(1) + f).abs()[reach].max() <= 1e-9*scale*9
    assert torch.allclose(d.abs()[~reach], room[~reach])
    assert torch.allclose(nearest_on_plane(x, -w, -f, norm), d, atol=1e-12), 'the plane is the same'


def by_bisection(d, x, eps):
    "The projection onto ball and box of one point, slowly: the multiplier by bisection, on numbers of 64 bits."
    cut = lambda theta: np.clip(np.sign(d)*np.maximum(np.abs(d) - theta, 0), -x, 1 - x)
    if np.abs(cut(0.)).sum() <= eps: return cut(0.)
    low, high = 0., np.abs(d).max()
    for _ in range(200):
        mid = (low + high)/2
        low, high = (mid, high) if np.abs(cut(mid)).sum() > eps else (low, mid)
    return cut(high)


@settings(max_examples=60, deadline=None)
@given(eps=st.floats(0, 20), scale=st.sampled_from([1e-3, .5, 3., 100.]), places=st.integers(0, 3), seed=st.integers(0, 999))
def test_projection_onto_ball_and_box_is_exact(eps, scale, places, seed):
    "Rounded images and changes have pixels at the wall, changes of 0, and equal corners."
    x, d = torch.rand(6, 30, dtype=torch.float64, generator=GEN(seed)).round(decimals=places), scale*torch.randn(6, 30, dtype=torch.float64, generator=GEN(seed + 1)).round(decimals=places)
    z = project_l1_box(d, x, eps)
    want = torch.stack([torch.tensor(by_bisection(a.numpy(), b.numpy(), eps)) for a, b in zip(d, x)])
    assert torch.allclose(z, want, atol=1e-9*max(1, scale))
    assert z.abs().sum(1).max() <= eps + 1e-9*max(1, scale) and (x + z).min() >= 0 and (x + z).max() <= 1


def test_projection_agrees_with_a_general_solver():
    minimize = pytest.importorskip('scipy.optimize').minimize
    x, d = torch.rand(8, 5, dtype=torch.float64, generator=GEN()), 2*torch.randn(8, 5, dtype=torch.float64, generator=GEN(1))
    for a, b, z in zip(d.numpy(), x.numpy(), project_l1_box(d, x, 1.).numpy()):
        s = np.where(a < 0, -1., 1.)   # the sign is that of the change wanted: m is the size
        room = np.where(s > 0, 1 - b, b)
        m = minimize(lambda m, s=s, a=a: ((s*m - a)**2).sum(), np.zeros(5), bounds=[(0, r) for r in room], constraints={'type': 'ineq', 'fun': lambda m: 1 - m.sum()}, options={'ftol': 1e-14}).x
        assert np.abs(s*m - z).max() < 1e-5


@settings(max_examples=15, deadline=None)
@given(norm=st.sampled_from(['linf', 'l2', 'l1']), eps=st.floats(0, 2), seed=st.integers(0, 99), which=st.sampled_from(['apgd', 'targeted', 'fab', 'square', 'all']))
def test_ball_and_box(digits, norm, eps, seed, which):
    nets, x, y = digits
    x, y = x[seed:][:7], y[seed:][:7]
    attack = {'apgd': partial(apgd, steps=6), 'targeted': partial(apgd, steps=3, loss='dlr-targeted', targets=3), 'fab': partial(fab, steps=4, targets=2),
              'square': partial(square, queries=12), 'all': partial(autoattack, version=SHORT)}[which]
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        adv = attack(nets['robust'], x, y, eps, norm=norm, generator=GEN(seed))
    d = (adv - x).flatten(1)
    assert LENGTH[norm](d).max() <= eps + 1e-5*max(eps, 1)
    assert adv.min() >= 0 and adv.max() <= 1 and adv.shape == x.shape and not adv.requires_grad
    if eps == 0: assert torch.equal(adv, x)


def test_eps_0_gives_the_clean_accuracy(digits):
    nets, x, y = digits
    table = autoattack_table(nets['plain'], x[:30], y[:30], 0., version=SHORT)
    assert (100*table.accuracy - accuracy(nets['plain'], x[:30], y[:30])).abs().max() < 1e-4


def test_stages_only_take_away(digits):
    nets, x, y = digits
    table = autoattack_table(nets['robust'], x, y, .12, version=SHORT, batch_size=64, generator=GEN())
    assert table.attack.tolist() == ['clean', *SHORT] and (table.accuracy.diff()[1:] <= 0).all()
    stands = table.stands
    assert abs(accuracy(nets['robust'], table.adversarial, y) - 100*table.accuracy.iloc[-1]) < 1e-4, 'the images must fool the network as the table says'
    assert torch.equal(stands['square'], nets['robust'](table.adversarial).argmax(1) == y)
    again = autoattack(nets['robust'], x, y, .12, version=SHORT, batch_size=64, generator=GEN())
    assert torch.equal(again, table.adversarial), 'the same seed gives the same images'


def test_stronger_is_never_weaker(digits):
    nets, x, y = digits
    model = nets['robust']
    acc = lambda attack, **k: accuracy(model, attack(model, x, y, generator=GEN(), **k), y)
    assert acc(apgd, eps=.05, steps=10) >= acc(apgd, eps=.15, steps=10) >= acc(apgd, eps=.15, steps=10, restarts=3)
    assert acc(apgd, eps=1.) == 0, 'an unbounded attack must reach 0 %'
    assert acc(square, eps=.15, queries=20) >= acc(square, eps=.15, queries=200)
    assert acc(apgd, eps=.12, steps=40) <= acc(pgd, eps=.12, steps=40) + 1.4


def test_targets_find_what_one_direction_misses(digits):
    nets, x, y = digits
    one, nine = (accuracy(nets['robust'], apgd(nets['robust'], x, y, .15, steps=20, loss='dlr-targeted', targets=t, generator=GEN()), y) for t in (1, 9))
    assert nine <= one
    several = apgd(nets['robust'], x[:20], y[:20], .15, steps=20, loss='dlr-targeted', batch_size=100, generator=GEN())
    single = apgd(nets['robust'], x[:20], y[:20], .15, steps=20, loss='dlr-targeted', generator=GEN())
    assert abs(accuracy(nets['robust'], several, y[:20]) - accuracy(nets['robust'], single, y[:20])) <= 5


def test_fab_without_radius_finds_the_boundary(digits):
    nets, x, y = digits
    x, y = x[:40], y[:40]
    for norm, size in LENGTH.items():
        adv = fab(nets['plain'], x, y, None, norm, steps=20)
        right = nets['plain'](x).argmax(1) == y
        assert (nets['plain'](adv).argmax(1) != y).all() and torch.equal(adv[~right], x[~right])
        length = size((adv - x).flatten(1))
        inside = apgd(nets['plain'], x, y, length[right].median().item(), norm, steps=50, generator=GEN())
        assert abs(accuracy(nets['plain'], inside[right], y[right]) - 50) < 12, 'half of the images must fall within the median distance'


def test_square_asks_only_for_answers(digits):
    nets, x, y = digits
    x, y = x[:30], y[:30]
    kinds = {'tensor': nets['plain'], 'detached': lambda x: nets['plain'](x).detach(), 'numpy': lambda x: nets['plain'](x).detach().numpy()}
    for norm, eps in (('l1', 5.), ('linf', .1), ('l2', 1.)):
        found = [square(m, x, y, eps, norm, queries=60, generator=GEN()) for m in kinds.values()]
        assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])
    assert accuracy(nets['plain'], found[0], y) < accuracy(nets['plain'], x, y)


def test_square_does_not_ask_twice(digits):
    "Neither for an image that stayed the same, nor for a proposal that was refused."
    nets, x, y = digits
    x, y = x[:1], y[:1]
    seen = []
    def model(v):
        seen.extend(v.clone().flatten(1).unbind())
        return nets['robust'](v)
    square(model, x, y, .01, queries=300, generator=GEN(), check=False)
    rest = {tuple(v.tolist()) for v in seen[1:]}
    assert len(seen) < 301 and len(rest) >= len(seen[1:]) - 5
    assert HALVINGS[0] == 10 and len(rest) > 30


def test_a_sample_does_not_depend_on_its_neighbours(digits):
    nets, x, y = digits
    right = (nets['robust'](x).argmax(1) == y).nonzero()[:, 0][:20]
    whole = square(nets['robust'], x[right], y[right], .1, queries=80, generator=GEN())
    fell = nets['robust'](whole).argmax(1) != y[right]
    assert fell.any() and not fell.all()
    stubborn = right[~fell]   # alone, without those that fell: only the random stripes of the start differ
    alone = square(nets['robust'], x[stubborn], y[stubborn], .1, queries=80, generator=GEN())
    assert (nets['robust'](alone).argmax(1) == y[stubborn]).float().mean() > .7


class Noisy(nn.Module):
    def __init__(self, model): super().__init__(); self.model = model
    def forward(self, x): return self.model(x + .2*torch.randn_like(x))


def test_flags(digits):
    nets, x, y = digits
    x, y = x[:60], y[:60]
    plan = {'apgd-ce': {'steps': 5}, 'apgd-dlr': {'steps': 5}, 'square': {'queries': 300}}
    rounded = lambda v: nets['plain']((v*2).round()/2)
    with pytest.warns(UserWarning, match='gradients are exactly 0'): flags = autoattack_table(lambda v: rounded(v) + 0*v.sum(), x, y, .3, version=plan, generator=GEN()).flags
    assert len(flags) == 2 and 'Square' in flags[1]
    with pytest.warns(UserWarning, match='rand'): autoattack(Noisy(nets['plain']), x, y, .05, version={'apgd-ce': {'steps': 2}})
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert autoattack_table(nets['plain'], x, y, .05, version={'apgd-ce': {}, 'apgd-dlr': {}}, generator=GEN()).flags == []
        autoattack(Noisy(nets['plain']), x[:3], y[:3], .05, version='rand')


def test_averaging_helps_against_noise(digits):
    nets, x, y = digits
    noisy = Noisy(nets['plain'])
    torch.manual_seed(0)
    once, often = (apgd(noisy, x, y, .08, steps=20, average=a, generator=GEN(), check=False) for a in (1, 8))
    over = lambda adv: sum(accuracy(noisy, adv, y) for _ in range(5))/5
    assert over(often) <= over(once) + 2


@pytest.mark.parametrize('norm', ['linf', 'l2'])
def test_a_plane_out_of_reach_costs_no_more_passes_than_one_within(norm, monkeypatch):
    "Robust networks have many: as many passes as pixels would make FAB the slowest part of AutoAttack."
    passes, gen, vecdot = [0], GEN(), torch.linalg.vecdot
    def counted(*args, **kwargs): passes[0] += 1; return vecdot(*args, **kwargs)
    x, w = torch.rand(32, 784, generator=gen), torch.randn(32, 784, generator=gen)
    w[::2] *= (torch.rand(16, 784, generator=gen) < .1)                     # mostly without gradient
    f = torch.where(torch.arange(32) % 4 == 0, 1e4, .5)*w.abs().sum(1)*.1   # every fourth out of reach
    monkeypatch.setattr(torch.linalg, 'vecdot', counted)
    d = nearest_on_plane(x, w, f, norm)
    assert passes[0] < 60
    assert (x + d).min() > -1e-6 and (x + d).max() < 1 + 1e-6


def test_few_classes(digits):
    nets, x, y = digits
    for k in (2, 3):
        model, some = (lambda v, k=k: nets['plain'](v)[:, :k]), y < k
        table = autoattack_table(model, x[some], y[some], .15, version=SHORT, generator=GEN())
        assert table.accuracy.iloc[-1] < table.accuracy.iloc[0]


@pytest.mark.parametrize('attack', [partial(apgd, steps=3), partial(fab, steps=3, targets=2), partial(square, queries=5), partial(autoattack, version=SHORT)])
def test_the_model_comes_back_as_it_was(digits, attack):
    _, x, y = digits
    x, y = x[:20], y[:20]
    x0, model = x.clone(), Disturbed(10).train()
    model.net[1].eval()
    F.cross_entropy(model(x), y).backward()
    modes, flags = [m.training for m in model.modules()], [p.requires_grad for p in model.parameters()]
    grads, state = [None if p.grad is None else p.grad.clone() for p in model.parameters()], {k: v.clone() for k, v in model.state_dict().items()}
    before = attack(model, x, y, .1, generator=GEN())
    assert [m.training for m in model.modules()] == modes and [p.requires_grad for p in model.parameters()] == flags
    assert all(a is b is None or torch.equal(a, b) for a, b in zip(grads, (p.grad for p in model.parameters())))
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items()) and torch.equal(x, x0)
    assert torch.equal(before, attack(model.eval(), x, y, .1, generator=GEN())), 'the attack must work in eval mode, whatever mode the model is in'


BAD = {
    'range': (lambda m, x, y: apgd(m, x*2 - 1, y, .1), ['[0, 1]']),
    'steps': (lambda m, x, y: apgd(m, x, y, .1, steps=0), ['steps=0']),
    'norm': (lambda m, x, y: fab(m, x, y, .1, norm='l3'), ["'l3'", 'l1']),
    'norm of all': (lambda m, x, y: autoattack(m, x, y, .1, norm='L1'), ["'L1'", 'l1']),
    'loss': (lambda m, x, y: apgd(m, x, y, .1, loss='dlr-target'), ['dlr-targeted']),
    'classes': (lambda m, x, y: apgd(lambda v: m(v)[:, :3], x, y % 3, .1, loss='dlr-targeted'), ['four', 'margin']),
    'fab restarts': (lambda m, x, y: fab(m, x, y, None, restarts=2), ['eps=None']),
    'detached': (lambda m, x, y: autoattack(lambda v: m(v).detach(), x, y, .1), ['gradient', 'black-box']),
    'queries': (lambda m, x, y: square(m, x, y, .1, queries=0), ['queries=0']),
    'share': (lambda m, x, y: square(m, x, y, .1, p=0), ['p=0']),
    'square range': (lambda m, x, y: square(m, x*255, y, .1), ['[0, 1]']),
    'square labels': (lambda m, x, y: square(m, x, y + 5, .1), ['labels 0 to 9']),
    'square probabilities': (lambda m, x, y: square(lambda v: m(v).softmax(1).detach().numpy(), x, y, .1), ['probabilities']),
    'square shape': (lambda m, x, y: square(lambda v: m(v).argmax(1), x, y, .1), ['logits']),
    'version': (lambda m, x, y: autoattack(m, x, y, .1, version='standart'), ['standard']),
    'stage': (lambda m, x, y: autoattack(m, x, y, .1, version={'apgd': {}}), ['apgd-ce']),
    'batch': (lambda m, x, y: autoattack(m, x, y, .1, batch_size=0), ['batch_size=0']),
    'probabilities': (lambda m, x, y: autoattack(nn.Sequential(m, nn.Softmax(1)), x, y, .1), ['probabilities', 'logits']),
}


@pytest.mark.parametrize('name', BAD)
def test_bad_input(digits, name):
    (nets, x, y), (call, words) = digits, BAD[name]
    with refused(words): call(nets['plain'], x[:12], y[:12])


def test_versions_have_their_stages():
    assert list(VERSIONS['standard']) == list(L1_VERSIONS['standard']) == ['apgd-ce', 'apgd-t', 'fab-t', 'square']


@pytest.mark.peer
def test_standard_in_l1_is_the_published_one(digits):
    "Five starts of APGD on cross-entropy, five targets of APGD on DLR, nine of FAB, 5000 queries."
    pyautoattack = pytest.importorskip('pyautoattack')
    nets, x, y = digits
    ours = {k: inspect.signature(f).parameters for k, f in {'apgd': apgd, 'fab': fab, 'square': square}.items()}
    theirs = pyautoattack.AutoAttack(nets['plain'], norm='L1', eps=1.)
    assert theirs.attacks_to_run == list(L1_VERSIONS['standard']) and theirs.apgd.use_largereps and ours['apgd']['shrink'].default is None
    assert L1_VERSIONS['standard']['apgd-ce']['restarts'] == theirs.apgd.n_restarts
    assert L1_VERSIONS['standard']['apgd-t']['targets'] == theirs.apgd_targeted.n_target_classes
    assert ours['fab']['targets'].default == theirs.fab.n_target_classes and ours['square']['queries'].default == theirs.square.n_queries
    assert ours['apgd']['steps'].default == theirs.apgd.n_iter == theirs.fab.n_iter == ours['fab']['steps'].default


def test_coming_inwards_finds_more(digits):
    "Croce and Hein (2021): the way through larger balls is the stronger one in l1."
    nets, x, y = digits
    still, inwards = (sum(accuracy(nets['plain'], apgd(nets['plain'], x, y, 2., 'l1', steps=60, shrink=s, generator=GEN(seed)), y) for seed in range(2)) for s in (False, None))
    assert inwards <= still


def test_on_another_device():
    with fake_cuda():
        model, x, y = small_cnn(width=4), torch.rand(6, 1, 16, 16), torch.zeros(6, dtype=torch.long)
        for norm in ('linf', 'l2', 'l1'):
            for attack in (partial(apgd, steps=3), partial(apgd, steps=2, loss='dlr-targeted', targets=2), partial(fab, steps=2, targets=1), partial(fab, steps=2, targets=0), partial(square, queries=3)):
                assert attack(model, x, y, .1, norm=norm).device.type == 'cuda'
            assert autoattack(model, x, y, .1, norm, SHORT | {'square': {'queries': 2}}).device.type == 'cuda'
