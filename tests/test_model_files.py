"Files of models from anybody: old ones load, and what asks for more than a network of known parts gets one sentence, at once, with nothing read, written or fetched."
import json, os, random, shutil, struct, subprocess, sys, zipfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from helpers import sentence
from visft_nb.cnn import models
from visft_nb.cnn.models import small_cnn, vit_tiny
from visft_nb.core import InputError
from visft_nb.data import Batches, Images
from visft_nb.deploy import (BUILDERS, GuardedGraph, build_model, builder_table, check_onnx, export_onnx, export_program, find_builder, largest_map, load_model,
                             load_onnx, load_program, model_bytes, model_card, model_spec, open_model, outline_model, predict, save_model)
from visft_nb.deploy import spec as spec_room
from visft_nb.finetune import apply_lora, load_delta, save_delta
from visft_nb.finetune.lora import read_delta
from visft_nb.finetune.transfer import load_backbone, make_backbone, read_weights
from visft_nb.tensors import check_finite, not_finite, read_tensors, tensor_shapes
from visft_nb.train import fit, load_checkpoint, load_weights, predict_logits, save_checkpoint

KIT, BACKBONE = 'visft_nb.cnn.models:', 'visft_nb.finetune.transfer:make_backbone'
SEG = 'visft_nb.finetune.segmentation:'
SMALL = dict(classes=3, width=4)
LONG = 'x'*300


def net(**kwargs):
    torch.manual_seed(0)
    return small_cnn(**(SMALL | kwargs)).eval()


def written(path, model, builder=KIT + 'small_cnn', kwargs=None, size=(32, 32), channels=1, task='classification', state=None):
    "A file in the form that every version wrote, put together by hand."
    spec = dict(classes=None, size=list(size) if size else None, channels=channels, fit='crop', values=[0, 1], task=task, window=None, builder=builder,
                kwargs=SMALL if kwargs is None else kwargs)
    save_checkpoint(path, spec=spec, model=model.state_dict() if state is None else state)
    return path


@pytest.fixture(scope='module')
def good(tmp_path_factory): return written(tmp_path_factory.mktemp('good')/'net.safetensors', net())


# ---------------------------------------------------------------- old files

def old_networks():
    from visft_nb.finetune.segmentation import UNet, encoder_unet
    from visft_nb.robust.headline import MnistNet
    yield 'small_cnn', KIT + 'small_cnn', SMALL, lambda: small_cnn(**SMALL), 1
    yield 'vgg', KIT + 'VGG', dict(plan='8 M 512 M', classes=2, hidden=4, pool=1), lambda: models.VGG('8 M 512 M', classes=2, hidden=4, pool=1), 3
    yield 'imagenet', KIT + 'imagenet_classifier', dict(classes=5), lambda: models.imagenet_classifier(5), 3
    for name, options in dict(small_cnn=dict(width=4, channels=3), resnet18=dict(width=8, stem='cifar', mean=.5), efficientnet_lite0={},
                              vit_tiny=dict(size=32, patch=8, dim=12, depth=2, heads=3)).items():
        yield f'backbone {name}', BACKBONE, dict(name=name, outputs=3, **options), lambda name=name, options=options: make_backbone(name, 3, **options), 3
    for name, options in {'timm/test_vit': dict(img_size=32), 'timm/test_resnet': {}, 'torchvision/regnet_y_400mf': {}}.items():
        yield name, BACKBONE, dict(name=name, outputs=3, **options), lambda name=name, options=options: make_backbone(name, 3, **options), 3
    yield 'load_backbone', 'visft_nb.finetune.transfer:load_backbone', dict(name='small_cnn', weights=None, outputs=3, width=4), lambda: make_backbone('small_cnn', 3, width=4), 1
    yield 'unet', SEG + 'UNet', dict(in_channels=1, classes=2, width=4, depth=2, fold=2), lambda: UNet(1, 2, 4, 2, 2), 1
    yield 'encoder_unet', SEG + 'encoder_unet', dict(encoder='test_resnet', classes=2, weights=None, decoder=[8, 8, 4, 4, 4]), \
        lambda: encoder_unet('test_resnet', 2, None, (8, 8, 4, 4, 4)), 3
    yield 'mnist', 'visft_nb.robust.headline:MnistNet', dict(classes=4, width=2), lambda: MnistNet(4, 2), 1


@pytest.mark.parametrize('old', list(old_networks()), ids=lambda o: o[0])
def test_old_files_load_and_answer_the_same(tmp_path, old):
    _, builder, kwargs, make, channels = old
    model = make().eval()
    side = 28 if 'Mnist' in builder else 32
    path = written(tmp_path/'old.safetensors', model, builder, kwargs, None, channels, 'segmentation' if 'unet' in builder.lower() else 'classification')
    again, x = load_model(path, 'cpu'), torch.rand(2, channels, side, side)
    assert torch.equal(predict_logits(again, x)[0], predict_logits(model, x)[0])
    assert again.spec['kwargs'] == kwargs


def test_every_constructor_of_the_list_exists_and_knows_its_arguments():
    import importlib, inspect
    for b in BUILDERS.values():
        where, what = (b.make or b.name).split(':')
        parameters = inspect.signature(getattr(importlib.import_module(where), what)).parameters
        if any(p.kind is p.VAR_KEYWORD for p in parameters.values()): continue
        assert set(b.rules) <= set(parameters) | set(b.fixed), b.name
        if b.outputs: assert b.outputs in b.rules, b.name
    assert builder_table().builder.nunique() == len(BUILDERS)


def test_nothing_that_loads_or_fetches_is_in_the_list():
    for name in ('visft_nb.deploy.prediction:load_model', 'visft_nb.deploy:load_model', 'visft_nb.finetune.hub:from_hub', 'visft_nb.finetune.context:load_clip',
                 'visft_nb.deploy.builders:build_model', 'visft_nb.finetune.detection:LitePyramid', 'timm:create_model', 'visft_nb.cnn.models:vgg_layers'):
        sentence(lambda name=name: find_builder(name), name, 'may call nothing else')
    for name, b in BUILDERS.items():
        for k in ('cache_dir', 'checkpoint_path', 'pretrained', 'pretrained_cfg_overlay', 'pretrained_cfg', 'weights_backbone', 'scriptable', 'trust_remote_code'):
            given = dict(name='timm/resnet18') if 'backbone' in name else dict(kind='vit') if 'config' in name else {}
            assert k in b.fault(given | {k: True}), (name, k)


# ---------------------------------------------------------------- what a stranger asks for

HOSTILE = {
    'another package': ('os:system', dict(command='touch sprung')),
    'a loader': ('visft_nb.deploy.prediction:load_model', dict(path='other.safetensors')),
    'the hub': ('visft_nb.finetune.hub:from_hub', dict(name='stranger/model')),
    'clip': ('visft_nb.finetune.context:load_clip', dict(pretrained='openai')),
    'a download': (BACKBONE, dict(name='timm/resnet18', outputs=2, cache_dir='sprung', pretrained=True, pretrained_cfg_overlay={'url': 'http://127.0.0.1:9/x.pth'})),
    'a cache': (BACKBONE, dict(name='timm/resnet18', cache_dir='sprung')),
    'an overlay': (BACKBONE, dict(name='timm/resnet18', pretrained_cfg_overlay={'file': 'bait'})),
    'a checkpoint': (BACKBONE, dict(name='timm/resnet18', checkpoint_path='bait')),
    'weights': (BACKBONE, dict(name='torchvision/resnet18', weights='DEFAULT')),
    'weights by position': (BACKBONE, dict(name='timm/resnet18', weights='file://bait')),
    'a name on the hub': (BACKBONE, dict(name='timm/hf-hub:stranger/model')),
    'a folder': (BACKBONE, dict(name='timm/local-dir:/etc')),
    'a default': ('visft_nb.finetune.transfer:load_backbone', dict(name='small_cnn', weights='bait')),
    'an encoder': (SEG + 'encoder_unet', dict(encoder='hf-hub:stranger/model')),
    'encoder weights': (SEG + 'encoder_unet', dict(encoder='resnet10t', weights='file://bait')),
    'a config': ('visft_nb.finetune.hub:config_classifier', dict(kind='timm_wrapper', config={'model_args': {'cache_dir': 'sprung'}})),
    'a kernel': ('visft_nb.finetune.hub:config_classifier', dict(kind='vit', config={'attn_implementation': 'stranger/kernel'})),
    'wide layers': (KIT + 'VGG', dict(plan='64', hidden=30_000)),
    'deep blocks': (KIT + 'vit_tiny', dict(depth=20_000)),
    'doubled widths': (SEG + 'UNet', dict(depth=12)),
    'the widest': (SEG + 'UNet', dict(depth=8, width=2048)),
    'a long plan': (KIT + 'VGG', dict(plan='64 '*10_000 + '64')),
    'many classes': (KIT + 'small_cnn', dict(classes=2**20, width=8192)),
    'many stages': ('visft_nb.finetune.hub:config_classifier', dict(kind='convnext', config={'depths': [8000]*4})),
    'no whole number': (KIT + 'small_cnn', dict(width=1e9)),
    'a long list': (KIT + 'small_cnn', dict(width=[4]*10_000)),
    'no dict': (KIT + 'small_cnn', 'width=4'),
    'an unknown network': (BACKBONE, dict(name='timm/no_such_network', outputs=2)),
    'no name': (BACKBONE, dict(outputs=2)),
}

TRAP = '''
import os, sys, json
allowed, caught, armed = os.path.realpath(sys.argv[1]) + os.sep, [], [False]
WRITES = ('os.mkdir', 'os.rename', 'os.remove', 'os.rmdir', 'os.symlink', 'os.link', 'os.truncate', 'shutil.copyfile', 'shutil.move')
def hook(event, args):
    if not armed[0]: return
    bad = event.split('.')[0] == 'socket' and event not in ('socket.__new__', 'socket.gethostname')
    bad |= event in ('os.system', 'os.exec', 'os.posix_spawn', 'subprocess.Popen', 'urllib.Request') or event in WRITES
    if event == 'open':
        path, mode, flags = str(args[0]), args[1] or '', args[2] or 0
        bad |= 'bait' in os.path.basename(path)
        bad |= bool(set(str(mode)) & set('wax+') or flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)) and path != os.devnull
    if bad:
        caught.append(f'{event} {args!r}'[:200])
        raise PermissionError(f'trapped: {event}')
sys.addaudithook(hook)
def arm(on): armed[0] = on
'''


def trapped(tmp_path, code, *args):
    "Run code in a process of its own whose writes, sockets and processes are trapped; what it printed as JSON."
    script = tmp_path/'trapped.py'
    script.write_text(TRAP + code)
    env = dict(os.environ, PYTHONDONTWRITEBYTECODE='1', OMP_NUM_THREADS='1', HF_HUB_OFFLINE='0', VISFT_CACHE=str(tmp_path/'cache'))
    done = subprocess.run([sys.executable, str(script), str(tmp_path), *map(str, args)], capture_output=True, text=True, cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_hostile_files_are_refused_and_nothing_is_read_written_or_fetched(tmp_path):
    (tmp_path/'files').mkdir(); (tmp_path/'bait').write_bytes(b'bait')
    for i, (builder, kwargs) in enumerate(HOSTILE.values()): written(tmp_path/'files'/f'{i:02}.safetensors', net(), builder, kwargs)
    written(tmp_path/'good.safetensors', net())
    told = trapped(tmp_path, '''
import resource
from pathlib import Path
import torch
import matplotlib.pyplot, timm, torchvision, transformers, segmentation_models_pytorch, visft_nb.finetune.segmentation
from visft_nb.core import InputError
from visft_nb.deploy import load_model, predict
from visft_nb.finetune import load_backbone
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024
load_backbone('good.safetensors'); predict('good.safetensors', torch.rand(1, 1, 32, 32))   # imports what is imported late
before, said = peak(), {}
arm(True)
for path in sorted(Path('files').iterdir()):
    said[path.name] = []
    for call in (load_model, load_backbone, lambda p: predict(p, torch.rand(1, 1, 32, 32))):
        try: call(path); said[path.name].append('loaded')
        except InputError as e: said[path.name].append(str(e))
        except BaseException as e: said[path.name].append(f'TRACEBACK {type(e).__name__} {e}')
arm(False)
print(json.dumps(dict(said=said, caught=caught, grew=peak() - before)))
''')
    assert not told['caught'] and not (tmp_path/'sprung').exists()
    for (what, _), answers in zip(HOSTILE.items(), told['said'].values()):
        for said in answers: assert 'asks for' in said and 'refused' in said and '\n' not in said and len(said) < 1500, (what, said[:300])
    assert told['grew'] < 400, 'megabytes: a bomb was allocated'


def test_the_trap_catches_what_it_shall(tmp_path):
    told = trapped(tmp_path, '''
import socket, subprocess
def tried(f):
    try: f()
    except PermissionError as e: return 'trapped' in str(e)
    return False
arm(True)
out = [tried(lambda: open('sprung', 'w')), tried(lambda: open('bait')), tried(lambda: socket.create_connection(('127.0.0.1', 9), 1)),
       tried(lambda: subprocess.run(['true'])), tried(lambda: os.mkdir('sprung')), tried(lambda: open(sys.argv[0]).close())]
arm(False)
print(json.dumps(out))
''')
    assert told == [True]*5 + [False]


def test_constructors_of_the_list_are_pure(tmp_path):
    kinds = [(b, k) for _, b, k, _, _ in old_networks()]
    kinds += [(SEG + 'encoder_unet', dict(encoder='test_resnet', weights='imagenet', classes=2, decoder=[8, 8, 4, 4, 4])),
              ('visft_nb.finetune.medmnist:medmnist_net', dict(name='pneumoniamnist', width=4)),
              ('visft_nb.finetune.transfer:load_backbone', dict(name='timm/test_resnet', weights='default', outputs=2)),
              ('visft_nb.finetune.hub:config_classifier', dict(kind='resnet', config=dict(embedding_size=8, hidden_sizes=[8]*4, depths=[1]*4, num_labels=2)))]
    told = trapped(tmp_path, f'''
import timm, torchvision, transformers, segmentation_models_pytorch, medmnist
from visft_nb.deploy import build_model, outline_model
for builder, kwargs in {kinds!r}: outline_model(builder, kwargs)    # imports what is imported late
arm(True)
for builder, kwargs in {kinds!r}: build_model(builder, kwargs); outline_model(builder, kwargs)
arm(False)
print(json.dumps(caught))
''')
    assert told == []


@pytest.mark.parametrize('kwargs, words', [
    (dict(size=[30_000, 30_000]), 'at most'), (dict(size=[2**40, 1]), 'at most'), (dict(size=64, channels=10**9), 'at most'), (dict(values=(0, 10**400)), 'values'),
    (dict(window=(10**400, 5)), 'window')])
def test_images_that_no_machine_holds(tmp_path, kwargs, words):
    sentence(lambda: model_spec(**kwargs), words)
    spec = dict(classes=None, size=None, channels=1, fit='crop', values=[0, 1], task='classification', window=None, builder=KIT + 'small_cnn', kwargs=SMALL)
    save_checkpoint(tmp_path/'a.safetensors', spec=spec | {k: list(v) if isinstance(v, tuple) else v for k, v in kwargs.items()}, model=net().state_dict())
    sentence(lambda: load_model(tmp_path/'a.safetensors'), 'a.safetensors', words)


def test_one_tensor_under_many_names_is_not_many(tmp_path):
    kwargs = dict(classes=2, channels=1, size=32, patch=8, dim=512, depth=100, heads=8)
    block = {k: torch.zeros(v.shape) for k, v in vit_tiny(**kwargs | {'depth': 1}).state_dict().items()}
    state = {k: block[k.replace(f'blocks.{k.split(".")[1]}.', 'blocks.0.') if k.startswith('blocks.') else k]
             for k in outline_model(KIT + 'vit_tiny', kwargs).state_dict()}
    path = written(tmp_path/'a.safetensors', None, KIT + 'vit_tiny', kwargs, state=state)
    assert path.stat().st_size < 2**24
    sentence(lambda: load_model(path), 'asks for a network of', 'MB: refused')


def test_a_layer_that_this_machine_cannot_hold(good, monkeypatch):
    import psutil
    outline = outline_model(KIT + 'small_cnn', SMALL)
    need = largest_map(outline, (1, 32, 32))
    assert need == 4*16*16*4, 'width 4 at half of the side'
    monkeypatch.setattr(psutil, 'virtual_memory', lambda: SimpleNamespace(total=2*need))
    load_model(good, 'cpu')
    monkeypatch.setattr(psutil, 'virtual_memory', lambda: SimpleNamespace(total=2*need - 1))
    sentence(lambda: load_model(good, 'cpu'), 'asks for a layer', 'refused')


def test_nothing_is_built_before_the_shapes_agree(good, tmp_path, monkeypatch):
    def never(*_, **__): raise AssertionError('it was built')
    monkeypatch.setattr(spec_room, 'build_model', never)
    with pytest.raises(AssertionError): load_model(good, 'cpu')
    path = written(tmp_path/'a.safetensors', net(), kwargs=SMALL | {'width': 8})
    sentence(lambda: load_model(path, 'cpu'), 'refused', 'body.0.0.weight is (4, 1, 3, 3) there and (8, 1, 3, 3) here')


def test_an_outline_costs_nothing_and_moves_no_generator():
    torch.manual_seed(3); want = torch.rand(1); torch.manual_seed(3)
    wide = outline_model(KIT + 'VGG', dict(plan='64', hidden=30_000))
    assert torch.rand(1) == want and all(v.is_meta for v in wide.state_dict().values()) and model_bytes(wide) > 2**32
    same = build_model(KIT + 'small_cnn', SMALL)
    assert model_bytes(same) == model_bytes(outline_model(KIT + 'small_cnn', SMALL)) == sum(v.nbytes for v in same.state_dict().values())


def test_tied_weights_and_buffers_that_are_not_saved_come_back(tmp_path):
    model = make_backbone('timm/test_vit', 3, img_size=32).eval()
    hidden = {k for k, _ in model.named_buffers()} - set(model.state_dict())
    assert hidden, 'the normalisation is not in the state'
    save_model(model, tmp_path/'a.safetensors', BACKBONE, dict(name='timm/test_vit', outputs=3, img_size=32), size=32, channels=3)
    again = load_model(tmp_path/'a.safetensors', 'cpu')
    for k in hidden: assert torch.equal(dict(again.named_buffers())[k], dict(model.named_buffers())[k])
    assert dict(again.named_buffers()).keys() == dict(model.named_buffers()).keys()


def test_a_file_in_half_precision_loads_as_the_network_is(tmp_path):
    model = net()
    state = {k: v.bfloat16() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    again = load_model(written(tmp_path/'a.safetensors', None, state=state), 'cpu')
    assert {p.dtype for p in again.parameters()} == {torch.float32} and torch.equal(again.head.weight, state['head.weight'].float())
    state = model.state_dict() | {'head.bias': torch.zeros(3, dtype=torch.complex64)}
    sentence(lambda: load_model(written(tmp_path/'b.safetensors', None, state=state), 'cpu'), 'head.bias', 'complex64')


def test_save_model_refuses_what_could_not_be_loaded(tmp_path):
    sentence(lambda: save_model(net(), tmp_path/'a.safetensors', BACKBONE, dict(name='small_cnn', cache_dir='x')), 'cache_dir')
    sentence(lambda: save_model(nn.Linear(2, 2), tmp_path/'a.safetensors', 'torch.nn:Linear', dict(in_features=2, out_features=2), channels=1), 'may call nothing else', 'export_onnx')
    sentence(lambda: save_model(net(), tmp_path/'a.safetensors', KIT + 'VGG', dict(plan='64', hidden=30_000)), 'builds another network')
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- no numbers

@pytest.mark.parametrize('value', [float('nan'), float('inf'), float('-inf')])
def test_a_weight_that_is_no_number_is_refused_by_name_and_count(tmp_path, value):
    state = {k: v.clone() for k, v in net().state_dict().items()}
    state['head.weight'][0, :2] = value
    path = written(tmp_path/'a.safetensors', None, state=state)
    for call in (lambda: load_model(path), lambda: load_backbone(path), lambda: open_model(path), lambda: predict(path, torch.rand(1, 1, 32, 32))):
        sentence(call, 'a.safetensors', '2 values', 'NaN or infinite', 'head.weight')
    sentence(lambda: load_backbone('small_cnn', state, width=4), '2 values', 'head.weight')
    model = net()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    sentence(lambda: load_weights(model, state), 'head.weight')
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_a_segmentation_with_such_a_weight_is_refused(tmp_path):
    from visft_nb.finetune.segmentation import UNet
    kwargs = dict(in_channels=1, classes=2, width=4, depth=1, fold=1)
    state = UNet(**kwargs).state_dict()
    state['head.bias'][1] = float('nan')
    path = written(tmp_path/'a.safetensors', None, SEG + 'UNet', kwargs, task='segmentation', state=state)
    sentence(lambda: predict(path, torch.rand(1, 1, 32, 32)), 'a.safetensors', 'head.bias', 'NaN')


def test_a_mask_of_minus_infinity_that_the_network_has_itself_is_none(tmp_path):
    class Masked(nn.Module):
        def __init__(self, low=float('-inf')): super().__init__(); self.register_buffer('mask', torch.full((2,), low)); self.w = nn.Parameter(torch.ones(2))
    load_weights(Masked(), Masked().state_dict())
    sentence(lambda: load_weights(Masked(0.), Masked().state_dict()), 'mask', '2 values')
    assert not_finite(dict(a=torch.ones(2), b=torch.tensor([1, 2]), c=torch.tensor([complex(1, float('inf'))]))) == {'c': 1}
    check_finite({'e': torch.ones(3).to(torch.float8_e5m2)}, 'x')


@pytest.fixture(scope='module')
def overflowing(tmp_path_factory):
    "A model whose weights are numbers and whose outputs are none, in each format."
    top, model = tmp_path_factory.mktemp('over'), net()
    good = {k: v.clone() for k, v in model.state_dict().items()}
    export_onnx(model, top/'a.onnx', torch.rand(2, 1, 32, 32), dynamo=False)
    export_program(model, top/'a.pt2', torch.rand(2, 1, 32, 32))
    with torch.no_grad():
        for p in model.parameters(): p.fill_(3e38)
    written(top/'a.safetensors', model)
    import onnx
    proto = onnx.load(top/'a.onnx')
    for t in proto.graph.initializer:
        if t.name == 'head.bias': t.CopyFrom(onnx.numpy_helper.from_array(np.full(3, np.nan, np.float32), t.name))
    onnx.save(proto, top/'a.onnx')
    model.load_state_dict(good)
    return top


@pytest.mark.parametrize('name', ['a.safetensors', 'a.onnx'])
def test_outputs_that_are_no_numbers_are_no_answer(overflowing, name):
    x = torch.rand(2, 1, 32, 32)
    for errors in ('raise', 'keep'): sentence(lambda errors=errors: predict(overflowing/name, x, errors=errors), name, '6 of 6', 'NaN or infinity')
    from PIL import Image
    from visft_nb.finetune.work import explain_file
    Image.new('L', (32, 32), 99).save(overflowing/'x.png')
    seen = explain_file(open_model(overflowing/name), overflowing/'x.png')
    assert 'No answer' in seen.text and '3 of 3' in seen.text and not seen.scores and seen.picture is None
    if name == 'a.onnx': sentence(lambda: load_onnx(overflowing/name)[0](x), name, '6 of 6'); sentence(lambda: load_onnx(overflowing/name, seconds=None)[0](x), '6 of 6')


def test_a_program_without_numbers_is_no_answer(overflowing):
    run, _ = load_program(overflowing/'a.pt2')
    assert run(torch.rand(1, 1, 32, 32)).isfinite().all()
    sentence(lambda: run(torch.full((1, 1, 32, 32), float('inf'))), 'a.pt2', '3 of 3')


def test_a_diverged_model_is_not_exported(tmp_path):
    model = net()
    with torch.no_grad(): model.head.bias[0] = float('nan')
    for write, end in ((export_onnx, 'onnx'), (export_program, 'pt2')):
        sentence(lambda write=write, end=end: write(model, tmp_path/f'a.{end}', torch.rand(2, 1, 32, 32)), 'NaN or infinity', '2 of 6')
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- headers of any form

def container(path, header, body=b''):
    "A safetensors file with this header: bytes, or what becomes JSON."
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack('<Q', len(text)) + text + body)
    return path


def readers(path):
    "Everything that opens a safetensors file."
    return {'load_checkpoint': lambda: load_checkpoint(path), 'load_model': lambda: load_model(path, 'cpu'), 'read_delta': lambda: read_delta(path),
            'read_weights': lambda: read_weights(path), 'load_backbone': lambda: load_backbone('small_cnn', path, width=4), 'model_card': lambda: model_card(path),
            'predict': lambda: predict(path, torch.rand(1, 1, 32, 32)), 'resume': lambda: fit(net(), Batches(Images(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.zeros(4).long()), 4), epochs=1, checkpoint=path, bar=False)}


def only_sentences(path, allow=()):
    "Each reader refuses in one sentence, or (those allowed) gives numbers."
    for name, read in readers(path).items():
        try: got = read()
        except InputError as e: assert '\n' not in str(e) and len(str(e)) < 2000, (name, str(e)[:300])
        else: assert name in allow, (name, got)


WHOLE = {'w': dict(dtype='F32', shape=[2], data_offsets=[0, 8])}
DEEP = '['*100_000 + ']'*100_000


@pytest.mark.parametrize('header', [
    b'', b'null', b'[]', b'3', b'"x"', b'{', b'\xff\xfe', DEEP.encode(), b'{"__metadata__": 3}', b'{"__metadata__": {"visft": 3}}', b'{"__metadata__": {"visft": null}}',
    {'w': 3}, {'w': {}}, {'w': dict(dtype='F32', shape=[2])}, {'w': dict(dtype='F32', shape=[2**62, 4], data_offsets=[0, 8])}, {'w': dict(dtype='X', shape=[2], data_offsets=[0, 8])},
    {'w': dict(dtype='F32', shape=[-2], data_offsets=[0, 8])}, {'w': dict(dtype='F32', shape=[2], data_offsets=[8, 0])}, {'w': dict(dtype='F4', shape=[16], data_offsets=[0, 8])},
    {'w': dict(dtype='F32', shape='big', data_offsets=[0, 8])}, {'w': dict(dtype='F8_E8M0', shape=[8], data_offsets=[0, 8])}], ids=str)
def test_headers_of_another_shape(tmp_path, header): only_sentences(container(tmp_path/'a.safetensors', header, bytes(8)), ('read_weights',))


@pytest.mark.parametrize('structure', [
    '', 'null', '3', '"x"', '[]', '{}', '{', DEEP, '{"dict": 3}', '{"dict": [3]}', '{"dict": [[1]]}', '{"dict": [[[], 1]]}', '{"dict": [[{"dict": []}, 1]]}', '{"tuple": 3}',
    '{"tensor": "w"}', '{"tensor": "none", "last": false}', '{"tensor": "w", "last": true}', '{"tensor": [], "last": false}', '{"dict": [["spec", 3], ["model", 3]]}',
    '{"dict": [["spec", {"dict": []}], ["model", {"dict": []}]]}', '{"dict": [["model", {"dict": [["w", 3]]}]]}', '9'*5000,
    '{"dict": [["spec", {"dict": [[1, 2]]}], ["model", {"dict": []}]]}', '{"dict": [["best", {"dict": [["w", {"tensor": "w", "last": false}]]}]]}'], ids=lambda s: s[:50])
def test_structures_of_another_shape(tmp_path, structure):
    metadata = {k: structure for k in ('visft', 'visft_delta')}
    only_sentences(container(tmp_path/'a.safetensors', {'__metadata__': metadata} | WHOLE, bytes(8)), ('load_checkpoint', 'read_weights'))


def random_json(rng, depth=0):
    "Plain values of any form."
    kind = rng.choice(['null', 'int', 'str', 'list', 'dict', 'float', 'bool'] if depth < 3 else ['null', 'int', 'str'])
    if kind in ('list', 'dict'):
        parts = [random_json(rng, depth + 1) for _ in range(rng.randrange(4))]
        return parts if kind == 'list' else {rng.choice(['dict', 'tuple', 'tensor', 'last', 'spec', 'model']): p for p in parts}
    return {'null': None, 'int': rng.choice([0, -1, 2**70, 7]), 'str': rng.choice(['', 'w', '0', LONG]), 'float': 1e308, 'bool': True}[kind]


def places(value, at=()):
    "Every place in nested values."
    yield at
    for k, v in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else (): yield from places(v, (*at, k))


def replaced(value, at, new):
    if not at: return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[at[0]] = replaced(value[at[0]], at[1:], new)
    return copy


@pytest.mark.parametrize('seed', range(60))
def test_mutated_headers(good, tmp_path, seed):
    "A value anywhere in the header becomes another one: a sentence, or the answer of the whole file."
    rng, raw = random.Random(seed), good.read_bytes()
    n = struct.unpack('<Q', raw[:8])[0]
    header, want = json.loads(raw[8:8 + n]), predict_logits(net(), torch.ones(1, 1, 32, 32))[0]
    for _ in range(6):
        if rng.random() < .3:      # in the container
            mutated = replaced(header, rng.choice(list(places(header))), random_json(rng))
        else:
            structure = json.loads(header['__metadata__']['visft'])
            structure = replaced(structure, rng.choice(list(places(structure))), random_json(rng))
            mutated = header | {'__metadata__': {'visft': json.dumps(structure)}}
        path = container(tmp_path/'a.safetensors', mutated, raw[8 + n:])
        try: model = load_model(path, 'cpu')
        except InputError as e: assert '\n' not in str(e)
        else: assert torch.equal(predict_logits(model, torch.ones(1, 1, 32, 32))[0], want), mutated
        try: load_checkpoint(path)
        except InputError as e: assert '\n' not in str(e)


@pytest.mark.parametrize('seed', range(20))
def test_damaged_bytes(good, tmp_path, seed):
    rng, raw = random.Random(seed), bytearray(good.read_bytes())
    n = struct.unpack('<Q', raw[:8])[0]
    for _ in range(rng.choice([1, 3])): raw[rng.randrange(8 + n)] = rng.randrange(256)
    (tmp_path/'a.safetensors').write_bytes(raw)
    only_sentences(tmp_path/'a.safetensors', ('load_checkpoint', 'load_model', 'read_weights', 'load_backbone', 'predict', 'model_card'))


def test_names_that_no_file_can_have():
    x = torch.rand(1, 1, 32, 32)
    for name in (LONG, 'a\0b'):
        for end in ('safetensors', 'onnx'):
            for call in (load_model if end == 'safetensors' else load_onnx, lambda p: predict(p, x), model_card): sentence(lambda call=call, name=f'{name}.{end}': call(name))
        for call in (load_checkpoint, read_delta, read_weights, read_tensors, tensor_shapes, load_program, lambda p: load_backbone('small_cnn', p)):
            sentence(lambda call=call, name=f'{name}.safetensors': call(name))


# ---------------------------------------------------------------- deltas

@pytest.fixture
def delta(tmp_path):
    model = apply_lora(net(), rank=2)
    save_delta(model, tmp_path/'d.safetensors')
    return tmp_path/'d.safetensors'


def changed(path, change, tensors=None):
    "The file with another header."
    metadata, state = read_tensors(path)
    header = json.loads(metadata['visft_delta'])
    change(header)
    save_file(tensors(state) if tensors else state, path, {'visft_delta': json.dumps(header)})


@pytest.mark.parametrize('change, words', [
    (lambda h: h.update(method='os.system'), 'method'), (lambda h: h.update(method=['lora']), 'method'), (lambda h: h.update(version='1'), 'version'), (lambda h: h.pop('fingerprint'), 'fingerprint'),
    (lambda h: h['config'].update(rank=10**9), 'config'), (lambda h: h['config'].update(model='other'), 'config'), (lambda h: h['config'].update(targets='(a+)+b'), 'config'),
    (lambda h: h['config'].update(targets=r'(?:\w|\w)*x'), 'config'), (lambda h: h['config'].update(targets='['), 'refused'), (lambda h: h.update(fingerprint={'w': 3}), 'fingerprint'),
    (lambda h: h.update(config=3), 'config'), (lambda h: h.update(head=3), 'head'), (lambda h: h.update(base={}), 'base')])
def test_hostile_deltas(delta, change, words):
    changed(delta, change)
    model = net()
    before = list(model.state_dict())
    sentence(lambda: load_delta(model, delta), 'd.safetensors', words, 'refused')
    assert list(model.state_dict()) == before


def test_a_delta_whose_rank_is_not_that_of_its_tensors(delta):
    changed(delta, lambda h: h['config'].update(rank=4))
    sentence(lambda: load_delta(net(), delta), 'does not fit')


def test_a_delta_with_values_that_are_no_numbers(delta):
    def broken(state):
        name = next(iter(state))
        return state | {name: torch.full_like(state[name], float('nan'))}
    changed(delta, lambda h: None, broken)
    sentence(lambda: load_delta(net(), delta), 'd.safetensors', 'NaN or infinite')


@pytest.mark.parametrize('targets', [None, ['head'], r'body\.[12]\..*', 'body.*'])
def test_deltas_with_usual_targets_load(tmp_path, targets):
    model = apply_lora(net(), rank=2, targets=targets, head=False)
    save_delta(model, tmp_path/'d.safetensors')
    x = torch.rand(1, 1, 32, 32)
    assert torch.equal(predict_logits(load_delta(net(), tmp_path/'d.safetensors'), x)[0], predict_logits(model, x)[0])


# ---------------------------------------------------------------- graphs

def onnx_file(path, nodes, inputs=1, initializer=(), metadata=True, outputs=('logits',)):
    "A graph from images (N, 1, 32, 32) to logits, with a specification."
    from onnx import TensorProto, helper, save
    value = lambda n, shape: helper.make_tensor_value_info(n, TensorProto.FLOAT, shape)
    names = ['images', 'others'][:inputs]
    g = helper.make_graph(nodes, 'g', [value(n, ['batch', 1, 32, 32]) for n in names], [value(n, None) for n in outputs], initializer)
    proto = helper.make_model(g, opset_imports=[helper.make_opsetid('', 13), helper.make_opsetid('stranger', 1)], ir_version=8)
    for k, v in (model_spec(size=32) if metadata is True else metadata or {}).items(): proto.metadata_props.add(key=k, value=json.dumps(v) if metadata is True else v)
    save(proto, path)
    return path


def node(*args, **kwargs):
    from onnx import helper
    return helper.make_node(*args, **kwargs)


def constant(name, array):
    from onnx import numpy_helper
    return numpy_helper.from_array(np.asarray(array), name)



def mean(out='m'): return node('ReduceMean', ['images'], [out], axes=[2, 3], keepdims=0)


def endless():
    from onnx import TensorProto, helper
    value = lambda n, kind, shape=(): helper.make_tensor_value_info(n, kind, shape)
    body = helper.make_graph([node('Identity', [a], [a + '_']) for a in ('on', 'x')], 'body',
                             [value('i', TensorProto.INT64), value('on', TensorProto.BOOL), value('x', TensorProto.FLOAT, None)],
                             [value('on_', TensorProto.BOOL), value('x_', TensorProto.FLOAT, None)])
    return [mean(), node('Loop', ['', 'yes', 'm'], ['logits'], body=body)], [constant('yes', True)]


def test_a_good_graph_answers_from_its_process(tmp_path):
    path = onnx_file(tmp_path/'a.onnx', [mean(), node('Concat', ['m', 'm'], ['logits'], axis=1)])
    run, spec = load_onnx(path)
    x = torch.rand(3, 1, 32, 32)
    assert torch.allclose(run(x), x.mean((2, 3)).expand(-1, 2), atol=1e-6) and spec['size'] == [32, 32]
    assert torch.equal(run(x), load_onnx(path, seconds=None)[0](x)), 'here and there the same'


def test_an_endless_loop_is_stopped_and_the_next_file_is_answered(tmp_path):
    nodes, initializer = endless()
    path = onnx_file(tmp_path/'a.onnx', nodes, initializer=initializer)
    graph = GuardedGraph(path)
    graph.seconds = 4   # for an answer; a busy machine may take longer to open the file
    sentence(lambda: graph(np.zeros((1, 1, 32, 32))), 'a.onnx', 'no answer within 4 s')
    assert graph.process.poll() is not None, 'it was ended'
    sentence(lambda: graph(np.zeros((1, 1, 32, 32))), 'no answer within 4 s')
    sentence(lambda: load_onnx(path, seconds=4)[0](torch.zeros(1, 1, 32, 32)), 'no answer within 4 s')
    sentence(lambda: check_onnx(tmp_path/'none.onnx', net(), torch.rand(1, 1, 32, 32)), 'There is no model')


@pytest.mark.parametrize('make, words', [
    (lambda p: onnx_file(p, [node('ConstantOfShape', ['shape'], ['logits'])], 0, [constant('shape', np.array([1, 2]))]), ('no input', 'images')),
    (lambda p: onnx_file(p, [mean(), node('Add', ['m', 'others'], ['logits'])], 2), ('2 inputs', 'others')),
    (lambda p: onnx_file(p, [node('Evil', ['images'], ['logits'], domain='stranger')]), ('Evil', 'stranger', 'refused')),
    (lambda p: onnx_file(p, [node('ArgMax', ['images'], ['logits'], axis=1)]), ('ONNX Runtime',)),
    (lambda p: onnx_file(p, [mean('logits')], metadata={'size': '['*100_000, 'channels': '1', 'values': '[0, 1]'}), ('metadata', 'recursion')),
    (lambda p: onnx_file(p, [mean('logits')], metadata={'size': '[30000, 30000]', 'channels': '1', 'values': '[0, 1]'}), ('at most',)),
    (lambda p: onnx_file(p, [mean('logits')], metadata=None), ('does not say',)),
    (lambda p: p.write_bytes(b'no graph') and p, ('ONNX Runtime',)), (lambda p: p.write_bytes(b'') or p, ('ONNX Runtime',))])
def test_graphs_that_are_refused_when_they_are_opened(tmp_path, make, words):
    path = make(tmp_path/'a.onnx')
    sentence(lambda: predict(path, torch.rand(1, 1, 32, 32)), 'a.onnx', *words)


@pytest.mark.parametrize('where', ['../secret.bin', '/etc/hostname', 'beside.bin'])
def test_weights_in_another_file_are_not_read(tmp_path, where):
    from onnx import TensorProto, external_data_helper
    tensor = TensorProto(name='w', data_type=TensorProto.FLOAT, dims=[2])
    tensor.raw_data = b''
    external_data_helper.set_external_data(tensor, where)
    tensor.ClearField('raw_data')
    (tmp_path/'beside.bin').write_bytes(bytes(8)); (tmp_path.parent/'secret.bin').write_bytes(bytes(8))
    path = onnx_file(tmp_path/'a.onnx', [mean(), node('Add', ['m', 'w'], ['logits'])], initializer=[tensor])
    sentence(lambda: load_onnx(path), 'a.onnx', 'another file', where, 'refused')


@pytest.mark.parametrize('side', [2**20, 2**31])
def test_a_graph_that_makes_terabytes_is_a_sentence(tmp_path, side):
    "Where the shape follows from constants, ONNX Runtime makes it while it opens the file; else while it answers."
    path = onnx_file(tmp_path/'a.onnx', [node('ConstantOfShape', ['shape'], ['huge']), node('ReduceMean', ['huge'], ['h'], keepdims=0), mean(), node('Add', ['m', 'h'], ['logits'])],
                     initializer=[constant('shape', np.array([side, side]))])
    graph = None
    with pytest.raises((InputError, RuntimeError)) as e:
        graph = GuardedGraph(path, memory=2**32, seconds=60)
        graph(np.zeros((1, 1, 32, 32)))
    assert '\n' not in str(e.value) and 'within' not in str(e.value), str(e.value)
    sentence(lambda: predict(path, torch.rand(1, 1, 32, 32)), 'a.onnx')


def test_a_process_that_dies_is_a_sentence_and_starts_again(tmp_path):
    path = onnx_file(tmp_path/'a.onnx', [mean(), node('Concat', ['m', 'm'], ['logits'], axis=1)])
    graph, x = GuardedGraph(path), np.ones((1, 1, 32, 32))
    graph.process.kill(); graph.process.wait()
    assert (graph(x) == 1).all()
    first = graph.process
    graph.close()
    assert first.poll() is not None


# ---------------------------------------------------------------- programs, weights, the hub

def test_a_program_from_elsewhere_is_not_opened(tmp_path, monkeypatch):
    monkeypatch.setenv('VISFT_CACHE', str(tmp_path/'cache'))
    x, model = torch.rand(2, 1, 32, 32), net()
    export_program(model, tmp_path/'a.pt2', x)
    assert torch.allclose(load_program(shutil.copy(tmp_path/'a.pt2', tmp_path/'moved.pt2'))[0](x), predict_logits(model, x)[0], atol=1e-5)
    shutil.copy(tmp_path/'a.pt2', tmp_path/'b.pt2')
    with zipfile.ZipFile(tmp_path/'b.pt2', 'a') as z: z.writestr('x', b'one more')
    opened = []
    monkeypatch.setattr(torch.export, 'load', lambda *a, **k: opened.append(a))
    from visft_nb.finetune.work import peak_memory
    for call in (load_program, lambda p: peak_memory(p, (1, 1, 32, 32))): sentence(lambda call=call: call(tmp_path/'b.pt2'), 'b.pt2', 'refused', 'trust=True')
    assert not opened
    sentence(lambda: predict(tmp_path/'a.pt2', x), '.onnx')
    monkeypatch.undo()
    assert load_program(tmp_path/'a.pt2', trust=True)[1]['size'] == [32, 32]


def test_weights_that_unfold_to_more_than_they_are(tmp_path):
    torch.save({'w': torch.zeros(2**22)}, tmp_path/'a.pt')
    with zipfile.ZipFile(tmp_path/'a.pt') as old, zipfile.ZipFile(tmp_path/'b.pt', 'w', zipfile.ZIP_DEFLATED) as new:
        for n in old.namelist(): new.writestr(n, old.read(n))
    assert read_weights(tmp_path/'a.pt')['w'].numel() == 2**22 and (tmp_path/'b.pt').stat().st_size < 2**18
    sentence(lambda: read_weights(tmp_path/'b.pt'), 'b.pt', 'refused')


def test_a_checkpoint_of_another_form_is_not_continued(tmp_path):
    data = Batches(Images(torch.randint(0, 256, (8, 1, 16, 16), dtype=torch.uint8), torch.arange(8) % 3), 4)
    path = tmp_path/'run.safetensors'
    fit(net(), data, epochs=1, checkpoint=path, bar=False)
    whole = load_checkpoint(path)
    for key, value in dict(plan=3, epoch='one', history={}, optimizer={}, rng=[], step=None, model={'w': 3}).items():
        save_checkpoint(path, **(whole | {key: value}))
        sentence(lambda: fit(net(), data, epochs=2, checkpoint=path, bar=False), 'run.safetensors')
    state = {k: v.clone() for k, v in whole['model'].items()}
    state['head.bias'][0] = float('nan')
    save_checkpoint(path, **(whole | dict(model=state)))
    sentence(lambda: fit(net(), data, epochs=1, checkpoint=path, bar=False), 'run.safetensors', 'NaN or infinite')


@pytest.mark.parametrize('asked', [dict(_attn_implementation='stranger/kernel'), dict(attn_implementation='stranger/kernel'), dict(quantization_config={'quant_method': 'x'}),
                                   dict(model_type='timm_wrapper', architecture='resnet18', model_args={'checkpoint_path': 'bait'})])
def test_a_config_that_names_code(tmp_path, asked):
    pytest.importorskip('transformers')
    from visft_nb.finetune.hub import from_hub
    (tmp_path/'config.json').write_text(json.dumps(dict(model_type='vit') | asked))
    sentence(lambda: from_hub(tmp_path), 'config.json', 'asks for', 'refused')
    (tmp_path/'config.json').write_text('[3]')
    sentence(lambda: from_hub(tmp_path), 'config.json', 'dict')


def test_a_network_of_transformers_is_saved_by_its_numbers(tmp_path):
    tf = pytest.importorskip('transformers')
    from visft_nb.finetune.hub import from_hub
    config = tf.ResNetConfig(embedding_size=8, hidden_sizes=[8]*4, depths=[1]*4, layer_type='basic', num_labels=3)
    tf.AutoModelForImageClassification.from_config(config).save_pretrained(tmp_path/'hub')
    (tmp_path/'hub'/'preprocessor_config.json').write_text(json.dumps(dict(image_processor_type='ViTImageProcessor', size=dict(height=32, width=32), image_mean=[.5]*3, image_std=[.25]*3)))
    model = from_hub(tmp_path/'hub', classes=list('ab'))
    save_model(model, tmp_path/'a.safetensors', classes=list('ab'), size=32, channels=3)
    again, x = load_model(tmp_path/'a.safetensors', 'cpu'), torch.rand(2, 3, 32, 32)
    assert torch.equal(predict_logits(again, x)[0], predict_logits(model.cpu(), x)[0]) and again.spec['kwargs']['kind'] == 'resnet'
