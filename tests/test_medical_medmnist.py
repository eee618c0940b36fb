"MedMNIST: evaluation equal to the package's, inflation, the protocol, files of other kinds."
import math

import numpy as np
import pytest
import torch
from torch import nn

from fake_cuda import fake_cuda
from helpers import fake_step, refused
from visft_nb.cnn.models import resnet18
from visft_nb.finetune import medmnist_sets as med
from visft_nb.finetune.medmnist import (PUBLISHED, VolumeNet, comparable, inflate, load_medmnist, medmnist_info, medmnist_net, medmnist_scores, medmnist_step,
                                        run_medmnist, steps_down)

TASKS = {'binary-class': 2, 'multi-class': 4, 'ordinal-regression': 5, 'multi-label, binary-class': 3}


def answers(task, n=120, seed=0):
    r, k = np.random.default_rng(seed), TASKS[task]
    y = r.integers(0, 2, (n, k)) if task.startswith('multi-label') else np.arange(n)[:, None] % k
    p = r.uniform(size=(n, k)).round(2)
    return y, p if task.startswith('multi-label') else p/p.sum(1, keepdims=True)


@pytest.mark.parametrize('task', TASKS)
def test_scores_against_the_package(task):
    theirs = pytest.importorskip('medmnist.evaluator')
    for seed in range(3):
        y, p = answers(task, seed=seed)
        ours = medmnist_scores(torch.from_numpy(p), torch.from_numpy(y), task)
        assert abs(ours[0] - theirs.getAUC(y, p, task)) < 1e-12 and abs(ours[1] - theirs.getACC(y, p, task)) < 1e-12


def write(folder, name, n=(12, 8, 8), shape=(28, 28), labels=lambda n: np.arange(n)[:, None] % 2, dtype=np.uint8):
    r = np.random.default_rng(0)
    arrays = {f'{s}_{what}': r.integers(0, 256, (k, *shape)).astype(dtype) if what == 'images' else labels(k).astype(np.uint8)
              for s, k in zip(('train', 'val', 'test'), n) for what in ('images', 'labels')}
    np.savez(folder/f'{name}.npz', **arrays)
    return arrays


def test_a_run_against_the_evaluator_on_a_file(tmp_path):
    Evaluator = pytest.importorskip('medmnist').Evaluator
    write(tmp_path, 'pneumoniamnist')
    r = run_medmnist('pneumoniamnist', 2, 4, 6, root=tmp_path, samples=20, bar=False, precision='fp32')
    theirs = Evaluator('pneumoniamnist', 'test', root=str(tmp_path)).evaluate(r.prob.double().numpy())
    assert abs(theirs.AUC - r.auc) < 1e-12 and abs(theirs.ACC - r.acc) < 1e-12
    assert not r.comparable and r.published == () and r.low <= r.auc <= r.high and len(r.history.epochs) == 2
    again = run_medmnist('pneumoniamnist', 2, 4, 6, root=tmp_path, samples=20, bar=False, precision='fp32')
    assert torch.equal(again.prob, r.prob), 'the same seed, the same figures'


def test_volumes_are_read_and_trained(tmp_path):
    arrays = write(tmp_path, 'nodulemnist3d', shape=(28, 28, 28))
    valid = load_medmnist('nodulemnist3d', 'valid', tmp_path)
    assert valid.images.shape == (8, 28, 28, 28) and np.array_equal(valid.images, arrays['val_images']) and valid.classes == ('benign', 'malignant')
    r = run_medmnist('nodulemnist3d', 1, 2, 6, root=tmp_path, samples=10, bar=False)
    assert r.prob.shape == (8, 2) and not r.comparable


def test_several_labels_at_once(tmp_path):
    write(tmp_path, 'chestmnist', labels=lambda n: (np.arange(n)[:, None] + np.arange(14)) % 2)
    r = run_medmnist('chestmnist', 1, 2, 6, root=tmp_path, samples=10, bar=False)
    assert r.prob.shape == (8, 14) and r.labels.shape == (8, 14) and not torch.allclose(r.prob.sum(1), torch.ones(8))


@pytest.mark.parametrize('name', ['pathmnist', 'nodulemnist3d', 'organmnist3d', 'chestmnist', 'synthetic_volumes'])
def test_what_is_known_of_a_set_and_its_network(name):
    info = medmnist_info(name)
    net = medmnist_net(name, 2)
    x = torch.rand(2, 28 if info['volumes'] else info['n_channels'], 28, 28)
    assert net(x).shape == (2, len(info['label'])) and net.features(x).shape == (2, net.dim) and isinstance(net, VolumeNet) == info['volumes']


def test_full_width_is_resnet18():
    with torch.device('meta'): assert sum(p.numel() for p in resnet18(2, 1, stem='cifar').parameters()) == 11_168_706
    assert set(PUBLISHED) <= {*__import__('medmnist').INFO}


def test_inflated_layers_answer_as_the_flat_ones_inside():
    g = torch.Generator().manual_seed(0)
    flat = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 3, 3, 2, 1)).double()
    flat(torch.randn(8, 2, 16, 16, dtype=torch.float64, generator=g))
    x = torch.rand(1, 2, 16, 16, dtype=torch.float64, generator=g)
    with torch.no_grad(): a, b = flat.eval()(x), inflate(flat.eval())(x[:, :, None].expand(-1, -1, 24, -1, -1))
    assert b.shape == (1, 3, 6, 4, 4) and torch.allclose(b[:, :, 2:4], a[:, :, None].expand(-1, -1, 2, -1, -1), atol=1e-12)
    assert flat[0].weight.ndim == 4, 'the flat one stays as it was'


def test_schedule_against_torch():
    o = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 1.)
    s = torch.optim.lr_scheduler.MultiStepLR(o, [6, 9])
    for step in range(12):
        assert math.isclose(s.get_last_lr()[0], steps_down(step, 12))
        o.step(); s.step()


def test_generated_sets_wear_the_shapes_and_are_never_compared():
    a, b = load_medmnist('synthetic_images', 'test', counts=(1, 2, 6)), load_medmnist('synthetic_volumes', 'test', counts=(1, 2, 6))
    assert a.images.shape == (6, 1, 28, 28) and b.images.shape == (6, 28, 28, 28) and a.images.dtype == b.images.dtype == torch.uint8
    assert not comparable('synthetic_images') and not comparable('synthetic_volumes')
    assert not torch.equal(b.images[:1], load_medmnist('synthetic_volumes', 'train', counts=(1, 2, 6)).images)


def test_the_rebuilt_file_is_not_compared(data_root):
    assert len(load_medmnist('pneumoniamnist', 'test', data_root)) == 624 and not comparable('pneumoniamnist', data_root)


def test_a_volume_file_counts_as_official_by_its_checksum(tmp_path, monkeypatch):
    import hashlib
    write(tmp_path, 'nodulemnist3d', shape=(28, 28, 28))
    assert not comparable('nodulemnist3d', tmp_path)
    md5 = hashlib.md5((tmp_path/'nodulemnist3d.npz').read_bytes()).hexdigest()
    info = med.medmnist_info
    monkeypatch.setattr(med, 'medmnist_info', lambda name: dict(info(name), MD5=md5))
    assert comparable('nodulemnist3d', tmp_path)


def bad_volume(folder, what):
    if what == 'text': (folder/'nodulemnist3d.npz').write_text('no npz')
    if what == 'flat': write(folder, 'nodulemnist3d', shape=(28, 28))
    if what == 'floats': write(folder, 'nodulemnist3d', shape=(28, 28, 28), dtype=np.float32)
    return load_medmnist('nodulemnist3d', 'train', folder)


BAD = {
    'unknown': (lambda p: load_medmnist('nodulemnist', 'train', p), ['nodulemnist', 'nodulemnist3d']),
    'split': (lambda p: load_medmnist('nodulemnist3d', 'val', p), ['val', 'split']),
    'missing': (lambda p: load_medmnist('nodulemnist3d', 'train', p), ['nodulemnist3d', 'root was given', '.npz']),
    'text': (lambda p: bad_volume(p, 'text'), ['nodulemnist3d.npz', 'not the file']),
    'flat': (lambda p: bad_volume(p, 'flat'), ['(12, 28, 28)', 'volumes']),
    'floats': (lambda p: bad_volume(p, 'floats'), ['float32', 'uint8']),
    'task': (lambda p: medmnist_scores([[.5, .5]]*2, [0, 1], 'binary'), ['binary', 'binary-class']),
    'shapes': (lambda p: medmnist_scores([[.5, .5]]*2, [0, 1, 1], 'binary-class'), ['(3,)', '(2, 2)']),
    'labels': (lambda p: medmnist_scores([[.5, .5]]*2, [0, 1], 'multi-label, binary-class'), ['(2,)', 'agree']),
    'class': (lambda p: medmnist_scores([[.5, .3, .2]]*2, [0, 1], 'multi-class'), ['class 1', 'no image']),
    'layer': (lambda p: inflate(nn.Sequential(nn.AvgPool2d(2))), ['AvgPool2d']),
    'bytes': (lambda p: medmnist_net('synthetic_volumes', 2)(torch.zeros(1, 28, 28, 28, dtype=torch.uint8)), ['uint8', 'floats']),
}


@pytest.mark.parametrize('name', BAD)
def test_bad_input(name, tmp_path):
    call, words = BAD[name]
    with refused(words): call(tmp_path)


def test_on_another_device():
    with fake_cuda():
        for name, shape, y in (('synthetic_volumes', (4, 12, 12, 12), torch.zeros(4, dtype=torch.long)), ('chestmnist', (4, 1, 28, 28), torch.zeros(4, 14))):
            fake_step(medmnist_net(name, 2), (torch.rand(shape), y), medmnist_step)
