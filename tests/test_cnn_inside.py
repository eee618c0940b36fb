"Explanations: equal to captum's, true to their definitions, leaving the model alone."
import copy

import pytest
import torch
from torch import nn

from helpers import refused
from visft_nb.cnn import inside as I
from visft_nb.cnn import models as M
from visft_nb.core import InputError, set_seed


@pytest.fixture(scope='module')
def net():
    "A small network with batch-norm statistics that are not those of its birth."
    set_seed(0)
    model = M.small_cnn(width=8)
    with torch.no_grad():
        for _ in range(3): model(torch.rand(16, 1, 28, 28))
    return model.eval()


@pytest.fixture(scope='module')
def x(): return torch.rand(4, 1, 28, 28, generator=torch.Generator().manual_seed(1))


METHODS = {
    'saliency': lambda m, x, t=None: I.saliency(m, x, t),
    'input_gradient': lambda m, x, t=None: I.input_gradient(m, x, t),
    'grad_cam': lambda m, x, t=None: I.grad_cam(m, x, 'body.2', t),
    'integrated_gradients': lambda m, x, t=None: I.integrated_gradients(m, x, t, steps=4),
    'guided_backprop': lambda m, x, t=None: I.guided_backprop(m, x, t),
}


def plain(net):
    "A copy without in-place ReLU, which captum's hooks do not like."
    net = copy.deepcopy(net)
    for m in net.modules():
        if isinstance(m, nn.ReLU): m.inplace = False
    return net


@pytest.mark.parametrize('target', [None, 3, [1, 2, 3, 4]])
def test_equal_to_captum(net, x, target):
    attr = pytest.importorskip('captum.attr', reason='captum is in the extra `course`')
    t = net(x).argmax(1) if target is None else torch.as_tensor(target).expand(4)
    ref = plain(net)
    leaf = lambda: x.clone().requires_grad_()
    close = lambda a, b: torch.allclose(a.double(), b.double(), atol=1e-5*b.abs().max().item(), rtol=0)
    assert close(I.saliency(net, x, target), attr.Saliency(ref).attribute(leaf(), t).amax(1))
    assert close(I.integrated_gradients(net, x, target, steps=20), attr.IntegratedGradients(ref).attribute(x, target=t, n_steps=20))
    assert close(I.integrated_gradients(net, x, target, baseline=.5, steps=20), attr.IntegratedGradients(ref).attribute(x, baselines=.5, target=t, n_steps=20))
    assert close(I.guided_backprop(net, x, target), attr.GuidedBackprop(ref).attribute(leaf(), t))
    for i in (1, 2, 3):
        cam = attr.LayerGradCam(ref, ref.body[i]).attribute(x, t, relu_attributions=True)
        assert close(I.grad_cam(net, x, f'body.{i}', target), attr.LayerAttribution.interpolate(cam, (28, 28), 'bilinear')[:, 0])


def test_grad_cam_takes_the_output_before_an_inplace_relu(net, x):
    a, b = (I.grad_cam(m, x, 'body.2.1') for m in (net, plain(net)))
    assert torch.allclose(a, b, atol=1e-7)
    assert (I.feature_maps(net, x, 'body.2.1') < 0).any() and (I.feature_maps(net, x, 'body.2') >= 0).all()


def test_grad_cam_is_cam_before_a_linear_head(net, x):
    with torch.no_grad():
        a = I.feature_maps(net, x, 'body.3')
        cam = (net.head.weight[5][None, :, None, None]*a).sum(1)
        assert torch.allclose(cam.mean((1, 2)) + net.head.bias[5], net(x)[:, 5], atol=1e-5)
        want = nn.functional.interpolate(cam.relu()[:, None]/cam[0].numel(), (28, 28), mode='bilinear')[:, 0]
    assert torch.allclose(I.grad_cam(net, x, net.body[3], 5), want, atol=1e-6)


@pytest.mark.parametrize('baseline', [None, 1., torch.rand(1, 1, 28, 28, generator=torch.Generator().manual_seed(2))])
def test_integrated_gradients_are_complete(net, x, baseline):
    net, x = copy.deepcopy(net).double(), x.double()
    start = torch.zeros_like(x) if baseline is None else torch.as_tensor(baseline, dtype=x.dtype).expand(x.shape)
    total = I.integrated_gradients(net, x, 2, baseline, steps=400).sum((1, 2, 3))
    with torch.no_grad(): want = (net(x) - net(start))[:, 2]
    assert torch.allclose(total, want, atol=3e-2*want.abs().max().item())


def test_axioms_of_integrated_gradients(x):
    linear = nn.Sequential(nn.Flatten(), nn.Linear(784, 3)).double()
    got = I.integrated_gradients(linear, x.double(), 1, steps=1)       # exact for a linear function at any number of points
    assert torch.allclose(got.flatten(1), x.double().flatten(1)*linear[1].weight[1], atol=1e-12)
    assert I.integrated_gradients(linear, x.double(), 1, baseline=x.double()).abs().max() == 0


def test_guided_backprop_by_hand():
    net = nn.Sequential(nn.Conv2d(1, 3, 1, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(3, 2, bias=False)).double()
    with torch.no_grad(): net[0].weight.copy_(torch.tensor([1., -1, 2]).reshape(3, 1, 1, 1)); net[3].weight.copy_(torch.tensor([[1., 1, -1], [0, 0, 0]]))
    x = torch.ones(1, 1, 1, 1, dtype=torch.double)
    assert I.input_gradient(net, x, 0).item() == 1 - 2 and I.guided_backprop(net, x, 0).item() == 1   # the negative way through unit 3 is cut


@pytest.mark.parametrize('method', METHODS)
@pytest.mark.parametrize('frozen', [False, True])
def test_leaves_the_model_as_it_was(net, x, method, frozen):
    model = copy.deepcopy(net).requires_grad_(not frozen)
    model.train(); model.body[1].eval()                                 # a mode that is not the same everywhere
    for p in model.parameters(): p.grad = torch.ones_like(p)
    state, modes = {k: v.clone() for k, v in model.state_dict().items()}, [m.training for m in model.modules()]
    with torch.no_grad(): out = METHODS[method](model, x)                # gradients are computed wherever it is called
    assert out.abs().max() > 0 and not out.requires_grad
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items()) and modes == [m.training for m in model.modules()]
    assert all((p.grad == 1).all() and p.requires_grad is not frozen for p in model.parameters())
    assert not any(m._forward_hooks or m._backward_hooks for m in model.modules()) and not x.requires_grad and x.grad is None


@pytest.mark.parametrize('method', METHODS)
def test_leaves_no_hook_after_an_error(net, x, method):
    model = copy.deepcopy(net).train()
    with pytest.raises(InputError): METHODS[method](model, x, 10)
    assert model.training and not any(m._forward_hooks for m in model.modules())


@pytest.mark.parametrize('method', METHODS)
def test_every_image_is_explained_by_itself(net, x, method):
    whole = METHODS[method](net, x, 1)
    assert torch.allclose(whole[2:3], METHODS[method](net, x[2:3], 1), atol=1e-5*whole.abs().max().item())


@pytest.mark.parametrize('build, side, layer', [(lambda: M.resnet18(classes=4, width=8, stem='cifar'), 32, 'layer4'),
                                                (lambda: M.vgg11(classes=4, hidden=16, pool=1), 64, 'features.18'),
                                                (lambda: M.vit_tiny(classes=4, size=32, patch=8, dim=32, depth=2, heads=2), 32, 'blocks.0')])
def test_works_with_every_architecture(build, side, layer):
    set_seed(0)
    model, x = build().eval(), torch.rand(2, 3, side, side)
    assert I.saliency(model, x).shape == I.grad_cam(model, x, layer, 1).shape == (2, side, side)
    assert I.integrated_gradients(model, x, steps=3).shape == x.shape
    assert I.filters(model).ndim == 4


def test_feature_maps(net, x):
    maps = I.feature_maps(net, x, ['body.0', net.body[1]])
    assert {k: tuple(v.shape) for k, v in maps.items()} == {'body.0': (4, 8, 14, 14), 'body.1': (4, 16, 7, 7)}
    with torch.no_grad(): assert torch.allclose(maps['body.0'], net.body[0]((x - .5)/.5))
    order, strongest = I.strongest_maps(net, x[:1], 'body.0', 3)
    assert strongest.shape == (3, 14, 14) and (strongest.mean((1, 2)).diff() <= 0).all() and torch.allclose(strongest[0], maps['body.0'][0, order[0]], atol=1e-5)


def test_widget(net, x):
    widget = I.explore_maps(net, x[:1])
    layer, channel = widget.children[:2]
    assert layer.options == ('body.0.0', 'body.1.0', 'body.2.0', 'body.3.0') and channel.max == 31
    layer.value = 'body.3.0'; channel.value = 31
    assert widget.kwargs == {'layer': 'body.3.0', 'channel': 31}


def test_randomise(net, x):
    state = {k: v.clone() for k, v in net.state_dict().items()}
    new = I.randomise(net, ['head', 'body.3'], x, seed=1)
    changed = {k.rsplit('.', 1)[0] for k, v in new.named_parameters() if not torch.equal(v, state[k])}
    assert {'head', 'body.3.0'} <= changed and not any(k.startswith(('body.0', 'body.1', 'body.2')) for k in changed)
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items()) and not new.training
    assert torch.equal(I.randomise(net, ['head'], x, 1).head.weight, I.randomise(net, ['head'], x, 1).head.weight)
    assert torch.equal(I.feature_maps(new, x, 'body.2'), I.feature_maps(net, x, 'body.2'))
    out = I.feature_maps(new, x, 'body.3.1')
    assert out.mean().abs() < .1 and .7 < out.std() < 1.3, 'the statistics are measured anew'


def test_a_random_head_is_noticed_by_the_gradient_more_than_by_guided_backprop():
    set_seed(0)
    vgg, image = M.vgg11(classes=10, channels=1, hidden=64, pool=1).eval(), torch.rand(1, 1, 48, 48)      # learned or not: any ReLU network does
    new = I.randomise(vgg, ['classifier'], image, seed=1)
    guided = lambda m: I.guided_backprop(m, image, 3).abs().amax(1)
    same = [I.rank_correlation(f(vgg), f(new)) for f in (guided, lambda m: I.saliency(m, image, 3))]
    assert same[0] > same[1] + .1, same


def test_rank_correlation():
    a = torch.rand(5, 5)
    assert I.rank_correlation(a, a**3) == pytest.approx(1) and I.rank_correlation(a, -a) == pytest.approx(-1)


class Two(nn.Module):
    "A layer on the way and one beside it."
    def __init__(self):
        super().__init__(); self.a, self.b = nn.Conv2d(1, 2, 3), nn.Conv2d(1, 2, 3)
    def forward(self, x): self.b(x); return self.a(x).mean((2, 3))


X = torch.rand(2, 1, 28, 28)
BAD = {
    'unknown layer': (lambda n: I.grad_cam(n, X, 'body.4'), ["'body.4'", 'body.3']),
    'unknown layer of feature_maps': (lambda n: I.feature_maps(n, X, 'boddy.1'), ["'boddy.1'", 'body.1']),
    'layer of another model': (lambda n: I.grad_cam(n, X, nn.Conv2d(1, 1, 1)), ['Conv2d', 'no part', 'copied']),
    'layer without maps': (lambda n: I.grad_cam(n, X, 'head'), ['(2, 10)', 'maps']),
    'layer beside the way': (lambda n: I.grad_cam(Two(), X, 'b'), ['does not depend', 'b']),
    'target too large': (lambda n: I.saliency(n, X, 10), ['10', '0 to 9']),
    'negative target': (lambda n: I.integrated_gradients(n, X, -1), ['-1', '0 to 9']),
    'targets of another length': (lambda n: I.saliency(n, X, [1, 2, 3]), ['(3,)', '2 of them']),
    'float target': (lambda n: I.guided_backprop(n, X, 1.5), ['float32', 'class number']),
    'one image without batch': (lambda n: I.saliency(n, X[0]), ['(1, 28, 28)', 'x[None]']),
    'channels': (lambda n: I.saliency(n, torch.rand(2, 3, 28, 28)), ['(2, 3, 28, 28)', '1 channel']),
    'no classifier': (lambda n: I.saliency(n.body, X), ['(2, 32, 2, 2)', 'logits']),
    'steps': (lambda n: I.integrated_gradients(n, X, steps=0), ['steps=0', 'at least 1']),
    'baseline': (lambda n: I.integrated_gradients(n, X, baseline=torch.zeros(3)), ['(3,)', '(2, 1, 28, 28)']),
    'no ReLU': (lambda n: I.guided_backprop(M.vit_tiny(channels=1, size=28, patch=7, dim=16, depth=1, heads=2), X), ['VisionTransformer', 'ReLU']),
    'no convolution': (lambda n: I.filters(nn.Linear(2, 2)), ['Linear', 'no convolution']),
    'no such convolution': (lambda n: I.filters(n, 'body.0.1'), ['body.0.1', 'body.0.0']),
    'vectors as maps': (lambda n: I.strongest_maps(n, X, 'head'), ['head', '(2, 10)']),
    'shapes': (lambda n: I.rank_correlation(torch.rand(3, 3), torch.rand(4, 4)), ['(3, 3)', '(4, 4)']),
    'flat map': (lambda n: I.rank_correlation(torch.rand(3, 3), torch.zeros(3, 3)), ['0 everywhere']),
    'randomise': (lambda n: I.randomise(n, ['body.9'], X), ['body.9', 'body.']),
}


@pytest.mark.parametrize('case', BAD)
def test_bad_input(net, case):
    call, words = BAD[case]
    with refused(words) as e: call(net)
    assert len(str(e.value)) > 40, str(e.value)
