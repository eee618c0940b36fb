"Attacks on segmentation and detection: the weights against loops, balls and regions, side effects, AP against a peer, adversarial training, bad input."
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fake_cuda import fake_cuda
from helpers import fake_step, refused
from visft_nb.data import make_shapes
from visft_nb.finetune import pixel_logits
from visft_nb.robust import (SegAdversarialStep, average_precision, detection_counts, detections, detector_losses, detector_pgd, pixel_scores, predict_masks, seg_pgd)
from visft_nb.robust.dense import GOALS, WEIGHTINGS
from visft_nb.train import fit

pytestmark = pytest.mark.filterwarnings('ignore')
EPS = .06


class Net(nn.Module):
    "A segmenter with batch norm and dropout, so that their modes matter."
    def __init__(self, classes=2, stride=1):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(1, 16, 3, stride, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Dropout(.2), nn.Conv2d(16, 16, 3, 1, 1), nn.ReLU(), nn.Conv2d(16, classes, 1))
    def forward(self, x): return self.body(x - .3)


@pytest.fixture(scope='module')
def nodules():
    "Brighter squares on grey with noise: learned in seconds."
    g = torch.Generator().manual_seed(0)
    y = torch.zeros(24, 32, 32, dtype=torch.long)
    for m, (i, j) in zip(y, torch.randint(2, 22, (24, 2), generator=g).tolist()): m[i:i + 8, j:j + 8] = 1
    return None, (.3 + .3*y[:, None] + .06*torch.randn(24, 1, 32, 32, generator=g)).clamp(0, 1), y


@pytest.fixture(scope='module')
def segmenter(nodules):
    _, x, y = nodules
    net = Net()
    def loss(model, batch): return F.cross_entropy(model(batch[0]).float(), batch[1])
    fit(net, [(x[i:i + 8], y[i:i + 8]) for i in (0, 8, 16)], epochs=20, loss=loss, lr=1e-2, precision='fp32', bar=False)
    return net


def state(model): return {k: v.clone() for k, v in model.state_dict().items()}


def test_the_weights_are_those_of_the_papers():
    z, y = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0)), torch.randint(3, (2, 4, 5), generator=torch.Generator().manual_seed(1))
    for step, total in ((1, 10), (4, 10), (10, 10)):
        lam = (step - 1)/(2*total)
        for targeted in (False, True):
            seg, cos = (WEIGHTINGS[w](z, y, targeted, (step - 1)/total) for w in ('segpgd', 'cospgd'))
            for n, i, j in np.ndindex(2, 4, 5):
                p, k = z[n, :, i, j].softmax(0), int(y[n, i, j])
                fallen = (int(p.argmax()) == k) == targeted
                one_hot = torch.zeros(3)
                one_hot[k] = 1
                c = F.cosine_similarity(p, one_hot, dim=0).item()
                assert seg[n, i, j].item() == pytest.approx(lam if fallen else 1 - lam)
                assert cos[n, i, j].item() == pytest.approx(1 - c if targeted else c, abs=1e-6)


def test_plain_weights_without_start_are_torchattacks_pgd(segmenter, nodules):
    torchattacks = pytest.importorskip('torchattacks')
    _, x, y = nodules
    class Pixels(nn.Module):   # every pixel a sample: the peer knows classifiers only, and a mean over pixels has the sign of the sum
        def __init__(self): super().__init__(); self.net = segmenter
        def forward(self, x): return self.net(x).permute(0, 2, 3, 1).flatten(0, 2)
    attack = torchattacks.PGD(Pixels().eval(), eps=EPS, alpha=.02, steps=4, random_start=False)
    attack.set_mode_default()
    ours = seg_pgd(segmenter, x[:4], y[:4], EPS, alpha=.02, steps=4, weighting='pgd', random_start=False)
    theirs = attack(x[:4], y[:4].flatten())
    assert (ours - theirs).abs().max() < 1e-6


@pytest.mark.parametrize('norm,size', [('linf', .06), ('l2', 1.), ('l1', 5.)])
@pytest.mark.parametrize('weighting', WEIGHTINGS)
def test_in_the_ball_and_in_the_box_and_worse_than_clean(segmenter, nodules, norm, size, weighting):
    _, x, y = nodules
    adv = seg_pgd(segmenter, x[:8], y[:8], size, steps=5, norm=norm, weighting=weighting, generator=torch.Generator().manual_seed(0))
    d = (adv - x[:8]).flatten(1)
    length = {'linf': d.abs().amax(1), 'l2': d.norm(dim=1), 'l1': d.abs().sum(1)}[norm]
    assert (length <= size*(1 + 1e-4) + 1e-6).all() and adv.min() >= 0 and adv.max() <= 1
    clean, attacked = (pixel_scores(predict_masks(segmenter, v), y[:8])['accuracy'] for v in (x[:8], adv))
    assert attacked < clean


def test_eps_zero_changes_nothing_and_the_seed_decides(segmenter, nodules):
    _, x, y = nodules
    assert torch.equal(seg_pgd(segmenter, x[:2], y[:2], 0, steps=2), x[:2])
    a, b, c = (seg_pgd(segmenter, x[:2], y[:2], EPS, steps=2, generator=torch.Generator().manual_seed(s)) for s in (0, 0, 1))
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_the_model_and_the_random_state_come_back_as_given(segmenter, nodules):
    _, x, y = nodules
    segmenter.train()
    segmenter.body[0].eval()
    segmenter.body[0].weight.requires_grad_(False)
    before, rng, grads = state(segmenter), torch.get_rng_state(), [p.grad for p in segmenter.parameters()]
    seg_pgd(segmenter, x[:2], y[:2], EPS, steps=2, generator=torch.Generator().manual_seed(0))
    predict_masks(segmenter, x[:2])
    assert all(torch.equal(v, before[k]) for k, v in segmenter.state_dict().items()) and torch.equal(torch.get_rng_state(), rng)
    assert segmenter.training and not segmenter.body[0].training and not segmenter.body[0].weight.requires_grad and all(p.grad is g for p, g in zip(segmenter.parameters(), grads))
    segmenter.train(False)
    segmenter.body[0].weight.requires_grad_(True)


def test_a_region_that_is_not_allowed_stays_and_one_that_does_not_count_is_spared(segmenter, nodules):
    _, x, y = nodules
    left = torch.zeros(32, 32, dtype=torch.bool)
    left[:, :16] = True
    for norm, size in (('linf', EPS), ('l2', 1.)):
        adv = seg_pgd(segmenter, x[:4], y[:4], size, steps=3, norm=norm, allowed=left)
        assert torch.equal(adv[..., 16:], x[:4, ..., 16:]) and not torch.equal(adv[..., :16], x[:4, ..., :16])
    far = torch.zeros(4, 32, 32, dtype=torch.bool)
    far[..., :8] = True
    adv = seg_pgd(segmenter, x[:4], y[:4], EPS, steps=3, where=far, random_start=False)
    assert torch.equal(adv[..., 12:], x[:4, ..., 12:]), 'two 3x3 convolutions see no farther than two pixels'


def test_pixels_without_a_class_do_not_count(segmenter, nodules):
    _, x, y = nodules
    void = y[:2].clone()
    void[..., 10:] = 255
    adv = seg_pgd(segmenter, x[:2], void, EPS, steps=2, random_start=False)
    assert torch.equal(adv[..., 14:], x[:2, ..., 14:]) and not torch.equal(adv, x[:2])


def test_targeted_erases_nodules_and_leaves_the_rest(segmenter, nodules):
    _, x, y = nodules
    adv = seg_pgd(segmenter, x, torch.zeros_like(y), .15, steps=10, targeted=True)
    before, after = predict_masks(segmenter, x), predict_masks(segmenter, adv)
    seen = (before > 0) & (y > 0)
    assert seen.sum() > 30, 'the segmenter finds nothing: there is nothing to erase'
    assert (after[seen] == 0).double().mean() > .5 and (after == before)[y == 0].double().mean() > .98


def test_other_outputs_give_the_same_attack(nodules):
    _, x, y = nodules
    net = Net()
    class Wrapped(nn.Module):
        def __init__(self, make): super().__init__(); self.net, self.make = net, make
        def forward(self, x): return self.make(self.net(x))
    plain = seg_pgd(net, x[:2], y[:2], EPS, steps=2, random_start=False)
    for make in (lambda z: {'out': z}, lambda z: type('Out', (), {'logits': z})()):
        assert torch.equal(seg_pgd(Wrapped(make), x[:2], y[:2], EPS, steps=2, random_start=False), plain)
    one = Wrapped(lambda z: z[:, 1:] - z[:, :1])   # one channel: the same odds
    assert (seg_pgd(one, x[:2], y[:2], EPS, steps=1, random_start=False) - plain).abs().max() <= 2*EPS
    assert torch.allclose(pixel_logits(one(x[:2]), (32, 32)).softmax(1), net(x[:2]).softmax(1), atol=.9) and pixel_logits(Net(3, 2)(x[:2]), (32, 32)).shape == (2, 3, 32, 32)


def test_adversarial_training_buys_robustness(nodules):
    _, x, y = nodules
    batches = [(x[i:i + 8], y[i:i + 8]) for i in (0, 8, 16)]
    scores = {}
    for name, loss in (('plain', lambda m, b: F.cross_entropy(m(b[0]).float(), b[1])), ('robust', SegAdversarialStep(.1, 2))):
        net = Net()
        fit(net, batches, epochs=20, loss=loss, lr=1e-2, precision='fp32', bar=False)
        assert all(p.requires_grad for p in net.parameters())
        adv = seg_pgd(net, x, y, .1, steps=10, generator=torch.Generator().manual_seed(0))
        scores[name] = pixel_scores(predict_masks(net, adv), y)['iou']
    assert scores['robust'] > scores['plain'] + .03, scores


def small_detector():
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
    from torchvision.ops import MultiScaleRoIAlign
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 16, 3, 4, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, 1, 1), nn.ReLU())
    body.out_channels = 16
    return FasterRCNN(body, None, min_size=32, max_size=32, image_mean=[.4]*3, image_std=[.3]*3, rpn_anchor_generator=AnchorGenerator(((8, 12),), ((1.,),)),
                      box_roi_pool=MultiScaleRoIAlign(['0'], 3, 1), box_head=TwoMLPHead(144, 32), box_predictor=FastRCNNPredictor(32, 4), rpn_batch_size_per_image=32,
                      rpn_pre_nms_top_n_train=40, rpn_post_nms_top_n_train=20, rpn_pre_nms_top_n_test=40, rpn_post_nms_top_n_test=20, box_score_thresh=0.)


@pytest.fixture(scope='module')
def shapes():
    d = make_shapes(8, 32, 0)
    return d.floats(), [{'boxes': b, 'labels': k.long()} for b, k in zip(d.boxes, d.extra['box_labels'])]


@pytest.fixture(scope='module')
def detector(shapes):
    x, targets = shapes
    model = small_detector()
    fit(model, [(x, targets)], epochs=25, loss=lambda m, b: sum(m(list(b[0]), b[1]).values()), lr=5e-3, precision='fp32', bar=False)
    return model


@pytest.mark.parametrize('goal', GOALS)
def test_each_goal_moves_its_loss_in_the_ball(detector, shapes, goal):
    x, targets = shapes
    before, rng, modes = state(detector), torch.get_rng_state(), [m.training for m in detector.modules()]
    adv = detector_pgd(detector, x, targets, .1, steps=4, goal=goal, generator=torch.Generator().manual_seed(0))
    assert (adv - x).abs().max() <= .1 + 1e-6 and adv.min() >= 0 and adv.max() <= 1
    assert all(torch.equal(v, before[k]) for k, v in detector.state_dict().items()) and torch.equal(torch.get_rng_state(), rng)
    assert [m.training for m in detector.modules()] == modes and detector.rpn.fg_bg_sampler.batch_size_per_image == 32
    none = [{'boxes': torch.zeros(0, 4), 'labels': torch.zeros(0).long()}]*len(x)
    with detector_losses(detector, every=goal != 'mislead') as losses, torch.no_grad():
        values = []
        for v in (x, adv):
            torch.manual_seed(0)
            values.append(float(sum(losses(v, targets if goal == 'mislead' else none).values())))
    assert (values[1] < values[0]) == (goal == 'vanish') and values[0] != values[1]
    assert torch.equal(adv, detector_pgd(detector, x, targets, .1, steps=4, goal=goal, generator=torch.Generator().manual_seed(0))), 'the same seed, the same attack'


def test_what_is_seen_follows_the_goal(detector, shapes):
    x, targets = shapes
    scores = {g: sum(float(d['scores'].sum()) for d in detections(detector, detector_pgd(detector, x, targets, .2, steps=6, goal=g))) for g in ('vanish', 'fabricate')}
    clean = sum(float(d['scores'].sum()) for d in detections(detector, x))
    assert scores['vanish'] < clean < scores['fabricate'], (scores, clean)
    assert torch.equal(detector_pgd(detector, x, eps=0, steps=1), x)


def test_a_patch_stays_in_its_corner(detector, shapes):
    x, _ = shapes
    corner = torch.zeros(32, 32, dtype=torch.bool)
    corner[:6, :6] = True
    adv = detector_pgd(detector, x, eps=1., steps=2, goal='fabricate', allowed=corner)
    assert torch.equal(adv[..., 6:], x[..., 6:]) and torch.equal(adv[..., 6:, :], x[..., 6:, :]) and not torch.equal(adv, x)


def scenes(seed, n=12):
    "Targets and noisy detections of three classes."
    g = np.random.default_rng(seed)
    found, targets = [], []
    for _ in range(n):
        k = g.integers(0, 5)
        corner = g.uniform(0, 60, (k, 2))
        boxes = np.concatenate([corner, corner + g.uniform(8, 30, (k, 2))], 1).reshape(-1, 4)
        labels = g.integers(1, 4, k)
        extra = g.integers(0, 3)
        more = g.uniform(0, 60, (extra, 2))
        fb = np.concatenate([boxes + g.normal(0, 2.5, boxes.shape), np.concatenate([more, more + 15], 1).reshape(-1, 4)])
        fl = np.concatenate([np.where(g.random(k) < .85, labels, 1), g.integers(1, 4, extra)])
        found.append({'boxes': torch.tensor(fb).float(), 'labels': torch.tensor(fl).long(), 'scores': torch.tensor(g.random(len(fl))).float()})
        targets.append({'boxes': torch.tensor(boxes).float(), 'labels': torch.tensor(labels).long()})
    return found, targets


@pytest.mark.peer
@pytest.mark.parametrize('seed', [0, 1, 2])
def test_ap_equals_pycocotools(seed):
    pytest.importorskip('pycocotools')
    from torchmetrics.detection import MeanAveragePrecision
    found, targets = scenes(seed)
    theirs = MeanAveragePrecision(iou_thresholds=[.5], rec_thresholds=np.linspace(0, 1, 101).tolist())   # its own are float32
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        theirs.update(found, targets)
        value = float(theirs.compute()['map'])
    assert average_precision(found, targets) == pytest.approx(value, abs=1e-6)


def test_counts_and_ap_of_known_scenes():
    box = torch.tensor([[0., 0, 10, 10]])
    target = [{'boxes': box, 'labels': torch.tensor([1])}]
    one = lambda b, k, s: [{'boxes': b, 'labels': torch.tensor(k), 'scores': torch.tensor(s)}]
    assert average_precision(one(box, [1], [.9]), target) == 1 and average_precision(one(box + 20, [1], [.9]), target) == 0
    twice = one(box.repeat(2, 1), [1, 1], [.9, .8])
    assert average_precision(twice, target) == 1 and detection_counts(twice, target) == dict(recall=1, boxes=2, false=1)
    assert detection_counts(one(box, [2], [.9]), target) == dict(recall=0, boxes=1, false=1) and detection_counts(one(box, [1], [.4]), target)['boxes'] == 0
    assert average_precision(one(torch.zeros(0, 4), [], []), target) == 0


X, Y = torch.rand(2, 1, 16, 16), torch.zeros(2, 16, 16, dtype=torch.long)
R = torch.rand(2, 3, 32, 32)
BAD = {
    'bytes': (lambda: seg_pgd(Net(), X*255, Y, .1), ['Images run from', '[0, 1]']),
    'one image': (lambda: seg_pgd(Net(), X[0], Y, .1), ['(1, 16, 16)', 'x[None]']),
    'mask size': (lambda: seg_pgd(Net(), X, Y[:, :8], .1), ['(2, 8, 16)', '(2, 16, 16)']),
    'float masks': (lambda: seg_pgd(Net(), X, Y.float(), .1), ['float32', 'integers']),
    'mask values': (lambda: seg_pgd(Net(), X, Y + 7, .1), ['class 7', '2 classes']),
    'eps': (lambda: seg_pgd(Net(), X, Y, -1), ['eps=-1']),
    'steps': (lambda: seg_pgd(Net(), X, Y, .1, steps=0), ['steps=0']),
    'weighting': (lambda: seg_pgd(Net(), X, Y, .1, weighting='segpdg'), ['segpdg', 'segpgd']),
    'norm': (lambda: seg_pgd(Net(), X, Y, .1, norm='l3'), ['l3']),
    'probabilities': (lambda: seg_pgd(nn.Sequential(Net(), nn.Softmax(1)), X, Y, .1), ['probabilities', 'softmax']),
    'classifier': (lambda: seg_pgd(nn.Sequential(nn.Flatten(), nn.Linear(256, 3)), X, Y, .1), ['(2, 3)', 'N, K, H, W']),
    'no gradient': (lambda: seg_pgd(lambda x: Net()(x).detach(), X, Y, .1), ['No gradient']),
    'region': (lambda: seg_pgd(Net(), X, Y, .1, allowed=torch.ones(8, 8)), ['allowed', '(8, 8)']),
    'clean share': (lambda: SegAdversarialStep(.1, clean=1), ['clean=1']),
    'no detector': (lambda: detector_pgd(Net(), R, eps=.1), ['Net', 'torchvision']),
    'goal': (lambda: detector_pgd(small_detector(), R, goal='vanisch'), ['vanisch', 'vanish']),
    'no boxes': (lambda: detector_pgd(small_detector(), R, goal='mislead'), ['mislead', 'boxes']),
    'flat box': (lambda: detector_pgd(small_detector(), R, [{'boxes': torch.tensor([[3., 3, 3, 9]]), 'labels': torch.tensor([1])}]*2, goal='mislead'), ['Target 0', 'area']),
    'detector bytes': (lambda: detector_pgd(small_detector(), R*255), ['[0, 1]']),
    'ap lengths': (lambda: average_precision([], [{}]), ['0 lists', '1 targets']),
    'ap empty': (lambda: average_precision([{}], [{'boxes': torch.zeros(0, 4), 'labels': torch.zeros(0).long()}]), ['no box']),
}


@pytest.mark.parametrize('name', BAD)
def test_bad_input(name):
    call, words = BAD[name]
    with refused(words): call()


def test_after_an_error_the_model_is_as_before():
    model = small_detector().train()
    with pytest.raises(Exception): detector_pgd(model, R, [{'boxes': torch.zeros(1), 'labels': torch.zeros(1)}]*2, goal='mislead', check=False)  # noqa: B017
    assert all(m.training for m in model.modules()) and all(p.requires_grad for p in model.parameters()) and model.rpn.fg_bg_sampler.batch_size_per_image == 32


def test_on_another_device():
    with fake_cuda():
        x, y = torch.rand(4, 1, 16, 16), torch.zeros(4, 16, 16, dtype=torch.long)
        net = Net()
        for weighting in WEIGHTINGS: seg_pgd(net, x, y, .1, steps=2, weighting=weighting, allowed=torch.ones(16, 16, dtype=torch.bool, device='cpu'), check=False)
        loss = SegAdversarialStep(.1, 1)
        loss.looked = True
        fake_step(net, (x, y), loss)
