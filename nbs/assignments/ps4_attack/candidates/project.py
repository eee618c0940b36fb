# %% right: renorm and minimum
def project(adv, x, eps, norm='linf'):
    if norm == 'linf': return torch.minimum(torch.maximum(adv, x - eps), x + eps).clamp(0, 1)
    d = torch.renorm(adv - x, 2, 0, eps)
    return torch.clamp(x + d, 0, 1)
# %% right: a loop over images, in numpy, with a warning
import warnings
import numpy as np
def project(adv, x, eps, norm='linf'):
    warnings.warn('slow')
    out = []
    for a, b in zip(np.asarray(adv), np.asarray(x)):
        d = a - b
        n = np.sqrt((d*d).sum())
        if norm == 'linf': d = np.clip(d, -eps, eps)
        elif n > eps: d = d*eps/n
        out.append(np.clip(b + d, 0, 1))
    return torch.from_numpy(np.stack(out))
# %% right: where
def project(adv, x, eps, norm='linf'):
    d = (adv - x).flatten(1)
    if norm == 'l2':
        n = (d**2).sum(1, keepdim=True).sqrt()
        d = torch.where(n > eps, eps*d/n.clamp_min(eps), d)
    else: d = eps*F.hardtanh(d/eps)
    return (d.view_as(x) + x).clamp(0, 1)
# %% wrong: image
def project(adv, x, eps, norm='linf'):
    if norm == 'linf': return adv.clamp(-eps, eps).clamp(0, 1)
    n = adv.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    return (adv*(eps/n).clamp(max=1)).clamp(0, 1)
# %% wrong: image (the change comes back)
def project(adv, x, eps, norm='linf'):
    d = adv - x
    if norm == 'linf': return d.clamp(-eps, eps)
    return d*(eps/d.flatten(1).norm(dim=1).clamp(min=1e-12)).clamp(max=1).view(-1, *[1]*(d.ndim - 1))
# %% wrong: batch
def project(adv, x, eps, norm='linf'):
    d = adv - x
    d = d.clamp(-eps, eps) if norm == 'linf' else d*min(1, eps/d.norm().item())
    return (x + d).clamp(0, 1)
# %% wrong: inside
def project(adv, x, eps, norm='linf'):
    d = adv - x
    if norm == 'linf': d = d.clamp(-eps, eps)
    else: d = eps*d/d.flatten(1).norm(dim=1).clamp(min=1e-12).view(-1, *[1]*(d.ndim - 1))
    return (x + d).clamp(0, 1)
# %% wrong: norm (linf always)
def project(adv, x, eps, norm='linf'):
    return (x + (adv - x).clamp(-eps, eps)).clamp(0, 1)
# %% wrong: ball (the box alone)
def project(adv, x, eps, norm='linf'):
    return adv.clamp(0, 1)
# %% wrong: box
def project(adv, x, eps, norm='linf'):
    d = adv - x
    if norm == 'linf': d = d.clamp(-eps, eps)
    else: d = d*(eps/d.flatten(1).norm(dim=1).clamp(min=1e-12)).clamp(max=1).view(-1, *[1]*(d.ndim - 1))
    return x + d
# %% wrong: order
def project(adv, x, eps, norm='linf'):
    d = adv.clamp(0, 1) - x
    if norm == 'linf': return x + d.clamp(-eps, eps)
    return x + d*(eps/d.flatten(1).norm(dim=1).clamp(min=1e-12)).clamp(max=1).view(-1, *[1]*(d.ndim - 1))
# %% wrong: in place
def project(adv, x, eps, norm='linf'):
    d = adv.sub_(x)
    if norm == 'linf': d = d.clamp(-eps, eps)
    else: d = d*(eps/d.flatten(1).norm(dim=1).clamp(min=1e-12)).clamp(max=1).view(-1, *[1]*(d.ndim - 1))
    return (x + d).clamp(0, 1)
# %% wrong: not finite
def project(adv, x, eps, norm='linf'):
    d = adv - x
    if norm == 'linf': d = d.clamp(-eps, eps)
    else:
        n = d.flatten(1).norm(dim=1).view(-1, *[1]*(d.ndim - 1))
        d = d/n*n.clamp(max=eps)
    return (x + d).clamp(0, 1)
# %% wrong: shape
def project(adv, x, eps, norm='linf'):
    return (x + (adv - x).clamp(-eps, eps)).clamp(0, 1).flatten(1)
# %% wrong: not done
def project(adv, x, eps, norm='linf'):
    raise NotDone
