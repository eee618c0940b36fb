"Distances between sets of features against peers and by hand, the count of modes, and bad input."
import math
from functools import partial

import pytest
import torch

from helpers import sentence
from visft_nb.generate import (ModeCount, count_labels, count_modes, frechet_distance, grid, kid, precision_recall, ring)


def two(n=300, m=200, d=5, seed=0):
    g = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, dtype=torch.float64, generator=g)
    return torch.randn(n, d, dtype=torch.float64, generator=g), torch.randn(m, d, dtype=torch.float64, generator=g) @ mix + .7


def test_frechet_is_scipys():
    from scipy.linalg import sqrtm
    a, b = two()
    ca, cb = a.T.cov().numpy(), b.T.cov().numpy()
    ours = float((a.mean(0) - b.mean(0)).square().sum()) + (ca + cb - 2*sqrtm(ca @ cb).real).trace()
    assert math.isclose(frechet_distance(a, b), ours, rel_tol=1e-9) and math.isclose(frechet_distance(b, a), ours, rel_tol=1e-9)
    assert frechet_distance(a, a) < 1e-10 and math.isclose(frechet_distance(a, a + 3), 45, rel_tol=1e-9)
    assert math.isclose(frechet_distance(a.float().tolist(), b.float()), ours, rel_tol=1e-4), 'lists and float32'


def test_frechet_of_one_feature_is_by_hand():
    a, b = (v[:, :1] for v in two())
    assert math.isclose(frechet_distance(a, b), float((a.mean() - b.mean())**2 + (a.std() - b.std())**2), rel_tol=1e-9)


def test_frechet_of_a_constant_generator():
    a, _ = two()
    spread = float(a.T.cov().trace())
    assert math.isclose(frechet_distance(a, a.mean(0).expand(10, 5)), spread, rel_tol=1e-9)


@pytest.mark.peer
def test_frechet_and_kid_are_torchmetrics():
    fid = pytest.importorskip('torchmetrics.image.fid')
    import torchmetrics.image.kid as theirs
    a, b = two()
    known = fid._compute_fid(a.mean(0), a.T.cov(), b.mean(0), b.T.cov())
    assert math.isclose(frechet_distance(a, b), float(known), rel_tol=1e-6)
    a = a[:200]
    assert math.isclose(kid(a, b), float(theirs.poly_mmd(a, b)), rel_tol=1e-9)


def test_kid_by_hand_and_without_bias():
    a, b = two(6, 4, 2)
    k = lambda x, y: float(x @ y/2 + 1)**3
    pairs = lambda x: sum(k(x[i], x[j]) for i in range(len(x)) for j in range(len(x)) if i != j)/(len(x)*(len(x) - 1))
    across = sum(k(x, y) for x in a for y in b)/24
    assert math.isclose(kid(a, b), pairs(a) + pairs(b) - 2*across, rel_tol=1e-9)
    g = torch.Generator().manual_seed(0)
    many = torch.tensor([kid(*torch.randn(2, 20, 4, generator=g)) for _ in range(2000)])
    assert abs(many.mean()) < 4*many.std()/2000**.5 and (many < 0).any(), 'draws of one distribution: 0 in the mean'


def test_kid_in_blocks():
    a, b = two(2500, 1200, 3)
    gram = lambda x, y: (x @ y.T/3 + 1)**3
    off = lambda x: (gram(x, x).sum() - gram(x, x).diagonal().sum())/(len(x)*(len(x) - 1))
    assert math.isclose(kid(a, b), float(off(a) + off(b) - 2*gram(a, b).mean()), rel_tol=1e-9)


def test_precision_and_recall_by_hand():
    line = lambda *v: torch.tensor(v, dtype=torch.float64)[:, None]
    real, fake = line(0, 1, 2, 3), line(0, .5, 10, 10.4)
    assert precision_recall(real, fake, k=1) == (.5, .5), 'two of four each way: 0 and 1 lie within 0.5 of 0.5'
    assert precision_recall(real, real) == (1., 1.) and precision_recall(real, real + 100) == (0., 0.)


def test_precision_and_recall_tell_what_is_wrong():
    g = torch.Generator().manual_seed(0)
    real = torch.cat([torch.randn(400, 2, generator=g), torch.randn(400, 2, generator=g) + 20])
    half = torch.randn(800, 2, generator=g)
    p, r = precision_recall(real, half)
    assert p > .95 and .4 < r < .55, 'a dropped half is lost recall'
    wide = torch.cat([half[:400], torch.randn(400, 2, generator=g)*3 + 20])
    assert precision_recall(real, wide)[0] < .8, 'what lies outside is lost precision'


def test_bad_features():
    a, b = two()
    sentence(lambda: frechet_distance(a, b[:5]), 'fake', '5 samples of 5 features', 'at least 6')
    sentence(lambda: frechet_distance(a[:3], b), 'real', '3 samples')
    assert frechet_distance(a[:6], b[:6]) > 0
    for measure in (frechet_distance, kid, precision_recall):
        sentence(partial(measure, a, b[:, :4]), '5 features and fake 4', 'same layer')
        sentence(partial(measure, a, torch.zeros(9, 1, 8, 8)), '(9, 1, 8, 8)', 'features')
        sentence(partial(measure, a, b/0), 'NaN')
        sentence(partial(measure, 'a', b), 'numbers')
        sentence(partial(measure, a[:0], b), 'real')
    sentence(lambda: kid(a[:1], b), 'at least two')
    sentence(lambda: kid(a, b, 0), 'degree=0')
    sentence(lambda: precision_recall(a[:3], b), '3 real', 'more than k=3')
    sentence(lambda: precision_recall(a, b, k=0), 'k=0')


def test_modes_are_pacgans():
    m = ring()
    x = torch.cat([m.means[:3] + .029, m.means[4:5] + torch.tensor([.031, 0])])
    x = torch.cat([m.means[:3] + torch.tensor([.029, 0]), x[3:]])
    found = count_modes(x, m.means, m.sigma)
    assert found.modes == 3 and found.total == 8 and found.quality == .75 and found.counts == (1, 1, 1, 0, 0, 0, 0, 0)
    assert math.isclose(found.reverse_kl, math.log(2)), 'four nearest modes of eight, the bad sample too'
    assert count_modes(x, m.means, m.sigma, least=2).modes == 0
    assert count_modes(x, m.means, m.sigma, within=3.2).modes == 4


def test_mixture_draws_all_and_knows_its_density():
    for m, n in ((ring(), 8), (grid(), 25)):
        found = count_modes(m.sample(2500, torch.Generator().manual_seed(1)), m.means, m.sigma)
        assert found.modes == n == len(m) and .98 < found.quality < .995 and found.reverse_kl < .02
    x = torch.linspace(-3, 3, 600, dtype=torch.float64)
    area = ring(3, sigma=.3).log_prob(torch.cartesian_prod(x, x)).exp().sum()*(x[1] - x[0])**2
    assert math.isclose(area, 1, rel_tol=1e-3)
    assert torch.equal(*(grid().sample(10, torch.Generator().manual_seed(3)) for _ in range(2)))


def test_labels():
    found = count_labels(torch.tensor([[1, 2, 3], [1, 2, 3], [9, 9, 9]]))
    assert isinstance(found, ModeCount) and found.modes == 2 and found.counts[123] == 2 and found.counts[999] == 1
    p = torch.tensor([2/3, 1/3], dtype=torch.float64)
    assert math.isclose(found.reverse_kl, float((p*(p*1000).log()).sum()))
    assert count_labels(torch.arange(5).repeat(2), 5, least=2).modes == 5 and '5 of 5' in str(count_labels(torch.arange(5), 5))


def test_bad_counts():
    m = ring()
    sentence(lambda: count_modes(torch.zeros(4, 3), m.means, .1), '(4, 3)', '(8, 2)')
    sentence(lambda: count_modes(torch.full((4, 2), torch.nan), m.means, .1), '4 of 4', 'NaN')
    sentence(lambda: count_modes(torch.zeros(0, 2), m.means, .1), '0 samples')
    for word, wrong in dict(sigma=dict(sigma=0), least=dict(sigma=.1, least=0), within=dict(sigma=.1, within=-1)).items():
        sentence(partial(count_modes, torch.zeros(4, 2), m.means, **wrong), word)
    sentence(lambda: count_labels(torch.tensor([3, 5]), 5), '0 to 4')
    sentence(lambda: count_labels(torch.tensor([[3, 10]])), '0 to 9')
    sentence(lambda: count_labels(torch.rand(4)), 'float32')
    for make in (lambda: ring(0), lambda: ring(sigma=0), lambda: grid(side=.5), lambda: grid(step=-1), lambda: m.sample(0)): sentence(make, 'expected')
