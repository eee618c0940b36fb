"Smallest changes: as short as the peers' or shorter, exact where the answer is known, and told apart from failures."
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn

from fake_cuda import fake_cuda
from helpers import refused
from nets import learned_bars
from visft_nb.cnn.models import small_cnn
from visft_nb.robust import accuracy_curve, carlini_wagner, deepfool, pgd, smallest_changes


@pytest.fixture(scope='module')
def setup():
    "A network that has learned a little; the last two labels are wrong on purpose."
    model, x, y = learned_bars(24, 60)
    y = y.clone(); y[-2:] = (y[-2:] + 1) % 4
    with torch.no_grad(): assert (model(x).argmax(1) == y).sum() >= 20
    return model, x, y


class Planes(nn.Module):
    "A linear network on images of four by five pixels, whose distances are known."
    def __init__(self, seed=0, classes=4):
        super().__init__()
        gen = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(classes, 20, dtype=torch.float64, generator=gen))

    def forward(self, x): return x.flatten(1) @ self.weight.T

    def exact(self, x, y, q):
        with torch.no_grad():
            z, w = self(x), self.weight
            gap = (z.gather(1, y[:, None]) - z)/(w[y][:, None] - w[None]).norm(p=q, dim=2).clamp(min=1e-12)
            return gap.scatter(1, y[:, None], math.inf).amin(1)


def grey(n=20, seed=0): return .45 + .1*torch.rand(n, 1, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def right(model, x, y):
    with torch.no_grad(): return model(x).argmax(1) == y


def lengths(model, x, adv, y): return smallest_changes(model, x, adv, y)[right(model, x, y)]


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 99), norm=st.sampled_from(['l2', 'linf']), overshoot=st.sampled_from([0., .02, .1]), classes=st.integers(2, 6))
def test_deepfool_is_exact_on_planes(seed, norm, overshoot, classes):
    model, x = Planes(seed, classes), grey(seed=seed)
    y = model(x).argmax(1)
    adv = deepfool(model, x, y, steps=3, overshoot=overshoot, norm=norm)
    d = (adv - x).flatten(1).norm(p={'l2': 2, 'linf': math.inf}[norm], dim=1)
    exact = model.exact(x, y, {'l2': 2, 'linf': 1}[norm])
    near = exact < .35                                       # so near that the box is not reached
    assert torch.allclose(d[near], ((1 + overshoot)*(exact + 1e-4))[near], rtol=1e-6) and not right(model, adv, y)[near].any()


def test_carlini_wagner_is_nearly_exact_on_planes():
    model, x = Planes(), grey()
    y = model(x).argmax(1)
    adv = carlini_wagner(model, x, y, steps=150, lr=.01)
    d, exact = (adv - x).flatten(1).norm(dim=1), model.exact(x, y, 2)
    inside = ((adv > .01) & (adv < .99)).flatten(1).all(1)
    assert inside.any() and (d >= exact - 1e-9).all() and (d/exact)[inside].median() < 1.02 and (d/exact)[inside].max() < 1.1


@pytest.mark.peer
@pytest.mark.parametrize('norm', ['l2', 'linf'])
def test_deepfool_equals_foolbox(setup, norm):
    foolbox = pytest.importorskip('foolbox')
    model, x, y = setup
    attack = {'l2': foolbox.attacks.L2DeepFoolAttack, 'linf': foolbox.attacks.LinfDeepFoolAttack}[norm](steps=20)
    theirs = attack.run(foolbox.PyTorchModel(model, (0, 1), device='cpu'), x, foolbox.criteria.Misclassification(y))
    ours = deepfool(model, x, y, steps=20, norm=norm)
    fell = ~right(model, theirs, y)
    assert fell.sum() >= 20 and (ours - theirs)[fell].abs().max() <= 1e-5


@pytest.mark.peer
def test_deepfool_is_as_short_as_torchattacks_and_art(setup):
    torchattacks, evasion = pytest.importorskip('torchattacks'), pytest.importorskip('art.attacks.evasion')
    estimators = pytest.importorskip('art.estimators.classification')
    model, x, y = setup
    ours = lengths(model, x, deepfool(model, x, y, steps=20), y)
    theirs = lengths(model, x, torchattacks.DeepFool(model, steps=20, overshoot=.02)(x, y), y)
    assert ours.median() <= 1.05*theirs.median() and ours.isinf().sum() <= theirs.isinf().sum()
    art = evasion.DeepFool(estimators.PyTorchClassifier(model, nn.CrossEntropyLoss(), (1, 16, 16), 4, clip_values=(0., 1.)), 20, epsilon=.02, batch_size=24, verbose=False)
    third = lengths(model, x, torch.from_numpy(art.generate(x.numpy())), y)
    assert ours.median() <= 1.05*third.median()


@pytest.mark.peer
@pytest.mark.parametrize('lr', [.01, .1])
@pytest.mark.parametrize('targeted', [False, True])
def test_carlini_wagner_is_as_short_as_foolbox(setup, lr, targeted):
    foolbox = pytest.importorskip('foolbox')
    model, x, y = setup
    want = (y + 2) % 4 if targeted else y
    criterion = foolbox.criteria.TargetedMisclassification(want) if targeted else foolbox.criteria.Misclassification(y)
    attack = foolbox.attacks.L2CarliniWagnerAttack(binary_search_steps=4, steps=60, stepsize=lr, initial_const=1e-2)
    theirs = attack.run(foolbox.PyTorchModel(model, (0, 1), device='cpu'), x, criterion)
    theirs = torch.where((theirs == 0).flatten(1).all(1)[:, None, None, None], x, theirs)     # a black image stands for one that was not fooled
    ours = carlini_wagner(model, x, want, steps=60, lr=lr, binary_steps=4, targeted=targeted)
    a, b = (smallest_changes(model, x, adv, want, targeted=targeted) for adv in (ours, theirs))
    assert a.median() <= 1.05*b.median() and a.isinf().sum() <= b.isinf().sum()


@pytest.mark.peer
def test_carlini_wagner_is_as_short_as_torchattacks_and_art(setup):
    torchattacks, evasion = pytest.importorskip('torchattacks'), pytest.importorskip('art.attacks.evasion')
    estimators = pytest.importorskip('art.estimators.classification')
    model, x, y = setup
    ours = lengths(model, x, carlini_wagner(model, x, y, steps=60, lr=.01), y)
    theirs = lengths(model, x, torchattacks.CW(model, c=1, steps=60, lr=.01)(x, y), y)
    assert ours.median() <= 1.05*theirs.median()
    few, labels = x[:6], y[:6]
    art = evasion.CarliniL2Method(estimators.PyTorchClassifier(model, nn.CrossEntropyLoss(), (1, 16, 16), 4, clip_values=(0., 1.)),
                                  learning_rate=.01, binary_search_steps=3, max_iter=20, initial_const=1e-2, batch_size=6, verbose=False)
    third = lengths(model, few, torch.from_numpy(art.generate(few.numpy(), np.eye(4, dtype=np.float32)[labels.numpy()])), labels)
    assert ours[:6].median() <= 1.05*third.median()


def test_confidence_and_target_are_met(setup):
    model, x, y = setup
    want = (y + 1) % 4
    aimed = carlini_wagner(model, x, want, steps=60, targeted=True)
    assert right(model, aimed, want).all() and aimed.min() >= 0 and aimed.max() <= 1
    sure, plain = (carlini_wagner(model, x, y, steps=60, confidence=c) for c in (1., 0.))
    stood = right(model, x, y)
    with torch.no_grad(): z = model(sure)[stood]
    other = z.scatter(1, y[stood][:, None], -math.inf).amax(1)
    assert (other - z.gather(1, y[stood][:, None])[:, 0] >= 1 - 1e-4).all()
    assert lengths(model, x, sure, y).median() > lengths(model, x, plain, y).median()


@pytest.mark.parametrize('attack', [deepfool, lambda *a, **k: carlini_wagner(*a, steps=5, **k)], ids=['deepfool', 'carlini_wagner'])
def test_what_needs_no_change_or_finds_none_comes_back_unchanged(setup, attack):
    model, x, y = setup
    adv = attack(model, x, y)
    misread = ~right(model, x, y)
    assert misread.sum() >= 2 and torch.equal(adv[misread], x[misread]), 'misread already: nothing to do'
    stood = right(model, adv, y)
    assert torch.equal(adv[stood], x[stood]), 'a change that does not fool is not returned'
    d = smallest_changes(model, x, adv, y)
    assert (d[misread] == 0).all() and torch.equal(d.isinf(), stood) and (d[~misread & ~stood] > 0).all()
    constant = nn.Sequential(nn.Flatten(), nn.Linear(256, 4)).eval()
    with torch.no_grad(): constant[1].weight.mul_(1e-9); constant[1].bias.copy_(torch.tensor([5., 0, 0, 0]))
    nothing = attack(constant, x, torch.zeros_like(y))
    assert torch.equal(nothing, x) and smallest_changes(constant, x, nothing, torch.zeros_like(y)).isinf().all()
    every = attack(model, x[misread], y[misread])
    assert torch.equal(every, x[misread]), 'a batch in which nothing stands'


@pytest.mark.parametrize('attack', [deepfool, lambda *a, **k: carlini_wagner(*a, steps=20, binary_steps=2, **k)], ids=['deepfool', 'carlini_wagner'])
def test_the_model_comes_back_as_it_was(setup, attack):
    _, x, y = setup
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(.5), nn.Flatten(), nn.Linear(4*14*14, 4)).train()
    model[0].weight.requires_grad_(False); model[1].eval()
    nn.functional.cross_entropy(model(x), y).backward()
    modes, flags = [m.training for m in model.modules()], [p.requires_grad for p in model.parameters()]
    grads = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    state, x0, y0, rng = {k: v.clone() for k, v in model.state_dict().items()}, x.clone(), y.clone(), torch.get_rng_state()
    with torch.no_grad(): before = attack(model, x, y)
    assert [m.training for m in model.modules()] == modes and [p.requires_grad for p in model.parameters()] == flags
    assert all(a is b is None or torch.equal(a, b) for a, b in zip(grads, (p.grad for p in model.parameters())))
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items()) and torch.equal(torch.get_rng_state(), rng)
    assert torch.equal(x, x0) and torch.equal(y, y0) and not before.requires_grad
    model.eval()
    assert torch.equal(before, attack(model, x, y)), 'in eval mode, whatever mode the model is in, and the same each time'


def test_each_image_is_searched_on_its_own(setup):
    model, x, y = setup
    together, alone = deepfool(model, x, y), torch.cat([deepfool(model, x[i:i + 1], y[i:i + 1]) for i in range(6)])
    assert torch.allclose(together[:6], alone, atol=1e-4)
    together, alone = (smallest_changes(model, x[:6], a, y[:6]) for a in (carlini_wagner(model, x, y, steps=40)[:6], torch.cat([carlini_wagner(model, x[i:i + 1], y[i:i + 1], steps=40) for i in range(6)])))
    assert torch.allclose(together, alone, rtol=.02), 'whether neighbours stop early does not matter'


def test_a_factor_on_the_logits_hides_nothing(setup):
    model, x, y = setup
    scaled = lambda x: 1000*model(x)
    assert torch.allclose(lengths(model, x, deepfool(scaled, x, y), y), lengths(model, x, deepfool(model, x, y), y), rtol=1e-2)
    a, b = (lengths(model, x, carlini_wagner(m, x, y, steps=60, c=c), y).median() for m, c in ((scaled, 1e-5), (model, 1e-2)))
    assert abs(a/b - 1) < .02


def test_the_curve_is_the_distribution_of_lengths(setup):
    model, x, y = setup
    d = smallest_changes(model, x, carlini_wagner(model, x, y, steps=60), y)
    radii = [0., d[d > 0].min().item(), d.median().item(), d[~d.isinf()].max().item()]
    curve = accuracy_curve(d, radii)
    clean = right(model, x, y).double().mean()
    assert torch.isclose(curve[0], clean) and (curve.diff() <= 0).all() and curve[-1] == d.isinf().double().mean()
    for e, left in zip(radii[1:], curve[1:]):
        under = right(model, pgd(model, x, y, e, steps=40, norm='l2', random_start=False), y).double().mean()
        assert left <= under + .13, 'a good smallest change is as strong as PGD in the ball (three images of 24)'
    assert accuracy_curve(torch.tensor([0., 1., 2., math.inf]), [0, 1, 1.5, 100]).tolist() == [.75, .5, .5, .25]


BAD = {
    'bytes': (lambda m, x, y: deepfool(m, (x*255).to(torch.uint8), y), ['uint8', '[0, 1]']),
    'range': (lambda m, x, y: carlini_wagner(m, x*2 - 1, y), ['[0, 1]', 'normalisation']),
    'nan': (lambda m, x, y: deepfool(m, x*float('nan'), y), ['nan', '[0, 1]']),
    'label': (lambda m, x, y: carlini_wagner(m, x, y + 1), ['1 to 4', '4 outputs']),
    'label type': (lambda m, x, y: deepfool(m, x, y.float()), ['float32', 'int64']),
    'probabilities': (lambda m, x, y: carlini_wagner(nn.Sequential(m, nn.Softmax(1)), x, y), ['probabilities', 'logits']),
    'detached': (lambda m, x, y: deepfool(lambda x: m(x).detach(), x, y), ['gradient', 'visft_nb.robust.square']),
    'norm': (lambda m, x, y: deepfool(m, x, y, norm='l1'), ["'l1'", 'l2']),
    'steps': (lambda m, x, y: deepfool(m, x, y, steps=0), ['steps=0']),
    'classes': (lambda m, x, y: deepfool(m, x, y, classes=1), ['classes=1']),
    'overshoot': (lambda m, x, y: deepfool(m, x, y, overshoot=-.1), ['overshoot=-0.1']),
    'binary': (lambda m, x, y: carlini_wagner(m, x, y, binary_steps=0), ['binary_steps=0']),
    'rate': (lambda m, x, y: carlini_wagner(m, x, y, lr=0.), ['lr=0']),
    'multiplier': (lambda m, x, y: carlini_wagner(m, x, y, c=float('nan')), ['c=nan']),
    'confidence': (lambda m, x, y: carlini_wagner(m, x, y, confidence=-1), ['confidence=-1']),
    'other images': (lambda m, x, y: smallest_changes(m, x, x[1:], y), ['(24, 1, 16, 16)', '(23, 1, 16, 16)']),
    'length': (lambda m, x, y: accuracy_curve([-1.], [0.]), ['negative', 'smallest_changes']),
}


@pytest.mark.parametrize('name', BAD)
def test_bad_input(setup, name):
    call, words = BAD[name]
    with refused(words): call(*setup)


def test_on_another_device():
    from visft_nb.robust import minimal
    with fake_cuda():
        model, x, y = small_cnn(width=4), torch.rand(6, 1, 16, 16), torch.zeros(6, dtype=torch.long)
        # fakes have no values: which samples stand cannot decide the shape, so all of them do
        w = minimal._to_w(x)
        loss, *_, g = minimal._weighed(model.eval(), w, x, y, torch.ones(6), 0., -1)
        m, v = torch.zeros_like(w), torch.zeros_like(w)
        minimal._adam_(w.detach(), g, m, v, 1, .1)
        order = minimal._order(model, x, y, 10)
        gaps, grads, stands = minimal._rivals(model, x.clone(), order)
        steps = [minimal._plane(gaps, grads, norm) for norm in ('l2', 'linf')]
        assert {t.device.type for t in (loss, g, w, m, order, gaps, grads, stands, *steps)} == {'cuda'} and steps[0].shape == x.shape
