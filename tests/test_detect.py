"Detection: the parts against torchvision, the measure against torchmetrics, objects that move with their images, bad boxes."
import math
from copy import deepcopy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fake_cuda import fake_cuda
from helpers import fake_step, refused
from visft_nb.core import InputError
from visft_nb.data import Images, load_dataset, make_shapes, mask_boxes
from visft_nb.finetune.detection import (DetectionBatches, Jitter, average_precision, box_iou, check_objects, coco_map, coco_mask_rcnn, decode_boxes, detect, encode_boxes, finetune_detector, fpn_level,
                                      hits_and_scores, make_anchors, mask_loss, mask_rcnn, match_boxes, match_found, nms, object_dicts, object_labels, pick, roi_align, roi_loss, rpn_loss)

ops = pytest.importorskip('torchvision').ops


def boxes(n, side=64, seed=0, least=2):
    g = torch.Generator().manual_seed(seed)
    p = torch.rand(n, 2, dtype=torch.float64, generator=g)*side*.7
    return torch.cat([p, p + least + torch.rand(n, 2, dtype=torch.float64, generator=g)*side*.3], 1)


def test_iou_and_levels_against_torchvision():
    a, b = boxes(40), boxes(50, seed=1)
    assert torch.allclose(box_iou(a, b), ops.box_iou(a, b), atol=1e-12)
    assert torch.equal(box_iou(a, a).diag(), torch.ones(40).double()) and box_iou(a, b[:0]).shape == (40, 0)
    large = boxes(200, 900)
    assert torch.equal(fpn_level(large, 2, 5) - 2, ops.poolers.LevelMapper(2, 5)([large]))


@pytest.mark.parametrize('ratios', [[1.], [.5, 1., 2.], [1., 3.]])
def test_anchors_against_torchvision(ratios):
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.image_list import ImageList
    grids, strides, sizes = [(6, 8), (3, 4)], [8, 16], [20, 48]
    theirs, = AnchorGenerator(tuple((s,) for s in sizes), (tuple(ratios),)*2)(ImageList(torch.zeros(1, 3, 48, 64), [(48, 64)]), [torch.zeros(1, 1, *g) for g in grids])
    assert torch.equal(torch.cat(make_anchors(grids, strides, sizes, ratios)), theirs)


def test_coding_against_torchvision_and_back():
    from torchvision.models.detection._utils import BoxCoder
    a, b = boxes(60), boxes(60, seed=1)
    for w in ((1., 1., 1., 1.), (10., 10., 5., 5.)):
        assert torch.allclose(encode_boxes(a, b, w), BoxCoder(w).encode_single(a, b), atol=1e-12)
        assert torch.allclose(decode_boxes(encode_boxes(a, b, w), b, w), a, atol=1e-10)
    wild = 30*torch.randn(60, 4, dtype=torch.float64)
    assert torch.allclose(decode_boxes(wild, b), BoxCoder((1., 1., 1., 1.)).decode_single(wild, b), rtol=1e-12)
    assert decode_boxes(torch.full((1, 4), 1e6), torch.tensor([[0., 0, 8, 8]])).isfinite().all()


@pytest.mark.parametrize('low,high,rescue', [(.3, .7, True), (.3, .7, False), (.5, .5, False)])
def test_matching_against_torchvision(low, high, rescue):
    from torchvision.models.detection._utils import Matcher
    iou = box_iou(boxes(6), boxes(300, seed=2))
    assert torch.equal(match_boxes(iou, low, high, rescue), Matcher(high, low, rescue)(iou))
    assert (match_boxes(iou[:0], low, high, rescue) == -1).all()


def test_nms_against_torchvision():
    b, s = boxes(150, 30), torch.rand(150, dtype=torch.float64)
    for t in (0., .3, .6, 1.): assert torch.equal(nms(b, s, t), ops.nms(b, s, t))
    assert nms(b[:0], s[:0], .5).numel() == 0


@pytest.mark.parametrize('samples', [1, 2, 4])
def test_roi_align_and_its_gradient_against_torchvision(samples):
    f = torch.randn(1, 3, 16, 12, dtype=torch.float64, requires_grad=True)
    rois = torch.cat([boxes(12, 96), torch.tensor([[-30., -20, 30, 40], [80, 100, 120, 160], [5, 5, 5.5, 5.5], [200, 200, 260, 260]], dtype=torch.float64)])
    ours, theirs = roi_align(f[0], rois, 7, 1/8, samples), ops.roi_align(f, [rois], 7, 1/8, samples)
    assert torch.allclose(ours, theirs, atol=1e-12)
    w = torch.randn_like(ours)
    (g1,), (g2,) = torch.autograd.grad((ours*w).sum(), f), torch.autograd.grad((theirs*w).sum(), f)
    assert torch.allclose(g1, g2, atol=1e-12)


def test_losses_against_torchvision():
    from torchvision.models.detection import roi_heads
    from torchvision.models.detection.rpn import RegionProposalNetwork
    anchors, truth = torch.cat(make_anchors([(8, 8), (4, 4)], [8, 16], [16, 32], [1., 2.])).double(), boxes(3, 60, least=10)
    o, t = torch.randn(len(anchors)).double(), torch.randn(len(anchors), 4).double()
    rpn = RegionProposalNetwork(None, None, .7, .3, 10*len(anchors), .5, {}, {}, .7)
    for b in (truth, truth[:0]):
        y, m = rpn.assign_targets_to_anchors([anchors], [{'boxes': b}])
        theirs = rpn.compute_loss(o[:, None], t, [v.double() for v in y], rpn.box_coder.encode([v.double() for v in m], [anchors])) if len(b) else None
        ours = rpn_loss(o, t, anchors, b, 10*len(anchors))
        if len(b): assert all(abs(p - q) < 1e-9 for p, q in zip(ours, theirs))
        else: assert abs(ours[0] - F.softplus(o).mean()) < 1e-9 and ours[1] == 0
    z, c, y, goal = torch.randn(30, 4).double(), torch.randn(30, 16).double(), torch.randint(0, 4, (30,)), torch.randn(30, 4).double()
    assert all(abs(p - q) < 1e-12 for p, q in zip(roi_loss(z, c, y, goal), roi_heads.fastrcnn_loss(z, c, [y], [goal])))
    corner = 30*torch.rand(5, 2).double()
    rois, masks, who = torch.cat([corner, corner + 16 + 10*torch.rand(5, 2).double()], 1), (torch.rand(2, 64, 64) < .5).to(torch.uint8), torch.tensor([0, 1, 1, 0, 1])
    m = torch.randn(5, 4, 14, 14).double()
    theirs = roi_heads.maskrcnn_loss(m, [rois], [masks.double()], [torch.tensor([1, 3])], [who])
    assert abs(mask_loss(m, rois, masks[who], torch.tensor([1, 3])[who]) - theirs) < 1e-9


def test_a_sample_is_balanced_and_takes_no_one_left_out():
    g = torch.Generator().manual_seed(0)
    labels = torch.tensor([1]*30 + [0]*500 + [-1]*100)
    for number, yes, no in ((40, 20, 20), (100, 30, 70), (2000, 30, 500)):
        drawn = pick(labels, number, .5, g)
        assert ((drawn & (labels == 1)).sum(), (drawn & (labels == 0)).sum(), (drawn & (labels < 0)).sum()) == (yes, no, 0)
    assert not torch.equal(pick(labels, 40, .5, g), pick(labels, 40, .5, g)), 'drawn anew each time'


def random_found(data, seed=0, classes=3):
    "Detections near the truth, some wrong, with masks."
    rng, out = np.random.default_rng(seed), []
    for i, b in enumerate(data.boxes):
        near = (b + torch.from_numpy(rng.normal(0, 2.5, b.shape))).float()
        far = torch.from_numpy(boxes(2, seed=seed + i).numpy()).float()
        all_, y = torch.cat([near, far]), torch.cat([object_labels(data)[i], torch.from_numpy(rng.integers(1, classes + 1, 2))])
        y = torch.where(torch.from_numpy(rng.uniform(size=len(y)) < .2), 1 + y % classes, y)
        grid = torch.arange(64) + .5
        masks = (grid[None, :, None] > all_[:, 1, None, None]) & (grid[None, :, None] < all_[:, 3, None, None]) & (grid > all_[:, 0, None, None]) & (grid < all_[:, 2, None, None])
        out.append({'boxes': all_, 'labels': y, 'scores': torch.from_numpy(rng.uniform(.05, 1, len(y))).float(), 'masks': masks})
    return out


@pytest.mark.parametrize('masks', [False, True])
def test_map_against_torchmetrics_and_by_hand(masks):
    grid = np.linspace(0, 1, 101).tolist(), np.linspace(.5, .95, 10).tolist()   # its own are rounded to float32, which moves recalls such as 0.7 by one point
    peer = pytest.importorskip('torchmetrics.detection').MeanAveragePrecision(iou_type='segm' if masks else 'bbox', rec_thresholds=grid[0], iou_thresholds=grid[1])
    data = make_shapes(12, seed=3)
    found = random_found(data)
    instances = [[m == v for v in m.unique()[1:]] for m in data.extra['instances']]
    truth = [{'boxes': b, 'labels': y, 'masks': torch.stack(m)} for b, y, m in zip(data.boxes, object_labels(data), instances)]
    peer.update(found, truth)
    theirs, ours = peer.compute(), coco_map(found, data, masks)
    assert all(abs(ours[k] - float(theirs[n])) < 1e-6 for k, n in (('AP', 'map'), ('AP50', 'map_50'), ('AP75', 'map_75'))), (ours, theirs)
    if not masks:
        hand = np.mean([average_precision(*(lambda h, s, n: (h, n))(*hits_and_scores(found, data, label=k))) for k in (1, 2, 3)])
        assert abs(hand - ours['AP50']) < 1e-9 and .1 < ours['AP50'] < .95


def test_average_precision_by_hand():
    assert math.isclose(average_precision([True, False, True], 2), (51 + 50*2/3)/101)
    assert average_precision([True]*4, 4) == 1 and average_precision([False, False], 3) == 0 and average_precision([], 3) == 0
    data = make_shapes(4)
    perfect = [{'boxes': b, 'labels': y, 'scores': torch.ones(len(b))} for b, y in zip(data.boxes, object_labels(data))]
    assert coco_map(perfect, data)['AP'] == 1
    assert coco_map([{k: v[:0] for k, v in p.items()} for p in perfect], data) == {'AP': 0, 'AP50': 0, 'AP75': 0}


def test_the_second_detection_of_an_object_is_a_false_alarm():
    b = torch.tensor([[0., 0, 10, 10]])
    found = {'boxes': torch.tensor([[0., 0, 10, 9], [0, 0, 10, 10]]), 'scores': torch.tensor([.9, .8])}
    assert match_found(found, b).tolist() == [0, -1] and match_found(found, b[:0]).tolist() == [-1, -1]


def test_objects_move_with_their_image():
    data = make_shapes(24, seed=1)
    b = DetectionBatches(data, 24, Jitter((.7, 1.4), .2), shuffle=False)
    x, o = b.batch(0)
    assert x.shape == (24, 3, 64, 64) and x.min() >= 0 and x.max() <= 1 and o['boxes'].shape[:2] == o['labels'].shape
    checked = 0
    for m, bs, y in zip(o['instances'], o['boxes'], o['labels']):
        for k in (y > 0).nonzero()[:, 0]:
            inside = mask_boxes((m == k + 1).to(torch.uint8)[None])[0]
            if len(inside): checked += 1; assert (inside[0] - bs[k]).abs().max() < 2.1, (inside, bs[k])
    assert checked > 20
    gone = (o['labels'] == 0).sum() - sum(3 - len(v) for v in data.boxes)
    assert 0 < gone < 24, 'some have left the picture'


def test_mirroring_against_torchvision():
    from torchvision import tv_tensors
    from torchvision.transforms import v2
    data = make_shapes(6)
    b = DetectionBatches(data, 6, Jitter((1, 1), 0, True, 0), shuffle=False)
    plain, (x, o) = DetectionBatches(data, 6, shuffle=False).batch(0), b.batch(0)
    flipped = 0
    for i in range(6):
        back = tv_tensors.BoundingBoxes(plain[1]['boxes'][i], format='XYXY', canvas_size=(64, 64))
        turned = torch.allclose(x[i], plain[0][i].flip(-1), atol=1e-5)
        want = v2.functional.horizontal_flip(back) if turned else back
        n = len(data.boxes[i])
        assert turned or torch.allclose(x[i], plain[0][i], atol=1e-5)
        assert torch.allclose(o['boxes'][i, :n], torch.as_tensor(want)[:n], atol=1e-4)
        flipped += turned
    assert 0 < flipped < 6


def test_batches_depend_on_seed_and_epoch_alone_and_hand_over_what_was_boxed():
    data = make_shapes(10)
    a, b = (DetectionBatches(data, 4, Jitter(), seed=5) for _ in range(2))
    a.epoch = b.epoch = 3
    third = list(a)[2]
    assert torch.equal(third[0], b.batch(2)[0]) and torch.equal(third[1]['boxes'], b.batch(2)[1]['boxes'])
    assert not torch.equal(list(a)[0][0], list(DetectionBatches(data, 4, Jitter(), seed=6))[0][0])
    dicts = object_dicts(DetectionBatches(data, 10, shuffle=False).batch(0)[1])
    for d, bs, y, m in zip(dicts, data.boxes, object_labels(data), data.extra['instances']):
        assert torch.equal(d['boxes'], bs) and torch.equal(d['labels'], y) and torch.equal(d['masks'].sum(0), (m > 0).long())


def small(masks=True, classes=3): return mask_rcnn(classes, 64, (12, 18, 24, 32), (1.,), masks, 16, proposals=20, rois=16)


@pytest.fixture(scope='module')
def trained():
    torch.manual_seed(0)
    model = small()
    before = deepcopy(model.state_dict())
    return model, before, finetune_detector(model, make_shapes(8), 4, 4, (1e-3, 4e-3), bar=False)


def test_training_lowers_the_loss_and_leaves_what_is_frozen(trained):
    model, before, history = trained
    losses = [r['loss'] for r in history.epochs]
    assert losses[-1] < .8*losses[0]
    after = model.state_dict()
    same = {k for k in before if torch.equal(before[k], after[k])}
    assert all(k in same for k in before if 'running_' in k or k.startswith(('backbone.body.0.', 'backbone.body.1.')))
    assert not any(k in same for k in before if k.endswith('conv_pw.weight') and k.startswith('backbone.body.3'))


def test_the_same_seed_gives_the_same_detector(trained):
    torch.manual_seed(0)
    again = small()
    finetune_detector(again, make_shapes(8), 4, 4, (1e-3, 4e-3), bar=False)
    assert all(torch.allclose(p, q, atol=1e-4) for p, q in zip(again.state_dict().values(), trained[0].state_dict().values()))


def test_detect_takes_any_images_and_leaves_the_model(trained, tmp_path):
    model = trained[0]
    data = make_shapes(3, 80, seed=9)
    model.train()
    modes, state = [m.training for m in model.modules()], deepcopy(model.state_dict())
    found = detect(model, data, 0.)
    assert [m.training for m in model.modules()] == modes and all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    from PIL import Image
    Image.fromarray(data.images[0].permute(1, 2, 0).numpy()).save(tmp_path/'a.png')
    for other in (data.images, data.floats(), list(data.images), [data.images[0], torch.rand(3, 40, 70)], [tmp_path/'a.png'], str(tmp_path/'a.png')):
        assert torch.allclose(detect(model, other, 0.)[0]['boxes'], found[0]['boxes'], atol=1e-2)
    for f in found:
        assert f['masks'].shape == (len(f['boxes']), 80, 80) and f['masks'].dtype == torch.bool
        assert (f['boxes'] >= 0).all() and (f['boxes'] <= 80).all() and (f['scores'].diff() <= 0).all() and ((f['labels'] >= 1) & (f['labels'] <= 3)).all()
    assert all((f['scores'] >= .3).all() for f in detect(model, data, .3))
    assert sum(len(f['scores']) for f in detect(model, data, .3)) <= sum(len(f['scores']) for f in found)


def test_boxes_without_masks_and_images_without_objects():
    torch.manual_seed(0)
    data = make_shapes(6)
    bare = Images(data.images, boxes=[b if i else b[:0] for i, b in enumerate(data.boxes)])
    history = finetune_detector(small(False, 1), bare, 1, 3, bar=False)
    assert all(math.isfinite(r['loss']) for r in history.steps)
    assert 'masks' not in detect(small(False, 1), bare, 0.)[0]


@pytest.fixture
def coco_state():
    "Random weights with the names and shapes of torchvision's file."
    from torchvision.models.detection import backbone_utils, mask_rcnn as parts
    torch.manual_seed(0)
    state = parts.MaskRCNN(backbone_utils.resnet_fpn_backbone(backbone_name='resnet50', weights=None), 91).state_dict()
    for k, v in state.items():
        if k.endswith('running_var'): v.uniform_(.5, 2)
    return state


def test_coco_weights_from_a_state_dict(coco_state):
    model = coco_mask_rcnn(2, coco_state, size=64)
    own = model.state_dict()
    assert all(torch.equal(own[k], v) for k, v in coco_state.items() if not k.startswith(('roi_heads.box_predictor', 'roi_heads.mask_predictor')))
    assert model.roi_heads.box_predictor.cls_score.out_features == 3 and model.roi_heads.mask_predictor.mask_fcn_logits.out_channels == 3
    with pytest.raises(InputError, match='maskrcnn_resnet50_fpn'): coco_mask_rcnn(2, {'a': torch.zeros(1)})


def test_coco_weights_by_download_and_from_a_file_are_torchvisions(coco_state, tmp_path, monkeypatch):
    "The same body as torchvision's own builder makes of the same file: its features, what is frozen, what is normalised."
    from torchvision.models import _api
    from torchvision.models.detection import maskrcnn_resnet50_fpn
    asked = []
    monkeypatch.setattr(_api, 'load_state_dict_from_url', lambda url, *a, **kw: (asked.append((url, kw.get('check_hash'))), coco_state)[1])
    theirs, ours = maskrcnn_resnet50_fpn(weights='COCO_V1').backbone.eval(), coco_mask_rcnn(2, size=64).backbone.eval()
    assert len(asked) == 2 and asked[0] == asked[1] and asked[0][0].endswith('maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth') and asked[0][1] is True
    torch.save(coco_state, tmp_path/'coco.pth')
    filed = coco_mask_rcnn(2, tmp_path/'coco.pth', size=64).backbone.eval()
    x = torch.rand(1, 3, 64, 64)
    for other in (ours, filed):
        assert [(n, p.requires_grad) for n, p in other.named_parameters()] == [(n, p.requires_grad) for n, p in theirs.named_parameters()]
        with torch.no_grad(): assert all(torch.equal(a, b) for a, b in zip(theirs(x).values(), other(x).values()))


@pytest.mark.parametrize('fault', [OSError('Name or service not known'), RuntimeError('invalid hash value (expected "bf2d0c1e", got "00")'), ConnectionResetError('reset')])
def test_coco_weights_without_a_network_are_one_sentence(fault, monkeypatch):
    from torchvision.models import _api
    def no(*a, **kw): raise fault
    monkeypatch.setattr(_api, 'load_state_dict_from_url', no)
    with pytest.raises(InputError) as e: coco_mask_rcnn(1)
    assert all(w in str(e.value) for w in ('COCO weights could not be fetched', 'connect once', 'maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth', 'weights=')) and '\n' not in str(e.value)


def test_real_photographs_are_objects_without_faults(data_root):
    data = load_dataset('pennfudan', 'all', data_root, size=128)
    check_objects(data)
    assert len(data) == 170 and sum(map(len, data.boxes)) == 423
    x, o = DetectionBatches(data[:4], 4, Jitter()).batch(0)
    assert o['instances'].max() <= o['boxes'].shape[1]


def shapes(**change):
    d = make_shapes(2)
    for k, v in change.items(): d.extra[k] = v if k in ('box_labels', 'instances') else d.extra.pop(k, None)
    return d


def boxed(box, **kw): return Images(torch.zeros(1, 3, 32, 48, dtype=torch.uint8), boxes=[torch.tensor(box)], names=['street.png'], **kw)


FOUND = {'boxes': torch.zeros(0, 4), 'labels': torch.zeros(0).long(), 'scores': torch.zeros(0)}
BAD = {
    'no area': (lambda: check_objects(boxed([[5., 5, 5, 9]])), ['street.png', '[5.0, 5.0, 5.0, 9.0]', 'no area']),
    'upside down': (lambda: check_objects(boxed([[5., 9, 8, 5]])), ['street.png', 'no area']),
    'outside': (lambda: check_objects(boxed([[5., 5, 60, 9]])), ['street.png', 'outside', '48×32']),
    'negative': (lambda: check_objects(boxed([[-5., 5, 6, 9]])), ['street.png', 'outside']),
    'nan': (lambda: check_objects(boxed([[float('nan'), 5, 6, 9]])), ['street.png', 'no number']),
    'shape': (lambda: check_objects(boxed([5., 5, 6, 9])), ['street.png', '(4,)', '(n, 4)']),
    'no boxes': (lambda: check_objects(Images(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))), ['no boxes']),
    'label 0': (lambda: check_objects(boxed([[5., 5, 9, 9]], extra={'box_labels': [torch.tensor([0])]})), ['street.png', 'labels from 0', '1 to 1']),
    'label too high': (lambda: DetectionBatches(shapes(box_labels=[torch.full((len(b),), 4) for b in make_shapes(2).boxes]), 2), ['labels from 4 to 4', '1 to 3']),
    'labels missing': (lambda: check_objects(boxed([[5., 5, 9, 9]], extra={'box_labels': [torch.tensor([1, 1])]})), ['1 boxes', '2 labels']),
    'masks of others': (lambda: DetectionBatches(shapes(instances=torch.zeros(2, 64, 64, dtype=torch.uint8)), 2), ['instance mask', '0 objects']),
    'more classes than outputs': (lambda: finetune_detector(small(classes=1), make_shapes(4, seed=1), 1), ['labels from', '1 to 1']),
    'masks asked for': (lambda: finetune_detector(small(classes=1), boxed([[5., 5, 9, 9]]), 1), ['masks=False', 'instances']),
    'threshold': (lambda: detect(nn.Linear(1, 1), torch.rand(1, 3, 8, 8), 50), ['threshold=50']),
    'channels': (lambda: detect(nn.Linear(1, 1), torch.rand(1, 4, 8, 8)), ['(4, 8, 8)', '(3, H, W)']),
    'values': (lambda: detect(nn.Linear(1, 1), 255*torch.rand(1, 3, 8, 8)), ['[0, 1]']),
    'nothing': (lambda: detect(nn.Linear(1, 1), []), ['empty']),
    'too few detections': (lambda: coco_map([FOUND], make_shapes(2)), ['1 images', '2 images']),
    'no masks': (lambda: coco_map([FOUND, FOUND], make_shapes(2), masks=True), ['no masks']),
    'anchors': (lambda: mask_rcnn(1, anchors=(32,)), ['1 anchors', '4']),
}


@pytest.mark.parametrize('name', BAD)
def test_bad_input(name):
    call, words = BAD[name]
    with refused(words): call()


class Parts(nn.Module):
    "A detector of the lesson's own parts, whose tensors keep their shapes: torchvision's chooses by value how many it keeps, which fake tensors have none of."
    def __init__(self):
        super().__init__()
        self.body, self.rpn = nn.Conv2d(3, 8, 8, 8), nn.Conv2d(8, 5, 1)
        self.box, self.mask = nn.Linear(8*49, 2 + 8), nn.Conv2d(8, 2, 1)


def parts_loss(model, batch):
    x, o = batch
    f = model.body(x)
    anchors = make_anchors([f.shape[-2:]], [8], [16], [1.])[0].to(x.device)
    total = 0
    for i in range(len(x)):
        out = model.rpn(f[i:i + 1])[0].flatten(1).T
        proposals = decode_boxes(out[:, 1:].detach(), anchors)
        owner = match_boxes(box_iou(o['boxes'][i], proposals), .5, .5)
        y, owner = torch.where(owner >= 0, o['labels'][i][owner], 0), owner.clamp(min=0)
        head = model.box(roi_align(f[i], proposals, 7, 1/8).flatten(1))
        masks = (o['instances'][i] == (owner + 1)[:, None, None])
        total = total + sum(rpn_loss(out[:, 0], out[:, 1:], anchors, o['boxes'][i])) + sum(roi_loss(head[:, :2], head[:, 2:], y, encode_boxes(o['boxes'][i][owner], proposals)))
        total = total + mask_loss(model.mask(roi_align(f[i], proposals, 14, 1/8)), proposals, masks, y)
    return total


def test_the_parts_train_on_another_device():
    with fake_cuda():
        objects = {'boxes': torch.rand(2, 3, 4), 'labels': torch.ones(2, 3, dtype=torch.int64), 'instances': torch.zeros(2, 32, 32, dtype=torch.uint8)}
        x, objects = Jitter()(torch.rand(2, 3, 32, 32), objects, torch.Generator('cpu'))
        fake_step(Parts(), (x, objects), parts_loss)


def test_the_parts_learn():
    from visft_nb.train import fit
    torch.manual_seed(0)
    data = make_shapes(8)
    data.extra['box_labels'] = [torch.ones(len(b), dtype=torch.int64) for b in data.boxes]
    history = fit(Parts(), DetectionBatches(data, 4), epochs=8, loss=parts_loss, lr=3e-3, precision='fp32', bar=False)
    assert history.epochs[-1]['loss'] < .9*history.epochs[0]['loss']
