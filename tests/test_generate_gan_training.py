"The loop with two optimisers: resumption bit for bit, numbers that are none, a discriminator that wins, files of another run."
import warnings
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from helpers import sentence
from visft_nb.core import InputError
from visft_nb.data import Images
from visft_nb.generate import GanTrainer, image_draw, make_gan


def step(gan, x, generator):
    z = torch.randn(len(x), 3, generator=generator).to(gan.device)
    gan.generator.train(), gan.discriminator.train()
    fake = gan.generator(z)
    d = (F.softplus(-gan.discriminator(x)) + F.softplus(gan.discriminator(fake.detach()))).mean()
    gan.d_optimizer.zero_grad(); d.backward(); gan.d_optimizer.step()
    g = F.softplus(-gan.discriminator(fake)).mean()
    gan.g_optimizer.zero_grad(); g.backward(); gan.g_optimizer.step()
    return {'d': d.detach(), 'g': g.detach()}


def nets(seed=0, width=8, **how):
    torch.manual_seed(seed)
    g = nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.Dropout(.5), nn.ReLU(), nn.Linear(width, 64), nn.Tanh(), nn.Unflatten(1, (1, 8, 8)))
    d = nn.Sequential(nn.Conv2d(1, 4, 3, 2), nn.LeakyReLU(.2), nn.Flatten(), nn.Dropout(.2), nn.Linear(36, 1))
    return make_gan(g, d, lr=1e-3, device='cpu', **how)


def pictures(n=50): return Images(torch.randint(0, 255, (n, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8))


def trainer(gan=None, step=step, draw=None, **how): return GanTrainer(gan or nets(), step, draw or image_draw(pictures(), 16, 'cpu'), **how)


def same(a, b):
    flat = lambda v: [w for x in (v.values() if isinstance(v, dict) else v) for w in flat(x)] if isinstance(v, (dict, list, tuple)) else [v]
    return all(torch.equal(x, y) if torch.is_tensor(x) else x == y for x, y in zip(flat(a), flat(b), strict=True))


def test_goes_on_bit_for_bit(tmp_path):
    "Two optimisers, batch norm, dropout from torch's own generator, a stop that is no multiple of anything."
    whole = trainer(); whole.run(60)
    file = tmp_path/'gan.safetensors'
    trainer(checkpoint=file, every=7).run(31)
    torch.rand(100)
    second = trainer(nets(seed=5), checkpoint=file, every=7)   # other weights: all come from the file
    assert second.done == 31 and len(second.losses['d']) == 31
    assert second.run(60) == whole.losses and same(second.gan.states(), whole.gan.states())
    third = trainer(); [third.run(n) for n in (1, 20, 20, 60)]
    assert third.losses == whole.losses, 'in parts of one trainer'
    assert trainer(seed=1).run(5) != {k: v[:5] for k, v in whole.losses.items()}


def test_random_numbers_outside_are_left_alone():
    torch.manual_seed(3); expected = torch.rand(4)
    a = trainer()
    torch.manual_seed(3); a.run(5)
    assert torch.equal(torch.rand(4), expected)


def test_killed_in_a_step_goes_on_from_the_file(tmp_path):
    file = tmp_path/'gan.safetensors'
    def stops(gan, x, generator):
        if t.done == 17: raise KeyboardInterrupt
        return step(gan, x, generator)
    t = trainer(step=stops, checkpoint=file, every=10)
    with pytest.raises(KeyboardInterrupt): t.run(40)
    again = trainer(checkpoint=file)
    assert again.done == 10 and again.run(40) == trainer().run(40)


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
@pytest.mark.parametrize('which', ['d', 'g'])
def test_no_number_stops_with_the_step_and_the_last_good_state(tmp_path, which, value):
    file = tmp_path/'gan.safetensors'
    def breaks(gan, x, generator):
        row = step(gan, x, generator)
        return row | {which: torch.tensor(value)} if t.done == 24 else row
    t = trainer(step=breaks, checkpoint=file, every=10)
    sentence(lambda: t.run(40), 'step 25', f'loss {which} is', 'after step 20', str(file), 'Lower the rates')
    good = trainer(); good.run(20)
    assert t.done == 20 and same(t.gan.states(), good.gan.states()) and same(trainer(checkpoint=file).gan.states(), good.gan.states())
    t.step = step
    assert t.run(40) == trainer().run(40), 'and it goes on from there'


def test_weights_that_break_at_the_last_step_are_not_kept():
    def breaks(gan, x, generator):
        row = step(gan, x, generator)
        if t.done == 19: gan.generator[0].weight.data[0, 0] = torch.nan
        return row
    t = trainer(step=breaks, every=10)
    sentence(lambda: t.run(20), 'step 20', '0.weight of the generator', 'after step 10')
    assert t.done == 10 and all(v.isfinite().all() for v in t.gan.generator.state_dict().values())


def test_a_discriminator_that_wins_is_said_once():
    def wins(gan, x, generator): return {'d': torch.tensor(.0099 if t.done > 50 else 1.), 'g': torch.tensor(9.)}
    t = trainer(step=wins)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        t.run(250); assert not said and t.won is None
        t.run(900)
    assert len(said) == 1 and t.won == 251 and all(w in str(said[0].message) for w in ('has won', '200 steps', 'step 251', 'R1', 'spectral'))
    for how in (dict(floor=None), dict(floor=.009)):
        t = trainer(step=wins, **how)
        with warnings.catch_warnings(): warnings.simplefilter('error'); t.run(400)


def test_the_count_of_low_losses_survives_a_pause(tmp_path):
    def wins(gan, x, generator): return {'d': torch.tensor(0.), 'g': torch.tensor(9.)}
    file = tmp_path/'gan.safetensors'
    trainer(step=wins, checkpoint=file).run(150)
    t = trainer(step=wins, checkpoint=file)
    with pytest.warns(UserWarning, match='up to step 200'): t.run(200)


def test_files_of_another_run(tmp_path):
    file = tmp_path/'gan.safetensors'
    trainer(checkpoint=file).run(3)
    sentence(lambda: trainer(checkpoint=file, seed=1), 'seed=0', 'seed=1')
    sentence(lambda: trainer(nets(width=9), checkpoint=file), 'generator', 'another architecture')
    from visft_nb.train import save_checkpoint
    save_checkpoint(tmp_path/'other.safetensors', a=1)
    sentence(lambda: trainer(checkpoint=tmp_path/'other.safetensors'), 'lacks', 'GanTrainer')


def test_bad_input():
    sentence(lambda: trainer(step=lambda *a: None).run(1), 'None', "'d' and 'g'")
    sentence(lambda: trainer(step=lambda *a: {'d': 1.}).run(1), "'g'")
    for how in (dict(every=0), dict(patience=.5), dict(seed=-1), dict(floor=-1)): sentence(partial(trainer, **how), next(iter(how)))
    sentence(lambda: trainer().run(-1), 'steps=-1')
    sentence(lambda: nets(d_lr=0), 'd_lr=0')
    sentence(lambda: image_draw([1, 2]), 'list', '(N, C, H, W)')
    sentence(lambda: image_draw(torch.zeros(3, 4)), 'Tensor')
    sentence(lambda: image_draw(pictures(), 0), 'batch_size=0')


def test_draws_reach_from_minus_one_to_one():
    x = image_draw(Images(torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1)), 50, 'cpu')(0, torch.Generator().manual_seed(0))
    assert set(x.flatten().tolist()) == {-1., 1.} and x.shape == (50, 1, 1, 1)
    assert image_draw(torch.full((2, 1, 1, 1), .3), 3, 'cpu')(0, torch.Generator()).unique().tolist() == [pytest.approx(.3)]


def test_step_errors_keep_their_kind():
    def fails(*a): raise InputError('The batch is odd.')
    sentence(lambda: trainer(step=fails).run(1), 'The batch is odd.')
