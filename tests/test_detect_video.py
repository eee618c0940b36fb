"Video: assignment, tracks, CLEAR measures by hand, the zone and its warnings, the detector of points."
import itertools
import math
from copy import deepcopy

import numpy as np
import pytest
import torch

from fake_cuda import fake_cuda
from helpers import fake_step, refused
from visft_nb.finetune.detection import DetectionBatches, detect
from visft_nb.finetune.video import CentreNet, Clip, Tracker, Zone, assign, centre_loss, centre_map, clear_mot, entries, feet, focal_loss, inside, judge_warnings, make_clip, track, train_centres


def row(*xs, y=20., w=12, h=30): return torch.tensor([[x, y, x + w, y + h] for x in xs]).reshape(-1, 4)
def clip_of(boxes, ids): return Clip(torch.zeros(len(boxes), 3, 8, 8, dtype=torch.uint8), boxes, [torch.tensor(i, dtype=torch.int64) for i in ids])
def told(boxes, ids): return {'boxes': boxes, 'ids': torch.tensor(ids, dtype=torch.int64), 'velocities': torch.zeros(len(boxes), 2)}


@pytest.mark.parametrize('n,m', [(1, 1), (3, 3), (2, 4), (5, 3)])
def test_assignment_against_all_permutations(n, m):
    rng = np.random.default_rng(n*m)
    for _ in range(20):
        gain = rng.uniform(size=(n, m))
        small = gain if n <= m else gain.T
        best = max(sum(small[i, j] for i, j in enumerate(p)) for p in itertools.permutations(range(small.shape[1]), small.shape[0]))
        rows, cols = assign(gain)
        assert abs(gain[rows, cols].sum() - best) < 1e-12 and len(set(rows)) == len(rows) == len(set(cols)) == min(n, m)


def test_assignment_has_no_pairs_that_overlap_too_little():
    assert assign([[.9, .3], [.3, 0.]], .5) == ([0], [0]), 'one good pair, not two poor ones'
    assert assign(np.zeros((2, 2))) == ([], []) and assign(np.zeros((0, 3)), .2) == ([], [])


def turns(point, polygon):
    "How often the outline goes round a point, by the angles under which its sides are seen."
    a = polygon - point
    b = np.roll(a, -1, 0)
    return abs(np.arctan2(a[:, 0]*b[:, 1] - a[:, 1]*b[:, 0], (a*b).sum(1)).sum())/(2*np.pi)


def test_inside_is_where_the_outline_goes_round():
    rng = np.random.default_rng(0)
    for k in (3, 4, 7):
        angle = np.sort(rng.uniform(0, 2*np.pi, k))
        polygon = 50 + rng.uniform(10, 45, (k, 1))*np.stack([np.cos(angle), np.sin(angle)], 1)
        points = rng.uniform(0, 100, (500, 2))
        ours = inside(points, polygon)
        assert ours.tolist() == [turns(p, polygon) > .5 for p in points] and 0 < ours.sum() < 500
        assert torch.equal(ours, inside(points, polygon[::-1].copy())), 'the order of the corners does not matter'
    assert inside(torch.zeros(0, 2), polygon).shape == (0,)


def test_a_clip_is_what_it_says():
    a, b = make_clip(20, (48, 64), 4, 3), make_clip(20, (48, 64), 4, 3)
    assert torch.equal(a.frames, b.frames) and not torch.equal(a.frames, make_clip(20, (48, 64), 4, 4).frames)
    assert a.frames.shape == (20, 3, 48, 64) and sum(map(len, a.boxes)) > 10
    for boxes, ids in zip(a.boxes, a.ids):
        assert len(boxes) == len(ids) == len(set(ids.tolist())) and (boxes[:, 2:] > boxes[:, :2]).all()
        assert (boxes >= 0).all() and (boxes <= torch.tensor([64, 48, 64, 48])).all()
    walks = {i: [float(feet(b)[s == i][0, 0]) for b, s in zip(a.boxes, a.ids) if (s == i).any()] for i in range(4)}
    assert max(abs(np.diff(w)).max() for w in walks.values() if len(w) > 5) < 12, 'figures do not jump, but where the wall or the edge hid them'


def test_the_map_and_its_loss_by_hand():
    boxes, there = torch.tensor([[[8., 8, 24, 40], [50, 20, 66, 60], [9, 9, 30, 30]]]).double(), torch.tensor([[1, 1, 0]])
    y = centre_map(boxes, there, (16, 24), 4)
    assert ((y == 1).sum(), y.max(), y.min() >= 0) == (2, 1, True) and y[0, 6, 4] == y[0, 10, 14] == 1
    assert abs(y[0, 6, 5] - math.exp(-1/(2*.6**2))) < 1e-9, 'one cell beside a centre of width 4 cells: sigma is .15*4'
    assert centre_map(boxes, 0*there, (16, 24), 4).sum() == 0
    z = torch.randn(1, 16, 24).double()
    hand = -sum(((1 - s)**2*math.log(s) if t == 1 else (1 - t)**4*s**2*math.log(1 - s)) for t, s in zip(y.flatten().tolist(), z.sigmoid().flatten().tolist()))/2
    assert abs(hand - focal_loss(z, y)) < 1e-10
    right = torch.where(y == 1, 30., -30.)
    assert focal_loss(right, y) < 1e-6 < focal_loss(-right, y) and focal_loss(1e5*right, y).isfinite()


def test_peaks_are_decoded_to_the_boxes_they_were_made_of():
    model, boxes = CentreNet(4), torch.tensor([[8., 8, 24, 40], [50, 20, 66, 60]])
    y = centre_map(boxes[None], torch.ones(1, 2), (16, 24), 4)
    maps = torch.zeros(5, 16, 24)
    maps[0] = torch.logit(y[0].clamp(1e-6, 1 - 1e-6))
    c, s = (boxes[:, :2] + boxes[:, 2:])/8, (boxes[:, 2:] - boxes[:, :2])/4
    for (cx, cy), size in zip(c, s): maps[1:3, int(cy), int(cx)], maps[3:, int(cy), int(cx)] = torch.stack([cx % 1, cy % 1]), size.log()
    found = model.answer(maps, 64, 96)
    assert torch.allclose(found['boxes'][:2].sort(0).values, boxes, atol=1e-4) and (found['scores'][:2] > .99).all() and (found['scores'][2:] < .5).all()


def test_a_detector_learns_in_seconds_and_is_left_as_it_was():
    torch.manual_seed(0)
    clips = [make_clip(4, (48, 64), 4, i, step=12) for i in range(12)]
    from visft_nb.data import Images
    keep = [(c, t) for c in clips for t in range(4) if len(c.boxes[t])]
    images = Images(torch.stack([c.frames[t] for c, t in keep]), boxes=[c.boxes[t] for c, t in keep])
    model, history = train_centres(images, 6, 8, bar=False)
    losses = [r['loss'] for r in history.epochs]
    assert losses[-1] < .5*losses[0]
    model.train()
    state = deepcopy(model.state_dict())
    found = detect(model, [torch.rand(3, 45, 61)], 0.)[0]
    assert model.training and all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert (found['boxes'] >= 0).all() and (found['boxes'] <= torch.tensor([61, 45, 61, 45])).all() and len(found['scores']) == 20


def test_tracks_bridge_a_gap_by_their_velocity():
    ways = lambda t: row(5. + 3*t, 110 - 3*t)
    found = [{'boxes': ways(t) if not 14 <= t <= 18 else row()} for t in range(30)]
    moving, still = track(found), track(found, rate=0)
    assert moving[-1]['ids'].tolist() == [0, 1] and torch.equal(moving[-1]['boxes'], ways(29))
    assert torch.allclose(moving[-1]['velocities'], torch.tensor([[3., 0], [-3, 0]]), atol=1e-3)
    truth = clip_of([f['boxes'] for f in found], [[0, 1] if len(f['boxes']) else [] for f in found])
    assert clear_mot(truth, moving)['switches'] == 0 < clear_mot(truth, still)['switches']


def test_one_false_alarm_makes_no_track_and_patience_ends():
    found = [{'boxes': row(10, 80) if t == 5 else row(10)} for t in range(12)]
    assert {i for f in track(found) for i in f['ids'].tolist()} == {0}
    assert {i for f in track(found, born=1) for i in f['ids'].tolist()} == {0}, 'born by the second sighting at the earliest'
    for gap, ids in ((10, [0]), (11, [1])):
        found = [{'boxes': row() if 10 <= t < 10 + gap else row(10)} for t in range(40)]
        assert track(found, lost=10)[-1]['ids'].tolist() == ids
    assert track([{'boxes': row()}]*3)[-1]['boxes'].shape == (0, 4)
    assert Tracker().tracks == [], 'trackers share nothing'


def test_clear_measures_by_hand():
    both = row(0, 40)
    case = clip_of([both]*4, [[1, 2]]*4)
    n = clear_mot(case, [told(both, [7, 5]), told(row(0, 40, 80), [7, 5, 9]), told(row(0), [8]), told(both, [8, 5])])
    assert (n['misses'], n['false'], n['switches'], n['objects'], n['mota'], n['motp']) == (1, 1, 1, 8, .625, 1)
    assert clear_mot(case, [told(both, [1, 2])]*4)['mota'] == 1
    assert clear_mot(case, [told(row(), [])]*4)['mota'] == 0
    assert clear_mot(case, [told(both, [1, 2])]*2 + [told(both, [2, 1])]*2)['switches'] == 2
    assert clear_mot(case, [told(row(200, 300), [1, 2])]*4)['mota'] == -1, 'may be below 0'


def test_a_pair_stays_a_pair_while_it_overlaps_enough():
    truth = clip_of([row(0)]*2, [[1]]*2)
    n = clear_mot(truth, [told(row(1), [4]), told(row(3, 0), [4, 5])])
    assert (n['switches'], n['false']) == (0, 1), 'track 5 fits better in the second frame, but 4 was first and still overlaps by half'


def test_clear_measures_against_motmetrics():
    motmetrics = pytest.importorskip('motmetrics')
    clip, rng = make_clip(40, (48, 64), 4, 1), np.random.default_rng(0)
    found = track([{'boxes': (b + torch.from_numpy(rng.normal(0, 1.5, b.shape)).float())[torch.from_numpy(rng.uniform(size=len(b)) < .8)]} for b in clip.boxes])
    acc = motmetrics.MOTAccumulator(auto_id=True)
    from visft_nb.finetune.detection import box_iou
    for b, i, t in zip(clip.boxes, clip.ids, found):
        cost = 1 - box_iou(b, t['boxes']).numpy().astype(float)
        acc.update(i.tolist(), t['ids'].tolist(), np.where(cost > .5, np.nan, cost))
    theirs = motmetrics.metrics.create().compute(acc, ['mota', 'num_switches'], name='a')
    ours = clear_mot(clip, found)
    assert abs(theirs.mota.iloc[0] - ours['mota']) < 1e-9 and theirs.num_switches.iloc[0] == ours['switches']


SQUARE = [[50, 0], [90, 0], [90, 60], [50, 60]]
def walk(xs, v=1.): return [{'boxes': torch.tensor([[x - 5., 10, x + 5, 30]]), 'ids': torch.tensor([0]), 'velocities': torch.tensor([[v, 0.]])} for x in xs]


@pytest.mark.parametrize('xs,wait,ahead,frames', [
    ([49, 51, 49, 51, 49, 51, 52, 53], 1, 0, [1, 3, 5]),
    ([49, 51, 49, 51, 49, 51, 52, 53], 3, 0, [7]),
    ([60]*10, 3, 0, [2]),
    ([60, 60, 60, 20, 20, 20, 60, 60, 60], 3, 0, [2, 8]),
    ([60, 60, 60, 20, 60, 60, 60], 3, 0, [2]),
    (range(30, 60), 1, 10, [10]),
    ([10]*5, 1, 0, [])])
def test_a_zone_warns_once_a_visit_after_the_wait(xs, wait, ahead, frames):
    assert [w['frame'] for w in Zone(SQUARE, wait, ahead).watch(walk(xs))] == frames


def test_warnings_are_judged():
    xs = list(range(30, 70, 2)) + [100]*8
    at = torch.tensor([[x - 5., 10, x + 5, 30] for x in xs])
    clip = clip_of(list(at[:, None]), [[3]]*len(xs))
    visits = entries(clip, SQUARE)
    assert [(v['frame'], v['id']) for v in visits] == [(10, 3)] and visits[0]['last'] == 20
    say = lambda *frames: [{'frame': t, 'id': 0, 'box': at[t]} for t in frames]
    judged = lambda *frames, **kw: {k: v for k, v in judge_warnings(say(*frames), clip, visits, **kw).items() if v}
    assert judged(13) == {'right': 1, 'delays': [3]}
    assert judged(19, late=5) == {'late': 1, 'delays': [9]}
    assert judged(13, 15) == {'right': 1, 'false': 1, 'delays': [3]}, 'the second warning of one visit is false'
    assert judged(5) == {'false': 1, 'missed': 1} and judged(5, early=6) == {'right': 1, 'delays': [-5]}
    assert judged() == {'missed': 1}
    elsewhere = [{'frame': 13, 'id': 0, 'box': torch.tensor([0., 0, 5, 5])}]
    assert judge_warnings(elsewhere, clip, visits)['false'] == 1


BAD = {
    'two corners': (lambda: Zone([[0, 0], [1, 1]]), ['three corners', '(2, 2)']),
    'wait': (lambda: Zone(SQUARE, wait=0), ['wait=0']),
    'frames': (lambda: clear_mot(make_clip(3, (48, 64)), []), ['0 frames of 3']),
    'boxes': (lambda: Tracker().update(torch.zeros(4)), ['(4,)', '(n, 4)']),
    'a box of no area': (lambda: DetectionBatches(Clip(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), [torch.tensor([[3., 3, 3, 5]])], []).images(), 1), ['no area']),
}


@pytest.mark.parametrize('name', BAD)
def test_bad_input(name):
    call, words = BAD[name]
    with refused(words): call()


def test_on_another_device():
    with fake_cuda():
        objects = {'boxes': torch.rand(2, 3, 4), 'labels': torch.ones(2, 3, dtype=torch.int64)}
        fake_step(CentreNet(4), (torch.rand(2, 3, 45, 61), objects), centre_loss)
