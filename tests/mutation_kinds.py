"""What is put before the readers: a small valid input of every kind, what its readers are, and how an answer is judged.

`python tests/mutation_kinds.py --each 500 [KIND …]` runs a campaign and prints, kind by kind, what came out."""
import argparse, collections, csv, io, json, math, tempfile, time
from functools import cache, partial

import numpy as np
import torch
from PIL import Image

import mutations as m
from mutations import Kind
from visft_nb.data import Images, corrupt_files, csv_images, image_folder, load_dataset, mask_pairs

CLASSES = ('ant', 'bee', 'cat')
_rng = partial(np.random.default_rng, 7)


def pixels(n=1, side=16, channels=1): return _rng().integers(0, 255, (n, side, side) if channels == 1 else (n, side, side, channels), dtype=np.uint8)


# --- judges ---

def images_judge(d, path=None):
    "`Images` that can be right: as many of each column as images, classes that exist, finite labels."
    assert isinstance(d, Images) and len(d), d
    d.__post_init__()
    if d.labels is not None: assert d.labels.isfinite().all() and (not d.classes or len(d.classes) < 1000), d
    if d.classes: assert all(isinstance(c, str) and c for c in d.classes) and len(set(d.classes)) == len(d.classes), d.classes

def csv_judge(d, path):
    "What Python's own csv module reads is what was answered."
    images_judge(d)
    rows = list(csv.reader(io.StringIO(path.read_bytes().decode('utf-8-sig'), newline='')))
    rows = [r for r in rows if any(c.strip() for c in r)]
    head, rows = rows[0], rows[1:]
    assert all(len(r) == len(head) for r in rows), 'rows of different lengths'
    assert len(set(head)) == len(head), f'a column stands twice: {head}'
    column = lambda name: [r[head.index(name)] for r in rows]
    assert d.names == column('image'), (d.names, column('image'))
    for y, text in zip(d.labels.tolist(), column('label')):
        assert float(text) == y or math.isclose(float(text), y, rel_tol=1e-6) if isinstance(y, float) or not d.classes else d.classes[y] == text or float(text) == float(d.classes[y]), (y, text)
    if d.groups is not None:
        texts = column('patient' if 'patient' in head else 'group')
        assert all(texts), 'a group without a name'
        assert [a == b for a in texts for b in texts] == [a == b for a in d.groups for b in d.groups], 'groups were joined'

def frame_judge(f, path=None):
    "Answers of a model: labels that exist, probabilities that are some."
    assert len(f) and set(f.label) <= {*CLASSES, *"012"}, f   # without names a class is its number
    assert f.probability.between(1/3 - 1e-6, 1 + 1e-6).all() and np.isfinite(f.filter(like='probability').to_numpy(float)).all(), f

def pixels_judge(x, path=None): assert torch.is_tensor(x) and x.is_floating_point() and x.ndim == 3 and x.isfinite().all() and x.min() >= 0 and x.max() <= 1, x

def literal(v):
    return v is None or isinstance(v, (bool, int, float, str, bytes, complex)) or v is Ellipsis or (isinstance(v, (list, tuple, set)) and all(map(literal, v))) \
        or isinstance(v, dict) and all(map(literal, [*v, *v.values()]))

def parameters_judge(p, path=None): assert isinstance(p, dict) and all(isinstance(k, str) and k.isupper() and literal(v) for k, v in p.items()), p

def same_images(a, b): return torch.equal(a.images, b.images) and (a.labels is None or torch.equal(a.labels, b.labels)) and a.classes == b.classes and a.groups == b.groups

def same_frame(a, b): return a.equals(b)

def same_json(a, b): return json.dumps(a, sort_keys=True, default=str) == json.dumps(b, sort_keys=True, default=str)


# --- notebooks, settings, expectations, records ---

def _cell(kind, source, i, **more):
    return dict(cell_type=kind, id=f'c{i}', metadata=more.pop('metadata', {}), source=source, **({'outputs': more.get('outputs', []), 'execution_count': None} if kind == 'code' else {}))

def notebook_bytes():
    from visft_nb.core import RECORD_MIME
    out = [dict(output_type='display_data', metadata={}, data={RECORD_MIME: {'clean': 97.5, 'ok': True}, 'text/plain': ['clean 97.5']})]
    cells = [_cell('markdown', ['# Title\n', '\n', '> You can do it\n', '\n', '**Time**: 2 minutes. **Exports**: `visft_nb.thing`'], 0),
             _cell('code', 'EPOCHS = 3\nRATE = 0.1\nNAMES = ["a", "b"]\nNEST = {"a": (1, 2)}', 1, metadata=dict(tags=['parameters'])),
             _cell('code', ['#| export\n', 'def f(x):\n', '    "Doubles."\n', '    return 2*x*EPOCHS*RATE*len(NAMES)*len(NEST)'], 2, outputs=out)]
    return json.dumps(dict(cells=cells, metadata=dict(kernelspec=dict(name='python3', display_name='python3', language='python'), visft=dict(profile='night')), nbformat=4, nbformat_minor=5), indent=1).encode()

def parameters_cell(b, rng):
    "The source of the parameters cell, broken."
    nb = json.loads(b)
    new = ['EPOCHS = ', 'EPOCHS = (', 'EPOCHS = 3\n  RATE = 1', 'EPOCHS: int = 3', 'EPOCHS, RATE = 1, 2', 'EPOCHS = RATE = 1', 'EPOCHS += 1', 'epochs = 3', 'EPOCHS = open("x")', 'EPOCHS = ' + '('*3000 + ')'*3000,
           'EPOCHS = ' + '-'*50_000 + '1', 'EPOCHS = {[]: 1}', 'EPOCHS = 1\0', 'EPOCHS = ' + '9'*5000, 'A.B = 1', 'A[0] = 1', 'EPOCHS = 1e999', 'EPOCHS = 3\nEPOCHS = 4', 'É = 1', '%time EPOCHS = 3', '?', '\ud800', "EPOCHS = '" + 'x'*10**6 + "'",
           'EPOCHS = 1; RATE = 2', '"doc"', 'del EPOCHS', 'EPOCHS = f"{1}"', 'EPOCHS = "\\ud800"', 'EPOCHS = "\\N{nothing}"', 'EPOCHS = 0777', '[' * 500, 'EPOCHS = ' + '+'.join(['1']*20_000)]
    nb['cells'][1]['source'] = new[rng.integers(len(new))]
    return m._dump(nb)

def notebook_collect(path):
    from visft_nb.course.book import read_notebook
    from visft_nb.course.records import collect, saved_profile
    nb = read_notebook(path)
    return collect(nb), saved_profile(nb)

def collect_judge(a, path=None):
    records, profile = a
    assert isinstance(profile, str) and all(isinstance(k, str) and isinstance(v, (str, bool, int, float)) and (not isinstance(v, float) or math.isfinite(v)) for k, v in records.items()), a

def about_judge(a, path=None): assert set(a) == {'title', 'promise', 'time', 'exports'} and all(isinstance(v, str) and (k == 'title' or '\n' not in v) for k, v in a.items()), a

def notebook_kind():
    from visft_nb.course.book import about, read_notebook
    from visft_nb.course.docs import exported
    from visft_nb.course.profiles import dead_parameters, parameters
    calls = dict(read=read_notebook, about=about, parameters=parameters, dead=dead_parameters, exported=exported, collect=notebook_collect)
    judge = dict(read=lambda nb, path: [c['source'].encode('utf-8', 'replace') for c in nb['cells']], about=about_judge, parameters=parameters_judge, collect=collect_judge)
    return Kind('notebook', lambda folder: _written(folder/'a.ipynb', notebook_bytes()), [*m.TEXT, *m.JSON*2, *[parameters_cell]*6], calls, judge, {'cut', 'empty'}, same_json, {'collect'})

def _written(path, b):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b)
    return path

def _book(folder):
    (folder/'nbs').mkdir(exist_ok=True)
    (folder/'nbs'/'a.ipynb').write_bytes(notebook_bytes())
    if not (folder/'settings.ini').exists(): (folder/'settings.ini').write_bytes(SETTINGS)
    (folder/'pyproject.toml').write_text('[project.urls]\nRepository = "https://github.com/a/b"\n')
    return folder

SETTINGS = b"# profiles\n[gpu]\nEPOCHS = 30\n\n[smoke]\nEPOCHS = 1\nNAMES = ['a']\n\n[smoke a]\nRATE = 0.5\n"

def settings_kind():
    from visft_nb.course.profiles import check_settings, overrides, read_settings
    def valid(folder): _book(folder); return folder/'settings.ini'
    def judge(s, path): assert all(p and isinstance(n, str) and isinstance(v, dict) and all(map(literal, v.values())) for (p, n), v in s.items()), s
    def faults(a, path): assert isinstance(a, list) and all(isinstance(v, str) and '\n' not in v for v in a), a
    return Kind('settings.ini', valid, [*m.TEXT, m.blank_lines, settings_value, settings_value],
                dict(read=lambda p: read_settings(p.parent), check=lambda p: check_settings(p.parent), overrides=lambda p: overrides('a', 'smoke', None, p.parent)), dict(read=judge, check=faults), unnamed={'overrides'})

def settings_value(b, rng):
    new = [b'EPOCHS = ' + b'('*3000 + b')'*3000, b'EPOCHS = {[]: 1}', b'EPOCHS = ' + b'-'*100_000 + b'1', b'EPOCHS', b'= 3', b'EPOCHS = ', b'[smoke', b'[smoke]\n', b'[]', b'[ ]', b'EPOCHS = 1\n two', b'EPOCHS = 1\nEPOCHS = 2',
           b'EPOCHS = 1\0', b'EPOCHS = ' + b'9'*5000, b'EPOCHS = 1e999', b'EPOCHS = nan', b"EPOCHS = '\\ud800'", b'[smoke a b]', b'[DEFAULT]\nEPOCHS = 7', b'EPOCHS : 3', b'EPOCHS = ' + b'+'.join([b'1']*20_000), b'[' * 500]
    lines = b.split(b'\n')
    lines.insert(int(rng.integers(len(lines))), new[rng.integers(len(new))])
    return b'\n'.join(lines)

EXPECTED = dict(clean=dict(value=97.5, abs=.5, rel=.01, why='seeds'), gain=dict(min=1, max=3, why='a bound'), said=dict(equals='ok', why='text'), _run=dict(seconds=12, cores=2, memory_mb=700))

def expected_kind():
    from visft_nb.course.records import compare, load_expected
    def valid(folder): return _written(_book(folder)/'tests/expected/smoke/a.json', json.dumps(EXPECTED, indent=1).encode())
    load = lambda p: load_expected('a', 'smoke', p.parents[3])
    rows = lambda p: compare(dict(clean=97.6, gain=2., said='ok'), load(p))
    def judge(a, path):
        assert all(r['verdict'] in ('ok', 'differs', 'missing', 'not expected') and isinstance(r['expected'], str) for r in a), a
        left = json.loads(path.read_bytes())
        for r in a: # a bound that is none can not be met
            e = left.get(r['name'])
            if r['verdict'] == 'ok': assert any(k in e for k in ('value', 'min', 'max', 'equals')) and all(isinstance(e[k], (int, float)) and not isinstance(e[k], bool) and math.isfinite(e[k]) for k in ('value', 'abs', 'rel', 'min', 'max') if k in e), r
    return Kind('expected', valid, [*m.TEXT, *m.JSON*4], dict(load=load, compare=rows), dict(compare=judge), {'cut', 'empty', 'double_key'}, same_json)

def project_kind():
    from visft_nb.course.book import repository
    from visft_nb.course.docs import _package
    def valid(folder): return _written(folder/'pyproject.toml', b'[project]\nname = "a-b"\n[tool.x]\nn = 3\n[project.urls]\nRepository = "https://github.com/a/b"\n')
    def judge(a, path): assert isinstance(a, str) and a, a
    return Kind('pyproject.toml', valid, m.TEXT, dict(repository=lambda p: repository.__wrapped__(p.parent), package=lambda p: _package(p.parent)), dict(repository=judge, package=judge), unnamed={'repository'})

def site_kind():
    from visft_nb.course.docs import chapters
    def valid(folder): return _written(_book(folder)/'_quarto.yml', b'website:\n  title: T\n  sidebar:\n    contents:\n      - "*.ipynb"\n      - section: One\n        contents: "1_cnn/*.ipynb"\n')
    def judge(a, path): assert sum((names for _, names in a), []) == ['a'], a
    return Kind('_quarto.yml', valid, m.TEXT, dict(chapters=lambda p: chapters(p.parent)), dict(chapters=judge))

RUN = dict(name='ants', images=dict(train={'ant': 6, 'bee': 6}, report={'ant': 2, 'bee': 2}), left_out=[], accuracy=75., low=30.1, high=95.4, right=3, of=4, majority=50., how='linear', confusion=[[2, 0], [1, 1]],
           classes=dict(ant=dict(precision=.67, recall=1., f1=.8, images=2), bee=dict(precision=1., recall=.5, f1=.67, images=2)), wrong=[], leaks=[], leaks_searched='none', accuracy_without_leaks=75.,
           settings=dict(folder='ants', size=32), machine=dict(device='cpu', seconds=3.1))

def records_kind():
    from visft_nb.deploy import model_card
    def judge(text, path): assert text.startswith('---') and 'nan' not in text.lower().split('## figures')[-1].split('##')[0], text
    return Kind('records.json', lambda folder: _written(folder/'records.json', json.dumps(RUN, indent=1).encode()), [*m.TEXT, *m.JSON*4], dict(card=lambda p: model_card(p.parent)), dict(card=judge), {'cut', 'empty'}, same_json)


# --- tables, arrays, folders, zips ---

def _pngs(folder, names, side=16, channels=1):
    for n, a in zip(names, pixels(len(names), side, channels)):
        (folder/n).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(a).save(folder/n)

def table_kind(label):
    def valid(folder):
        names = [f'{i}.png' for i in range(6)]
        _pngs(folder, names)
        labels = dict(text=['ant', 'bee', 'ant', 'cat', 'bee', 'ant'], whole=[0, 1, 0, 2, 1, 0], decimal=[.5, 1.25, -3, 0, 2.5, 7])[label]
        return _written(folder/'t.csv', ''.join(f'{i},{y},p{k//2}\n' for k, (i, y) in enumerate([('image', 'label'), *zip(names, labels)])).replace('label,p0', 'label,patient').encode())
    return Kind(f'csv {label}', valid, [*m.TEXT, *m.TABLES*4], dict(read=csv_images), dict(read=csv_judge))

def _npz(path, **arrays):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays)
    return path

def medmnist_kind():
    def valid(folder):
        a = lambda n: dict(images=pixels(n, 28), labels=np.arange(n, dtype=np.uint8)[:, None] % 2)
        return _npz(folder/'pneumoniamnist/pneumoniamnist.npz', **{f'{s}_{k}': v for s, n in (('train', 8), ('val', 4), ('test', 4)) for k, v in a(n).items()})
    calls = {s: lambda p, s=s: load_dataset('pneumoniamnist', s, p.parents[1]) for s in ('train', 'all')}
    return Kind('npz medmnist', valid, m.NPZ, calls, dict.fromkeys(calls, med_judge), {'cut', 'empty', 'flip', 'zeros'}, same_images)

def med_judge(d, path):
    images_judge(d)
    assert d.images.shape[1:] in ((1, 28, 28), (3, 28, 28)) and d.labels.shape == (len(d),) and d.labels.dtype == torch.int64, d

def volumes_kind():
    from visft_nb.finetune.medmnist import load_medmnist
    def valid(folder):
        v = lambda n: _rng().integers(0, 255, (n, 8, 8, 8), dtype=np.uint8)
        return _npz(folder/'nodulemnist3d.npz', **{f'{s}_{k}': a for s, n in (('train', 6), ('val', 4), ('test', 4)) for k, a in dict(images=v(n), labels=np.arange(n, dtype=np.uint8)[:, None] % 2).items()})
    return Kind('npz volumes', valid, m.NPZ, dict(train=lambda p: load_medmnist('nodulemnist3d', 'train', p.parent)), dict(train=images_judge), {'cut', 'empty', 'flip', 'zeros'}, same_images)

def lidc_kind():
    def valid(folder):
        n, rng = 134, _rng()
        v = rng.integers(0, 255, (n, 3, 6, 6), dtype=np.uint8)
        return _npz(folder/'lidc_nodules_3d/lidc.npz', volumes=v, masks=v > 128, names=np.array([f'n{i}' for i in range(n)]), patient=np.array([f'p{i//2}' for i in range(n)]),
                    meta_malignancy=rng.integers(1, 6, n).astype(np.float32), meta_texture=rng.integers(1, 6, n).astype(np.float32))
    return Kind('npz lidc', valid, m.NPZ, dict(train=lambda p: load_dataset('lidc_nodules', 'train', p.parents[1])), dict(train=images_judge), {'cut', 'empty', 'flip', 'zeros'}, same_images)

def _class_zip(folder):
    _pngs(folder/'in', [f'{c}/{i}.png' for c in ('ant', 'bee') for i in range(3)])
    members = [(str(p.relative_to(folder/'in')), p.read_bytes()) for p in sorted((folder/'in').rglob('*.png'))]
    return _written(folder/'set.zip', m._archive(members))

def zip_kind():
    from visft_nb.finetune.folder import find_splits
    def splits(a, path): assert isinstance(a, dict) and a, a
    calls = dict(folder=image_folder, skip=lambda p: image_folder(p, corrupt='skip'), corrupt=corrupt_files, splits=find_splits)
    return Kind('zip of classes', _class_zip, m.ZIPS, calls, dict(folder=images_judge, skip=images_judge, splits=splits), {'cut', 'empty', 'member_link'}, lambda a, b: same_images(a, b) if isinstance(a, Images) else hasattr(a, 'equals') or a == b)

def pairs_kind():
    def valid(folder):
        _pngs(folder/'in', [f'image/{i}.png' for i in range(3)])
        for i in range(3): (folder/f'in/label/{i}.png').parent.mkdir(exist_ok=True); Image.fromarray((pixels() [0] > 128).astype(np.uint8)*255).save(folder/f'in/label/{i}.png')
        return _written(folder/'pairs.zip', m._archive([(p.relative_to(folder/'in').as_posix(), p.read_bytes()) for p in sorted((folder/'in').rglob('*.png'))]))
    return Kind('zip of pairs', valid, m.ZIPS, dict(pairs=lambda p: mask_pairs(p/'image', p/'label')), dict(pairs=images_judge), {'cut', 'empty'}, same_images)


# --- pictures ---

FORMATS = {'png': {}, 'jpg': {}, 'gif': {}, 'bmp': {}, 'webp': dict(lossless=True), 'tif': {}, 'ppm': {}}

def picture_kind(end):
    from visft_nb.deploy import read_image
    def valid(folder):
        Image.fromarray(pixels(1, 24, 3)[0]).save(folder/f'a/x.{end}' if (folder/'a').mkdir(exist_ok=True) is None else None, **FORMATS[end])
        return folder/f'a/x.{end}'
    calls = dict(read=read_image, folder=lambda p: image_folder(p.parents[1]))
    return Kind(f'picture {end}', valid, m.BYTES, calls, dict(read=pixels_judge, folder=images_judge), {'cut', 'empty'}, lambda a, b: torch.equal(a, b) if torch.is_tensor(a) else same_images(a, b))

def dicom_kind():
    from visft_nb.deploy import read_image
    from visft_nb.finetune.work import write_dicom
    def valid(folder):
        write_dicom(folder/'x.dcm', (pixels()[0].astype(np.uint16)*16), window=(1000, 2000), spacing=(.5, .5))
        return folder/'x.dcm'
    return Kind('picture dicom', valid, [*m.BYTES, dicom_value, dicom_value, dicom_value], dict(read=read_image), dict(read=pixels_judge), {'empty'}, torch.equal)

def dicom_value(b, rng):
    import pydicom
    d = pydicom.dcmread(io.BytesIO(b))
    change = [('Rows', 0), ('Rows', 65535), ('Columns', 3), ('BitsStored', 0), ('BitsStored', 200), ('BitsAllocated', 64), ('SamplesPerPixel', 3), ('PhotometricInterpretation', 'PALETTE COLOR'), ('PhotometricInterpretation', 'x'),
              ('WindowWidth', 0), ('WindowWidth', '-1'), ('WindowCenter', None), ('NumberOfFrames', 10**6), ('NumberOfFrames', -1), ('RescaleSlope', '1e300'), ('RescaleSlope', 0), ('RescaleIntercept', None), ('PixelData', b''), ('PixelData', b'\0'*7),
              ('VOILUTFunction', 'SIGMOIDAL'), ('PixelRepresentation', 7), ('HighBit', 99)]
    k, v = change[rng.integers(len(change))]
    out = io.BytesIO()
    try:
        setattr(d, k, v)
        d.save_as(out, enforce_file_format=True)
    except Exception: return b # pydicom will not write it
    return out.getvalue()


# --- model files ---

@cache
def model():
    from visft_nb.cnn.models import small_cnn
    torch.manual_seed(0)
    return small_cnn(classes=3, width=4, channels=1).eval()

def _picture_beside(folder):
    Image.fromarray(pixels()[0]).save(folder/'x.png')
    return folder/'x.png'

def model_kind():
    from visft_nb.deploy import load_model, predict, save_model
    def valid(folder):
        _picture_beside(folder)
        save_model(model(), folder/'m.safetensors', kwargs=dict(classes=3, width=4, channels=1), classes=CLASSES, size=16, channels=1)
        return folder/'m.safetensors'
    calls = dict(load=load_model, predict=lambda p: predict(p, p.parent/'x.png', min_confidence=.8), card=lambda p: __import__('visft_nb.deploy', fromlist=['x']).model_card(p))
    return Kind('model safetensors', valid, m.SAFETENSORS, calls, dict(predict=frame_judge), {'cut', 'empty', 'weights'}, lambda a, b: isinstance(a, str) or hasattr(a, 'equals') and a.equals(b))

def checkpoint_kind():
    from visft_nb.train import fit, load_checkpoint
    batches = [(torch.zeros(2, 1, 4, 4), torch.tensor([0, 1]))]
    net = lambda: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2))
    def resume(p): return len(fit(net(), batches, epochs=2, checkpoint=p, bar=False, precision='fp32').steps)
    def valid(folder):
        fit(net(), batches, epochs=2, checkpoint=folder/'c.safetensors', bar=False, precision='fp32')
        return folder/'c.safetensors'
    def judge(n, path): assert n == 2, n
    return Kind('checkpoint', valid, m.SAFETENSORS, dict(load=load_checkpoint, resume=resume), dict(resume=judge), {'cut', 'empty'}, lambda a, b: False)

def onnx_bytes():
    from onnx import TensorProto, helper, numpy_helper
    w = numpy_helper.from_array(_rng().normal(0, 1, (256, 3)).astype(np.float32), 'w')
    nodes = [helper.make_node('Flatten', ['images'], ['flat']), helper.make_node('MatMul', ['flat', 'w'], ['logits'])]
    info = lambda n, s: helper.make_tensor_value_info(n, TensorProto.FLOAT, s)
    g = helper.make_graph(nodes, 'g', [info('images', ['batch', 1, 16, 16])], [info('logits', ['batch', 3])], [w])
    proto = helper.make_model(g, opset_imports=[helper.make_opsetid('', 17)], ir_version=8)
    from visft_nb.deploy import model_spec
    for k, v in model_spec(CLASSES, 16, 1).items(): proto.metadata_props.add(key=k, value=json.dumps(v))
    return proto.SerializeToString()

def onnx_kind():
    from visft_nb.deploy import load_onnx, predict
    def valid(folder): _picture_beside(folder); return _written(folder/'m.onnx', onnx_bytes())
    return Kind('model onnx', valid, m.ONNX, dict(load=load_onnx, predict=lambda p: predict(p, p.parent/'x.png', min_confidence=.8)), dict(predict=frame_judge), {'empty', 'onnx_weights'}, lambda a, b: isinstance(a, tuple) or a.equals(b))   # what is loaded computes nothing yet


KINDS = {'notebook': notebook_kind, 'settings.ini': settings_kind, 'expected': expected_kind, 'pyproject.toml': project_kind, '_quarto.yml': site_kind, 'records.json': records_kind,
         **{f'csv {n}': partial(table_kind, n) for n in ('text', 'whole', 'decimal')}, 'npz medmnist': medmnist_kind, 'npz volumes': volumes_kind, 'npz lidc': lidc_kind,
         'zip of classes': zip_kind, 'zip of pairs': pairs_kind, **{f'picture {e}': partial(picture_kind, e) for e in FORMATS}, 'picture dicom': dicom_kind,
         'model safetensors': model_kind, 'checkpoint': checkpoint_kind, 'model onnx': onnx_kind}


def main():
    parse = argparse.ArgumentParser(description=__doc__)
    parse.add_argument('kinds', nargs='*', help='parts of names; none: all')
    parse.add_argument('--each', type=int, default=200, help='mutants of each kind')
    parse.add_argument('--seed', type=int, default=0, help='of the first')
    asked = parse.parse_args()
    total = collections.Counter()
    for name, make in KINDS.items():
        if asked.kinds and not any(k in name for k in asked.kinds): continue
        kind = make()
        count, seen, start = collections.Counter(), {}, time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            for seed, how, call, o in m.try_mutants(kind, folder, range(asked.seed, asked.seed + asked.each)):
                count[o.kind] += 1
                if not o.fine: seen.setdefault((o.kind, call, o.what.split(' in ')[0][:70]), []).append((seed, how, o.what))
        total += count
        print(f'{kind.name:<18} {asked.each} mutants, {sum(count.values())} calls:', ', '.join(f'{k} {n}' for k, n in sorted(count.items())), f'({time.perf_counter() - start:.0f} s)', flush=True)
        for (kind_, call, _), found in sorted(seen.items(), key=lambda kv: -len(kv[1])):
            seed, how, what = found[0]
            print(f'    {len(found):>4} {kind_:<9} {call:<10} {how:<16} seed {seed:<6} {what[:220]}')
    print('total', sum(total.values()), 'calls:', dict(total))


if __name__ == '__main__': main()
