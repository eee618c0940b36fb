"Attacks: equal to the peers, inside ball and box, without side effects, and a sentence for what they cannot work with."
from functools import partial

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn

from visft_nb.cnn.models import small_cnn
from visft_nb.core import InputError
from visft_nb.robust import fgsm, pgd, robust_accuracy
from visft_nb.robust.attacks import LOSSES, NORMS, dlr_loss, lent, margin_loss


@pytest.fixture(scope='module')
def setup():
    "A network that has learned a little, so that some samples stand and some fall."
    torch.manual_seed(0)
    x, y = torch.rand(48, 1, 16, 16), torch.arange(48) % 4
    for i in range(4): x[y == i, :, 4*i:4*i + 4] *= .25
    model = small_cnn(4, width=4)
    opt = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(40):
        opt.zero_grad(); nn.functional.cross_entropy(model(x), y).backward(); opt.step()
    return model.eval(), x, y


def predictions(model, x):
    with torch.no_grad(): return model(x).argmax(1)


@pytest.mark.peer
@pytest.mark.parametrize('eps', [.03, .1, .3])
def test_fgsm_is_bit_equal_to_torchattacks_and_foolbox(setup, eps):
    torchattacks, foolbox = pytest.importorskip('torchattacks'), pytest.importorskip('foolbox')
    model, x, y = setup
    ours = fgsm(model, x, y, eps)
    assert torch.equal(ours, torchattacks.FGSM(model, eps=eps)(x, y))
    theirs = foolbox.attacks.LinfFastGradientAttack(random_start=False).run(foolbox.PyTorchModel(model, (0, 1), device='cpu'), x, foolbox.criteria.Misclassification(y), epsilon=eps)
    assert torch.equal(ours, theirs)


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
    d = (adv - x).flatten(1)
    assert (d.abs().amax(1) if norm == 'linf' else d.norm(dim=1)).max() <= eps + 1e-6
    assert adv.min() >= 0 and adv.max() <= 1 and adv.shape == x.shape and not adv.requires_grad


def test_eps_0_changes_nothing(setup):
    model, x, y = setup
    for attack in (fgsm, pgd, partial(pgd, norm='l2'), partial(pgd, restarts=3, drop=False)): assert torch.equal(attack(model, x, y, 0.), x)
    table = robust_accuracy(model, x, y, {'pgd': partial(pgd, eps=0.)}, batch_size=7)
    assert table.accuracy[0] == table.accuracy[1] == 100*(predictions(model, x) == y).double().mean().item()


class Dropped(nn.Module):
    "Batch norm, dropout, a frozen layer: everything that an attack can disturb."
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(.5), nn.Flatten(), nn.Linear(4*14*14, 4))
        self.net[0].weight.requires_grad_(False)
    def forward(self, x): return self.net(x)


@pytest.mark.parametrize('attack', [partial(fgsm, eps=.1), partial(pgd, eps=.1, restarts=2), partial(pgd, eps=1., norm='l2', drop=False)])
def test_the_model_comes_back_as_it_was(setup, attack):
    _, x, y = setup
    x0, y0 = x.clone(), y.clone()
    model = Dropped().train()
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
    model = Dropped().train()
    with pytest.raises(ZeroDivisionError):
        with lent(model): raise ZeroDivisionError
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
    'detached': (lambda m, x, y: pgd(lambda x: m(x).detach(), x, y, .1), ['gradient', 'black-box']),
    'numpy': (lambda m, x, y: pgd(lambda x: m(x).detach().numpy(), x, y, .1), ['gradient', 'black-box']),
    'one output': (lambda m, x, y: pgd(lambda x: m(x)[:, :1], x, y, .1), ['(8, 1)', 'logits']),
    'norm': (lambda m, x, y: pgd(m, x, y, .1, norm='l1'), ["'l1'", 'l2']),
    'loss': (lambda m, x, y: pgd(m, x, y, .1, loss='crossentropy'), ['crossentropy']),
    'dlr on two': (lambda m, x, y: pgd(lambda x: m(x)[:, :2], x, y % 2, .1, loss='dlr'), ['dlr', 'margin']),
    'targeted dlr': (lambda m, x, y: pgd(m, x, y, .1, loss='dlr', targeted=True), ['dlr', 'untargeted']),
    'no attack': (lambda m, x, y: robust_accuracy(m, x, y, {}), ['attacks']),
    'no image back': (lambda m, x, y: robust_accuracy(m, x, y, {'a': lambda m, x, y: x*9}), ['[0, 1]']),
}


@pytest.mark.parametrize('name', BAD)
def test_bad_input(setup, name):
    call, words = BAD[name]
    with pytest.raises(InputError) as e: call(*setup)
    assert all(w in str(e.value) for w in words), str(e.value)


def test_on_another_device():
    fake = pytest.importorskip('fake_cuda', reason='tests/fake_cuda.py is not there')
    with fake.fake_cuda():
        model, x, y = small_cnn(width=4), torch.rand(6, 1, 16, 16), torch.zeros(6, dtype=torch.long)
        for norm in NORMS:
            for loss in LOSSES: assert pgd(model, x, y, .1, steps=2, norm=norm, loss=loss, drop=False).device.type == 'cuda'
        assert fgsm(model, x, y, .1).device.type == 'cuda'
