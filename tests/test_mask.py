"Masking: patches and orders there and back, an encoder that sees the visible alone, a loss on the hidden alone, bad input."
import pytest, torch

from fake_cuda import fake_cuda
from helpers import fake_step, refused
from visft_nb.cnn.models import small_cnn, vit_tiny
from visft_nb.core import InputError, set_seed
from visft_nb.data import Images
from visft_nb.pretrain.mask import (MaskedAutoencoder, from_patches, masked_loss, masked_step, pretrain_masked, random_order, reconstruct_patches,
                                    sincos_positions, take, to_patches)
from visft_nb.train import load_checkpoint


def vit(channels=1, size=16, patch=4, **kw): return vit_tiny(4, channels, size, patch, 16, 2, 2, **kw)
def images(n=40, channels=1, size=16, seed=0): return Images(torch.randint(0, 256, (n, channels, size, size), generator=torch.Generator().manual_seed(seed)).to(torch.uint8))


@pytest.mark.parametrize('channels,patch', [(1, 4), (3, 2), (3, 8)])
def test_patches_go_there_and_back(channels, patch):
    x = torch.rand(3, channels, 16, 16)
    p = to_patches(x, patch)
    assert p.shape == (3, (16//patch)**2, channels*patch**2) and torch.equal(from_patches(p, patch), x)
    assert torch.equal(p[0, 1].reshape(channels, patch, patch), x[0, :, :patch, patch:2*patch]), 'row by row, the second patch is to the right'


def test_patches_are_those_of_the_embedding():
    net, x = vit(3), torch.rand(2, 3, 16, 16)
    w = net.patch_embed.proj.weight.flatten(1)
    assert torch.allclose(to_patches(x, 4) @ w.T + net.patch_embed.proj.bias, net.patch_embed(x), atol=1e-5)


def test_timm_cuts_the_same_places():
    timm = pytest.importorskip('timm')
    x = torch.rand(2, 3, 16, 16)
    theirs = timm.layers.PatchEmbed(img_size=16, patch_size=4, in_chans=3, embed_dim=48, bias=False)
    with torch.no_grad(): theirs.proj.weight.copy_(torch.eye(48).reshape(48, 3, 4, 4))
    assert torch.allclose(theirs(x), to_patches(x, 4), atol=1e-6)


def test_orders_are_permutations_with_their_inverse():
    order, restore = random_order(50, 9, generator=torch.Generator().manual_seed(1))
    t = torch.rand(50, 9, 5)
    assert torch.equal(take(take(t, order), restore), t)
    assert (order.sort(1).values == torch.arange(9)).all() and len(order.unique(dim=0)) > 40, 'each image has its own'
    first = torch.bincount(order[:, 0], minlength=9)
    assert first.min() > 0, 'any patch may come first'


@pytest.mark.parametrize('ratio,keep', [(.75, 4), (.5, 8), (.9, 1)])
def test_as_many_hidden_in_each_image(ratio, keep):
    mae = MaskedAutoencoder(vit(), ratio, 16)
    predicted, hidden = mae(torch.rand(5, 1, 16, 16))
    assert predicted.shape == (5, 16, 16) and (hidden.sum(1) == 16 - keep).all() and mae.keep == keep


def test_the_encoder_sees_the_visible_alone():
    mae, x = MaskedAutoencoder(vit(), .75, 16), torch.rand(3, 1, 16, 16)
    order, restore = random_order(3, 16)
    hidden = (restore >= mae.keep)[..., None]
    other = from_patches(torch.where(hidden, torch.rand(3, 16, 16), to_patches(x, 4)), 4)
    assert torch.equal(mae.encode(x, order), mae.encode(other, order))
    visible = from_patches(torch.where(hidden, to_patches(x, 4), torch.rand(3, 16, 16)), 4)
    assert not torch.allclose(mae.encode(x, order), mae.encode(visible, order), atol=1e-3)
    assert mae.encode(x, order).shape == (3, 1 + mae.keep, 16)


def test_all_visible_is_the_plain_transformer():
    net, x = vit(), torch.rand(2, 1, 16, 16)
    mae = MaskedAutoencoder(net, .5, 16)
    mae.keep = 16
    order, _ = random_order(2, 16)
    assert torch.allclose(mae.encode(x, order)[:, 0], net.features(x), atol=1e-5)


def test_loss_counts_hidden_patches_alone():
    g = torch.Generator().manual_seed(0)
    p, t = torch.randn(2, 4, 9, 6, generator=g, dtype=torch.float64)
    hidden = torch.rand(4, 9, generator=g) < .5
    p.requires_grad_(True)
    loss = masked_loss(p, t, hidden)
    by_hand = sum(((p[i, j] - t[i, j])**2).mean() for i in range(4) for j in range(9) if hidden[i, j])/hidden.sum()
    assert abs(loss - by_hand) < 1e-6
    loss.backward()
    assert (p.grad[~hidden] == 0).all() and (p.grad[hidden] != 0).all()


def test_targets_have_mean_zero_and_variance_one_and_flat_patches_are_zero():
    mae, x = MaskedAutoencoder(vit(), .75, 16), torch.rand(2, 1, 16, 16)
    x[:, :, :4, :4] = .3
    t = mae.target(x)
    assert t[:, 0].abs().max() < 1e-3 and t.mean(-1).abs().max() < 1e-4 and (t[:, 1:].var(-1, correction=0) - 1).abs().max() < .01
    assert torch.equal(MaskedAutoencoder(vit(), .75, 16, normalise=False).target(x), to_patches(x, 4))


def test_positions_are_those_of_the_formula():
    p = sincos_positions(3, 8)[0]
    assert (p[0] == 0).all() and p.shape == (10, 8)
    row, column, rate = 2., 1., 10000**-.5
    expected = [f(a*r) for a in (row, column) for f in (torch.sin, torch.cos) for r in (torch.tensor(1.), torch.tensor(rate))]
    assert torch.allclose(p[1 + 2*3 + 1], torch.stack([f for f in expected]), atol=1e-6)


def test_training_moves_the_encoder_not_its_head_and_is_the_same_twice():
    def run():
        set_seed(0)
        net = vit()
        before = {k: v.clone() for k, v in net.state_dict().items()}
        return before, net, pretrain_masked(net, images(), 3, 20, 1e-2, dim=16, seed=1, bar=False, precision='fp32')
    (before, a, history), (_, b, _) = run(), run()
    assert all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())
    assert history.epochs[-1]['loss'] < history.epochs[0]['loss']
    same = {k for k, v in a.state_dict().items() if torch.equal(v, before[k])}
    assert same == {'head.weight', 'head.bias'}


def test_it_learns_what_can_be_known():
    "Stripes: a hidden patch follows from any visible one."
    phase = torch.randint(0, 4, (200,), generator=torch.Generator().manual_seed(0))
    stripes = ((torch.arange(16)[None] + phase[:, None]) % 4 < 2)[:, None, None, :].expand(-1, 1, 16, 16)
    set_seed(0)
    mae = MaskedAutoencoder(vit(), .75, 32)
    pretrain_masked(mae, Images(stripes.to(torch.uint8)*255), 40, 50, 5e-3, bar=False, precision='fp32')
    x = stripes[:20].float()
    with torch.no_grad(): loss = masked_step(mae, x)
    assert loss < .2, 'guessing the mean costs 1'
    seen, painted = reconstruct_patches(mae, x)
    assert (painted - x).abs().mean() < .2 and ((seen - x).abs().mean() > .3)


def test_reconstruct_keeps_mode_and_visible_patches():
    mae, x = MaskedAutoencoder(vit(3), .75, 16).train(), torch.rand(2, 3, 16, 16)
    seen, painted = reconstruct_patches(mae, x, torch.Generator().manual_seed(0))
    visible = seen != .5
    assert mae.training and torch.equal(seen[visible], x[visible]) and torch.allclose(painted[visible], x[visible])
    again = reconstruct_patches(mae, x, torch.Generator().manual_seed(0))
    assert torch.equal(again[0], seen), 'the masks are those of the generator'


def test_nan_stops_and_keeps_the_checkpoint(tmp_path):
    path, net = tmp_path/'mae.safetensors', vit()
    pretrain_masked(net, images(), 1, 20, 1e-3, dim=16, checkpoint=path, bar=False)
    kept = path.read_bytes()
    with pytest.raises(InputError, match='step'): pretrain_masked(vit(), images(), 2, 20, 1e30, dim=16, checkpoint=path, resume=False, bar=False, clip=None, precision='fp32')
    assert load_checkpoint(path)['plan']['epochs'] in (1, 2) and len(path.read_bytes()) >= len(kept) > 0


BAD = {
    'ratio 0': (lambda: MaskedAutoencoder(vit(), 0), ['ratio=0', '0.75']),
    'ratio 1': (lambda: MaskedAutoencoder(vit(), 1.), ['ratio=1', 'between 0 and 1']),
    'nothing visible': (lambda: MaskedAutoencoder(vit(), .99), ['16 patches', 'visible']),
    'no tokens': (lambda: MaskedAutoencoder(small_cnn()), ['SmallCNN', 'VisionTransformer']),
    'smaller than the patch': (lambda: pretrain_masked(vit(), images(8, size=2), 1, bar=False), ['2 x 2', 'smaller than one patch']),
    'another size': (lambda: pretrain_masked(vit(), images(8, size=20), 1, bar=False), ['20 x 20', '16 x 16']),
    'patch that does not divide': (lambda: to_patches(torch.rand(1, 1, 10, 10), 4), ['10 x 10', '4']),
    'no square': (lambda: from_patches(torch.rand(1, 5, 16), 4), ['5 patches', 'square']),
    'positions': (lambda: sincos_positions(4, 6), ['6', 'multiple of 4']),
}


@pytest.mark.parametrize('name', BAD)
def test_bad_input(name):
    call, words = BAD[name]
    with refused(words): call()


def test_on_another_device():
    with fake_cuda():
        fake_step(MaskedAutoencoder(vit(), .75, 16), (torch.rand(6, 1, 16, 16), None), masked_step)
