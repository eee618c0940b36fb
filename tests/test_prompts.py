"Prompts in tokens and pixels: equal to the base where they must be, frozen where they must be, saved alone, bad input."
import math

import pytest
import torch
from torch import nn

from fake_cuda import fake_cuda
from helpers import fake_step, refused
from visft_nb.cnn.models import attention_maps, small_cnn, vit_tiny
from visft_nb.core import InputError
from visft_nb.data import Batches, Images
from visft_nb.finetune import PixelPrompt, Prompted, VisualPrompt, frequency_mapping, load_prompt_state, prompt_attention, prompt_state
from visft_nb.train import evaluate, fit, load_checkpoint, save_checkpoint

pytestmark = pytest.mark.filterwarnings('ignore')


def vit(depth=2, classes=3, channels=1): return vit_tiny(classes, channels, size=8, patch=4, dim=12, depth=depth, heads=3)


def images(n=24, side=8, classes=2):
    x = torch.randint(0, 60, (n, 1, side, side), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    y = torch.arange(n) % classes
    for i in range(n): x[i, :, side//classes*int(y[i]):side//classes*(int(y[i]) + 1)] += 150
    return Images(x, y, tuple(map(str, range(classes))))


@pytest.fixture(autouse=True)
def seed(): torch.manual_seed(0)


def train(model, epochs=3, lr=.05, **kwargs):
    return fit(model, Batches(images(), 12), epochs=epochs, lr=lr, bar=False, precision='fp32', **kwargs)


@pytest.mark.parametrize('deep', [False, True])
@pytest.mark.parametrize('depth', [1, 3])
def test_without_prompts_it_is_the_network_itself(depth, deep):
    net, x = vit(depth), torch.rand(5, 1, 8, 8)
    model = VisualPrompt(net, 0, deep)
    assert torch.equal(model(x), net(x)) and torch.equal(model.features(x), net.features(x))


def test_shallow_is_tokens_between_class_token_and_patches():
    net, x = vit(3), torch.rand(4, 1, 8, 8)
    model = VisualPrompt(net, 5)
    c, e = net.tokens(x).split([1, 4], 1)
    tokens = torch.cat([c, model.prompts.expand(4, -1, -1), e], 1)
    assert torch.equal(model.features(x), net.norm(net.blocks(tokens))[:, 0])


def test_deep_replaces_the_outputs_of_the_prompts():
    net, x = vit(3), torch.rand(4, 1, 8, 8)
    model = VisualPrompt(net, 5, deep=True)
    tokens = torch.cat([net.tokens(x)[:, :1], torch.full((4, 5, 12), torch.nan), net.tokens(x)[:, 1:]], 1)
    for block, p in zip(net.blocks, model.prompts):
        tokens = block(torch.cat([tokens[:, :1], p.expand(4, -1, -1), tokens[:, 6:]], 1))
    assert torch.allclose(model.features(x), net.norm(tokens)[:, 0])


def test_on_one_block_deep_is_shallow():
    net, x = vit(1), torch.rand(4, 1, 8, 8)
    a, b = VisualPrompt(net, 4), VisualPrompt(net, 4, deep=True)
    b.load_state_dict(a.state_dict())
    assert torch.equal(a(x), b(x))


def test_the_order_of_the_prompts_does_not_matter():
    net, x = vit(2), torch.rand(4, 1, 8, 8)
    a, b = VisualPrompt(net, 4), VisualPrompt(net, 4)
    b.prompts.data = a.prompts.data[:, [2, 0, 3, 1]]
    assert torch.allclose(a.features(x), b.features(x), atol=1e-6)


@pytest.mark.parametrize('channels', [1, 3])
def test_prompts_start_as_in_the_paper(channels):
    p = VisualPrompt(vit_tiny(2, channels, 16, 4, dim=48, depth=1, heads=3), 400).prompts.detach()
    bound = math.sqrt(6/(channels*16 + 48))
    assert p.abs().max() <= bound and abs(p.std()/(bound/math.sqrt(3)) - 1) < .02 and p.abs().max() > .99*bound


@pytest.mark.parametrize('make', [lambda m: VisualPrompt(m, 3, classes=2), lambda m: VisualPrompt(m, 3, True, classes=2),
                                  lambda m: PixelPrompt(m, 2, 8, 1, classes=2), lambda m: PixelPrompt(m, 2, 8, 1, True, classes=2),
                                  lambda m: PixelPrompt(m, 2, 8, 1, mapping=[2, 0])])
def test_training_learns_and_leaves_the_base_alone(make):
    net = vit()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    model = make(net)
    start = prompt_state(model)
    history = train(model, epochs=15)
    assert history.epochs[-1]['loss'] < history.epochs[0]['loss']
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items()) and all(p.grad is None for p in net.parameters())
    moved = {k for k, v in prompt_state(model).items() if not torch.equal(v, start[k])}
    assert moved == set(start) - {'mapping'}


def test_every_block_of_deep_prompts_gets_gradient():
    model = VisualPrompt(vit(3), 2, deep=True, classes=2)
    model(torch.rand(4, 1, 8, 8)).square().sum().backward()
    assert (model.prompts.grad.abs().amax((1, 2)) > 0).all()


def test_two_prompts_share_one_network():
    net, x = vit(), torch.rand(3, 1, 8, 8)
    a, b = VisualPrompt(net, 2, classes=2), VisualPrompt(net, 3, True, classes=2)
    out = a(x)
    train(b)
    assert a.base is b.base is net and torch.equal(a(x), out)


def test_batch_norm_of_the_base_stands_still():
    net = small_cnn(3, width=4)
    model = PixelPrompt(net, 3, 16, 1, classes=2)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    fit(model, Batches(images(side=16), 12), epochs=2, lr=.05, bar=False, precision='fp32')
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert model.train().training and not any(m.training for m in net.modules())


def test_the_head_is_a_copy_or_fresh():
    net = vit()
    model = VisualPrompt(net, 2)
    assert torch.equal(model.head.weight, net.head.weight) and model.head is not net.head and model.head.weight.requires_grad
    assert VisualPrompt(net, 2, classes=7)(torch.rand(2, 1, 8, 8)).shape == (2, 7) and model.dim == 12


def test_the_frame_lies_on_the_border_alone():
    net = small_cnn(3, channels=3, width=4)
    model, x = PixelPrompt(net, 3, 16, 3), torch.rand(2, 3, 16, 16)
    assert torch.equal(model(x), net(x)), 'it starts at 0'
    assert model.frame.numel() == 3*(16*16 - 10*10)
    model.frame.data.fill_(2)
    placed = model.place(x)
    assert torch.equal(placed[..., 3:13, 3:13], x[..., 3:13, 3:13])
    assert torch.allclose(placed - x, model.picture()) and model.picture()[:, :3].eq(2).all() and model.picture()[:, 3:13, 3:13].eq(0).all()


def test_shrinking_takes_any_size_and_keeps_the_image_inside():
    model = PixelPrompt(small_cnn(3, channels=3, width=4), 4, 24, 3, shrink=True)
    for side in (16, 24, 40):
        placed = model.place(torch.full((1, 3, side, side), .7))
        assert placed.shape == (1, 3, 24, 24) and torch.allclose(placed[..., 4:20, 4:20], torch.tensor(.7), atol=1e-5) and placed[..., :4, :].eq(0).all()


def test_mapping_picks_outputs_and_trains_pixels_alone():
    net, x = small_cnn(5, width=4), torch.rand(2, 1, 16, 16)
    model = PixelPrompt(net, 2, 16, 1, mapping=[4, 0])
    assert torch.equal(model(x), net(x)[:, [4, 0]])
    assert [k for k, p in model.named_parameters() if p.requires_grad] == ['frame']


def test_frequency_mapping_is_the_best_assignment():
    class Fixed(nn.Module):
        def __init__(self): super().__init__(); self.w = nn.Parameter(torch.zeros(1))
        def forward(self, x): return nn.functional.one_hot(x[:, 0, 0, 0].mul(255).round().long(), 4).float()
    answer = torch.tensor([3, 3, 3, 0, 3, 3, 1, 1, 1, 1])     # class 0 says 3 thrice, class 1 says 3 twice and 1 once …
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 1, 2, 2, 2])
    data = Images(answer.to(torch.uint8).reshape(-1, 1, 1, 1), labels, ('a', 'b', 'c'))
    best = frequency_mapping(Fixed(), data)
    count = lambda m: sum(int(((labels == k) & (answer == m[k])).sum()) for k in range(3))
    from itertools import permutations
    assert len(set(best)) == 3 and count(best) == max(count(m) for m in permutations(range(4), 3))


def test_attention_without_prompts_is_the_networks():
    net, x = vit(3), torch.rand(2, 1, 8, 8)
    for block in (0, 1, -1): assert torch.allclose(prompt_attention(VisualPrompt(net, 0), x, block), attention_maps(net, x, block))
    a = prompt_attention(VisualPrompt(net, 6, True), x, 1)
    assert a.shape == (2, 3, 11, 11) and torch.allclose(a.sum(-1), torch.ones(2, 3, 11)) and not a.requires_grad


@pytest.mark.parametrize('make', [lambda m: VisualPrompt(m, 3, True, classes=2), lambda m: PixelPrompt(m, 2, 8, 1, mapping=[2, 0])])
def test_a_prompt_is_saved_alone_and_comes_back(make, tmp_path):
    net, x = vit(), torch.rand(3, 1, 8, 8)
    model = make(net)
    train(model)
    save_checkpoint(tmp_path/'p.safetensors', prompt=prompt_state(model))
    other = load_prompt_state(make(net), load_checkpoint(tmp_path/'p.safetensors')['prompt'])
    assert torch.equal(other(x), model(x))
    assert not any(k.startswith('base') for k in prompt_state(model)) and (tmp_path/'p.safetensors').stat().st_size < 4000


def test_the_same_seed_gives_the_same_prompt():
    net, runs = vit(), []
    for _ in range(2):
        torch.manual_seed(3)
        model = VisualPrompt(net, 2, classes=2)
        train(model)
        runs.append(evaluate(model, images()) + model.prompts.sum().item())
    assert runs[0] == runs[1]


def test_a_failed_load_changes_nothing():
    net = vit()
    model = VisualPrompt(net, 2, classes=2)
    before = prompt_state(model)
    with pytest.raises(InputError): load_prompt_state(model, {**before, 'prompts': torch.zeros(1, 3, 12), 'head.bias': torch.ones(2)})
    assert all(torch.equal(v, before[k]) for k, v in prompt_state(model).items())


BAD = {
    'cnn': (lambda: VisualPrompt(small_cnn()), ['SmallCNN', 'PixelPrompt']),
    'length': (lambda: VisualPrompt(vit(), -1), ['length=-1']),
    'classes': (lambda: VisualPrompt(vit(), 2, classes=0), ['classes=0']),
    'not a network': (lambda: Prompted('vit'), ['str']),
    'pad': (lambda: PixelPrompt(small_cnn(), 14, 28, 1), ['pad=14', 'size=28']),
    'both': (lambda: PixelPrompt(small_cnn(), 2, 28, 1, mapping=[0], classes=2), ['mapping', 'classes']),
    'output': (lambda: PixelPrompt(small_cnn(3), 2, 28, 1, mapping=[0, 3]), ['mapping', '3']),
    'no features': (lambda: PixelPrompt(nn.Linear(2, 2), 2, 28, 1), ['Linear', 'features']),
    'size': (lambda: PixelPrompt(small_cnn(), 2, 28, 1)(torch.rand(1, 1, 20, 20)), ['(1, 1, 20, 20)', '28', 'shrink']),
    'channels': (lambda: PixelPrompt(small_cnn(), 2, 28, 1, shrink=True)(torch.rand(1, 3, 20, 20)), ['(1, 3, 20, 20)']),
    'image size': (lambda: VisualPrompt(vit(), 2)(torch.rand(1, 1, 9, 9)), ['9 x 9', '8 x 8']),
    'too many classes': (lambda: frequency_mapping(vit(classes=2), images(classes=4)), ['4 classes', '2 outputs']),
    'no labels': (lambda: frequency_mapping(vit(), Images(images().images)), ['labels']),
    'block': (lambda: prompt_attention(VisualPrompt(vit(), 1), torch.rand(1, 1, 8, 8), 2), ['block 2', '2']),
    'bare': (lambda: prompt_attention(vit(), torch.rand(1, 1, 8, 8)), ['VisionTransformer', 'attention_maps']),
    'another prompt': (lambda: load_prompt_state(VisualPrompt(vit(), 2), prompt_state(VisualPrompt(vit(), 3))), ['(1, 3, 12)', '(1, 2, 12)']),
}


@pytest.mark.parametrize('name', BAD)
def test_bad_input(name):
    call, words = BAD[name]
    with refused(words): call()


@pytest.mark.parametrize('make', [lambda: VisualPrompt(vit(), 3, classes=2), lambda: VisualPrompt(vit(), 3, True), lambda: PixelPrompt(vit(), 2, 8, 1),
                                  lambda: PixelPrompt(vit(), 2, 8, 1, True, classes=4), lambda: PixelPrompt(vit(), 2, 8, 1, mapping=[2, 0, 1])])
def test_on_another_device(make):
    with fake_cuda():
        model = make()
        fake_step(model, (torch.rand(6, 1, 8, 8), torch.zeros(6, dtype=torch.long)))
        if isinstance(model, VisualPrompt): prompt_attention(model, torch.rand(2, 1, 8, 8))
