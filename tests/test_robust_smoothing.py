"Smoothing: the certificate is true, tight where it can be, honest about its votes, and a sentence for what cannot be voted on."
import math

import pytest
import torch
from hypothesis import given, settings, strategies as st
from scipy.stats import beta, binom, binomtest, norm
from torch import nn

from fake_cuda import fake_cuda
from helpers import fake_step, refused
from visft_nb.cnn.models import small_cnn
from visft_nb.data import Batches, Images
from visft_nb.robust import certify, pgd, smooth_predict
from visft_nb.robust.smoothing import GaussianNoise, Smoothed, certified_accuracy, certified_radius, clopper_pearson, noisy_counts
from visft_nb.train import fit


def gen(seed=0): return torch.Generator().manual_seed(seed)


@pytest.fixture(scope='module')
def plane():
    "A linear classifier of two classes, points, and their exact distance to the plane between these."
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Flatten(), nn.Linear(16, 2)).double().float(), torch.rand(60, 1, 4, 4)
    with torch.no_grad():
        w = model[1].weight[1] - model[1].weight[0]
        model[1].bias.zero_(); model[1].bias[0] = (x.flatten(1) @ w).median()
        z = model(x)
        return model, x, z.argmax(1), (z[:, 1] - z[:, 0]).abs()/w.norm()


@pytest.fixture(scope='module')
def bars():
    "A network trained with noise on bars at four places."
    torch.manual_seed(0)
    y = torch.arange(160) % 4
    x = .3*torch.rand(160, 1, 16, 16)
    for i in range(4): x[y == i, :, 4*i:4*i + 4] += .5
    model = small_cnn(4, width=8)
    fit(model, Batches(Images((x*255).round().to(torch.uint8), y, tuple('abcd')), 32, transform=GaussianNoise(.4)), epochs=8, lr=5e-3, bar=False, precision='fp32')
    return model.eval(), x, y


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 5000), share=st.floats(0, 1), alpha=st.sampled_from([.05, .001, 1e-5]))
def test_clopper_pearson_equals_scipy(n, share, alpha):
    k = round(n*share)
    low = clopper_pearson(k, n, alpha).item()
    theirs = binomtest(k, n, alternative='greater').proportion_ci(1 - alpha, 'exact').low
    assert math.isclose(low, theirs, rel_tol=1e-8, abs_tol=1e-12)
    if k: assert math.isclose(low, beta.ppf(alpha, k, n - k + 1), rel_tol=1e-8) and math.isclose(binom.sf(k - 1, n, low), alpha, rel_tol=1e-6)


def test_the_bound_holds_as_often_as_it_says():
    "Over all outcomes, weighted by their probability: above the truth with probability at most alpha, and not much less where n is large."
    for n, p, alpha in ((20, .7, .05), (200, .9, .01), (1000, .97, .001)):
        k = torch.arange(n + 1)
        wrong = binom.pmf(k.numpy(), n, p)[(clopper_pearson(k, n, alpha) > p).numpy()].sum()
        assert wrong <= alpha and wrong > alpha/10


@pytest.mark.peer
def test_certificates_equal_art(plane):
    "ART takes its bound from statsmodels; SciPy's takes that place here. Both draw their own noise, so radii differ by chance alone."
    art = pytest.importorskip('art.estimators.certification.randomized_smoothing')
    model, x, side, distance = plane
    theirs = art.PyTorchRandomizedSmoothing(model=model, loss=nn.CrossEntropyLoss(), input_shape=(1, 4, 4), nb_classes=2, clip_values=(0, 1), sample_size=100, scale=.3, alpha=.001)
    theirs._lower_confidence_bound = lambda k, n: binomtest(int(k), int(n), alternative="greater").proportion_ci(.999, 'exact').low
    some = distance > .1    # on the plane the chosen class is a coin's
    classes, radii = (torch.as_tensor(v) for v in theirs.certify(x[some].numpy(), n=1000))
    ours, r = certify(model, x[some], .3, n=1000, alpha=.001, generator=gen())
    assert torch.equal(ours, classes.long()) and (radii - r).abs().max() < .12 and (radii - r).mean().abs() < .015


@settings(max_examples=60, deadline=None)
@given(p=st.floats(.5, .9999), share=st.floats(0, 1), sigma=st.floats(.05, 2))
def test_radius_is_the_formula(p, share, sigma):
    q = min((1 - p)*share + 1e-9, 1 - p)   # never above what p leaves
    assert math.isclose(certified_radius(p, sigma).item(), sigma*norm.ppf(p), rel_tol=1e-9, abs_tol=1e-9)
    R = certified_radius(p, sigma, q).item()
    assert math.isclose(R, sigma/2*(norm.ppf(p) - norm.ppf(q)), rel_tol=1e-9, abs_tol=1e-9) and R >= certified_radius(p, sigma).item() - 1e-6
    assert certified_radius(1 - p, sigma).item() == 0 or p == .5


def test_radius_of_a_plane_comes_up_to_the_distance_from_below(plane):
    model, x, side, distance = plane
    short = []
    for n in (200, 3000, 30000):
        classes, radii = certify(model, x, .3, n0=100, n=n, generator=gen(n), batch_size=100_000)
        sure, cap = classes >= 0, .3*norm.ppf(.001**(1/n))
        assert (classes[sure] == side[sure]).all() and (radii[~sure] == 0).all()
        assert (radii > distance + 1e-5).sum() <= 1, 'alpha .001, sixty points: one beyond the truth is luck, two are an error'
        assert radii.max() <= cap + 1e-5
        near = sure & (distance < .9*cap)
        short.append((distance - radii)[near].mean().item())
    assert short[0] > short[1] > short[2] and short[2] < .02


def test_no_attack_within_the_radius_changes_the_answer(bars):
    model, x, y = bars
    x, y = x[:24], y[:24]
    classes, radii = certify(model, x, .4, n=2000, generator=gen(1))
    assert (classes == y).float().mean() > .9 and radii.max() > .5, 'nothing was certified: the test would be empty'
    target, changed, beyond = Smoothed(model, .4, 16, gen(2)), 0, 0
    for i in range(len(x)):
        if classes[i] < 0: continue
        one, label = x[i:i + 1], classes[i:i + 1]
        adv = pgd(target, one, label, radii[i].item(), norm='l2', steps=15, drop=False, generator=gen(3), check=False)
        changed += (smooth_predict(model, adv, .4, 500, generator=gen(4)) != label).item() and (noisy_counts(model, adv, .4, 2000, generator=gen(5)).argmax(1) != label).item()
        adv = pgd(target, one, label, 6., norm='l2', steps=15, drop=False, generator=gen(3), check=False)
        beyond += (noisy_counts(model, adv, .4, 300, generator=gen(5)).argmax(1) != label).item()
    assert changed == 0
    assert beyond > 12, 'far outside the radius the same attack should win: else it proves nothing'


def test_votes_do_not_depend_on_the_batches_and_add_up(bars):
    model, x, y = bars
    counts = noisy_counts(model, x[:7], .4, 50, generator=gen())
    assert counts.shape == (7, 4) and (counts.sum(1) == 50).all()
    by_one = noisy_counts(model, x[:7], .4, 50, batch_size=50, generator=gen())
    assert (counts - by_one).abs().sum() < 10, 'the same noise drawn in other batches'
    assert torch.equal(counts, noisy_counts(model, x[:7], .4, 50, generator=gen()))


def test_noise_is_gaussian_and_not_cut():
    seen = []
    class Watch(nn.Module):
        def forward(self, x): seen.append(x.clone()); return torch.zeros(len(x), 3)
    noisy_counts(Watch(), torch.full((2, 1, 8, 8), .5), .7, 500, generator=gen())
    v = torch.cat(seen) - .5
    assert v.min() < -1.5 and v.max() > 1.5 and abs(v.mean()) < .01 and abs(v.std() - .7) < .01
    assert abs(GaussianNoise(.7)(torch.full((200, 1, 8, 8), .5), gen()).std() - .7) < .02
    assert torch.equal(GaussianNoise(.1, lambda x, g: x*0)(torch.ones(2, 1, 2, 2), gen()), .1*torch.randn(2, 1, 2, 2, generator=gen()))


def coin(share):
    "Answers 0 for about `share` of the noisy copies."
    class Coin(nn.Module):
        def forward(self, x): return torch.stack([(x.mean((1, 2, 3)) < norm.ppf(share)).float(), torch.full((len(x),), .5)], 1)
    return Coin()


def test_abstains_where_the_vote_is_split():
    x = torch.zeros(300, 1, 1, 1)
    assert (smooth_predict(coin(.5), x, 1., n=100, alpha=.001, generator=gen()) >= 0).float().mean() < .01
    assert (smooth_predict(coin(.9), x, 1., n=100, alpha=.001, generator=gen()) == 0).all()
    classes, radii = certify(coin(.5), x, 1., generator=gen())
    assert (classes >= 0).float().mean() < .01 and radii.max() < .2
    # scipy's test, vote by vote
    counts = noisy_counts(coin(.65), x, 1., 100, generator=gen())
    ours = smooth_predict(coin(.65), x, 1., 100, alpha=.01, generator=gen())
    for c, k in zip(counts, ours): assert (binomtest(int(c.max()), 100, .5).pvalue <= .01) == (k >= 0)


def test_false_certificates_are_as_rare_as_promised():
    "A known probability: the certified radius lies beyond the true one at most for a share alpha of the images."
    x, truth = torch.zeros(4000, 1, 1, 1), norm.ppf(.8)
    _, radii = certify(coin(.8), x, 1., n0=20, n=60, alpha=.05, generator=gen())
    assert .01 < (radii > truth).float().mean() < .06


def test_smoothed_is_the_mean_of_probabilities(bars):
    model, x, _ = bars
    z = Smoothed(model, .4, 8, gen())(x[:5])
    many = x[:5].repeat(8, 1, 1, 1)
    p = model(many + .4*torch.randn(many.shape, generator=gen())).softmax(1).view(8, 5, 4).mean(0)
    assert torch.allclose(z.exp(), p, atol=1e-5)


def test_certified_accuracy_counts():
    c, r, y = torch.tensor([0, 1, -1, 2]), torch.tensor([.5, .1, 0., .9]), torch.tensor([0, 1, 1, 0])
    assert certified_accuracy(c, r, y, [0, .1, .2, 1]) == [.5, .5, .25, 0]


@pytest.mark.parametrize('f', [smooth_predict, certify])
def test_the_model_comes_back_as_it_was(f):
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(.5), nn.Flatten(), nn.Linear(4*36, 3)).train()
    model[1].eval(); model[0].weight.requires_grad_(False)
    modes, flags = [m.training for m in model.modules()], [p.requires_grad for p in model.parameters()]
    state, x = {k: v.clone() for k, v in model.state_dict().items()}, torch.rand(3, 1, 8, 8)
    first = f(model, x, .2, n=20, generator=gen())
    assert [m.training for m in model.modules()] == modes and [p.requires_grad for p in model.parameters()] == flags
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items()) and all(p.grad is None for p in model.parameters())
    second = f(model.eval(), x, .2, n=20, generator=gen())
    for a, b in zip(first if f is certify else [first], second if f is certify else [second]): assert torch.equal(a, b)


BAD = [
    (lambda m, x: smooth_predict(m, x*255, .5), ['255', 'sigma', 'normalisation']),
    (lambda m, x: smooth_predict(m, (x*255).byte(), .5), ['uint8', 'divide']),
    (lambda m, x: smooth_predict(m, x[0], .5), ['x[None]']),
    (lambda m, x: smooth_predict(m, x[:0], .5), ['at least 1']),
    (lambda m, x: smooth_predict(m, x*float('nan'), .5), ['nan']),
    (lambda m, x: smooth_predict(m, x, 0), ['sigma=0', 'above 0']),
    (lambda m, x: smooth_predict(m, x, .5, n=0), ['n=0', 'votes']),
    (lambda m, x: smooth_predict(m, x, .5, alpha=5), ['alpha=5', '0.001']),
    (lambda m, x: certify(m, x, .5, n0=1.5), ['n0=1.5']),
    (lambda m, x: certify(m, x, -1.), ['sigma=-1']),
    (lambda m, x: certify(lambda x: m(x)*float('nan'), x, .5, n=5), ['NaN', 'diverged']),
    (lambda m, x: certify(lambda x: m(x)[:, :1], x, .5, n=5), ['two classes']),
    (lambda m, x: certify(lambda x: x, x, .5, n=5), ['(', 'classes']),
    (lambda m, x: clopper_pearson(7, 5, .01), ['7', 'n=5']),
    (lambda m, x: certified_accuracy(torch.zeros(2), torch.zeros(3), torch.zeros(3), [0]), ['2 classes', '3 radii']),
]

@pytest.mark.parametrize('call,words', BAD)
def test_bad_input(call, words):
    torch.manual_seed(0)
    with refused(words): call(small_cnn(3, width=4).eval(), torch.rand(4, 1, 16, 16))


def test_models_without_gradients_and_probabilities_are_welcome(bars):
    model, x, y = bars
    black = lambda x: model(x).softmax(1).detach()
    assert torch.equal(smooth_predict(black, x[:8], .4, generator=gen()), smooth_predict(model, x[:8], .4, generator=gen()))


def test_on_another_device():
    with fake_cuda():
        model, x = small_cnn(4, width=4), torch.rand(6, 1, 16, 16)
        assert noisy_counts(model, x, .5, 10, batch_size=16).device.type == 'cuda'
        assert Smoothed(model, .5, 4)(x).device.type == 'cuda'
        pgd(Smoothed(model, .5, 4), x, torch.zeros(6, dtype=torch.int64), 1., norm='l2', steps=2, drop=False, check=False)
        fake_step(model, (x, torch.zeros(6, dtype=torch.int64)), lambda m, b: nn.functional.cross_entropy(m(GaussianNoise(.5)(b[0])), b[1]))
