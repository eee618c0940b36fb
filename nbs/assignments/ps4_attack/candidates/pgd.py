# %% right: on the change, written out
def pgd(model, x, y, eps, alpha, steps, norm='linf'):
    modes = [(m, m.training) for m in model.modules()]
    model.eval()
    if norm == 'linf': d = torch.empty_like(x).uniform_(-eps, eps)
    else:
        d = torch.randn_like(x)
        d = d*(eps*torch.rand(len(x), 1, 1, 1)/d.flatten(1).norm(dim=1).view(-1, 1, 1, 1))
    d = (x + d).clamp(0, 1) - x
    for _ in range(steps):
        d = d.detach().requires_grad_()
        g = torch.autograd.grad(F.cross_entropy(model(x + d), y, reduction='sum'), d)[0]
        with torch.no_grad():
            if norm == 'linf': d = (d + alpha*g.sign()).clamp(-eps, eps)
            else:
                d = d + alpha*F.normalize(g.flatten(1), dim=1).view_as(g)
                d = torch.renorm(d, 2, 0, eps)
            d = (x + d).clamp(0, 1) - x
    for m, t in modes: m.training = t
    return (x + d).detach().clamp(0, 1)
# %% right: with fgsm as the step
def pgd(model, x, y, eps, alpha, steps, norm='linf'):
    adv = project(x + torch.empty(x.shape).uniform_(-eps, eps), x, eps, norm)
    for i in range(steps): adv = project(fgsm(model, adv, y, alpha, norm), x, eps, norm)
    return adv
# %% right: on a copy, numpy draws the start
import copy
import numpy as np
def pgd(model, x, y, eps, alpha, steps, norm='linf'):
    twin = copy.deepcopy(model).eval()
    start = np.random.default_rng().uniform(-eps, eps, tuple(x.shape)).astype('float32')
    v = project(x + torch.from_numpy(start), x, eps, norm)
    for _ in range(steps):
        v.requires_grad_(True)
        F.cross_entropy(twin(v), y).backward()
        v = project(v.detach() + alpha*steepest(v.grad, norm), x, eps, norm)
    return v.detach()
# %% wrong: start
def pgd(model, x, y, eps, alpha, steps, norm='linf'):
    adv = x.clone()
    for _ in range(steps): adv = project(adv + alpha*steepest(gradient(model, adv, y), norm), x, eps, norm)
    return adv
# %% wrong: same start
def pgd(model, x, y, eps, alpha, steps, norm='linf'):
    torch.manual_seed(0)
    adv = project(x + eps*(2*torch.rand_like(x) - 1), x, eps, norm)
    for _ in range(steps): adv = project(adv + alpha*steepest(gradient(model, adv, y), norm), x, eps, norm)
    return adv
# %% wrong: not uniform (up only)
def pgd(model, x, y, eps, alpha, steps, norm='linf'):
    adv = project(x + eps*torch.rand_like(x), x, eps, norm)
    for _ in range(steps): adv = project(adv + alpha*steepest(gradient(model, adv, y), norm), x, eps, norm)
    return adv
# %% wrong: not uniform (normal, cut)
def pgd(model, x, y, eps, alpha, steps, norm='linf'):
    adv = project(x + eps*torch.randn_like(x), x, eps, norm)
    for _ in range(steps): adv = project(adv + alpha*steepest(gradient(model, adv, y), norm), x, eps, norm)
    return adv
# %% wrong: not uniform (one change for all images)
def pgd(model, x, y, eps, alpha, steps, norm='linf'):
    adv = project(x + eps*(2*torch.rand_like(x[:1]) - 1), x, eps, norm)
    for _ in range(steps): adv = project(adv + alpha*steepest(gradient(model, adv, y), norm), x, eps, norm)
    return adv
# %% wrong: sign
def pgd(model, x, y, eps, alpha, steps, norm='linf'):
    adv = project(x + eps*(2*torch.rand_like(x) - 1), x, eps, norm)
    for _ in range(steps): adv = project(adv - alpha*steepest(gradient(model, adv, y), norm), x, eps, norm)
    return adv
# %% wrong: nothing (the raw gradient)
def pgd(model, x, y, eps, alpha, steps, norm='linf'):
    adv = project(x + eps*(2*torch.rand_like(x) - 1), x, eps, norm)
    for _ in range(steps): adv = project(adv + alpha*gradient(model, adv, y)/len(x), x, eps, norm)
    return adv
# %% wrong: count (one step more)
def pgd(model, x, y, eps, alpha, steps, norm='linf'):
    adv = project(x + eps*(2*torch.rand_like(x) - 1), x, eps, norm)
    if not steps: return adv
    for _ in range(steps + 1): adv = project(adv + alpha*steepest(gradient(model, adv, y), norm), x, eps, norm)
    return adv
# %% wrong: count (steps of eps)
def pgd(model, x, y, eps, alpha, steps, norm='linf'):
    adv = project(x + eps*(2*torch.rand_like(x) - 1), x, eps, norm)
    for _ in range(steps): adv = project(adv + eps*steepest(gradient(model, adv, y), norm), x, eps, norm)
    return adv
# %% wrong: count (each step begins at the image)
def pgd(model, x, y, eps, alpha, steps, norm='linf'):
    adv = project(x + eps*(2*torch.rand_like(x) - 1), x, eps, norm)
    for _ in range(steps): adv = project(x + alpha*steepest(gradient(model, adv, y), norm), x, eps, norm)
    return adv
# %% wrong: weak (the gradient is taken at the image)
def pgd(model, x, y, eps, alpha, steps, norm='linf'):
    adv = project(x + eps*(2*torch.rand_like(x) - 1), x, eps, norm)
    for _ in range(steps): adv = project(adv + alpha*steepest(gradient(model, x, y), norm), x, eps, norm)
    return adv
# %% wrong: batch
def pgd(model, x, y, eps, alpha, steps, norm='linf'):
    adv = project(x + eps*(2*torch.rand_like(x) - 1), x, eps, norm)
    for _ in range(steps):
        g = gradient(model, adv, y)
        g = g.sign() if norm == 'linf' else g/g.norm()
        adv = project(adv + alpha*g, x, eps, norm)
    return adv
# %% wrong: ball (around the last point)
def pgd(model, x, y, eps, alpha, steps, norm='linf'):
    adv = project(x + eps*(2*torch.rand_like(x) - 1), x, eps, norm)
    for _ in range(steps): adv = project(adv + alpha*steepest(gradient(model, adv, y), norm), adv, eps, norm)
    return adv
# %% wrong: box
def pgd(model, x, y, eps, alpha, steps, norm='linf'):
    adv = x + eps*(2*torch.rand_like(x) - 1)
    for _ in range(steps):
        d = adv + alpha*steepest(gradient(model, adv, y), norm) - x
        d = d.clamp(-eps, eps) if norm == 'linf' else torch.renorm(d, 2, 0, eps)
        adv = x + d
    return adv
# %% wrong: training mode
def pgd(model, x, y, eps, alpha, steps, norm='linf'):
    adv = project(x + eps*(2*torch.rand_like(x) - 1), x, eps, norm)
    for _ in range(steps):
        adv.requires_grad_()
        g, = torch.autograd.grad(F.cross_entropy(model(adv), y), adv)
        adv = project(adv.detach() + alpha*steepest(g, norm), x, eps, norm)
    return adv
# %% wrong: mode
def pgd(model, x, y, eps, alpha, steps, norm='linf'):
    model.eval()
    adv = project(x + eps*(2*torch.rand_like(x) - 1), x, eps, norm)
    for _ in range(steps): adv = project(adv + alpha*steepest(gradient(model, adv, y), norm), x, eps, norm)
    return adv
# %% wrong: traces
def pgd(model, x, y, eps, alpha, steps, norm='linf'):
    was = model.training
    model.eval()
    adv = project(x + eps*(2*torch.rand_like(x) - 1), x, eps, norm)
    for _ in range(steps):
        v = adv.clone().requires_grad_()
        F.cross_entropy(model(v), y).backward()
        adv = project(adv + alpha*steepest(v.grad, norm), x, eps, norm)
    model.train(was)
    return adv
# %% wrong: not done
def pgd(model, x, y, eps, alpha, steps, norm='linf'):
    raise NotDone
# %% wrong: missing
def PGD(model, x, y, eps, alpha, steps, norm='linf'):
    return x
