"The NumPy network: its optimizers and its whole training against torch, and what it reaches."
import os

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from visft_nb.cnn import layers
from visft_nb.cnn.numpy_train import SGD, Adam, Block, accuracy_numpy, he_init, lenet, train_numpy, train_step
from visft_nb.core import InputError

rng = np.random.default_rng(0)


@pytest.mark.parametrize('ours, theirs', [
    (lambda p: SGD(p, 0.1, 0.9), lambda p: torch.optim.SGD(p, 0.1, momentum=0.9)),
    (lambda p: SGD(p, 0.1, 0), lambda p: torch.optim.SGD(p, 0.1)),
    (lambda p: Adam(p, 0.01, (0.8, 0.95)), lambda p: torch.optim.Adam(p, 0.01, (0.8, 0.95))),
], ids=['momentum', 'plain', 'adam'])
def test_cnn_optimizers_as_torch(ours, theirs):
    w = rng.standard_normal(7)
    t = torch.tensor(w, requires_grad=True)
    mine, peer = ours([w]), theirs([t])
    for _ in range(20):
        g = rng.standard_normal(7)
        t.grad = torch.tensor(g); peer.step(); mine.step([g])
    assert np.abs(w - t.detach().numpy()).max() < 1e-12


def test_cnn_numpy_lenet_has_torch_loss_curve():
    net = lenet(0, (3, 4), size=12, classes=5, dtype='float64')
    w1, b1, w2, b2, w3, b3 = ts = [torch.tensor(p, requires_grad=True) for p in net.params]
    mine, peer = Adam(net.params, 3e-3), torch.optim.Adam(ts, 3e-3)
    for _ in range(12):
        x, y = rng.standard_normal((6, 1, 12, 12)), rng.integers(0, 5, 6)
        h = F.max_pool2d(F.conv2d(torch.tensor(x), w1, b1, padding=2).relu(), 2)
        h = F.max_pool2d(F.conv2d(h, w2, b2, padding=2).relu(), 2)
        loss = F.cross_entropy(F.linear(h.flatten(1), w3, b3), torch.tensor(y))
        peer.zero_grad(); loss.backward(); peer.step()
        assert abs(train_step(net, x, y, mine) - loss.item()) < 1e-9


@pytest.mark.parametrize('act', ['relu', 'sigmoid', 'gelu'])
@pytest.mark.parametrize('norm', [False, True])
@pytest.mark.parametrize('residual', [False, True])
def test_cnn_block_gradients(act, norm, residual):
    x, w, dy = rng.standard_normal((2, 3, 5, 5)), rng.standard_normal((3, 3, 3, 3)), rng.standard_normal((2, 3, 5, 5))
    block = Block(w, act, norm, residual)
    y = block(x); dx = block.back(dy)
    tx, tw, tg, tb = ts = [torch.tensor(v, requires_grad=True) for v in (x, w, np.ones(3), np.zeros(3))]
    v = F.conv2d(tx, tw, padding=1)
    v = F.batch_norm(v, None, None, tg, tb, True) if norm else v + tb[:, None, None] + 0*tg.sum()
    out = {'relu': F.relu, 'sigmoid': torch.sigmoid, 'gelu': F.gelu}[act](tx + v if residual else v)
    assert np.abs(y - out.detach().numpy()).max() < 1e-12
    for ours, theirs in zip([dx, *block.grads], torch.autograd.grad(out, ts, torch.tensor(dy))): assert np.abs(ours - theirs.numpy()).max() < 1e-9


def test_cnn_numpy_training_is_repeatable_and_learns():
    x = np.zeros((120, 1, 8, 8), 'float32'); y = np.arange(120) % 2
    x[y == 1, :, :, 4:] = 1
    x += 0.3*np.random.default_rng(1).standard_normal(x.shape, dtype='float32')
    losses = []
    for _ in range(2):
        net = lenet(3, (2, 3), size=8, classes=2)
        losses.append(train_numpy(net, x, y, SGD(net.params, 0.05), epochs=6, batch=20, seed=4))
    assert losses[0] == losses[1] and len(losses[0]) == 36 and accuracy_numpy(net, x, y) > .95
    assert layers.softmax_cross_entropy(net(x), y)[0] < losses[0][0]


def test_cnn_he_init_keeps_the_spread():
    w = he_init(np.random.default_rng(0), 64, 32, 3, 3)
    assert w.dtype == np.float32 and abs(w.var()*32*9/2 - 1) < 0.05


def test_cnn_lenet_bad_size():
    with pytest.raises(InputError, match='size=30.*multiple of 4'): lenet(size=30)


@pytest.mark.skipif(not os.environ.get('VISFT_DATA'), reason="needs MNIST in the folder that VISFT_DATA names; skipped, so the 98.5 % on MNIST are not checked")
def test_cnn_numpy_lenet_reaches_98_5_on_mnist():
    from visft_nb.data import load_dataset
    (x, y), (xt, yt) = ((d.images.numpy().astype('float32')/255, d.labels.numpy()) for d in (load_dataset('mnist', s) for s in ('train', 'test')))
    net = lenet(0)
    train_numpy(net, x, y, Adam(net.params, 4e-3), epochs=2, batch=64, seed=0)
    assert accuracy_numpy(net, xt, yt) >= .985
