"""Public functions, a valid call of each, and values of the wrong kind for one argument at a time.

`python tests/mutation_calls.py [NAME …]` tries all of them and prints what came out."""
import argparse, collections, math
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

import mutations as m

T, N, K = torch.tensor, 6, 3


def _images(n=N, c=1, side=8): return torch.linspace(0, 1, n*c*side*side).reshape(n, c, side, side)
def _labels(n=N): return torch.arange(n) % K
def _prob(n=N): return torch.nn.functional.one_hot(_labels(n), K).float()*.7 + .1
def _masks(n=N, side=8): return (torch.arange(n*side*side).reshape(n, side, side) % 3 == 0).long()

@cache
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, K)).eval()

@cache
def dense():
    torch.manual_seed(0)
    return nn.Conv2d(1, 2, 3, padding=1).eval()

def data():
    from visft_nb.data import Images
    return Images((_images()*255).byte(), _labels(), ('a', 'b', 'c'))


# what stands in the place of tensors and lists
ARRAYS = {
    'texts': np.array(['ant']*N), 'list of texts': ['ant']*N, 'text': 'ant', 'bytes': b'ant', 'objects': np.array([None]*N), 'None': None, 'number': 3, 'dict': {'a': 1}, 'empty list': [], 'empty tensor': torch.zeros(0),
    'scalar tensor': T(1.), 'nan': torch.full((N,), math.nan), 'nan rows': torch.full((N, K), math.nan), 'nan images': torch.full((N, 1, 8, 8), math.nan), 'inf rows': torch.full((N, K), math.inf), 'ragged': [[1], [1, 2]],
    'complex': torch.zeros(N, dtype=torch.complex64), 'complex rows': torch.zeros(N, K, dtype=torch.complex64), 'negative': -torch.ones(N, dtype=torch.int64), 'huge': torch.full((N,), 2**62), 'huge float': torch.full((N,), 1e30),
    'halves': torch.full((N,), .5), 'booleans': torch.ones(N, dtype=torch.bool), 'short': torch.zeros(N - 1, dtype=torch.int64), 'five axes': torch.zeros(1, 1, 1, 1, 1), 'no axis': np.float64(1), 'dates': np.array(['2024-01-15']*N, 'M8[D]'),
    'function': len, 'set': {1, 2}, 'path': Path('x.png'), 'meta': torch.zeros(N, device='meta'), 'meta rows': torch.zeros(N, K, device='meta'), 'bytes images': torch.zeros(N, 1, 8, 8, dtype=torch.uint8), 'structured': np.zeros(N, [('a', 'u1')]),
    'backwards': np.arange(N)[::-1], 'big endian': np.arange(N, dtype='>i4') % K, 'float16 rows': _prob().half().numpy(), 'unsigned': np.arange(N, dtype=np.uint64), 'uint16': np.arange(N, dtype=np.uint16) % K, 'grad': torch.ones(N, K).requires_grad_(),
    'sparse': torch.eye(N).to_sparse(), 'decimals': [__import__('decimal').Decimal('0.5')]*N, 'digits that are text': ['0', '1', '2']*2, 'a list of tensors': [T(0), T(1)]*3, 'two axes of labels': torch.zeros(N, 1, dtype=torch.int64)}

# what stands in the place of numbers, names and options
SCALARS = {'text': 'three', 'digits': '3', 'None': None, 'nan': math.nan, 'inf': math.inf, 'minus inf': -math.inf, 'negative': -1, 'zero': 0, 'half': .5, 'huge': 10**30, 'huge float': 1e300, 'list': [1], 'empty': [], 'dict': {}, 'tensor': torch.ones(2),
           'boolean': True, 'complex': 1j, 'function': len, 'bytes': b'1', 'numpy': np.float64(2.5), 'numpy whole': np.int64(1), 'long text': 'x'*100_000, 'nul': 'a\0b', 'surrogate': '\udce9', 'object': object(), 'one-element': T([2.])}


LONG = ('steps', 'binary_steps', 'epochs', 'samples', 'restarts', 'queries', 'n', 'n0')   # of these a huge number asks for a long time, and gets it


def finite(a):
    "Every number of an answer is one."
    if isinstance(a, (tuple, list)): return [finite(v) for v in a]
    if isinstance(a, dict): return finite(list(a.values()))
    if hasattr(a, 'select_dtypes'): a = a.select_dtypes('number').to_numpy(float)
    if torch.is_tensor(a): assert a.device.type != 'meta' and (not a.is_floating_point() or a.isfinite().all()), a
    elif isinstance(a, np.ndarray) and a.dtype.kind == 'f' or isinstance(a, float): assert np.isfinite(a).all(), a

def share(top=1.):
    def judge(a): assert isinstance(a, float) and 0 <= a <= top, a
    return judge

def in_box(a): assert torch.is_tensor(a) and a.is_floating_point() and a.ndim == 4 and ((a >= 0) & (a <= 1)).all(), a

def any_answer(a): pass


NAMES = ('Images', 'Images[]', 'Batches', 'split_data', 'label_subset', 'load_dataset', 'make_nodules', 'mask_boxes', 'find_leaks', 'accuracy',
         'confusion_matrix', 'classification_report', 'auc', 'dice', 'iou', 'reliability', 'calibration_error', 'proportion_interval',
         'bootstrap_interval', 'mean_interval', 'fit', 'fit batch', 'predict_logits', 'evaluate', 'load_weights', 'predict', 'model_spec',
         'uncertainty', 'pgd', 'fgsm', 'random_signs', 'robust_accuracy', 'deepfool', 'carlini_wagner', 'apgd', 'fab', 'square', 'certify',
         'corrupt', 'record', 'parse_given', 'find_notebooks', 'set_seed', 'get_device', 'medmnist_scores', 'coverage_curve', 'threshold_for',
         'operating_point', 'fit_temperature', 'froc', 'window', 'segment', 'dice_loss', 'hausdorff', 'pixel_report', 'MedicalImageDataset')

# name -> (function, valid arguments, those that are arrays, those that are numbers or names, judge)
def calls():
    from visft_nb import core, data as d, metrics, train
    from visft_nb.course import book, profiles
    from visft_nb.deploy import model_spec, predict, uncertainty
    from visft_nb.deploy import Opened
    from visft_nb.finetune import lung, medmnist, segmentation
    from visft_nb import robust
    from visft_nb.robust import attacks
    x, y, prob, masks = _images(), _labels(), _prob(), _masks()
    attack = dict(model=net(), x=x, y=y, eps=.1)
    opened = Opened(lambda v: net()(v), model_spec(('a', 'b', 'c'), 8), Path('m.onnx'))
    fit = lambda **kw: train.fit(nn.Sequential(nn.Flatten(), nn.Linear(64, K)), **kw)
    batches = [(x, y)]
    return {
        'Images': (d.Images, dict(images=(x*255).byte(), labels=y, classes=('a', 'b', 'c'), masks=masks.byte(), groups=list('aabbcc'), names=list('uvwxyz')), ['images', 'labels', 'classes', 'masks', 'groups', 'names'], [], any_answer),
        'Images[]': (lambda i: data()[i], dict(i=[0, 1]), ['i'], [], any_answer),
        'Batches': (lambda **k: list(d.Batches(data(), **k)), dict(batch_size=2, seed=0, target='labels'), [], ['batch_size', 'seed', 'target'], any_answer),
        'split_data': (lambda fractions, seed: d.split_data(data(), fractions, seed), dict(fractions=[.5, .5], seed=0), ['fractions'], ['seed'], any_answer),
        'label_subset': (lambda per_class, seed: d.label_subset(data(), per_class, seed), dict(per_class=1, seed=0), [], ['per_class', 'seed'], any_answer),
        'load_dataset': (d.load_dataset, dict(name='digits', split='train', root=None, size=None), [], ['name', 'split', 'root'], any_answer),
        'make_nodules': (d.make_nodules, dict(n=2, size=16, seed=0), [], ['n', 'size', 'seed'], any_answer),
        'mask_boxes': (d.mask_boxes, dict(instances=masks), ['instances'], [], any_answer),
        'find_leaks': (lambda a: d.find_leaks(a), dict(a=data()), ['a'], [], any_answer),
        'accuracy': (metrics.accuracy, dict(preds=prob, target=y), ['preds', 'target'], [], share()),
        'confusion_matrix': (metrics.confusion_matrix, dict(preds=y, target=y, classes=None), ['preds', 'target', 'classes'], ['classes'], finite),
        'classification_report': (metrics.classification_report, dict(preds=y, target=y, classes=None, absent=0.), ['preds', 'target', 'classes'], ['absent', 'classes'], any_answer),
        'auc': (metrics.auc, dict(preds=prob, target=y), ['preds', 'target'], [], share()),
        'dice': (metrics.dice, dict(preds=masks, target=masks, empty=1., over='images', label=1), ['preds', 'target'], ['over', 'label', 'empty'], any_answer),
        'iou': (metrics.iou, dict(preds=masks, target=masks, empty=1., over='images', label=1), ['preds', 'target'], ['over', 'label', 'empty'], any_answer),
        'reliability': (metrics.reliability, dict(preds=prob, target=y, bins=5), ['preds', 'target'], ['bins'], any_answer),
        'calibration_error': (metrics.calibration_error, dict(preds=prob, target=y, bins=5), ['preds', 'target'], ['bins'], share()),
        'proportion_interval': (metrics.proportion_interval, dict(right=3, total=5, level=.95), [], ['right', 'total', 'level'], finite),
        'bootstrap_interval': (lambda a, groups, **k: metrics.bootstrap_interval(lambda v: core.as_array(v, 'a').mean(), a, groups=groups, samples=k.pop('samples', 20), **k), dict(a=np.arange(N), groups=None, level=.95, seed=0, samples=20), ['a', 'groups'], ['level', 'seed', 'samples'], finite),
        'mean_interval': (metrics.mean_interval, dict(values=[1., 2., 3.], level=.95), ['values'], ['level'], finite),
        'fit': (fit, dict(train=batches, valid=None, epochs=1, bar=False, lr=.01, weight_decay=.01, optimizer='adamw', schedule='onecycle', clip=None, precision='fp32', goal='max', patience=None, every=None, seed=0),
                ['train', 'valid'], ['epochs', 'lr', 'weight_decay', 'optimizer', 'schedule', 'clip', 'precision', 'goal', 'patience', 'every', 'seed'], any_answer),
        'fit batch': (lambda x, y: fit(train=[(x, y)], epochs=1, bar=False, precision='fp32'), dict(x=x, y=y), ['x', 'y'], [], any_answer),
        'predict_logits': (lambda **k: train.predict_logits(net(), **k)[0], dict(data=x, batch_size=4, precision='fp32'), ['data'], ['batch_size', 'precision'], any_answer),
        'evaluate': (lambda **k: train.evaluate(net(), **k), dict(data=data(), metric=None, precision='fp32'), ['data'], ['metric', 'precision'], any_answer),
        'load_weights': (lambda state: train.load_weights(nn.Linear(2, 2), state), dict(state=nn.Linear(2, 2).state_dict()), ['state'], [], any_answer),
        'predict': (lambda **k: predict(opened, **k), dict(images=x, top=2, errors='raise', min_confidence=.8), ['images'], ['top', 'errors', 'min_confidence'], any_answer),
        'model_spec': (model_spec, dict(classes=['a', 'b'], size=8, channels=1, fit='crop', values=(0, 1), task='classification', window=None), ['classes', 'size', 'values', 'window'], ['size', 'channels', 'fit', 'values', 'task', 'window'], any_answer),
        'uncertainty': (uncertainty, dict(p=prob.T), ['p'], [], finite),
        'pgd': (attacks.pgd, attack | dict(steps=2, alpha=.05, norm='linf', restarts=1, loss='ce', momentum=0., precision='fp32'), ['x', 'y'], ['eps', 'steps', 'alpha', 'norm', 'restarts', 'loss', 'momentum', 'precision', 'model'], in_box),
        'fgsm': (attacks.fgsm, attack | dict(norm='linf', loss='ce'), ['x', 'y'], ['eps', 'norm', 'loss'], in_box),
        'random_signs': (attacks.random_signs, attack, ['x'], ['eps'], in_box),
        'robust_accuracy': (lambda **k: attacks.robust_accuracy(net(), **k), dict(x=x, y=y, attacks={'none': lambda m, x, y: x}, batch_size=3), ['x', 'y', 'attacks'], ['batch_size'], any_answer),
        'deepfool': (robust.deepfool, dict(model=net(), x=x, y=y, steps=2, norm='l2', overshoot=.02), ['x', 'y'], ['steps', 'norm', 'overshoot'], in_box),
        'carlini_wagner': (robust.carlini_wagner, dict(model=net(), x=x, y=y, steps=2, lr=.1, binary_steps=1, confidence=0., c=.01), ['x', 'y'], ['steps', 'lr', 'binary_steps', 'confidence', 'c'], in_box),
        'apgd': (robust.apgd, attack | dict(steps=2, norm='linf', loss='ce', restarts=1), ['x', 'y'], ['eps', 'steps', 'norm', 'loss', 'restarts'], in_box),
        'fab': (robust.fab, attack | dict(steps=2, norm='linf'), ['x', 'y'], ['eps', 'steps', 'norm'], in_box),
        'square': (robust.square, attack | dict(queries=3, norm='linf', p=.8), ['x', 'y'], ['eps', 'queries', 'norm', 'p'], in_box),
        'certify': (lambda **k: robust.certify(net(), **k), dict(x=x, sigma=.1, n0=4, n=8, alpha=.01, batch_size=10), ['x'], ['sigma', 'n0', 'n', 'alpha', 'batch_size'], any_answer),
        'corrupt': (robust.corrupt, dict(x=x, kind='noise', severity=1), ['x'], ['kind', 'severity'], in_box),
        'record': (lambda v: core.record_value('v', v), dict(v=1.), ['v'], ['v'], any_answer),
        'parse_given': (lambda v: profiles.parse_given([f'A={v}']), dict(v='3'), [], ['v'], any_answer),
        'find_notebooks': (book.find_notebooks, dict(asked='tour'), [], ['asked'], any_answer),
        'set_seed': (core.set_seed, dict(seed=0), [], ['seed'], any_answer),
        'get_device': (core.get_device, dict(name='cpu'), [], ['name'], any_answer),
        'medmnist_scores': (medmnist.medmnist_scores, dict(preds=prob, target=y, task='multi-class'), ['preds', 'target'], ['task'], finite),
        'coverage_curve': (lung.coverage_curve, dict(confidence=prob.amax(1), correct=y == 0), ['confidence', 'correct'], [], any_answer),
        'threshold_for': (lung.threshold_for, dict(preds=prob[:, 1], target=y == 1, sensitivity=.9), ['preds', 'target'], ['sensitivity'], finite),
        'operating_point': (lung.operating_point, dict(preds=prob[:, 1], target=y == 1, threshold=.5), ['preds', 'target'], ['threshold'], any_answer),
        'fit_temperature': (lung.fit_temperature, dict(logits=prob, y=y), ['logits', 'y'], [], finite),
        'froc': (lung.froc, dict(preds=[[[1, 1, .9]]], target=[[[1, 1, 2]]]), ['preds', 'target'], [], any_answer),
        'window': (lung.window, dict(hu=x*1000, centre=0., width=100.), ['hu'], ['centre', 'width'], finite),
        'segment': (lambda **k: segmentation.segment(dense(), **k), dict(images=x, tile=8, overlap=2, threshold=None, precision='fp32'), ['images'], ['tile', 'overlap', 'threshold', 'precision'], any_answer),
        'dice_loss': (segmentation.dice_loss, dict(logits=dense()(x).detach(), y=masks), ['logits', 'y'], [], finite),
        'hausdorff': (segmentation.hausdorff, dict(preds=masks, target=masks, percent=95), ['preds', 'target'], ['percent'], any_answer),
        'pixel_report': (segmentation.pixel_report, dict(preds=masks, target=masks, classes=('a', 'b')), ['preds', 'target', 'classes'], [], any_answer),
        'MedicalImageDataset': (segmentation.MedicalImageDataset, dict(images=(x*255).byte(), masks=masks, classes=('a', 'b')), ['images', 'masks', 'classes'], [], any_answer),
    }


def wrong_calls(names=None):
    "Iterates (function, argument, name of the wrong value, call, judge)."
    for name, (f, valid, arrays, scalars, judge) in calls().items():
        if names and not any(n in name for n in names): continue
        for arg in dict.fromkeys([*arrays, *scalars]):
            for what, v in (ARRAYS if arg in arrays else {}).items(): yield name, arg, what, partial(f, **valid | {arg: v}), judge
            for what, v in (SCALARS if arg in scalars else {}).items():
                if not (arg in LONG and what.startswith('huge')): yield name, arg, what, partial(f, **valid | {arg: v}), judge


def check_valid():
    "The names of the functions whose valid call is not answered."
    return {name: str(o) for name, (f, valid, *_, judge) in calls().items() if (o := m.outcome(partial(f, **valid), judge=judge)).kind != 'answered'}


def main():
    parse = argparse.ArgumentParser(description=__doc__)
    parse.add_argument('names', nargs='*')
    asked = parse.parse_args()
    print('not answered:', check_valid())
    count, seen = collections.defaultdict(collections.Counter), collections.defaultdict(list)
    for name, arg, what, call, judge in wrong_calls(asked.names):
        o = m.outcome(call, judge=judge)
        count[name][o.kind] += 1
        if not o.fine: seen[name, arg].append((what, o.kind, o.what))
    for name, c in count.items():
        print(f'{name:<22}', ', '.join(f'{k} {v}' for k, v in sorted(c.items())))
        for (n, arg), found in seen.items():
            if n != name: continue
            for what, kind, text in found: print(f'    {arg:<10} {what:<16} {kind:<9} {text[:170]}')
    total = sum(count.values(), collections.Counter())
    print('total', sum(total.values()), 'calls:', dict(total))


if __name__ == '__main__': main()
