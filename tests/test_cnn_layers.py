"The NumPy layers of chapter 1 against autograd, central differences and torch; the article's formulas; bad input."
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from helpers import refused
from visft_nb.cnn import layers
from visft_nb.cnn.backward import conv2d_im2col_backward, numeric_grad
from visft_nb.cnn.forward import conv2d_im2col, conv2d_loop, conv_size, layer_costs
from visft_nb.core import InputError

pair = lambda lo, hi: st.tuples(st.integers(lo, hi), st.integers(lo, hi))
lawful = settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.filter_too_much])


@st.composite
def convolutions(draw, most=7):
    "x, w, b and the knobs of a convolution whose kernel fits."
    groups, c, o = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    n, size, k = draw(st.integers(1, 3)), draw(pair(1, most)), draw(pair(1, 3))
    s, p, d = draw(pair(1, 3)), draw(pair(0, 2)), draw(pair(1, 3))
    assume(all(conv_size(size[i], k[i], s[i], p[i], d[i]) > 0 for i in (0, 1)))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    b = rng.standard_normal(groups*o) if draw(st.booleans()) else None
    return rng.standard_normal((n, groups*c, *size)), rng.standard_normal((groups*o, c, *k)), b, (s, p, d, groups)


def autograd(f, arrays, dy=None):
    "The output and the gradients of torch's f."
    tensors = [torch.tensor(a, requires_grad=True) for a in arrays]
    out = f(*tensors)
    grads = torch.autograd.grad(out, tensors, None if dy is None else torch.tensor(dy))
    return out.detach().numpy(), [g.numpy() for g in grads]


def check(name, arrays, f, back, theirs, dy=None, seed=0):
    "Output and gradients of a layer: autograd to 1e-9, central differences to 1e-6 of the largest gradient."
    y, cache = f(*arrays)
    if dy is None and np.ndim(y): dy = np.random.default_rng(seed).standard_normal(y.shape)
    grads = back(1.0 if dy is None else dy, cache)
    grads = grads if isinstance(grads, tuple) else (grads,)
    out, auto = autograd(theirs, arrays, dy)
    assert np.abs(y - out).max() < 1e-12*max(1, np.abs(out).max()), name
    for i, (g, a) in enumerate(zip(grads, auto)):
        numeric = numeric_grad(lambda v, i=i: f(*arrays[:i], v, *arrays[i+1:])[0], arrays[i], 1.0 if dy is None else dy)
        assert g.shape == arrays[i].shape and np.abs(g - a).max() < 1e-9, name
        assert np.abs(g - numeric).max() <= 1e-6*max(np.abs(numeric).max(), 1e-3), name


@lawful
@given(convolutions())
def test_cnn_conv_forward_and_backward(case):
    x, w, b, knobs = case
    arrays = [x, w] + ([] if b is None else [b])
    f = lambda x, w, b=None: layers.conv2d(x, w, b, *knobs)
    check(knobs, arrays, f, lambda dy, cache: tuple(g for g in layers.conv2d_backward(dy, cache) if g is not None), lambda x, w, b=None: F.conv2d(x, w, b, *knobs))


@lawful
@given(convolutions())
def test_cnn_conv_three_versions_agree(case):
    x, w, b, knobs = case
    y, cache = layers.conv2d(x, w, b, *knobs)
    assert np.abs(conv2d_loop(x, w, b, *knobs)[0] - y).max() < 1e-12
    reference, kept = conv2d_im2col(x, w, b, *knobs)
    dy = np.random.default_rng(0).standard_normal(y.shape)
    for a, c in zip((y, *layers.conv2d_backward(dy, cache)), (reference, *conv2d_im2col_backward(dy, kept))):
        assert (a is None and c is None) or np.abs(a - c).max() < 1e-11


@pytest.mark.parametrize('shape', [(3, 32, 3, 1, 1, 1), (16, 32, 3, 1, 1, 1), (32, 8, 3, 1, 1, 1), (16, 16, 5, 2, 2, 1), (16, 16, 3, 1, 2, 16), (8, 8, 1, 1, 0, 1), (16, 16, 3, 1, 0, 2)])
@pytest.mark.parametrize('layout', ['nchw', 'channels-last', 'reversed'])
def test_cnn_conv_float32_shapes_and_strides(shape, layout):
    "Both paths for dx, blocks of images and of rows, arrays of any strides; float32 stays float32 and inputs stay as they were."
    c, o, k, s, p, g = shape
    rng = np.random.default_rng(1)
    x, w, b = (rng.standard_normal(v, dtype=np.float32) for v in ((5, c, 40, 33), (o, c//g, k, k), (o,)))
    if layout == 'channels-last': x = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    if layout == 'reversed': x = np.ascontiguousarray(x[:, :, ::-1])[:, :, ::-1]
    before = x.copy()
    y, cache = layers.conv2d(x, w, b, s, p, 1, g)
    dy = np.asfortranarray(rng.standard_normal(y.shape, dtype=np.float32))
    dx, dw, db = layers.conv2d_backward(dy, cache)
    out, grads = autograd(lambda *t: F.conv2d(*t, s, p, 1, g), (before, w, b), np.ascontiguousarray(dy))
    assert np.array_equal(x, before) and {a.dtype for a in (y, dx, dw, db)} == {np.dtype('float32')}
    for ours, theirs in zip((y, dx, dw, db), (out, *grads)):
        assert np.abs(ours - theirs).max() < 2e-5*max(1, np.abs(theirs).max())
    assert layers.conv2d_backward(dy, cache, need_dx=False)[0] is None


def test_cnn_conv_any_number_of_images():
    w = np.ones((2, 3, 3, 3))
    for n in (0, 1, 2, 7):
        y, cache = layers.conv2d(np.ones((n, 3, 5, 5)), w)
        dx, dw, db = layers.conv2d_backward(np.ones_like(y), cache)
        assert y.shape == (n, 2, 3, 3) and dx.shape == (n, 3, 5, 5) and db is None and np.all(dw == 9*n)


def test_cnn_conv_leaves_the_threads_of_blas_as_they_were():
    from threadpoolctl import threadpool_info
    before = [i['num_threads'] for i in threadpool_info()]
    x = np.ones((4, 3, 8, 8))
    layers.conv2d_backward(*(lambda y, c: (np.ones_like(y), c))(*layers.conv2d(x, np.ones((4, 3, 3, 3)))))
    with pytest.raises(InputError): layers.conv2d(x, np.ones((4, 2, 3, 3)))
    assert [i['num_threads'] for i in threadpool_info()] == before


@lawful
@given(pair(4, 8), pair(1, 3), pair(1, 3), pair(0, 1), st.integers(0, 2**16))
def test_cnn_pooling(size, kernel, stride, padding, seed):
    padding = tuple(min(p, k//2) for p, k in zip(padding, kernel))
    x = np.random.default_rng(seed).standard_normal((2, 3, *size))
    for ours, back, theirs in ((layers.max_pool2d, layers.max_pool2d_backward, F.max_pool2d), (layers.avg_pool2d, layers.avg_pool2d_backward, F.avg_pool2d)):
        f, g = (lambda x, f=f: f(x, kernel, stride, padding) for f in (ours, theirs))
        check(ours.__name__, [x], f, back, g)


def test_cnn_max_pool_ties_and_nan_as_torch():
    x = np.random.default_rng(0).integers(0, 2, (2, 2, 6, 6)).astype(float)
    y, cache = layers.max_pool2d(x, 3, 1, 1)
    dy = np.random.default_rng(1).standard_normal(y.shape)
    assert np.allclose(layers.max_pool2d_backward(dy, cache), autograd(lambda t: F.max_pool2d(t, 3, 1, 1), [x], dy)[1][0], rtol=0, atol=1e-12)
    x[0, 0, 0, 0] = x[1, 1, 5, 2] = np.nan
    assert np.array_equal(np.isnan(layers.max_pool2d(x)[0]), torch.isnan(F.max_pool2d(torch.tensor(x), 2)).numpy())


@lawful
@given(st.integers(0, 2**16), st.floats(0.1, 8))
def test_cnn_elementwise_and_losses(seed, scale):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((5, 4))*scale
    x[np.abs(x) < 1e-4] = 0.1    # central differences need room beside ReLU's kink
    labels, target = rng.integers(0, 4, 5), rng.standard_normal((5, 4))
    check('relu', [x], layers.relu, layers.relu_backward, F.relu)
    check('sigmoid', [x], layers.sigmoid, layers.sigmoid_backward, torch.sigmoid)
    check('gelu', [x], layers.gelu, layers.gelu_backward, F.gelu)
    check('linear', [x, rng.standard_normal((3, 4)), rng.standard_normal(3)], layers.linear, layers.linear_backward, F.linear)
    check('cross-entropy', [x], lambda z: layers.softmax_cross_entropy(z, labels), layers.softmax_cross_entropy_backward, lambda z: F.cross_entropy(z, torch.tensor(labels)))
    check('mse', [x], lambda p: layers.mse(p, target), layers.mse_backward, lambda p: F.mse_loss(p, torch.tensor(target)))


@pytest.mark.parametrize('train', [True, False])
def test_cnn_batch_norm(train):
    rng = np.random.default_rng(0)
    x, gamma, beta, mean, var = rng.standard_normal((3, 4, 3, 2)), *rng.standard_normal((4, 4))
    var = var**2 + 0.1
    ours = lambda x, g, b: layers.batch_norm2d(x, g, b, mean.copy(), var.copy(), train)
    check('batch norm', [x, gamma, beta], ours, layers.batch_norm2d_backward, lambda x, g, b: F.batch_norm(x, torch.tensor(mean), torch.tensor(var), g, b, train))


def test_cnn_batch_norm_running_averages():
    x, mean, var = np.random.default_rng(0).standard_normal((3, 4, 3, 2)), np.zeros(4), np.ones(4)
    bn = torch.nn.BatchNorm2d(4).double()
    layers.batch_norm2d(x, np.ones(4), np.zeros(4), mean, var); bn(torch.tensor(x))
    assert np.abs(mean - bn.running_mean.numpy()).max() < 1e-12 and np.abs(var - bn.running_var.numpy()).max() < 1e-12
    kept = mean.copy(), var.copy()
    layers.batch_norm2d(x, np.ones(4), np.zeros(4), mean, var, train=False)
    assert np.array_equal(mean, kept[0]) and np.array_equal(var, kept[1])


def test_cnn_dropout():
    x = np.ones((200, 200), np.float32)
    y, cache = layers.dropout(x, 0.3, rng=np.random.default_rng(0))
    assert y.dtype == x.dtype and abs(y.mean() - 1) < 0.02 and abs((y == 0).mean() - 0.3) < 0.02
    assert np.array_equal(layers.dropout_backward(x, cache), y)
    assert layers.dropout(x, 0.3, train=False)[0] is x and layers.dropout_backward(x, None) is x


def test_cnn_losses_are_stable():
    big = np.array([[1e4, -1e4, 0]], 'float32')
    with np.errstate(all='raise', under='ignore'):
        assert layers.softmax_cross_entropy(big, [1])[0] == 2e4 and layers.softmax_cross_entropy(big, [0])[0] == 0
        assert np.array_equal(layers.sigmoid(big)[0], [[1, 0, 0.5]])


def test_cnn_costs_against_torch():
    from torch import nn
    from torch.utils.flop_counter import FlopCounterMode
    net = nn.Sequential(nn.Conv2d(4, 8, 3, 2, 1), nn.MaxPool2d(2), nn.Conv2d(8, 12, 5, 1, 2, groups=4))
    rows = layer_costs([('conv', 8, 3, 2, 1), ('pool', 0, 2, 2, 0), ('conv', 12, 5, 1, 2, 1, 4)], 4, 24)
    with FlopCounterMode(display=False) as counter: out = net(torch.zeros(1, 4, 24, 24))
    assert out.shape[1:] == (rows[-1]['channels'], rows[-1]['size'], rows[-1]['size'])
    assert sum(r['parameters'] for r in rows) == sum(p.numel() for p in net.parameters())
    assert sum(r['operations'] for r in rows) == counter.get_total_flops()


def test_cnn_article_formulas_fail_and_the_corrected_hold():
    "Section 4: its dL/dW1 and dL/dW2 are zero where the gradients are not; the chain through pooling and dense layer is right."
    rng = np.random.default_rng(3)
    x, w1, b1, w2, b2, label = rng.standard_normal((1, 1, 5, 5)), rng.standard_normal((1, 1, 2, 2)), np.array([0.7]), rng.standard_normal((2, 4)), rng.standard_normal(2), [1]
    u, c1 = layers.conv2d(x, w1, b1); y, c2 = layers.relu(u); z, c3 = layers.max_pool2d(y)
    a, c4 = layers.linear(z.reshape(1, -1), w2, b2)
    da = layers.softmax_cross_entropy_backward(1, layers.softmax_cross_entropy(a, label)[1])
    dz, dw2, _ = layers.linear_backward(da, c4)
    dw1 = layers.conv2d_backward(layers.relu_backward(layers.max_pool2d_backward(dz.reshape(z.shape), c3), c2), c1)[1]
    _, (t1, t2) = autograd(lambda w1, w2: F.cross_entropy(F.linear(F.max_pool2d(F.conv2d(torch.tensor(x), w1, torch.tensor(b1)).relu(), 2).flatten(1), w2, torch.tensor(b2)), torch.tensor(label)), [w1, w2])
    assert np.abs(dw1 - t1).max() < 1e-9 and np.abs(dw2 - t2).max() < 1e-9
    z_of = lambda w: layers.max_pool2d(layers.relu(layers.conv2d(x, w1, b1)[0])[0])[0]    # Z has no W2 in it
    assert not numeric_grad(z_of, w2, dz.reshape(z.shape)).any() and np.abs(t2).max() > 1e-2
    assert not numeric_grad(lambda w: x, w1, np.ones(x.shape)).any() and np.abs(t1).max() > 1e-2
    everywhere = layers.conv2d_backward(layers.relu_backward(dz.reshape(z.shape).repeat(2, 2).repeat(2, 3), c2), c1)[1]
    assert np.abs(everywhere - t1).max() > 1e-2
    assert np.allclose(layers.max_pool2d(-2*y)[0], 2*layers.max_pool2d(-y)[0]) and not np.allclose(layers.max_pool2d(-2*y)[0], -2*z)


X, W, B = np.ones((2, 4, 8, 8)), np.ones((6, 4, 3, 3)), np.ones(6)


@pytest.mark.parametrize('call, words', [
    (lambda c: c(X[0], W), ['(4, 8, 8)', '3 axes', '(N, C, H, W)', 'missing axes']),
    (lambda c: c(X, W[0]), ['(4, 3, 3)', 'w has shape']),
    (lambda c: c((X*255).astype('uint8'), W), ['uint8', 'float32', '/255']),
    (lambda c: c(X.astype(int), W), ['int64', 'float32']),
    (lambda c: c(torch.ones(2, 4, 8, 8), W), ['torch.Tensor', '.numpy()']),
    (lambda c: c(X.tolist(), W), ['list', 'np.array']),
    (lambda c: c(X, W, groups=3), ['groups=3', '4 channels', '6 kernels']),
    (lambda c: c(X, W, groups=2), ['8 channels', '(2, 4, 8, 8)', 'has 4']),
    (lambda c: c(X.transpose(0, 2, 3, 1), W), ['4 channels', 'channels-last', 'transpose(0, 3, 1, 2)']),
    (lambda c: c(X, np.ones((6, 4, 11, 11)), padding=1), ['11 x 11', '8 x 8', 'padding 1 x 1', 'pad more']),
    (lambda c: c(X, W, dilation=5), ['11 x 11', 'dilation 5']),
    (lambda c: c(X, W, B[:5]), ['(5,)', '(6,)', 'one bias']),
    (lambda c: c(X, W.astype('float32')), ['float64', 'float32', 'one type']),
    (lambda c: c(X, W, stride=0), ['stride=0', 'at least 1']),
    (lambda c: c(X, W, padding=-1), ['padding=-1', 'at least 0']),
    (lambda c: c(X, W, stride=1.5), ['stride=1.5', 'integer']),
    (lambda c: c(X, W, padding=(1, 1, 1)), ['padding=(1, 1, 1)', 'two']),
])
@pytest.mark.parametrize('conv', [layers.conv2d, conv2d_im2col, conv2d_loop], ids=['fast', 'im2col', 'loop'])
def test_cnn_conv_bad_input(call, words, conv):
    with refused(words): call(conv)


@pytest.mark.parametrize('call, words', [
    (lambda: layers.conv2d_backward(np.ones((2, 6, 8, 8)), layers.conv2d(X, W)[1]), ['(2, 6, 8, 8)', '(2, 6, 6, 6)', 'cache']),
    (lambda: layers.max_pool2d(X, 9), ['9 x 9', '8 x 8']),
    (lambda: layers.max_pool2d(X, 2, padding=2), ['padding=2', 'half']),
    (lambda: layers.avg_pool2d(X[0]), ['3 axes']),
    (lambda: layers.batch_norm2d(X, B, B), ['gamma', '(6,)', '(4,)']),
    (lambda: layers.batch_norm2d(X, B[:4], B[:4], train=False), ['running_mean', 'train=False']),
    (lambda: layers.batch_norm2d(X[:1, :, :1, :1], B[:4], B[:4]), ['one value per channel', 'larger batch']),
    (lambda: layers.linear(np.ones((2, 5)), np.ones((5, 3))), ['3 inputs', 'transposed', 'w.T']),
    (lambda: layers.linear(X, np.ones((5, 3))), ['4 axes']),
    (lambda: layers.linear(np.ones((2, 5)), np.ones((3, 5)), np.ones(5)), ['(5,)', '(3,)']),
    (lambda: layers.softmax_cross_entropy(np.ones((2, 3)), [0, 3]), ['0 to 3', '0 to 2', 'start at 1']),
    (lambda: layers.softmax_cross_entropy(np.ones((2, 3)), np.eye(3)[:2]), ['one-hot', '(2, 3)']),
    (lambda: layers.mse(np.ones((4, 1)), np.ones(4)), ['(4, 1)', '(4,)', 'broadcast']),
    (lambda: layers.dropout(X, 1.0), ['p=1.0', '0 <= p < 1']),
    (lambda: layers.linear_backward(np.ones((3, 3)), layers.linear(np.ones((2, 5)), np.ones((3, 5)))[1]), ['(3, 3)', '(2, 3)']),
    (lambda: numeric_grad(np.sin, np.ones(3, 'float32')), ['float32', 'float64']),
    (lambda: layer_costs([('conv', 8, 9, 1, 0)], 3, 4), ['Layer 0', 'kernel 9']),
])
def test_cnn_layers_bad_input(call, words):
    with refused(words): call()


def test_cnn_slide_draws_the_convolution():
    "The picture's right half holds the numbers that conv2d gives."
    import matplotlib.pyplot as plt
    from visft_nb.cnn.forward import draw_slide
    image = np.random.default_rng(0).random((9, 9))
    fig = draw_slide(image, kernel=3, stride=2, padding=1, dilation=1, step=10**6)
    w = np.ones((3, 1))*np.linspace(-1, 1, 3)
    y, _ = layers.conv2d(image[None, None], w[None, None], stride=2, padding=1)
    np.testing.assert_allclose(fig.axes[1].images[0].get_array(), y[0, 0], atol=1e-12)
    assert np.isnan(np.ma.filled(draw_slide(image, step=3).axes[1].images[0].get_array().astype(float), np.nan)).sum() == 49 - 4
    with pytest.raises(InputError, match='kernel covers'): draw_slide(image, kernel=5, dilation=3)
    plt.close('all')
