"`Images` as a data set of PyTorch: an image and its label by number, loaders with and without workers, subsets, transforms."
import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader, Subset, random_split

from helpers import sentence
from visft_nb.data import Batches, Images, make_shapes

WORKERS = pytest.mark.parametrize('workers', [0, 2])


@pytest.fixture(scope='module')
def shapes():
    d = make_shapes(70, 16)
    d.names = [f'{i}.png' for i in range(70)]
    return d


@pytest.mark.parametrize('i', [3, -1, np.int64(3), np.array(3), torch.tensor(3), torch.tensor(3, dtype=torch.uint8)])
def test_one_image_is_floats_and_a_label(shapes, i):
    x, y = shapes[i]
    assert x.dtype == torch.float32 and x.shape == (3, 16, 16) and torch.equal(x, shapes.images[int(i)]/255)
    assert type(y) is int and y == shapes.labels[int(i)]


def test_what_is_no_number_of_one_image_gives_images(shapes):
    for idx in (slice(3, 4), [3], np.array([3]), torch.tensor([3]), torch.arange(70) == 3):
        assert isinstance(shapes[idx], Images) and shapes[idx].names == ['3.png']
    sentence(lambda: shapes[70], '70', '70 images')
    with pytest.raises(IndexError): shapes[-71]
    sentence(lambda: shapes[True], 'boolean mask')


def test_a_python_loop_ends_after_the_last_image(shapes):
    labels = [y for _, y in shapes]
    assert labels == shapes.labels.tolist()


@WORKERS
def test_a_loader_takes_images_as_they_are(shapes, workers):
    batches = list(DataLoader(shapes, batch_size=32, num_workers=workers))
    assert [len(x) for x, _ in batches] == [32, 32, 6] and all(y.dtype == torch.int64 for _, y in batches)
    assert torch.equal(torch.cat([x for x, _ in batches]), shapes.floats()) and torch.equal(torch.cat([y for _, y in batches]), shapes.labels)


def test_a_loader_gives_what_batches_give(shapes):
    ours = Batches(shapes, 32, shuffle=False, device='cpu')
    for (x, y), (u, v) in zip(ours, DataLoader(shapes, batch_size=32), strict=True): assert torch.equal(x, u) and torch.equal(y, v)


@WORKERS
def test_subsets_and_random_splits(shapes, workers):
    some = Subset(shapes, [5, 2, 9])
    x, y = next(iter(DataLoader(some, batch_size=3, num_workers=workers)))
    assert torch.equal(x, shapes[[5, 2, 9]].floats()) and torch.equal(y, shapes.labels[[5, 2, 9]]) and torch.equal(some[1][0], shapes[2][0])
    parts = random_split(shapes, [.8, .2], torch.Generator().manual_seed(0))
    seen = [y for p in parts for _, y in DataLoader(p, batch_size=16, num_workers=workers)]
    assert [len(p) for p in parts] == [56, 14] and torch.equal(torch.cat(seen).bincount(), shapes.labels.bincount())
    assert len(list(DataLoader(ConcatDataset([shapes, some]), batch_size=32))) == 3


def test_other_targets_and_none():
    x = torch.randint(0, 256, (6, 1, 8, 8), dtype=torch.uint8)
    bare = Images(x)
    assert torch.equal(bare[2], x[2]/255) and next(iter(DataLoader(bare, batch_size=4))).shape == (4, 1, 8, 8)
    ages = Images(x, torch.arange(6)/2)
    assert next(iter(DataLoader(ages, batch_size=6)))[1].dtype == torch.float32 and ages[3][1] == 1.5
    several = Images(x, torch.eye(3)[[0, 1, 2, 0, 1, 2]])
    assert torch.equal(several[1][1], torch.tensor([0., 1, 0]))
    masked = Images(x, masks=(x[:, 0] > 99).byte())
    assert torch.equal(masked[4][1], masked.masks[4])
    paired = Images(x, pairs=255 - x)
    assert torch.equal(paired[0][1], (255 - x[0])/255)


def test_a_data_set_with_a_transform(shapes):
    from torchvision.transforms import v2
    d = shapes.as_dataset(v2.Compose([v2.Resize(8), v2.Normalize([.5]*3, [.5]*3)]))
    x, y = d[3]
    assert isinstance(d, torch.utils.data.Dataset) and len(d) == 70 and x.shape == (3, 8, 8) and x.min() < 0 and y == shapes[3][1]
    batch, labels = next(iter(DataLoader(d, batch_size=16, num_workers=1)))
    assert batch.shape == (16, 3, 8, 8) and torch.equal(labels, shapes.labels[:16])
    assert torch.equal(shapes.as_dataset(target='masks')[7][1], shapes.masks[7])
    with pytest.raises(IndexError): d[70]
    sentence(lambda: shapes.as_dataset(target='pairs'), 'pairs', 'masks')


def test_a_worker_of_its_own_process_can_have_them(shapes):
    again = pickle.loads(pickle.dumps(shapes.as_dataset()))
    assert torch.equal(again[3][0], shapes[3][0])
