"Deployment: files that hold all a model needs, graphs equal to the model, answers about new images, and a sentence for everything else."
import errno, json, pickle, shutil, struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from helpers import sentence
from visft_nb.deploy import onnx as deploy
from visft_nb.cnn.models import small_cnn
from visft_nb.core import InputError
from visft_nb.data import Images
from visft_nb.data import entries
from visft_nb.data.files import fit_image
from visft_nb.deploy import (build_model, check_onnx, export_onnx, find_builder, load_model, load_onnx, model_spec, predict, prepare_image, read_image,
                             save_model)
from visft_nb.train import load_checkpoint, predict_logits, save_checkpoint

CLASSES = ('ant', 'bee', 'cat')
KWARGS = dict(classes=3, width=4)


def make(channels=1, seed=0):
    "A small network whose batch norm has statistics of its own, in eval mode."
    torch.manual_seed(seed)
    model = small_cnn(**KWARGS, channels=channels)
    with torch.no_grad():
        for _ in range(3): model(torch.rand(16, channels, 20, 20))
        model.head.weight.mul_(8)
    return model.eval()


@pytest.fixture(scope='module')
def model(): return make()


@pytest.fixture(scope='module')
def example(): return torch.rand(1, 1, 20, 20, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope='module')
def files(model, example, tmp_path_factory):
    "One folder with the model in every format."
    top = tmp_path_factory.mktemp('models')
    for name in ('dynamo', 'trace'): export_onnx(model, top/f'{name}.onnx', example, CLASSES, dynamo=name == 'dynamo')
    save_model(model, top/'net.safetensors', kwargs=KWARGS, classes=CLASSES, size=20)
    return top


@pytest.fixture
def pictures(tmp_path):
    "The same picture as files of many kinds."
    a = np.random.default_rng(0).integers(0, 256, (20, 20), dtype=np.uint8)
    gray = Image.fromarray(a)
    for end in ('png', 'tif', 'bmp', 'jpg'): gray.save(tmp_path/f'gray.{end}', **({'quality': 100} if end == 'jpg' else {}))
    for mode in ('RGB', 'P', 'RGBA', 'LA'): gray.convert(mode).save(tmp_path/f'{mode}.png')
    Image.fromarray(a.astype(np.uint16)*257).save(tmp_path/'deep.png')
    Image.fromarray(a.astype(np.uint16)*257).save(tmp_path/'deep.tif')
    return tmp_path


# ---------------------------------------------------------------- one file

def test_deploy_model_comes_back_bit_for_bit_and_in_eval_mode(files, model):
    again = load_model(files/'net.safetensors')
    x = torch.rand(5, 1, 20, 20)
    assert torch.equal(predict_logits(again.cpu(), x)[0], predict_logits(model, x)[0])
    assert not any(m.training for m in again.modules())
    assert again.spec == model_spec(CLASSES, 20, 1, builder='visft_nb.cnn.models:small_cnn', kwargs=KWARGS)


def test_deploy_saving_and_loading_change_nothing_outside(tmp_path, model):
    model.train(); torch.manual_seed(5); before = torch.rand(1)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    torch.manual_seed(5)
    save_model(model, tmp_path/'a.safetensors', kwargs=KWARGS, size=20)
    load_model(tmp_path/'a.safetensors')
    assert torch.rand(1) == before and all(m.training for m in model.modules())
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    model.eval()


def test_deploy_extra_and_defaults_travel(tmp_path):
    save_model(small_cnn(), tmp_path/'a.safetensors', accuracy=np.float64(97.5), note={'data': ['mnist5k', None]})
    spec = load_model(tmp_path/'a.safetensors').spec
    assert spec['accuracy'] == 97.5 and spec['note'] == {'data': ['mnist5k', None]} and spec['size'] is None and spec['channels'] == 1


def test_deploy_a_file_that_would_build_another_network_is_not_written(tmp_path, model):
    path = tmp_path/'a.safetensors'
    path.write_bytes(b'old')
    for kwargs, words in ((None, 'body.0.0.weight'), (dict(classes=4, width=4), 'head.weight'), (dict(depth=3), 'depth')):
        with pytest.raises(InputError, match=words): save_model(model, path, kwargs=kwargs)
    assert path.read_bytes() == b'old' and len(list(tmp_path.iterdir())) == 1


def test_deploy_same_weights_but_another_function_is_not_written(tmp_path, model):
    from copy import deepcopy
    other = deepcopy(model)
    other.body[0][2] = nn.LeakyReLU(.5)
    with pytest.raises(InputError, match='other outputs'): save_model(other, tmp_path/'a.safetensors', kwargs=KWARGS, size=20)


# ---------------------------------------------------------------- builders

@pytest.mark.parametrize('name', ['os:system', 'subprocess:Popen', 'torch.nn:Linear', 'visft_nb:core', 'visft_nb.cnn.models:_check_images', 'visft_nb.core:os.system', 'visft_nb..core:x',
                                  'visft_nb.core:atomic_write', 'visft_nb.train:save_checkpoint', 'visft_nb.deploy:nn', 'visft_nb.__main__:app', 'xvisft_nb.cnn.models:small_cnn',
                                  'visft_nb.cnn.models:small_cnn\n', 'visft_nb.no.such:net', 'visft_nb.course.cli:main', None, 3])
def test_deploy_only_builders_of_this_package(name):
    with pytest.raises(InputError): find_builder(name)


def test_deploy_a_refused_builder_is_neither_imported_nor_called(tmp_path, monkeypatch):
    (tmp_path/'trap.py').write_text('open("sprung", "w")')
    monkeypatch.syspath_prepend(tmp_path); monkeypatch.chdir(tmp_path)
    spec = model_spec(size=20, builder='trap:f', kwargs={})
    save_checkpoint(tmp_path/'a.safetensors', spec=spec, model={})
    with pytest.raises(InputError, match='trap:f'): load_model('a.safetensors')
    spec = model_spec(size=20, builder='visft_nb.train:save_checkpoint', kwargs={'path': 'sprung'})
    save_checkpoint(tmp_path/'b.safetensors', spec=spec, model={})
    with pytest.raises(InputError, match='save_checkpoint'): load_model('b.safetensors')
    assert not (tmp_path/'sprung').exists()


# ---------------------------------------------------------------- ONNX

@pytest.mark.parametrize('name', ['dynamo', 'trace'])
def test_deploy_onnx_equals_torch_at_any_batch(files, model, name):
    run, spec = load_onnx(files/f'{name}.onnx')
    for n in (1, 2, 7, 33):
        x = torch.rand(n, 1, 20, 20)
        y = predict_logits(model, x)[0]
        assert (run(x) - y).abs().max() < 1e-5*max(1, y.abs().max()) and torch.equal(run(x).argmax(1), y.argmax(1))
    assert spec == model_spec(CLASSES, 20, 1)


def test_deploy_a_loaded_model_is_exported_with_its_classes(files, tmp_path, example):
    export_onnx(load_model(files/'net.safetensors', 'cpu'), tmp_path/'a.onnx', example, dynamo=False)
    assert load_onnx(tmp_path/'a.onnx')[1]['classes'] == list(CLASSES)


def test_deploy_a_colour_model_takes_gray_images(tmp_path):
    net = make(3)
    kwargs = KWARGS | {'channels': 3}
    save_model(net, tmp_path/'a.safetensors', kwargs=kwargs, size=(20, 24), classes=CLASSES)
    export_onnx(load_model(tmp_path/'a.safetensors'), tmp_path/'a.onnx', torch.rand(2, 3, 20, 24), dynamo=False)
    x = torch.rand(3, 1, 20, 24)
    p = predict_logits(net, x.expand(-1, 3, -1, -1))[0].softmax(1).max(1).values
    for name in ('a.onnx', 'a.safetensors'): assert np.allclose(predict(tmp_path/name, x).probability, p, atol=1e-5)


def test_deploy_both_exporters_agree_in_one_file_without_paths(files):
    x = torch.rand(7, 1, 20, 20)
    a, b = (load_onnx(files/f'{n}.onnx')[0](x) for n in ('dynamo', 'trace'))
    assert torch.allclose(a, b, atol=1e-5)
    assert sorted(p.name for p in files.iterdir()) == ['dynamo.onnx', 'net.safetensors', 'trace.onnx']
    for n in ('dynamo', 'trace'): assert b'.py' not in (files/f'{n}.onnx').read_bytes()


def test_deploy_onnx_passes_its_own_checker(files):
    onnx = pytest.importorskip('onnx')
    for n in ('dynamo', 'trace'):
        proto = onnx.load(files/f'{n}.onnx')
        onnx.checker.check_model(proto, full_check=True)
        assert {p.key for p in proto.metadata_props} == {'classes', 'size', 'channels', 'fit', 'values', 'task', 'window'}
        ops = [node.op_type for node in proto.graph.node]
        assert ops.count('Conv') == 4 and 'BatchNormalization' not in ops


def test_deploy_export_leaves_the_model_and_is_quiet(tmp_path, model, example, capfd, recwarn, caplog):
    model.train(); model.body[0].eval()
    modes = [m.training for m in model.modules()]
    state = {k: v.clone() for k, v in model.state_dict().items()}
    rng = torch.get_rng_state()
    off = export_onnx(model, tmp_path/'a.onnx', example, dynamo=False)
    assert [m.training for m in model.modules()] == modes and torch.equal(rng, torch.get_rng_state())
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items()) and all(p.requires_grad and p.grad is None for p in model.parameters())
    assert set(off) == {1, 7} and max(off.values()) < 1e-4
    assert ''.join(capfd.readouterr()) == '' and not recwarn.list and not caplog.records
    x = torch.rand(4, 1, 20, 20)
    assert torch.allclose(load_onnx(tmp_path/'a.onnx')[0](x), predict_logits(model, x)[0], atol=1e-4)
    model.eval()


class Branch(nn.Module):
    def __init__(self): super().__init__(); self.head = nn.Linear(16, 3)
    def forward(self, x): return self.head((1 - x if x.mean() > .4 else x).flatten(1))


class Fixed(nn.Module):
    def __init__(self): super().__init__(); self.head = nn.Linear(16, 3)
    def forward(self, x): return self.head(x.view(int(x.shape[0]), -1))


@pytest.mark.parametrize('broken, words', [(Branch(), 'not equal'), (Fixed(), 'batch size is fixed')])
def test_deploy_a_graph_that_differs_is_not_written(tmp_path, broken, words):
    path = tmp_path/'a.onnx'
    path.write_bytes(b'old')
    with pytest.raises(InputError, match=words): export_onnx(broken, path, torch.zeros(2, 1, 4, 4), dynamo=False)
    assert path.read_bytes() == b'old' and len(list(tmp_path.iterdir())) == 1


def test_deploy_what_the_newer_exporter_refuses_is_a_sentence(tmp_path):
    with pytest.raises(InputError, match='Branch cannot be exported with dynamo=True .*data-dependent'): export_onnx(Branch(), tmp_path/'a.onnx', torch.zeros(2, 1, 4, 4))
    assert not list(tmp_path.iterdir())


def test_deploy_a_wrong_translation_is_found(tmp_path, model, example, monkeypatch):
    from copy import deepcopy
    def translate(model, x):
        wrong = deepcopy(model)
        with torch.no_grad(): wrong.head.bias.add_(torch.tensor([1e-3, 0, 0]))
        return deploy._export_trace(wrong, x)
    monkeypatch.setitem(deploy._EXPORTERS, True, translate)
    with pytest.raises(InputError, match='not equal'): export_onnx(model, tmp_path/'a.onnx', example)
    assert not list(tmp_path.iterdir())


def test_deploy_check_onnx_tells_other_weights(files, model, example):
    assert max(check_onnx(files/'trace.onnx', model, example).values()) < 1e-5*50
    with pytest.raises(InputError, match='answers changed'): check_onnx(files/'trace.onnx', make(seed=1), example)


def test_deploy_onnx_of_dense_outputs(tmp_path):
    net = nn.Conv2d(1, 3, 3, padding=1)
    off = export_onnx(net, tmp_path/'a.onnx', torch.rand(1, 1, 8, 8), ('sky', 'sea', 'land'), dynamo=False)
    assert max(off.values()) < 1e-5
    with pytest.raises(InputError, match='no classifier'): predict(tmp_path/'a.onnx', torch.rand(1, 1, 8, 8))


# ---------------------------------------------------------------- predict

@pytest.mark.parametrize('kind', ['dynamo.onnx', 'net.safetensors'])
def test_deploy_predict_is_the_models_softmax(files, model, kind):
    x = torch.rand(70, 1, 20, 20)
    p, k = predict_logits(model, x)[0].softmax(1).topk(2, 1)
    frame = predict(files/kind, x)
    assert list(frame.columns) == ['image', 'label', 'probability', 'second', 'second_probability'] and len(frame) == 70
    assert frame.label.tolist() == [CLASSES[i] for i in k[:, 0]] and frame.second.tolist() == [CLASSES[i] for i in k[:, 1]]
    assert np.allclose(frame[['probability', 'second_probability']], p, atol=1e-5) and frame.image.tolist() == list(range(70))


def test_deploy_predict_names_as_many_classes_as_asked(files):
    x = torch.rand(2, 1, 20, 20)
    assert list(predict(files/'trace.onnx', x, top=1).columns) == ['image', 'label', 'probability']
    three = predict(files/'trace.onnx', x, top=5)
    assert list(three.columns)[-2:] == ['third', 'third_probability'] and np.allclose(three[['probability', 'second_probability', 'third_probability']].sum(axis=1), 1)


def test_deploy_predict_reads_every_kind_of_file_alike(files, pictures):
    names = sorted(p for p in pictures.iterdir())
    frame = predict(files/'trace.onnx', names)
    assert frame.image.tolist() == [str(p) for p in names] and frame.label.nunique() == 1
    assert frame.probability.max() - frame.probability.min() < .02
    exact = frame[[not str(n).endswith('jpg') for n in frame.image]]
    assert exact.probability.max() - exact.probability.min() < 1e-5
    assert predict(files/'trace.onnx', pictures).equals(frame) and len(predict(files/'trace.onnx', str(names[0]))) == 1


def test_deploy_predict_takes_bytes_images_and_colour(files):
    x = torch.randint(0, 256, (4, 1, 20, 20), dtype=torch.uint8)
    want = predict(files/'net.safetensors', x.float()/255)
    assert predict(files/'net.safetensors', x).equals(want) and predict(files/'net.safetensors', x.numpy()).equals(want)
    assert predict(files/'net.safetensors', Images(x, names=list('abcd'))).image.tolist() == list('abcd')
    assert predict(files/'net.safetensors', x[0]).label[0] == want.label[0]
    assert np.allclose(predict(files/'net.safetensors', x.expand(-1, 3, -1, -1)).probability, want.probability, atol=1e-5)


def test_deploy_predict_without_a_size_takes_images_as_they_come(tmp_path, model):
    save_model(model, tmp_path/'a.safetensors', kwargs=KWARGS)
    sizes = (20, 20, 33, 20)
    for i, s in enumerate(sizes): Image.fromarray(np.full((s, s), 40*i, np.uint8)).save(tmp_path/f'{i}.png')
    frame = predict(tmp_path/'a.safetensors', [tmp_path/f'{i}.png' for i in range(4)])
    for i, s in enumerate(sizes):
        p = predict_logits(model, torch.full((1, 1, s, s), 40*i/255))[0].softmax(1).max().item()
        assert frame.probability[i] == pytest.approx(p, abs=1e-5)
    assert set(frame.label) <= {'0', '1', '2'}


def test_deploy_prepare_image_against_pillow():
    g = torch.Generator().manual_seed(0)
    for h, w in ((40, 30), (9, 50), (20, 20)):
        x = torch.rand(3, h, w, generator=g).mul(255).round()/255
        im = Image.fromarray((x*255).round().byte().permute(1, 2, 0).numpy())
        want = np.asarray(im.convert('L'), np.float32)/255
        assert np.abs(prepare_image(x, model_spec(size=None, channels=1))[0].numpy() - want).max() < 1/255
        for fit in ('crop', 'pad', 'stretch'):
            want = fit_image(torch.from_numpy(np.array(im)).permute(2, 0, 1), 16, fit).permute(1, 2, 0).numpy()/255 # held against Pillow in test_files
            ours = prepare_image(x, model_spec(size=16, channels=3, fit=fit)).permute(1, 2, 0).numpy()
            assert np.abs(ours - want).max() < 2.5/255, (h, w, fit)


def test_deploy_values_say_what_black_and_white_are():
    x = torch.tensor([0., .5, 1.]).view(1, 1, 3)
    assert prepare_image(x, model_spec(values=(-1, 1))).flatten().tolist() == [-1, 0, 1]
    assert prepare_image(x, model_spec(channels=3)).shape == (3, 1, 3)


def test_deploy_read_image_keeps_16_bits_turns_and_lays_on_white(tmp_path):
    ramp = np.arange(0, 65536, 1024, dtype=np.uint16).reshape(8, 8)
    Image.fromarray(ramp).save(tmp_path/'a.png')
    assert torch.allclose(read_image(tmp_path/'a.png', in_range=(0, 65535))[0], torch.from_numpy(ramp.astype(np.float32)/65535))
    Image.new('RGBA', (4, 4), (0, 0, 0, 0)).save(tmp_path/'b.png')
    assert (read_image(tmp_path/'b.png') == 1).all()
    exif = Image.Exif(); exif[274] = 6
    Image.new('L', (6, 4)).save(tmp_path/'c.jpg', exif=exif)
    assert read_image(tmp_path/'c.jpg').shape == (1, 6, 4)


# ---------------------------------------------------------------- bad input

@pytest.mark.parametrize('spec, words', [
    (dict(classes='ant'), ('classes', 'list')), (dict(classes=['a', 'a']), ('different',)), (dict(classes=10), ('classes=10',)), (dict(size=0), ('size=0',)),
    (dict(size=(1, 2, 3)), ('height',)), (dict(size=2.5), ('size=2.5',)), (dict(channels=0), ('channels=0',)), (dict(fit='cut'), ('way to fit', 'crop')), (dict(values=(1, 1)), ('black',)),
    (dict(values=3), ('values=3',)), (dict(values=(0, float('nan'))), ('values',)), (dict(thing=print), ('JSON', 'builtin'))])
def test_deploy_bad_specification(spec, words): sentence(lambda: model_spec(**spec), *words)


@pytest.mark.parametrize('given, words', [
    (torch.rand(1, 20, 20), ('(1, 20, 20)', 'x[None]')), (torch.rand(20, 20), ('(20, 20)',)), ([1, 2], ('list',)), (torch.zeros(1, 1, 20, 20, dtype=torch.uint8), ('uint8', '255')),
    (torch.rand(1, 1, 20, 20)*255, ('values from', 'normalise')), (torch.rand(0, 1, 20, 20), ('(0, 1, 20, 20)',)), (torch.rand(1, 3, 20, 20), ('(2, 3, 20, 20)', 'channel'))])
def test_deploy_bad_example(tmp_path, model, given, words):
    sentence(lambda: export_onnx(model, tmp_path/'a.onnx', given, dynamo=False), *words)
    assert not list(tmp_path.iterdir())


def test_deploy_bad_arguments(tmp_path, model, example, files):
    x = torch.rand(1, 1, 20, 20)
    (tmp_path/'file').write_text('')
    sentence(lambda: export_onnx(model, tmp_path/'a.pt', example), 'a.pt', '.onnx')
    sentence(lambda: save_model(model, tmp_path/'a.pt', kwargs=KWARGS), 'a.pt', '.safetensors')
    sentence(lambda: export_onnx(model, tmp_path/'file'/'a.onnx', example), 'file', 'not a folder')
    sentence(lambda: export_onnx(model, tmp_path/'a.onnx', example, ('a', 'b')), '3 outputs', '2 classes')
    sentence(lambda: save_model(model, tmp_path/'a.safetensors', kwargs=KWARGS, classes=('a', 'b'), size=20), '3 outputs', '2 classes')
    sentence(lambda: save_model(model, tmp_path/'a.safetensors', kwargs=KWARGS, size=20, channels=3), 'channels')
    sentence(lambda: build_model('visft_nb.cnn.models:small_cnn', [3]), 'kwargs=[3]')
    for top in (0, 6, 1.5, 'two'): sentence(lambda top=top: predict(files/'trace.onnx', x, top), f'top={top!r}')
    for images in ([], (), torch.rand(0, 1, 20, 20)): sentence(lambda images=images: predict(files/'trace.onnx', images), 'no image to predict')
    sentence(lambda: predict(files/'trace.onnx', [3]), 'int', 'names of files')
    sentence(lambda: predict(files/'trace.onnx', x*255), 'values from', '[0, 1]')
    sentence(lambda: predict(files/'trace.onnx', x*float('nan')), 'nan')
    sentence(lambda: predict(files/'trace.onnx', torch.rand(20, 20)), '(20, 20)')
    sentence(lambda: predict(files/'trace.onnx', torch.rand(1, 2, 20, 20)), 'has 2 channels')
    assert [p.name for p in tmp_path.iterdir()] == ['file']


def test_deploy_a_diverged_model_is_not_saved(tmp_path):
    net = make()
    with torch.no_grad(): net.head.weight[0, 0] = float('nan')
    sentence(lambda: save_model(net, tmp_path/'a.safetensors', kwargs=KWARGS), 'head.weight', 'NaN')


@pytest.mark.parametrize('code', [errno.EACCES, errno.ENOSPC, errno.EROFS])
def test_deploy_a_folder_that_cannot_be_written(tmp_path, model, example, monkeypatch, code):
    def refuse(*_, **__): raise OSError(code, 'no')
    monkeypatch.setattr('tempfile.mkstemp', refuse)
    sentence(lambda: export_onnx(model, tmp_path/'a.onnx', example, dynamo=False), 'a.onnx', 'cannot be written')
    sentence(lambda: save_model(model, tmp_path/'a.safetensors', kwargs=KWARGS), 'a.safetensors', 'cannot be written')


def test_deploy_model_files_that_are_none(tmp_path, files, model):
    x = torch.rand(1, 1, 20, 20)
    for name in ('net.safetensors', 'trace.onnx'):
        raw = (files/name).read_bytes()
        for cut in (0, 5, len(raw)//2, len(raw) - 1):
            (tmp_path/f'cut{name}').write_bytes(raw[:cut])
            sentence(lambda name=name: predict(tmp_path/f'cut{name}', x), f'cut{name}')
    save_file({'w': torch.ones(2)}, tmp_path/'foreign.safetensors')
    sentence(lambda: load_model(tmp_path/'foreign.safetensors'), 'foreign.safetensors', 'save_checkpoint')
    save_checkpoint(tmp_path/'run.safetensors', model=model.state_dict(), optimizer={})
    sentence(lambda: load_model(tmp_path/'run.safetensors'), 'checkpoint of fit', 'load_weights')
    (tmp_path/'net.pt').write_bytes(pickle.dumps({}))
    sentence(lambda: predict(tmp_path/'net.pt', x), 'pickle', 'net.pt')
    shutil.copy(files/'net.safetensors', tmp_path/'renamed.onnx')
    sentence(lambda: predict(tmp_path/'renamed.onnx', x), 'renamed.onnx', 'ONNX Runtime')
    sentence(lambda: predict(files/'trase.onnx', x), 'trase.onnx', 'did you mean trace.onnx')
    sentence(lambda: predict(tmp_path/'no'/'net.onnx', x), 'no such folder')
    (tmp_path/'empty').mkdir()
    sentence(lambda: predict(tmp_path/'empty'/'net.onnx', x), 'holds no model')


def rewritten(source, target, change):
    "A copy of a model file whose state was changed."
    state = load_checkpoint(source)
    change(state)
    save_checkpoint(target, **state)
    return target


@pytest.mark.parametrize('change, words', [
    (lambda s: s['model'].pop('head.bias'), 'head.bias is missing'), (lambda s: s['model'].update(extra=torch.ones(1)), 'extra is unknown'),
    (lambda s: s['spec'].update(kwargs={'width': 8, 'classes': 3}), 'body.0.0.weight'), (lambda s: s['spec'].pop('builder'), 'builder missing'),
    (lambda s: s['spec'].update(size='big'), 'size'), (lambda s: s['spec'].update(classes=3), 'classes'), (lambda s: s['spec'].update(kwargs=3), 'kwargs=3'),
    (lambda s: s['spec'].update(values=[]), 'values')])
def test_deploy_headers_that_were_changed(files, tmp_path, change, words):
    path = rewritten(files/'net.safetensors', tmp_path/'a.safetensors', change)
    sentence(lambda: load_model(path), words)


@pytest.mark.parametrize('structure', ['[]', '3', 'null', '{"dict": 3}', '{"tensor": "99"}', '{"dict": [["spec"]]}', '{', '{"dict": [[["x"], 1]]}', '[' * 5000 + ']' * 5000])
def test_deploy_headers_that_are_garbage(tmp_path, structure):
    save_file({'0': torch.ones(1)}, tmp_path/'a.safetensors', metadata={'visft': structure})
    sentence(lambda: load_model(tmp_path/'a.safetensors'), 'a.safetensors')


def test_deploy_foreign_onnx(tmp_path, files):
    onnx = pytest.importorskip('onnx')
    proto = onnx.load(files/'trace.onnx')
    proto.ClearField('metadata_props'); onnx.save(proto, tmp_path/'bare.onnx')
    sentence(lambda: predict(tmp_path/'bare.onnx', torch.rand(1, 1, 20, 20)), 'bare.onnx', 'size, values missing')
    for k in ('size', 'channels', 'values'): proto.metadata_props.add(key=k, value='not json')
    onnx.save(proto, tmp_path/'odd.onnx')
    sentence(lambda: predict(tmp_path/'odd.onnx', torch.rand(1, 1, 20, 20)), 'odd.onnx', 'export_onnx')


def test_deploy_every_unreadable_image_is_named(tmp_path, files, monkeypatch):
    good = tmp_path/'good.png'
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 20), dtype=np.uint8)).save(good)
    (tmp_path/'text.png').write_text('no picture')
    (tmp_path/'empty.png').touch()
    (tmp_path/'cut.png').write_bytes(good.read_bytes()[:200])
    Image.fromarray(np.full((4, 4), np.inf, np.float32)).save(tmp_path/'ct.tif')
    Image.new('L', (4, 4)).save(tmp_path/'stack.tif', save_all=True, append_images=[Image.new('L', (4, 4))])
    (tmp_path/'folder').mkdir()
    (tmp_path/'folder'/'readme.txt').write_text('no image')
    bad = ['text.png', 'empty.png', 'cut.png', 'ct.tif', 'stack.tif', 'god.png']
    sentence(lambda: predict(files/'trace.onnx', [good, *(tmp_path/b for b in bad)]), '6 of 7', *bad, '2 pages', '0 bytes', 'NaN or infinity', 'did you mean good.png')
    monkeypatch.setattr(entries, 'LARGEST', 10)
    sentence(lambda: predict(files/'trace.onnx', [good]), 'good.png', 'too large')
    sentence(lambda: predict(files/'trace.onnx', [good, tmp_path/'folder']), 'folder', 'holds no image')
    sentence(lambda: read_image(tmp_path/'folder'), 'is a folder')


def test_deploy_a_picture_that_unfolds_to_gigabytes_is_refused(tmp_path):
    import zlib
    chunk = lambda kind, data: struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
    (tmp_path/'bomb.png').write_bytes(b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', 12000, 12000, 8, 0, 0, 0, 0)) + chunk(b'IDAT', zlib.compress(b'')) + chunk(b'IEND', b''))
    sentence(lambda: read_image(tmp_path/'bomb.png'), 'bomb.png', 'cannot be decoded')


# ---------------------------------------------------------------- peers

@pytest.mark.peer
def test_deploy_onnx_of_torchvisions_resnet18(tmp_path):
    "The network of pytorch#169178, which one version of the exporter made useless."
    models = pytest.importorskip('torchvision.models')
    torch.manual_seed(0)
    net = models.resnet18(num_classes=5)
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d): m.running_mean.normal_(0, .1); m.running_var.uniform_(.5, 2)
    off = export_onnx(net, tmp_path/'a.onnx', torch.rand(1, 3, 64, 64), list('abcde'))
    x = torch.rand(3, 3, 64, 64)
    assert net.training and set(off) == {1, 7}
    assert torch.equal(load_onnx(tmp_path/'a.onnx')[0](x).argmax(1), predict_logits(net, x)[0].argmax(1))
    assert len(json.loads(predict(tmp_path/'a.onnx', x).to_json(orient='records'))) == 3 and Path(tmp_path/'a.onnx').stat().st_size > 4e7


def test_deploy_names_are_found_in_the_module_that_was_parted():
    import visft_nb.deploy as package
    from visft_nb.data import read_image as reader
    from visft_nb.deploy import prediction
    assert all(getattr(prediction, name) is getattr(package, name) for name in package.__all__)
    assert prediction.read_image is reader and set(package.__all__) <= set(dir(package))
    with pytest.raises(AttributeError, match='load_onxn'): getattr(prediction, 'load_' + 'onxn')
