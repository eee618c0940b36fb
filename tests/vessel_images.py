"Generated photographs of the back of an eye: dark, branching vessels on a bright disc, with what was drawn; and the layouts of well-known collections."
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter


def _tree(rng, draw, at, way, radius, steps, scale):
    "A vessel that winds, thins out and branches."
    for _ in range(steps):
        way += rng.normal(0, .12)
        to = at + 4*np.array([np.cos(way), np.sin(way)])
        draw.line([*(at*scale), *(to*scale)], 255, max(1, round(2*radius*scale)))
        r = radius*scale
        draw.ellipse([*(to*scale - r), *(to*scale + r)], fill=255)
        at, radius = to, radius*.992
        if radius < .6: return
        if rng.random() < .06:
            side = rng.choice([-1, 1])
            _tree(rng, draw, at, way + side*rng.uniform(.4, 1), radius*rng.uniform(.5, .8), steps - 5, scale)


def vessels(seed, height=584, width=565, thick=3.2, noise=9.):
    "(photograph uint8 (H, W, 3), mask of the vessels, mask of the disc)"
    rng, scale = np.random.default_rng(seed), 3
    canvas = Image.new('L', (width*scale, height*scale))
    draw, side = ImageDraw.Draw(canvas), min(height, width)
    papilla = np.array([width/2, height/2]) + rng.uniform(-.18, .18, 2)*side
    for k in range(6):
        _tree(rng, draw, papilla.copy(), 2*np.pi*k/6 + rng.normal(0, .3), thick*rng.uniform(.6, 1)*side/565, 90, scale)
    cover = np.asarray(canvas.resize((width, height), Image.Resampling.BOX))/255
    y, x = np.mgrid[:height, :width]
    disc = (x - width/2)**2 + (y - height/2)**2 < (.47*side)**2
    wave = np.sin(x/rng.uniform(60, 120)*565/side + rng.uniform(0, 6))*np.cos(y/rng.uniform(60, 120)*565/side + rng.uniform(0, 6))
    light = .8 + .15*wave + .3*np.exp(-((x - papilla[0])**2 + (y - papilla[1])**2)/(.06*side)**2)
    photo = np.stack([c*light*(1 - d*cover) for c, d in ((190, .25), (110, .45), (55, .35))], -1)
    photo = photo*disc[..., None] + rng.normal(0, noise, (height, width, 3))
    image = Image.fromarray(photo.clip(0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(.6))
    return np.asarray(image), (cover > .5) & disc, disc


def drive_like(folder, n=20, first=21, **size):
    "images/21_training.tif with 1st_manual/21_manual1.gif, and the discs in mask/21_training_mask.gif."
    for name in ('images', '1st_manual', 'mask'): (Path(folder)/name).mkdir(parents=True, exist_ok=True)
    for k in range(first, first + n):
        photo, mask, disc = vessels(k, **size)
        Image.fromarray(photo).save(Path(folder)/f'images/{k}_training.tif')
        Image.fromarray(mask).convert('L').save(Path(folder)/f'1st_manual/{k}_manual1.gif')
        Image.fromarray(disc).convert('L').save(Path(folder)/f'mask/{k}_training_mask.gif')
    return Path(folder)


def chase_like(folder, n=14, **size):
    "Image_01L.jpg, Image_01R.jpg, … in one folder with the masks of two readers; the second one draws less."
    Path(folder).mkdir(parents=True, exist_ok=True)
    for k in range(n):
        photo, mask, _ = vessels(100 + k, **size)
        name = f'Image_{k//2 + 1:02}{"LR"[k % 2]}'
        Image.fromarray(photo).save(Path(folder)/f'{name}.jpg', quality=95)
        Image.fromarray(mask).convert('1').save(Path(folder)/f'{name}_1stHO.png')
        less = Image.fromarray(mask).convert('L').filter(ImageFilter.MinFilter(3))
        less.convert('1').save(Path(folder)/f'{name}_2ndHO.png')
    return Path(folder)
