"At work: files of every kind and files that are none, masks on the file's own pixels, formats, int8, the card, the command line."
import importlib, os, subprocess, sys, zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from helpers import sentence
from visft_nb.deploy import asking as deploy
from visft_nb.cnn.models import small_cnn
from visft_nb.core import InputError
from visft_nb.data import load_dataset, make_nodules, mask_pairs
from visft_nb.deploy import (UNSEEN, answer_mask, iter_answers, apply_window, check_onnx, export_onnx, export_program, free_name, load_model, load_onnx, load_program,
                             mask_confidence, model_card, model_spec, open_model, predict, quantize_onnx, read_image, save_mask, save_model, uncertainty)
from visft_nb.finetune import work
from visft_nb.metrics import proportion_interval
from visft_nb.train import load_checkpoint, predict_logits, save_checkpoint

CLASSES, KWARGS = ('ant', 'bee', 'cat'), dict(classes=3, width=4)


class Threshold(nn.Module):
    "A segmentation that is right by construction: bright pixels are foreground."
    def __init__(self, outputs=2): super().__init__(); self.scale, self.outputs = nn.Parameter(torch.tensor(20.)), outputs
    def forward(self, x):
        z = self.scale*(x.mean(1, keepdim=True) - .5)
        return z if self.outputs == 1 else torch.cat([-z, z], 1)


@pytest.fixture(scope='module')
def model():
    torch.manual_seed(0)
    net = small_cnn(**KWARGS)
    with torch.no_grad():
        for _ in range(3): net(torch.rand(16, 1, 20, 20))
        net.head.weight.mul_(8)
    return net.eval()


@pytest.fixture(scope='module')
def files(model, tmp_path_factory):
    "Models: two classifiers in two formats, and segmentations of 16 pixels for each way to fit."
    top = tmp_path_factory.mktemp('models')
    x = torch.rand(2, 1, 20, 20)
    export_onnx(model, top/'net.onnx', x, CLASSES, dynamo=False)
    save_model(model, top/'net.safetensors', kwargs=KWARGS, classes=CLASSES, size=20)
    for fit in ('crop', 'pad', 'stretch'): export_onnx(Threshold(), top/f'{fit}.onnx', torch.rand(2, 1, 16, 16), ('no', 'yes'), dynamo=False, fit=fit, task='segmentation')
    export_onnx(Threshold(1), top/'one.onnx', torch.rand(2, 1, 16, 16), ('no', 'yes'), dynamo=False, task='segmentation')
    return top


@pytest.fixture
def pictures(tmp_path):
    (top := tmp_path/'pictures').mkdir()
    rng = np.random.default_rng(0)
    for i, n in enumerate(('a.png', 'b.jpg', 'sub/a.png', 'sub/c.tif')):
        (top/n).parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20, 20 + 4*i), dtype=np.uint8)).save(top/n)
    (top/'readme.txt').write_text('no image'); (top/'.hidden.png').write_text('no image')
    return top


# ---------------------------------------------------------------- DICOM

def dicom(path, pixels, **fields):
    "A DICOM file with some fields changed."
    import pydicom
    work.write_dicom(path, pixels)
    d = pydicom.dcmread(path)
    for k, v in fields.items():
        if v is None: delattr(d, k)
        else: setattr(d, k, v)
    d.save_as(path)
    return path


RAMP = np.arange(0, 4096, 64, dtype=np.uint16).reshape(8, 8)


def test_deploy_dicom_window_is_pydicoms(tmp_path):
    from pydicom import dcmread
    from pydicom.pixels import apply_modality_lut, apply_voi_lut
    for centre, width in ((40, 400), (-600, 1500), (500, 1)):
        path = dicom(tmp_path/'a.dcm', RAMP, RescaleSlope=1, RescaleIntercept=-1024, WindowCenter=centre, WindowWidth=width)
        d = dcmread(path)
        v = apply_modality_lut(d.pixel_array, d)
        want = (apply_voi_lut(v, d) + 1024)/4095   # pydicom's 12 bits, rescaled
        assert np.abs(read_image(path)[0].numpy() - want).max() < 1e-3
        assert torch.equal(read_image(path), torch.from_numpy(apply_window(v, centre, width))[None])
    assert read_image(path, (0, 2000))[0].unique().numel() > 10 > read_image(path).unique().numel(), 'the window given wins over the file\'s'


@pytest.mark.parametrize('function', ['LINEAR', 'LINEAR_EXACT', 'SIGMOID'])
@pytest.mark.parametrize('centre,width', [(40, 400), (-600, 1500)])
def test_deploy_windows_are_pydicoms(function, centre, width):
    from pydicom import Dataset
    from pydicom.pixels import apply_windowing
    d = Dataset()
    d.WindowCenter, d.WindowWidth, d.VOILUTFunction, d.PhotometricInterpretation, d.BitsStored, d.PixelRepresentation = centre, width, function, 'MONOCHROME2', 12, 0
    values = RAMP.astype(float)
    assert np.abs(apply_windowing(values, d)/4095 - apply_window(values, centre, width, function)).max() < 1e-6
    sentence(lambda: apply_window(RAMP, 0, 1, 'CUBIC'), 'CUBIC')


def test_deploy_dicom_without_a_window_is_stretched_and_inverted_where_it_says_so(tmp_path):
    x = read_image(dicom(tmp_path/'a.dcm', RAMP))
    assert torch.allclose(x[0], torch.from_numpy(RAMP.astype(np.float32))/RAMP.max())
    assert torch.allclose(read_image(dicom(tmp_path/'b.dcm', RAMP, PhotometricInterpretation='MONOCHROME1')), 1 - x)
    assert (read_image(dicom(tmp_path/'c.dcm', RAMP*0)) == 0).all()


def test_deploy_dicom_of_pydicoms_own():
    from pydicom.data import get_testdata_file
    gray = read_image(get_testdata_file('CT_small.dcm'))
    assert gray.shape == (1, 128, 128) and gray.min() == 0 and gray.max() == 1
    assert torch.equal(read_image(get_testdata_file('MR_small_RLE.dcm')), read_image(get_testdata_file('MR_small.dcm'))), 'compressed or not'
    for name in ('SC_rgb_rle.dcm', 'examples_palette.dcm'):
        colour = read_image(get_testdata_file(name))
        assert colour.shape[0] == 3 and 0 <= colour.min() < colour.max() <= 1, name


def test_deploy_the_models_window_is_used(tmp_path, files, model):
    dicom(tmp_path/'a.dcm', RAMP, RescaleSlope=1, RescaleIntercept=-1024, WindowCenter=40, WindowWidth=400)
    save_model(model, tmp_path/'ct.safetensors', kwargs=KWARGS, classes=CLASSES, size=20, window=(-600, 1500))
    seen = next(iter_answers(open_model(tmp_path/'ct.safetensors'), tmp_path/'a.dcm'))
    assert torch.equal(seen.image, read_image(tmp_path/'a.dcm', (-600, 1500))) and not torch.equal(seen.image, read_image(tmp_path/'a.dcm'))
    export_onnx(load_model(tmp_path/'ct.safetensors'), tmp_path/'ct.onnx', torch.rand(2, 1, 20, 20), dynamo=False)
    assert load_onnx(tmp_path/'ct.onnx')[1]['window'] == [-600, 1500]
    for bad in ((1,), (0, 0), 'lung', (0, float('nan'))): sentence(lambda bad=bad: model_spec(window=bad), 'window', 'centre')


def test_deploy_dicom_that_is_no_image(tmp_path):
    from pydicom.data import get_testdata_file
    sentence(lambda: read_image(get_testdata_file('rtplan.dcm')), 'rtplan.dcm', 'without pixel data', 'RT Plan')
    sentence(lambda: read_image(dicom(tmp_path/'none.dcm', RAMP, PixelData=None)), 'none.dcm', 'without pixel data')
    sentence(lambda: read_image(get_testdata_file('SC_rgb_rle_2frame.dcm')), '2 frames')
    (tmp_path/'text.dcm').write_text('Dear doctor, ' * 30)
    sentence(lambda: read_image(tmp_path/'text.dcm'), 'text.dcm', 'DICOM')
    raw = dicom(tmp_path/'cut.dcm', RAMP).read_bytes()
    for n in (140, len(raw) - 50):
        (tmp_path/'cut.dcm').write_bytes(raw[:n])
        sentence(lambda: read_image(tmp_path/'cut.dcm'), 'cut.dcm')
    sentence(lambda: read_image(dicom(tmp_path/'big.dcm', RAMP, Rows=60000, Columns=60000)), 'big.dcm', '60000')
    sentence(lambda: work.write_dicom(tmp_path/'x.dcm', RAMP.astype(np.uint8)), 'uint8')
    sentence(lambda: work.write_dicom(tmp_path/'x.dcm', RAMP + 1000), '4095')


def test_deploy_a_written_dicom_comes_back(tmp_path):
    from pydicom import dcmread
    work.write_dicom(tmp_path/'a.dcm', RAMP, window=(2016, 4033))
    assert np.array_equal(dcmread(tmp_path/'a.dcm').pixel_array, RAMP)
    assert torch.allclose(read_image(tmp_path/'a.dcm')[0], torch.from_numpy(RAMP/4032).float(), atol=1e-3)


# ---------------------------------------------------------------- frames, spacing, millimetres

def stack(path, frames, **fields):
    "A DICOM file of several frames (N, H, W) uint16."
    dicom(path, frames[0], NumberOfFrames=len(frames), PixelData=frames.tobytes(), **fields)
    return path


def group(**fields):
    "An item of a functional group."
    from pydicom.dataset import Dataset
    d = Dataset()
    for k, v in fields.items(): setattr(d, k, v)
    return d


def disc(radius, spacing=(1, 1), side=64):
    "uint16: bright within `radius` (in mm) of the middle."
    r, c = ((np.arange(side) - side/2 + .5)*s for s in spacing)
    return np.where(np.hypot(r[:, None], c[None]) <= radius, 4000, 0).astype(np.uint16)


@pytest.fixture
def segmenter():
    "Bright pixels are foreground, of images of any size."
    return deploy.Opened(lambda x: Threshold()(x).detach(), model_spec(('tissue', 'nodule'), task='segmentation'), Path('any.onnx'))


def test_deploy_each_frame_is_an_image(tmp_path, segmenter):
    frames = np.stack([disc(r) for r in (3, 8, 0, 12)])
    frames[2] = 0
    stack(tmp_path/'film.dcm', frames, WindowCenter=2000, WindowWidth=4001)
    (tmp_path/'one.dcm').write_bytes(dicom(tmp_path/'x.dcm', frames[1], WindowCenter=2000, WindowWidth=4001).read_bytes())
    (tmp_path/'x.dcm').unlink()
    frame = predict(segmenter, tmp_path)
    assert [Path(f).name for f in frame.image] == ['film.dcm#1', 'film.dcm#2', 'film.dcm#3', 'film.dcm#4', 'one.dcm']
    assert frame.nodule_pixels.tolist() == [int((f > 0).sum()) for f in (*frames, frames[1])]
    assert not any('mm' in c for c in frame.columns), 'no spacing, no millimetres'
    with zipfile.ZipFile(tmp_path/'a.zip', 'w') as z: z.write(tmp_path/'film.dcm', 'film.dcm')
    assert [Path(f).name for f in predict(segmenter, tmp_path/'a.zip').image] == [f'film.dcm#{k}' for k in (1, 2, 3, 4)]


def test_deploy_frames_where_one_image_is_allowed(tmp_path, segmenter):
    from visft_nb.finetune import detect, segment
    path = stack(tmp_path/'film.dcm', np.stack([disc(3), disc(8)]))
    sentence(lambda: read_image(path), 'film.dcm', '2 frames', 'predict')
    sentence(lambda: detect(nn.Linear(1, 1), path), '2 frames')
    said = work.explain_file(segmenter, path)
    assert 'several images' in said.text and 'film.dcm' in said.text and said.picture is None
    assert [m.sum().item() for m in segment(Threshold(), path)] == [int((disc(r) > 0).sum()) for r in (3, 8)]
    cut = path.read_bytes()[:-100]
    (tmp_path/'cut.dcm').write_bytes(cut)
    kept = predict(segmenter, tmp_path/'cut.dcm', errors='keep')
    assert len(kept) == 1 and 'cut.dcm' in kept.error[0]


def test_deploy_frames_have_overlays_of_their_own(tmp_path, files):
    stack(tmp_path/'film.dcm', np.stack([disc(3), disc(8)]))
    work.predict_files(files/'pad.onnx', tmp_path/'film.dcm', overlays=tmp_path/'shown')
    assert sorted(p.name for p in (tmp_path/'shown').iterdir()) == ['film_1_mask.png', 'film_1_overlay.png', 'film_2_mask.png', 'film_2_overlay.png']


def test_deploy_frames_of_pydicoms_own(segmenter):
    from pydicom import dcmread
    from pydicom.data import get_testdata_file
    from visft_nb.deploy import read_pictures
    for name, n in (('SC_rgb_rle_2frame.dcm', 2), ('rtdose_rle.dcm', 15), ('examples_ybr_color.dcm', 30), ('SC_rgb_rle_16bit_2frame.dcm', 2), ('SC_rgb_rle_32bit_2frame.dcm', 2)):
        path = get_testdata_file(name)
        a, found = dcmread(path).pixel_array, list(read_pictures(path))
        assert [p.frame for p in found] == list(range(1, n + 1)) and all(p.of == n for p in found)
        for x, p in zip(a, found):
            x = x.astype(float)
            want = x.transpose(2, 0, 1)/np.iinfo(a.dtype).max if a.ndim == 4 else ((x - x.min())/max(np.ptp(x), 1e-9))[None]
            assert np.abs(p.pixels.numpy() - want).max() < 1e-6, name
    assert predict(segmenter, get_testdata_file('rtdose_rle.dcm')).nodule_mm2.mod(100).eq(0).all(), '10 mm by 10 mm'


def test_deploy_enhanced_files_say_it_of_each_frame(tmp_path, segmenter):
    "Slope, window and spacing in functional groups: shared by all frames, or of one and then that counts."
    from visft_nb.deploy import read_pictures
    per = [group(PixelValueTransformationSequence=[group(RescaleSlope=2, RescaleIntercept=i)]) for i in (-1000, 0)]
    per[1].PixelMeasuresSequence = [group(PixelSpacing=[3, .5])]
    shared = group(PixelMeasuresSequence=[group(PixelSpacing=[1, 2])], FrameVOILUTSequence=[group(WindowCenter=1000, WindowWidth=2001)])
    path = stack(tmp_path/'enhanced.dcm', np.stack([RAMP, RAMP]), PerFrameFunctionalGroupsSequence=per, SharedFunctionalGroupsSequence=[shared], RescaleSlope=7, RescaleIntercept=7)
    first, second = read_pictures(path)
    for p, intercept in ((first, -1000), (second, 0)):
        assert np.abs(p.pixels[0].numpy() - np.clip((2.*RAMP + intercept - 999.5)/2000 + .5, 0, 1)).max() < 1e-6
    assert first.spacing == (1, 2) and second.spacing == (3, .5)
    mm = predict(segmenter, path)
    assert (mm.nodule_mm2/mm.nodule_pixels).tolist() == [2, 1.5]


@pytest.mark.parametrize('fit', ['any', 'pad', 'stretch'])
def test_deploy_areas_are_millimetres_of_the_file(tmp_path, files, segmenter, fit):
    "A rectangle of 8 rows of 1.5 mm by 20 columns of 0.25 mm: 12 mm by 5 mm, 60 mm², its diagonal is 13 mm. By hand."
    pixels = np.zeros((32, 64), np.uint16); pixels[8:16, 20:40] = 4095
    path = dicom(tmp_path/'a.dcm', pixels, PixelSpacing=[1.5, .25])
    row = predict(segmenter if fit == 'any' else files/f'{fit}.onnx', path).iloc[0]
    name = 'nodule' if fit == 'any' else 'yes'
    assert row[f'{name}_mm2'] == pytest.approx(row[f'{name}_pixels']*.375)
    if fit == 'any': assert row.nodule_pixels == 160 and row.nodule_mm2 == pytest.approx(60) and row.nodule_longest_mm == pytest.approx(13)
    else: assert row.yes_mm2 == pytest.approx(60, rel=.35) and row.yes_longest_mm == pytest.approx(13, rel=.2), 'the model saw 16 by 16 pixels'


@pytest.mark.parametrize('spacing', [(1, 1), (.5, 2), (2, .5)])
def test_deploy_a_round_thing_is_round_in_millimetres(tmp_path, segmenter, spacing):
    path = dicom(tmp_path/'a.dcm', disc(12, spacing), PixelSpacing=list(spacing))
    row = predict(segmenter, path).iloc[0]
    assert row.nodule_mm2 == pytest.approx(np.pi*12**2, rel=.02) and row.nodule_longest_mm == pytest.approx(24, abs=2)


@pytest.mark.parametrize('fields', [dict(), dict(ImagerPixelSpacing=[.2, .2]), dict(PixelSpacing=[0, 1]), dict(PixelSpacing=[-1, 1]), dict(PixelSpacing=None), dict(PixelSpacing=.5),
                                    dict(PixelSpacing=[1, 1, 1]), dict(PixelSpacing='')])
def test_deploy_no_spacing_no_millimetres(tmp_path, segmenter, fields):
    import pydicom
    work.write_dicom(tmp_path/'a.dcm', disc(5))
    d = pydicom.dcmread(tmp_path/'a.dcm')
    for k, v in fields.items(): setattr(d, k, v)
    d.save_as(tmp_path/'a.dcm')
    assert list(predict(segmenter, tmp_path/'a.dcm').columns) == ['image', 'height', 'width', 'nodule_pixels', 'nodule_share', 'confidence']


def test_deploy_millimetres_beside_pictures_that_know_none(tmp_path, segmenter, monkeypatch):
    import pandas as pd
    dicom(tmp_path/'a.dcm', disc(5), PixelSpacing=[.5, .5])
    Image.fromarray((disc(5) > 0).astype(np.uint8)*255).save(tmp_path/'b.png')
    (tmp_path/'c.png').write_text('no')
    monkeypatch.setattr(work, 'open_model', lambda p: segmenter)
    work.predict_files('any', tmp_path, tmp_path/'t.csv')
    a, b, c = (r for _, r in pd.read_csv(tmp_path/'t.csv').iterrows())
    assert a.nodule_mm2 == b.nodule_pixels/4 and np.isnan(b.nodule_mm2) and np.isnan(c.nodule_pixels) and 'c.png' in c.error
    assert f',{int(a.nodule_pixels)},' in (tmp_path/'t.csv').read_text(), 'whole numbers stay whole'
    said = work.explain_file(segmenter, tmp_path/'a.dcm').text
    assert f'{a.nodule_mm2:,.1f} mm²' in said and f'{a.nodule_longest_mm:.1f} mm' in said and 'mm' not in work.explain_file(segmenter, tmp_path/'b.png').text


@pytest.mark.parametrize('seed', [0, 1, 2])
def test_deploy_longest_diameter_against_all_pairs(seed):
    from scipy.ndimage import label
    from visft_nb.deploy import longest_diameter
    rng, spacing = np.random.default_rng(seed), np.array([.7, 1.9])
    mask = rng.random((12, 15)) < .35
    regions, n = label(mask, np.ones((3, 3)))
    want = 0
    for k in range(1, n + 1):
        at = np.argwhere(regions == k)
        corners = np.concatenate([at + o for o in ((0, 0), (0, 1), (1, 0), (1, 1))])*spacing
        want = max(want, np.sqrt(((corners[:, None] - corners[None])**2).sum(-1)).max())
    assert longest_diameter(torch.from_numpy(mask), spacing) == pytest.approx(want) and longest_diameter(mask*0) == 0


def test_deploy_inverted_gray_is_inverted_through_every_window(tmp_path):
    fields = dict(RescaleSlope=.5, RescaleIntercept=-1024, WindowCenter=-200, WindowWidth=900)
    for window in (None, (-600, 1500)):
        plain, other = (read_image(dicom(tmp_path/'a.dcm', RAMP, PhotometricInterpretation=k, **fields), window) for k in ('MONOCHROME2', 'MONOCHROME1'))
        assert torch.equal(other, 1 - plain) and plain.unique().numel() > 10
    centre = torch.from_numpy(np.clip((RAMP*.5 - 1024 + 200.5)/899 + .5, 0, 1)).float()
    assert torch.allclose(read_image(dicom(tmp_path/'a.dcm', RAMP, PhotometricInterpretation='MONOCHROME1', **fields))[0], 1 - centre, atol=1e-6)


@pytest.mark.parametrize('function', ['LINEAR', 'LINEAR_EXACT', 'SIGMOID'])
def test_deploy_the_files_own_window_function_is_pydicoms(tmp_path, function):
    from pydicom import dcmread
    from pydicom.pixels import apply_modality_lut, apply_windowing
    path = dicom(tmp_path/'a.dcm', RAMP, RescaleSlope=1, RescaleIntercept=-1024, WindowCenter=['40', '50'], WindowWidth=['400', '9'], VOILUTFunction=function)
    d = dcmread(path)
    want = (apply_windowing(apply_modality_lut(d.pixel_array, d), d) + 1024)/4095
    assert np.abs(read_image(path)[0].numpy() - want).max() < 1e-6
    sentence(lambda: apply_window(RAMP, 0, 1, 'CUBIC'), 'CUBIC')


# ---------------------------------------------------------------- folders, zips, bad files

def test_deploy_folders_to_their_last_branch_and_zips(files, pictures, tmp_path):
    names = [str(p.relative_to(pictures)) for p in map(Path, predict(files/'net.onnx', pictures).image)]
    assert names == ['a.png', 'b.jpg', 'sub/a.png', 'sub/c.tif']
    with zipfile.ZipFile(tmp_path/'a.zip', 'w', zipfile.ZIP_DEFLATED) as z:
        for p in sorted(pictures.rglob('*')): z.write(p, p.relative_to(pictures))
    zipped, plain = predict(files/'net.onnx', tmp_path/'a.zip'), predict(files/'net.onnx', pictures)
    assert zipped.drop(columns='image').equals(plain.drop(columns='image')) and zipped.image[2] == f"{tmp_path/'a.zip'}/sub/a.png"
    assert len(predict(files/'net.onnx', [pictures, tmp_path/'a.zip', pictures/'a.png'])) == 9


def bad_files(top, good):
    "Files that are no images, each with words that its sentence must hold."
    (top/'text.png').write_text('no picture')
    (top/'cut.png').write_bytes(good.read_bytes()[:150])
    (top/'empty.png').touch()
    with open(top/'huge.tif', 'wb') as f: f.truncate(2*2**30)
    with zipfile.ZipFile(top/'slip.zip', 'w') as z: z.write(good, '../../slipped.png')
    with zipfile.ZipFile(top/'texts.zip', 'w') as z: z.writestr('a.txt', 'x')
    (top/'torn.zip').write_bytes(b'PK\3\4 and nothing')
    with zipfile.ZipFile(top/'bomb.zip', 'w', zipfile.ZIP_DEFLATED) as z: z.writestr('a.png', bytes(2**28 + 1))
    with zipfile.ZipFile(top/'crowd.zip', 'w', zipfile.ZIP_DEFLATED) as z:
        for i in range(40): z.writestr(f'{i}.png', bytes(2**20))
    (top/'none').mkdir()
    return {'text.png': 'no image format', 'cut.png': 'cannot be decoded', 'empty.png': '0 bytes', 'huge.tif': '2,048 MB', 'slip.zip': 'outside', 'texts.zip': 'no image', 'torn.zip': 'not a zip',
            'bomb.zip': 'too large', 'crowd.zip': 'declares', 'none': 'no image', 'gone.png': 'does not exist'}


def test_deploy_bad_files_get_a_sentence_each_and_stop_nothing(files, pictures, tmp_path, monkeypatch):
    import tracemalloc
    (top := tmp_path/'bad').mkdir()
    words = bad_files(top, pictures/'a.png')
    monkeypatch.setattr('visft_nb.data.entries.MOST', 2**25)
    before = {p for p in tmp_path.rglob('*')}
    tracemalloc.start()
    frame = predict(files/'net.onnx', [pictures/'a.png', *(top/n for n in words), pictures/'b.jpg'], errors='keep')
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**26, 'nothing large may be read'
    assert frame.error.iloc[[0, -1]].tolist() == ['', ''] and frame.label.notna().sum() == 2 and len(frame) == 2 + len(words)
    for (name, word), said in zip(words.items(), frame.error[1:-1]): assert name in said and word in said and '\n' not in said, said
    assert {p for p in tmp_path.rglob('*')} == before
    sentence(lambda: predict(files/'net.onnx', [pictures/'a.png', *(top/n for n in words)]), f'{len(words)} of {len(words) + 1}', *words)


def test_deploy_a_zip_whose_sizes_lie_is_cut_off(files, tmp_path):
    with zipfile.ZipFile(tmp_path/'a.zip', 'w', zipfile.ZIP_DEFLATED) as z: z.writestr('a.png', bytes(10**6))
    raw = (tmp_path/'a.zip').read_bytes()
    size = (10**6).to_bytes(4, 'little')
    assert raw.count(size) == 2
    (tmp_path/'a.zip').write_bytes(raw.replace(size, (1000).to_bytes(4, 'little')))
    frame = predict(files/'net.onnx', tmp_path/'a.zip', errors='keep')
    assert 'a.zip/a.png' in frame.error[0]


def test_deploy_a_long_folder_is_asked_in_batches(files, model):
    "The order of the rows is that of the images, with errors and other shapes in between."
    x = torch.rand(150, 1, 20, 20)
    sizes, opened = [], open_model(files/'net.safetensors', 'cpu')
    run = opened.run
    opened.run = lambda b: (sizes.append(len(b)), run(b))[1]
    got = torch.stack([a.logits for a in iter_answers(opened, x)])
    assert sizes == [64, 64, 22] and torch.allclose(got, predict_logits(model, x)[0], atol=1e-5)


# ---------------------------------------------------------------- how sure

def test_deploy_uncertainty_is_the_normalised_entropy(files):
    from scipy.stats import entropy
    p = np.random.default_rng(0).dirichlet(np.ones(5), 20)
    assert np.allclose(uncertainty(p.T), entropy(p, axis=1)/np.log(5))
    assert uncertainty(np.array([1., 0])) == 0 and uncertainty(np.full(4, .25)).item() == pytest.approx(1)
    frame = predict(files/'net.onnx', torch.rand(30, 1, 20, 20), min_confidence=.9)
    assert (frame.second_reader == (frame.probability < .9)).all() and frame.uncertainty.between(0, 1).all()
    assert not predict(files/'net.onnx', torch.rand(3, 1, 20, 20), min_confidence=0).second_reader.any()
    for p in (-.1, 1.1): sentence(lambda p=p: predict(files/'net.onnx', torch.rand(1, 1, 20, 20), min_confidence=p), 'min_confidence=')
    sentence(lambda: predict(files/'net.onnx', torch.rand(1, 1, 20, 20), errors='keeb'), 'keep')


def test_deploy_mask_confidence_is_near_the_expected_dice():
    g = torch.Generator().manual_seed(0)
    q = torch.rand(32, 32, generator=g)**3
    q[8:20, 8:20] = .9
    p = torch.stack([1 - q, q])
    mask = q > .5
    truths = (torch.rand(500, 32, 32, generator=g) < q)
    expected = (2*(truths & mask).sum((1, 2))/(truths.sum((1, 2)) + mask.sum())).mean()
    assert mask_confidence(p) == pytest.approx(expected.item(), abs=.02)
    empty = torch.stack([torch.full((4, 4), .7), torch.full((4, 4), .3)])
    assert mask_confidence(empty) == pytest.approx(.7)


# ---------------------------------------------------------------- segmentation

@pytest.mark.parametrize('fit', ['crop', 'pad', 'stretch'])
@pytest.mark.parametrize('shape', [(64, 96), (96, 40), (16, 16), (9, 30)])
def test_deploy_masks_lie_on_the_files_own_pixels(files, fit, shape):
    h, w = shape
    x = torch.zeros(1, 1, h, w)
    x[..., h//4:h//2, w//3:2*w//3] = 1
    opened = open_model(files/f'{fit}.onnx')
    mask = answer_mask(next(iter_answers(opened, x)), opened.spec)
    seen, want = mask != UNSEEN, x[0, 0] > .5
    assert mask.shape == (h, w) and (fit == 'crop' or seen.all())
    off = ((mask == 1) != want) & seen
    edge = max(h, w)/16 + 1   # the model sees 16 pixels
    assert off.sum() <= 2*(h/4 + w/3)*edge, (int(off.sum()), edge)
    assert ((mask == 1) & want).sum() > .5*(want & seen).sum()
    if fit == 'crop' and h != w:
        side = min(h, w)
        assert abs(int(seen.sum()) - side*side) <= 2*max(h, w) and seen[h//2, w//2] and not seen[0, 0] | seen[-1, -1]


def test_deploy_one_output_stands_for_two_classes(files):
    x = torch.rand(3, 1, 16, 16)
    a, b = (torch.stack([a.probabilities() for a in iter_answers(open_model(files/n), x)]) for n in ('one.onnx', 'crop.onnx'))
    assert a.shape == b.shape == (3, 2, 16, 16) and torch.allclose(a[:, 1], torch.sigmoid(20*(x[:, 0].double() - .5)), atol=1e-5)
    assert torch.allclose(b[:, 1], torch.sigmoid(40*(x[:, 0].double() - .5)), atol=1e-5)


def test_deploy_segmentation_is_counted_in_the_files_pixels(files):
    x = torch.zeros(1, 1, 64, 64)
    x[..., 16:32, 16:48] = 1
    row = predict(files/'pad.onnx', x, min_confidence=.5).iloc[0]
    assert (row.height, row.width) == (64, 64) and abs(row.yes_pixels - 512) < 130 and row.yes_share == pytest.approx(row.yes_pixels/4096)
    assert row.confidence > .9 and not row.second_reader
    assert list(predict(files/'pad.onnx', x).columns) == ['image', 'height', 'width', 'yes_pixels', 'yes_share', 'confidence']


def test_deploy_masks_are_read_back_as_class_numbers(tmp_path):
    mask = torch.randint(0, 3, (12, 20), dtype=torch.uint8)
    (tmp_path/'images').mkdir(); (tmp_path/'masks').mkdir()
    save_mask(mask, tmp_path/'masks'/'a_mask.png')
    Image.new('L', (20, 12)).save(tmp_path/'images'/'a.png')
    assert torch.equal(mask_pairs(tmp_path/'images', tmp_path/'masks', classes=('a', 'b', 'c')).masks[0], mask)
    assert len(set(Image.open(tmp_path/'masks'/'a_mask.png').convert('RGB').getcolors())) == 3, 'a viewer shows colours'


def test_deploy_segmentation_specifications(tmp_path, model):
    x = torch.rand(2, 1, 16, 16)
    sentence(lambda: model_spec(task='segmentatoin'), 'task', 'segmentation')
    sentence(lambda: export_onnx(model, tmp_path/'a.onnx', x, task='segmentation'), 'segmentation needs (N, K, H, W)')
    sentence(lambda: export_onnx(nn.Conv2d(1, 2, 3, 2), tmp_path/'a.onnx', x, task='segmentation'), 'segmentation needs')
    sentence(lambda: export_onnx(Threshold(), tmp_path/'a.onnx', x, ('a', 'b', 'c'), task='segmentation'), '2 outputs', '3 classes')
    sentence(lambda: save_model(model, tmp_path/'a.safetensors', kwargs=KWARGS, size=20, task='segmentation'), 'segmentation needs')
    assert not list(tmp_path.iterdir())


def test_deploy_files_from_before_there_were_tasks(tmp_path, files):
    state = load_checkpoint(files/'net.safetensors')
    for k in ('task', 'window'): state['spec'].pop(k)
    save_checkpoint(tmp_path/'old.safetensors', **state)
    x = torch.rand(4, 1, 20, 20)
    assert predict(tmp_path/'old.safetensors', x).equals(predict(files/'net.safetensors', x))
    onnx = pytest.importorskip('onnx')
    proto = onnx.load(files/'net.onnx')
    kept = [(p.key, p.value) for p in proto.metadata_props if p.key not in ('task', 'window')]
    proto.ClearField('metadata_props')
    for k, v in kept: proto.metadata_props.add(key=k, value=v)
    onnx.save(proto, tmp_path/'old.onnx')
    assert predict(tmp_path/'old.onnx', x).equals(predict(files/'net.onnx', x))


def test_deploy_the_kits_unet_is_saved_and_asked(tmp_path):
    segment = pytest.importorskip('visft_nb.finetune.segmentation')
    torch.manual_seed(0)
    net = segment.UNet(1, 2, width=4, depth=2).eval()
    d = make_nodules(3, 32)
    save_model(net, tmp_path/'unet.safetensors', 'visft_nb.finetune.segmentation:UNet', dict(in_channels=1, classes=2, width=4, depth=2), d.classes, 32, task='segmentation')
    export_onnx(load_model(tmp_path/'unet.safetensors', 'cpu'), tmp_path/'unet.onnx', d.floats())
    a, b = (predict(tmp_path/f'unet.{e}', d) for e in ('safetensors', 'onnx'))
    assert np.allclose(a.nodule_pixels, b.nodule_pixels, atol=2) and np.allclose(a.confidence, b.confidence, atol=1e-3)
    want = predict_logits(net, d)[0].argmax(1)
    assert all(torch.equal(answer_mask(m, net_spec), w.to(torch.uint8)) for net_spec in [load_model(tmp_path/'unet.safetensors').spec]
               for m, w in zip(iter_answers(open_model(tmp_path/'unet.safetensors', 'cpu'), d), want))


def test_deploy_a_unet_knows_how_it_was_made(tmp_path):
    "A path and the classes are enough, and what is loaded is saved again as it was."
    from visft_nb.finetune import UNet, encoder_unet
    torch.manual_seed(0)
    save_model(UNet(3, 3, 4, 1, 2), tmp_path/'a.safetensors', classes=CLASSES, size=(16, 20), fit='pad', values=(-1, 1), window=(40, 400), note='kept')
    save_model(load_model(tmp_path/'a.safetensors', 'cpu'), tmp_path/'b.safetensors')
    a, b = (load_model(tmp_path/f'{n}.safetensors', 'cpu').spec for n in 'ab')
    assert a.pop('note') == 'kept' and a == b and a['task'] == 'segmentation' and a['kwargs']['fold'] == 2 and a['channels'] == 3 and a['window'] == [40, 400]
    export_onnx(UNet(1, 2, 4, 1), tmp_path/'c.onnx', torch.rand(1, 1, 8, 8), dynamo=False)
    assert load_onnx(tmp_path/'c.onnx')[1]['task'] == 'segmentation'
    sentence(lambda: save_model(UNet(1, 3, 4, 1), tmp_path/'d.safetensors', classes=('a', 'b'), size=8), '3 outputs', '2 classes')
    pytest.importorskip('segmentation_models_pytorch')
    net = encoder_unet('resnet10t', 2, None, (16, 8, 8, 8, 8)).eval()
    save_model(net, tmp_path/'e.safetensors', classes=('a', 'b'), channels=3)
    x = torch.rand(1, 3, 40, 50)
    assert torch.equal(predict_logits(load_model(tmp_path/'e.safetensors', 'cpu'), x)[0], predict_logits(net, x)[0])


def test_deploy_large_images_wait_one_at_a_time(segmenter, monkeypatch):
    "What is in memory is bounded by values, not only by images."
    monkeypatch.setattr(deploy, '_ROOM', 2*40*40*3)
    sizes, run = [], segmenter.run
    segmenter.run = lambda x: (sizes.append(len(x)), run(x))[1]
    assert [a.logits.shape[1] for a in iter_answers(segmenter, torch.rand(9, 1, 40, 40))] == [40]*9 and sizes == [4, 4, 1]
    sizes.clear()
    assert len(list(iter_answers(segmenter, torch.rand(3, 1, 99, 99)))) == 3 and sizes == [1, 1, 1]


# ---------------------------------------------------------------- formats

def test_deploy_program_equals_the_model_at_any_batch(tmp_path, model):
    model.train()
    off = export_program(model, tmp_path/'a.pt2', torch.rand(1, 1, 20, 20), CLASSES, note='x')
    assert model.training and set(off) == {1, 7} and max(off.values()) < 1e-4
    model.eval()
    run, spec = load_program(tmp_path/'a.pt2')
    for n in (1, 2, 33):
        x = torch.rand(n, 1, 20, 20)
        assert torch.allclose(run(x), predict_logits(model, x)[0], atol=1e-4)
    assert spec == model_spec(CLASSES, 20, 1, note='x')
    inside = zipfile.ZipFile(tmp_path/'a.pt2')
    assert not any(os.fsencode(Path(deploy.__file__).parent) in inside.read(n) for n in inside.namelist()), "the author's folders"


class Branch(nn.Module):
    def forward(self, x): return (1 - x if x.mean() > .4 else x).flatten(1)


def test_deploy_programs_that_are_none(tmp_path, model, files):
    sentence(lambda: export_program(Branch(), tmp_path/'a.pt2', torch.zeros(2, 1, 4, 4)), 'Branch cannot be exported', 'pixel values')
    sentence(lambda: export_program(model, tmp_path/'a.onnx', torch.zeros(2, 1, 20, 20)), '.pt2')
    sentence(lambda: load_program(tmp_path/'gone.pt2'), 'gone.pt2')
    (tmp_path/'b.pt2').write_text('no')
    sentence(lambda: load_program(tmp_path/'b.pt2'), 'b.pt2')
    torch.export.save(torch.export.export(nn.Flatten(), (torch.zeros(2, 1, 4, 4),)), tmp_path/'c.pt2')
    sentence(lambda: load_program(tmp_path/'c.pt2'), 'trust=True')
    for name, words in (('b', 'cannot be opened'), ('c', 'no specification')): sentence(lambda name=name: load_program(tmp_path/f'{name}.pt2', trust=True), words)
    sentence(lambda: predict(tmp_path/'c.pt2', torch.zeros(1, 1, 4, 4)), 'c.pt2')
    assert sorted(p.name for p in tmp_path.iterdir()) == ['b.pt2', 'c.pt2']


@pytest.mark.parametrize('exporter', [True, False])
def test_deploy_int8_is_small_near_and_knows_itself(tmp_path, model, exporter):
    x = torch.rand(64, 1, 20, 20)
    export_onnx(model, tmp_path/'a.onnx', x[:2], CLASSES, dynamo=exporter)
    said = quantize_onnx(tmp_path/'a.onnx', tmp_path/'q.onnx', x)
    run, spec = load_onnx(tmp_path/'q.onnx')
    y, q = predict_logits(model, x)[0], run(x)
    assert said['bytes_int8'] == (tmp_path/'q.onnx').stat().st_size < said['bytes'] and spec['precision'] == 'int8' and spec['classes'] == list(CLASSES)
    assert said['agree'] == pytest.approx((y.argmax(1) == q.argmax(1)).double().mean().item(), abs=.05) and (y - q).abs().mean() < .1*y.std() + .05
    onnx = pytest.importorskip('onnx')
    assert any('Quantize' in n.op_type for n in onnx.load(tmp_path/'q.onnx').graph.node)
    dynamic = quantize_onnx(tmp_path/'a.onnx', tmp_path/'d.onnx')
    assert set(dynamic) == {'bytes', 'bytes_int8'} and torch.allclose(load_onnx(tmp_path/'d.onnx')[0](x), y, atol=.3*y.abs().max().item())
    assert [p.name for p in sorted(tmp_path.iterdir())] == ['a.onnx', 'd.onnx', 'q.onnx']
    with pytest.raises(InputError): check_onnx(tmp_path/'q.onnx', model, x)


def test_deploy_int8_refuses(tmp_path, files):
    x = torch.rand(2, 1, 20, 20)
    sentence(lambda: quantize_onnx(files/'nett.onnx', tmp_path/'q.onnx', x), 'did you mean net.onnx')
    sentence(lambda: quantize_onnx(files/'net.safetensors', tmp_path/'q.onnx', x), 'net.safetensors')
    sentence(lambda: quantize_onnx(files/'net.onnx', tmp_path/'q.bin', x), '.onnx')
    sentence(lambda: quantize_onnx(files/'net.onnx', tmp_path/'q.onnx', torch.zeros(1001, 1, 20, 20)), '1001')
    sentence(lambda: quantize_onnx(files/'net.onnx', tmp_path/'q.onnx', tmp_path/'gone.png'), 'gone.png')
    assert not list(tmp_path.iterdir())


def test_deploy_latency_takes_turns():
    import time
    order = []
    def slow(name, s): return lambda x: (order.append(name), time.sleep(s))
    t = work.latency_table({'a': slow('a', .004), 'b': slow('b', .001), 'c': slow('c', 0)}, None, rounds=6, warm=1)
    assert list(t.index) == ['a', 'b', 'c'] and t.median_ms['a'] > t.median_ms['b'] > t.median_ms['c'] and t.ratio.min() == 1 and (t.p95_ms >= t.median_ms).all()
    rounds = [tuple(order[i:i + 3]) for i in range(3, len(order), 3)]
    assert all(set(r) == set('abc') for r in rounds) and len(set(rounds)) > 1
    sentence(lambda: work.latency_table({}, None), 'at least one')
    sentence(lambda: work.format_runs(nn.Flatten(), {}, ['eager']), 'eager float32')


def test_deploy_memory_is_that_of_a_fresh_process(files, tmp_path):
    graph = work.peak_memory(files/'net.onnx', (1, 1, 20, 20))
    assert 20 < graph < 400, 'a graph needs no torch'
    (tmp_path/'a.onnx').write_text('no')
    sentence(lambda: work.peak_memory(tmp_path/'a.onnx', (1, 1, 20, 20)), 'a.onnx')
    sentence(lambda: work.peak_memory(tmp_path/'a.bin', (1, 1, 20, 20)), 'a.bin')


# ---------------------------------------------------------------- where it looked

def test_deploy_occlusion_finds_the_pixels_that_count():
    def run(x): return torch.stack([10*x[:, 0, 4:8, 20:24].mean((1, 2)), torch.full((len(x),), 5.)], 1)
    x = torch.zeros(1, 28, 28); x[0, 4:8, 20:24] = 1
    heat = work.occlusion(run, x, 0)
    assert heat[4:8, 20:24].min() > .1 and heat[14:, :].max() < 1e-3 and heat[:, :14].max() < 1e-3 and heat.shape == (28, 28)


def test_deploy_explanations_and_overlays(files, model):
    x = torch.rand(2, 1, 20, 20)
    torch_, graph = (open_model(files/n) for n in ('net.safetensors', 'net.onnx'))
    for opened, allowed in ((torch_, {'Grad-CAM', 'occlusion'}), (graph, {'occlusion'})):
        for a in iter_answers(opened, x):
            heat, how = work.explain(opened, a)
            assert heat.shape == (20, 20) and how in allowed and 0 <= heat.min() and heat.max() <= 1
            picture = work.overlay(opened, a)
            assert picture.dtype == np.uint8 and picture.shape[0] >= 200 and picture.shape[2] == 3
    assert any(work.explain(torch_, a)[1] == 'Grad-CAM' for a in iter_answers(torch_, torch.rand(8, 1, 20, 20)))
    seg = open_model(files/'crop.onnx')
    x = torch.zeros(1, 1, 16, 48); x[..., 4:12, 20:28] = 1
    shown = work.overlay(seg, next(iter_answers(seg, x)))
    assert len(np.unique(shown.reshape(-1, 3), axis=0)) >= 3, 'seen, unseen and mask look different'
    assert all(not m.training for m in torch_.model.modules())


# ---------------------------------------------------------------- the card

def test_deploy_card_is_what_hugging_face_reads(files, tmp_path):
    hub = pytest.importorskip('huggingface_hub')
    text = model_card(files/'net.safetensors', 'Ants: and "bees"', 'mnist5k', {'accuracy': (45, 50), 'Dice': [.5, .75, 1.]}, dict(epochs=3), licence='mit', path=tmp_path/'card.md')
    card = hub.ModelCard.load(tmp_path/'card.md')
    assert card.data.license == 'mit' and card.data.pipeline_tag == 'image-classification' and card.data.model_name == 'Ants: and "bees"'
    assert [(r.metric_type, r.metric_value) for r in card.data.eval_results] == [('accuracy', 90.0), ('Dice', .75)]
    low, high = (100*v for v in proportion_interval(45, 50))
    assert f'{low:.4g} to {high:.4g}' in text and '45 of 50' in text and 'CC BY-SA 3.0' in text and '4,000' in text and 'ant, bee, cat' in text
    assert (tmp_path/'card.md').read_text() == text


def test_deploy_card_says_unknown_and_invents_nothing():
    text = model_card()
    assert text.count('unknown') >= 7 and '%' not in text.split('## Figures')[1].split('##')[0]
    assert 'no decision about a person' in text
    for part in ('Use', 'Must not be used for', 'Data', 'Figures', 'Limits', 'Input and output', 'Training'): assert f'## {part}' in text
    assert 'interval is unknown' in model_card(figures={'accuracy': 97.3})


def test_deploy_card_of_a_run(files):
    r = dict(name='birds', right=18, of=20, accuracy=90., classes={'a': {}, 'b': {}}, confusion=[[9, 1], [1, 9]], images={'train': {'a': 30, 'b': 30}, 'report': {'a': 10, 'b': 10}},
             leaks=[{}], accuracy_without_leaks=88.2, settings=dict(strategy='linear', seed=0), machine=dict(device='cpu', seconds=12.))
    text = model_card(r, data=dict(licence='CC BY 4.0'), not_for=['People'])
    assert 'birds classifier' in text and '| images: train | 60 |' in text and '18 of 20' in text and 'recall of a' in text and 'linear' in text and '88.2' in text and '- People' in text
    assert f"{100*proportion_interval(18, 20)[0]:.4g}" in text and 'only roughly known' in text and 'device cpu' in text


@pytest.mark.parametrize('call, words', [
    (lambda: model_card(dict(right=9, of=10, accuracy=99)), ('9 of 10', '90.0')),
    (lambda: model_card(data='mnist5'), ('mnist5', 'mnist5k')),
    (lambda: model_card(data=dict(license='x')), ('license', 'licence')),
    (lambda: model_card(figures={'a': 'good'}), ("figures['a']", 'counts')),
    (lambda: model_card(figures={'a': float('nan')}), ("figures['a']",)),
    (lambda: model_card(figures={'a': dict(value=3, low=4, high=5, how='x')}), ('inside',)),
    (lambda: model_card(figures={'a': (11, 10)}), ('11',)),
    (lambda: model_card('/nowhere'), ('records.json',)),
    (lambda: model_card('/nowhere/a.onnx'), ('a.onnx',)),
    (lambda: model_card(path='card.txt'), ('card.txt', '.md'))])
def test_deploy_card_refuses(call, words): sentence(call, *words)


def test_deploy_names_are_offered_where_one_looks():
    from visft_nb import deploy as package, finetune
    for name in ('predict', 'export_onnx', 'model_card', 'quantize_onnx', 'export_program'): assert getattr(finetune, name) is getattr(package, name)
    for name in ('make_app', 'latency_table', 'peak_memory', 'predict_files', 'launch_app'): assert callable(getattr(finetune, name))


# ---------------------------------------------------------------- command line and app

def visft(*args, cwd=None):
    return subprocess.run([sys.executable, '-m', 'visft_nb.course.cli', *map(str, args)], cwd=cwd, capture_output=True, text=True,
                          env={**os.environ, 'COLUMNS': '200', 'PYTHONPATH': os.pathsep.join([str(Path(__file__).resolve().parents[1]), os.environ.get('PYTHONPATH', '')])})


def test_deploy_dicom_is_known_without_an_ending(tmp_path, segmenter):
    "Scanners write IM000001 and 1.2.840.7; the directory beside them is no image."
    for n in ('IM000001', '1.2.840.7', 'sub/plain.dcm'):
        (tmp_path/n).parent.mkdir(exist_ok=True)
        work.write_dicom(tmp_path/'x.dcm', disc(5)); (tmp_path/'x.dcm').rename(tmp_path/n)
    (tmp_path/'DICOMDIR').write_bytes((tmp_path/'IM000001').read_bytes())
    (tmp_path/'notes').write_text('no'); (tmp_path/'empty').touch()
    assert [str(Path(f).relative_to(tmp_path)) for f in predict(segmenter, tmp_path).image] == ['1.2.840.7', 'IM000001', 'sub/plain.dcm']


def test_deploy_command_line_leaves_out_what_a_row_has_not(files, tmp_path):
    "Millimetres of one file beside another that knows none, in a narrow window."
    dicom(tmp_path/'a.dcm', disc(5), PixelSpacing=[.5, .5])
    Image.fromarray((disc(5) > 0).astype(np.uint8)*255).save(tmp_path/'b.png')
    done = visft('predict', files/'pad.onnx', 'a.dcm', 'b.png', cwd=tmp_path)
    assert done.returncode == 0 and 'yes mm2' in done.stdout and 'nan' not in done.stdout, done.stdout + done.stderr


def test_deploy_command_line_answers_and_names_what_is_no_image(files, pictures, tmp_path):
    import pandas as pd
    (pictures/'text.png').write_text('no')
    done = visft('predict', files/'net.onnx', 'pictures', '--out', 'table.csv', '--overlay', 'shown', '--sure', '1', cwd=tmp_path)
    assert done.returncode == 1 and done.stderr.count('\n') == 1 and 'pictures/text.png cannot be decoded' in done.stderr and 'Traceback' not in done.stderr, done.stderr
    table = pd.read_csv(tmp_path/'table.csv')
    assert len(table) == 5 and table.error.notna().sum() == 1 and set(table.label.dropna()) <= set(CLASSES) and 'ask' in done.stdout
    assert sorted(p.name for p in (tmp_path/'shown').iterdir()) == ['a_2_overlay.png', 'a_overlay.png', 'b_overlay.png', 'c_overlay.png']
    done = visft('predict', files/'pad.onnx', 'pictures/a.png', '--overlay', 'masks', cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert Image.open(tmp_path/'masks/a_mask.png').size == (20, 20) and 'yes pixels' in done.stdout


def test_deploy_predict_files_refuses_before_it_reads(files, pictures, tmp_path):
    (tmp_path/'file').touch()
    sentence(lambda: work.predict_files(files/'net.onnx', pictures, tmp_path/'t.xls'), 't.xls', '.csv')
    sentence(lambda: work.predict_files(files/'net.onnx', pictures, None, tmp_path/'file'), 'is a file')
    assert sorted(p.name for p in tmp_path.iterdir()) == ['file', 'pictures']
    taken = set()
    assert [free_name(n, '.png', taken) for n in ('x/a.jpg', 'y/a.png', 'ü b.tif', 3, '')] == ['a.png', 'a_2.png', 'ü_b.png', '3.png', 'image.png']


def test_deploy_app_says_what_is_missing(files, monkeypatch):
    monkeypatch.setitem(sys.modules, 'gradio', None)
    sentence(lambda: work.make_app(files/'net.onnx'), 'gradio', 'visft_nb[app]')
    importlib.import_module('visft_nb.finetune.work')


def test_deploy_app_looks(files, pictures, tmp_path):
    (tmp_path/'no.png').write_text('no')
    for name in ('net.onnx', 'net.safetensors', 'pad.onnx', 'crop.onnx'):
        seen = work.explain_file(open_model(files/name), pictures/'b.jpg', min_confidence=1.)
        assert sum(seen.scores.values()) == pytest.approx(1) and seen.picture.dtype == np.uint8 and 'second reader' in seen.text and 'uncertainty' in seen.text
        refused = work.explain_file(open_model(files/name), tmp_path/'no.png')
        assert refused.picture is None and not refused.scores and 'no.png cannot be decoded' in refused.text and str(tmp_path) not in refused.text


def test_deploy_app_refuses(files):
    pytest.importorskip('gradio')
    sentence(lambda: work.launch_app(files/'net.onnx', largest=0), 'largest=0')
    sentence(lambda: work.launch_app(files/'gone.onnx'), 'gone.onnx')
    import socket
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0)); s.listen()
        sentence(lambda: work.launch_app(files/'net.onnx', port=s.getsockname()[1], wait=False), 'cannot listen', '--port')


def test_deploy_int8_of_a_trained_model_costs_little(tmp_path):
    "Real digits: a random network has margins that say nothing."
    from visft_nb.data import Batches
    from visft_nb.train import fit
    train, test = load_dataset('mnist5k', 'train')[:1500], load_dataset('mnist5k', 'test')
    torch.manual_seed(0)
    net = small_cnn(width=8)
    fit(net, Batches(train, 64, seed=0), epochs=3, lr=1e-2, precision='fp32', bar=False)
    export_onnx(net, tmp_path/'a.onnx', test.floats()[:2], test.classes, dynamo=False)
    said = quantize_onnx(tmp_path/'a.onnx', tmp_path/'q.onnx', train[:100])
    a, b = ((load_onnx(tmp_path/f'{n}.onnx')[0](test.floats()).argmax(1) == test.labels).double().mean().item() for n in 'aq')
    assert a > .8 and abs(a - b) < .03 and said['agree'] > .95, (a, b, said)
