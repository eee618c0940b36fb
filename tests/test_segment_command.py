"visft segment: images and masks in, a model and a report out; pairs are found by their names, and what is wrong with them is said before anything is written."
import json, re, subprocess, sys, time, zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from helpers import Page, refused, sentence
from vessel_images import chase_like, drive_like
from visft_nb.core import InputError
from visft_nb.course.cli import app
from visft_nb.deploy import load_model, model_card, model_spec, open_model, predict, save_model
from visft_nb.deploy.tiles import blend_tiles, check_tile, tile_starts, tiled_logits
from visft_nb.finetune import (UNet, divide_pairs, find_pairs, match_names, read_pairs, segment, segment_folder)
from visft_nb.finetune import segmenter
from visft_nb.finetune.work import predict_files

SMALL = dict(height=64, width=60, thick=14, noise=4)
FAST = dict(epochs=1, width=4, depth=2, tile=48, batch_size=4, steps=8, log=lambda line: None)


@pytest.fixture(scope='module')
def drive(tmp_path_factory): return drive_like(tmp_path_factory.mktemp('d')/'DRIVE', 8, **SMALL)


@pytest.fixture(scope='module')
def chase(tmp_path_factory): return chase_like(tmp_path_factory.mktemp('c')/'CHASE', 8, **SMALL)


@pytest.fixture(scope='module')
def done(drive, tmp_path_factory):
    lines = []
    run = segment_folder(drive/'images', drive/'1st_manual', tmp_path_factory.mktemp('r')/'out', **FAST | dict(epochs=2, log=lines.append))
    return run, lines


def pairs_of(images, masks): return dict(sorted(match_names(images, masks).pairs))


def gray(path, values=(0, 255), size=(40, 40)):
    a = np.zeros(size, np.uint8)
    for k, v in enumerate(values): a[k*8:] = v
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(a).save(path)


def photo(path, size=(40, 40), seed=0):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*size, 3), np.uint8)).save(path)


# ---- names

@pytest.mark.parametrize('image, mask', [
    ('{:02}_training.tif', '{:02}_manual1.gif'), ('{:02}_test.tif', '{:02}_test_mask.gif'), ('im{:04}.ppm', 'im{:04}.ah.ppm'),
    ('ISIC_{:07}.jpg', 'ISIC_{:07}_segmentation.png'), ('image ({}).png', 'mask ({}).png'), ('t{:03}.tif', 'man_seg{:03}.tif'),
    ('scan-{}.png', 'scan-{:03}-label.png'), ('case{}_img_slice2.png', 'case{}_seg_slice2.png'), ('{:02}_dr.JPG', '{:02}_dr.tif'),
    ('aachen_{:06}_000019_leftImg8bit.png', 'aachen_{:06}_000019_gtFine_labelIds.png'), ('{}.bmp', '{}_anno.bmp'), ('IMD{:03}.bmp', 'IMD{:03}_lesion.bmp'),
    ('a/{}/x.png', 'a/{}/x.png'), ('img/p{}.png', 'ann/p{}.png'), ('{}.tif', 'Maske {}.png'), ('Bild{}.png', 'Bild{}.GIF'),
    ('photo_{}_2019.png', 'drawing_{}_by_me.png'), ('{}.png', '{}_manual1.png'), ('{}.png', '1_{}.png'), ('eye left {}.png', '{}_left_eye_mask.png'), ('OD-{:02}.jpeg', 'vessels_OD{}.bmp'), ('p{}/image.png', 'p{}/mask.png'), ('2020010{}_q{:02}l.png', 'v{}q{}_L.png'), ('2019_{}.png', 'gt_{}_v2.png')])
def test_the_rule_is_found(image, mask):
    numbers = [1, 2, 3, 9, 10, 11, 20, 21, 100]
    images, masks = [image.format(k, k) for k in numbers], [mask.format(k, k) for k in numbers]
    assert pairs_of(images, masks[::-1]) == dict(sorted(zip(images, masks)))
    assert pairs_of(images[1:], masks[1:]) == dict(sorted(zip(images[1:], masks[1:])))


def test_readers_are_told_apart():
    images = [f'Image_{k:02}{s}.jpg' for k in range(1, 4) for s in 'LR']
    masks = [f'{i[:-4]}_{r}.png' for i in images for r in ('2ndHO', '1stHO')]
    match = match_names(images, masks)
    assert list(match.readers) == ['*_1stHO', '*_2ndHO'] and match.readers['*_2ndHO']['Image_02R.jpg'] == 'Image_02R_2ndHO.png'
    both = match_names([f'{k}_training.tif' for k in (1, 2, 21)], [f'{k}_manual{r}.gif' for k in (1, 2, 21) for r in (1, 2)])
    assert [sorted(r.items())[0] for r in both.readers.values()] == [('1_training.tif', '1_manual1.gif'), ('1_training.tif', '1_manual2.gif')]


@pytest.mark.parametrize('images, masks, words', [
    (['1_2.png', '2_1.png'], ['1.png', '2.png'], ['in 2 ways', '--pair']),
    (['img_0.png', 'img_1.png', 'img_2.png'], ['img_1.png', 'img_2.png', 'img_3.png'], ['img_0.png', 'img_3.png', '--pair']),
    (['cat.png', 'dog.png'], ['a.png', 'b.png'], ['No rule', 'cat.png', 'b.png', "'([0-9]+)'"])])
def test_what_cannot_be_told_is_not_guessed(images, masks, words): sentence(lambda: match_names(images, masks), *words)


def test_what_is_left_over_is_named(tmp_path):
    for k in range(4): photo(tmp_path/f'x/{k}.png', seed=k)
    for k in range(3): gray(tmp_path/f'y/{k}.png')
    (tmp_path/'y/notes.txt').write_text('hello')
    found = find_pairs(tmp_path/'x', tmp_path/'y')
    assert [m for m, _ in found.masks] == ['0.png', '1.png', '2.png']
    assert any('3.png' in n and 'without a mask' in n for n in found.notes) and any('notes.txt' in n for n in found.notes)
    (tmp_path/'x/1.png').unlink(); (tmp_path/'x/3.png').unlink()
    assert any('1.png' in n and '1 mask of no image' in n for n in find_pairs(tmp_path/'x', tmp_path/'y').notes)


def test_one_folder_is_told_apart_by_the_pixels(chase):
    found = find_pairs(chase)
    assert all(i.endswith('.jpg') and m == i.replace('.jpg', '_1stHO.png') for (i, _), (m, _) in zip(found.images, found.masks)) and len(found) == 8
    assert found.readers == ['*_1stHO', '*_2ndHO'] and found.reader == 0
    for reader in (2, '2', '2ndHO'): assert find_pairs(chase, reader=reader).masks[0][0] == 'Image_01L_2ndHO.png'
    sentence(lambda: find_pairs(chase, reader=3), 'reader=3', '1stHO', '2ndHO')
    sentence(lambda: find_pairs(chase, reader='HO'), "'HO'", '2 (')


def test_masks_inside_of_the_images_folder(drive):
    found = find_pairs(drive, drive/'1st_manual')
    assert len(found) == 8 and all(m.endswith('_manual1.gif') for m, _ in found.masks)


def test_one_folder_with_all_of_it(drive):
    found = find_pairs(drive)
    assert [m for m, _ in found.masks] == [f'1st_manual/{k}_manual1.gif' for k in range(21, 29)], 'the discs are masks, too, and not what is meant'
    assert len(found.readers) == 2 and 'mask' in found.readers[1]
    assert find_pairs(drive, reader=2).masks[0][0] == 'mask/21_training_mask.gif'


def test_a_zip_is_read_too(drive, tmp_path):
    with zipfile.ZipFile(tmp_path/'d.zip', 'w') as z:
        for p in drive.rglob('*.*'): z.write(p, p.relative_to(drive))
    data = read_pairs(find_pairs(tmp_path/'d.zip/images', tmp_path/'d.zip/1st_manual'))
    assert len(data) == 8 and data.values == (0, 255)


@pytest.mark.parametrize('pattern, words', [
    ('[0-9]+', ['no group', '([0-9]+)']), ('([0-9', ['regular expression']), ('(training)', ['the same in', '21_training']), ('(x[0-9]+)', ['pairs nothing'])])
def test_a_pattern_that_pairs_nothing(drive, pattern, words):
    sentence(lambda: find_pairs(drive/'images', drive/'1st_manual', pair=pattern), *words)


def test_a_pattern_pairs(drive):
    for pattern in (r'^([0-9]+)_', r'(?P<id>[0-9]{2})_(training|manual1)'):
        found = find_pairs(drive/'images', drive/'1st_manual', pair=pattern)
        assert [(i[:2], m[:2]) for (i, _), (m, _) in zip(found.images, found.masks)] == [(str(k),)*2 for k in range(21, 29)]


# ---- pixels

@pytest.mark.parametrize('values, classes, named', [
    ((0, 255), None, ('background', 'foreground')), ((0, 1), ['vessel'], ('background', 'vessel')), ((0, 128, 255), None, ('background', 'value 128', 'value 255')),
    ((0, 1, 2), ['none', 'cup', 'disc'], ('none', 'cup', 'disc'))])
def test_values_become_classes(tmp_path, values, classes, named):
    for k in range(3): photo(tmp_path/f'x/{k}.png', seed=k); gray(tmp_path/f'y/{k}.png', values)
    data = read_pairs(find_pairs(tmp_path/'x', tmp_path/'y'), classes)
    assert data.classes == named and data.values == values and data.masks[0].unique().tolist() == list(range(len(values)))
    assert data.masks[0][:8].max() == 0 and data.masks[0][-1].min() == len(values) - 1


def test_the_background_may_be_white(tmp_path):
    for k in range(2): photo(tmp_path/f'x/{k}.png', seed=k); gray(tmp_path/f'y/{k}.png')
    data = read_pairs(find_pairs(tmp_path/'x', tmp_path/'y'), background=255)
    assert data.values == (255, 0) and data.masks[0][0].min() == 1 and data.masks[0][-1].max() == 0
    sentence(lambda: read_pairs(find_pairs(tmp_path/'x', tmp_path/'y'), background=7), 'background=7', '0, 255')


def test_masks_that_were_saved_as_jpeg(tmp_path):
    disc = np.zeros((40, 40), np.uint8); disc[8:30, 10:33] = 255
    photo(tmp_path/'x/1.png'); (tmp_path/'y').mkdir(); Image.fromarray(disc).convert('RGB').save(tmp_path/'y/1.jpg', quality=60)
    found = find_pairs(tmp_path/'x', tmp_path/'y')
    sentence(lambda: read_pairs(found), '1.jpg', '--cut 127')
    data = read_pairs(found, ['polyp'], cut=127)
    assert data.values == (0, 255) and (data.masks[0].numpy() == (disc > 0)).mean() > .99
    sentence(lambda: read_pairs(found, cut=255), 'cut=255')


def test_ways_to_store_a_mask(tmp_path):
    disc = np.zeros((30, 30), np.uint8); disc[5:20, 8:25] = 255
    im = Image.fromarray(disc)
    palette = Image.fromarray((disc > 0).astype(np.uint8)); palette.putpalette([0, 0, 0, 200, 30, 30] + [0]*762)
    for name, made in (('gray.png', im), ('bits.tif', im.convert('1')), ('gif.gif', im), ('rgb.png', im.convert('RGB')), ('la.png', im.convert('LA')), ('p.png', palette)):
        where = tmp_path/name
        photo(where/'x/1.png', (30, 30)); (where/'y').mkdir(); made.save(where/f'y/1.{name.split(".")[1]}')
        data = read_pairs(find_pairs(where/'x', where/'y'))
        assert data.masks[0].tolist() == (disc > 0).astype(int).tolist(), name


def bad(tmp_path, spoil):
    for k in range(6): photo(tmp_path/f'x/{k}.png', seed=k); gray(tmp_path/f'y/{k}.png')
    spoil(tmp_path)
    return lambda: segment_folder(tmp_path/'x', tmp_path/'y', tmp_path/'out', **FAST)


def colours(t): photo(t/'y/3.png', seed=9)
def noise(t): Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40), np.uint8)).save(t/'y/3.png')
def mixed(t): gray(t/'y/3.png', (0, 1))
def empty(t): [gray(t/f'y/{k}.png', (0,)) for k in range(6)]
def inverted(t):
    im = Image.fromarray((np.arange(1600).reshape(40, 40) % 2).astype(np.uint8))
    im.putpalette([255]*3 + [0]*765); im.save(t/'y/3.png')


@pytest.mark.parametrize('spoil, words', [
    (lambda t: [(t/f'y/{k}.png').unlink() for k in range(6)], ['y', 'empty']),
    (lambda t: [(t/f'x/{k}.png').unlink() for k in range(1, 6)], ['1 pair', '6 or more']),
    (lambda t: gray(t/'y/3.png', size=(40, 39)), ['3.png', '40 × 40', '39 × 40']),
    (lambda t: (t/'x/3.png').write_bytes((t/'x/3.png').read_bytes()[:900]), ['3.png', '1 of 6', '--skip-corrupt']),
    (lambda t: (t/'y/3.png').write_bytes(b''), ['3.png', '1 of 6']),
    (colours, ['3.png', 'colour']), (noise, ['3.png', 'values', 'PNG']), (mixed, ['3.png', '0 and 1']), (empty, ['nothing to learn']),
    (inverted, ['3.png', 'grays'])])
def test_what_is_wrong_is_said_and_nothing_is_written(tmp_path, spoil, words):
    sentence(bad(tmp_path, spoil), *words)
    assert sorted(p.name for p in tmp_path.iterdir()) == ['x', 'y']


@pytest.mark.parametrize('given, words', [
    (dict(tile=20), ['tile=20']), (dict(epochs=0), ['epochs=0']), (dict(steps=0), ['steps=0']), (dict(reader=None), ['reader=None']), (dict(reader=1.5), ['reader=1.5']), (dict(seed=-1), ['seed=-1']), (dict(held='a'), ["held='a'"]), (dict(pair=3), ['pair=3']), (dict(classes='ab'), ['classes']), (dict(background=9), ['background=9']), (dict(held=1.5), ['held=1.5']), (dict(minutes=-1), ['minutes=-1']),
    (dict(classes=['a', 'b', 'c']), ['2 values', 'a, b, c']), (dict(group='(p[0-9]+)'), ['(p[0-9]+)', 'not found'])])
def test_settings_that_cannot_be(drive, tmp_path, given, words):
    sentence(lambda: segment_folder(drive/'images', drive/'1st_manual', tmp_path/'out', **FAST | given), *words)
    assert not (tmp_path/'out').exists()


def test_a_place_that_is_taken(drive, tmp_path):
    (tmp_path/'mine.txt').write_text('mine')
    sentence(lambda: segment_folder(drive/'images', drive/'1st_manual', tmp_path, **FAST), 'not empty')
    assert (tmp_path/'mine.txt').read_text() == 'mine'


def test_an_interruption_leaves_nothing(drive, tmp_path, monkeypatch):
    def stop(*args, **kwargs): raise KeyboardInterrupt('stopped after step 3')
    monkeypatch.setattr(segmenter, 'train_tiles', stop)
    with pytest.raises(KeyboardInterrupt, match='stopped after step 3.*was not written'):
        segment_folder(drive/'images', drive/'1st_manual', tmp_path/'out', **FAST)
    assert not list(tmp_path.iterdir())


def test_skipped_pairs_are_named(tmp_path):
    call = bad(tmp_path, lambda t: (t/'x/3.png').write_bytes(b'no image'))
    with pytest.raises(InputError): call()
    data = read_pairs(find_pairs(tmp_path/'x', tmp_path/'y'), skip=True)
    assert len(data) == 5 and any('3.png' in n for n in data.notes)


# ---- splits

def test_copies_and_patients_stay_together(tmp_path):
    for k in range(10): photo(tmp_path/f'x/p{k//2}_{k}.png', (50, 50), k); gray(tmp_path/f'y/p{k//2}_{k}.png', size=(50, 50))
    data = read_pairs(find_pairs(tmp_path/'x', tmp_path/'y'))
    for seed in range(3):
        rows, groups, _ = divide_pairs(data, group='(p[0-9]+)_', seed=seed)
        sides = [{groups[i] for i in v} for v in rows.values()]
        assert sum(map(len, sides)) == 5 and sorted(sum(rows.values(), [])) == list(range(10))
    data.images[7] = data.images[2].clone()
    for seed in range(3):
        rows, _, note = divide_pairs(data, seed=seed)
        assert any({2, 7} <= set(v) for v in rows.values()) and 'copies' in note


def test_alike_photographs_are_no_copies(drive):
    rows, _, note = divide_pairs(read_pairs(find_pairs(drive/'images', drive/'1st_manual')))
    assert note == '' and {k: len(v) for k, v in rows.items()} == {'train': 5, 'choose': 1, 'report': 2}


# ---- the whole

def test_what_is_said_before_and_after(done):
    run, lines = done
    text = '\n'.join(lines)
    assert '8 images with their masks' in text and all(f'{k}_training.tif with {k}_manual1.gif: 60 × 64, colour' in text for k in (21, 25, 28))
    assert re.search(r'the mask holds 0 \(\d+\.\d %\), 255 \(\d+\.\d %\)', text)
    assert re.search(r'5 images to learn from, 1 image to choose by, 2 images to report on; 2 epochs .* about \d+ (s|minutes) on', lines[-1])
    assert re.fullmatch(r'Dice 0\.\d{3} \([01]\.\d\d to [01]\.\d\d\) on 2 images', str(run))


def test_report_table_and_records(done):
    run, _ = done
    assert sorted(p.name for p in run.folder.iterdir()) == ['answers.csv', 'model.safetensors', 'records.json', 'report.html']
    r = json.loads((run.folder/'records.json').read_text())
    table = pd.read_csv(run.folder/'answers.csv')
    assert table.dice.mean() == pytest.approx(r['dice']) and r['low'] <= r['dice'] <= r['high'] and list(table.image) == r['parts']['report']
    names = sum(r['parts'].values(), [])
    assert len(set(names)) == len(names) == 8 and r['settings']['epochs'] == 2
    page = Page(); page.feed((run.folder/'report.html').read_text())
    assert page.open_tags == () and page.images == 3 + 4*2 + 1 and str(run) in page.text and all(n in page.text for n in names)


def test_the_model_card_has_the_figure(done):
    text = model_card(done[0].folder, licence='mit')
    assert re.search(rf"\| Dice \| {done[0].records['dice']:.4g} \|.*mean of 2 images", text) and 'image-segmentation' in text


def test_the_model_answers_as_the_report_says(done, drive, tmp_path):
    run, _ = done
    spec = load_model(run.folder/'model.safetensors', 'cpu').spec
    assert spec['task'] == 'segmentation' and spec['size'] is None and spec['tile'] == [768, 64] and spec['classes'] == ['background', 'foreground']
    cases = {c['image']: c for c in run.records['cases']}
    frame = predict_files(run.folder/'model.safetensors', [drive/'images'/n for n in cases], overlays=tmp_path/'o')
    for row in frame.itertuples():
        assert row.foreground_pixels == cases[Path(row.image).name]['claimed'] and (row.height, row.width) == (64, 60)
    mask = np.asarray(Image.open(tmp_path/'o'/f'{Path(frame.image[0]).stem}_mask.png'))
    truth = np.asarray(Image.open(drive/'1st_manual'/cases[Path(frame.image[0]).name]['mask']).convert('L')) > 0
    assert 2*((mask == 1) & truth).sum()/((mask == 1).sum() + truth.sum()) == pytest.approx(cases[Path(frame.image[0]).name]['dice'])
    assert (tmp_path/'o'/f'{Path(frame.image[0]).stem}_overlay.png').is_file()


def test_the_seed_decides(drive, tmp_path, done):
    again = segment_folder(drive/'images', drive/'1st_manual', tmp_path/'out', **FAST | dict(epochs=2))
    assert again.records['parts'] == done[0].records['parts'] and again.records['dice'] == pytest.approx(done[0].records['dice'], abs=.02)


def test_it_learns(tmp_path):
    for k in range(10):
        rng, y = np.random.default_rng(k), np.arange(48)[:, None]
        disc = (y - rng.integers(14, 34))**2 + (y.T - rng.integers(14, 34))**2 < 64
        for folder, a in (('x', 150 - 70*disc + rng.normal(0, 15, disc.shape)), ('y', 255*disc)):
            (tmp_path/folder).mkdir(exist_ok=True); Image.fromarray(a.clip(0, 255).astype(np.uint8)).save(tmp_path/folder/f'{k}.png')
    run = segment_folder(tmp_path/'x', tmp_path/'y', tmp_path/'out', **FAST | dict(epochs=3, steps=30, width=8))
    assert run.records['dice'] > .8


def test_three_classes(tmp_path):
    for k in range(6): photo(tmp_path/f'x/{k}.png', seed=k); gray(tmp_path/f'y/{k}.png', (0, 100, 200))
    run = segment_folder(tmp_path/'x', tmp_path/'y', tmp_path/'out', classes=['cup', 'disc'], **FAST)
    assert {'dice cup', 'dice disc'} <= set(run.records['cases'][0]) and run.records['threshold'] is None
    assert {'cup_pixels', 'disc_pixels'} <= set(predict(run.folder/'model.safetensors', [tmp_path/'x/0.png']))


def test_epochs_that_fit(drive):
    data = read_pairs(find_pairs(drive/'images', drive/'1st_manual'))
    model, batches = UNet(3, 2, 4, 2, 2), segmenter.TileBatches(data, range(4), 32, 2, steps=3)
    plan = lambda *asked, slow=0, pixels=100: segmenter.plan_training(model, batches, lambda m: time.sleep(slow) or {'dice': 0}, pixels, 100, *asked)
    assert plan(7).epochs == 7 and plan(None, 1e-6).epochs == 1 and 7 < plan(None, 500).epochs <= 1000
    assert plan().epochs == 30 and plan(7, slow=.5, pixels=10**6).epochs == 7
    slow = plan(slow=.5, pixels=10**5)   # the report alone takes ten minutes
    assert 1 <= slow.epochs <= 30 and plan(slow=.5, pixels=10**6).epochs == 1 and slow.whole >= slow.seconds


def test_images_of_different_sizes_and_larger_than_a_tile(tmp_path):
    for k, size in enumerate([(40, 30), (90, 50), (33, 120), (64, 64), (50, 50), (41, 43)]):
        photo(tmp_path/f'x/{k}.png', size, k); gray(tmp_path/f'y/{k}.png', size=size)
    run = segment_folder(tmp_path/'x', tmp_path/'y', tmp_path/'out', **FAST)
    assert len(run.records['cases']) == 2


def test_the_lessons_function_is_not_hidden_by_a_module():
    import visft_nb.finetune.segmenter
    assert callable(segment) and visft_nb.finetune.segment is segment


# ---- tiles

def test_tiles_cover_and_blend():
    for side, tile, overlap in ((100, 32, 8), (33, 32, 16), (32, 32, 0), (31, 32, 8)):
        at = tile_starts(side, tile, overlap)
        assert at[0] == 0 and at[-1] == max(0, side - tile) and all(b - a <= tile - overlap for a, b in zip(at, at[1:]))
    x = torch.rand(2, 1, 70, 45)
    run = lambda v: torch.cat([v, -v], 1)
    assert torch.allclose(blend_tiles(run, x, 32, 8), run(x), atol=1e-6)
    shapes = []
    z = tiled_logits(lambda v: shapes.append(tuple(v.shape)) or run(v), x, 32, 8)
    assert torch.allclose(z.softmax(1), run(x).softmax(1), atol=1e-6) and set(shapes) == {(1, 1, 32, 32)}


def test_a_tile_in_a_model_file_is_in_bounds(tmp_path):
    net = UNet(1, 2, 4, 2)
    save_model(net, tmp_path/'m.safetensors', task='segmentation', tile=[64, 16])
    opened, x = open_model(tmp_path/'m.safetensors', 'cpu'), torch.rand(1, 1, 100, 150)
    seen = []
    opened.model.register_forward_hook(lambda m, i, o: seen.append(tuple(i[0].shape[2:])))
    assert opened.run(x).shape == (1, 2, 100, 150) and set(seen) == {(64, 64)}
    for tile in ([16, 0], [64, 40], [10**6, 0], 64, [64, 1.5], 'a'): sentence(partial(check_tile, tile), 'tile=')
    sentence(lambda: model_spec(task='segmentation', size=64, tile=[64, 0]), 'size=64')
    sentence(lambda: model_spec(tile=[64, 0]), 'classification')
    assert 'tile' not in model_spec(task='segmentation')


# ---- the command

def visft(*args, cwd):
    return subprocess.run([sys.executable, '-m', 'visft_nb.course.cli', *map(str, args)], cwd=cwd, capture_output=True, text=True)


def test_the_command(chase, tmp_path, monkeypatch):
    monkeypatch.setattr(segmenter, 'segment_folder', partial(segmenter.segment_folder, steps=2, width=4))
    went = CliRunner().invoke(app, ['segment', str(chase), '--out', str(tmp_path/'out'), '--epochs', '1', '--tile', '32', '--reader', '2ndHO', '--classes', 'vessel'])
    assert went.exit_code == 0, went.output
    lines = went.output.strip().splitlines()
    assert re.fullmatch(r'Dice [01]\.\d{3} \([01]\.\d\d to [01]\.\d\d\) on 2 images', lines[-1])
    assert '*_2ndHO (taken)' in went.output and 'Image_01L.jpg with Image_01L_2ndHO.png' in went.output
    asked = CliRunner().invoke(app, ['predict', str(tmp_path/'out/model.safetensors'), str(chase/'Image_01L.jpg'), '--overlay', str(tmp_path/'o')])
    assert asked.exit_code == 0 and (tmp_path/'o/Image_01L_mask.png').is_file() and 'vessel' in asked.output


def test_the_command_says_what_is_wrong(drive, tmp_path):
    went = visft('segment', drive/'images', drive/'1st_manual', '--pair', '[0-9]+', '--out', tmp_path/'out', cwd=tmp_path)
    assert went.returncode == 2 and len(went.stderr.strip().splitlines()) == 1 and 'no group' in went.stderr, went.stderr
    sentence(lambda: segment_folder(drive/'images', drive/'nowhere', tmp_path/'out', **FAST), 'nowhere')
    sentence(lambda: segment_folder(drive/'images', out=tmp_path/'out', **FAST), 'none looks like a mask')
    assert not list(tmp_path.iterdir())


def test_a_class_folder_command_names_this_one(tmp_path):
    for k in range(3): photo(tmp_path/f'd/images/{k}.png', seed=k); gray(tmp_path/f'd/masks/{k}.png')
    from visft_nb.finetune import finetune_folder
    with refused(['visft segment', 'masks']): finetune_folder(tmp_path/'d', tmp_path/'out')
