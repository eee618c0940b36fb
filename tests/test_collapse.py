"Barlow Twins and VICReg: against the peer, by loops, what each term forbids, collapse in a training, bad input."
import math

import pytest
import torch
from torch import nn

from fake_cuda import fake_cuda
from helpers import fake_step, refused
from visft_nb.cnn.models import small_cnn
from visft_nb.data import Augment, Images
from visft_nb.pretrain import (BarlowTwinsLoss, VICRegLoss, WatchCollapse, contrastive_step, effective_rank, embedding_std, make_projector, pretrain_contrast,
                               project, spectrum)
from visft_nb.pretrain.collapse import covariance, cross_correlation, standardise

pytestmark = pytest.mark.filterwarnings('ignore')


def pair(n, d, dtype=torch.float64, seed=0):
    "Projections of two views: alike, of unequal scales, away from zero."
    z = torch.randn(2, n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    z = torch.stack([z[0], z[0] + .5*z[1]])*torch.linspace(.1, 3, d, dtype=torch.float64) + 1
    return z.to(dtype).requires_grad_()


PEERS = {'barlow': (BarlowTwinsLoss, 'BarlowTwinsLoss', {}, {}), 'vicreg': (VICRegLoss, 'VICRegLoss', {}, {}),
         'barlow weighted': (BarlowTwinsLoss, 'BarlowTwinsLoss', dict(off_diagonal=.1), dict(lambda_param=.1)),
         'vicreg weighted': (VICRegLoss, 'VICRegLoss', dict(invariance=3., variance=7., covariance=.5), dict(lambda_param=3., mu_param=7., nu_param=.5))}


@pytest.mark.peer
@pytest.mark.parametrize('dtype', [torch.float64, torch.float32])
@pytest.mark.parametrize('n,d', [(2, 3), (33, 5), (64, 128)])
@pytest.mark.parametrize('name', PEERS)
def test_loss_equals_lightly(name, n, d, dtype):
    theirs = pytest.importorskip('lightly.loss')
    ours, peer, mine, other = PEERS[name]
    z = pair(n, d, dtype, seed=n)
    a, b = ours(**mine)(*z), getattr(theirs, peer)(**other)(*z)
    assert a.dtype == dtype and abs(a - b) <= 1e-6*abs(b)
    if n == 2 and dtype == torch.float32: return   # two images: standardised they are -1 and 1, and the gradient is rounding
    ga, gb = (torch.autograd.grad(v, z)[0] for v in (a, b))
    assert (ga - gb).abs().max() <= (1e-9 if dtype == torch.float64 else 1e-4)*gb.abs().max()


def test_losses_equal_loops():
    a, b = pair(6, 3).detach()
    N, D = a.shape
    mean = lambda z, d: sum(z[i, d].item() for i in range(N))/N
    dot = lambda x, d, y, e: sum((x[i, d].item() - mean(x, d))*(y[i, e].item() - mean(y, e)) for i in range(N))
    C = [[dot(a, d, b, e)/N/math.sqrt((dot(a, d, a, d)/N + 1e-5)*(dot(b, e, b, e)/N + 1e-5)) for e in range(D)] for d in range(D)]
    pairs = [(d, e) for d in range(D) for e in range(D) if d != e]
    terms = BarlowTwinsLoss().terms(a, b)
    assert math.isclose(terms['on_diagonal'], sum((1 - C[d][d])**2 for d in range(D)), rel_tol=1e-10)
    assert math.isclose(terms['off_diagonal'], sum(C[d][e]**2 for d, e in pairs), rel_tol=1e-10)
    terms = VICRegLoss().terms(a, b)
    assert math.isclose(terms['invariance'], sum((a[i, d] - b[i, d]).item()**2 for i in range(N) for d in range(D))/N/D, rel_tol=1e-10)
    hinge = sum(max(0, 1 - math.sqrt(dot(z, d, z, d)/(N - 1) + 1e-4)) for z in (a, b) for d in range(D))/D/2
    assert hinge > 0 and math.isclose(terms['variance'], hinge, rel_tol=1e-10)
    assert math.isclose(terms['covariance'], sum((dot(z, d, z, e)/(N - 1))**2 for z in (a, b) for d, e in pairs)/D, rel_tol=1e-10)


def test_gradients_equal_differences():
    for loss in (BarlowTwinsLoss(), VICRegLoss()): assert torch.autograd.gradcheck(loss, tuple(pair(7, 4).detach().requires_grad_()))


def test_barlow_divides_by_n_and_ignores_scale_and_shift():
    a, b = pair(40, 6).detach()
    z = standardise(a, eps=0)
    assert torch.allclose(z.mean(0), torch.zeros(6, dtype=a.dtype), atol=1e-12) and torch.allclose(z.var(0, correction=0), torch.ones(6, dtype=a.dtype))
    assert torch.allclose(cross_correlation(a, a, eps=0).diagonal(), torch.ones(6, dtype=a.dtype))
    assert torch.allclose(cross_correlation(a, b, eps=0), cross_correlation(3*a + 2, .1*b - 1, eps=0))
    assert torch.allclose(covariance(a), torch.cov(a.T))


@pytest.mark.parametrize('name', ['invariance', 'variance', 'covariance', 'on_diagonal', 'off_diagonal'])
def test_a_weight_of_zero_removes_its_term_and_no_other(name):
    kind = VICRegLoss if name in ('invariance', 'variance', 'covariance') else BarlowTwinsLoss
    z, whole = pair(20, 5).detach(), kind()
    left = sum(w*whole.terms(*z)[k] for k, w in whole.weights.items() if k != name)
    assert torch.isclose(kind(**{name: 0})(*z), left, rtol=1e-12) and not torch.isclose(whole(*z), left, rtol=1e-6)


def test_what_each_term_forbids():
    constant, line = torch.ones(32, 8), 3*torch.randn(32, 1, generator=torch.Generator().manual_seed(0)).expand(32, 8)
    assert VICRegLoss(variance=0)(constant, constant) == 0 and math.isclose(VICRegLoss()(constant, constant), 25*(1 - .01), rel_tol=1e-5)
    assert VICRegLoss(covariance=0)(line, line) == 0 and VICRegLoss()(line, line) > 1
    assert BarlowTwinsLoss(off_diagonal=0)(line, line) < 1e-6 and math.isclose(BarlowTwinsLoss()(line, line), .005*8*7, rel_tol=1e-3)


def test_a_constant_dimension_gives_finite_gradients():
    for loss in (BarlowTwinsLoss(), VICRegLoss()):
        z = torch.cat([pair(16, 3, torch.float32).detach(), torch.ones(2, 16, 1)], 2).requires_grad_()
        loss(*z).backward()
        assert z.grad.isfinite().all()


@pytest.mark.parametrize('loss', [BarlowTwinsLoss(), VICRegLoss()])
def test_bf16_changes_the_input_only(loss):
    z = pair(64, 16, torch.bfloat16).detach()
    with torch.autocast('cpu', torch.bfloat16): value = loss(*z)
    assert value.dtype == torch.float32 and torch.isclose(value, loss(*z.float()), rtol=1e-6)


def test_spread_and_rank_of_known_clouds():
    g = torch.Generator().manual_seed(0)
    q = torch.linalg.qr(torch.randn(6, 6, generator=g)).Q
    z = torch.randn(4000, 6, generator=g)
    assert effective_rank(z) > 5.9 and abs(effective_rank(z) - effective_rank(7*z @ q + 3)) < .01
    assert abs(effective_rank(z[:, :1] @ q[:1]) - 1) < 1e-3 and effective_rank(torch.ones(9, 4)) == 0 == embedding_std(torch.ones(9, 4))
    values = spectrum(z*torch.tensor([3., 1, 1, 1, 1, 1]) @ q)
    assert (values.diff() <= 0).all() and abs(values[0] - 9) < .7 and math.isclose(values.sum(), z.mul(torch.tensor([3., 1, 1, 1, 1, 1])).var(0).sum(), rel_tol=1e-4)
    assert math.isclose(embedding_std(2*z), 2*embedding_std(z), rel_tol=1e-5) and effective_rank(torch.randn(5, 1)) == 1


def images(n=120, classes=6):
    g = torch.Generator().manual_seed(0)
    x, y = torch.randint(0, 60, (n, 1, 16, 16), generator=g, dtype=torch.uint8), torch.arange(n) % classes
    for i in range(n): x[i, :, 2*int(y[i]):2*int(y[i]) + 2] += 150
    return Images(x, y, tuple(map(str, range(classes))))


def trained(loss, epochs=30):
    torch.manual_seed(0)
    model = small_cnn(6, width=4)
    projector = make_projector(model.dim, 16)
    history = pretrain_contrast(model, images(), epochs, 40, augment=Augment(noise=.1), loss=loss, projector=projector, bar=False, precision='fp32')
    return model, projector, history


def test_collapse_happens_and_is_prevented():
    def end(loss): z = project(*trained(loss)[:2], images()); return embedding_std(z), effective_rank(z)
    whole, point, line = (end(VICRegLoss(**off)) for off in ({}, dict(variance=0), dict(covariance=0)))
    assert point[0] < .1 < .4 < whole[0], 'without variance term: a point'
    assert line[1] < whole[1] - .5 and line[0] > .4, 'without covariance term: fewer directions, but no point'
    assert end(BarlowTwinsLoss(off_diagonal=0))[1] < end(BarlowTwinsLoss(off_diagonal=.05))[1] - .7


def test_watching_changes_nothing():
    watch = WatchCollapse(VICRegLoss(), every=4)
    model, projector, history = trained(watch, 3)
    other, _, again = trained(VICRegLoss(), 3)
    assert history.steps == again.steps and all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values()))
    assert watch.steps == [0, 4, 8] and len(watch.std) == len(watch.rank) == 3 and min(watch.std) > 0 and 1 <= min(watch.rank) <= 16


def test_projecting_leaves_the_networks_as_they_were():
    model, projector = small_cnn(6, width=4), make_projector(16, 8, 12, norm=True)
    state = {k: v.clone() for m in (model, projector) for k, v in m.state_dict(prefix=type(m).__name__).items()}
    z = project(model, projector, images())
    assert z.shape == (120, 8) and not z.requires_grad and model.training and projector.training
    assert all(torch.equal(v, state[k]) for m in (model, projector) for k, v in m.state_dict(prefix=type(m).__name__).items())


Z = torch.rand(4, 3)
BAD = {
    'one image, barlow': (lambda: BarlowTwinsLoss()(Z[:1], Z[:1]), ['one image', 'larger batch']),
    'one image, vicreg': (lambda: VICRegLoss()(Z[:1], Z[:1]), ['one image', 'larger batch']),
    'shapes': (lambda: VICRegLoss()(Z, Z[:3]), ['(4, 3)', '(3, 3)']),
    'no matrix': (lambda: BarlowTwinsLoss()(Z[0], Z[0]), ['(3,)', '(N, D)']),
    'negative weight': (lambda: VICRegLoss(variance=-1), ['variance=-1', 'from 0 up']),
    'nan weight': (lambda: BarlowTwinsLoss(off_diagonal=math.nan), ['off_diagonal=nan']),
    'nothing left': (lambda: BarlowTwinsLoss(0, 0), ['All weights are 0', 'on_diagonal']),
    'one vector': (lambda: embedding_std(Z[:1]), ['(1, 3)', 'at least 2']),
    'spectrum': (lambda: effective_rank(Z[0]), ['(3,)', 'at least 2']),
    'every': (lambda: WatchCollapse(VICRegLoss(), 0), ['every=0']),
    'one to learn from': (lambda: pretrain_contrast(small_cnn(), images(1), 1, loss=VICRegLoss()), ['at least 2']),
    'nan': (lambda: pretrain_contrast(small_cnn(width=4), images(), 3, 20, lr=1e30, loss=VICRegLoss(), bar=False), ['step', 'lower the rate']),
}


@pytest.mark.parametrize('name', BAD)
def test_bad_input(name):
    call, words = BAD[name]
    with refused(words): call()


@pytest.mark.parametrize('loss', [BarlowTwinsLoss(), VICRegLoss(), WatchCollapse(VICRegLoss())])
def test_on_another_device(loss):
    with fake_cuda():
        with torch.autocast('cuda', torch.bfloat16): fake_step(small_cnn(width=4), (torch.rand(6, 1, 16, 16), None), contrastive_step(loss, projector=nn.Linear(16, 8)))
