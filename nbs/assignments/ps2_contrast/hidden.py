"Cases of assignment 2 that no student sees: other shapes, other numbers, corners."
import numpy as np
import torch

from visft_nb.course.items import Case
from visft_nb.course.sandbox import step
from visft_nb.course.tasks_ps2 import simsiam_cases, spectral_matrix
from visft_nb.pretrain.contrast import nt_xent as lesson


def similarity(rng):
    out = []
    for n, m, dim, scale in ((1, 6, 2, 1e-4), (4, 3, 9, 300.)):
        a, b = scale*rng.normal(size=(n, dim)), rng.normal(size=(m, dim))
        b[-1] = 0
        want = [[x @ y/(x @ x)**.5/max((y @ y)**.5, 1e-9)/.03 for y in b] for x in a]
        out.append(Case([step('similarity', a, b, .03)], np.array(want)))
    return out


def loss_case(z1, z2, t, **kwargs):
    "By the lesson's function, on directions in float64."
    want = lesson(*(torch.as_tensor(z).double() for z in (z1, z2)), t).item()
    return Case([step('nt_xent', z1, z2, t)], want, **kwargs)


def ntxent(rng):
    far = rng.normal(size=(4, 5)).astype(np.float32)
    one = rng.normal(size=(1, 6))
    return [loss_case(rng.normal(size=(2, 3)), rng.normal(size=(2, 3)), .5),
            loss_case(rng.normal(size=(11, 4)), 5*rng.normal(size=(11, 4)), 1.),
            loss_case(far, -far, .004, rtol=1e-3),                  # partners are the farthest of all
            loss_case(np.repeat(one, 6, 0), np.repeat(2*one, 6, 0), .1)]


def numeric(z1, z2, t, h=1e-5):
    "Central differences of the loss in float64."
    z = np.stack([z1, z2]).astype(float)
    def value(v):
        u = np.concatenate(list(v/np.linalg.norm(v, axis=2, keepdims=True)))
        s, n = u @ u.T/t, len(z1)
        return np.mean([np.logaddexp.reduce(np.delete(s[i], i)) - s[i, (i + n) % (2*n)] for i in range(2*n)])
    g = np.zeros_like(z)
    for i in np.ndindex(*z.shape):
        up, down = z.copy(), z.copy()
        up[i] += h
        down[i] -= h
        g[i] = (value(up) - value(down))/(2*h)
    return list(g)


def gradient(rng):
    out = []
    for n, dim, t in ((2, 3, .5), (6, 4, 1.), (3, 5, .15)):
        z1, z2 = rng.normal(size=(n, dim)), 1.5*rng.normal(size=(n, dim))
        out.append(Case([step('nt_xent_backward', z1, z2, t)], numeric(z1, z2, t), rtol=1e-3))
    far = rng.normal(size=(4, 5)).astype(np.float32)
    near = (-far + .3*rng.normal(size=far.shape)).astype(np.float32)
    out.append(Case([step('nt_xent_backward', far, near, .02)], numeric(far, near, .02), rtol=2e-3))
    return out


def collapse(rng):
    values = rng.uniform(.2, 5, 7)
    axes = np.concatenate([np.eye(5), -np.eye(5)])*rng.uniform(1, 9, (10, 1))
    return [Case([step('rank_me', spectral_matrix(rng, values, 7, 12))],
                 float(np.exp(-(values/values.sum()*np.log(values/values.sum())).sum())), rtol=1e-3),
            Case([step('rank_me', np.pad(3*np.eye(4), ((0, 5), (0, 1))))], 4., rtol=1e-3),
            Case([step('spread', axes)], 1., rtol=1e-3)]     # each dimension: two of ten are 1 and -1


def simsiam(rng):
    return simsiam_cases(rng, 2, 9)


HIDDEN = {'ps2.similarity': similarity, 'ps2.ntxent': ntxent, 'ps2.gradient': gradient, 'ps2.collapse': collapse,
          'ps2.simsiam': simsiam}
