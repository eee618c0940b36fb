"Metrics against scikit-learn, torchmetrics, medmnist and segmentation_models_pytorch, and what bad input gets."
import inspect
import warnings

import numpy as np
import pytest
import torch
from sklearn import metrics as sk

from visft_nb.core import InputError
from visft_nb.finetune import kappa, mean_precision, operating_point, pixel_report, threshold_for
from visft_nb.finetune.lung import froc
from visft_nb.finetune.medmnist import medmnist_scores
from visft_nb.finetune.segmentation import hausdorff
from visft_nb.metrics import (accuracy, auc, bootstrap_interval, calibration_error, classification_report, confusion_matrix, dice, iou, mean_interval,
                              proportion_interval, reliability, renamed)
from visft_nb.train import evaluate, fit


def fake(n=400, c=5, seed=0, sharp=2.):
    "Labels and probabilities of a mediocre classifier."
    rng = np.random.default_rng(seed)
    y = rng.integers(0, c, n)
    z = rng.normal(size=(n, c)) + sharp*np.eye(c)[y]
    p = np.exp(z)/np.exp(z).sum(1, keepdims=True)
    return y, p


# accuracy, report, confusion

def test_accuracy_takes_logits_labels_and_maps():
    y, p = fake()
    expected = sk.accuracy_score(y, p.argmax(1))
    for pred in (p, p.argmax(1), torch.tensor(p), torch.tensor(p).bfloat16().float(), torch.tensor(p, requires_grad=True)):
        assert abs(accuracy(pred, torch.tensor(y)) - expected) < .015
    assert accuracy(p, y) == pytest.approx(expected, abs=1e-12) and isinstance(accuracy(p, y), float)
    z, t = torch.randn(2, 3, 4, 4), torch.randint(0, 3, (2, 4, 4))
    assert accuracy(z, t) == pytest.approx((z.argmax(1) == t).float().mean().item())


@pytest.mark.parametrize('seed', range(3))
def test_report_equals_sklearn_over_all_classes(seed):
    y, p = fake(60, 7, seed)
    y[y == 3] = 0                        # class 3 is absent from the truth
    p[:, 5] = 0                          # class 5 is never predicted
    pred = p.argmax(1)
    report = classification_report(pred, y, 9)     # 7 and 8 are nowhere
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        theirs = sk.precision_recall_fscore_support(y, pred, labels=range(9), zero_division=0)
        macro = sk.f1_score(y, pred, labels=range(9), average='macro', zero_division=0)
    np.testing.assert_allclose(report.values[:9], np.stack(theirs, 1), atol=1e-7)
    assert report.f1['macro mean'] == pytest.approx(macro, abs=1e-7)
    assert list(report.index) == [str(i) for i in range(9)] + ['macro mean', 'weighted mean']


@pytest.mark.parametrize('absent, expected', [(0., 2/4), (1., 3/4), (np.nan, 2/3)])
def test_what_an_absent_class_scores(absent, expected):
    report = classification_report([0, 0, 1, 1], [0, 0, 1, 2], 4, absent)      # f1: 1, 2/3, 0, absent
    assert report.f1['2'] == 0
    value = [1, 2/3, 0] + ([] if np.isnan(absent) else [absent])
    assert report.f1['macro mean'] == pytest.approx(np.mean(value)) and expected > np.mean(value)


def test_missing_class_lowers_macro_f1():
    y = np.repeat([0, 1, 2, 3], 25)
    pred = np.where(y == 3, 0, y)
    over_predicted = sk.f1_score(y, pred, labels=np.unique(pred), average='macro')
    assert classification_report(pred, y, 4).f1['macro mean'] == pytest.approx(over_predicted*3/4)


def test_confusion_matrix_keeps_all_classes_and_their_names():
    y, p = fake(100, 3)
    frame = confusion_matrix(p, y, ('cat', 'dog', 'eel', 'fox'))
    assert frame.shape == (4, 4) and frame.values.sum() == 100 and frame.loc['fox'].sum() == 0
    assert (frame.index.name, frame.columns.name) == ('true', 'predicted')
    assert frame.loc['cat', 'dog'] == ((y == 0) & (p.argmax(1) == 1)).sum()


# AUC

def test_auc_binary_and_multiclass():
    y, p = fake(300, 2)
    assert auc(p, y) == pytest.approx(sk.roc_auc_score(y, p[:, 1]), abs=1e-12) == auc(p[:, 1], y) == auc(torch.tensor(p[:, 1:]), torch.tensor(y))
    assert auc(100*p[:, 1] - 7, y) == pytest.approx(auc(p, y), abs=1e-12)      # any rising score
    assert auc([.3, .3], [0, 1]) == .5
    y, p = fake(300, 4)
    assert auc(p, y) == pytest.approx(np.mean([sk.roc_auc_score(y == k, p[:, k]) for k in range(4)]), abs=1e-9)


@pytest.mark.peer
@pytest.mark.parametrize('c, task', [(2, 'binary-class'), (5, 'multi-class')])
def test_auc_and_accuracy_equal_medmnist(c, task):
    evaluator = pytest.importorskip('medmnist.evaluator')
    y, p = fake(200, c)
    assert auc(p, y) == pytest.approx(evaluator.getAUC(y[:, None], p[:, 1] if c == 2 else p, task), abs=1e-12)
    assert accuracy(p, y) == pytest.approx(evaluator.getACC(y[:, None], p[:, 1] if c == 2 else p, task), abs=1e-12)


def test_auc_of_two_logits_is_that_of_their_order():
    y, p = fake(300, 2, sharp=1.)
    z = np.log(p) + np.random.default_rng(0).normal(size=(300, 1))*5      # any constant may be added to a row of logits
    assert auc(z, y) == pytest.approx(sk.roc_auc_score(y, p[:, 1]), abs=1e-12) == auc(torch.tensor(z), y)
    assert auc(60*z, y) == pytest.approx(auc(z, y), abs=1e-12)            # where a sigmoid in float32 knows ties only


@pytest.mark.parametrize('seed', range(2))
def test_fit_by_auc_reports_what_sklearn_says(seed):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(80, 4, generator=g)
    y = (x[:, 0] + 2*torch.randn(80, generator=g) > 0).long()
    torch.manual_seed(seed)
    model, valid = torch.nn.Linear(4, 2), [(x[40:], y[40:])]
    history = fit(model, [(x[:40], y[:40])], valid, epochs=3, lr=1e-2, metric=auc, seed=seed, bar=False, precision='fp32')
    with torch.no_grad(): prob = model(x[40:]).double().softmax(1)[:, 1]
    expected = sk.roc_auc_score(y[40:], prob)
    assert .5 != expected and history.monitor == 'auc'
    assert history.best == pytest.approx(expected, abs=1e-12) == evaluate(model, valid, auc)


def test_auc_of_several_logits_says_what_to_give_to_fit():
    x, y = torch.randn(30, 4), torch.arange(30) % 3
    model = torch.nn.Linear(4, 3)
    with pytest.raises(InputError, match='softmax'): evaluate(model, [(x, y)], auc)
    got = evaluate(model, [(x, y)], lambda z, y: auc(z.softmax(1), y))
    with torch.no_grad(): p = model(x).double().softmax(1).numpy()
    assert got == pytest.approx(sk.roc_auc_score(y, p, multi_class='ovr'), abs=1e-6)


# the order (preds, target), and names of earlier versions

def order_cases():
    y, p = fake(60, 2)
    pred, mask = masks()
    marks, discs = [[[1., 1, .9]], []], [[[1., 1, 2]], [[4., 4, 1]]]
    several = (p > .3).astype(float)
    return {
        accuracy: (p, y, 'pred y'), auc: (p, y, 'prob y'), confusion_matrix: (p, y, 'pred y'), classification_report: (p, y, 'pred y'),
        reliability: (p, y, 'prob y'), calibration_error: (p, y, 'prob y'), dice: (pred*.9 + .05, mask, 'pred mask'), iou: (pred*.9 + .05, mask, 'pred mask'),
        threshold_for: (p[:, 1], y, 'score y'), operating_point: (p[:, 1], y, 'score y', .5), medmnist_scores: (p, y, 'prob y', 'binary-class'),
        mean_precision: (torch.tensor(p), torch.tensor(several), 'logits y'), kappa: (torch.tensor(p), torch.tensor(y), 'pred y'),
        pixel_report: (pred.int(), mask.int(), 'pred mask', ['a', 'b']), hausdorff: (pred, mask, 'pred mask'), froc: (marks, discs, 'found truth')}


def same(a, b):
    if hasattr(a, 'equals'): return a.equals(b)
    if isinstance(a, torch.Tensor): return torch.equal(a, b)
    return repr(a) == repr(b)



NAMES = ['accuracy', 'auc', 'confusion_matrix', 'classification_report', 'reliability', 'calibration_error', 'dice', 'iou', 'threshold_for', 'operating_point',
         'medmnist_scores', 'mean_precision', 'kappa', 'pixel_report', 'hausdorff', 'froc']
BLIND = {'hausdorff', 'froc', 'pixel_report', 'kappa'}      # both arguments look alike


@pytest.mark.parametrize('name', NAMES)
def test_keywords_of_earlier_versions_still_work_with_a_warning(name):
    metric, (preds, target, old, *rest) = next((m, case) for m, case in order_cases().items() if m.__name__ == name)
    expected = metric(preds, target, *rest)
    p, t = old.split()
    rest = dict(zip(list(inspect.signature(metric).parameters)[2:], rest))
    assert same(metric(target=target, preds=preds, **rest), expected)
    with pytest.warns(DeprecationWarning, match='is now') as seen: got = metric(**{p: preds, t: target}, **rest)
    assert same(got, expected) and [w.filename for w in seen] == [__file__]*2
    with pytest.raises(InputError, match=rf'{name}\(preds, target\)'): metric(target, **{p: preds}, **rest)


@pytest.mark.parametrize('name', [n for n in NAMES if n not in BLIND])
def test_the_old_order_is_refused_where_it_shows(name):
    metric, (preds, target, _, *rest) = next((m, case) for m, case in order_cases().items() if m.__name__ == name)
    with pytest.raises(InputError, match=rf'preds come first.*{name}\(preds, target\)'): metric(target, preds, *rest)
    if not isinstance(preds, torch.Tensor):
        with pytest.raises(InputError, match='preds come first'): metric(torch.as_tensor(target), torch.as_tensor(preds), *rest)


def test_scores_of_one_class_in_the_old_order_are_seen_too():
    y, p = fake(60, 2)
    for metric in (auc, calibration_error):
        assert 0 <= metric(p[:, 1], y) <= 1
        with pytest.raises(InputError, match='preds come first'): metric(y, p[:, 1])
        with pytest.raises(InputError, match='preds come first'): metric(list(y), list(p[:, 1]))


def test_renamed_keeps_the_signature_and_its_documentation():
    assert list(inspect.signature(auc).parameters) == ['preds', 'target'] and 'ROC' in auc.__doc__

    @renamed(old='new')
    def double(new, other=1): return 2*new + other
    assert double(3) == double(new=3) == 7
    with pytest.warns(DeprecationWarning): assert double(old=3, other=0) == 6
    with pytest.raises(InputError, match='another value'): double(new=1, old=2)


def test_shares_run_from_0_to_1():
    y, p = fake(80, 3)
    figures = [accuracy(p, y), auc(p, y), calibration_error(p, y), *proportion_interval(3, 80), *bootstrap_interval(accuracy, p, y, samples=20)]
    assert all(0 < v < 1 for v in figures) and accuracy(y, y) == 1
    assert classification_report(p, y)[['precision', 'recall', 'f1']].stack().between(0, 1).all()


# Dice and IoU

def masks(n=6, size=16, seed=0):
    g = torch.Generator().manual_seed(seed)
    pred, mask = (torch.rand(n, size, size, generator=g) > .6 for _ in range(2))
    mask[0], pred[0] = False, False      # both empty
    mask[1] = False                      # a false find
    pred[2] = False                      # a miss
    return pred, mask


def test_overlap_by_hand():
    pred, mask = masks()
    inter, total = (pred & mask).sum((1, 2)).double(), (pred.sum((1, 2)) + mask.sum((1, 2))).double()
    assert torch.equal(dice(pred, mask, over=None)[1:], (2*inter/total)[1:]) and torch.equal(iou(pred, mask, over=None)[1:], (inter/(total - inter))[1:])
    d, j = dice(pred, mask, over=None), iou(pred, mask, over=None)
    torch.testing.assert_close(d, 2*j/(1 + j))


@pytest.mark.parametrize('empty, first', [(1., 1.), (0., 0.), (.5, .5)])
def test_both_empty_scores_what_is_asked(empty, first):
    pred, mask = masks()
    for metric in (dice, iou):
        each = metric(pred, mask, empty=empty, over=None)
        assert each[0] == first and each[1] == each[2] == 0
        assert metric(pred, mask, empty=empty) == pytest.approx(each.mean().item())
        assert metric(pred, mask, empty=float('nan')) == pytest.approx(each[1:].mean().item())


def test_probabilities_labels_and_devices_of_input_agree():
    pred, mask = masks()
    expected = dice(pred, mask)
    assert dice(pred.float()*.8 + .1, mask) == dice(pred.int()*3, mask.int()*3, label=3) == dice(pred.numpy(), mask.numpy().astype(np.uint8)) == expected


def test_a_batch_of_one_is_enough():
    pred, mask = masks()
    assert dice(pred[3:4], mask[3:4]) == dice(pred, mask, over=None)[3]


def test_overlap_equals_torchmetrics():
    from torchmetrics.functional.classification import binary_f1_score, binary_jaccard_index
    pred, mask = masks(seed=3)
    assert dice(pred, mask, over='pixels') == pytest.approx(binary_f1_score(pred.int(), mask.int()).item(), abs=1e-6)
    assert iou(pred, mask, over='pixels') == pytest.approx(binary_jaccard_index(pred.int(), mask.int()).item(), abs=1e-6)


@pytest.mark.peer
def test_overlap_equals_segmentation_models_pytorch():
    smp = pytest.importorskip('segmentation_models_pytorch')
    pred, mask = masks(seed=4)
    counts = smp.metrics.get_stats(pred[:, None].int(), mask[:, None].int(), mode='binary')
    assert dice(pred, mask) == pytest.approx(smp.metrics.f1_score(*counts, reduction='micro-imagewise', zero_division=1.).item(), abs=1e-6)
    assert iou(pred, mask, over='pixels') == pytest.approx(smp.metrics.iou_score(*counts, reduction='micro').item(), abs=1e-6)


# calibration

@pytest.mark.parametrize('bins', [1, 10, 15, 40])
def test_calibration_error_equals_torchmetrics_and_the_table(bins):
    from torchmetrics.functional.classification import multiclass_calibration_error
    y, p = fake(500, 4, sharp=1.)
    table = reliability(p, y, bins)
    ours = ((table.accuracy - table.confidence).abs()*table['count']).sum()/len(y)
    theirs = multiclass_calibration_error(torch.tensor(p), torch.tensor(y), num_classes=4, n_bins=bins).item()
    assert calibration_error(p, y, bins) == pytest.approx(ours, abs=1e-6) and ours == pytest.approx(theirs, abs=1e-6)
    assert table['count'].sum() == 500 and len(table) == bins


def test_confidence_of_one_falls_into_the_last_bin():
    p, y = np.array([[.98, .02]]*50 + [[1., 0.]]*50), np.array([0]*45 + [1]*5 + [0]*50)
    assert calibration_error(p, y) == pytest.approx(abs(.95 - .99), abs=1e-6)
    assert reliability(p, y)['count'].iloc[-1] == 100


def test_calibration_of_known_cases():
    assert calibration_error([[.6, .4]]*10, [0]*6 + [1]*4) == pytest.approx(0, abs=1e-6)
    assert calibration_error([.9]*10, [1]*5 + [0]*5) == pytest.approx(.4, abs=1e-6)
    assert calibration_error(torch.tensor([[.9, .1]]*10).half(), torch.tensor([0]*10)) == pytest.approx(.1, abs=1e-3)


# intervals

def test_bootstrap_is_seeded_and_near_wilson():
    y = np.r_[np.ones(180), np.zeros(20)].astype(int)
    ones = np.ones(200, int)
    a = bootstrap_interval(accuracy, ones, y, samples=400)
    assert a == bootstrap_interval(accuracy, ones, y, samples=400) != bootstrap_interval(accuracy, ones, y, samples=400, seed=1)
    np.testing.assert_allclose(a, proportion_interval(180, 200), atol=.015)
    narrow = bootstrap_interval(accuracy, ones, y, samples=400, level=.5)
    assert a[0] < narrow[0] < narrow[1] < a[1]


def test_bootstrap_keeps_rows_together_and_takes_lists_and_tensors():
    x = torch.arange(50.)
    low, high = bootstrap_interval(lambda a, b: float((a - b).abs().max()), x, x.clone(), samples=50)
    assert low == high == 0
    assert bootstrap_interval(lambda v: float(np.mean(v)), [1., 1., 1.], samples=20) == (1., 1.)


def test_bootstrap_of_groups_is_wider():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(20), 20)
    v = rng.normal(size=20)[groups] + .1*rng.normal(size=400)
    width = lambda **k: np.diff(bootstrap_interval(lambda a: float(a.mean()), v, samples=300, **k))[0]
    assert width(groups=groups) > 2.5*width()
    assert np.isfinite(width(groups=[f'patient {g}' for g in groups]))


def test_bootstrap_draws_again_where_a_class_is_lost():
    y, s = np.array([0]*20 + [1]*3), np.linspace(0, 1, 23)
    low, high = bootstrap_interval(auc, s, y, samples=200)
    assert low == pytest.approx(1) and high == pytest.approx(1)


def test_bootstrap_agrees_with_scipy():
    from scipy.stats import bootstrap
    v = np.random.default_rng(1).exponential(size=150)
    theirs = bootstrap((v,), np.mean, method='percentile', n_resamples=4000).confidence_interval
    np.testing.assert_allclose(bootstrap_interval(lambda a: a.mean(), v, samples=4000), theirs, atol=.03)


@pytest.mark.parametrize('grouped', [False, True])
def test_bootstrap_is_plain_drawing_with_replacement(grouped):
    "Drawn by hand, from the same generator; samples that lack a class are drawn again."
    r = np.random.default_rng(5)
    y, s = (np.arange(24) % 8 == 0).astype(int), r.normal(size=24)
    groups = [f'{i//2:02}' for i in range(24)] if grouped else None
    rng, n, values, again = np.random.default_rng(3), 12 if grouped else 24, [], 0
    while len(values) < 150:
        drawn = rng.integers(0, n, n)
        i = np.concatenate([[2*g, 2*g + 1] for g in drawn]) if grouped else drawn
        if len(set(y[i])) < 2: again += 1
        else: values.append(sk.roc_auc_score(y[i], s[i]))
    assert again > 0
    np.testing.assert_allclose(bootstrap_interval(auc, s, y, samples=150, seed=3, groups=groups, level=.8), np.quantile(values, [.1, .9]), atol=1e-12)


def test_mean_interval_is_students():
    from scipy import stats
    v = [90.1, 91.4, 89.9, 90.8]
    mean, half = mean_interval(v, .9)
    np.testing.assert_allclose((mean - half, mean + half), stats.t.interval(.9, 3, np.mean(v), stats.sem(v)))
    assert mean_interval(torch.tensor([1., 1.])) == (1., 0.)


def test_proportion_interval_stays_within_0_and_1():
    assert proportion_interval(0, 20)[0] == pytest.approx(0, abs=1e-11) and proportion_interval(20, 20)[1] == pytest.approx(1)
    assert .5 < proportion_interval(20, 20)[0] < .9


# bad input

y5, p5 = fake(50, 5)
pm, mm = masks()
nan = float('nan')
BAD = {
    'accuracy shapes': (lambda: accuracy(p5, y5[:7]), 'shape'),
    'accuracy empty': (lambda: accuracy([], []), 'shape'),
    'accuracy nan': (lambda: accuracy(np.where(p5 > .5, nan, p5), y5), 'NaN diverged'),
    'label too high': (lambda: classification_report(p5, y5, 3), 'labels 0 to 2 classes'),
    'label negative': (lambda: confusion_matrix([0, 1], [0, -1]), '-1 count labels from 0'),
    'label of probabilities': (lambda: confusion_matrix([.3, .7], [0, 1]), 'argmax'),
    'label names': (lambda: confusion_matrix(['cat', 'dog'], ['cat', 'cat']), 'numbers'),
    'label shape': (lambda: confusion_matrix([0, 1], np.zeros((2, 3, 4))), 'shape'),
    'label nan': (lambda: confusion_matrix([0, 1], [0, nan]), 'nan whole'),
    'lengths': (lambda: classification_report([0, 1], [0, 1, 1]), '3 2 same images'),
    'absent': (lambda: classification_report([0, 1], [0, 1], absent=.5), 'nan'),
    'auc one class': (lambda: auc([.2, .3], [1, 1]), 'class 0 no image'),
    'auc a class missing': (lambda: auc(p5, np.where(y5 == 2, 0, y5)), 'class 2 stratified'),
    'auc logits': (lambda: auc(9*p5, y5), 'softmax sum'),
    'auc nan': (lambda: auc([nan, .2], [0, 1]), 'NaN'),
    'auc lengths': (lambda: auc(p5, y5[:9]), '9 50'),
    'dice shapes': (lambda: dice(pm, mm[:, :8]), 'shape same'),
    'dice logits': (lambda: dice(pm.float()*5 - 2, mm), 'sigmoid'),
    'dice nan': (lambda: dice(pm.float()*nan, mm), 'NaN'),
    'dice labels': (lambda: dice(pm.int()*2, mm), 'label=k'),
    'dice single': (lambda: dice(pm[0, 0], mm[0, 0]), 'x[None]'),
    'iou over': (lambda: iou(pm, mm, over='classes'), 'pixels'),
    'iou nothing': (lambda: iou(pm[:1], mm[:1], empty=nan), 'empty'),
    'ece logits': (lambda: calibration_error(9*p5, y5), 'softmax'),
    'ece bins': (lambda: reliability(p5, y5, bins=0), 'bins'),
    'ece lengths': (lambda: reliability(p5, y5[:3]), '3 50'),
    'bootstrap lengths': (lambda: bootstrap_interval(accuracy, y5, y5[:4]), '50 4'),
    'bootstrap level': (lambda: bootstrap_interval(accuracy, y5, y5, level=95), '0.95'),
    'bootstrap fails': (lambda: bootstrap_interval(auc, np.arange(301.)[::-1], np.array([0]*300 + [1]), samples=3, seed=3, groups=np.arange(301) == 300), 'too few'),
    'groups': (lambda: bootstrap_interval(accuracy, y5, y5, groups=[1, 2]), '50 2'),
    'one group': (lambda: bootstrap_interval(accuracy, y5, y5, groups=[1]*50), 'two or more'),
    'one run': (lambda: mean_interval([3.]), '2 or more runs'),
    'diverged run': (lambda: mean_interval([3., nan]), 'diverged'),
    'proportion': (lambda: proportion_interval(11, 10), '11 10'),
}


@pytest.mark.parametrize('case', BAD)
def test_bad_input_says_what_to_do(case):
    call, words = BAD[case]
    with pytest.raises(InputError) as e: call()
    for w in words.split(): assert w in str(e.value), str(e.value)
