"Views of colour images: each change against torchvision, amounts by image, probabilities, side effects, bad input."
import pytest
import torch
import torchvision.transforms.v2.functional as TF

from fake_cuda import fake_cuda
from helpers import fake_step, refused
from visft_nb.data import seeded
from visft_nb.pretrain import (CIFAR_VIEWS, IMAGENET_VIEWS, ColourViews, adjust_brightness, adjust_contrast, adjust_hue, adjust_saturation, blur_matrix, contrastive_step,
                               crop_boxes, gaussian_blur, resized_crop, shape_patches, solarise, to_grey)

pytestmark = pytest.mark.filterwarnings('ignore')
STILL = dict(crop=None, flip=False, jitter=0, grey=0)


@pytest.fixture(scope='module')
def x():
    "Random images with what is awkward: black, white, pure colours, equal channels, two equal channels."
    x = torch.rand(9, 3, 20, 26, generator=seeded(1))
    x[0, :, :4] = 0; x[1, :, :4] = 1; x[2, :, :6] = x[2, :1, :6]
    x[3, 1, :6] = x[3, 0, :6]; x[4, 2, :6] = x[4, 1, :6]; x[5, 2, :6] = x[5, 0, :6]
    for c in range(3): x[6, :, 4*c:4*c + 4] = 0; x[6, c, 4*c:4*c + 4] = 1
    return x


@pytest.mark.parametrize('last', [False, True], ids=['nchw', 'channels-last'])
@pytest.mark.parametrize('ours,theirs,amounts', [
    (adjust_brightness, TF.adjust_brightness, (0, .3, 1, 1.7)), (adjust_contrast, TF.adjust_contrast, (0, .3, 1, 1.7)),
    (adjust_saturation, TF.adjust_saturation, (0, .3, 1, 1.7)), (adjust_hue, TF.adjust_hue, (-.5, -.23, 0, .1, .5)), (solarise, TF.solarize, (.2, .5, .9))],
    ids=['brightness', 'contrast', 'saturation', 'hue', 'solarise'])
def test_colour_equals_torchvision(x, ours, theirs, amounts, last):
    given = x.contiguous(memory_format=torch.channels_last) if last else x
    kept = given.clone()
    for a in amounts: assert (ours(given, a) - theirs(x, a)).abs().max() < 1e-5, a
    many = torch.tensor(amounts)[torch.arange(len(x)) % len(amounts)]
    one_call = ours(given, many)
    assert (one_call - torch.cat([theirs(x[i:i + 1], a.item()) for i, a in enumerate(many)])).abs().max() < 1e-5, 'one amount for each image'
    assert torch.equal(given, kept), 'the images are left as they were'


def test_grey_equals_torchvision(x):
    assert torch.allclose(to_grey(x), TF.rgb_to_grayscale(x, 3), atol=1e-6)


@pytest.mark.parametrize('kernel,sigma', [(3, .1), (3, 1.), (5, .7), (9, 3.), (23, 2.)])
def test_blur_equals_torchvision(x, kernel, sigma):
    assert (gaussian_blur(x, kernel, sigma) - TF.gaussian_blur(x, [kernel]*2, [sigma]*2)).abs().max() < 1e-5


def test_blur_by_image(x):
    s = torch.linspace(.1, 2, len(x))
    theirs = torch.cat([TF.gaussian_blur(x[i:i + 1], [7, 7], [v.item()]*2) for i, v in enumerate(s)])
    assert (gaussian_blur(x, 7, s) - theirs).abs().max() < 1e-5
    assert torch.allclose(blur_matrix(s, 20, 7).sum(2), torch.ones(9, 20))


@pytest.mark.parametrize('box,size', [((3, 2, 12, 10), (20, 26)), ((0, 0, 26, 20), (20, 26)), ((5, 6, 8, 8), (32, 32)), ((14, 10, 12, 10), (40, 48))])
def test_crop_equals_torchvision_inside(x, box, size):
    left, top, w, h = box
    ours = resized_crop(x, torch.tensor([box]).expand(len(x), 4), size)
    theirs = TF.resized_crop(x, top, left, h, w, list(size), antialias=False)
    rim = [-(-s//(2*b)) for s, b in zip(size, (h, w))]   # half a pixel of the box: there torchvision repeats the box's own edge
    inside = (ours - theirs)[..., rim[0]:size[0] - rim[0], rim[1]:size[1] - rim[1]]
    assert inside.abs().max() < 1e-4
    smooth = TF.resized_crop(x, top, left, h, w, list(size), antialias=True)
    assert torch.allclose(smooth, theirs, atol=1e-5), 'a view is enlarged: antialias has nothing to do'


def test_crop_of_the_whole_is_the_image_and_flip_is_torchvisions(x):
    box = torch.tensor([[0., 0, 26, 20]]).expand(len(x), 4)
    assert torch.allclose(resized_crop(x, box), x, atol=1e-5)
    flip = torch.arange(len(x)) % 2 == 0
    out = resized_crop(x, box, flip=flip)
    assert torch.allclose(out[flip], TF.horizontal_flip(x[flip]), atol=1e-5) and torch.allclose(out[~flip], x[~flip], atol=1e-5)


@pytest.mark.parametrize('size', [(32, 32), (20, 60), (60, 20)])
def test_boxes_lie_inside_and_keep_their_area(size):
    h, w = size
    box = crop_boxes(torch.rand(4, 4000, generator=seeded(2)), size, (.2, 1))
    left, top, bw, bh = box.T
    assert (box >= -1e-4).all() and (left + bw <= w + 1e-3).all() and (top + bh <= h + 1e-3).all()
    area = bw*bh/(h*w)
    assert .1999 < area.min() and area.max() < 1.0001 and abs(area.mean() - .6) < .02
    small = area < .4
    if h == w: assert (bw/bh)[small].min() >= .7499 and (bw/bh)[small].max() <= 1.3334


def test_views_are_repeatable_in_range_and_channels_last(x):
    kept = x.clone()
    for views in (ColourViews(), ColourViews(blur=.5, solarise=.3, size=16), IMAGENET_VIEWS):
        a, b, c = views(x, seeded(3)), views(x, seeded(3)), views(x, seeded(4))
        side = views.size
        assert torch.equal(a, b) and not torch.equal(a, c) and a.shape == ((9, 3, side, side) if side else x.shape)
        assert a.is_contiguous(memory_format=torch.channels_last) and a.dtype == torch.float32 and -1e-5 <= a.min() and a.max() <= 1 + 1e-5
    assert torch.equal(x, kept)
    state = torch.get_rng_state()
    CIFAR_VIEWS(x, seeded(3))
    assert torch.equal(state, torch.get_rng_state()), 'with a generator of their own the views leave torch\'s alone'


def test_nothing_switched_on_changes_nothing(x):
    assert torch.equal(ColourViews(**STILL)(x), x)


def test_bytes_are_taken_as_they_lie_in_memory(x):
    b = (255*x).round().to(torch.uint8)
    assert torch.equal(CIFAR_VIEWS(b, seeded(5)), CIFAR_VIEWS(b.float()/255, seeded(5)))


@pytest.mark.parametrize('name,options', [('jitter', dict(jitter=.8)), ('grey', dict(grey=.2)), ('blur', dict(blur=.5, sigma=(1, 2))), ('solarise', dict(solarise=.3)), ('flip', dict(flip=True))])
def test_each_change_comes_as_often_as_said(name, options):
    x = torch.rand(1, 3, 12, 12, generator=seeded(6)).expand(3000, -1, -1, -1)
    changed = ((ColourViews(**STILL | options)(x, seeded(7)) - x).abs().amax((1, 2, 3)) > 1e-3).float().mean()
    assert abs(changed - {'flip': .5}.get(name, options[name])) < .035


def test_amounts_differ_between_images_and_stay_in_their_range():
    x = torch.full((2000, 3, 4, 4), .5)
    out = ColourViews(**STILL | dict(jitter=1), contrast=0, saturation=0, hue=0, brightness=.4)(x, seeded(8))[:, 0, 0, 0]/.5
    assert .6 <= out.min() < .62 and 1.38 < out.max() <= 1.4001 and abs(out.mean() - 1) < .02


def test_precision_is_not_lowered_by_autocast(x):
    plain = IMAGENET_VIEWS(x, seeded(9))
    with torch.autocast('cpu', torch.bfloat16): inside = IMAGENET_VIEWS(x, seeded(9))
    assert inside.dtype == torch.float32 and torch.equal(plain, inside)


def test_shape_patches_show_what_their_labels_say():
    a, b = shape_patches(60, 24, 3), shape_patches(60, 24, 3)
    assert a.images.shape == (60, 3, 24, 24) and torch.equal(a.images, b.images) and set(a.labels.tolist()) == {0, 1, 2}
    from visft_nb.data import COLOURS
    centre = a.images[:, :, 10:14, 10:14].float().mean((2, 3))
    paint = torch.tensor(list(COLOURS.values())).float()
    assert (torch.cdist(centre, paint).argmin(1) == a.extra['colour']).float().mean() > .95


BAD = {
    'grey images': (lambda: ColourViews()(torch.rand(2, 1, 8, 8)), ['(2, 1, 8, 8)', '3']),
    'one image': (lambda: adjust_hue(torch.rand(3, 8, 8), .1), ['(3, 8, 8)']),
    'integers': (lambda: ColourViews()(torch.zeros(2, 3, 8, 8, dtype=torch.int64)), ['int64', 'uint8']),
    'amounts': (lambda: adjust_contrast(torch.rand(4, 3, 8, 8), torch.ones(3)), ['(3,)', '4 images']),
    'even kernel': (lambda: gaussian_blur(torch.rand(1, 3, 8, 8), 4, 1.), ['kernel=4', 'odd']),
    'large kernel': (lambda: gaussian_blur(torch.rand(1, 3, 8, 8), 17, 1.), ['kernel=17', '8 x 8']),
    'probability': (lambda: ColourViews(grey=20), ['grey=20', '0 to 1']),
    'hue': (lambda: ColourViews(hue=.6), ['hue=0.6', '0.5']),
    'text': (lambda: ColourViews(brightness='much'), ['brightness', 'much']),
    'crop': (lambda: ColourViews(crop=(.5, .2)), ['crop=(0.5, 0.2)', 'smallest']),
    'crop above': (lambda: ColourViews(crop=(.5, 1.2)), ['crop', 'at most 1']),
}


@pytest.mark.parametrize('name', BAD)
def test_bad_input(name):
    call, words = BAD[name]
    with refused(words): call()


def test_on_another_device():
    from visft_nb.cnn.models import small_cnn
    with fake_cuda():
        for views in (ColourViews(), ColourViews(blur=.5, solarise=.1, size=24), ColourViews(crop=None)):
            fake_step(small_cnn(channels=3, width=4), torch.rand(6, 3, 16, 16), contrastive_step(augment=views))
        generator = torch.Generator('cpu')
        assert ColourViews(blur=.5)(torch.rand(6, 3, 16, 16), generator).device.type == 'cuda'
