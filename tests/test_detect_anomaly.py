"Anomaly detection: generated parts, windows, nearest neighbours and Gaussians against scikit-learn, the coreset, AUROC of pixels, the threshold, folders, bad input."
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fake_cuda import fake_cuda
from helpers import fake_step, refused
from visft_nb.core import InputError
from visft_nb.data import Images
from visft_nb.finetune import (DEFECTS, AnomalyDetector, PaDiM, PatchCore, ReconstructionDetector, conformal_threshold, defect_table, greedy_coreset, nearest, patch_features,
                               pixel_auc, read_parts, synthetic_fabric)
from visft_nb.finetune.anomaly import LAYERS, cut_windows, join_windows, layer_maps

pytestmark = pytest.mark.filterwarnings('ignore')


class Net(nn.Module):
    "Two strided convolutions and a head that nobody needs."
    def __init__(self, channels=3):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Sequential(nn.Conv2d(channels, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU()), nn.Sequential(nn.Conv2d(16, 24, 3, 2, 1), nn.ReLU())
        self.head, self.headed = nn.Linear(24, 2), 0
    def forward(self, x):
        z = self.b(self.a(x)).mean((2, 3))
        self.headed += 1
        return self.head(z)


AB = ('a', 'b')
def core(coreset=64, **kwargs): return PatchCore(Net(), AB, margin=4, coreset=coreset, **kwargs)


@pytest.fixture(scope='module')
def parts(): return synthetic_fabric(10, size=64, seed=0), synthetic_fabric(8, size=64, seed=1), synthetic_fabric(4, DEFECTS, 64, 2)


def test_generated_parts_are_what_they_say():
    a, b, c = synthetic_fabric(2, ('good', *DEFECTS), 64, 3), synthetic_fabric(2, ('good', *DEFECTS), 64, 3), synthetic_fabric(2, ('good', *DEFECTS), 64, 4)
    assert torch.equal(a.images, b.images) and not torch.equal(a.images, c.images) and a.name.startswith('synthetic')
    assert a.labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5] and a.classes == ('good', *DEFECTS) and a.images.shape == (12, 3, 64, 64)
    covered = a.masks.flatten(1).float().mean(1)
    assert (covered[:2] == 0).all() and (covered[2:] > 0).all() and (covered < .5).all()


def test_windows_come_back_where_they_were():
    x = torch.rand(2, 3, 40, 48)
    assert torch.allclose(join_windows(cut_windows(x, 16, 8), (40, 48), 8), x, atol=1e-6)
    assert torch.equal(cut_windows(x, 16, 8)[1], x[0, :, :16, 8:24]) and len(cut_windows(x, 16, 8)) == 2*4*5


def test_nearest_against_scikit_learn():
    from sklearn.neighbors import NearestNeighbors
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(70, 12, generator=g), torch.randn(50, 12, generator=g)
    d, i = NearestNeighbors(n_neighbors=4, algorithm='brute').fit(b).kneighbors(a)
    ours = nearest(a, b, 4, chunk=16)
    assert np.allclose(ours[0], d, atol=1e-4) and (ours[1].numpy() == i).all()


def test_coreset_is_greedy_and_covers_within_twice_the_best():
    from itertools import combinations
    z = torch.randn(13, 2, generator=torch.Generator().manual_seed(1))
    picked = greedy_coreset(z, 4, seed=0).tolist()
    for k in range(1, 4):   # each is the farthest from those before
        d = torch.cdist(z, z[picked[:k]]).amin(1)
        assert d[picked[k]] == d.max()
    radius = lambda kept: torch.cdist(z, z[list(kept)]).amin(1).max().item()
    best = min(radius(c) for c in combinations(range(13), 4))
    assert best <= radius(picked) + 1e-6 and radius(picked) <= 2*best + 1e-6
    assert sorted(greedy_coreset(z, 13).tolist()) == list(range(13))
    assert torch.equal(greedy_coreset(z.repeat(1, 50), 5, 3, 8), greedy_coreset(z.repeat(1, 50), 5, 3, 8)), 'the seed decides the projection too'


def test_features_leave_the_network_alone_and_stop_early(parts):
    net = Net().train()
    before, calls = {k: v.clone() for k, v in net.state_dict().items()}, net.headed
    z = patch_features(net, parts[0].floats(), AB)
    assert z.shape == (10, 40, 16, 16) and not z.requires_grad and net.training and net.headed == calls, 'the head is not computed'
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items()) and not net.a._forward_hooks and not net.b._forward_hooks
    a, b = layer_maps(net.eval(), parts[0].floats(), AB)
    assert a.shape == (10, 16, 32, 32) and torch.equal(b, net.b(a))
    assert patch_features(Net(), torch.rand(2, 1, 64, 64), AB).shape[0] == 2, 'grey pictures are repeated'


def test_patchcore_is_the_nearest_neighbour_of_scaled_features(parts):
    from sklearn.neighbors import NearestNeighbors
    good, _, bad = parts
    d = core(coreset=400, neighbours=1).fit(good)
    z = patch_features(d.model, good.floats(), AB)[..., 1:-1, 1:-1]
    scale = z.std((0, 2, 3), keepdim=True).clamp(min=1e-6)
    rows = lambda v: (v/scale).permute(0, 2, 3, 1).flatten(0, 2)
    kept = rows(z)[greedy_coreset(rows(z), 400, 0)]
    theirs = NearestNeighbors(n_neighbors=1).fit(kept).kneighbors(rows(patch_features(d.model, bad.floats(), AB)[..., 1:-1, 1:-1]))[0].reshape(len(bad), -1).max(1)
    scores, heat = d.inspect(bad, batch_size=7)
    assert np.allclose(scores, theirs, atol=1e-2) and heat.shape == (20, 64, 64) and scores.device.type == 'cpu'
    again = core(coreset=400, neighbours=1).fit(good).inspect(bad)[0]
    assert torch.allclose(scores, again, atol=1e-4), 'the same seed, the same scores; batches do not matter'


def test_the_score_weighs_by_the_neighbours(parts):
    good, _, bad = parts
    plain, weighed = (core(neighbours=n).fit(good).inspect(bad)[0] for n in (1, 5))
    assert (weighed <= plain + 1e-5).all() and (weighed >= plain*(1 - 1/5) - 1e-3).all() and not torch.equal(plain, weighed)


def test_all_good_patches_kept_and_asked_again_are_at_distance_zero(parts):
    d = PatchCore(Net(), AB, margin=0, coreset=10*256, neighbours=1, blur=0).fit(parts[0])
    scores, heat = d.inspect(parts[0])
    assert scores.max() < 5e-2 and heat.max() < 5e-2


@pytest.mark.parametrize('places', [True, False])
def test_gaussian_against_numpy(parts, places):
    good, _, bad = parts
    d = PaDiM(Net(), AB, margin=4, places=places, ridge=.1).fit(good)
    z, v = (d.patches(p.floats()).double().numpy() for p in (good, bad))
    ours = d.strange(d.patches(bad.floats()))
    for i, j in ((0, 0), (3, 5)):
        sample = z[:, :, i, j] if places else z.transpose(0, 2, 3, 1).reshape(-1, z.shape[1])
        covariance = np.cov(sample.T) + .1*np.eye(z.shape[1])
        e = v[:, :, i, j] - sample.mean(0)
        assert np.allclose(ours[:, i, j], np.sqrt(np.einsum('nd,de,ne->n', e, np.linalg.inv(covariance), e)), rtol=1e-3)


def test_a_defect_is_hot_where_it_is():
    good, bad = synthetic_fabric(12, size=96, seed=0), synthetic_fabric(6, ('missing thread',), 96, 1)
    pytest.importorskip('timm')
    from visft_nb.cnn.models import imagenet_classifier
    try: net = imagenet_classifier()
    except InputError as e: pytest.skip(str(e))
    d = PatchCore(net, LAYERS, coreset=300).fit(good)
    heat = d.inspect(bad)[1]
    inside = bad.masks > 0
    assert heat[inside].mean() > 1.15*heat[~inside].mean()
    assert defect_table(d, synthetic_fabric(6, size=96, seed=2), bad, samples=50).loc['missing thread', 'image'] > .8


def test_reconstruction_learns_good_parts_and_repeats(parts):
    good, _, bad = parts
    a, b = (ReconstructionDetector(16, 32, 2, seed=1, precision='fp32').fit(good) for _ in range(2))
    scores, heat = a.inspect(bad)
    assert torch.equal(scores, b.inspect(bad)[0]) and heat.shape == (20, 64, 64) and (heat >= 0).all()
    assert a.history.epochs[-1]['loss'] < a.history.steps[0]['loss'] and a.rebuild(bad.floats()[:2]).shape == (2, 3, 64, 64)
    noisy = ReconstructionDetector(16, 32, 2, noise=.3, seed=1, precision='fp32').fit(good)
    assert not torch.equal(noisy.inspect(bad)[0], scores)


def test_pixel_auc_against_scikit_learn_and_its_interval():
    from sklearn.metrics import roc_auc_score
    g = torch.Generator().manual_seed(0)
    masks = (torch.rand(30, 16, 16, generator=g) < .1).long()
    heat = torch.randn(30, 16, 16, generator=g) + masks
    area, low, high = pixel_auc(heat, masks)
    assert area == pytest.approx(roc_auc_score(masks.flatten(), heat.flatten()), abs=2e-3) and low < area < high
    assert pixel_auc(heat.round(), masks)[0] == pytest.approx(roc_auc_score(masks.flatten(), heat.round().flatten()), abs=2e-3), 'ties count half'
    whole = heat + 3*torch.randn(30, 1, 1, generator=g)   # parts differ: the interval must be wider than that of independent pixels
    _, low2, high2 = pixel_auc(whole, masks)
    assert high2 - low2 > 2*(high - low)
    assert pixel_auc(masks.float(), masks)[0] == 1


def test_table_has_a_row_for_each_defect(parts):
    good, other, bad = parts
    class Bright(AnomalyDetector):
        def inspect(self, images, batch_size=32):
            heat = images.floats().mean(1)
            return heat.flatten(1).amax(1), heat
    t = defect_table(Bright(), other, bad, samples=40)
    assert list(t.index) == list(DEFECTS) and (t.parts == 4).all() and ((t.image_low <= t.image) & (t.image <= t.image_high)).all()
    assert t.loc['scratch', 'pixel'] > .7 and t.loc['hole', 'pixel'] < .5, 'a scratch is bright, a hole is dark'
    plain = Images(bad.images, bad.labels, bad.classes)
    assert 'pixel' not in defect_table(Bright(), other, plain, samples=10)


@pytest.mark.parametrize('n,rate', [(19, .05), (19, .1), (99, .05), (50, .3)])
def test_the_threshold_keeps_its_rate(n, rate):
    s = torch.arange(n).double()
    k = int(conformal_threshold(s.flip(0), rate)) + 1
    assert (n + 1 - k)/(n + 1) <= rate + 1e-12 < (n + 2 - k)/(n + 1) + 1e-12, 'the smallest rank that keeps it'
    rng = np.random.default_rng(n)
    alarms = np.mean([rng.standard_normal() > conformal_threshold(rng.standard_normal(n), rate) for _ in range(1500)])
    assert alarms <= rate + 4*math.sqrt(rate*(1 - rate)/1500)


def layout(folder, names, size=40):
    for i, name in enumerate(names):
        file = folder/name
        file.parent.mkdir(parents=True, exist_ok=True)
        if 'ground_truth' in name:
            mask = np.zeros((size, size), np.uint8)
            mask[:10] = 255
            Image.fromarray(mask).save(file)
        else: Image.fromarray(np.full((size, size, 3), 20 + i, np.uint8)).save(file)


def test_a_folder_of_parts(tmp_path):
    layout(tmp_path, ['train/good/a.png', 'train/good/b.png'])
    assert list(read_parts(tmp_path, 32)) == ['train'] and read_parts(tmp_path, 32)['train'].images.shape == (2, 3, 32, 32)
    layout(tmp_path, ['test/good/c.png', 'test/crack/d.png', 'test/crack/e.png', 'test/bent/f.png', 'ground_truth/crack/d_mask.png', 'ground_truth/crack/e_mask.png', 'ground_truth/bent/f_mask.png'])
    test = read_parts(tmp_path, 32)['test']
    assert test.classes == ('good', 'bent', 'crack') and sorted(test.labels.tolist()) == [0, 1, 2, 2]
    assert (test.masks.flatten(1).any(1) == (test.labels > 0)).all() and test.masks.max() == 1
    detector = core(coreset=8).fit(read_parts(tmp_path, 32)['train'])
    assert len(detector.inspect(test)[0]) == 4


def test_a_folder_whose_test_has_no_good_part(tmp_path):
    layout(tmp_path, ['train/good/a.png', 'test/crack/d.png'])
    test = read_parts(tmp_path, 32)['test']
    assert test.classes == ('good', 'crack') and test.labels.tolist() == [1]


GOOD = synthetic_fabric(2, size=64, seed=9)
BAD = {
    'no parts': (lambda p: core().fit(GOOD[:0]), ['no good part']),
    'defects among the good': (lambda p: core().fit(synthetic_fabric(2, ('good', 'hole'), 64)), ['2 of the 4', 'defect']),
    'another size': (lambda p: core().fit(GOOD).inspect(torch.rand(1, 3, 32, 32)), ['(3, 32, 32)', '(3, 64, 64)']),
    'not fitted': (lambda p: core().inspect(GOOD), ['PatchCore', 'fit']),
    'none to inspect': (lambda p: core().fit(GOOD).inspect(GOOD[:0]), ['empty']),
    'bytes': (lambda p: core().fit(GOOD.images), ['uint8', 'divide']),
    'coreset': (lambda p: core(coreset=1000).fit(GOOD), ['coreset=1000', '392']),
    'margin': (lambda p: PatchCore(Net(), AB, margin=40).fit(GOOD), ['margin=40', '64 x 64']),
    'layer': (lambda p: PatchCore(Net(), ('a', 'bb')).fit(GOOD), ["'bb'", 'layer']),
    'no map': (lambda p: PatchCore(Net(), ('a', 'head')).fit(GOOD), ["'head'", 'no map']),
    'neighbours': (lambda p: nearest(torch.rand(2, 3), torch.rand(4, 3), 5), ['5', '4']),
    'one part': (lambda p: PaDiM(Net(), AB, margin=4).fit(GOOD[:1]), ['places=False']),
    'ridge': (lambda p: PaDiM(Net(), ridge=0), ['ridge=0']),
    'window': (lambda p: ReconstructionDetector(8, 96).fit(GOOD), ['64 x 64', 'side=96']),
    'odd window': (lambda p: ReconstructionDetector(8, 30).fit(GOOD), ['side=30', 'multiple of 8']),
    'rate': (lambda p: conformal_threshold(torch.rand(9), 0), ['rate=0']),
    'few for the rate': (lambda p: conformal_threshold(torch.rand(9), .05), ['0.05', '19', '9']),
    'nan': (lambda p: conformal_threshold(torch.tensor([1., math.nan]*20), .1), ['NaN']),
    'kind': (lambda p: synthetic_fabric(1, ('hole', 'scratsch')), ['scratsch', 'scratch']),
    'small': (lambda p: synthetic_fabric(1, size=16), ['size=16']),
    'shapes': (lambda p: pixel_auc(torch.rand(2, 4, 4), torch.zeros(2, 5, 5)), ['(2, 16)', '(2, 25)']),
    'no bad pixel': (lambda p: pixel_auc(torch.rand(2, 4, 4), torch.zeros(2, 4, 4)), ['good']),
    'unlabelled': (lambda p: defect_table(core(), GOOD, Images(GOOD.images)), ['without labels']),
    'no train': (lambda p: read_parts(p), ['train/good']),
    'no folder': (lambda p: read_parts(p/'nowhere'), ['nowhere', 'train/good']),
}


@pytest.mark.parametrize('name', BAD)
def test_bad_input(name, tmp_path):
    call, words = BAD[name]
    with refused(words): call(tmp_path)


def test_only_good_ones_in_train(tmp_path):
    layout(tmp_path, ['train/good/a.png', 'train/crack/b.png'])
    with pytest.raises(InputError, match='crack beside good'): read_parts(tmp_path, 32)


def test_on_another_device():
    from visft_nb.finetune.anomaly import WindowEncoder
    from visft_nb.pretrain.reconstruct import Autoencoder, ReconstructionStep
    with fake_cuda():
        x = torch.rand(6, 3, 32, 32)
        auto = Autoencoder(WindowEncoder(3, 32, 4), 3, 32, 8, width=4, sigma=.1)
        fake_step(auto.encoder, (x, None), ReconstructionStep(auto.coder))
        for d in (PatchCore(Net(), AB, margin=4, coreset=16), PaDiM(Net(), AB, margin=4), PaDiM(Net(), AB, margin=4, places=False)):
            d.learn(torch.rand(6, 3, 32, 32, device='cpu'))
            scores, heat = d.anomaly_maps(x)
            assert scores.device.type == heat.device.type == 'cuda'
