"Diffusion and flow: identities in float64, samples whose distribution is known, guidance, faults, bad input."
import math

import pytest
import torch
from torch import nn
from torch.distributions import Normal

from fake_cuda import fake_cuda
from helpers import fake_step, refused, sentence
from visft_nb.core import InputError
from visft_nb.deploy import load_model, save_model
from visft_nb.generate import Denoiser, Diffusion, FlowMatching, NoiseStep, PointDenoiser, guided
from visft_nb.generate.denoiser import check_classes, check_noisy, first_noise, time_features
from visft_nb.generate.noise import SCHEDULES
from visft_nb.train import fit

pytestmark = pytest.mark.filterwarnings('ignore')
MEAN, SPREAD = .4, .3   # of the Gaussian whose noise is known exactly


def gen(seed=0): return torch.Generator().manual_seed(seed)


def doubles(*shape, seed=0): return torch.randn(*shape, dtype=torch.float64, generator=gen(seed))


class Exact(nn.Module):
    "The best model for data that are Normal(MEAN, SPREAD)."
    def __init__(self, process): super().__init__(); self.process = process
    def forward(self, x, t, y=None):
        if isinstance(self.process, Diffusion):
            k = (t*self.process.steps).round().long()
            a, n = self.process.levels(k, x)
        else:
            t = t.clamp(min=1e-6)   # 0/0 at the clean end
            a, n = (v.view(-1, *[1]*(x.ndim - 1)) for v in (1 - t, t))
        x0 = MEAN + a*SPREAD**2/(a**2*SPREAD**2 + n**2)*(x - a*MEAN)
        if isinstance(self.process, Diffusion): return (x - a*x0)/n
        return (x - x0)/t.view_as(a)


class Linear(nn.Module):
    "Says a number for each class, and counts its calls."
    classes, calls = 3, 0
    def forward(self, x, t, y=None):
        self.calls += 1
        y = torch.full((len(x),), self.classes) if y is None else y
        return x + y.to(x).view(-1, *[1]*(x.ndim - 1))


@pytest.mark.parametrize('schedule', SCHEDULES)
@pytest.mark.parametrize('steps', [1, 7, 1000])
def test_schedules(steps, schedule):
    p = Diffusion(steps, schedule)
    assert len(p.alpha_bar) == len(p.beta) == steps + 1 and p.alpha_bar[0] == 1
    assert (p.alpha_bar[1:] < p.alpha_bar[:-1]).all() and (p.alpha_bar > 0).all()
    if steps > 1: assert p.alpha_bar[-1] < 1e-3, 'nothing is left at the end'


def test_published_schedule():
    assert torch.allclose(Diffusion(1000).beta[1:], torch.linspace(1e-4, .02, 1000, dtype=torch.float64))
    u = torch.arange(1001).double()/1000
    f = torch.cos((u + .008)/1.008*math.pi/2)**2
    assert torch.allclose(Diffusion(1000, 'cosine').alpha_bar[:-1], (f/f[0])[:-1], rtol=1e-9)


@pytest.mark.parametrize('schedule', SCHEDULES)
def test_leap_is_the_steps(schedule):
    p, x0 = Diffusion(50, schedule), doubles(3, 2)
    x, total = x0, torch.zeros_like(x0)
    for t in range(1, 41):
        e, a = doubles(3, 2, seed=t), 1 - p.beta[t]
        x, total = a.sqrt()*x + (1 - a).sqrt()*e, a.sqrt()*total + (1 - a).sqrt()*e
    noise = total/(1 - p.alpha_bar[40]).sqrt()
    assert torch.allclose(p.noised(x0, 40, noise), x, atol=1e-12)
    assert torch.allclose(p.noise_of(x, 40, x0), noise, atol=1e-9) and torch.allclose(p.clean_of(x, 40, noise), x0, atol=1e-9)
    assert torch.equal(p.noised(x0, 0, noise), x0)


def test_each_picture_its_own_step():
    p, x, e = Diffusion(20), doubles(3, 1, 2, 2), doubles(3, 1, 2, 2, seed=1)
    together = p.noised(x, torch.tensor([1, 10, 20]), e)
    for i, t in enumerate((1, 10, 20)): assert torch.equal(together[i], p.noised(x[i:i + 1], t, e[i:i + 1])[0])


@pytest.mark.parametrize('t, s', [(2, 1), (50, 49), (50, 10), (30, 0)])
def test_posterior_is_bayes(t, s):
    p, x0, x_s, x_t = Diffusion(50), *(doubles(5, seed=i) for i in range(3))
    q = lambda x, a: Normal(a.sqrt()*x, (1 - a).sqrt())
    mean, variance = p.posterior(x_t, t, x0, s)
    if s == 0:
        assert variance == 0 and torch.allclose(mean, x0)
        return
    bayes = q(x_s, p.alpha_bar[t]/p.alpha_bar[s]).log_prob(x_t) + q(x0, p.alpha_bar[s]).log_prob(x_s) - q(x0, p.alpha_bar[t]).log_prob(x_t)
    assert torch.allclose(Normal(mean, variance**.5).log_prob(x_s), bayes, rtol=1e-9)


def test_ddpm_step_is_ho_et_al():
    p, x, e, t = Diffusion(100), doubles(100_000), doubles(100_000, seed=1), 60
    b = p.beta[t]
    mean = (x - b/(1 - p.alpha_bar[t]).sqrt()*e)/(1 - b).sqrt()
    off = p.step(x, t, t - 1, e, eta=1., generator=gen()) - mean
    want = (1 - p.alpha_bar[t - 1])/(1 - p.alpha_bar[t])*b
    assert abs(off.var()/want - 1) < .03 and abs(off.mean()) < .02
    assert torch.equal(p.step(x, t, 0, e, eta=1.), p.clean_of(x, t, e)), 'the last step draws nothing'


@pytest.mark.parametrize('p, how', [(Diffusion(200), dict(steps=200, eta=0.)), (Diffusion(200), dict(steps=200, eta=1.)), (Diffusion(200, 'cosine'), dict(steps=100, eta=1.)), (FlowMatching(), dict(steps=100))])
def test_samples_are_distributed_as_the_data(p, how):
    x = p.sample(Exact(p), (4000, 2), start=doubles(4000, 2), generator=gen(), precision='fp32', **({'clip': False} if isinstance(p, Diffusion) else {}), **how)
    assert abs(x.mean() - MEAN) < .03 and abs(x.std() - SPREAD) < .03


def test_ddim_repeats_itself_and_ddpm_follows_its_generator():
    p, shape = Diffusion(50), (3, 2)
    net = Exact(p)
    ddim = [p.sample(net, shape, steps=10, start=doubles(*shape)) for _ in range(2)]
    assert torch.equal(*ddim)
    ddpm = [p.sample(net, shape, steps=10, eta=1., generator=gen(s)) for s in (0, 0, 1)]
    assert torch.equal(*ddpm[:2]) and not torch.equal(*ddpm[1:])
    state = torch.random.get_rng_state()
    p.sample(net, shape, steps=10, eta=1., generator=gen())
    assert torch.equal(state, torch.random.get_rng_state()), 'a generator of its own leaves the others alone'


def test_inverse_error_falls_with_the_steps():
    x0 = MEAN + SPREAD*doubles(200, 2)
    for p, how in ((Diffusion(1000), dict(clip=False)), (FlowMatching(), {})):
        net, error = Exact(p), []
        for steps in (20, 200):
            noise = p.invert(net, x0, steps=steps)
            assert abs(noise.std() - 1) < .2
            error.append((p.sample(net, (200, 2), steps=steps, start=noise, **how) - x0).abs().mean())
        assert error[1] < .3*error[0] and error[1] < .02


def test_times():
    assert Diffusion(10).times(10) == list(range(10, -1, -1)) and Diffusion(1000).times(4) == [1000, 750, 500, 250, 0]
    assert all(a > b for n in range(1, 98) for a, b in zip(Diffusion(97).times(n), Diffusion(97).times(n)[1:]))


def test_clip_keeps_guesses_in_range():
    p = Diffusion(50)
    x = p.sample(Linear(), (4, 1, 2, 2), steps=5, start=10*doubles(4, 1, 2, 2))
    assert x.abs().max() <= 1


def test_guidance():
    net, x, y = Linear(), doubles(4, 1, 2, 2), torch.tensor([0, 1, 2, 2])
    told, untold = net(x, None, y), net(x, None)
    assert torch.equal(guided(net, x, .5, y), told) and torch.equal(guided(net, x, .5, y, 0), untold) and torch.equal(guided(net, x, .5, None), untold)
    net.calls = 0
    assert torch.allclose(guided(net, x, .5, y, 3.), untold + 3*(told - untold)) and net.calls == 1, 'both in one pass'


def test_flow_is_a_line():
    f, x0, e = FlowMatching(), doubles(3, 2), doubles(3, 2, seed=1)
    assert torch.equal(f.at(x0, 0., e), x0) and torch.equal(f.at(x0, 1., e), e)
    assert torch.allclose(f.at(x0, torch.tensor([.0, .5, 1.]), e), torch.stack([x0[0], (x0[1] + e[1])/2, e[2]]))
    one = nn.Module(); one.forward = lambda x, t, y=None: torch.ones_like(x)
    assert torch.allclose(f.sample(one, (3, 2), steps=7, start=x0), x0 - 1)


@pytest.mark.parametrize('process', [Diffusion(100), FlowMatching()])
def test_loss_is_the_squared_error(process):
    class Zero(nn.Module):
        def forward(self, x, t, y=None):
            assert x.shape == (20_000, 2) and t.shape == (20_000,) and 0 <= t.min() <= t.max() <= 1
            return torch.zeros_like(x)
    torch.manual_seed(0)
    loss = process.loss(Zero(), torch.full((20_000, 2), .5))
    assert abs(loss - (1 if isinstance(process, Diffusion) else 1.25)) < .05 and loss.dtype == torch.float32


@pytest.mark.parametrize('process', [Diffusion(100), FlowMatching()])
def test_training_lowers_the_loss(process):
    torch.manual_seed(0)
    x = torch.full((64, 1, 8, 8), .2)
    x[1::2] = .8
    net, batches = Denoiser(classes=2, width=8), [(x, torch.arange(64) % 2)]*10
    h = fit(net, batches, epochs=6, loss=NoiseStep(process), lr=5e-3, bar=False, precision='fp32')
    assert h.epochs[-1]['loss'] < .8*h.epochs[0]['loss']
    out = process.sample(net, (2, 1, 8, 8), torch.tensor([0, 1]), steps=3, guidance=2.)
    assert out.shape == (2, 1, 8, 8) and out.dtype == torch.float32 and net.training is True


def test_hidden_classes():
    seen = []
    class Watch(nn.Module):
        classes = 3
        def forward(self, x, t, y=None): seen.append(y); return x
    batch = torch.rand(1000, 1, 2, 2), torch.arange(1000) % 3
    torch.manual_seed(0)
    for drop in (0., .2, 1.): NoiseStep(Diffusion(10), drop)(Watch(), batch)
    hidden = [(y == 3).float().mean().item() for y in seen]
    assert hidden[0] == 0 and abs(hidden[1] - .2) < .05 and hidden[2] == 1
    NoiseStep(Diffusion(10))(PointDenoiser(width=4, depth=1), (torch.rand(4, 2), None))


def test_nan_names_its_step():
    x = torch.rand(4, 1, 8, 8)
    bad = [(x, torch.arange(4)), (x*math.nan, torch.arange(4))]
    net = Denoiser(classes=4, width=4)
    with refused(['step 2', 'nan']): fit(net, bad, epochs=1, loss=NoiseStep(Diffusion(10)), bar=False)
    assert all(p.isfinite().all() for p in net.parameters()), 'the weights are those before the step'
    with torch.no_grad(): next(net.parameters()).fill_(math.nan)
    for p in (Diffusion(10), FlowMatching()): sentence(lambda p=p: p.sample(net, (1, 1, 8, 8), steps=2), 'no number')


def test_denoiser():
    torch.manual_seed(0)
    net = Denoiser(classes=5, width=8, depth=2)
    x, t, y = torch.randn(3, 1, 8, 12), torch.rand(3), torch.tensor([0, 4, 5])
    assert net(x, t, y).std() < 1e-6, 'it begins by saying the same of all'
    for p in net.parameters(): p.data += .1*torch.randn(p.shape, generator=gen())
    out = net(x, t, y)
    assert torch.allclose(net(x, t), net(x, t, torch.tensor([5, 5, 5])), atol=1e-6)
    assert torch.allclose(out[1:2], net(x[1:2], t[1:2], y[1:2]), atol=1e-5), 'pictures do not see each other'
    assert not torch.allclose(out, net(x, 1 - t, y), atol=1e-4) and not torch.allclose(out, net(x, t, y.flip(0)), atol=1e-4)
    out.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    assert time_features(t, 8).shape == (3, 8)


def test_saved_and_loaded(tmp_path):
    torch.manual_seed(0)
    net = Denoiser(classes=4, width=8)
    for p in net.parameters(): p.data += .1*torch.randn(p.shape, generator=gen())
    save_model(net, tmp_path/'noise.safetensors')
    back = load_model(tmp_path/'noise.safetensors')
    draw = lambda n: Diffusion(20).sample(n, (2, 1, 8, 8), torch.tensor([1, 3]), steps=4, generator=gen(), precision='fp32')
    assert type(back) is Denoiser and torch.equal(draw(net), draw(back))


def test_on_a_gpu():
    with fake_cuda():
        net = Denoiser(classes=4, width=8)
        batch = torch.rand(4, 1, 8, 8), torch.arange(4)
        for p in (Diffusion(20), FlowMatching()): fake_step(net, batch, NoiseStep(p))


def test_a_forced_precision(monkeypatch):
    for precision in ('bf16', 'fp32'):
        monkeypatch.setenv('VISFT_PRECISION', precision)
        torch.manual_seed(0)
        x = Diffusion(20).sample(Denoiser(width=8), (2, 1, 8, 8), steps=4)
        assert x.dtype == torch.float32 and x.isfinite().all()


def test_bad_processes_and_steps():
    p, x = Diffusion(10), torch.zeros(3, 2)
    for steps in (0, -1, 2.5, None): sentence(lambda steps=steps: Diffusion(steps), 'steps')
    sentence(lambda: Diffusion(10, 'cosin'), 'cosine')
    for beta in ([.1]*9, [0.]*10, [1.]*10): sentence(lambda beta=beta: Diffusion(10, beta), '10 variances')
    for t in (-1, 11, torch.tensor([0, 5, 11])): sentence(lambda t=t: p.noised(x, t, x), '10')
    for t in (torch.tensor([1, 2]), torch.tensor([.1, .2, .3]), .5): sentence(lambda t=t: p.noised(x, t, x), 'number of a step')
    for s, t in ((3, 3), (4, 3), (-1, 3), (5, 11)): sentence(lambda s=s, t=t: p.posterior(x, t, x, s), 'earlier step')
    for call in (p.noised, lambda a, t, b: p.clean_of(a, t, b), lambda a, t, b: p.noise_of(a, t, b), p.posterior, lambda a, t, b: FlowMatching().at(a, .5, b)):
        sentence(lambda call=call: call(x, 3, torch.zeros(3, 3)), 'same shape')
    for t in (-.1, 1.5, torch.tensor([0., .5, 2.])): sentence(lambda t=t: FlowMatching().at(x, t, x), '0, clean')
    sentence(lambda: FlowMatching().at(x, torch.tensor([.1, .2]), x), 'shape (2,)')


@pytest.mark.parametrize('p', [Diffusion(10), FlowMatching()])
def test_bad_samples(p):
    net, shape, y = Denoiser(classes=3, width=4), (2, 1, 4, 4), torch.tensor([0, 2])
    for steps in (0, -1, 2.5): sentence(lambda steps=steps: p.sample(net, shape, steps=steps), 'steps')
    for bad in (-.5, math.nan, None): sentence(lambda bad=bad: p.sample(net, shape, y, steps=2, guidance=bad), 'guidance')
    sentence(lambda: p.sample(net, shape, steps=2, guidance=2.), 'without classes')
    for bad in (torch.tensor([0, 3]), torch.tensor([-1, 0])): sentence(lambda bad=bad: p.sample(net, shape, bad, steps=2), '0 to 2')
    for bad in (torch.tensor([0]), torch.tensor([0., 1.]), [0, 1], 1): sentence(lambda bad=bad: p.sample(net, shape, bad, steps=2), 'y is')
    sentence(lambda: p.sample(Denoiser(width=4), shape, y, steps=2), 'none')
    for bad in (2, (2,), (0, 1, 4, 4), (2, 1, 4., 4)): sentence(lambda bad=bad: p.sample(net, bad, steps=2), 'shape')
    sentence(lambda: p.sample(net, shape, steps=2, start=torch.zeros(2, 1, 4, 5)), 'start')
    sentence(lambda: p.sample(net, (2, 3, 4, 4), steps=2), '(N, 1, H, W)')
    sentence(lambda: p.invert(net, torch.zeros(0, 1, 4, 4), steps=2), '')


def test_more_steps_than_there_are():
    net = Denoiser(width=4)
    for steps in (11, 1000):
        sentence(lambda steps=steps: Diffusion(10).sample(net, (1, 1, 4, 4), steps=steps), 'steps', '10')
        sentence(lambda steps=steps: Diffusion(10).invert(net, torch.zeros(1, 1, 4, 4), steps=steps), 'steps', '10')
    for eta in (-1, 1.5, math.nan): sentence(lambda eta=eta: Diffusion(10).sample(net, (1, 1, 4, 4), steps=2, eta=eta), 'eta')
    for drop in (-.1, 2): sentence(lambda drop=drop: NoiseStep(Diffusion(10), drop), 'drop')


def test_bad_networks_and_inputs():
    for bad in (dict(width=0), dict(classes=-1), dict(depth=-1), dict(channels=1.5)): sentence(lambda bad=bad: Denoiser(**bad), 'whole number')
    for bad in (dict(dim=0), dict(depth=0), dict(waves=-1)): sentence(lambda bad=bad: PointDenoiser(**bad), 'whole number')
    net, x, t = Denoiser(classes=3, width=4), torch.zeros(2, 1, 4, 4), torch.rand(2)
    for bad in (torch.zeros(2, 3, 4, 4), torch.zeros(2, 1, 5, 4), torch.zeros(2, 16)): sentence(lambda bad=bad: net(bad, t), 'pictures of shape')
    for bad in (torch.rand(3), .5, torch.rand(2, 1)): sentence(lambda bad=bad: net(x, bad), 'times')
    sentence(lambda: net(x, torch.tensor([.5, 40.])), '40', '0, clean')
    for bad in (torch.tensor([0, 4]), torch.tensor([-1, 0])): sentence(lambda bad=bad: net(x, t, bad), '0 to 2')
    sentence(lambda: net(x, t, torch.tensor([0., 1.])), 'int64')
    sentence(lambda: PointDenoiser(width=4, depth=1)(torch.zeros(2, 3), t), '(N, 2)')
    check_noisy(x, t, None, 0); check_classes(net, 2, torch.tensor([0, 2]), 1.5)
    assert first_noise(net, (2, 3), torch.zeros(2, 3).double()).dtype == torch.float64
    assert isinstance(pytest.raises(InputError, first_noise, net, 'ab').value, ValueError)
