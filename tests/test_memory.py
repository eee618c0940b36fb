"Images that do not fit into memory: they are decoded once into a file, read from there, and give what they would give in memory."
import json, os, pickle, resource, subprocess, sys, textwrap, warnings, zipfile
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from helpers import refused, sentence
from visft_nb.core import set_seed
from visft_nb.data import (Batches, FileTensor, csv_images, label_subset, find_leaks, image_folder, keep_rows, mask_pairs, memory_limit, recall_rows,
                           split_data, take)
from visft_nb.data import reading as D
from visft_nb.train import predict_logits

PLAIN, LITTLE = '1TB', '1B'   # VISFT_MEMORY with which images stay in memory, and with which they do not


@pytest.fixture
def memory(monkeypatch, tmp_path):
    "Sets how much memory images may take; the cache is empty."
    monkeypatch.setenv('VISFT_CACHE', str(tmp_path/'cache'))
    return lambda amount: monkeypatch.setenv('VISFT_MEMORY', amount)


def draw(seed, h=20, w=24, gray=False):
    a = np.random.default_rng(seed).integers(0, 256, (h, w) if gray else (h, w, 3)).astype(np.uint8)
    return Image.fromarray(a)


def make_folder(top, n=8, gray=lambda i: False, **how):
    for i in range(n):
        for c in ('ant', 'bee'):
            (top/c).mkdir(parents=True, exist_ok=True)
            draw([i, len(c) + ord(c[0])], gray=gray(i), **how).save(top/c/f'{i:03}.png')
    return top


def both(memory, read):
    "What is read with much memory and with little."
    memory(PLAIN)
    plain = read()
    memory(LITTLE)
    stored = read()
    assert type(plain.images) is torch.Tensor and isinstance(stored.images, FileTensor)
    return plain, stored


def same(a, b):
    assert torch.equal(a.images, b.images) and a.images.shape == b.images.shape and a.names == b.names and a.classes == b.classes and a.groups == b.groups
    assert (a.labels is None) == (b.labels is None) and (a.labels is None or torch.equal(a.labels, b.labels))


# --- how much -----------------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('asked, found', [('1000', 1000), ('3KB', 3072), ('1.5 mb', 3*2**19), ('2GB', 2**31), ('2g', 2**31), ('1TB', 2**40), ('0', 0)])
def test_an_amount_of_memory_can_be_asked_for(monkeypatch, asked, found):
    monkeypatch.setenv('VISFT_MEMORY', asked)
    assert memory_limit() == found


def test_a_share_of_the_machine_s_memory_is_the_default(monkeypatch):
    import psutil
    monkeypatch.delenv('VISFT_MEMORY', raising=False)
    eighth, total = memory_limit(), psutil.virtual_memory().total
    assert 0 < eighth <= total//8
    monkeypatch.setenv('VISFT_MEMORY', '25%')
    assert abs(memory_limit() - 2*eighth) < 16


@pytest.mark.parametrize('asked', ['much', '-1GB', '101%', '1e9', '2XB', '1GB2'])
def test_what_is_no_amount_of_memory_is_refused(monkeypatch, asked):
    monkeypatch.setenv('VISFT_MEMORY', asked)
    sentence(memory_limit, 'VISFT_MEMORY', asked, '2GB')


# --- a tensor in a file -------------------------------------------------------------------------------------------------------------------

@pytest.fixture
def rows(tmp_path):
    x = torch.randint(0, 256, (50, 3, 4, 5), dtype=torch.uint8)
    return x, keep_rows(tmp_path/'rows.bin', 'key', x.split(7))


def test_a_file_tensor_is_what_it_holds(rows):
    x, f = rows
    assert torch.is_tensor(f) and f.shape == x.shape and f.dtype == x.dtype and f.device == x.device and f.ndim == 4 and f.numel() == x.numel() and len(f) == 50
    calls = (lambda v: v[3], lambda v: v[-1], lambda v: v[3:40:4], lambda v: v[[5, 5, 2]], lambda v: v[torch.arange(50) % 3 == 0], lambda v: v[..., 1:],
             lambda v: v[:, 1], lambda v: v[torch.tensor([[1, 2], [-1, 4]])], lambda v: v[np.array([4, 1])], lambda v: v.float()/255, lambda v: v.flatten(1),
             lambda v: torch.cat([v, v]), lambda v: torch.stack(list(v)), lambda v: torch.cat(v.split(9)), lambda v: v.permute(0, 2, 3, 1), lambda v: v.cpu(),
             lambda v: v.float().mean((0, 2, 3)), lambda v: torch.index_select(v, 0, torch.tensor([7, 3])), lambda v: v.clone(), lambda v: torch.from_numpy(v.numpy()),
             lambda v: torch.as_tensor(np.asarray(v)), lambda v: torch.tensor(v.tolist()), lambda v: v.unique(), lambda v: v[None], lambda v: v[7, 1, 2], lambda v: v[:0])
    for i, call in enumerate(calls): assert torch.equal(call(f), call(x)), i


def test_choosing_rows_reads_nothing(rows):
    x, f = rows
    os.truncate(f.path, 0)
    chosen = [take(f, torch.arange(49, -1, -2)), f[5:20], f.split(20)[2], f.to('cpu'), f.detach(), take(take(f, [9, 8, 7]), [2, 0])]
    assert all(isinstance(c, FileTensor) for c in chosen) and chosen[-1].at.tolist() == [7, 9]
    for c in chosen: sentence(c.float, 'rows.bin', 'written again')


def test_a_file_tensor_is_not_written_into(rows):
    x, f = rows
    for write in (lambda: f.__setitem__(0, 1), lambda: f.add_(1), lambda: f.copy_(x), lambda: f.zero_()): sentence(write, 'rows.bin', 'read only', 'clone')
    assert torch.equal(f, x)


def test_a_file_tensor_goes_to_other_processes_as_a_name(rows):
    x, f = rows
    blob = pickle.dumps(take(f, [3, 1]))
    assert len(blob) < 2000 and torch.equal(pickle.loads(blob), x[[3, 1]])


def test_a_file_of_another_key_or_another_content_is_not_taken(rows, tmp_path):
    x, f = rows
    assert torch.equal(recall_rows(f.path, 'key')[0], x) and recall_rows(f.path, 'another') is None and recall_rows(tmp_path/'none.bin', 'key') is None
    note = f.path.with_suffix('.json')
    whole = note.read_text()
    for spoiled in ('', '[]', '{', whole.replace('"key"', '"yek"'), whole.replace('uint8', 'int99'), whole.replace('uint8', 'nn')):
        note.write_text(spoiled)
        assert recall_rows(f.path, 'key') is None
    note.write_text(whole)
    f.path.write_bytes(bytes(f.path.stat().st_size))
    assert recall_rows(f.path, 'key') is None
    sentence(lambda: f[3], 'written again')
    f.path.unlink()
    sentence(lambda: f[3], 'rows.bin', 'read the data again')


# --- readers ------------------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('how', [dict(), dict(size=16), dict(size=(10, 30), fit='pad'), dict(size=12, channels=1), dict(channels=3, group=lambda n: n[-5])])
def test_a_folder_is_read_as_in_memory(tmp_path, memory, how):
    top = make_folder(tmp_path/'photos')
    same(*both(memory, lambda: image_folder(top, **how)))


@pytest.mark.parametrize('gray', [lambda i: True, lambda i: i < 5, lambda i: i >= 5], ids=['all', 'first', 'last'])
def test_gray_and_colour_mix_as_in_memory(tmp_path, memory, gray):
    top = make_folder(tmp_path/'photos', gray=gray)
    same(*both(memory, lambda: image_folder(top)))


def test_a_zip_a_table_and_pairs_are_read_as_in_memory(tmp_path, memory):
    top = make_folder(tmp_path/'photos')
    with zipfile.ZipFile(tmp_path/'photos.zip', 'w') as z:
        for p in sorted(top.rglob('*.png')): z.write(p, f'train/{p.relative_to(top)}'); z.write(p, f'test/{p.relative_to(top)}')
    plain, stored = both(memory, lambda: image_folder(tmp_path/'photos.zip'/'train'))
    same(plain, stored)
    assert image_folder(tmp_path/'photos.zip'/'test').images.path != stored.images.path, 'two folders of a zip are two sets'
    (tmp_path/'table.csv').write_text('image,label\n' + ''.join(f'photos/{c}/{i:03}.png,{c}\n' for i in range(4) for c in ('bee', 'ant')))
    same(*both(memory, lambda: csv_images(tmp_path/'table.csv')))
    (tmp_path/'masks').mkdir()
    for i in range(8): Image.fromarray(np.full((20, 24), i % 2, np.uint8)).save(tmp_path/'masks'/f'{i:03}.png')
    plain, stored = both(memory, lambda: mask_pairs(top/'ant', tmp_path/'masks', 16))
    same(plain, stored)
    assert torch.equal(plain.masks, stored.masks)


def test_what_is_no_image_is_named_as_in_memory(tmp_path, memory):
    top = make_folder(tmp_path/'photos')
    for name in ('ant/002.png', 'bee/005.png'): (top/name).write_bytes(b'no image')
    said = []
    for amount in (PLAIN, LITTLE):
        memory(amount)
        with refused(['2 of 16 files', 'ant/002.png', 'bee/005.png']) as e: image_folder(top)
        said.append(str(e.value))
    assert said[0] == said[1] and not list((tmp_path/'cache').rglob('*.bin'))
    found = []
    for amount in (PLAIN, LITTLE, LITTLE):   # the second time from the cache
        memory(amount)
        with warnings.catch_warnings(record=True) as w:
            warnings.simplefilter('always')
            found.append((image_folder(top, corrupt='skip'), [str(x.message) for x in w]))
    assert all(len(d) == 14 and len(w) == 1 and 'ant/002.png' in w[0] and w == found[0][1] for d, w in found)
    for d, _ in found[1:]: same(found[0][0], d)


def test_sizes_that_differ_are_named_as_in_memory(tmp_path, memory):
    top = make_folder(tmp_path/'photos')
    draw(1, 30, 31).save(top/'bee'/'001.png')
    for amount in (PLAIN, LITTLE):
        memory(amount)
        sentence(lambda: image_folder(top), 'ant/000.png has 20×24', 'bee/001.png has 30×31', 'size=')


def test_ranges_are_told_as_in_memory(tmp_path, memory):
    top = make_folder(tmp_path/'photos')
    for i in range(3): Image.fromarray((np.arange(480).reshape(20, 24)*(i + 9)).astype(np.int32)).save(top/'ant'/f'wide{i}.tif')
    said = []
    for amount in (PLAIN, LITTLE, LITTLE):
        memory(amount)
        with warnings.catch_warnings(record=True) as w:
            warnings.simplefilter('always')
            image_folder(top)
        said.append([str(x.message) for x in w])
    assert len(said[0]) == 1 and '2 more files' in said[0][0] and said[0] == said[1] == said[2]


# --- the cache ----------------------------------------------------------------------------------------------------------------------------

@pytest.fixture
def counted(monkeypatch):
    "The names of the files that are decoded."
    names, decode = [], D.decode_image
    monkeypatch.setattr(D, 'decode_image', lambda blob, name, *args: names.append(name) or decode(blob, name, *args))
    return names


def test_the_second_time_nothing_is_decoded(tmp_path, memory, counted):
    top = make_folder(tmp_path/'photos')
    memory(LITTLE)
    first = image_folder(top, 16)
    counted.clear()
    again = image_folder(top, 16)
    assert len(counted) <= 1, 'the first file tells how large the images are'
    same(first, again)
    assert len(list((tmp_path/'cache').rglob('*.bin'))) == 1


@pytest.mark.parametrize('change', ['time', 'content', 'more', 'fewer', 'name'])
def test_a_folder_that_changed_is_read_again_in_the_same_place(tmp_path, memory, change):
    top = make_folder(tmp_path/'photos')
    memory(LITTLE)
    before = image_folder(top, 16)
    file = top/'bee'/'003.png'
    if change == 'time': os.utime(file, ns=(1, 1))
    if change == 'content': draw(99).save(file)
    if change == 'more': draw(98).save(top/'bee'/'more.png')
    if change == 'fewer': file.unlink()
    if change == 'name': file.rename(file.with_name('other.png'))
    after = image_folder(top, 16)
    memory(PLAIN)
    same(image_folder(top, 16), after)
    assert len(list((tmp_path/'cache').rglob('*.bin'))) == 1, 'the old file is not left behind'
    with refused(['written again']): before.images[3]


def test_another_way_of_reading_has_its_own_file(tmp_path, memory):
    top = make_folder(tmp_path/'photos')
    memory(LITTLE)
    found = [image_folder(top, **how) for how in (dict(size=16), dict(size=12), dict(size=16, channels=1), dict(size=16, fit='pad'))]
    assert len({d.images.path for d in found}) == 4
    for d in found: d.floats()


@pytest.mark.parametrize('error', [KeyboardInterrupt, MemoryError])
def test_an_interruption_leaves_nothing(tmp_path, memory, monkeypatch, error):
    top, decode, n = make_folder(tmp_path/'photos'), D.decode_image, []
    def stop(*args):
        n.append(args)
        if len(n) == 9: raise error
        return decode(*args)
    monkeypatch.setattr(D, 'decode_image', stop)
    memory(LITTLE)
    with pytest.raises(error): image_folder(top, 16)
    assert not [p for p in (tmp_path/'cache').rglob('*') if p.is_file()]
    assert len(image_folder(top, 16)) == 16


def test_a_disk_that_has_no_room_is_told_before_and_while(tmp_path, memory, monkeypatch):
    top = make_folder(tmp_path/'photos')
    memory(LITTLE)
    usage = namedtuple('usage', 'total used free')
    with monkeypatch.context() as m:
        m.setattr('shutil.disk_usage', lambda p: usage(9, 9, 100))
        sentence(lambda: image_folder(top, 64), 'photos', 'GB', 'VISFT_CACHE', 'size=', 'VISFT_MEMORY')
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50000, hard))
    try: sentence(lambda: image_folder(top, 64), 'cannot be written', 'make room')
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not [p for p in (tmp_path/'cache').rglob('*') if p.is_file()]


# --- what is done with them ---------------------------------------------------------------------------------------------------------------

def test_splits_choose_rows_and_give_the_same_images(tmp_path, memory):
    top = make_folder(tmp_path/'photos', 12)
    plain, stored = both(memory, lambda: image_folder(top, 16))
    for split in (lambda d: split_data(d, [.5, .25, .25], 3), lambda d: [label_subset(d, 4)], lambda d: [d[:], d[5:9], d[[3, 1]], d[d.labels == 1]]):
        for a, b in zip(split(plain), split(stored), strict=True):
            assert isinstance(b.images, FileTensor)
            same(a, b)


def test_batches_and_predictions_are_the_same(tmp_path, memory):
    top = make_folder(tmp_path/'photos', 12)
    plain, stored = both(memory, lambda: image_folder(top, 16))
    for a, b in zip(Batches(plain, 5, seed=4), Batches(stored, 5, seed=4), strict=True): assert all(map(torch.equal, a, b))
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    assert torch.equal(predict_logits(model, plain, 5)[0], predict_logits(model, stored, 5)[0])
    for w in (0, 2):
        loader = torch.utils.data.DataLoader(stored, batch_size=7, num_workers=w)
        assert torch.equal(torch.cat([x for x, _ in loader]), plain.floats())


def test_leaks_are_found_the_same(tmp_path, memory):
    top = make_folder(tmp_path/'photos', 12, h=40, w=40)
    Image.open(top/'ant'/'003.png').save(top/'bee'/'copy.png')
    Image.open(top/'ant'/'004.png').resize((36, 36)).resize((40, 40)).save(top/'bee'/'near.jpg', quality=95)
    plain, stored = both(memory, lambda: image_folder(top))
    a, b = find_leaks(plain), find_leaks(stored)
    assert a.pairs.equals(b.pairs) and {'exact'} <= set(a.pairs.kind)
    a, b = find_leaks(plain[:10], plain[10:]), find_leaks(stored[:10], stored[10:])
    assert a.pairs.equals(b.pairs)


@pytest.mark.parametrize('strategy', ['linear', 'full', 'lp-ft'])
def test_a_finetuning_is_the_same_to_the_bit(tmp_path, memory, strategy):
    from visft_nb.finetune.folder import finetune_folder
    top, runs = make_folder(tmp_path/'photos', 14), []
    for amount in (PLAIN, LITTLE):
        memory(amount)
        set_seed(0)
        said = []
        run = finetune_folder(top, tmp_path/f'out{amount}', 'small_cnn', None, strategy, size=32, epochs=1, batch_size=8, log=said.append)
        runs.append((run, said))
    (a, _), (b, said) = runs
    assert any('cache' in s and 'VISFT_MEMORY' in s for s in said)
    for k in ('accuracy', 'confusion', 'wrong', 'leaks', 'images', 'how'): assert a.records[k] == b.records[k], k
    for (k, v), w in zip(a.model.state_dict().items(), b.model.state_dict().values(), strict=True): assert torch.equal(v, w), k
    assert not list((tmp_path/'cache').glob('.features*'))


def test_a_head_is_fitted_to_features_in_a_file(tmp_path, monkeypatch):
    from visft_nb.finetune import transfer
    z, y = torch.randn(300, 12), torch.arange(300) % 3
    z[:, 0] += y
    stored = keep_rows(tmp_path/'z.bin', 'z', z.split(64))
    loss = torch.nn.functional.cross_entropy
    same = [transfer._solver(v, y, 3, loss).solve(.1) for v in (z, stored)]
    for a, b in zip(*same): assert torch.equal(a, b)
    whole = transfer.cross_validate(z, y, 3)
    assert whole.equals(transfer.cross_validate(stored, y, 3))
    monkeypatch.setattr(transfer, '_BLOCK', 70)
    for a, b in zip(same[0], transfer._solver(stored, y, 3, loss).solve(.1)): assert torch.allclose(a, b, atol=1e-6)
    blocks = transfer.cross_validate(stored, y, 3)
    assert np.allclose(whole.to_numpy(), blocks.to_numpy(), atol=1e-4)
    solver = transfer._solver(stored, y, 3, loss)
    value, w, b = solver.slopes(.1)
    with torch.no_grad(): solver.b += 1e-4*b
    assert abs(float(solver.value(.1) - value) - 1e-4*float((b*b).sum())) < 1e-9, 'the slope is that of the value'


# --- memory -------------------------------------------------------------------------------------------------------------------------------

def child(code, **env):
    "A program run in a process of its own."
    return subprocess.run([sys.executable, '-c', textwrap.dedent(code)], capture_output=True, text=True, env={**os.environ, **{k: str(v) for k, v in env.items()}})


LIMITED = '''
    import resource, torch
    from visft_nb.data import Batches, image_folder, split_data
    torch.set_num_threads(1)
    net = torch.nn.Sequential(torch.nn.AvgPool2d(8), torch.nn.Flatten(), torch.nn.Linear(1728, 2))
    def use(folder):
        data = image_folder(folder, 192)
        train, test = split_data(data, [.75, .25])
        loss = [torch.nn.functional.cross_entropy(net(x), y).item() for x, y in Batches(train, 8)]
        with torch.no_grad(): likely = [net(test[i:i + 8].floats()).argmax().item() for i in range(0, len(test), 8)]
        print(data.images.numel(), len(train), len(loss), len(likely))
    use(SMALL)   # loads what is loaded once
    here = int(next(l for l in open('/proc/self/status') if l.startswith('VmSize')).split()[1])*1024
    resource.setrlimit(resource.RLIMIT_AS, (here + 64*2**20,)*2)
    use(FOLDER)
'''


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='address space is limited and read as on Linux')
def test_more_images_than_the_address_space_takes(tmp_path):
    "130 MB of images within 64 MB: they pass with little memory, and in memory they do not."
    top = make_folder(tmp_path/'photos', 600, h=6, w=6)
    small = make_folder(tmp_path/'few', 20, h=6, w=6)
    code = LIMITED.replace('FOLDER', repr(str(top))).replace('SMALL', repr(str(small)))
    low = child(code, VISFT_CACHE=tmp_path/'cache', VISFT_MEMORY='1MB')
    assert low.stdout.split()[4:] == [str(1200*3*192*192), '900', '113', '38'], low.stderr[-2000:]
    high = child(code, VISFT_CACHE=tmp_path/'cache', VISFT_MEMORY='1TB')
    assert high.returncode and ('memory' in high.stderr.lower() or 'alloc' in high.stderr.lower()), high.stdout + high.stderr[-2000:]


def grown(amount):
    run = subprocess.run([sys.executable, str(Path(__file__).with_name('memory_growth.py')), amount, '128', '100', '400'], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    return json.loads(run.stdout.splitlines()[-1])['bytes_an_image']


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='resident memory is read as on Linux')
def test_a_finetuning_grows_by_less_than_its_images():
    "Peak memory at two sizes of folder: what each image adds is less than half of its 48 KB, and in memory more than all of it."
    image = 128*128*3
    stored = (grown('1MB') for _ in range(3))   # what else the allocator keeps can only add: the least of three counts
    assert any(v < image/2 for v in stored) and any(grown('1TB') > image for _ in range(3))
