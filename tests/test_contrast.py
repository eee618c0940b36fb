"Contrastive pre-training: the loss against the peer, the step, several processes, side effects, bad input."
import math, os, signal, socket, traceback

import pytest
import torch
from torch import nn

from fake_cuda import fake_cuda
from helpers import fake_step, refused
from visft_nb.cnn.models import small_cnn
from visft_nb.core import InputError
from visft_nb.data import Augment, Images
from visft_nb.pretrain import BarlowTwinsLoss, NTXentLoss, VICRegLoss, contrastive_step, embed, knn_accuracy, linear_probe, pretrain_contrast, two_views
from visft_nb.pretrain.contrast import gather_pairs, gather_rows
from visft_nb.train import load_checkpoint, on_device

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


def test_another_loss_and_projector_are_the_ones_that_are_trained():
    seen = []
    def agree(z1, z2): seen.append(z1.shape); return (z1 - z2).square().mean()
    projector = nn.Linear(16, 5)
    before = projector.weight.clone()
    history = pretrain_contrast(small_cnn(2, width=4), images(), 1, 20, loss=agree, projector=projector, bar=False, precision='fp32')
    assert set(seen) == {(20, 5)} and not torch.equal(projector.weight, before) and len(history.steps) == 2


def test_divergence_leaves_the_checkpoint_of_the_last_good_epoch(tmp_path):
    model, path = small_cnn(2, width=4), tmp_path/'run.safetensors'
    whole = {}
    def loss(z1, z2):
        if whole.setdefault('steps', 0) == 3: whole['file'] = path.read_bytes(); return NTXentLoss()(z1, z2)*float('nan')
        whole['steps'] += 1
        return NTXentLoss()(z1, z2)
    with pytest.raises(InputError) as e: pretrain_contrast(model, images(), 4, 20, loss=loss, checkpoint=path, bar=False, precision='fp32')
    assert all(w in str(e.value) for w in ('step 4', 'epoch 2', 'lower the rate', str(path))), str(e.value)
    assert path.read_bytes() == whole['file'] and [p.name for p in tmp_path.iterdir()] == [path.name]
    state = load_checkpoint(path)
    assert state['epoch'] == 1 and all(v.isfinite().all() for v in state['model'].values() if v.is_floating_point())
    again = small_cnn(2, width=4)
    history = pretrain_contrast(again, images(), 4, 20, loss=NTXentLoss(), checkpoint=path, bar=False, precision='fp32')
    assert len(history.steps) == 8 and all(math.isfinite(r['loss']) for r in history.steps), 'goes on from the good state'


def together(work, folder):
    "Run work(rank) in two processes of one gloo group; what each returns."
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    children = []
    for rank in (0, 1):
        if not (pid := os.fork()):
            code = 1
            try:
                signal.alarm(60)
                torch.set_num_threads(1)
                os.environ |= {'ACCELERATE_USE_CPU': 'true', 'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': str(port), 'RANK': str(rank), 'LOCAL_RANK': str(rank), 'WORLD_SIZE': '2', 'LOCAL_WORLD_SIZE': '2'}
                torch.save(work(rank), folder/f'{rank}.pt')
                code = 0
            except BaseException: traceback.print_exc()
            finally: os._exit(code)
        children.append(pid)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0, 0]
    return [torch.load(folder/f'{rank}.pt', weights_only=True) for rank in (0, 1)]


class Encoder(nn.Module):
    "No batch norm: what a view becomes depends on itself alone."
    dim = 12
    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.body, self.head = nn.Sequential(nn.Conv2d(1, 6, 3, 2), nn.Tanh(), nn.Flatten(), nn.Linear(6*49, 12), nn.Tanh()), nn.Linear(12, 2)
    def features(self, x): return self.body(x)
    def forward(self, x): return self.head(self.features(x))


def mirrored(x, generator=None):
    "The second half of the joint batch is mirrored: views that differ, without chance."
    a, b = x.chunk(2)
    return torch.cat([a, b.flip(-1)])


def make_objective(loss):
    from visft_nb.train import Objective
    model = Encoder()
    model.head.requires_grad_(False)
    return Objective(model, contrastive_step(loss, mirrored, nn.Linear(12, 5)))


LOSSES = {'nt-xent': NTXentLoss(.2), 'barlow': BarlowTwinsLoss(), 'vicreg': VICRegLoss()}
several = pytest.mark.skipif(not torch.distributed.is_available() or not hasattr(os, 'fork'), reason='this torch has no process groups')


@several
@pytest.mark.parametrize('n', [16, 7])   # 7: shares of four and of three images
def test_two_processes_have_the_loss_and_gradients_of_one(n, tmp_path):
    x = images(n).floats()
    def alone(loss):
        objective = make_objective(loss)
        value = objective((x, None))
        value.backward()
        return value.item(), torch.cat([p.grad.flatten() for p in objective.parameters() if p.requires_grad])
    def work(rank):
        torch.distributed.init_process_group('gloo')
        out = {}
        for name, loss in LOSSES.items():
            ddp = nn.parallel.DistributedDataParallel(make_objective(loss), find_unused_parameters=True)   # as Accelerate wraps it
            value = ddp(on_device((x, None), 'cpu', (rank, 2)))
            value.backward()
            out[name] = value.item(), torch.cat([p.grad.flatten() for p in ddp.parameters() if p.requires_grad])
        torch.distributed.destroy_process_group()
        return out
    first, second = together(work, tmp_path)
    for name, loss in LOSSES.items():
        value, grad = alone(loss)
        for v, g in (first[name], second[name]):
            assert abs(v - value) <= 1e-5*abs(value), name
            assert (g - grad).abs().max() <= 1e-5*grad.abs().max(), name
        halves = (loss_of_share(loss, x[::2]) + loss_of_share(loss, x[1::2]))/2
        assert abs(halves - value) > 1e-3*abs(value), f'{name}: two separate losses would pass this test'


def loss_of_share(loss, x): return make_objective(loss)((x, None)).item()


@several
def test_rows_are_gathered_in_order_in_pairs_and_with_gradients(tmp_path):
    def work(rank):
        torch.distributed.init_process_group('gloo')
        z1 = (torch.arange(3 - rank)[:, None] + 10.*rank + torch.zeros(1, 2)).requires_grad_()
        z2 = z1.detach() + 100
        a, b = gather_pairs(z1, z2)
        a.square().sum().backward()
        alone = NTXentLoss(gather=False)(z1, z2).item() == NTXentLoss(gather=False)(z1.detach(), z2.detach()).item()
        half = gather_rows(torch.ones(1, 2, dtype=torch.bfloat16)).dtype
        torch.distributed.destroy_process_group()
        return {'a': a.detach(), 'b': b.detach(), 'grad': z1.grad, 'z': z1.detach(), 'alone': alone, 'full': half == torch.float32}
    for r in together(work, tmp_path):
        assert r['a'][:, 0].tolist() == [0, 1, 2, 10, 11] and torch.equal(r['b'], r['a'] + 100)
        assert torch.equal(r['grad'], 2*2*r['z']), 'the gradients of both processes are summed'
        assert r['alone'] and r['full']


@several
def test_training_in_two_processes_ends_in_the_same_weights(tmp_path):
    def work(rank):
        model = Encoder()
        history = pretrain_contrast(model, images(), 2, 20, augment=mirrored, dim=5, bar=False, precision='fp32')
        return {'w': torch.cat([p.detach().flatten() for p in model.parameters()]), 'loss': [r['loss'] for r in history.steps]}
    first, second = together(work, tmp_path)
    model = Encoder()
    history = pretrain_contrast(model, images(), 2, 20, augment=mirrored, dim=5, bar=False, precision='fp32')
    assert torch.equal(first['w'], second['w']) and first['loss'] == pytest.approx([r['loss'] for r in history.steps], rel=1e-4)
    assert torch.allclose(first['w'], torch.cat([p.detach().flatten() for p in model.parameters()]), atol=1e-4)


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
        assert abs(knn_accuracy(a, ya, b, yb, k=k, temperature=None) - theirs.score(b, yb)) < (1e-6 if k == 1 else .04)
    assert knn_accuracy(a, ya, a, ya, k=1) == 1


def test_probe_reads_what_is_linear():
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(300, 5, generator=g), torch.randn(200, 5, generator=g)
    assert linear_probe(a, (a[:, 0] > 0).long(), b, (b[:, 0] > 0).long()) > .95
    assert linear_probe(a, (a[:, 0]*a[:, 1] > 0).long(), b, (b[:, 0]*b[:, 1] > 0).long()) < .7


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
    with refused(words): call()


def test_on_another_device():
    with fake_cuda():
        fake_step(small_cnn(width=4), (torch.rand(6, 1, 16, 16), None), contrastive_step(NTXentLoss(), projector=nn.Linear(16, 8)))
