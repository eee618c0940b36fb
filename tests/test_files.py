"One decoder: what training reads of a file is, to the last bit, what prediction reads of it; what one refuses the other refuses in the same words."
import io
import struct
import tracemalloc
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import refused, sentence
from PIL import Image, ImageOps, features

from visft_nb.core import InputError
from visft_nb.data import csv_images, image_folder, load_dataset, mask_pairs
from visft_nb.data import files as F
from visft_nb.data.arrays import read_arrays
from visft_nb.data.files import decode_image, fit_image, named_page, read_idx, read_image, to_bytes
from visft_nb.cnn.models import small_cnn
from visft_nb.deploy import Opened, iter_answers, load_model, model_spec, predict, save_model
from visft_nb.finetune import MedicalImageDataset, segment, write_dicom

H, W = 12, 17
RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 256, (H, W), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (H, W, 3), dtype=np.uint8)
ALPHA = RNG.integers(0, 256, (H, W), dtype=np.uint8)
TWELVE = RNG.integers(0, 4096, (H, W), dtype=np.uint16)


# ---------------------------------------------------------------- files of every kind

def pil(a, kind, mode=None, **kw):
    file = io.BytesIO()
    im = a if isinstance(a, Image.Image) else Image.fromarray(a)
    (im.convert(mode) if mode else im).save(file, kind, **kw)
    return file.getvalue()


def chunk(kind, data): return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))


def png16(a, extra=b''):
    "A PNG of 16 bits a channel, of (H, W, C)."
    h, w, c = a.shape
    head = struct.pack('>IIBBBBB', w, h, 16, {1: 0, 2: 4, 3: 2, 4: 6}[c], 0, 0, 0)
    rows = b''.join(b'\0' + row.astype('>u2').tobytes() for row in a)
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', head) + extra + chunk(b'IDAT', zlib.compress(rows)) + chunk(b'IEND', b'')


def tiff(data, h, w, **tags):
    "A plain little-endian TIFF with one strip; tags as t258=(8, 8, 8)."
    kept = {256: (w,), 257: (h,), 258: (8,), 259: (1,), 262: (1,), 273: (0,), 277: (1,), 278: (h,), 279: (len(data),)} | {int(k[1:]): v for k, v in tags.items()}
    at, more = 8 + 2 + 12*len(kept) + 4, b''
    kept[273] = (at + sum(2*len(v) for v in kept.values() if len(v) > 2),)
    out = b'II*\0' + struct.pack('<IH', 8, len(kept))
    for tag, v in sorted(kept.items()):
        if len(v) > 2:
            out += struct.pack('<HHII', tag, 3, len(v), at + len(more))
            more += struct.pack(f'<{len(v)}H', *v)
        else: out += struct.pack('<HHI', tag, 4 if tag in (273, 279) else 3, len(v)) + (struct.pack('<I', *v) if len(v) == 1 else struct.pack('<2H', *v))
    return out + bytes(4) + more + data


def turned(how, mode='L'):
    exif = Image.Exif()
    exif[0x0112] = how
    return exif


def animated(kind, **kw):
    frames = [Image.fromarray(np.roll(COLOUR, i, 1)) for i in range(3)]
    return pil(frames[0], kind, save_all=True, append_images=frames[1:], duration=50, **kw)


def palette(clear=False):
    im = Image.fromarray(COLOUR).quantize(16)
    return pil(im, 'PNG', **(dict(transparency=3) if clear else {}))


def dicom(pixels=TWELVE, make=None, **fields):
    "A DICOM file with some fields changed; `make` changes the data set before it is written."
    import tempfile

    import pydicom
    with tempfile.TemporaryDirectory() as tmp:
        write_dicom(Path(tmp)/'a.dcm', pixels)
        d = pydicom.dcmread(Path(tmp)/'a.dcm')
        for k, v in fields.items():
            if k.startswith('PixelPadding'): d.add_new(k, 'US', v)
            else: setattr(d, k, v)
        if make: make(d)
        d.save_as(Path(tmp)/'b.dcm', enforce_file_format=True)
        return (Path(tmp)/'b.dcm').read_bytes()


def deflated(d): d.file_meta.TransferSyntaxUID = '1.2.840.10008.1.2.1.99'


def table(first=0, bits=8, n=256, gamma=.5):
    "An item of a VOILUTSequence."
    from pydicom.dataset import Dataset
    item = Dataset()
    item.add_new(0x00283002, 'SS' if first < 0 else 'US', [n, first, bits])
    item.add_new(0x00283006, 'US', [round((2**bits - 1)*(i/(n - 1))**gamma) for i in range(n)])
    return item


def run_length(d):
    from pydicom.uid import RLELossless
    d.compress(RLELossless)


def sample(name):
    from pydicom.data import get_testdata_file
    return Path(get_testdata_file(name, download=False)).read_bytes()


LA16 = np.stack([TWELVE, ALPHA.astype(np.uint16)*257], 2)
RGBA16 = np.concatenate([RNG.integers(0, 4096, (H, W, 3)), ALPHA[..., None].astype(np.int64)*257], 2).astype(np.uint16)
RGBA = np.concatenate([COLOUR, ALPHA[..., None]], 2)
GOOD = {
    'gray.png': lambda: pil(GRAY, 'PNG'), 'colour.png': lambda: pil(COLOUR, 'PNG'), 'alpha.png': lambda: pil(RGBA, 'PNG'), 'la.png': lambda: pil(np.stack([GRAY, ALPHA], 2), 'PNG'),
    'clear.png': lambda: pil(Image.new('RGBA', (W, H), (0, 0, 0, 0)), 'PNG'), 'palette.png': palette, 'clear_palette.png': lambda: palette(True), 'bit.png': lambda: pil(GRAY, 'PNG', '1'),
    'gray_key.png': lambda: pil(GRAY, 'PNG', transparency=int(GRAY[0, 0])), 'colour_key.png': lambda: pil(COLOUR, 'PNG', transparency=tuple(map(int, COLOUR[0, 0]))),
    'gray16.png': lambda: pil(TWELVE, 'PNG'), 'colour16.png': lambda: png16(RGBA16[..., :3]), 'alpha16.png': lambda: png16(RGBA16), 'la16.png': lambda: png16(LA16),
    'key16.png': lambda: png16(TWELVE[..., None], chunk(b'tRNS', struct.pack('>H', TWELVE[0, 0]))), 'turned16.png': lambda: pil(TWELVE, 'PNG', exif=turned(6)),
    'colour_key16.png': lambda: png16(RGBA16[..., :3], chunk(b'tRNS', struct.pack('>3H', *RGBA16[0, 0, :3]))),
    'gray.jpg': lambda: pil(GRAY, 'JPEG'), 'colour.jpg': lambda: pil(COLOUR, 'JPEG'), 'cmyk.jpg': lambda: pil(COLOUR, 'JPEG', 'CMYK'),
    **{f'exif{k}.jpg': lambda k=k: pil(COLOUR, 'JPEG', exif=turned(k)) for k in range(1, 9)},
    'exif99.jpg': lambda: pil(COLOUR, 'JPEG', exif=turned(99)), 'exif6.tif': lambda: pil(COLOUR, 'TIFF', exif=turned(6)), 'exif5.webp': lambda: pil(COLOUR, 'WEBP', exif=turned(5)),
    'two_eyes.jpg': lambda: animated('MPO').replace(b'', b''),
    'gray.tif': lambda: pil(GRAY, 'TIFF'), 'colour.tif': lambda: pil(COLOUR, 'TIFF', compression='tiff_lzw'), 'cmyk.tif': lambda: pil(COLOUR, 'TIFF', 'CMYK'),
    'gray16.tif': lambda: pil(TWELVE, 'TIFF'), 'gray16_high.tif': lambda: pil(Image.fromarray(TWELVE.astype('>u2')), 'TIFF'), 'white_is_zero.tif': lambda: pil(TWELVE, 'TIFF', tiffinfo={262: 0}),
    'signed.tif': lambda: pil(TWELVE.astype(np.int32) - 1024, 'TIFF'), 'float.tif': lambda: pil(TWELVE.astype(np.float32)/4095, 'TIFF'), 'float_hu.tif': lambda: pil(TWELVE.astype(np.float32) - 1024, 'TIFF'),
    'unsigned32.tif': lambda: tiff((TWELVE.astype('<u4')*2**20).tobytes(), H, W, t258=(32,)), 'bit.tif': lambda: pil(GRAY, 'TIFF', '1', compression='group4'),
    'gray.bmp': lambda: pil(GRAY, 'BMP'), 'colour.bmp': lambda: pil(COLOUR, 'BMP'), 'still.gif': lambda: pil(COLOUR, 'GIF'), 'still.webp': lambda: pil(COLOUR, 'WEBP'),
    'lossless.webp': lambda: pil(RGBA, 'WEBP', lossless=True, exact=True), 'gray.pgm': lambda: pil(GRAY, 'PPM'), 'colour.ppm': lambda: pil(COLOUR, 'PPM'), 'bit.pbm': lambda: pil(GRAY, 'PPM', '1'),
    'twelve.pgm': lambda: b'P5\n# a camera\n%d %d\n4095\n' % (W, H) + TWELVE.astype('>u2').tobytes(), 'sixteen.pgm': lambda: b'P5 %d %d 65535\n' % (W, H) + TWELVE.astype('>u2').tobytes(),
    'twelve.ppm': lambda: b'P6 %d %d 4095\n' % (W, H) + RGBA16[..., :3].astype('>u2').tobytes(), 'sixteen.ppm': lambda: b'P6 %d %d 65535\n' % (W, H) + RGBA16[..., :3].astype('>u2').tobytes(),
    'words.pgm': lambda: f'P2 {W} {H} 4095\n{" ".join(map(str, TWELVE.ravel()))}\n'.encode(),
    'plain.dcm': dicom, 'window.dcm': lambda: dicom(WindowCenter=2000, WindowWidth=1500, RescaleSlope=1, RescaleIntercept=-1024), 'inverted.dcm': lambda: dicom(PhotometricInterpretation='MONOCHROME1'),
    'sigmoid.dcm': lambda: dicom(WindowCenter=2000, WindowWidth=1500, VOILUTFunction='SIGMOID'), 'table.dcm': lambda: dicom(VOILUTSequence=[table(500)]), 'padded.dcm': lambda: dicom(PixelPaddingValue=int(TWELVE[0, 0])),
    'no_ending': dicom, 'deflated.dcm': lambda: dicom(make=deflated), 'rle.dcm': lambda: dicom(make=run_length),
    **{n: lambda n=n: sample(n) for n in ('CT_small.dcm', 'MR_small_RLE.dcm', 'SC_rgb_rle.dcm', 'examples_palette.dcm', 'SC_rgb_jpeg_dcmtk.dcm', 'MR_small_bigendian.dcm')},
}
if features.check('avif'): GOOD['still.avif'] = lambda: pil(COLOUR, 'AVIF')
BAD = {
    'pages.tif': (lambda: animated('TIFF'), ['3 pages', 'pages.tif#1', 'page=']), 'moves.gif': (lambda: animated('GIF'), ['3 frames', 'moves.gif#1']), 'moves.webp': (lambda: animated('WEBP'), ['3 frames']),
    'moves.png': (lambda: animated('PNG'), ['3 frames']), 'film.dcm': (lambda: dicom(make=film), ['2 frames', 'film.dcm#1']),
    'cut.png': (lambda: pil(COLOUR, 'PNG')[:200], ['cannot be decoded']), 'cut.jpg': (lambda: pil(COLOUR, 'JPEG')[:-200], ['cannot be decoded']), 'cut.tif': (lambda: pil(COLOUR, 'TIFF')[:-300], ['cannot be decoded']),
    'cut.pgm': (lambda: GOOD['twelve.pgm']()[:-9], ['cannot be decoded']), 'cut16.png': (lambda: png16(RGBA16)[:300], ['cannot be decoded']), 'cut.dcm': (lambda: dicom()[:-50], ['cannot be decoded']),
    'empty.png': (lambda: b'', ['0 bytes']), 'text.jpg': (lambda: b'Dear doctor, ' * 30, ['no image format']), 'colour16.tif': (lambda: tiff(RGBA16[..., :3].astype('<u2').tobytes(), H, W, t258=(16, 16, 16), t262=(2,), t277=(3,)), ['16 bits', 'PNG']),
    'nan.tif': (lambda: pil(np.full((H, W), np.nan, np.float32), 'TIFF'), ['NaN']), 'telephone.heic': (lambda: b'\0\0\0\x18ftypheic\0\0\0\0mif1heic' + bytes(200), ['HEIC', 'JPEG', 'heif-convert']),
    'telephone.jpg': (lambda: b'\0\0\0\x18ftypmif1\0\0\0\0mif1heic' + bytes(200), ['HEIC', 'sips']), 'bomb.png': (lambda: bomb(12000, 12000), ['144,000,000 pixels', 'tiles']),
    'script.png': (lambda: b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(hello) print\n', ['no image format']),
    'no_pixels.dcm': (lambda: dicom(make=lambda d: delattr(d, 'PixelData')), ['without pixel data']), 'text.dcm': (lambda: b'Dear doctor, ' * 30, ['no DICOM']),
}


def film(d): d.NumberOfFrames, d.PixelData = 2, d.PixelData*2


def bomb(h, w): return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', w, h, 8, 0, 0, 0, 0)) + chunk(b'IDAT', zlib.compress(bytes(99))) + chunk(b'IEND', b'')


def put(top, name, blob):
    "The file as class folders, beside masks, and in a table."
    h, w = H, W
    for place in ('classes/a', 'classes/b', 'im', 'm'): (top/place).mkdir(parents=True, exist_ok=True)
    for place in ('classes/a', 'classes/b', 'im'): (top/place/name).write_bytes(blob)
    try: h, w = decode_image(blob, name).stored.shape[1:]
    except InputError: pass
    Image.fromarray(np.arange(h*w).reshape(h, w).astype(np.uint8) % 2).save(top/'m'/f'{name.rsplit(".", 1)[0]}.png')
    (top/'t.csv').write_text(f'image,label\nim/{name},a\n')
    return top/'im'/name


def opened(channels, size=None, fit='crop', **extra):
    spec = model_spec(('a', 'b'), size, channels, fit, **extra)
    return Opened(lambda x: torch.zeros(len(x), 2), spec, Path('any.onnx'))


def readers(top, **kw):
    "What training reads, by each of its doors: uint8 (C, H, W)."
    return {'image_folder': lambda: image_folder(top/'classes', **kw).images[0], 'csv_images': lambda: csv_images(top/'t.csv', **kw).images[0],
            'mask_pairs': lambda: mask_pairs(top/'im', top/'m', **kw).images[0], 'MedicalImageDataset': lambda: (MedicalImageDataset(top/'im', top/'m', **kw)[0]['pixel_values']*255).round().byte()}


@pytest.mark.filterwarnings('ignore::UserWarning')
@pytest.mark.parametrize('name', GOOD)
def test_training_and_prediction_read_the_same_tensor(tmp_path, name):
    path = put(tmp_path, name, GOOD[name]())
    seen = to_bytes(read_image(path))
    assert len(seen) in (1, 3) and seen.dtype == torch.uint8
    for door, read in readers(tmp_path).items(): assert torch.equal(read(), seen), door
    for channels, size, fit in ((3, None, 'crop'), (1, (8, 11), 'crop'), (3, (9, 9), 'pad'), (1, (20, 25), 'stretch')):
        a, = iter_answers(opened(channels, size, fit), path)
        for door, read in readers(tmp_path, channels=channels, size=size, fit=fit).items():
            assert torch.equal(read().float()/255, a.input), (door, channels, size, fit)


@pytest.mark.parametrize('name', BAD)
def test_training_and_prediction_refuse_in_the_same_words(tmp_path, name):
    make, words = BAD[name]
    path = put(tmp_path, name, make())
    with refused([name, *words]) as e: read_image(path)
    said = str(e.value).replace(str(path), 'THIS')
    for door, read in readers(tmp_path).items():
        with pytest.raises(InputError) as f: read()
        text = str(f.value).replace(f'{tmp_path}/', '')
        assert any(said.replace('THIS', n) in text for n in (name, f'a/{name}', f'im/{name}')), (door, said, text)
        assert '\n' not in text
    if name != 'film.dcm': # of a film every frame is answered about
        a, = iter_answers(opened(1), path)
        assert a.error.replace(str(path), 'THIS') == said


# ---------------------------------------------------------------- the rules

def test_transparent_pixels_are_white():
    x = decode_image(GOOD['clear.png'](), 'clear.png').stored
    assert x.shape == (3, H, W) and (x == 255).all()
    want = np.asarray(Image.alpha_composite(Image.new('RGBA', (W, H), 'white'), Image.fromarray(RGBA)).convert('RGB'))
    assert np.array_equal(decode_image(GOOD['alpha.png'](), 'x').stored.permute(1, 2, 0).numpy(), want)
    la = decode_image(GOOD['la.png'](), 'x').stored
    assert len(la) == 1 and np.abs(la[0].numpy() - (GRAY*(ALPHA/255) + 255 - ALPHA)).max() <= 1
    key = decode_image(GOOD['gray_key.png'](), 'x').stored[0].numpy()
    assert (key[GRAY[0, 0] == GRAY] == 255).all() and np.array_equal(key[GRAY[0, 0] != GRAY], GRAY[GRAY[0, 0] != GRAY])
    deep = F.decode_image(GOOD['la16.png'](), 'x', in_range=(0, 4095)).pixels[0].numpy()
    assert np.abs(deep - (TWELVE/4095*(ALPHA/255) + 1 - ALPHA/255)).max() < 1e-6
    assert (F.decode_image(GOOD['key16.png'](), 'x', in_range=(0, 4095)).pixels[0, 0, 0]) == 1


@pytest.mark.parametrize('how', range(1, 9))
def test_turned_as_pillow_turns(how):
    blob = GOOD[f'exif{how}.jpg']()
    want = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(blob))))
    assert np.array_equal(decode_image(blob, 'x').stored.permute(1, 2, 0).numpy(), want)
    deep = decode_image(pil(TWELVE, 'PNG', exif=turned(how)), 'x', in_range=(0, 4095)).pixels[0].numpy()
    assert np.allclose(deep, np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(pil(TWELVE, 'PNG', exif=turned(how)))))).astype(np.float32)/4095)


def test_twelve_bits_look_like_eight(tmp_path):
    a = np.linspace(0, 255, 64*64).reshape(64, 64)
    Image.fromarray(a.astype('u1')).save(tmp_path/'e.png')
    Image.fromarray((a*16).astype('u2')).save(tmp_path/'s12.png')
    eight = read_image(tmp_path/'e.png')
    with pytest.warns(UserWarning, match=r's12.png .* 0 and 4080, .* in_range=\(black, white\)'): own = read_image(tmp_path/'s12.png')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        stated = read_image(tmp_path/'s12.png', in_range=(0, 4095))
        a, = iter_answers(opened(1, in_range=(0, 4095)), tmp_path/'s12.png')
    assert (own - eight).abs().max() < 1.01/255 and (stated - eight).abs().max() < 2/255
    assert torch.equal(a.input, to_bytes(stated).float()/255)
    with pytest.warns(UserWarning, match='in_range'): b, = iter_answers(opened(1), tmp_path/'s12.png')
    assert torch.equal(to_bytes(b.image), to_bytes(own))


def test_visft_finetune_says_how_ranges_were_taken_and_reads_dicom(tmp_path):
    from visft_nb.finetune.folder import read_splits
    for n in ('a/1.png', 'a/2.png', 'b/1.png', 'b/2.png'):
        (tmp_path/'deep'/n).parent.mkdir(parents=True, exist_ok=True); (tmp_path/'ct'/n).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path/'deep'/n).write_bytes(pil(TWELVE, 'PNG')); (tmp_path/'ct'/n).with_suffix('.dcm').write_bytes(dicom())
    _, notes = read_splits(tmp_path/'deep', 12, 1)
    assert len(notes) == 1 and 'in_range' in notes[0]
    parts, notes = read_splits(tmp_path/'deep', 12, 1, in_range=(0, 4095))
    assert not notes
    a = list(iter_answers(opened(1, 12, in_range=(0, 4095)), tmp_path/'deep'))[0]
    assert torch.equal(parts[''].images[0].float()/255, a.input)
    parts, notes = read_splits(tmp_path/'ct', 12, 1, window=(2000, 1500))
    a = list(iter_answers(opened(1, 12, window=(2000, 1500)), tmp_path/'ct'))[0]
    assert not notes and torch.equal(parts[''].images[0].float()/255, a.input)


def test_many_deep_files_give_one_warning(tmp_path):
    for n in ('a/1.png', 'a/2.png', 'b/3.png'):
        (tmp_path/n).parent.mkdir(exist_ok=True)
        (tmp_path/n).write_bytes(pil(TWELVE, 'PNG'))
    with pytest.warns(UserWarning, match='1.png.*and so for 2 more') as w: image_folder(tmp_path)
    assert len(w) == 1
    with pytest.warns(UserWarning) as w: predict(opened(1), tmp_path)
    assert len(w) == 1
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        d = image_folder(tmp_path, in_range=(0, 4095))
    assert np.abs(d.images[0, 0].numpy() - TWELVE/4095*255).max() <= .51


@pytest.mark.parametrize('name, want', [('twelve.pgm', TWELVE/4095), ('words.pgm', TWELVE/4095), ('float.tif', TWELVE/4095)])
def test_a_range_that_the_file_states_needs_no_warning(name, want):
    picture = decode_image(GOOD[name](), name)
    assert not picture.note and np.abs(picture.pixels[0].numpy() - want).max() < 1e-6


def test_ranges_count_as_they_are():
    assert np.allclose(decode_image(GOOD['float_hu.tif'](), 'x', in_range=(-1024, 3071)).pixels[0], TWELVE/4095, atol=1e-6)
    assert np.allclose(decode_image(GOOD['gray16.tif'](), 'x', in_range=(4095, 0)).pixels[0], 1 - TWELVE/4095, atol=1e-6), 'a negative'
    assert np.allclose(decode_image(GOOD['unsigned32.tif'](), 'x', in_range=(0, 4095*2**20)).pixels[0], TWELVE/4095, atol=1e-6)
    assert np.allclose(decode_image(GOOD['white_is_zero.tif'](), 'x', in_range=(0, 4095)).pixels[0], 1 - TWELVE/4095, atol=1e-6)
    assert (decode_image(pil(np.full((4, 4), 900, np.uint16), 'PNG'), 'x').pixels == 0).all(), 'one gray'
    colour = decode_image(GOOD['colour16.png'](), 'x', in_range=(0, 4095)).pixels
    assert np.allclose(colour, RGBA16[..., :3].transpose(2, 0, 1)/4095, atol=1e-6), 'all 16 bits of each colour'
    for bad in ((1, 1), (0,), 'all', (0, float('nan')), 5): sentence(lambda bad=bad: decode_image(GOOD['gray16.png'](), 'x', in_range=bad), 'in_range=', '(0, 4095)')


@pytest.mark.parametrize('name, n', [('pages.tif', 3), ('moves.gif', 3), ('moves.webp', 3), ('moves.png', 3), ('film.dcm', 2)])
@pytest.mark.filterwarnings('ignore::UserWarning')
def test_a_page_that_is_named_is_read_by_all(tmp_path, name, n):
    path = put(tmp_path, name, BAD[name][0]())
    for k in (1, n):
        seen = read_image(f'{path}#{k}')
        assert torch.equal(seen, read_image(path, page=k))
        (tmp_path/'t.csv').write_text(f'image,label\nim/{name}#{k},a\n')
        assert torch.equal(csv_images(tmp_path/'t.csv').images[0], to_bytes(seen)) and torch.equal(image_folder(tmp_path/'classes', page=k).images[0], to_bytes(seen))
        a, = iter_answers(opened(len(seen)), f'{path}#{k}')
        assert torch.equal(a.input, to_bytes(seen).float()/255) and a.name == f'{path}#{k}'
    if name != 'film.dcm': assert not torch.equal(read_image(path, page=1), read_image(path, page=2))
    for bad in (0, n + 1): sentence(lambda bad=bad: read_image(path, page=bad), name, f'holds {n}', f'page={bad}')
    sentence(lambda: read_image(f'{path}#{n + 1}'), f'page={n + 1}')


def test_a_hash_in_a_name_is_only_a_page_where_no_such_file_lies(tmp_path):
    (tmp_path/'a.png#2').write_bytes(pil(GRAY, 'PNG'))
    assert named_page(tmp_path/'a.png#2') == (tmp_path/'a.png#2', None) and named_page(tmp_path/'b.tif#12') == (tmp_path/'b.tif', 12)
    assert read_image(tmp_path/'a.png#2').shape == (1, H, W)
    sentence(lambda: read_image(tmp_path/'b.tif#12'), 'b.tif', 'does not exist')


def test_no_other_program_is_started(monkeypatch, tmp_path):
    import subprocess
    def fail(*a, **k): raise AssertionError('a program was started')
    monkeypatch.setattr(subprocess, 'Popen', fail); monkeypatch.setattr(subprocess, 'check_call', fail)
    (tmp_path/'a.png').write_bytes(BAD['script.png'][0]())
    sentence(lambda: read_image(tmp_path/'a.png'), 'no image format')


def test_one_resizer_as_pillow_does_it():
    for h, w, size, fit in ((40, 30, (16, 16), 'crop'), (9, 50, (16, 20), 'pad'), (20, 20, (7, 9), 'stretch'), (5, 6, (15, 18), 'crop')):
        a = RNG.integers(0, 256, (h, w, 3), dtype=np.uint8)
        x = torch.from_numpy(a).permute(2, 0, 1)
        ours = fit_image(x, size, fit)
        assert ours.dtype == torch.uint8 and ours.shape[1:] == size
        if fit == 'stretch': assert np.array_equal(ours.permute(1, 2, 0).numpy(), np.asarray(Image.fromarray(a).resize(size[::-1], Image.Resampling.BILINEAR)))
        assert (fit_image(x.float()/255, size, fit) - ours.float()/255).abs().max() < 1.01/255, 'floats and bytes are resized alike'
    luma = F.fit_channels(torch.from_numpy(COLOUR).permute(2, 0, 1), 1)
    assert np.array_equal(luma[0].numpy(), np.asarray(Image.fromarray(COLOUR).convert('L')))


def test_segmentation_and_prediction_of_files_agree(tmp_path):
    class Shade(torch.nn.Module):
        def __init__(self): super().__init__(); self.w = torch.nn.Parameter(torch.ones(()))
        def forward(self, x): return torch.cat([x.mean(1, keepdim=True), 1 - x.mean(1, keepdim=True)], 1)
    (tmp_path/'a.png').write_bytes(pil(TWELVE, 'PNG'))
    net = Shade()
    net.spec = model_spec(('a', 'b'), None, 1, task='segmentation', in_range=(0, 4095))
    seen = segment(net, tmp_path/'a.png', probabilities=True, precision='fp32')[0]
    a, = iter_answers(opened(1, in_range=(0, 4095)), tmp_path/'a.png')
    assert torch.allclose(seen, net(a.input[None])[0].softmax(0), atol=1e-6)


# ---------------------------------------------------------------- masks

def test_masks_keep_their_numbers(tmp_path):
    "Neither rescaled (16 bits), nor laid on white (LA, palette with a transparent entry), nor mixed by resizing."
    m = np.zeros((H, W), np.uint8)
    m[:6], m[:, :5] = 1, 2
    (tmp_path/'im').mkdir(); (tmp_path/'m').mkdir()
    Image.fromarray(GRAY).save(tmp_path/'im'/'x.png')
    im = Image.fromarray(m, 'P')
    im.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0] + [0]*759)
    kinds = {'gray': pil(m, 'PNG'), '16 bits': pil(m.astype(np.uint16), 'PNG'), '32 bits': pil(m.astype(np.int32), 'TIFF'), 'palette': pil(im, 'PNG'), 'clear palette': pil(im, 'PNG', transparency=1),
             'alpha': pil(np.stack([m, np.zeros_like(m)], 2), 'PNG')}
    for kind, blob in kinds.items():
        (tmp_path/'m'/'x.png').write_bytes(blob)
        read = lambda **kw: mask_pairs(tmp_path/'im', tmp_path/'m', classes=('a', 'b', 'c'), **kw).masks[0]
        assert np.array_equal(read().numpy(), m), kind
        assert np.array_equal(read(size=(6, 8), fit='stretch').numpy(), np.asarray(Image.fromarray(m).resize((8, 6), Image.Resampling.NEAREST))), kind


def test_masks_of_255_and_of_1_are_the_same_classes(tmp_path):
    (tmp_path/'im').mkdir()
    Image.fromarray(GRAY).save(tmp_path/'im'/'x.png')
    found = []
    for top in (255, 1):
        (tmp_path/f'm{top}').mkdir()
        Image.fromarray((GRAY > 99).astype(np.uint8)*top).save(tmp_path/f'm{top}'/'x.png')
        found.append(mask_pairs(tmp_path/'im', tmp_path/f'm{top}').masks)
    assert torch.equal(*found) and found[0].unique().tolist() == [0, 1]
    (tmp_path/'mj').mkdir()
    Image.fromarray(GRAY).save(tmp_path/'mj'/'x.jpg')
    with refused(['x.jpg', 'JPEG']): mask_pairs(tmp_path/'im', tmp_path/'mj')


def test_a_mask_of_pages_or_of_dicom_is_refused(tmp_path):
    (tmp_path/'im').mkdir(); (tmp_path/'m').mkdir()
    Image.fromarray(GRAY).save(tmp_path/'im'/'x.png')
    frames = [Image.fromarray(GRAY % 2)]*2
    frames[0].save(tmp_path/'m'/'x.tif', save_all=True, append_images=frames[1:])
    with refused(['x.tif', '2 pages']): mask_pairs(tmp_path/'im', tmp_path/'m')
    (tmp_path/'m'/'x.tif').write_bytes(dicom())
    with refused(['x.tif', 'DICOM', 'PNG']): mask_pairs(tmp_path/'im', tmp_path/'m')


def test_hidden_folders_are_no_classes(tmp_path):
    for n in ('a/1.png', 'b/2.png', '.ipynb_checkpoints/3.png'):
        (tmp_path/n).parent.mkdir()
        Image.fromarray(GRAY).save(tmp_path/n)
    assert image_folder(tmp_path).classes == ('a', 'b')


# ---------------------------------------------------------------- DICOM against pydicom

@pytest.mark.parametrize('bits, first, n', [(8, 0, 256), (8, 500, 256), (8, -900, 256), (12, 0, 4096), (16, 100, 1000), (8, 0, 4096), (10, 0, 300)])
def test_dicom_tables_are_pydicoms(bits, first, n):
    "pydicom lets tables of 8 bits wrap around beyond 255 entries; those are compared where they do not."
    import pydicom
    from pydicom.pixels import apply_modality_lut, apply_voi_lut
    blob = dicom(VOILUTSequence=[table(first, bits, n)], WindowCenter=100, WindowWidth=50, RescaleSlope=1, RescaleIntercept=-1000)
    d = pydicom.dcmread(io.BytesIO(blob))
    v = apply_modality_lut(d.pixel_array, d).astype(np.int64)
    theirs = apply_voi_lut(v, d)/(2**bits - 1)
    ours = read(blob)
    same = (v - first < 256) | (bits > 8)
    assert np.abs(ours - theirs)[same].max() < 1e-6 and same.sum() > 9
    lut, i = np.array(table(first, bits, n).LUTData)/(2**bits - 1), np.clip(v - first, 0, n - 1)
    assert np.abs(ours - lut[i]).max() < 1e-6, 'beyond the table its ends count'


def read(blob, **kw): return decode_image(blob, 'x.dcm', **kw).pixels[0].numpy()


def test_dicom_tables_and_windows():
    v = TWELVE.astype(float)
    lut = [table(0, 12, 4096)]
    assert np.allclose(read(dicom(VOILUTSequence=lut, PhotometricInterpretation='MONOCHROME1')), 1 - read(dicom(VOILUTSequence=lut)), atol=1e-6)
    assert np.allclose(read(dicom(VOILUTSequence=lut), window=(2000, 1000)), F.apply_window(v, 2000, 1000)), 'the window of a model wins'
    from pydicom.dataset import Dataset
    broken = Dataset()
    broken.LUTExplanation = 'none'
    assert np.allclose(read(dicom(VOILUTSequence=[broken], WindowCenter=2000, WindowWidth=1000)), F.apply_window(v, 2000, 1000)), 'an incomplete table is none'
    frame = Dataset()
    frame.FrameVOILUTSequence = [Dataset()]
    frame.FrameVOILUTSequence[0].VOILUTSequence = [table(0, 8, 256, 2.)]
    assert np.allclose(read(dicom(VOILUTSequence=lut, SharedFunctionalGroupsSequence=[frame])), read(dicom(VOILUTSequence=[table(0, 8, 256, 2.)])), atol=1e-6)


def signed(d): d.PixelRepresentation, d.BitsStored, d.HighBit = 1, 16, 15


@pytest.mark.parametrize('fields', [dict(), dict(WindowCenter=0, WindowWidth=2000), dict(PhotometricInterpretation='MONOCHROME1')])
def test_dicom_padding_is_black_and_no_part_of_the_range(fields):
    "Also where it was written as unsigned in a file of signed numbers."
    v = TWELVE.astype(np.int16) - 1000
    v[:3] = -2000
    def make(d):
        signed(d)
        d.PixelData = v.tobytes()
        d.add_new(0x00280120, 'SS', -2000)
        for k, x in fields.items(): setattr(d, k, x)
    y, real = read(dicom(make=make)), v[3:].astype(float)
    want = F.apply_window(real, 0, 2000) if 'WindowCenter' in fields else (real - real.min())/np.ptp(real)
    if 'PhotometricInterpretation' in fields: want = 1 - want
    assert (y[:3] == 0).all() and np.abs(y[3:] - want).max() < 1e-6
    def unsigned(d):
        make(d)
        del d[0x00280120]
        d.add_new(0x00280120, 'US', 2**16 - 2000)
    assert np.array_equal(read(dicom(make=unsigned)), y)


def test_dicom_padding_may_be_a_range(tmp_path):
    from visft_nb.finetune.lung import read_hu
    v = TWELVE.clip(100).copy()
    v[0], v[1], v[2] = 0, 20, 50
    blob = dicom(v, PixelPaddingValue=0, PixelPaddingRangeLimit=50, Modality='CT', RescaleSlope=1, RescaleIntercept=-1000)
    y = read(blob)
    assert (y[:3] == 0).all() and y[3:].min() == 0 and y.max() == 1 and np.ptp(y[3:]) == 1
    assert (read(dicom(np.full((H, W), 7, np.uint16), PixelPaddingValue=7)) == 0).all(), 'nothing but padding'
    (tmp_path/'a.dcm').write_bytes(blob)
    hu = read_hu(tmp_path/'a.dcm')
    assert (hu[:3] == -1024).all() and np.array_equal(hu[3:].numpy(), v[3:].astype(np.float32) - 1000)


def test_dicom_inverted_and_monochrome2_agree():
    negative = 4095 - TWELVE
    a, b = dicom(WindowCenter=2047.5, WindowWidth=3000, VOILUTFunction='LINEAR_EXACT'), dicom(negative, WindowCenter=2047.5, WindowWidth=3000, VOILUTFunction='LINEAR_EXACT', PhotometricInterpretation='MONOCHROME1')
    assert np.allclose(read(a), read(b), atol=1e-6)


def test_dicom_compressed_or_not_is_the_same():
    assert np.array_equal(read(dicom()), read(dicom(make=deflated))) and np.array_equal(read(dicom()), read(dicom(make=run_length)))


# ---------------------------------------------------------------- what unfolds to too much

def grown(megabytes):
    "A deflated DICOM file that unfolds to many megabytes, written without ever holding them."
    head = dicom(make=deflated)
    length = struct.unpack('<L', head[140:144])[0]
    out, stream = [head[:144 + length]], zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    out.append(stream.compress(struct.pack('<HH2sHL', 0x7fe0, 0x10, b'OW', 0, megabytes*2**20)))
    for _ in range(megabytes): out.append(stream.compress(bytes(2**20)))
    return b''.join(out) + stream.flush()


@pytest.fixture
def small_memory():
    "No more than 128 MB may be taken inside."
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**27, f'{peak/2**20:.0f} MB'


def test_a_deflated_dicom_is_stopped(tmp_path, small_memory):
    from visft_nb.finetune.lung import read_hu
    path = tmp_path/'bomb.dcm'
    path.write_bytes(blob := grown(600))
    assert len(blob) < 2**20
    for read in (lambda: read_image(path), lambda: read_hu(path), lambda: next(F.read_pictures(path))): sentence(read, 'bomb.dcm', 'deflated', '256 MB', 'too large')
    (tmp_path/'c'/'a').mkdir(parents=True)
    path.rename(tmp_path/'c'/'a'/'bomb.dcm')
    with refused(['bomb.dcm', 'deflated']): image_folder(tmp_path/'c')


@pytest.mark.parametrize('fields, words', [
    (dict(Rows=60000, Columns=60000), ['60000 x 60000', 'too large']), (dict(Rows=9000, Columns=9000, SamplesPerPixel=60000), ['too large']),
    (dict(NumberOfFrames=2**31 - 1), ['cannot be decoded']), (dict(Rows=0), ['cannot be decoded'])])
def test_a_dicom_that_declares_too_much_is_stopped(tmp_path, small_memory, fields, words):
    (tmp_path/'a.dcm').write_bytes(dicom(**fields))
    sentence(lambda: list(F.read_pictures(tmp_path/'a.dcm')), 'a.dcm', *words)


def test_run_lengths_that_fill_the_memory_are_stopped(tmp_path, small_memory):
    "4 MB of runs in a frame of 12 by 17 pixels, which would unfold to 256 MB."
    def make(d):
        from pydicom.encaps import encapsulate
        from pydicom.uid import RLELossless
        runs = b'\x81\0'*2**21
        d.file_meta.TransferSyntaxUID = RLELossless
        d.PixelData = encapsulate([struct.pack('<16L', 2, 64, 64 + len(runs)//2, *[0]*13) + runs])
        d['PixelData'].is_undefined_length = True
    (tmp_path/'a.dcm').write_bytes(dicom(make=make))
    sentence(lambda: read_image(tmp_path/'a.dcm'), 'a.dcm', 'unfolds to more')


def test_a_zip_of_bombs_is_stopped_in_training_and_prediction(tmp_path, monkeypatch):
    monkeypatch.setattr('visft_nb.data.entries.MOST', 2**25)
    with zipfile.ZipFile(tmp_path/'a.zip', 'w', zipfile.ZIP_DEFLATED) as z:
        for i in range(40): z.writestr(f'a/{i}.png', bytes(2**20))
    with refused(['a.zip', 'declares']): image_folder(tmp_path/'a.zip')
    assert 'declares' in next(iter_answers(opened(1), tmp_path/'a.zip')).error
    with zipfile.ZipFile(tmp_path/'b.zip', 'w', zipfile.ZIP_STORED) as z:
        for i in range(40): z.writestr(f'a/{i}.png', RNG.bytes(2**20))
    with refused(['no image format']): image_folder(tmp_path/'b.zip') # large because its files are large


# ---------------------------------------------------------------- MNIST and npz

MNIST = {'train-images-idx3-ubyte': (6, 28, 28), 'train-labels-idx1-ubyte': (6,), 't10k-images-idx3-ubyte': (4, 28, 28), 't10k-labels-idx1-ubyte': (4,)}


def idx(shape): return b'\0\0\x08' + bytes([len(shape)]) + struct.pack(f'>{len(shape)}I', *shape) + RNG.integers(0, 10, shape, dtype=np.uint8).tobytes()


@pytest.fixture
def mnist(tmp_path, monkeypatch):
    "Ten digits in the place of 70,000."
    from visft_nb.data import DATASETS
    monkeypatch.setitem(DATASETS['mnist'].images, 'train', 6); monkeypatch.setitem(DATASETS['mnist'].images, 'test', 4)
    monkeypatch.delenv('VISFT_DATA', raising=False); monkeypatch.setenv('VISFT_CACHE', str(tmp_path/'cache'))
    raw = tmp_path/'cache'/'MNIST'/'raw'
    raw.mkdir(parents=True)
    for n, shape in MNIST.items(): (raw/n).write_bytes(idx(shape))
    return raw


def test_mnist_is_read_as_torchvision_reads_it(mnist):
    from torchvision.datasets import MNIST as Theirs
    for split in ('train', 'test'):
        ours, theirs = load_dataset('mnist', split), Theirs(str(mnist.parents[1]), train=split == 'train')
        assert torch.equal(ours.images[:, 0], theirs.data) and torch.equal(ours.labels, theirs.targets)


@pytest.mark.parametrize('name', MNIST)
def test_a_half_downloaded_mnist_is_refused(mnist, name):
    from visft_nb.data import get_dataset
    whole = (mnist/name).read_bytes()
    spoiled = {'half': whole[:len(whole)//2], 'header': whole[:6], 'empty': b'', 'too long': whole + b'\0', 'another': idx((3, *MNIST[name][1:])), 'page': b'<html>' + bytes(50)}
    for kind, blob in spoiled.items():
        (mnist/name).write_bytes(blob)
        for call in (lambda: load_dataset('mnist', 'train'), lambda: load_dataset('mnist', 'test'), lambda: get_dataset('mnist')): sentence(call, name, 'delete', 'load')
        with refused([name]) as e: load_dataset('mnist')
        if kind == 'half' and len(blob) >= 8: assert f'{len(blob):,}' in str(e.value) and f'{len(whole):,}' in str(e.value)
    if 'train-images' not in name:
        (mnist/name).unlink()
        sentence(lambda: load_dataset('mnist'), name, 'missing', 'delete')


def test_an_idx_header_of_gigabytes_takes_no_memory(tmp_path, small_memory):
    (tmp_path/'x').write_bytes(b'\0\0\x08\4' + struct.pack('>4I', *[60000]*4) + bytes(50))
    sentence(lambda: read_idx(tmp_path/'x'), '60000 × 60000', 'delete')


def medmnist(folder, **changed):
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {f'{s}_images': np.full((4, 28, 28), 7, np.uint8) for s in ('train', 'val', 'test')} | {f'{s}_labels': np.array([[0], [1], [0], [1]], np.uint8) for s in ('train', 'val', 'test')}
    np.savez(folder/'pneumoniamnist.npz', **{k: v for k, v in (arrays | changed).items() if v is not None})
    return folder/'pneumoniamnist.npz'


@pytest.mark.parametrize('changed, words', [
    (dict(train_labels=np.array([['a']]*4)), ['train_labels']), (dict(train_images=np.zeros((4, 28, 28))), ['float64', 'uint8']),
    (dict(train_images=np.zeros((3, 28, 28), np.uint8)), ['3 rows of whole numbers']), (dict(train_labels=None), ['train_labels missing', 'train_images']), (dict(train_labels=np.array([None]*4)), ['Python objects'])])
def test_an_npz_of_another_shape_is_named(tmp_path, changed, words):
    medmnist(tmp_path/'pneumoniamnist', **changed)
    with refused(['pneumoniamnist.npz', 'get pneumoniamnist again', *words]): load_dataset('pneumoniamnist', root=tmp_path)


def test_an_npz_whose_header_says_gigabytes_takes_no_memory(tmp_path, small_memory):
    path = medmnist(tmp_path/'pneumoniamnist')
    assert len(load_dataset('pneumoniamnist', root=tmp_path)) == 4
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, dict(descr='|u1', fortran_order=False, shape=(10**8, 1000)))
    with zipfile.ZipFile(path, 'w') as z: z.writestr('train_images.npy', file.getvalue() + bytes(100)); z.writestr('train_labels.npy', b'no array')
    with refused(['train_images', '100,000,000,000', '100 are there']): load_dataset('pneumoniamnist', root=tmp_path)
    with refused(['pneumoniamnist.npz', 'no npz file']): read_arrays(path, ['train_labels'])
    raw = medmnist(tmp_path/'pneumoniamnist').read_bytes()
    path.write_bytes(raw[:len(raw)//2])
    with refused(['pneumoniamnist.npz', 'npz']): load_dataset('pneumoniamnist', root=tmp_path)


def test_npz_arrays_are_numpys(tmp_path):
    want = dict(a=RNG.normal(size=(3, 4)), b=np.asfortranarray(RNG.integers(0, 9, (5, 6))), c=np.array(['x', 'yy']), d=np.float32(3), e=np.zeros((0, 3)))
    for save in (np.savez, np.savez_compressed):
        save(tmp_path/'a.npz', **want)
        found = read_arrays(tmp_path/'a.npz')
        assert list(found) == list(want) and all(np.array_equal(found[k], v) and found[k].dtype == v.dtype for k, v in want.items())


def test_a_model_saved_again_keeps_the_range_of_its_images(tmp_path):
    model = small_cnn()
    save_model(model, tmp_path/'a.safetensors', size=28, in_range=(0, 4095))
    save_model(load_model(tmp_path/'a.safetensors', 'cpu'), tmp_path/'b.safetensors')
    assert load_model(tmp_path/'b.safetensors', 'cpu').spec['in_range'] == [0, 4095]
