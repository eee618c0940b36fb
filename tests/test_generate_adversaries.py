"Losses, penalties and steps of adversaries against second writings; copies that are independent; packs; pictures; bad input."
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from helpers import sentence
from visft_nb.data import seeded
from visft_nb.deploy import load_model, save_model
from visft_nb.generate import (DigitDiscriminator, DigitGenerator, ToyDiscriminator, ToyGenerator, count_copies, discriminator_loss, gan_samples, gan_step,
                               generator_loss, grid, make_gan, pack_samples, ring, score_gradient)


def toys(copies=1, seed=0, **how):
    torch.manual_seed(seed)
    return make_gan(ToyGenerator(copies, width=8), ToyDiscriminator(copies, width=8, **how), 1e-2, betas=(.5, .9), device='cpu')


def test_losses_are_binary_cross_entropies():
    a, b = torch.randn(2, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    bce, one, zero = F.binary_cross_entropy_with_logits, torch.ones_like(a), torch.zeros_like(a)
    for kind in ('minimax', 'non-saturating'): assert torch.allclose(discriminator_loss(a, b, kind), bce(a, one) + bce(b, zero))
    assert torch.allclose(generator_loss(b), bce(b, one)) and torch.allclose(generator_loss(b, 'minimax'), -bce(b, zero))
    assert torch.allclose(discriminator_loss(a, b, 'wasserstein'), b.mean() - a.mean()) and generator_loss(b, 'wasserstein') == -b.mean()
    sure = torch.tensor([-200., 200.])
    assert discriminator_loss(sure, sure).isfinite() and generator_loss(sure).isfinite()


def test_a_step_is_the_one_written_out():
    "Both updates by hand, with R1 and WGAN-GP's penalty."
    ours, theirs = toys(), toys()
    real, g = ring().sample(12, seeded(1))[None], torch.Generator().manual_seed(5)
    said = gan_step(ours, real, torch.Generator().manual_seed(5), r1=.7, gp=.3)
    gen, dis = theirs.generator, theirs.discriminator
    fake = gen(gen.noise(12, g)).detach()
    x = real.clone().requires_grad_(); slope, = torch.autograd.grad(dis(x).sum(), x, create_graph=True)
    e = torch.rand(1, 12, generator=g)[..., None]
    y = (e*real + (1 - e)*fake).requires_grad_(); steep, = torch.autograd.grad(dis(y).sum(), y, create_graph=True)
    d = discriminator_loss(dis(real), dis(fake)) + .35*slope.square().sum(-1).mean() + .3*(steep.norm(dim=-1) - 1).square().mean()
    theirs.d_optimizer.zero_grad(); d.backward(); theirs.d_optimizer.step()
    q = generator_loss(dis(gen(gen.noise(12, g))))
    theirs.g_optimizer.zero_grad(); q.backward(); theirs.g_optimizer.step()
    assert said['d'].item() == pytest.approx(d.item(), rel=1e-5) and said['g'].item() == pytest.approx(q.item(), rel=1e-5)
    for m in ('generator', 'discriminator'):
        for a, b in zip(getattr(ours, m).parameters(), getattr(theirs, m).parameters()): assert torch.allclose(a, b, atol=1e-5)
    assert not said['d'].requires_grad and not said['g'].requires_grad


def test_gradients_of_scores():
    w = torch.randn(4, 1, dtype=torch.float64)
    x = torch.randn(6, 4, dtype=torch.float64)
    s, slope = score_gradient(lambda v: (v @ w)[:, 0], x)
    assert torch.allclose(slope, w.T.expand(6, 4)) and s.shape == (6,) and not x.requires_grad
    _, packed = score_gradient(lambda v: (pack_samples(v, 2) @ torch.cat([w, 2*w]))[:, 0], x)
    assert torch.allclose(packed, torch.cat([w, 2*w]).T.expand(3, 8)), 'the gradient of a pack, as one'
    net = DigitDiscriminator(width=2, spectral=True).eval()
    assert score_gradient(net, torch.randn(3, 1, 28, 28))[1].shape == (3, 784)


def test_copies_are_independent_runs():
    "A stack of three trains as three alone do: Adam treats every weight by itself."
    stack = toys(3)
    alone = [toys(1) for _ in range(3)]
    with torch.no_grad():
        for c, one in enumerate(alone):
            for m in ('generator', 'discriminator'):
                for a, b in zip(getattr(one, m).parameters(), getattr(stack, m).parameters()): a.copy_(b[c:c + 1])
    for i in range(3):
        x = grid().sample(30, seeded(i)).view(3, 10, 2)
        z = [stack.generator.noise(10, seeded(i, k)) for k in range(2)]
        for gan, rows in [(stack, slice(None)), *((one, slice(c, c + 1)) for c, one in enumerate(alone))]:
            feed = iter([v[rows] for v in z])
            gan.generator.noise = lambda n, g, feed=feed: next(feed)
            gan_step(gan, x[rows], seeded(0))
            del gan.generator.noise
    for c, one in enumerate(alone):
        for m in ('generator', 'discriminator'):
            for a, b in zip(getattr(one, m).parameters(), getattr(stack, m).parameters()): assert torch.allclose(a[0], b[c], atol=3e-3), "but for the epsilon of Adam"


def test_packs():
    x = torch.arange(24).view(4, 3, 2)
    assert pack_samples(torch.arange(8).view(4, 2), 2).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert pack_samples(x[:, :2], 2).tolist() == x[:, :2].reshape(4, 1, 4).tolist(), 'copies keep their own'
    p = torch.randn(6, 3, 5, 5)
    assert torch.equal(pack_samples(p, 3)[1], p[3:].reshape(9, 5, 5)) and pack_samples(p, 1).shape == p.shape
    sentence(lambda: pack_samples(p, 4), 'batch of 6', 'packed by 4')
    d = ToyDiscriminator(2, 4, pack=2, statistic=True)
    v = torch.randn(2, 6, 2)
    assert d(v).shape == (2, 3) and d.net[0].weight.shape == (2, 8, 4)


def test_the_statistic_tells_a_collapsed_batch():
    d = ToyDiscriminator(1, 4, statistic=True)
    one, many = torch.zeros(1, 8, 2), torch.randn(1, 8, 2)
    many[:, 0] = 0
    assert d(one)[0, 0] != d(many)[0, 0], 'the same point in another batch'
    assert ToyDiscriminator(1, 4)(one).shape == (1, 8)


def test_pacgans_networks():
    g, d = ToyGenerator(2, width=400, depth=4, norm=True, spread=.02), ToyDiscriminator(2, 200, 3, pieces=5, spread=.02)
    assert [tuple(p.shape[1:]) for p in g.parameters() if p.shape[1] > 1] == [(2, 400), (400, 400), (400, 400), (400, 400), (400, 2)]
    assert [tuple(p.shape[1:]) for p in d.parameters() if p.shape[1] > 1] == [(2, 1000), (200, 1000), (200, 1000), (200, 1)]
    assert abs(g.net[3].weight.std() - .02) < .001 and d(g(g.noise(9))).shape == (2, 9)


def test_norm_is_torchs():
    x = torch.randn(1, 20, 5)
    g = ToyGenerator(1, 5, width=5, depth=1, norm=True)
    assert torch.allclose(g.net[1](x)[0], nn.BatchNorm1d(5)(x[0]), atol=1e-5)


def test_samples_do_not_depend_on_their_neighbours_or_the_batch():
    g = DigitGenerator(width=4)
    g(g.noise(32)); before = {k: v.clone() for k, v in g.state_dict().items()}
    a, b = gan_samples(g, 20, 1), gan_samples(g, 20, 1, batch=20)
    assert torch.allclose(a, b, atol=1e-5) and a.shape == (20, 1, 28, 28) and g.training
    assert all(torch.equal(v, before[k]) for k, v in g.state_dict().items()), 'and leave batch norm alone'
    assert gan_samples(g, 7, batch=3).shape[0] == 7


@pytest.mark.parametrize('how', [{}, dict(loss='minimax'), dict(r1=1.), dict(loss='wasserstein', gp=10.)])
@pytest.mark.parametrize('d', [dict(pack=2), dict(spectral=True)])
def test_pictures_train(how, d):
    torch.manual_seed(0)
    gan = make_gan(DigitGenerator(3, 4), DigitDiscriminator(3, 4, **d), device='cpu')
    x = torch.rand(8, 3, 28, 28)*2 - 1
    row = gan_step(gan, x, seeded(0), precision='auto', **how)
    assert all(v.isfinite() for v in row.values()) and not x.requires_grad
    assert all(p.isfinite().all() for p in gan.generator.parameters())


def test_counts_of_copies():
    g = ToyGenerator(3, width=4)
    found = count_copies(g, ring(), 100)
    assert len(found) == 3 and all(c.total == 8 and sum(c.counts) <= 100 for c in found) and found == count_copies(g, ring(), 100)


def test_a_large_discriminator_learns_a_ring():
    "A minute's worth is in the lesson; here: the loss of a generator that knows nothing is far from its start."
    gan = toys(2)
    for i in range(60): row = gan_step(gan, ring().sample(64, seeded(i)).view(2, 32, 2), seeded(i, 1))
    with torch.no_grad(): radius = gan.generator(gan.generator.noise(200, seeded(0))).norm(dim=-1).mean()
    assert .2 < radius < 3 and row['d'].isfinite()


def test_bad_input():
    gan, x, g = toys(), torch.zeros(1, 4, 2), seeded(0)
    sentence(lambda: gan_step(gan, x, g, loss='non-saturatin'), 'loss', 'non-saturating')
    for how in (dict(r1=-1), dict(gp=-.1)): sentence(partial(gan_step, gan, x, g, **how), next(iter(how)))
    sentence(lambda: gan_step(toys(pack=3), x, g), 'batch of 4', 'packed by 3')
    for make in (partial(ToyGenerator, 0), partial(ToyDiscriminator, width=0), partial(DigitGenerator, code=0), partial(DigitDiscriminator, pack=.5)): sentence(make, 'expected')
    sentence(lambda: gan_samples(DigitGenerator(width=2), 0), 'n=0')


def test_a_generator_is_saved_and_loaded(tmp_path):
    torch.manual_seed(0)
    g = DigitGenerator(3, width=4, code=9)
    g(g.noise(16))   # batch norm has seen something
    save_model(g, tmp_path/'g.safetensors')
    back = load_model(tmp_path/'g.safetensors')
    assert type(back) is DigitGenerator and torch.equal(gan_samples(g, 6), gan_samples(back, 6))
