"Contrastive pre-training: the loss against the peer, the step, side effects, bad input."
import math

import pytest
import torch
from torch import nn

from visft_nb.cnn.models import small_cnn
from visft_nb.core import InputError
from visft_nb.data import Augment, Images
from visft_nb.pretrain import NTXentLoss, contrastive_step, embed, knn_accuracy, linear_probe, pretrain_contrast, two_views

pytestmark = pytest.mark.filterwarnings('ignore')


@pytest.mark.peer
@pytest.mark.parametrize('n,d,t', [(2, 3, .5), (16, 8, .1), (64, 32, .2), (33, 5, 1.)])
def test_loss_equals_lightly(n, d, t):
    pytest.importorskip('lightly')
    from lightly.loss import NTXentLoss as Theirs
    z = torch.randn(2, n, d, generator=torch.Generator().manual_seed(n), requires_grad=True)
    ours, theirs = NTXentLoss(t)(*z), Theirs(t)(*z)
    assert abs(ours - theirs) <= 1e-6*abs(theirs)
    a, b = (torch.autograd.grad(v, z)[0] for v in (ours, theirs))
    assert (a - b).abs().max() <= 1e-5*b.abs().max()


def test_loss_has_its_two_known_values():
    assert math.isclose(NTXentLoss(.3)(torch.ones(8, 4), torch.ones(8, 4)), math.log(15), rel_tol=1e-6)
    assert math.isclose(NTXentLoss(.5)(torch.eye(8), torch.eye(8)), math.log(1 + 14*math.exp(-2)), rel_tol=1e-6)


def test_loss_leaves_out_the_pair_with_itself():
    z = torch.eye(64)
    assert NTXentLoss(.05)(z, z) < 1e-3, 'with self-pairs in the denominator it stays above log 2'


def test_loss_ignores_length_order_and_rotation():
    z1, z2 = torch.randn(2, 10, 6)
    loss, q, p = NTXentLoss(.2), torch.linalg.qr(torch.randn(6, 6)).Q, torch.randperm(10)
    assert torch.allclose(loss(z1, z2), loss(3*z1, .1*z2), rtol=1e-5)
    assert torch.allclose(loss(z1, z2), loss(z1[p] @ q, z2[p] @ q), rtol=1e-4)
    assert torch.allclose(loss(z1, z2), loss(z2, z1), rtol=1e-6)


def test_views_are_independent_and_repeatable():
    x, views = torch.rand(6, 1, 16, 16), two_views(Augment(degrees=20, translate=.2, noise=.1))
    a, b = views(x, torch.Generator().manual_seed(0))
    c, d = views(x, torch.Generator().manual_seed(0))
    assert torch.equal(a, c) and torch.equal(b, d) and not torch.equal(a, b) and a.shape == x.shape


def images(n=40, classes=2):
    x = torch.randint(0, 60, (n, 1, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    y = torch.arange(n) % classes
    for i in range(n): x[i, :, 4*int(y[i]):4*int(y[i]) + 4] += 150
    return Images(x, y, tuple(map(str, range(classes))))


def test_pretraining_lowers_the_loss_and_leaves_head_and_labels_alone():
    torch.manual_seed(0)
    model, data = small_cnn(2, width=4), images()
    head, flags = model.head.weight.clone(), [p.requires_grad for p in model.parameters()]
    body = [p.clone() for p in model.body.parameters()]
    history = pretrain_contrast(model, data, epochs=6, batch_size=20, bar=False, precision='fp32')
    assert torch.equal(model.head.weight, head) and [p.requires_grad for p in model.parameters()] == flags
    assert not all(torch.equal(a, b) for a, b in zip(body, model.body.parameters()))
    assert history.epochs[-1]['loss'] < history.steps[0]['loss'] and data.labels is not None and len(history.steps) == 12


def test_pretraining_twice_is_the_same_and_without_labels_too():
    runs = []
    for data in (images(), Images(images().images), images()):
        torch.manual_seed(1); model = small_cnn(2, width=4)
        pretrain_contrast(model, data, epochs=1, batch_size=20, bar=False, precision='fp32')
        runs.append(torch.cat([p.flatten() for p in model.parameters()]))
    assert torch.equal(runs[0], runs[1]) and torch.equal(runs[0], runs[2])


def test_the_projector_is_trained_along():
    step = contrastive_step(NTXentLoss(), Augment(noise=.1), nn.Linear(16, 4))
    model, x = small_cnn(2, width=4), torch.rand(8, 1, 16, 16)
    step(model, (x, None)).backward()
    assert step.projector.weight.grad.abs().sum() > 0 and model.head.weight.grad is None
    assert torch.is_tensor(step(model, x)), 'a batch of images alone is taken too'


def test_embedding_leaves_the_model_as_it_was():
    model = small_cnn(2, width=4).train()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    z = embed(model, images())
    assert z.shape == (40, 16) and model.training and all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


def test_knn_against_scikit_learn():
    from sklearn.neighbors import KNeighborsClassifier
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(200, 5, generator=g), torch.randn(80, 5, generator=g)
    ya, yb = (a[:, 0] > 0).long() + (a[:, 1] > 0), (b[:, 0] > 0).long() + (b[:, 1] > 0)
    for k in (1, 7):
        theirs = KNeighborsClassifier(k, metric='cosine', algorithm='brute').fit(a, ya)
        assert abs(knn_accuracy(a, ya, b, yb, k=k, temperature=None) - 100*theirs.score(b, yb)) < (1e-4 if k == 1 else 4)
    assert knn_accuracy(a, ya, a, ya, k=1) == 100


def test_probe_reads_what_is_linear():
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(300, 5, generator=g), torch.randn(200, 5, generator=g)
    assert linear_probe(a, (a[:, 0] > 0).long(), b, (b[:, 0] > 0).long()) > 95
    assert linear_probe(a, (a[:, 0]*a[:, 1] > 0).long(), b, (b[:, 0]*b[:, 1] > 0).long()) < 70


BAD = {
    'temperature': (lambda: NTXentLoss(0), ['temperature=0']),
    'one image': (lambda: NTXentLoss()(torch.rand(1, 4), torch.rand(1, 4)), ['one image', 'batch']),
    'shapes': (lambda: NTXentLoss()(torch.rand(4, 4), torch.rand(3, 4)), ['(4, 4)', '(3, 4)']),
    'no features': (lambda: pretrain_contrast(nn.Linear(2, 2), images(), 1), ['Linear', 'features']),
    'one to learn from': (lambda: pretrain_contrast(small_cnn(), images(1), 1), ['at least 2']),
    'nan': (lambda: pretrain_contrast(small_cnn(width=4), images(), 3, 20, lr=1e30, bar=False), ['step', 'lower the rate']),
    'k': (lambda: knn_accuracy(torch.rand(4, 2), torch.zeros(4).long(), torch.rand(4, 2), torch.zeros(4).long(), k=9), ['k=9', '4']),
    'lengths': (lambda: knn_accuracy(torch.rand(4, 2), torch.zeros(3).long(), torch.rand(4, 2), torch.zeros(4).long(), k=1), ['(4, 2)', '3']),
    'one class': (lambda: linear_probe(torch.rand(4, 2), torch.zeros(4).long(), torch.rand(4, 2), torch.zeros(4).long()), ['one class']),
}


@pytest.mark.parametrize('name', BAD)
def test_bad_input(name):
    call, words = BAD[name]
    with pytest.raises(InputError) as e: call()
    assert all(w in str(e.value) for w in words), str(e.value)


def test_on_another_device():
    fake = pytest.importorskip('fake_cuda', reason='tests/fake_cuda.py is not there')
    from visft_nb.train import Objective, make_optimizer, train_step
    with fake.fake_cuda():
        objective = Objective(small_cnn(width=4), contrastive_step(NTXentLoss(), projector=nn.Linear(16, 8)))
        train_step(objective, (torch.rand(6, 1, 16, 16), None), make_optimizer(objective), fake.FakeAccelerator())
