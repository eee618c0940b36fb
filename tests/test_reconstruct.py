"Pre-training by reconstruction: likelihoods and the bound against torch.distributions, sizes, side effects, faults, bad input."
import math

import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, Normal, kl_divergence

from fake_cuda import fake_cuda
from helpers import fake_step, refused
from visft_nb.cnn.models import resnet18, small_cnn, vit_tiny
from visft_nb.core import InputError
from visft_nb.data import Augment, Images
from visft_nb.pretrain import (Autoencoder, Coder, Decoder, ReconstructionStep, VariationalAutoencoder, VariationalCoder, embed, gaussian_kl, image_nll, mask_pixels,
                               pretrain_autoencoder, reconstruction_error, reparametrise)
from visft_nb.train import load_checkpoint

pytestmark = pytest.mark.filterwarnings('ignore')


def images(n=40, channels=1, side=16):
    x = torch.randint(0, 60, (n, channels, side, side), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    y = torch.arange(n) % 2
    for i in range(n): x[i, :, 4*int(y[i]):4*int(y[i]) + 4] += 150
    return Images(x, y, ('top', 'below'))


def net(channels=1, seed=0):
    torch.manual_seed(seed)
    return small_cnn(2, channels, width=4)


def state(model): return torch.cat([v.double().flatten() for v in model.state_dict().values()])


QUICK = dict(epochs=2, batch_size=20, bar=False, precision='fp32')


def test_errors_are_likelihoods():
    g = torch.Generator().manual_seed(0)
    a, x = torch.randn(5, 3, 4, 6, dtype=torch.float64, generator=g), torch.rand(5, 3, 4, 6, dtype=torch.float64, generator=g)
    for sigma in (.05, 1.): assert torch.allclose(image_nll(a, x, sigma), -Normal(a.sigmoid(), sigma).log_prob(x).sum((1, 2, 3)), rtol=1e-12)
    assert torch.allclose(image_nll(a, x.round()), -Bernoulli(logits=a).log_prob(x.round()).sum((1, 2, 3)), rtol=1e-12)
    assert image_nll(a.bfloat16(), x.float()).dtype == torch.float32, 'a sum over the pixels of an image is not taken in bf16'


def test_divergence_and_draws():
    mu, logvar = torch.randn(2, 7, 4, dtype=torch.float64, requires_grad=True)
    assert torch.allclose(gaussian_kl(mu, logvar), kl_divergence(Normal(mu, (logvar/2).exp()), Normal(torch.zeros_like(mu), torch.ones_like(mu))), rtol=1e-12)
    assert gaussian_kl(torch.zeros(2, 3), torch.zeros(2, 3)).abs().max() == 0
    z = reparametrise(mu, logvar, torch.Generator().manual_seed(0))
    by_mu, by_logvar = torch.autograd.grad(z.sum(), (mu, logvar))
    assert torch.equal(by_mu, torch.ones_like(mu)) and torch.allclose(by_logvar, (z - mu)/2)
    many = reparametrise(torch.full((200_000, 1), 2.), torch.full((200_000, 1), math.log(9.)), torch.Generator().manual_seed(0))
    assert abs(many.mean() - 2) < .04 and abs(many.std() - 3) < .03


def test_masking():
    x = torch.ones(200, 3, 16, 16)
    a, b = (mask_pixels(x, .3, torch.Generator().manual_seed(s)) for s in (0, 0))
    assert torch.equal(a, b) and torch.equal(a[:, 0], a[:, 2]) and abs((a == 0).float().mean() - .3) < .01
    assert torch.equal(mask_pixels(x, 0.), x)


@pytest.mark.parametrize('size', [1, 4, 8, 15, 28, 32, 64, (30, 100), 224])
def test_decoder_meets_any_size(size):
    h, w = size if isinstance(size, tuple) else (size, size)
    assert Decoder(5, 3, size, width=2)(torch.zeros(2, 5)).shape == (2, 3, h, w)


def test_every_pixel_is_reached_by_the_code():
    for size in (28, 32, 50):
        torch.manual_seed(0)
        d = Decoder(3, 1, size).eval()
        x = d(torch.randn(64, 3))
        assert x.std(0).min() > 0, 'the margin that is cut off belongs to no image'


@pytest.mark.parametrize('kind', [Autoencoder, VariationalAutoencoder])
@pytest.mark.parametrize('build', [lambda c: small_cnn(2, c, width=4), lambda c: resnet18(2, c, stem='cifar', width=4), lambda c: vit_tiny(2, c, 32, 8, 16, 1, 2)])
def test_any_encoder_and_size(kind, build):
    for channels, side in ((1, 32), (3, 32)):
        auto, x = kind(build(channels), channels, side, code=6), torch.rand(3, channels, side, side)
        out = auto(x)
        assert out.shape == x.shape and 0 <= out.min() and out.max() <= 1
        assert auto.encode(x).shape == (3, 6) and embed(auto, x).shape == (3, 6) and auto.dim == 6
        loss = ReconstructionStep(auto.coder)(auto.encoder, (x, None))
        loss.backward()
        assert next(auto.encoder.parameters()).grad.abs().sum() >= 0 and auto.encoder.head.weight.grad is None


@pytest.mark.parametrize('channels,side', [(1, 28), (3, 32), (3, 64), (4, 20)])
def test_pretraining_on_images_of_several_kinds(channels, side):
    for variational in (False, True):
        h = pretrain_autoencoder(net(channels), images(8, channels, side), 1, 4, variational=variational, noise=.3, bar=False)
        assert len(h.steps) == 2 and all(math.isfinite(r['loss']) for r in h.steps)


@pytest.mark.parametrize('options', [{}, {'noise': .5}, {'variational': True}, {'code': 3, 'sigma': .3}])
def test_pretraining_lowers_the_loss_and_leaves_head_and_labels_alone(options):
    model, data = net(), images()
    head, flags = model.head.weight.clone(), [p.requires_grad for p in model.parameters()]
    history = pretrain_autoencoder(model, data, **QUICK | {'epochs': 8}, lr=1e-2, **options)
    assert torch.equal(model.head.weight, head) and [p.requires_grad for p in model.parameters()] == flags
    assert history.epochs[-1]['loss'] < history.epochs[0]['loss'] and data.labels is not None and len(history.steps) == 16


def test_the_same_seed_gives_the_same_weights_and_labels_do_not_matter():
    runs, x = [], images()
    for data in (x, Images(x.images), x.floats(), x):
        model = net(); before = torch.get_rng_state()
        pretrain_autoencoder(model, data, noise=.5, augment=Augment(degrees=10), **QUICK)
        assert torch.equal(torch.get_rng_state(), before), 'random numbers outside are not touched'
        runs.append(state(model))
    assert all(torch.equal(runs[0], r) for r in runs)
    other = net(); pretrain_autoencoder(other, x, noise=.5, augment=Augment(degrees=10), seed=1, **QUICK)
    assert not torch.equal(runs[0], state(other))


@pytest.mark.parametrize('variational', [False, True])
def test_a_whole_autoencoder_is_trained_as_its_encoder_alone(variational):
    alone, inside = net(), net()
    pretrain_autoencoder(alone, images(), variational=variational, **QUICK)
    torch.manual_seed(0)
    whole = (VariationalAutoencoder if variational else Autoencoder)(inside, 1, 16)
    error = reconstruction_error(whole, images())
    pretrain_autoencoder(whole, images(), variational=variational, **QUICK)
    assert torch.equal(state(alone), state(inside)) and reconstruction_error(whole, images()) < error


def test_the_network_sees_noise_and_the_target_is_clean():
    class Spy(nn.Module):
        def features(self, x): self.seen = x; return x.flatten(1)
    class Target(nn.Module):
        def loss(self, h, x): self.target = x; return h.sum()
    spy, target, x = Spy(), Target(), torch.rand(4, 1, 8, 8)
    ReconstructionStep(target, lambda x: 0*x)(spy, (x, None))
    assert spy.seen.abs().sum() == 0 and torch.equal(target.target, x)
    ReconstructionStep(target)(spy, x)
    assert torch.equal(spy.seen, x), 'a batch of images alone is taken too'


def test_the_bound_and_its_parts():
    torch.manual_seed(0)
    vae, x = VariationalAutoencoder(small_cnn(2, 1, width=4), 1, 16, 5).eval(), torch.rand(6, 1, 16, 16).round()
    seeded = lambda: torch.Generator().manual_seed(3)
    with torch.no_grad():
        parts, (mu, logvar) = vae.elbo(x, seeded()), vae.posterior(x)
        z = reparametrise(mu, logvar, seeded())
        by_hand = Bernoulli(vae.decode(z)).log_prob(x).sum((1, 2, 3)) - kl_divergence(Normal(mu, (logvar/2).exp()), Normal(0., 1.)).sum(1)
        assert torch.allclose(parts['elbo'], by_hand, rtol=1e-5) and torch.equal(parts['elbo'], parts['likelihood'] - parts['kl']) and parts['elbo'].shape == (6,)
        for beta in (0., 1., 4.):
            vae.coder.beta = beta
            torch.manual_seed(3); loss = vae.coder.loss(vae.encoder.features(x), x)
            assert torch.isclose(loss, (beta*parts['kl'] - parts['likelihood']).mean(), rtol=1e-5)


def test_the_bound_lies_below_the_likelihood():
    "With a code of one number log p(x) can be integrated."
    torch.manual_seed(0)
    vae, x = VariationalAutoencoder(small_cnn(2, 1, width=4), 1, 8, 1).eval(), torch.rand(3, 1, 8, 8).round()
    with torch.no_grad():
        grid = torch.linspace(-8, 8, 2001)[:, None]
        decoded = vae.decode(grid)
        evidence = torch.stack([(Bernoulli(decoded).log_prob(v.expand_as(decoded)).sum((1, 2, 3)) + Normal(0., 1.).log_prob(grid[:, 0])).logsumexp(0) + math.log(16/2000) for v in x])
        bound = torch.stack([vae.elbo(x, torch.Generator().manual_seed(s))['elbo'] for s in range(400)]).mean(0)
    assert (bound < evidence + .05).all() and (bound > evidence - 5).all()


def test_a_large_beta_leaves_nothing_in_the_code():
    kl = {}
    for beta in (0.1, 1000.):
        vae = VariationalAutoencoder(net(), 1, 16, 4)
        pretrain_autoencoder(vae, images(), **QUICK | {'epochs': 15}, lr=1e-2, beta=beta)
        with torch.no_grad(): kl[beta] = vae.eval().elbo(images().floats())['kl'].mean()
    assert kl[1000.] < .1*kl[0.1]


def test_samples():
    vae = VariationalAutoencoder(net(), 3 - 2, 16, 4).eval()
    a, b = (vae.sample(5, torch.Generator().manual_seed(0)) for _ in range(2))
    assert a.shape == (5, 1, 16, 16) and torch.equal(a, b) and 0 <= a.min() and a.max() <= 1


def test_measuring_leaves_the_model_as_it_was():
    auto = Autoencoder(net(), 1, 16).train()
    before = state(auto)
    error = reconstruction_error(auto, images(), 7)
    assert auto.training and torch.equal(state(auto), before)
    with torch.no_grad(): by_hand = (auto.eval()(images().floats()) - images().floats()).square().mean().item()
    assert math.isclose(error, by_hand, rel_tol=1e-5)


def test_no_number_stops_names_the_step_and_keeps_the_checkpoint(tmp_path):
    calls = []
    def broken(x):
        calls.append(1)
        return x*float('nan') if len(calls) == 4 else x
    file = tmp_path/'auto.safetensors'
    with pytest.raises(InputError, match='step 4') as e: pretrain_autoencoder(net(), images(), noise=broken, checkpoint=file, **QUICK)
    assert file.name in str(e.value)
    kept = load_checkpoint(file)
    assert all(v.isfinite().all() for v in kept['model'].values()) and kept['epoch'] == 1
    fresh = net(seed=5); fresh.load_state_dict(kept['model'])   # the checkpoint's model is the encoder, ready to be fine-tuned


def test_resumed_is_the_same_as_never_stopped(tmp_path):
    options = QUICK | {'epochs': 3, 'noise': .5, 'variational': True}
    class Stop:
        def on_step(self, history, model):
            if len(history.steps) == 3: raise KeyboardInterrupt
    whole, parts, file = net(), net(), tmp_path/'auto.safetensors'
    pretrain_autoencoder(whole, images(), **options)
    with pytest.raises(KeyboardInterrupt): pretrain_autoencoder(parts, images(), checkpoint=file, every=1, callbacks=[Stop()], **options)
    again = net(seed=9)
    pretrain_autoencoder(again, images(), checkpoint=file, every=1, **options)
    assert torch.equal(state(whole), state(again))


BAD = {
    'no features': (lambda: pretrain_autoencoder(nn.Linear(2, 2), images(), 1), ['Linear', 'features']),
    'autoencoder of no encoder': (lambda: Autoencoder(nn.Linear(2, 2), 1, 28), ['Linear', 'features']),
    'one to learn from': (lambda: pretrain_autoencoder(net(), images(1), 1), ['1 image', 'at least 2']),
    'a batch of one': (lambda: pretrain_autoencoder(net(), images(), 1, 1, bar=False), ['batch of one', 'larger batch']),
    'other size': (lambda: pretrain_autoencoder(Autoencoder(net(), 1, 28), images(), 1), ['(1, 28, 28)', '(1, 16, 16)']),
    'other channels': (lambda: pretrain_autoencoder(Autoencoder(net(3), 3, 16), images(), 1), ['(3, 16, 16)', '(1, 16, 16)']),
    'channels of the network': (lambda: pretrain_autoencoder(net(3), images(), 1, bar=False), ['3 channel']),
    'no variance': (lambda: pretrain_autoencoder(Autoencoder(net(), 1, 16), images(), 1, variational=True), ['variational', 'VariationalAutoencoder']),
    'noise': (lambda: pretrain_autoencoder(net(), images(), 1, noise=1.5), ['noise=1.5', 'below 1']),
    'beta': (lambda: pretrain_autoencoder(net(), images(), 1, variational=True, beta=-1.), ['beta=-1']),
    'code': (lambda: pretrain_autoencoder(net(), images(), 1, code=0), ['code=0']),
    'sigma': (lambda: Coder(8, 1, 16, sigma=0.), ['sigma=0', 'above 0']),
    'size': (lambda: VariationalCoder(8, 1, 0), ['height=0']),
    'bytes': (lambda: pretrain_autoencoder(net(), images().images, 1), ['uint8', '[0, 1]']),
    'range': (lambda: pretrain_autoencoder(net(), images().images.float(), 1), ['[0, 1]', '255']),
    'nan in the images': (lambda: pretrain_autoencoder(net(), images().floats().log().sqrt(), 1), ['[0, 1]', 'NaN']),
    'diverged': (lambda: pretrain_autoencoder(net(), images(), 3, 20, lr=1e30, bar=False), ['step', 'lower the rate']),
    'nothing to rebuild': (lambda: reconstruction_error(Autoencoder(net(), 1, 16), torch.zeros(0, 1, 16, 16)), ['empty']),
    'shapes': (lambda: image_nll(torch.zeros(2, 1, 8, 8), torch.zeros(2, 1, 9, 9)), ['(2, 1, 8, 8)', '(2, 1, 9, 9)']),
    'no samples': (lambda: VariationalAutoencoder(net(), 1, 16).sample(0), ['n=0']),
}


@pytest.mark.parametrize('name', BAD)
def test_bad_input(name):
    call, words = BAD[name]
    with refused(words): call()


@pytest.mark.parametrize('kind', [Autoencoder, VariationalAutoencoder])
def test_on_another_device(kind):
    with fake_cuda():
        auto = kind(small_cnn(width=4), 1, 16, 4)
        fake_step(auto.encoder, (torch.rand(6, 1, 16, 16), None), ReconstructionStep(auto.coder, lambda x: mask_pixels(x, .5, torch.Generator('cpu'))))
        if kind is VariationalAutoencoder: assert auto.sample(2, torch.Generator('cpu')).device.type == 'cuda'
