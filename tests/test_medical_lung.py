"The lung case: HU and windows, thresholds, FROC, abstention, calibration, symmetries, slices by patient."
import itertools, math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fake_cuda import fake_cuda
from helpers import fake_step, refused
from visft_nb.cnn.models import small_cnn
from visft_nb.data import Augment, Batches, Images, load_dataset, split_data
from visft_nb.finetune import lung
from visft_nb.finetune.lung import (HU_WINDOWS, LUNA_RATES, PatchViews, centre, coverage_curve, dihedral, fit_temperature, froc, make_cubes, nodule_slices,
                                    operating_point, ppv, predict_turned, read_hu, threshold_for, window)
from visft_nb.metrics import auc


def rng(seed=0): return np.random.default_rng(seed)


@pytest.fixture(scope='module')
def ct():
    pydicom = pytest.importorskip('pydicom')
    from pydicom.data import get_testdata_file
    return pydicom, get_testdata_file('CT_small.dcm', download=False)


@pytest.mark.parametrize('name', HU_WINDOWS)
def test_window_against_pydicom(ct, name):
    pydicom, path = ct
    from pydicom.pixels import apply_windowing
    d = pydicom.dcmread(path)
    d.WindowCenter, d.WindowWidth = HU_WINDOWS[name]
    d.VOILUTFunction = 'LINEAR_EXACT'
    theirs = apply_windowing(d.pixel_array*float(d.RescaleSlope) + float(d.RescaleIntercept), d)
    low, high = (v*float(d.RescaleSlope) + float(d.RescaleIntercept) for v in (-2**15, 2**15 - 1))   # it fills the range that 16 bits can hold
    ours = window(read_hu(path), *HU_WINDOWS[name])
    assert ours.shape == (128, 128) and ours.dtype == torch.float32
    assert np.abs((theirs - low)/(high - low) - ours.numpy()).max() < 1e-6


def test_hu_against_pydicom(ct):
    pydicom, path = ct
    from pydicom.pixels import apply_rescale
    d = pydicom.dcmread(path)
    assert np.array_equal(read_hu(path).numpy(), apply_rescale(d.pixel_array, d))


def test_padding_outside_of_the_scan_becomes_air(ct, tmp_path):
    pydicom, path = ct
    d = pydicom.dcmread(path)
    v = d.pixel_array.copy(); v[:5] = d.PixelPaddingValue
    d.PixelData = v.tobytes(); d.save_as(tmp_path/'padded.dcm')
    hu = read_hu(tmp_path/'padded.dcm')
    assert (hu[:5] == -1024).all() and torch.equal(hu[5:], read_hu(path)[5:])


def broken(ct, folder, what):
    pydicom, path = ct
    d = pydicom.dcmread(path)
    file = folder/'x.dcm'
    if what == 'text': file.write_text('no dicom'); return file
    if what == 'missing': return file
    if what == 'no pixels': del d.PixelData
    if what == 'no slope': del d.RescaleSlope
    if what == 'mr': d.Modality = 'MR'
    if what == 'frames': d.NumberOfFrames = 2; d.Rows = 64
    if what == 'cut short': d.PixelData = d.PixelData[:1000]
    d.save_as(file)
    return file


@pytest.mark.parametrize('what, words', {'text': ['no DICOM'], 'missing': ['no DICOM'], 'no pixels': ['without pixel data', 'CT'], 'no slope': ['RescaleSlope'], 'mr': ['MR', 'only CT'],
                                         'frames': ['2 frames', 'frame=None', '1 to 2'], 'cut short': ['decoded']}.items())
def test_files_that_are_no_slice(ct, tmp_path, what, words):
    with refused(words) as e: read_hu(broken(ct, tmp_path, what))
    assert 'x.dcm' in str(e.value), str(e.value)


def test_the_eight_symmetries_are_a_group():
    x = torch.rand(1, 5, 5)
    eight = [dihedral(x, k) for k in range(8)]
    key = lambda t: t.contiguous().numpy().tobytes()
    assert len(set(map(key, eight))) == 8
    assert {key(dihedral(dihedral(x, a), b)) for a, b in itertools.product(range(8), repeat=2)} == set(map(key, eight))


def test_views_keep_the_middle_and_repeat():
    x = torch.zeros(64, 1, 21, 21); x[..., 10, 10] = 1
    out = PatchViews(11, Augment())(x, torch.Generator().manual_seed(0))
    assert out.shape == (64, 1, 11, 11) and (out[..., 5, 5] == 1).all() and out.sum() == 64
    x = torch.rand(64, 1, 20, 20)
    a, b, c = (PatchViews(16)(x, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(a, b) and not torch.equal(a, c)
    assert len({tuple(v.flatten().tolist()) for v in PatchViews(20, Augment())(x[:1].expand(64, -1, -1, -1), torch.Generator().manual_seed(0))}) == 8


def test_turned_prediction_does_not_depend_on_the_turn():
    model = small_cnn(2, width=4).train()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    x = torch.rand(6, 1, 17, 17)
    z = predict_turned(model, x)
    for k in range(8): assert torch.allclose(predict_turned(model, dihedral(x, k)), z, atol=1e-5)
    assert model.training and all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


def test_threshold_is_the_largest_that_reaches_the_sensitivity():
    r = rng(1)
    y, s = r.integers(0, 2, 60), r.normal(size=60).round(1)
    for wanted in (.5, .8, .9, .95, 1.):
        t = threshold_for(s, y, wanted)
        reached = lambda t: (s[y == 1] >= t).mean()
        assert reached(t) >= wanted - 1e-12
        assert all(reached(u) < wanted for u in s[s > t])


def test_operating_point_against_scikit_learn():
    from sklearn.metrics import confusion_matrix
    r = rng(2)
    y, s = r.integers(0, 2, 200), r.normal(size=200)
    tn, fp, fn, tp = confusion_matrix(y, s >= .3).ravel()
    p = operating_point(torch.from_numpy(s), torch.from_numpy(y), .3)
    want = {'sensitivity': tp/(tp + fn), 'specificity': tn/(tn + fp), 'PPV': tp/(tp + fp), 'NPV': tn/(tn + fn)}
    for k, v in want.items(): assert math.isclose(p['per cent'][k], 100*v) and p.low[k] < 100*v < p.high[k]
    assert math.isclose(ppv(want['sensitivity'], want['specificity'], y.mean()), want['PPV'])
    assert operating_point([0., 0.], [0, 1], 1.).loc['PPV'].isna()['per cent']


# FROC

def luna_score(truth, found, rates=LUNA_RATES):
    "As LUNA16's evaluation does it: every mark's fate, scikit-learn's ROC, scaled; missed nodules as marks below all others."
    from sklearn.metrics import roc_curve
    gt, prob, missed, nodules, alarms = [], [], 0, 0, 0
    for t, f in zip(truth, found):
        left = set(range(len(f)))
        for x, y, r in t:
            nodules += 1
            on = [i for i, (a, b, _) in enumerate(f) if (a - x)**2 + (b - y)**2 < r**2]
            left -= set(on)
            if on: gt.append(1); prob.append(max(f[i][2] for i in on))
            else: missed += 1
        for i in left: gt.append(0); prob.append(f[i][2]); alarms += 1
    fpr, tpr, _ = roc_curve(gt, prob, drop_intermediate=False)
    return np.interp(rates, fpr*alarms/len(truth), tpr*(nodules - missed)/nodules)


def scans(seed, n=12):
    r = rng(seed)
    truth = [np.column_stack([r.uniform(0, 60, (k, 2)), r.uniform(3, 8, k)]) for k in r.integers(0, 4, n)]
    found = []
    for t in truth:
        near = [t[:, :2] + r.normal(0, 3, (len(t), 2))]*2 if len(t) else [np.zeros((0, 2))]
        xy = np.concatenate([*near, r.uniform(0, 60, (r.integers(1, 12), 2))])
        found.append(np.column_stack([xy, r.uniform(0, 1, len(xy)) + .3*(np.arange(len(xy)) < len(t))]))
    truth[0] = np.array([[30., 30, 5]])
    return truth, found


@pytest.mark.parametrize('seed', range(6))
def test_froc_against_the_rules_of_luna16(seed):
    truth, found = scans(seed)
    f = froc(found, truth)
    assert np.allclose(f.at, luna_score(truth, found), atol=1e-12) and math.isclose(f.score, f.at.mean())
    assert (np.diff(f.rate) >= 0).all() and (np.diff(f.sensitivity) >= 0).all() and f.rate[0] == f.sensitivity[0] == 0


def test_froc_by_hand():
    truth = [[[10, 10, 5], [30, 30, 5]], [[20, 20, 5]]]
    marks = [[[10, 11, .9], [12, 10, .6], [40, 5, .8]], [[21, 20, .7], [2, 2, .5]]]
    f = froc(marks, truth)
    assert f.rate.tolist() == [0, 0, .5, .5, 1] and np.allclose(f.sensitivity, [0, 1/3, 1/3, 2/3, 2/3]) and math.isclose(f.score, 4/7)


def test_froc_at_its_ends():
    truth = [torch.tensor([[10., 10, 4]]), torch.zeros(0, 3)]
    assert froc([[[10, 10, .5]], []], truth).score == 1, 'all found, no alarm'
    assert froc([[], []], truth).score == 0, 'nothing marked'
    assert froc([[[14, 10, .5]], []], truth).score == 0, 'on the rim is outside'
    a, b = (froc([[[10, 10, s]], [[5, 5, 1.]]*3], truth).score for s in (.5, 2.))
    assert b == 1 and 0 < a < b, 'an alarm above the nodule costs, one below it does not'
    order = froc([[[5, 5, 1.]]*3, [[10, 10, .5]]], [truth[1], truth[0]])
    assert order.score == a, 'the order of the scans does not matter'


# abstention

def coverage_by_hand(c, e):
    "Mean over orders of ties: each k takes the expected number of mistakes."
    c, e, out = np.asarray(c), np.asarray(e, float), []
    for k in range(1, len(c) + 1):
        t = np.sort(c)[::-1][k - 1]
        above, at = c > t, c == t
        out.append((e[above].sum() + e[at].mean()*(k - above.sum()))/k)
    return np.array(out)


@pytest.mark.parametrize('digits', [8, 1])
def test_coverage_against_a_loop_and_without_an_order_of_ties(digits):
    r = rng(3)
    c, ok = r.uniform(size=80).round(digits), r.uniform(size=80) < .8
    f = coverage_curve(c, ok)
    assert np.allclose(f.risk, coverage_by_hand(c, ~ok)) and math.isclose(f.area, f.risk.mean()) and math.isclose(f.risk[-1], (~ok).mean())
    i = r.permutation(80)
    assert math.isclose(coverage_curve(c[i], ok[i]).area, f.area)
    assert f.best <= f.area <= coverage_curve(ok*-1., ok).area + 1e-12
    assert math.isclose(coverage_curve(ok*1. + r.uniform(0, .5, 80), ok).area, f.best)


def test_coverage_at_a_risk_does_not_split_ties():
    f = coverage_curve([.9, .9, .5, .5], [True, True, True, False])
    assert f.at(0) == .5 and f.at(.25) == 1 and f.at(.1) == .5
    assert coverage_curve([.9, .5], [False, True]).at(.1) == 0
    assert coverage_curve([1., 1., 1.], [True, False, True]).at(.3) == 0, 'all equal: all or nothing'


def test_temperature_is_recovered():
    g = torch.Generator().manual_seed(0)
    z = torch.randn(4000, 3, generator=g, dtype=torch.float64)*2
    y = torch.multinomial(z.softmax(1), 1, generator=g)[:, 0]
    for t in (.5, 1., 4.): assert abs(fit_temperature(z*t, y)/t - 1) < .06
    t = fit_temperature(z*3, y)
    loss = lambda t: F.cross_entropy(z*3/t, y)
    assert all(loss(t) <= loss(t*f) for f in (.97, 1.03))
    assert fit_temperature(torch.tensor([[9., 0], [0, 9]]), torch.tensor([0, 1])) < .5, 'nothing is wrong, so it may be surer'


# cubes and slices

def test_slices_carry_label_and_patient_and_lie_in_the_nodule():
    cubes = make_cubes(6, 21, seed=1)
    y = torch.tensor([0, 1, -1, 1, 0, 1])
    s = nodule_slices(cubes, y, 4)
    assert len(s) == 5*4 and set(s.groups) == {f'patient {i}' for i in (0, 1, 3, 4, 5)}
    for x, k, g in zip(s.images, s.labels, s.groups):
        i = int(g.split()[1])
        hits = [d for d in range(21) if torch.equal(cubes.extra['volumes'][i, d], x[0])]
        assert k == y[i] and hits and cubes.extra['volume_masks'][i, hits[0]].any()
    a, b = split_data(s, [.5, .5])
    assert not set(a.groups) & set(b.groups)


def test_cubes_differ_only_where_they_should():
    a, b = make_cubes(8, 15, seed=3), make_cubes(8, 15, seed=3)
    assert torch.equal(a.extra['volumes'], b.extra['volumes']) and a.labels.bincount().tolist() == [4, 4]
    assert a.extra['volumes'].shape == a.extra['volume_masks'].shape == (8, 15, 15, 15) and a.extra['volume_masks'].flatten(1).any(1).all()
    inside, outside = (torch.stack([v[m == k].double().mean() for v, m in zip(a.extra['volumes'], a.extra['volume_masks'])]) for k in (1, 0))
    assert (inside > outside + 40).all()


def test_a_split_by_slice_learns_where_nothing_can_be_learned():
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
    from sklearn.neighbors import KNeighborsClassifier
    cubes = make_cubes(40, 17, seed=0, signal=0)
    s = nodule_slices(cubes, cubes.labels, 9)
    z, y, patient = s.images.flatten(1).numpy()/255, s.labels.numpy(), np.array(s.groups)
    score = {}
    for how, g in (('slice', np.arange(len(y))), ('patient', patient)):
        p = cross_val_predict(KNeighborsClassifier(1), z, y, groups=g, cv=StratifiedGroupKFold(5, shuffle=True, random_state=0), method='predict_proba')[:, 1]
        score[how] = auc(p, y)
    assert score['slice'] > .75 and .3 < score['patient'] < .7, score


def test_the_lidc_slices(data_root):
    cubes = load_dataset('lidc_nodules', 'all', data_root)
    y = torch.where(cubes.labels == 2, -1, (cubes.labels > 2).long())
    s = nodule_slices(cubes, y, 8)
    assert len(set(s.groups)) == int((y >= 0).sum()) and s.images.shape[1:] == (1, 51, 51) and len(s) > 5*len(set(s.groups))


BAD = {
    'width': (lambda: window([0.], 0, 0), ['width=0', 'positive']),
    'side': (lambda: centre(torch.rand(1, 1, 20, 20), 30), ['30', '20×20']),
    'no square': (lambda: predict_turned(small_cnn(2, width=4), torch.rand(2, 1, 16, 20)), ['16×20', 'square']),
    'sensitivity': (lambda: threshold_for([0., 1.], [0, 1], 0), ['sensitivity=0']),
    'no positive': (lambda: threshold_for([0., 1.], [0, 0]), ['no positive']),
    'lengths': (lambda: operating_point([.5], [0, 1], 0.), ['(2,)', '(1,)']),
    'froc lengths': (lambda: froc([], [[[1, 1, 1]]]), ['1 scans', '0 with marks']),
    'froc columns': (lambda: froc([[[1, 1]]], [[[1, 1, 1]]]), ['preds[0]', '(1, 2)', 'score']),
    'froc nan': (lambda: froc([[[1, 1, math.nan]]], [[[1, 1, 1]]]), ['preds[0]', 'NaN']),
    'froc nothing there': (lambda: froc([[[1, 1, 1]]], [[]]), ['No scan has a nodule']),
    'coverage lengths': (lambda: coverage_curve([1.], [True, False]), ['1 confidences', '2 answers']),
    'coverage nan': (lambda: coverage_curve([math.nan], [True]), ['NaN']),
    'coverage correct': (lambda: coverage_curve([1., 1.], [2, 0]), ['correct', 'pred == y']),
    'temperature shapes': (lambda: fit_temperature(torch.rand(3, 2), [0, 1]), ['(3, 2)', '2 labels']),
    'temperature nan': (lambda: fit_temperature(torch.full((2, 2), math.nan), [0, 1]), ['NaN']),
    'no volumes': (lambda: nodule_slices(Images(torch.zeros(2, 1, 9, 9, dtype=torch.uint8)), torch.zeros(2)), ['volumes', 'groups']),
}


@pytest.mark.parametrize('name', BAD)
def test_bad_input(name):
    call, words = BAD[name]
    with refused(words): call()


def test_public_names_are_there():
    import visft_nb.finetune as chapter
    for name in ('froc', 'coverage_curve', 'window', 'read_hu', 'threshold_for', 'fit_temperature'): assert getattr(chapter, name) is getattr(lung, name)


def test_on_another_device():
    with fake_cuda():
        x = Batches(Images(torch.zeros(4, 1, 20, 20, dtype=torch.uint8), torch.zeros(4, dtype=torch.long)), 4).data.images/255
        assert dihedral(centre(x, 16), 5).shape == (4, 1, 16, 16)
        fake_step(small_cnn(2, width=4), (centre(x, 16), torch.zeros(4, dtype=torch.long)))
