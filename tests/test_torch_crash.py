"Narrow strided convolutions: which they are, that training them neither crashes nor errs, and that others are left alone."
import json, os, subprocess, sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from visft_nb import narrow
from visft_nb.cnn.models import Bottleneck, ResNet, resnet18, small_cnn
from visft_nb.narrow import channel_limit, guard_backward, guarded, narrow_convolutions, protect, unguard_backward
from visft_nb.train import Objective


@pytest.fixture
def bare():
    "Torch's own backward pass before and after."
    unguard_backward()
    yield
    unguard_backward()


@pytest.fixture
def sure(bare, monkeypatch):
    "A guard that stands for fewer than 16 channels, on any processor."
    monkeypatch.setattr(narrow, 'channel_limit', lambda: 16)
    assert guard_backward()


def processor(monkeypatch, machine, *instructions, onednn=True):
    monkeypatch.setattr('platform.machine', lambda: machine)
    monkeypatch.setattr(torch.cpu, 'get_capabilities', lambda: dict.fromkeys(instructions, True), raising=False)
    monkeypatch.setattr(torch.backends.mkldnn, 'is_available', lambda: onednn)


@pytest.mark.parametrize('machine, instructions, limit', [
    ('x86_64', ['avx2', 'avx512_f'], 16), ('AMD64', ['avx2'], 8), ('x86_64', [], 0), ('aarch64', [], 0), ('arm64', ['avx2', 'avx512_f'], 0)])
def test_the_limit_is_the_processors(monkeypatch, machine, instructions, limit):
    processor(monkeypatch, machine, *instructions)
    assert channel_limit() == limit


def test_older_torch_names_instructions_otherwise(monkeypatch):
    processor(monkeypatch, 'x86_64')
    monkeypatch.delattr(torch.cpu, 'get_capabilities')
    for name, there in dict(avx512=False, avx2=True).items(): monkeypatch.setattr(torch.cpu, f'_is_{name}_supported', lambda there=there: there, raising=False)
    assert channel_limit() == 8


def test_no_limit_without_onednn_or_with_a_mended_torch(monkeypatch):
    processor(monkeypatch, 'x86_64', 'avx2', 'avx512_f', onednn=False)
    assert channel_limit() == 0
    processor(monkeypatch, 'x86_64', 'avx2', 'avx512_f')
    monkeypatch.setattr(torch, '__version__', '2.15.0+cpu')
    assert channel_limit() == 16
    monkeypatch.setattr(narrow, 'FIXED', (2, 15))
    assert channel_limit() == 0
    monkeypatch.setattr(torch, '__version__', '2.14.1')
    assert channel_limit() == 16


@pytest.mark.parametrize('layer, found', [
    (nn.Conv2d(4, 64, 1, 2), True), (nn.Conv2d(15, 64, 1, (2, 1)), True), (nn.Conv2d(4, 8, 1, 3, padding='valid'), True),
    (nn.ConvTranspose2d(64, 4, 1, 2), True), (nn.Conv2d(16, 4, 1, 2), False), (nn.Conv2d(4, 8, 1), False), (nn.Conv2d(4, 8, 3, 2, 1), False),
    (nn.Conv2d(4, 8, 1, 2, padding=1), False), (nn.Conv2d(4, 8, 1, 2, groups=2), False), (nn.ConvTranspose2d(4, 64, 1, 2), False),
    (nn.Conv1d(4, 8, 1, 2), False), (nn.Conv3d(4, 8, 1, 2), False), (nn.Linear(4, 4), False)])
def test_narrow_layers(layer, found): assert narrow_convolutions(nn.Sequential(layer), 16) == ['0']*found


def test_narrow_layers_of_networks_by_name():
    shortcuts = [f'layer{i}.0.downsample.0' for i in (2, 3, 4)]
    assert narrow_convolutions(resnet18(width=4), 16) == shortcuts[:2] and narrow_convolutions(resnet18(width=1), 16) == shortcuts
    assert narrow_convolutions(resnet18(width=4), 8) == shortcuts[:1]
    assert narrow_convolutions(ResNet(Bottleneck, (1, 1, 1, 1), 10, width=2), 16) == shortcuts[:1]   # four times as many go into its shortcuts
    assert narrow_convolutions(resnet18(width=16), 16) == narrow_convolutions(small_cnn(width=1), 16) == []
    assert narrow_convolutions(resnet18(width=1), 0) == []


def test_what_is_wide_is_left_alone(bare, monkeypatch):
    monkeypatch.setattr(narrow, 'channel_limit', lambda: 16)
    for model in (resnet18(width=16), small_cnn(width=1), nn.Conv2d(4, 8, 3, 2)):
        assert protect(model) == []
        Objective(model)
    assert not guarded()


def test_a_processor_without_the_fault_is_left_alone(bare, monkeypatch):
    monkeypatch.setattr(narrow, 'channel_limit', lambda: 0)
    assert protect(resnet18(width=4)) == [] and not guard_backward() and not guarded()


@pytest.mark.parametrize('made', [lambda: resnet18(width=4), lambda: Objective(nn.Sequential(nn.Conv2d(4, 8, 1, 2)))])
def test_a_narrow_network_raises_the_guard(bare, monkeypatch, made):
    monkeypatch.setattr(narrow, 'channel_limit', lambda: 16)
    made()
    assert guarded()


def gradients(f, x, w, b, dtype, onednn):
    "Output, and gradients of a sum of squares, for x, w and b of another type."
    x, w, b = (None if t is None else t.detach().to(dtype).requires_grad_() for t in (x, w, b))
    with torch.backends.mkldnn.flags(enabled=onednn):
        y = f(x, w, b)
        y.double().square().sum().backward()
    return [t.detach().double() for t in (y, x.grad, w.grad, *([] if b is None else [b.grad]))]


CASES = {
    'as it is': (lambda x, w, b: F.conv2d(x, w, b, 2), 4, 8, 24, 24, False), 'bias': (lambda x, w, b: F.conv2d(x, w, b, 2), 3, 8, 24, 24, True),
    'one direction': (lambda x, w, b: F.conv2d(x, w, b, (1, 3)), 7, 5, 9, 12, True), 'odd sides': (lambda x, w, b: F.conv2d(x, w, b, 2), 5, 8, 23, 25, True),
    'transposed': (lambda x, w, b: F.conv_transpose2d(x, w, b, 2, output_padding=1), 12, 4, 12, 12, True),
    'transposed, odd': (lambda x, w, b: F.conv_transpose2d(x, w, b, 2), 12, 4, 12, 12, True),
}

@pytest.mark.parametrize('last', [True, False])
@pytest.mark.parametrize('case', CASES)
def test_the_way_around_gives_the_same_gradients(sure, case, last):
    f, c_in, c_out, h, w_, bias = CASES[case]
    torch.manual_seed(0)
    x, w = torch.randn(3, c_in, h, w_), torch.randn(*((c_in, c_out) if 'transposed' in case else (c_out, c_in)), 1, 1)
    if last: x, w = (t.contiguous(memory_format=torch.channels_last) for t in (x, w))
    b = torch.randn(c_out) if bias else None
    truth = gradients(f, x, w, b, torch.float64, False)
    for got, want in zip(gradients(f, x, w, b, torch.float32, True), truth): torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-3)
    for got, want in zip(gradients(f, x, w, b, torch.bfloat16, True), truth): assert (got - want).norm() < .03*want.norm()


@pytest.mark.parametrize('asked', ['x', 'w', 'b', 'xb'])
def test_only_what_is_asked_for_is_computed(sure, asked):
    torch.manual_seed(0)
    t = dict(x=torch.randn(2, 4, 8, 8), w=torch.randn(8, 4, 1, 1), b=torch.randn(8))
    wanted = [t[k].requires_grad_() for k in asked]
    y = F.conv2d(t['x'], t['w'], t['b'], 2)
    found = dict(zip(asked, torch.autograd.grad(y.sum(), wanted)))
    if 'b' in asked: assert torch.equal(found['b'], torch.full((8,), 2*4*4.))
    if 'w' in asked: torch.testing.assert_close(found['w'][:, :, 0, 0], t['x'][..., ::2, ::2].sum((0, 2, 3)).expand(8, 4))
    if 'x' in asked:
        every = torch.zeros_like(t['x'])
        every[..., ::2, ::2] = t['w'].detach().sum(0)
        torch.testing.assert_close(found['x'], every)


def test_second_derivatives_and_copies_go_through_the_guard(sure):
    x, w = (torch.randn(*s, dtype=torch.float64, requires_grad=True) for s in ((2, 3, 4, 4), (5, 3, 1, 1)))
    assert torch.autograd.gradgradcheck(lambda x, w: F.conv2d(x, w, stride=2), (x, w))
    x, w = (t.detach().float().requires_grad_() for t in (x, w))
    g, = torch.autograd.grad(F.conv2d(x, w, stride=2).square().sum(), w, create_graph=True)
    again, = torch.autograd.grad(g.square().sum(), x)
    assert again.shape == x.shape and again.isfinite().all()


def test_torch_without_get_kernel_is_guarded_too(bare, monkeypatch):
    monkeypatch.setattr(narrow, 'channel_limit', lambda: 16)
    monkeypatch.delattr(torch.library, 'get_kernel', raising=False)
    assert guard_backward()
    x, conv, wide = torch.randn(2, 4, 8, 8), nn.Conv2d(4, 8, 1, 2), nn.Conv2d(4, 8, 3)
    conv(x).sum().backward(); wide(x).sum().backward()
    torch.testing.assert_close(conv.weight.grad[:, :, 0, 0], x[..., ::2, ::2].sum((0, 2, 3)).expand(8, 4))
    assert wide.weight.grad.isfinite().all()


def test_torch_that_cannot_be_guarded_says_so(bare, monkeypatch):
    monkeypatch.setattr(narrow, 'channel_limit', lambda: 16)
    def refuse(): raise RuntimeError('no such operator')
    monkeypatch.setattr(narrow, '_torchs_own', refuse)
    with pytest.warns(UserWarning, match=r'fewer than 16 channels, and could not be guarded \(no such operator\)'): assert not guard_backward()
    assert not guarded()


TRAIN = '''
import copy, json, sys, torch
from torch.nn import functional as F
from visft_nb.cnn.models import BasicBlock, ResNet
from visft_nb.train import fit
torch.manual_seed(0)
x, y = torch.rand(4, 3, 64, 64), torch.tensor([0, 1, 2, 3])
last = lambda t: t.contiguous(memory_format=torch.channels_last)
def grads(model, dtype, onednn):
    model = copy.deepcopy(model).to(dtype)
    with torch.backends.mkldnn.flags(enabled=onednn): F.cross_entropy(model(last(x.to(dtype))), y).backward()
    return torch.cat([p.grad.double().flatten() for p in model.parameters()])
worst = {}
for width in (1, 2, 4, 8):
    model = ResNet(BasicBlock, (1, 1, 1, 1), 4, width=width, stem='cifar').eval()
    truth = grads(model, torch.float64, False)
    worst[width] = max(((grads(model, torch.float32, True) - truth).norm()/truth.norm()).item() for _ in range(2))
    for precision in ('fp32', 'bf16'):
        history = fit(model, [(last(x), y)]*3, epochs=1, precision=precision, bar=False)
        assert len(history.steps) == 3
print(json.dumps(worst))
'''

@pytest.mark.parametrize('threads, isa', [(1, 'DEFAULT'), (2, 'DEFAULT'), (4, 'DEFAULT'), (2, 'AVX512_CORE_BF16'), (1, 'AVX2')])
def test_narrow_networks_train_to_the_end_with_right_gradients(threads, isa):
    "In a process of its own, with each of the paths through oneDNN that had the fault (a processor takes those it has)."
    env = os.environ | {'OMP_NUM_THREADS': str(threads), 'MKL_NUM_THREADS': str(threads), 'ONEDNN_MAX_CPU_ISA': isa, 'OMP_WAIT_POLICY': 'PASSIVE', 'VISFT_DEVICE': 'cpu'}
    done = subprocess.run([sys.executable, '-c', TRAIN], capture_output=True, text=True, timeout=300, env=env)
    assert done.returncode == 0, (done.returncode, done.stderr[-2000:])
    assert all(v < 1e-4 for v in json.loads(done.stdout).values()), done.stdout
