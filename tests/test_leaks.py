"find_leaks: groups of changed copies, judged pair by pair; and a split of `visft finetune` that tears none of them apart."
import inspect, io, os, subprocess, sys, textwrap

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as tvf

from helpers import refused
from visft_nb.data import Images, Leaks, find_leaks, load_dataset
from visft_nb.finetune import divide, read_splits

HAVE = os.environ.get('VISFT_DATA')
needs_data = pytest.mark.skipif(not HAVE, reason='VISFT_DATA names no folder')


def photos(n, seed=0, side=64):
    "Generated photographs: clouds, edges and grain of their own, (n, 3, side, side) of bytes."
    g = torch.Generator().manual_seed(seed)
    x = sum(torch.nn.functional.interpolate(torch.randn(n, 3, k, k, generator=g), (side, side), mode='bicubic')*k**-.6 for k in (3, 6, 12, 24))
    t, phase = torch.rand(2, n, 1, 1, 1, generator=g)*6.28
    grid = torch.linspace(-1, 1, side)
    wave = (grid[:, None]*t.cos() + grid*t.sin())*4 + phase
    x = x + .4*wave.sin().sign() + .05*torch.randn(n, 3, side, side, generator=g)
    return (128 + 55*x).clamp(0, 255).byte()


def jpeg(x, quality):
    buffer = io.BytesIO()
    Image.fromarray(x.permute(1, 2, 0).squeeze(-1).numpy()).save(buffer, 'JPEG', quality=quality)
    y = torch.from_numpy(np.array(Image.open(buffer)))
    return y[None] if y.ndim == 2 else y.permute(2, 0, 1)


def window(x, share, left, top):
    side, n = x.shape[-1], round(share*x.shape[-1])
    return tvf.resized_crop(x, round(top*(side - n)), round(left*(side - n)), n, n, [side, side], antialias=True)


def changed(x):
    "Eight changed copies of each image."
    s, f, g = x.shape[-1], x.float(), torch.Generator().manual_seed(1)
    small = tvf.resize(x, [round(.6*s)]*2, antialias=True)
    return dict(jpeg=torch.stack([jpeg(i, 50) for i in x]), resized=tvf.resize(small, [s]*2, antialias=True), brighter=(f*1.2 + 10).clamp(0, 255).byte(),
                flatter=((f - 127)*.6 + 127).byte(), crop90=window(x, .9, .2, .9), crop85=window(x, .85, .8, .4), blurred=tvf.gaussian_blur(x, [3, 3], [1.]),
                noisy=(f + 5*torch.randn(f.shape, generator=g)).clamp(0, 255).byte())


def recall(leaks, n, k):
    "Share of the pairs of copies that lie in one group, where image i is a copy of i % n; and the number of wrong pairs."
    together = sum(p % n == q % n for group in leaks.groups for at, (_, p) in enumerate(group) for _, q in group[:at])
    return together/(n*(k + 1)*k//2), sum(i % n != j % n for i, j in zip(leaks.a, leaks.b))


@pytest.mark.parametrize('k', range(1, 9))
def test_groups_of_k_copies_are_found(k):
    x = photos(12)
    leaks = find_leaks(Images(torch.cat([x, *list(changed(x).values())[-k:]])))
    found, wrong = recall(leaks, 12, k)
    assert found >= .95 and wrong == 0
    assert all(len({i % 12 for _, i in group}) == 1 for group in leaks.groups)


@needs_data
@pytest.mark.parametrize('name', ['hymenoptera', 'luna16_patches', 'pneumoniamnist', 'mnist5k'])
def test_forty_sources_with_eight_copies_each(name):
    data = load_dataset(name, 'train', **dict(size=96) if name == 'hymenoptera' else {})
    x = data.images[torch.randperm(len(data), generator=torch.Generator().manual_seed(3))[:40]]
    found, wrong = recall(find_leaks(Images(torch.cat([x, *changed(x).values()]))), 40, 8)
    assert found >= .95 and wrong == 0


def test_what_is_found_of_a_pair_does_not_depend_on_the_others():
    "Eight pairs, one of each kind of change, alone, beside 1,000 other images, and beside 20 more copies of each."
    x = photos(8)
    y = torch.stack([v[k] for k, v in enumerate(changed(x).values())])
    alone = [find_leaks(Images(torch.stack(pair))).pairs for pair in zip(x, y)]
    assert [p[['a', 'b', 'kind']].values.tolist() for p in alone] == [[[0, 1, 'near']]]*8
    more = torch.stack([jpeg(i, q) for i in x for q in range(50, 90, 2)])
    for company in (photos(1000, 7), more):
        leaks = find_leaks(Images(torch.cat([x, y, company]))).pairs.set_index(['a', 'b'])
        for k, p in enumerate(alone): assert leaks.similarity[k, k + 8] == pytest.approx(p.similarity.item(), abs=1e-3), list(changed(x))[k]


def test_a_pair_is_one_pair_whichever_comes_first():
    x = photos(12)
    y = torch.cat([v[:12:2] for v in list(changed(x).values())[:2]])
    there, back = find_leaks(Images(x), Images(y)), find_leaks(Images(y), Images(x))
    swapped = back.pairs.rename(columns=dict(a='b', b='a')).sort_values(['a', 'b'])
    assert len(there) == 12 and there.a.tolist() == swapped.a.tolist() and there.b.tolist() == swapped.b.tolist()
    assert np.allclose(there.similarity, swapped.similarity, atol=1e-3)


def test_two_runs_say_the_same():
    x = photos(30)
    data = Images(torch.cat([x, changed(x)['crop90']]))
    assert find_leaks(data).pairs.equals(find_leaks(data).pairs)


def test_cells_find_what_looking_at_all_finds(monkeypatch):
    "Above 4,096 images only some cells are looked into."
    module = inspect.getmodule(find_leaks)
    x = photos(400, 2, 32)
    data = Images(torch.cat([x, window(x[:100], .9, .3, .6), torch.stack([jpeg(i, 60) for i in x[100:200]])]))
    everything = find_leaks(data)
    monkeypatch.setattr(module, '_ALL', 64)
    cells = find_leaks(data)
    assert recall(everything, 400, 1)[1] == 0 and len(everything) >= 195
    assert set(zip(cells.a, cells.b)) <= set(zip(everything.a, everything.b)) and len(cells) >= .97*len(everything)


def test_equal_images_are_one_group_and_a_star():
    x = photos(2)
    many = find_leaks(Images(torch.cat([x[:1].expand(800, -1, -1, -1), x[1:]])))
    assert len(many) == 799 and (many.a == 0).all() and (many.kind == 'exact').all() and (many.similarity == 1).all()
    assert many.groups == [[('a', i) for i in range(800)]]
    across = find_leaks(Images(x[:1].expand(300, -1, -1, -1)), Images(x[[0]*200 + [1]]))
    assert len(across) == 499 and set(across.a) == set(range(300)) and set(across.b) == set(range(200))


def test_an_exact_group_that_has_a_near_copy_is_one_group():
    x = photos(3)
    y = changed(x)['jpeg'][:1]
    leaks = find_leaks(Images(torch.cat([x, x[:1], y, y])))
    assert leaks.groups == [[('a', 0), ('a', 3), ('a', 4), ('a', 5)]]
    assert leaks[['a', 'b', 'kind']].values.tolist() == [[0, 3, 'exact'], [0, 4, 'near'], [4, 5, 'exact']]
    across = find_leaks(Images(torch.cat([x, x[:1]])), Images(torch.cat([y, y])))
    assert set(across.a) == {0, 3} and set(across.b) == {0, 1} and (across.kind == 'near').all()


def test_large_groups_of_near_copies_say_what_the_table_leaves_out():
    x = photos(1)[0]
    leaks = find_leaks(Images(torch.stack([x, *(jpeg(x, q) for q in range(50, 98))])))
    assert len(leaks.groups) == 1 and len(leaks.groups[0]) == 49 and len(leaks) < 49*48/2 and 'more than 32' in leaks.note


@pytest.mark.parametrize('kind,change', dict(flip=lambda x: x.flip(-1), turn=lambda x: x.rot90(1, (-2, -1)), negative=lambda x: 255 - x,
                                             crop=lambda x: tvf.resized_crop(x, 13, 21, 32, 32, [64, 64], antialias=True)).items())
def test_kinds_on_request(kind, change):
    x = photos(12)
    a, b = Images(x[:6]), Images(torch.cat([x[6:], torch.stack([jpeg(i, 80) for i in change(x[:6])])]))
    assert len(find_leaks(a, b)) == 0
    for left, right in ((a, b), (b, a)):
        leaks = find_leaks(left, right, also=kind)
        assert sorted(min(i, j) for i, j in zip(leaks.a, leaks.b)) == list(range(6)) and set(leaks.kind) == {kind}
        assert all(abs(i - j) == 6 for i, j in zip(leaks.a, leaks.b))
    inside = find_leaks(Images(torch.cat([a.images, b.images])), also=[kind])
    assert [(i, j) for i, j in zip(inside.a, inside.b)] == [(i, i + 12) for i in range(6)]


def test_the_result_can_be_asked_like_its_table():
    x = photos(4)
    a, b = Images(x, names=list('pqrs'), split='train'), Images(torch.cat([x[1:2], changed(x)['crop90'][:1]]), names=['u', '<b>'], split='test')
    leaks = find_leaks(a, b)
    assert isinstance(leaks, Leaks) and len(leaks) == 2 and leaks.columns.tolist() == ['a', 'b', 'name_a', 'name_b', 'kind', 'similarity']
    assert [r.name_b for r in leaks.itertuples()] == ['<b>', 'u'] and leaks[leaks.kind == 'exact'].a.tolist() == [1]
    assert leaks.groups == [[('train', 0), ('test', 1)], [('train', 1), ('test', 0)]]
    assert '4 images against 2: 2 groups with 4 images' in str(leaks) and '&lt;b&gt;' in leaks._repr_html_() and 'exact' in repr(leaks)
    none = find_leaks(a[:2], Images(x[2:]))
    assert len(none) == 0 and none.groups == [] and 'no copies' in repr(none) and none._repr_html_()


def test_empty_tiny_flat_and_differently_sized_sets():
    x = photos(6)
    d = Images(x)
    assert len(find_leaks(d[:0])) == len(find_leaks(d[:0], d)) == len(find_leaks(d, d[:0])) == len(find_leaks(d[:1])) == 0
    flat = Images(torch.arange(0, 250, 10, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 8, 8).contiguous())
    assert len(find_leaks(flat)) == 0, 'two flat images are no copies of one another'
    small = Images(tvf.resize(x, [40, 40], antialias=True))
    assert find_leaks(d, small)[['a', 'b']].values.tolist() == [[i, i] for i in range(6)]
    gray = Images(tvf.rgb_to_grayscale(x))
    assert find_leaks(d, gray).b.tolist() == list(range(6)) and find_leaks(gray[:1], d).kind.tolist() == ['near']
    assert len(find_leaks(Images(torch.randint(0, 255, (5, 3, 1, 1), dtype=torch.uint8)))) == 0


def test_bad_input_is_refused_in_a_sentence():
    d = Images(photos(2))
    for bad in (d.images, d.images.numpy(), [d], None, 'train', 3, {'images': d.images}):
        with refused(['a is', 'compares Images']): find_leaks(bad)
    with refused(['no pixels']): find_leaks(Images(torch.zeros(3, 3, 0, 8, dtype=torch.uint8)))
    for also in (3, None, b'flip', torch.ones(2)):
        with refused(['also is', 'negative']): find_leaks(d, also=also)
    with refused(['kind in also']): find_leaks(d, also=[np.ones(2)])
    with refused(['b is str', 'Images']): find_leaks(d, 'test')
    with refused(['rotate']): find_leaks(d, also='rotate')
    for s in (0, 1.5, -1, 'high', True, float('nan')):
        with refused([f'similarity={s!r}', 'at most 1']): find_leaks(d, similarity=s)


@needs_data
def test_slices_of_a_scan_are_no_copies():
    stack = load_dataset('isbi2012', 'train', HAVE, size=256)
    assert len(find_leaks(stack)) == 0


@pytest.mark.skipif(sys.platform != 'linux', reason='asks the kernel for a limit of memory')
def test_memory_stays_small():
    "12,000 images of 32×32 within 900 MB beyond the process with its libraries; all pairs of them would be 576 MB in each of 37 views."
    code = textwrap.dedent('''
        import resource, torch, sklearn.cluster
        from visft_nb.data import Images, find_leaks
        d = Images(torch.randint(0, 255, (12000, 1, 12, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)))
        pages = int(open('/proc/self/statm').read().split()[0])*resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (pages + 900*2**20,)*2)
        print(len(find_leaks(d)))
    ''')
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, env=os.environ | dict(OMP_NUM_THREADS='1', MKL_NUM_THREADS='1'))
    assert done.returncode == 0 and done.stdout.strip() == '0', done.stderr[-2000:]


# --- the split of visft finetune -------------------------------------------------------------------------------------------------------

def folder(top, groups, n=24, copies=8, seed=0):
    "Two classes of `n` photographs each, of which the first `groups` lie there `copies` times over, changed."
    x = photos(2*n, seed, 48)
    for k, c in enumerate(('ant', 'bee')):
        (top/c).mkdir(parents=True)
        mine = x[k*n:(k + 1)*n]
        for i, im in enumerate(mine): Image.fromarray(im.permute(1, 2, 0).numpy()).save(top/c/f'{i}_source.png')
        for kind, y in list(changed(mine[:groups]).items())[:copies] if groups else ():
            for i, im in enumerate(y): Image.fromarray(im.permute(1, 2, 0).numpy()).save(top/c/f'{i}_{kind}.png')
    return top


@pytest.mark.parametrize('choose', [False, True])
@pytest.mark.parametrize('seed', [0, 1])
def test_our_own_split_tears_no_copies_apart(tmp_path, choose, seed):
    parts, _ = read_splits(folder(tmp_path/'pets', 6, seed=seed), 48)
    n = len(parts[''])
    sides = divide(parts, choose, seed=seed)
    assert list(sides) == ['train', 'report', 'choose'][:2 + choose] and sum(map(len, sides.values())) == n
    names = {s: [f'{d.classes[int(y)]}/{m.split("/")[1].split("_")[0]}' for m, y in zip(d.names, d.labels)] for s, d in sides.items()}
    for s in sides:
        for t in sides:
            if s >= t: continue
            assert not set(names[s]) & set(names[t]), 'copies of one photograph lie on two sides'
            assert len(find_leaks(sides[s], sides[t])) == 0
    assert 'in 12 groups' in sides.note and all(d.groups is None and not d.extra for d in sides.values())


def test_train_is_split_by_groups_where_a_folder_has_a_test_set(tmp_path):
    folder(tmp_path/'p'/'train', 6); folder(tmp_path/'p'/'test', 0, 6, seed=9)
    sides = divide(read_splits(tmp_path/'p', 48)[0], True)
    assert len(sides['report']) == 12 and len(find_leaks(sides['train'], sides['choose'])) == 0 and 'in 12 groups' in sides.note


def test_patients_and_copies_stay_together_and_the_patients_are_kept(tmp_path):
    "Copies join two patients; the column of patients is what it was."
    top = folder(tmp_path/'pets', 0, 30)
    for c in ('ant', 'bee'):
        for i in range(0, 30, 5): Image.open(top/c/f'{i}_source.png').convert('RGB').save(top/c/f'{i + 1}_again.jpg', quality=70)
    for seed in range(3):
        sides = divide(read_splits(top, 48, group='([0-9]+)_')[0], False, seed=seed)
        assert len(find_leaks(sides['train'], sides['report'])) == 0
        mine = [set(zip(d.labels.tolist(), d.groups)) for d in sides.values()]
        assert not {g for _, g in mine[0]} & {g for _, g in mine[1]} and all(g in n for d in sides.values() for g, n in zip(d.groups, d.names))


def test_a_group_larger_than_a_side_is_said(tmp_path):
    top = folder(tmp_path/'pets', 0, 20)
    source = Image.open(top/'ant'/'0_source.png').convert('RGB')
    for q in range(30, 90, 2): source.save(top/'ant'/f'0_{q}.jpg', quality=q)
    sides = divide(read_splits(top, 48)[0], False)
    assert len(find_leaks(sides['train'], sides['report'])) == 0
    assert 'The largest group has 31 images, more than the 18 that were to be held out' in sides.note


def test_copies_with_two_labels_are_named(tmp_path):
    top = folder(tmp_path/'pets', 0, 20)
    Image.open(top/'ant'/'3_source.png').save(top/'bee'/'wrong.png')
    sides = divide(read_splits(top, 48)[0], False)
    assert 'of different classes' in sides.note and 'ant/3_source.png' in sides.note and 'bee/wrong.png' in sides.note


def test_a_class_of_copies_of_one_image_cannot_be_split(tmp_path):
    top = folder(tmp_path/'pets', 0, 12)
    for p in sorted((top/'bee').iterdir())[1:]: p.write_bytes(sorted((top/'bee').iterdir())[0].read_bytes())
    with refused(['bee', 'copies of one image stay together']): divide(read_splits(top, 48)[0], False)


@needs_data
@pytest.mark.parametrize('name,split,most', [('luna16_patches', 'test', 0), ('pneumoniamnist', 'valid', 0), ('hymenoptera', 'valid', 0), ('mnist', 'test', 0)])
def test_no_image_is_a_copy_of_the_mirror_image_of_another(name, split, most):
    "They are as alike as two images of such a set happen to be; the line was drawn on other images."
    x = load_dataset(name, split, **dict(size=96) if name == 'hymenoptera' else {}).images[:700]
    leaks = find_leaks(Images(x.flip(-1)), Images(x))
    assert (leaks.a != leaks.b).sum() <= most, leaks


@pytest.mark.parametrize('name,options', [('drive_like', {}), ('chase_like', dict(height=240, width=250))])
def test_photographs_by_one_camera_are_no_copies_and_their_copies_are(tmp_path, name, options):
    "Different eyes behind the same bright disc, and changed copies of each."
    import vessel_images
    from visft_nb.deploy import read_image
    getattr(vessel_images, name)(tmp_path, 14, **options)
    x = torch.stack([read_image(p) for p in sorted([*tmp_path.rglob('*_training.tif'), *tmp_path.rglob('*.jpg')])])
    x = (255*torch.nn.functional.interpolate(x, (128, 128), mode='bilinear', antialias=True)).byte()
    assert len(x) == 14 and len(find_leaks(Images(x))) == 0
    found, wrong = recall(find_leaks(Images(torch.cat([x, *changed(x).values()]))), 14, 8)
    assert found >= .95 and wrong == 0
