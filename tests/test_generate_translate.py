"Picture to picture: networks against a second writing, losses, training that survives, scores against peers, files, bad input."
import math
import os

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fake_cuda import fake_cuda
from helpers import refused, sentence
from visft_nb.core import InputError
from visft_nb.data import Images
from visft_nb.deploy import export_onnx, load_model, load_onnx, save_model
from visft_nb.deploy.asking import open_model
from visft_nb.generate import (
    FACADE_CLASSES, FACADE_COLORS, PatchDiscriminator, Pix2Pix, UNetGenerator, color_overlap, explore_maps, gradient_energy, judge_pictures, label_scores, load_pairs,
    make_houses, one_hot, paint_maps, race_pix2pix, read_maps, rgb_to_lab, text_map, train_judge, window_map)
from visft_nb.generate.label_maps import shrink_maps
from visft_nb.generate.map_explorer import show_rows, show_translations

pytestmark = pytest.mark.filterwarnings('ignore')


@pytest.fixture(autouse=True)
def seed(): torch.manual_seed(0)


def small(adversary=True, depth=2, norm='batch', seed=0, **how):
    torch.manual_seed(seed)
    g = UNetGenerator(4, width=4, depth=depth, norm=norm)
    return Pix2Pix(g, PatchDiscriminator(7, 4, 1) if adversary else None, device='cpu', **how)


def houses(n=8, size=16): return make_houses(n, size)


# ---------------------------------------------------------------- networks
@pytest.mark.parametrize('layers, side', [(0, 1), (1, 16), (2, 34), (3, 70)])
def test_a_patch_has_exactly_the_published_pixels(layers, side):
    d = PatchDiscriminator(2, 2, layers).double().eval()
    for p in d.parameters(): p.data.abs_().clamp_(min=.01)
    x = torch.ones(1, 2, 112, 112, dtype=torch.float64, requires_grad=True)
    z = d(x)
    z[0, 0, z.shape[2]//2, z.shape[3]//2].backward()
    seen = x.grad[0].abs().sum(0) > 0
    rows, columns = seen.any(1).nonzero(), seen.any(0).nonzero()
    assert int(seen.sum()) == side**2 and len(rows) == len(columns) == side
    assert rows[-1] - rows[0] == columns[-1] - columns[0] == side - 1


def theirs(channels, ndf, n):
    "NLayerDiscriminator of junyanz/pytorch-CycleGAN-and-pix2pix, written again."
    layers, width = [nn.Conv2d(channels, ndf, 4, 2, 1), nn.LeakyReLU(.2)], ndf
    for i in range(1, n + 1):
        out = ndf*min(2**i, 8)
        layers += [nn.Conv2d(width, out, 4, 2 if i < n else 1, 1, bias=False), nn.BatchNorm2d(out), nn.LeakyReLU(.2)]
        width = out
    return nn.Sequential(*layers, nn.Conv2d(width, 1, 4, 1, 1))


@pytest.mark.parametrize('n', [1, 3, 5])
def test_the_discriminator_equals_a_second_writing(n):
    ours, other = PatchDiscriminator(6, 4, n).double(), theirs(6, 4, n).double()
    other.load_state_dict(dict(zip(other.state_dict(), ours.state_dict().values())))
    x = torch.rand(2, 6, 128, 96, dtype=torch.float64)
    assert torch.allclose(ours(x), other(x), rtol=1e-12)


def test_the_sizes_are_those_of_the_published_networks():
    count = lambda m: sum(p.numel() for p in m.parameters())
    with torch.device('meta'):
        assert count(PatchDiscriminator(6, 64, 3)) == 2_768_705
        assert abs(count(UNetGenerator(3, 3, 64, 8))/54.414e6 - 1) < 1e-4


class Block(nn.Module):
    "UnetSkipConnectionBlock of the same repository, written again: recursive."
    def __init__(self, outer, inner, inputs=None, inside=None, outermost=False):
        super().__init__()
        down = nn.Conv2d(inputs or outer, inner, 4, 2, 1, bias=inside is None or outermost)
        up = nn.ConvTranspose2d(inner*(1 if inside is None else 2), outer, 4, 2, 1, bias=outermost)
        first = [] if outermost else [nn.LeakyReLU(.2)]
        if inside is None: self.net = nn.Sequential(*first, down, nn.ReLU(), up, nn.BatchNorm2d(outer))
        elif outermost: self.net = nn.Sequential(down, inside, nn.ReLU(), up)
        else: self.net = nn.Sequential(*first, down, nn.BatchNorm2d(inner), inside, nn.ReLU(), up, nn.BatchNorm2d(outer))
        self.outermost = outermost
    def forward(self, x): return self.net(x) if self.outermost else torch.cat([x, self.net(x)], 1)


def test_the_generator_equals_a_recursive_writing():
    ours = UNetGenerator(5, 3, 4, 4).double()
    block = Block(16, 32)
    block = Block(8, 16, inside=block)
    block = Block(4, 8, inside=block)
    other = Block(3, 4, inputs=5, inside=block, outermost=True).double()
    def layers(b, out=None):
        out = out if out is not None else ([], [])
        parts = list(b.net)
        inner = next((p for p in parts if isinstance(p, Block)), None)
        cut = parts.index(inner) if inner else next(i for i, p in enumerate(parts) if isinstance(p, nn.ReLU))
        out[0].append([p for p in parts[:cut] if list(p.parameters())])
        if inner: layers(inner, out)
        out[1].append([p for p in parts[cut:] if list(p.parameters()) and not isinstance(p, Block)])
        return out
    down, up = layers(other)
    for mine, ref in zip([*ours.down, *ours.up], [*down, *up]):
        mine = [p for p in mine if list(p.parameters())]
        assert len(mine) == len(ref)
        for a, b in zip(mine, ref): b.load_state_dict(a.state_dict())
    for (conv, *_) in up[1:]:   # theirs joins the map of the way down first, ours last
        conv.weight.data = torch.cat(conv.weight.data.chunk(2)[::-1])
    x = torch.rand(2, 5, 32, 48, dtype=torch.float64)
    assert torch.allclose(ours(x), other(x).sigmoid(), rtol=1e-10)


def test_one_pixel_cannot_tell_order_and_more_can():
    x = torch.rand(2, 4, 16, 16, dtype=torch.float64)
    mixed = x.flatten(2)[..., torch.randperm(256)].view_as(x)
    gap = lambda n: (lambda d: (d(x).mean() - d(mixed).mean()).abs().item())(PatchDiscriminator(4, 8, n).double().eval())
    assert gap(0) < 1e-14 and gap(1) > 1e-9


@pytest.mark.parametrize('norm', ['batch', 'instance', 'none'])
@pytest.mark.parametrize('skips', [True, False])
def test_every_generator_keeps_the_size_and_the_range(norm, skips):
    g = UNetGenerator(4, 3, 4, 3, dropout=.5, norm=norm, skips=skips)
    y = g(torch.rand(2, 4, 8, 24))
    assert y.shape == (2, 3, 8, 24) and y.dtype == torch.float32 and 0 <= y.min() and y.max() <= 1


def test_without_skips_nothing_comes_past_the_code():
    x = torch.rand(1, 4, 8, 8)
    for skips in (True, False):
        g = UNetGenerator(4, 3, 4, 3, norm='none', skips=skips)
        nn.init.zeros_(g.down[-1][1].weight), nn.init.zeros_(g.down[-1][1].bias)
        same = torch.allclose(g(x), g(x.flip(3)))
        assert same != skips


# ---------------------------------------------------------------- losses and steps
def test_the_losses_are_those_of_torch():
    p, d = small(precision='fp32'), houses(2)
    x, y = p.batch(one_hot(d.masks, 4), d.images)
    fake = p.generator(x).detach()
    bce, real, made = F.binary_cross_entropy_with_logits, p.logits(x, y), p.logits(x, fake)
    want = (bce(real, torch.ones_like(real)) + bce(made, torch.zeros_like(made)))/2
    assert torch.allclose(p.adversarial(x, fake), bce(p.logits(x, fake), torch.ones_like(made)), rtol=1e-5)
    assert torch.allclose(p.judge_step(x, y, fake)['d'], want, rtol=1e-5)
    assert all(q.requires_grad for q in p.discriminator.parameters())


def test_each_step_moves_its_own_network():
    p, d = small(precision='fp32'), houses(2)
    x, y = p.batch(one_hot(d.masks, 4), d.images)
    copy = lambda m: [v.detach().clone() for v in m.parameters()]
    g, q = copy(p.generator), copy(p.discriminator)
    p.judge_step(x, y, p.generator(x).detach())
    assert all(map(torch.equal, g, p.generator.parameters())) and not all(map(torch.equal, q, p.discriminator.parameters()))
    q = copy(p.discriminator)
    p.descend('g', p.adversarial(x, p.generator(x)))
    assert all(map(torch.equal, q, p.discriminator.parameters())) and not all(map(torch.equal, g, p.generator.parameters()))


def test_the_plain_loop_and_the_kit_take_the_same_steps():
    table = race_pix2pix(small(precision='fp32'), houses(), steps=3, batch_size=4)
    assert table.attrs['loss_gap'] < 1e-3 and table.attrs['ratio'] > 0 and table.attrs['precision'] == 'float32'


def test_l1_alone_learns_the_median_of_what_a_map_leaves_open():
    "One map, three pictures: two are dark, one is light."
    pictures = torch.tensor([40, 40, 220], dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 3, 8, 8).contiguous()
    pairs = Images(pictures, masks=torch.zeros(3, 8, 8, dtype=torch.uint8))
    p = small(False, norm='none', weight=1, lr=1e-2, precision='fp32')
    p.fit(pairs, 150, 3, flip=False)
    assert (p.translate(pairs.masks) - 40/255).abs().max() < .08


def test_a_training_goes_on_bit_for_bit(tmp_path):
    whole = small()
    whole.fit(houses(), 4, 4)
    small().fit(houses(), 2, 4, checkpoint=tmp_path/'a.safetensors')
    rest = small(seed=5)
    rest.fit(houses(), 4, 4, checkpoint=tmp_path/'a.safetensors')
    assert rest.losses == whole.losses and len(whole.losses['d']) == 8
    assert all(map(torch.equal, whole.generator.state_dict().values(), rest.generator.state_dict().values()))


def test_a_loss_that_is_no_number_stops_and_a_victory_is_said():
    p, step = small(lr=1e-3), Pix2Pix.step
    p.step = lambda x, y: {k: v*(math.nan if p.generator.calls == 3 else 1) for k, v in step(p, x, y).items()}
    p.generator.calls = 0
    p.generator.register_forward_hook(lambda *_: setattr(p.generator, 'calls', p.generator.calls + 1))
    with refused(['step 3', 'last good state']): p.fit(houses(), 4, 4)
    with pytest.warns(UserWarning, match='has won'): small().fit(houses(), 3, 4, floor=10., patience=2)


def test_l1_alone_has_no_adversary_and_says_nothing_of_one():
    p = small(False)
    losses = p.fit(houses(), 2, 4)
    assert len(losses['l1']) == 4 and losses['l1'][-1] < losses['l1'][0] and not any(losses['g'])


def test_training_and_translation_run_on_the_device():
    with fake_cuda():
        p = Pix2Pix(UNetGenerator(4, width=4, depth=2), PatchDiscriminator(7, 4, 1), device='cuda')
        x, y = p.batch(torch.zeros(2, 4, 16, 16, dtype=torch.uint8), torch.zeros(2, 3, 16, 16, dtype=torch.uint8))
        row = p.step(x, y)
        assert x.device.type == 'cuda' and all(v.device.type == 'cuda' for v in row.values())


def test_translate_leaves_the_mode_and_is_the_same_twice():
    p, m = small(), houses(3).masks
    a, b = p.translate(m), p.translate(m)
    assert torch.equal(a, b) and p.generator.training and a.shape == (3, 3, 16, 16)


# ---------------------------------------------------------------- maps
def test_maps_are_read_as_they_were_painted():
    m = torch.randint(0, 12, (3, 9, 7))
    assert torch.equal(read_maps(paint_maps(m), tolerance=0).long(), m)
    noisy = (paint_maps(m).int() + torch.randint(-12, 13, (3, 3, 9, 7))).clamp(0, 255).to(torch.uint8)
    assert torch.equal(read_maps(noisy).long(), m)
    off = paint_maps(m); off[1, :, 2, 3] = torch.tensor([0, 255, 0])
    with refused(['Drawing 1', '(0, 255, 0)', 'row 2', 'column 3']): read_maps(off, tolerance=40)


def test_unknown_values_and_other_sizes_are_named():
    m = houses(2).masks.clone()
    m[1, 2, 3] = 255
    with refused(['255', 'map 1, row 2, column 3', '0 to 3']): small().translate(m)
    sentence(lambda: small().translate(-houses(1).masks.long()), '-1', '0 to 3')
    sentence(lambda: small().translate(houses(1).masks[0]), 'm[None]')
    sentence(lambda: small().translate(houses(1).masks.float()), 'whole numbers')
    sentence(lambda: small().translate(houses(2, 18).masks), '18 × 18', 'multiples of 4')
    sentence(lambda: small().generator(torch.rand(1, 3, 16, 16)), '(N, 4, H, W)', 'one_hot')
    p = small()
    sentence(lambda: p.step(torch.rand(2, 4, 16, 16), torch.rand(2, 3, 8, 8)), 'one size')


def test_a_batch_of_one_with_batch_norm_is_refused_and_with_instance_norm_taken():
    with refused(['batch of one', "norm='instance'"]): small().fit(houses(2), 1, 1)
    assert len(small(norm='instance').fit(houses(2), 1, 1)['l1']) == 2
    only = small()
    with refused(['batch of one']): only.fit(houses(1), 1, 4)


def test_other_bad_input():
    sentence(lambda: small().fit(Images(houses(2).images)), 'no label maps')
    sentence(lambda: UNetGenerator(0), 'channels=0')
    sentence(lambda: UNetGenerator(4, norm='layer'), 'layer')
    sentence(lambda: PatchDiscriminator(6, layers=9), 'layers=9')
    sentence(lambda: PatchDiscriminator(6, 4, 3)(torch.rand(1, 6, 16, 16)), 'at least 24', 'fewer layers')
    sentence(lambda: Pix2Pix(UNetGenerator(4, width=4, depth=2), weight=-1), 'weight=-1')
    sentence(lambda: load_pairs('castles'), 'castles', 'facades')
    sentence(lambda: load_pairs('generated', 'all'), 'all')
    sentence(lambda: make_houses(2, 8), 'size=8')
    sentence(lambda: text_map('.#\n.'), 'one length')
    sentence(lambda: text_map('.x'), "'x'", '# wall')
    sentence(lambda: text_map('.c', classes=FACADE_CLASSES[:4]), "'c'")
    sentence(lambda: window_map(0), 'rows=0')
    sentence(lambda: show_rows({'a': torch.rand(1, 3, 4, 4), 'b': torch.rand(2, 3, 4, 4)}, 'no'), 'one size')
    sentence(lambda: show_translations({}, torch.zeros(0, 4, 4, dtype=torch.uint8)), '0 label maps')


def test_the_smallest_picture_that_a_discriminator_takes_is_the_one_it_names():
    for n in (0, 1, 2, 3):
        least = 1 if not n else 3*2**n
        assert PatchDiscriminator(3, 2, n).eval()(torch.rand(1, 3, least, least)).numel() >= 1


def test_generated_houses_hold_what_they_say():
    d = make_houses(300, 32, 3, .3)
    assert torch.equal(d.images, make_houses(300, 32, 3, .3).images) and d.images.dtype == torch.uint8
    assert abs(d.extra['lit'].mean().item() - .3) < .04
    assert make_houses(40, lit=0).extra['lit'].max() == 0 and make_houses(40, lit=1).extra['lit'].min() == 1
    assert torch.equal(d.masks, make_houses(300, 32, 3, .3).masks) and set(d.masks.unique().tolist()) == {0, 1, 2, 3}
    sets = [load_pairs('generated', s, 16, 12).masks for s in ('train', 'valid', 'test')]
    assert len({m[:8].numpy().tobytes() for m in sets}) == 3


def test_drawn_maps_have_what_was_drawn():
    m = text_map('.#w\nDD#', 12)
    assert m.shape == (1, 12, 12) and m[0, 0, 0] == 0 and m[0, 0, 11] == 3 and m[0, 11, 0] == 2
    assert (window_map(2, 3, door=False, size=64) == 3).any() and not (window_map(2, 3, door=False) == 2).any()
    assert torch.equal(shrink_maps(m, 3, 12)[0, 0], torch.tensor([0, 1, 3], dtype=torch.uint8))
    widget = explore_maps(lambda m: paint_maps(m).float()/255, 16)
    assert [c.description for c in widget.children[:-1]] == ['rows', 'columns', 'width', 'height', 'door']


@pytest.mark.skipif(not os.environ.get('VISFT_DATA'), reason='VISFT_DATA has the facades')
def test_facades_are_read_with_their_maps():
    d = load_pairs('facades', 'test', 32, 20)
    assert d.images.shape == (20, 3, 32, 32) and d.masks.shape == (20, 32, 32) and d.classes == FACADE_CLASSES
    shares = torch.bincount(d.masks.flatten().long(), minlength=12)/d.masks.numel()
    assert shares.argmax() in (0, 1) and shares[3] > .05 and len(FACADE_COLORS) == 12


# ---------------------------------------------------------------- scores
def test_label_scores_are_those_of_torchmetrics():
    from torchmetrics.functional.classification import multiclass_accuracy, multiclass_jaccard_index
    found, truth = torch.randint(0, 5, (2, 3, 8, 8))
    s = label_scores(found, truth, 5)
    assert math.isclose(s['pixel'], multiclass_accuracy(found, truth, 5, average='micro'), rel_tol=1e-6)
    assert math.isclose(s['class'], multiclass_accuracy(found, truth, 5, average='macro'), rel_tol=1e-6)
    assert math.isclose(s['iou'], multiclass_jaccard_index(found, truth, 5, average='macro'), rel_tol=1e-6)
    sentence(lambda: label_scores(found, truth[:, :4], 5), 'one size')


def test_lab_is_that_of_scikit_image():
    skimage = pytest.importorskip('skimage.color')
    x = torch.rand(2, 3, 9, 7, dtype=torch.float64)
    want = np.stack([skimage.rgb2lab(p) for p in x.permute(0, 2, 3, 1).numpy()])
    assert np.abs(rgb_to_lab(x).permute(0, 2, 3, 1).numpy() - want).max() < .02
    sentence(lambda: rgb_to_lab(x[:, :1]), '1 channels')


def test_scores_of_pictures_know_their_ends():
    x = torch.rand(4, 3, 16, 16)
    assert all(abs(v - 1) < 1e-5 for v in color_overlap(x, x[torch.randperm(4)]).values())
    black, white = torch.zeros(1, 3, 4, 4), torch.ones(1, 3, 4, 4)
    assert color_overlap(black, white)['L'] == 0 and gradient_energy(black) == 0
    blurred = F.avg_pool2d(x, 3, 1, 1)
    assert (gradient_energy(blurred) < gradient_energy(x)).all()
    sentence(lambda: gradient_energy(x[0]), 'N, C, H, W')


def test_a_judge_finds_more_in_real_pictures_than_in_grey():
    d, other = make_houses(48, 16), make_houses(16, 16, 1)
    net = train_judge(d, 60, 8, 8)
    real, grey = judge_pictures(net, other.floats(), other.masks, 4), judge_pictures(net, torch.full_like(other.floats(), .5), other.masks, 4)
    assert real['iou'] > grey['iou'] + .1 and real['pixel'] > grey['pixel']


# ---------------------------------------------------------------- files
def test_a_generator_is_saved_loaded_and_exported(tmp_path):
    p = small()
    p.fit(houses(), 1, 4)
    path, x = tmp_path/'g.safetensors', one_hot(houses(3).masks, 4)
    save_model(p.generator, path, size=16, labels=list(FACADE_CLASSES[:4]))
    twin = load_model(path, 'cpu')
    assert torch.allclose(twin(x), p.translate(houses(3).masks), atol=1e-6)
    assert twin.spec['task'] == 'pictures' and twin.spec['channels'] == 4 and twin.spec['labels'][3] == 'window'
    assert max(export_onnx(p.generator, tmp_path/'g.onnx', x).values()) < 1e-4
    run, spec = load_onnx(tmp_path/'g.onnx')
    assert torch.allclose(run(x), twin(x).detach(), atol=1e-4) and spec['task'] == 'pictures'
    for name in ('g.safetensors', 'g.onnx'):
        with refused(['makes pictures', 'load_model']): open_model(tmp_path/name)


def test_a_file_may_not_ask_for_another_generator(tmp_path):
    from visft_nb.deploy.builders import build_model
    with refused(['norm']): build_model('visft_nb.generate.translate:UNetGenerator', dict(norm='layer'))
    with pytest.raises(InputError): build_model('visft_nb.generate.translate:UNetGenerator', dict(depth=99))
