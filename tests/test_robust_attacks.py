"Attacks: equal to the peers, inside ball and box, without side effects, and a sentence for what they cannot work with."
import copy
import pickle
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn

from fake_cuda import fake_cuda
from helpers import refused
from nets import Disturbed, learned_bars
from visft_nb.cnn.models import small_cnn
from visft_nb.robust import explore_eps, fgsm, pgd, random_signs, robust_accuracy, show_eps
from visft_nb.robust.attacks import L1, LOSSES, NORMS, AttackResult, _project_l1, dlr_loss, frozen_eval, margin_loss
from visft_nb.robust.victim import folded


@pytest.fixture(scope='module')
def setup():
    "A network that has learned a little, so that some samples stand and some fall."
    return learned_bars(48, 40)


def art_classifier(model, x):
    estimators = pytest.importorskip('art.estimators.classification')
    return estimators.PyTorchClassifier(model, nn.CrossEntropyLoss(reduction='sum'), tuple(x.shape[1:]), 4, clip_values=(0., 1.))


def art_attack(name, model, x, y, **kwargs):
    evasion = pytest.importorskip('art.attacks.evasion')
    attack = getattr(evasion, name)(art_classifier(model, x), **kwargs)
    return torch.from_numpy(np.asarray(attack.generate(x.numpy(), y.numpy())))


def predictions(model, x):
    with torch.no_grad(): return model(x).argmax(1)


@pytest.mark.peer
@pytest.mark.parametrize('eps', [.03, .1, .3])
def test_fgsm_is_bit_equal_to_torchattacks_foolbox_and_art(setup, eps):
    torchattacks, foolbox = pytest.importorskip('torchattacks'), pytest.importorskip('foolbox')
    model, x, y = setup
    ours = fgsm(model, x, y, eps)
    assert torch.equal(ours, torchattacks.FGSM(model, eps=eps)(x, y))
    theirs = foolbox.attacks.LinfFastGradientAttack(random_start=False).run(foolbox.PyTorchModel(model, (0, 1), device='cpu'), x, foolbox.criteria.Misclassification(y), epsilon=eps)
    assert torch.equal(ours, theirs)
    assert torch.equal(ours, art_attack('FastGradientMethod', model, x, y, eps=eps, batch_size=len(x)))


@pytest.mark.peer
@pytest.mark.parametrize('norm,eps,alpha', [('linf', .05, .01), ('linf', .2, .05), ('l2', .5, .1), ('l2', 2., .5)])
def test_pgd_without_random_start_equals_the_peers(setup, norm, eps, alpha):
    torchattacks, foolbox = pytest.importorskip('torchattacks'), pytest.importorskip('foolbox')
    model, x, y = setup
    ours = pgd(model, x, y, eps, alpha, 10, norm, random_start=False, drop=False)
    attack = {'linf': torchattacks.PGD, 'l2': torchattacks.PGDL2}[norm](model, eps=eps, alpha=alpha, steps=10, random_start=False)
    theirs = attack(x, y)
    assert (ours - theirs).abs().max() <= 1e-6
    attack = {'linf': foolbox.attacks.LinfPGD, 'l2': foolbox.attacks.L2PGD}[norm](abs_stepsize=alpha, steps=10, random_start=False)
    third = attack.run(foolbox.PyTorchModel(model, (0, 1), device='cpu'), x, foolbox.criteria.Misclassification(y), epsilon=eps)
    assert (ours - third).abs().max() <= 1e-6
    dropped = pgd(model, x, y, eps, alpha, 10, norm, random_start=False)
    assert ((predictions(model, dropped) == y) <= (predictions(model, theirs) == y)).all(), 'dropping fallen samples may only lower the accuracy'


@pytest.mark.peer
@pytest.mark.parametrize('norm,eps,alpha', [('linf', .05, .01), ('linf', .2, .05), ('l2', .1, .03), ('l2', .35, .1)])
def test_pgd_without_random_start_equals_art(setup, norm, eps, alpha):
    "ART goes into the box, then into the ball; in l2 that is the same where the box is not reached, as with these grey images."
    model, x, y = setup
    if norm == 'l2': x = x*.2 + .4
    ours = pgd(model, x, y, eps, alpha, 10, norm, random_start=False, drop=False)
    theirs = art_attack('ProjectedGradientDescentPyTorch', model, x, y, norm={'linf': np.inf, 'l2': 2}[norm], eps=eps, eps_step=alpha, max_iter=10, batch_size=len(x), verbose=False)
    assert (ours - theirs).abs().max() <= 1e-6
    assert torch.equal(predictions(model, ours), predictions(model, theirs))


@pytest.mark.peer
@pytest.mark.parametrize('eps,alpha,steps', [(8., 1.5, 5), (12., 12., 1)])
def test_l1_equals_foolbox(setup, eps, alpha, steps):
    "Inside the ball: foolbox 3.3.4 projects with one pixel too many in the mean, and lands outside it (1.6 for eps 1.5)."
    foolbox = pytest.importorskip('foolbox')
    model, x, y = setup
    x = x.clone(); x[:, :, :8] = x[:, :, :8].round()          # pixels at the ends of the box, which may not leave it
    attack = foolbox.attacks.SparseL1DescentAttack(quantile=.99, abs_stepsize=alpha, steps=steps, random_start=False)
    theirs = attack.run(foolbox.PyTorchModel(model, (0, 1), device='cpu'), x, foolbox.criteria.Misclassification(y), epsilon=eps)
    assert (pgd(model, x, y, eps, alpha, steps, 'l1', random_start=False, drop=False) - theirs).abs().max() <= 1e-6


@pytest.mark.peer
@pytest.mark.parametrize('momentum', [.5, 1.])
@pytest.mark.parametrize('targeted', [False, True])
def test_momentum_equals_torchattacks(setup, momentum, targeted):
    torchattacks = pytest.importorskip('torchattacks')
    model, x, y = setup
    want = (y + 1) % 4 if targeted else y
    attack = torchattacks.MIFGSM(model, eps=.1, alpha=.02, steps=8, decay=momentum)
    if targeted: attack.set_mode_targeted_by_label(quiet=True)
    ours = pgd(model, x, want, .1, .02, 8, random_start=False, targeted=targeted, drop=False, momentum=momentum)
    assert (ours - attack(x, want)).abs().max() <= 1e-6


@pytest.mark.parametrize('momentum', [0., 1.])
@pytest.mark.parametrize('norm', NORMS)
def test_dropping_changes_no_path(setup, norm, momentum):
    model, x, y = setup
    every = [pgd(model, x, y, .5, .05, k, norm, random_start=False, drop=False, momentum=momentum) for k in range(1, 6)]
    dropped = pgd(model, x, y, .5, .05, 5, norm, random_start=False, momentum=momentum)
    first = x.clone()
    for adv in reversed([x, *every]): first = torch.where((predictions(model, adv) != y)[:, None, None, None], adv, first)
    fell = predictions(model, dropped) != y
    assert torch.allclose(dropped[fell], first[fell], atol=1e-5), 'a sample stays where it first fell, and the others go on as without dropping'
    assert torch.allclose(dropped[~fell], every[-1][~fell], atol=1e-5)


@pytest.mark.peer
def test_targeted_equals_torchattacks(setup):
    torchattacks = pytest.importorskip('torchattacks')
    model, x, y = setup
    want = (y + 1) % 4
    attack = torchattacks.PGD(model, eps=.1, alpha=.02, steps=7, random_start=False)
    attack.set_mode_targeted_by_label(quiet=True)
    ours = pgd(model, x, want, .1, .02, 7, random_start=False, targeted=True, drop=False)
    assert (ours - attack(x, want)).abs().max() <= 1e-6
    # FGSM towards a class moves by the same amount, the other way than away from it
    toward, away = fgsm(model, x, want, .1, targeted=True), fgsm(model, x, want, .1)
    assert torch.allclose((toward - x)[(x > .1) & (x < .9)], -(away - x)[(x > .1) & (x < .9)], atol=1e-6)


@pytest.mark.peer
def test_dlr_equals_autoattack():
    apgd = pytest.importorskip('torchattacks.attacks.apgd')
    z, y = torch.randn(64, 10, generator=torch.Generator().manual_seed(0)), torch.arange(64) % 10
    attack = apgd.APGD(nn.Flatten(), loss='dlr')
    assert torch.allclose(dlr_loss(z, y), attack.dlr_loss(z, y), atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(norm=st.sampled_from(sorted(NORMS)), loss=st.sampled_from(sorted(LOSSES)), eps=st.floats(0, 3), steps=st.integers(1, 4), restarts=st.integers(1, 2),
       start=st.booleans(), drop=st.booleans(), seed=st.integers(0, 99))
def test_ball_and_box(setup, norm, loss, eps, steps, restarts, start, drop, seed):
    model, x, y = setup
    x, y = x[seed % 40:][:6], y[seed % 40:][:6]
    adv = pgd(model, x, y, eps, None, steps, norm, restarts, start, loss=loss, drop=drop, generator=torch.Generator().manual_seed(seed))
    d = (adv - x).flatten(1).double()
    assert d.norm(p={'linf': torch.inf, 'l2': 2, 'l1': 1}[norm], dim=1).max() <= eps + (2e-6 if norm == 'l1' else 1e-6)   # l1 adds up 256 roundings
    assert adv.min() >= 0 and adv.max() <= 1 and adv.shape == x.shape and not adv.requires_grad


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), d=st.integers(1, 40), eps=st.sampled_from([0., .3, 1., 7.]), ties=st.booleans())
def test_l1_projection_is_the_nearest_point(seed, d, eps, ties):
    v = 2*torch.randn(3, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    if ties: v = v.round()
    z = _project_l1(v, eps)
    assert z.abs().sum(1).max() <= eps + 1e-12
    assert torch.equal(z[v.abs().sum(1) <= eps], v[v.abs().sum(1) <= eps]), 'a point of the ball stays'
    # nearest of a convex set: no corner of it lies ahead, seen from z towards v
    corners = eps*torch.cat([torch.eye(d), -torch.eye(d)]).double()
    assert ((v - z) @ corners.T - ((v - z)*z).sum(1, keepdim=True)).max() <= 1e-10


def test_l1_projection_equals_a_quadratic_solver():
    optimize = pytest.importorskip('scipy.optimize')
    for seed in range(5):
        v = 2*np.random.default_rng(seed).standard_normal(6)
        far = lambda p, v: ((p[:6] - p[6:] - v)**2).sum()   # positive and negative part, each at least 0
        found = optimize.minimize(far, args=(v,), x0=np.full(12, .05), bounds=[(0, None)]*12, method='SLSQP',
                                  constraints={'type': 'ineq', 'fun': lambda p: 1.5 - p.sum()}, options={'ftol': 1e-14, 'maxiter': 500})
        assert np.allclose(_project_l1(torch.from_numpy(v)[None], 1.5)[0].numpy(), found.x[:6] - found.x[6:], atol=1e-5)


@pytest.mark.parametrize('norm', NORMS)
def test_random_points_are_uniform_in_the_ball(norm):
    stats = pytest.importorskip('scipy.stats')
    eps, n = 2., 20_000
    d = NORMS[norm].random(torch.zeros(n, 1, 1, 3), eps, torch.Generator().manual_seed(0)).flatten(1)
    r = d.norm(p={'linf': torch.inf, 'l2': 2, 'l1': 1}[norm], dim=1)/eps
    assert stats.kstest((r**3).numpy(), 'uniform').pvalue > 1e-3, 'the volume within radius r grows as r^d'
    assert ((d > 0).float().mean(0) - .5).abs().max() < .02 and d.mean(0).abs().max() < .03
    inner = (d.abs() < .3).all(1).float().mean().item()      # a small cube in the middle has its share of the volume
    volume = {'linf': 8, 'l2': 4*np.pi/3, 'l1': 4/3}[norm]*eps**3
    assert abs(inner - .6**3/volume) < 4*(.6**3/volume/n)**.5


def test_the_l1_step_leaves_out_pixels_that_cannot_move():
    adv, g = torch.tensor([0., 1., .5, .5]).view(1, 1, 2, 2), torch.tensor([-9., 8., 2., 1.]).view(1, 1, 2, 2)
    assert torch.equal(L1.direction_(g.clone(), adv, share=0).flatten(), torch.tensor([0., 0., 1., 0.]))
    assert torch.equal(L1.direction_(g.clone(), share=0).flatten(), torch.tensor([-1., 0., 0., 0.]))
    assert L1.direction_(torch.zeros(2, 1, 2, 2)).abs().sum() == 0, 'no gradient, no step'
    big = L1.direction_(torch.randn(3, 3, 40, 40, generator=torch.Generator().manual_seed(0)))
    assert torch.allclose(big.abs().sum((1, 2, 3)), torch.ones(3)) and (big != 0).sum((1, 2, 3)).tolist() == [48]*3


def test_eps_0_changes_nothing(setup):
    model, x, y = setup
    for attack in (fgsm, pgd, partial(pgd, norm='l2'), partial(pgd, norm='l1'), partial(pgd, restarts=3, drop=False), random_signs): assert torch.equal(attack(model, x, y, 0.), x)
    table = robust_accuracy(model, x, y, {'pgd': partial(pgd, eps=0.)}, batch_size=7)
    assert table.accuracy[0] == table.accuracy[1] == (predictions(model, x) == y).double().mean().item()


@pytest.mark.parametrize('attack', [partial(fgsm, eps=.1), partial(pgd, eps=.1, restarts=2), partial(pgd, eps=1., norm='l2', drop=False)])
def test_the_model_comes_back_as_it_was(setup, attack):
    _, x, y = setup
    x0, y0 = x.clone(), y.clone()
    model = Disturbed(4).train()
    model.net[1].eval()
    nn.functional.cross_entropy(model(x), y).backward()
    modes = [m.training for m in model.modules()]
    flags = [p.requires_grad for p in model.parameters()]
    grads = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    state = {k: v.clone() for k, v in model.state_dict().items()}
    torch.manual_seed(3); before = attack(model, x, y, generator=torch.Generator().manual_seed(1)) if attack.func is pgd else attack(model, x, y)
    assert [m.training for m in model.modules()] == modes and [p.requires_grad for p in model.parameters()] == flags
    assert all(a is b is None or torch.equal(a, b) for a, b in zip(grads, (p.grad for p in model.parameters())))
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert torch.equal(x, x0) and torch.equal(y, y0) and not x.requires_grad
    model.eval()
    after = attack(model, x, y, generator=torch.Generator().manual_seed(1)) if attack.func is pgd else attack(model, x, y)
    assert torch.equal(before, after), 'the attack must work in eval mode, whatever mode the model is in'


def test_the_model_comes_back_after_an_error_too(setup):
    model = Disturbed(4).train()
    with pytest.raises(ZeroDivisionError):
        with frozen_eval(model): raise ZeroDivisionError
    assert model.training and model.net[5].weight.requires_grad and not model.net[0].weight.requires_grad


@pytest.mark.parametrize('context', [torch.no_grad, torch.inference_mode])
def test_works_where_gradients_are_off(setup, context):
    model, x, y = setup
    with context(): adv = pgd(model, x.clone(), y, .1, random_start=False)
    assert torch.equal(adv, pgd(model, x, y, .1, random_start=False))


def test_channels_last_gives_the_same(setup):
    model, x, y = setup
    x3 = x.repeat(1, 3, 1, 1)
    class Gray(nn.Module):
        def forward(self, x): return model(x.mean(1, keepdim=True))
    plain = pgd(Gray(), x3, y, .1, random_start=False)
    last = pgd(Gray(), x3.contiguous(memory_format=torch.channels_last), y, .1, random_start=False)
    assert (plain - last).abs().max() < 1e-5


def test_stronger_is_never_weaker(setup):
    model, x, y = setup
    gen = lambda: torch.Generator().manual_seed(0)
    acc = lambda **k: (predictions(model, pgd(model, x, y, generator=gen(), **k)) == y).float().mean().item()
    assert acc(eps=.02) >= acc(eps=.1) >= acc(eps=.3) and acc(eps=.05, restarts=1) >= acc(eps=.05, restarts=4)
    assert acc(eps=1., steps=40) == 0, 'an unbounded attack must reach 0 %'


def test_restarts_keep_what_was_found(setup):
    model, x, y = setup
    one = pgd(model, x, y, .03, restarts=1, generator=torch.Generator().manual_seed(5))
    more = pgd(model, x, y, .03, restarts=5, generator=torch.Generator().manual_seed(5))
    fell = predictions(model, one) != y
    assert torch.equal(one[fell], more[fell]) and (predictions(model, more) != y)[fell].all()


def test_margin_is_positive_exactly_for_errors():
    z, y = torch.randn(200, 5), torch.arange(200) % 5
    assert torch.equal(margin_loss(z, y) > 0, z.argmax(1) != y)


def test_robust_accuracy_counts_the_worst_case(setup):
    model, x, y = setup
    half = lambda keep: lambda m, x, y: torch.where(keep(torch.arange(len(x)))[:, None, None, None], x, 0*x)
    table = robust_accuracy(model, x, y, {'odd': half(lambda i: i % 2 == 1), 'even': half(lambda i: i % 2 == 0)}, batch_size=48).set_index('attack')
    assert list(table.index) == ['clean', 'odd', 'even', 'all attacks']
    assert table.accuracy['all attacks'] <= table.accuracy[['odd', 'even']].min()
    assert ((table.low <= table.accuracy) & (table.accuracy <= table.high)).all()


def test_who_stands_is_told(setup):
    model, x, y = setup
    found = robust_accuracy(model, x, y, {'weak': partial(pgd, eps=.01), 'strong': partial(pgd, eps=.1)}, batch_size=13)
    stands = found.stands
    assert list(stands) == list(found.attack) == ['clean', 'weak', 'strong', 'all attacks']
    assert all(s.dtype == torch.bool and s.shape == (len(x),) for s in stands.values())
    assert [s.double().mean().item() for s in stands.values()] == pytest.approx(found.accuracy.tolist())
    assert torch.equal(stands['clean'], predictions(model, x) == y) and not (stands['strong'] & ~stands['clean']).any()
    assert torch.equal(stands['all attacks'], stands['weak'] & stands['strong'])


def test_the_result_of_attacks_answers_for_its_table(setup):
    model, x, y = setup
    found = robust_accuracy(model, x, y, {'strong': partial(pgd, eps=.1)})
    assert isinstance(found, AttackResult) and found.adversarial is None and found.flags == [] and not found.table.attrs
    assert len(found) == 3 and found['attack'].tolist() == found.attack.tolist() == found.set_index('attack').index.tolist()
    assert repr(found) == repr(found.table) and found._repr_html_() == found.table._repr_html_()
    shares = ['accuracy', 'low', 'high']
    assert ((0 <= found[shares]) & (found[shares] <= 1)).all(axis=None) and found.per_cent().attack.equals(found.attack)
    assert np.allclose(found.per_cent()[shares], 100*found[shares], atol=0)
    again = pickle.loads(pickle.dumps(copy.deepcopy(found)))
    assert again.table.equals(found.table) and torch.equal(again.stands['strong'], found.stands['strong'])
    with pytest.raises(AttributeError): _ = found.nothing_like_that
    with pytest.warns(DeprecationWarning, match='stands') as seen: old = found.attrs
    assert old['stands'] is found.stands and seen[0].filename == __file__


def test_a_model_in_train_mode_is_evaluated_in_eval_mode_with_a_warning(setup):
    _, x, y = setup
    model = Disturbed(4).eval()
    attacks = {'pgd': partial(pgd, eps=.05, random_start=False)}
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        right = robust_accuracy(model, x, y, attacks)
        model.train(); pgd(model, x, y, .05); fgsm(model, x, y, .05)      # used in training: silent
    with pytest.warns(UserWarning, match='train mode.*eval mode') as seen: table = robust_accuracy(model, x, y, attacks)
    assert len(seen) == 1 and seen[0].filename == __file__
    assert table.table.equals(right.table) and model.training and model.net[3].training


def test_random_signs_are_as_large_as_asked(setup):
    _, x, y = setup
    x = x*.5 + .25
    d = (random_signs(None, x, y, .1) - x).abs()
    assert torch.allclose(d, torch.full_like(d, .1), atol=1e-6) and torch.equal(random_signs(None, x, y, .1), random_signs(None, x, y, .1))


def test_the_slider_shows_image_prediction_and_change(setup, monkeypatch):
    model, x, y = setup
    shown = []
    monkeypatch.setattr('visft_nb.plot.show_images', lambda images, titles, **k: shown.append((images, titles, k)))
    show_eps(model, x[:1], y[:1], [0, .2], 'random signs', classes='abcd')
    images, titles, k = shown[0]
    assert images.shape == (4, 1, 16, 16) and torch.equal(images[0], x[0]) and titles[2] == 'no change' and titles[3].startswith('x ')
    assert all('%' in t and t.split('\n')[1][0] in 'abcd' for t in titles[:2]) and 'eps 0.20' in k['alt'] and 'random signs' in k['alt']
    assert images[2:].min() >= 0 and images[2:].max() <= 1 and images[3].min() < 1e-6
    widget = explore_eps(model, x[:1], y[:1], .3)
    slider, choice = widget.children[:2]
    assert slider.max == .3 and choice.options == ('FGSM', 'PGD', 'random signs')
    slider.value, choice.value = .1, 'FGSM'
    assert widget.kwargs == {'eps': .1, 'attack': 'FGSM'} and torch.equal(shown[-1][0][1], fgsm(model, x[:1], y[:1], .1)[0])


BAD = {
    'bytes': (lambda m, x, y: pgd(m, (x*255).to(torch.uint8), y, .1), ['uint8', '[0, 1]']),
    'range': (lambda m, x, y: fgsm(m, x*2 - 1, y, .1), ['[0, 1]', 'normalisation']),
    'nan': (lambda m, x, y: fgsm(m, x*float('nan'), y, .1), ['nan', '[0, 1]']),
    'one image': (lambda m, x, y: pgd(m, x[0], y[:1], .1), ['(1, 16, 16)', 'x[None]']),
    'none': (lambda m, x, y: pgd(m, x[:0], y[:0], .1), ['at least 1']),
    'eps': (lambda m, x, y: pgd(m, x, y, -.1), ['eps=-0.1']),
    'steps': (lambda m, x, y: pgd(m, x, y, .1, steps=0), ['steps=0']),
    'label': (lambda m, x, y: pgd(m, x, y + 1, .1), ['1 to 4', '4 outputs']),
    'label type': (lambda m, x, y: pgd(m, x, y.float(), .1), ['float32', 'int64']),
    'label number': (lambda m, x, y: pgd(m, x, y[:-1], .1), ['(47,)', '(48,)']),
    'probabilities': (lambda m, x, y: pgd(nn.Sequential(m, nn.Softmax(1)), x, y, .1), ['probabilities', 'logits']),
    'detached': (lambda m, x, y: pgd(lambda x: m(x).detach(), x, y, .1), ['gradient', 'black-box', 'visft_nb.robust.square']),
    'numpy': (lambda m, x, y: pgd(lambda x: m(x).detach().numpy(), x, y, .1), ['gradient', 'black-box', 'visft_nb.robust.square']),
    'one output': (lambda m, x, y: pgd(lambda x: m(x)[:, :1], x, y, .1), ['(8, 1)', 'logits']),
    'norm': (lambda m, x, y: pgd(m, x, y, .1, norm='l3'), ["'l3'", 'l1']),
    'momentum': (lambda m, x, y: pgd(m, x, y, .1, momentum=-1), ['momentum=-1']),
    'many for the slider': (lambda m, x, y: show_eps(m, x, y, [.1]), ['48 images', 'x[i:i + 1]']),
    'attack of the slider': (lambda m, x, y: show_eps(m, x[:1], y[:1], [.1], 'FSGM'), ['FSGM', 'FGSM']),
    'loss': (lambda m, x, y: pgd(m, x, y, .1, loss='crossentropy'), ['crossentropy']),
    'dlr on two': (lambda m, x, y: pgd(lambda x: m(x)[:, :2], x, y % 2, .1, loss='dlr'), ['dlr', 'margin']),
    'targeted dlr': (lambda m, x, y: pgd(m, x, y, .1, loss='dlr', targeted=True), ['dlr', 'untargeted']),
    'no attack': (lambda m, x, y: robust_accuracy(m, x, y, {}), ['attacks']),
    'no image back': (lambda m, x, y: robust_accuracy(m, x, y, {'a': lambda m, x, y: x*9}), ['[0, 1]']),
}


@pytest.mark.parametrize('name', BAD)
def test_bad_input(setup, name):
    call, words = BAD[name]
    with refused(words): call(*setup)


def test_on_another_device():
    with fake_cuda():
        model, x, y = small_cnn(width=4), torch.rand(6, 1, 16, 16), torch.zeros(6, dtype=torch.long)
        for norm in NORMS:
            for loss in LOSSES: assert pgd(model, x, y, .1, steps=2, norm=norm, loss=loss, drop=False, momentum=1.).device.type == 'cuda'
        assert random_signs(model, x, y, .1).device.type == 'cuda'
        assert fgsm(model, x, y, .1).device.type == 'cuda'


class Liar(nn.Module):
    "Two classes by the mean grey; under autocast it says the other one."
    def forward(self, x):
        s = 10*(x.mean((1, 2, 3)) - .5)
        z = torch.stack([-s, s], 1)
        return z.flip(1) if torch.is_autocast_enabled(x.device.type) else z


def test_falls_are_decided_in_float32():
    x, y = torch.full((4, 1, 8, 8), .6), torch.ones(4, dtype=torch.int64)
    adv = pgd(Liar(), x, y, .2, steps=20, precision='fp32', random_start=False)
    assert (Liar()(adv).argmax(1) == 0).all()
    lied_to = pgd(Liar(), x, y, .2, steps=20, precision='bf16', random_start=False)
    assert not torch.equal(lied_to, x), 'it stopped at once, believing what bf16 said'


@pytest.mark.parametrize('norm,eps', [('linf', .1), ('l2', 1.)])
def test_gradients_in_bf16_find_as_much(setup, norm, eps):
    model, x, y = setup
    adv = {p: pgd(model, x, y, eps, steps=20, norm=norm, precision=p, generator=torch.Generator().manual_seed(0)) for p in ('fp32', 'bf16')}
    left = {p: (predictions(model, a) == y).float().mean().item() for p, a in adv.items()}
    assert .02 < left['fp32'] < .98 and abs(left['bf16'] - left['fp32']) <= .05
    assert adv['bf16'].dtype == torch.float32 and (adv['bf16'] - x).flatten(1).norm(dim=1, p={'linf': float('inf'), 'l2': 2}[norm]).max() <= eps + 1e-5


def test_a_folded_network_is_the_same_function_with_the_same_weights(setup):
    model, x, _ = setup
    with frozen_eval(model), torch.no_grad():
        twin, before = folded(model), {k: v.clone() for k, v in model.state_dict().items()}
        assert torch.allclose(twin(x), model(x), atol=1e-5)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in twin.modules()) and any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert twin.head.weight is model.head.weight
