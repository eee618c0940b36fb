"Cases of assignment 1 that no student sees: other shapes, other numbers, corners."
import numpy as np
import torch
import torch.nn.functional as F

from visft_nb.course.items import Case
from visft_nb.course.sandbox import step


def numeric(rng):
    "A function whose outputs depend on more than one input, which a shortcut misses."
    x, dy = rng.normal(size=(3, 3)), rng.normal(size=(3, 3))
    return [Case([step('numeric_gradient', '@np.linalg.inv', x + 4*np.eye(3), dy)],
                 -np.linalg.inv(x + 4*np.eye(3)).T @ dy @ np.linalg.inv(x + 4*np.eye(3)).T,
                 about='of a function that mixes its inputs', rtol=1e-5, weight=2)]


def prelu(rng):
    out = []
    for shape in ((1, 7, 2, 9), (5, 2, 1, 1)):
        x = torch.from_numpy(rng.normal(size=shape)).requires_grad_()
        a = torch.from_numpy(rng.uniform(-.5, 1.5, shape[1])).requires_grad_()
        dy = torch.from_numpy(rng.normal(size=shape))
        F.prelu(x, a).backward(dy)
        out.append(Case([step('prelu_backward', dy.numpy(), x.detach().numpy(), a.detach().numpy())],
                        [x.grad.numpy(), a.grad.numpy()], weight=2))
    return out


def norm_values(rng, shape, groups):
    x = torch.from_numpy(rng.normal(3, .5, size=shape)).requires_grad_()
    gamma, beta = (torch.from_numpy(rng.normal(size=shape[1])).requires_grad_() for _ in range(2))
    dy = torch.from_numpy(rng.normal(size=shape))
    y = F.group_norm(x, groups, gamma, beta)
    y.backward(dy)
    return [v.detach().numpy() for v in (x, gamma, beta, dy, y, x.grad, gamma.grad, beta.grad)]


def norm(rng):
    out = []
    for shape, groups in (((1, 12, 3, 2), 4), ((4, 6, 1, 5), 2)):
        x, gamma, beta, _, y, *_ = norm_values(rng, shape, groups)
        out.append(Case([step('group_norm', x, gamma, beta, groups)], y))
    return out


def norm_backward(rng):
    out = []
    for shape, groups in (((1, 12, 3, 2), 4), ((4, 6, 2, 5), 2)):
        x, gamma, _, dy, _, *right = norm_values(rng, shape, groups)
        out.append(Case([step('group_norm_backward', dy, x, gamma, groups)], list(right), weight=1.5))
    return out


HIDDEN = {'ps1.numeric': numeric, 'ps1.prelu': prelu, 'ps1.norm': norm, 'ps1.norm_backward': norm_backward}
