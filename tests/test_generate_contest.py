"The contest's trainers: one interface, seeds, bad input."
import pytest
import torch

from visft_nb.core import InputError
from visft_nb.data import load_dataset
from visft_nb.generate.contest import (
    race_cache, race_precision, repeat_images, train_codes, train_diffusion, train_flow,
    train_gan, train_vae)


@pytest.fixture(scope='module')
def digits(): return load_dataset('digits', 'train')[:128]


@pytest.mark.parametrize('make', [train_codes, train_gan, train_flow, train_vae])
def test_a_contestant_draws_by_its_seed(make, digits):
    c = make(digits, 1)
    x = c.sample(3, 1)
    assert x.shape == (3, 1, 8, 8) and x.min() >= 0 and x.max() <= 1
    assert torch.equal(x, c.sample(3, 1)) and not torch.equal(x, c.sample(3, 2))
    assert c.parameters > 0 and c.seconds > 0


def test_diffusion_has_one_network_and_two_samplers(digits):
    ddpm, ddim = train_diffusion(digits, 1, steps=3)
    assert ddpm.parameters == ddim.parameters
    assert not torch.equal(ddpm.sample(2), ddim.sample(2))


def test_copies_are_copies(digits):
    threes = digits.floats()[digits.labels == 3]
    x = repeat_images(digits, 3).sample(5)
    assert torch.cdist(x.flatten(1), threes.flatten(1)).min(1).values.max() < 1e-3
    with pytest.raises(InputError, match='label 11'): repeat_images(digits, 11)


@pytest.mark.parametrize('bad', [dict(epochs=0), dict(lr=0.), dict(seed=-1),
                                 dict(images=torch.zeros(99, 1, 8, 8))])
def test_bad_input_is_named(bad, digits):
    for make in (train_codes, train_gan, train_diffusion, train_flow, train_vae):
        with pytest.raises(InputError): make(**dict(images=digits, epochs=1) | bad)
    with pytest.raises(InputError): repeat_images(digits).sample(0)


def test_races_give_ratios():
    gain, gap = race_precision(8, 8, 1)
    assert gain > 0 and gap < .1
    assert len(race_cache(4, 2, 2, 16)) == 2
    with pytest.raises(InputError): race_precision(0)
