"Beyond the ball: universal changes, patches, corruptions, turns. Against peers and by properties; without side effects; a sentence for bad input."
import io, math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings, strategies as st
from PIL import Image
from torch import nn

from fake_cuda import fake_cuda
from visft_nb.cnn.models import small_cnn
from visft_nb.core import InputError
from visft_nb.data import affine, warp
from visft_nb.robust import (CORRUPTIONS, Placement, adversarial_patch, corrupt, corruption_errors, fooling_rate, mean_corruption_error,
                             patch_success, spatial_attack, universal)
from visft_nb.robust.beyond import _grid
from visft_nb.robust.placement import disc


def gen(seed=0): return torch.Generator().manual_seed(seed)


@pytest.fixture(scope='module')
def bars():
    "A network that tells four bars apart, in colour at 16 pixels."
    torch.manual_seed(0)
    y = torch.arange(96) % 4
    x = .4*torch.rand(96, 3, 16, 16)
    for i in range(4): x[y == i, :, :, 4*i:4*i + 4] += .4
    model = small_cnn(4, channels=3, width=8)
    opt = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(30):
        opt.zero_grad(); nn.functional.cross_entropy(model(x), y).backward(); opt.step()
    return model.eval(), x, y


def predictions(model, x):
    with torch.no_grad(): return model(x).argmax(1)


def test_universal_fools_images_it_has_not_seen(bars):
    model, x, y = bars
    for eps in (.05, .3):
        delta = universal(model, x[:48], eps, steps=25, batch_size=16, generator=gen())
        assert delta.shape == x[:1].shape and delta.abs().max() <= eps + 1e-6 and not delta.requires_grad
    rate = fooling_rate(model, x[48:], delta)
    signs = max(fooling_rate(model, x[48:], .3*torch.randn(x[:1].shape, generator=gen(i)).sign()) for i in range(3))
    assert rate > .6 and rate > signs + .2
    assert rate == (predictions(model, x[48:]) != predictions(model, (x[48:] + delta).clamp(0, 1))).double().mean()
    assert fooling_rate(model, x, 0*delta) == 0 and universal(model, x, 0., steps=2, generator=gen()).abs().max() == 0


def test_universal_of_a_linear_network_is_the_sign_of_its_weights():
    "Two classes, all images on one side: every gradient points the same way, so the answer is known."
    lin = nn.Linear(12, 2, bias=False)
    with torch.no_grad(): lin.weight[1] = -lin.weight[0]; lin.weight *= .1
    model, w = nn.Sequential(nn.Flatten(), lin), lin.weight[0].detach().view(1, 3, 2, 2)
    x = (.5 + .2*w.sign() + .05*torch.randn(20, 3, 2, 2, generator=gen())).clamp(.2, .8)
    delta = universal(model, x, .1, steps=10, batch_size=4, generator=gen(), precision='fp32')
    assert (predictions(model, x) == 0).all() and torch.allclose(delta, -.1*w.sign(), atol=1e-6)


def test_patch_wins_only_where_it_lies(bars):
    model, x, y = bars
    patch = adversarial_patch(model, x[:48], 2, (.85, .95), steps=40, side=16, batch_size=16, ink=(.1, .9), generator=gen())
    assert patch.shape == (3, 16, 16) and patch.min() >= .1 - 1e-6 and patch.max() <= .9 + 1e-6 and not patch.requires_grad
    won = patch_success(model, x[48:], patch, 2, .9, tries=4, generator=gen())
    assert won > .6 and won > patch_success(model, x[48:], torch.rand(3, 16, 16, generator=gen()), 2, .9, tries=4, generator=gen()) + .3
    assert won >= patch_success(model, x[48:], patch, 2, .2, tries=4, generator=gen()), 'a smaller patch should win less'


@settings(max_examples=25, deadline=None)
@given(size=st.floats(.1, 1), degrees=st.floats(0, 180), h=st.integers(12, 40), w=st.integers(12, 40), seed=st.integers(0, 99))
def test_the_patch_lies_inside_the_frame_and_changes_nothing_else(size, degrees, h, w, seed):
    x, patch = torch.full((4, 3, h, w), .5), torch.ones(3, 48, 48)
    out = Placement(size, degrees, 0, 0)(x, patch, gen(seed))
    assert out.shape == x.shape and out.min() >= .5 - 1e-6 and out.max() <= 1 + 1e-6
    area = ((out - .5)/.5)[:, 0].sum((1, 2))
    r = size*min(h, w)/2*47/48   # to the middle of the soft edge
    assert ((area - math.pi*r**2).abs() < .1*math.pi*r**2 + 2*r + 1).all(), 'the disc has another size, or was cut off'
    centre = ((out - .5)[:, 0].sum(2)*torch.arange(h)).sum(1)/(out - .5)[:, 0].sum((1, 2)).clamp(min=1e-9) + .5
    assert (centre > r - 1.5).all() and (centre < h - r + 1.5).all()


def test_gradients_reach_the_patch_and_stay_off_the_corners():
    patch = torch.rand(3, 16, 16, requires_grad=True)
    Placement(.5)(torch.rand(4, 3, 32, 32), patch, gen()).sum().backward()
    assert patch.grad[:, 8, 8].abs().min() > 1 and patch.grad[:, 0, 0].abs().max() < 1e-3
    assert disc(patch)[0, 8, 8] == 1 and disc(patch)[0, 0, 0] == 0


@pytest.mark.parametrize('shape', [(3, 1, 28, 28), (2, 3, 37, 50)])
@pytest.mark.parametrize('kind', CORRUPTIONS)
def test_corruptions_are_images_grow_and_repeat(kind, shape):
    x = torch.rand(shape, generator=gen(1))
    x = nn.functional.interpolate(nn.functional.avg_pool2d(x, 4), shape[-2:], mode='bilinear')   # as smooth as images are
    x = (x - x.min())/(x.max() - x.min())
    off = []
    for s in range(1, 6):
        out = corrupt(x, kind, s, gen(2))
        assert out.shape == x.shape and out.dtype == x.dtype and out.min() >= -1e-6 and out.max() <= 1 + 1e-6
        assert torch.equal(out, corrupt(x, kind, s, gen(2)))
        off.append((out - x).abs().mean().item())
    assert off[0] > 0 and off[-1] > off[0] and all(b > .8*a for a, b in zip(off, off[1:])), off


def test_the_three_of_chapter_3_are_the_same():
    from visft_nb.finetune import corrupt as before
    x = torch.rand(2, 1, 20, 20)
    for kind in ('noise', 'blur', 'contrast'): assert torch.equal(corrupt(x, kind, 4, gen()), before(x, kind, 4, gen()))


@pytest.mark.parametrize('severity,quality', list(enumerate(CORRUPTIONS['jpeg'], 1)))
@pytest.mark.parametrize('mode,size', [('L', (40, 56)), ('RGB', (40, 56)), ('RGB', (33, 29))])
def test_jpeg_equals_pillow(severity, quality, mode, size):
    ramp = np.add.outer(np.arange(size[0]), 2*np.arange(size[1]))
    a = np.stack([ramp % 256, (3*ramp) % 200, 255 - ramp % 256], -1) if mode == 'RGB' else ramp
    a = (a + np.random.default_rng(0).normal(0, 12, a.shape)).clip(0, 255).astype(np.uint8)
    file = io.BytesIO(); Image.fromarray(a, mode).save(file, 'JPEG', quality=quality, subsampling=0)
    theirs = np.array(Image.open(file)).astype(float)
    x = torch.from_numpy(a).view(*size, -1).permute(2, 0, 1)[None].float()/255
    ours = 255*corrupt(x, 'jpeg', severity)[0].permute(1, 2, 0).numpy().reshape(a.shape)
    assert np.abs(ours - theirs).mean() < 1 and np.abs(ours - a).mean() > 3


def test_pixelate_and_impulse_by_hand():
    x = torch.rand(2, 1, 20, 20, generator=gen())
    small = corrupt(x, 'pixelate', 2)          # half the side: blocks of 2 x 2
    assert torch.allclose(small[:, :, ::2, ::2], nn.functional.avg_pool2d(x, 2), atol=1e-6) and torch.equal(small[:, :, ::2], small[:, :, 1::2])
    hit = corrupt(torch.full((4, 3, 64, 64), .5), 'impulse', 5, gen())
    assert abs((hit != .5).float().mean() - .27) < .02 and (hit[:, 0] == hit[:, 1]).all() and abs((hit == 0).float().mean() - (hit == 1).float().mean()) < .02


def test_corruption_errors_and_their_mean(bars):
    model, x, y = bars
    table = corruption_errors(model, x, y, ['noise', 'fog'], (1, 5))
    assert table.shape == (2, 2) and table.loc['noise', 5] >= table.loc['noise', 1]
    assert table.loc['noise', 5] == 100*(predictions(model, corrupt(x, 'noise', 5, gen(0))) != y).double().mean().item()
    pd.testing.assert_frame_equal(table, corruption_errors(model, x, y, ['noise', 'fog'], (1, 5), batch_size=7))
    base = pd.DataFrame([[10., 30.], [20., 20.]], index=table.index, columns=table.columns)
    ce = mean_corruption_error(pd.DataFrame([[10., 10.], [40., 20.]], index=table.index, columns=table.columns), base)
    assert ce.to_dict() == {'noise': 50., 'fog': 150., 'mean': 100.} and (mean_corruption_error(base, base) == 100).all()


def grid_by_hand(model, x, y, degrees, translate, angles, shifts):
    "Right under every point of the grid?"
    stands, (h, w) = torch.ones(len(x), dtype=torch.bool), x.shape[-2:]
    for a in np.linspace(-degrees, degrees, angles) if angles > 1 else [0]:
        for i in np.linspace(-translate, translate, shifts) if shifts > 1 else [0]:
            for j in np.linspace(-translate, translate, shifts) if shifts > 1 else [0]:
                n = len(x)
                moved = warp(x, affine(torch.full((n,), float(a)), torch.tensor([[float(i)*w, float(j)*h]]).expand(n, 2), torch.ones(n)))
                stands &= predictions(model, moved.clamp(0, 1)) == y
    return stands


@pytest.mark.parametrize('degrees,translate,angles,shifts', [(40., .2, 5, 3), (30., 0., 3, 1), (0., .25, 1, 5)])
def test_spatial_attack_is_the_worst_of_the_grid(bars, degrees, translate, angles, shifts):
    model, x, y = bars
    adv = spatial_attack(model, x, y, degrees, translate, angles, shifts, batch_size=17)
    assert torch.equal(predictions(model, adv) == y, grid_by_hand(model, x, y, degrees, translate, angles, shifts))
    assert adv.shape == x.shape and adv.min() >= 0 and adv.max() <= 1


def test_spatial_attack_keeps_the_identity_and_needs_no_gradient(bars):
    model, x, y = bars
    assert torch.equal(spatial_attack(model, x, y, 0, 0., 1, 1), x)
    wrong = (y + 1) % 4
    assert torch.equal(spatial_attack(model, x, wrong), x), 'what is misclassified comes back unchanged'
    black = lambda x: model(x).detach()
    assert torch.equal(spatial_attack(black, x[:20], y[:20], 20), spatial_attack(model, x[:20], y[:20], 20))
    right = lambda n: (predictions(model, spatial_attack(model, x, y, 40, .2, n, 3)) == y).sum()
    assert right(9) <= right(5) <= right(3), 'a finer grid contains the coarser'


CALLS = {
    'universal': lambda m, x, y: universal(m, x, .1, steps=2, batch_size=4, generator=gen(1)),
    'patch': lambda m, x, y: adversarial_patch(m, x, 1, .5, steps=2, side=8, batch_size=4, generator=gen(1)),
    'success': lambda m, x, y: patch_success(m, x, torch.full((3, 8, 8), .5), 1, .5, generator=gen(1)),
    'fooling': lambda m, x, y: fooling_rate(m, x, torch.full_like(x[:1], .1)),
    'spatial': lambda m, x, y: spatial_attack(m, x, y, 20, .1, 3, 3),
    'errors': lambda m, x, y: corruption_errors(m, x, y, ['noise'], (3,)).values.sum(),
}

@pytest.mark.parametrize('name', CALLS)
def test_the_model_comes_back_as_it_was_and_seeds_decide(name):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(.5), nn.Flatten(), nn.Linear(4*100, 4)).train()
    model[1].eval(); model[0].weight.requires_grad_(False)
    x, y = torch.rand(12, 3, 12, 12), torch.arange(12) % 4
    x0, modes, flags = x.clone(), [m.training for m in model.modules()], [p.requires_grad for p in model.parameters()]
    state, rng = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    first = CALLS[name](model, x, y)
    assert [m.training for m in model.modules()] == modes and [p.requires_grad for p in model.parameters()] == flags
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items()) and all(p.grad is None for p in model.parameters())
    assert torch.equal(x, x0) and not x.requires_grad and torch.equal(rng, torch.get_rng_state())
    with torch.no_grad(): second = CALLS[name](model.eval(), x, y)
    assert torch.equal(first, second) if torch.is_tensor(first) else first == second


BAD = [
    (lambda m, x, y: universal(m, x*255, .1), ['[0, 1]', 'normalisation']),
    (lambda m, x, y: universal(m, x, -1.), ['eps=-1']),
    (lambda m, x, y: universal(m, x, .1, steps=0), ['steps=0']),
    (lambda m, x, y: universal(lambda x: m(x).detach(), x, .1), ['gradient', 'black-box']),
    (lambda m, x, y: universal(nn.Sequential(m, nn.Softmax(1)), x, .1), ['probabilities', 'softmax']),
    (lambda m, x, y: fooling_rate(m, x, torch.zeros(1, 3, 8, 8)), ['(1, 3, 8, 8)', '16']),
    (lambda m, x, y: adversarial_patch(m, x, 9), ['9', '4 outputs']),
    (lambda m, x, y: adversarial_patch(m, x, 1, 1.5), ['1.5', 'share']),
    (lambda m, x, y: adversarial_patch(m, x, 1, ink=(.9, .1)), ['ink=(0.9, 0.1)']),
    (lambda m, x, y: Placement((.5, .2)), ['size', '0.5']),
    (lambda m, x, y: patch_success(m, x[:0], torch.rand(3, 8, 8), 1), ['image']),
    (lambda m, x, y: corrupt(x, 'snow', 1), ['corruption', 'snow']),
    (lambda m, x, y: corrupt(x, 'fog', 0), ['severity=0', '1 to 5']),
    (lambda m, x, y: corrupt((x*255).byte(), 'fog', 1), ['uint8', '255']),
    (lambda m, x, y: corrupt(x*2 - 1, 'noise', 1), ['-', 'normalisation']),
    (lambda m, x, y: mean_corruption_error(pd.DataFrame([[1.]], index=['a']), pd.DataFrame([[1.]], index=['b'])), ['same arguments']),
    (lambda m, x, y: mean_corruption_error(pd.DataFrame([[1.]], index=['a']), pd.DataFrame([[0.]], index=['a'])), ['no error', 'a']),
    (lambda m, x, y: spatial_attack(m, x, y, angles=4), ['angles=4', 'odd']),
    (lambda m, x, y: spatial_attack(m, x, y, degrees=270), ['degrees=270', '180']),
    (lambda m, x, y: spatial_attack(m, x, y.float()), ['float32', 'int64']),
    (lambda m, x, y: spatial_attack(m, x, y + 7), ['labels', '4']),
    (lambda m, x, y: spatial_attack(m, x - 1, y), ['[0, 1]']),
    (lambda m, x, y: corruption_errors(m, x, y[:5], ['fog']), ['(5,)']),
]

@pytest.mark.parametrize('call,words', BAD)
def test_bad_input(bars, call, words):
    model, x, y = bars
    with pytest.raises(InputError) as e: call(model, x, y)
    assert all(w.lower() in str(e.value).lower() for w in words), str(e.value)


def test_on_another_device():
    with fake_cuda():
        model, x = small_cnn(4, channels=3, width=4), torch.rand(6, 3, 16, 16)
        patch = adversarial_patch(model, x, 1, .5, steps=2, side=8, batch_size=4, check=False)
        for out in (patch, universal(model, x, .1, steps=2, batch_size=4, check=False), Placement(.4)(x, patch), *_grid(20, .1, 3, 3, x)[1:], *(corrupt(x, k, 3) for k in CORRUPTIONS)):
            assert out.device.type == 'cuda'
