"Cases of assignment 3 that no student sees: other shapes, other types, corners."
import numpy as np
import torch

from visft_nb.course import tasks_ps3 as t


def lora(rng):
    "Tokens, a single image without a batch, no bias, rank 1, float64, a whole alpha."
    tokens = t._draw_layer(rng, 9, 14, 3, shape=(2, 4))
    plain = t._draw_layer(rng, 17, 6, 1, shape=(), bias=False)
    double = t._draw_layer(rng, 8, 13, 4, alpha=16, dtype=torch.float64)
    return [t._forward_case(tokens), t._gradient_case(tokens), t._forward_case(plain),
            t._gradient_case(plain), t._start_case(double), t._forward_case(double),
            t._training_case(t._draw_layer(rng, 10, 12, 2, shape=(2, 3), alpha=3), steps=4)]


def merge(rng):
    "Rank 1, a whole alpha, float64."
    a = t._draw_layer(rng, 21, 5, 1)
    b = t._draw_layer(rng, 6, 6, 3, alpha=6, bias=False)
    c = t._draw_layer(rng, 7, 12, 4, shape=(2, 3), dtype=torch.float64)
    return [t._merge_case(v) for v in (a, b, c)] + [t._kept_case(b)]


def split(rng):
    "Texts, two patients, one image of each, one patient with very many."
    texts = [f'p{i:03}' for i in rng.permutation(np.repeat(rng.permutation(400)[:40], 3))]
    alone = rng.permutation(500)[:60]
    huge = rng.permutation(np.repeat(np.arange(40) + 7, [30] + 39*[2]))
    s = [int(i) for i in rng.permutation(10_000)[:12]]
    return [t._split_case(texts, .3, s[0]), t._seed_case(texts, .3, s[1:3]),
            t._split_case(alone, .25, s[3]), t._split_case(huge, .4, s[4]),
            t._split_case(np.array([9, 4]), .5, s[5]),
            *(t._split_case(t._unequal(rng), f, i, weight=.5) for f, i in zip((.15, .35, .5, .25, .2, .3), s[6:]))]


def copies(rng):
    "Negatives, images of one grey, no copy at all, no test image, images that are not square."
    x = t._patients(rng, np.arange(12) % 2, 2)
    train, test = x[:6].reshape(-1, 16, 16), x[6:].reshape(-1, 16, 16)
    flat = np.full((1, 16, 16), 90, np.uint8)
    corner = np.concatenate([test[:3], 255 - train[4:6], flat, train[7:8], t._bytes(.6*train[2:3] + 20.)])
    kinds = ['fresh']*3 + ['negative']*2 + ['flat', 'exact', 'darker']
    wide = [a.reshape(-1, 8, 32) for a in (train, np.concatenate([test[:2], train[3:4]]))]
    return [t._copies_case(rng, weight=2), t._search_case(corner, np.concatenate([train, flat]), np.array(kinds)),
            t._search_case(test, train, np.array(['fresh']*len(test))),
            t._search_case(test[:0], train, np.array([], str)),
            t._search_case(wide[1], wide[0], np.array(['fresh', 'fresh', 'exact']))]


def figures(rng):
    "Three classes, nothing leaked, more test images than training images, and the other way."
    out = []
    for n, m, leaked in ((40, 25, 8), (15, 60, 20), (30, 30, 0)):
        labels = rng.integers(0, 3, n + m)
        images = t._bytes(rng.normal(120, 40, (n + m, 6, 9)) + 18*labels[:, None, None])
        order = rng.permutation(n + m)
        out.append(t._figures_case(images, labels, order[:n], order[n:], rng.permutation(m)[:leaked]))
    return out


HIDDEN = {'ps3.lora': lora, 'ps3.merge': merge, 'ps3.split': split, 'ps3.copies': copies, 'ps3.figures': figures}
