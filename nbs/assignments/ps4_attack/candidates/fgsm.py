# %% right: a loop over images, the modes of all modules
def fgsm(model, x, y, eps, norm='linf'):
    modes = {m: m.training for m in model.modules()}
    model.eval()
    out = []
    for a, k in zip(x, y):
        a = a[None].clone().requires_grad_()
        logits = model(a)
        g, = torch.autograd.grad(logits.logsumexp(1).sum() - logits[0, k], a)
        d = torch.sign(g) if norm == 'linf' else g/(g.norm() + 1e-30)
        out.append((a + eps*d).clamp(0, 1).detach())
    for m, t in modes.items(): m.training = t
    return torch.cat(out)
# %% right: on a copy of the model, with backward
import copy
def fgsm(model, x, y, eps, norm='linf'):
    twin = copy.deepcopy(model).eval()
    v = x.clone().detach().requires_grad_(True)
    F.nll_loss(F.log_softmax(twin(v), 1), y).backward()
    g = v.grad
    if norm == 'l2': g = F.normalize(g.flatten(1), dim=1, eps=1e-30).view_as(g)
    else: g = g.sign()
    return torch.clamp(v.detach() + eps*g, 0, 1)
# %% right: the gradients of the parameters are kept aside
def fgsm(model, x, y, eps, norm='linf'):
    was, kept = model.training, [(p, p.grad) for p in model.parameters()]
    for p, _ in kept: p.grad = None
    model.eval()
    v = x.detach().clone().requires_grad_()
    F.cross_entropy(model(v), y, reduction='sum').backward()
    for p, g in kept: p.grad = g
    model.train(was)
    g = v.grad.sign() if norm == 'linf' else v.grad/v.grad.flatten(1).norm(dim=1).clamp(min=1e-20).view(-1, 1, 1, 1)
    return (x + eps*g).clamp(0, 1)
# %% wrong: sign
def fgsm(model, x, y, eps, norm='linf'):
    was = model.training
    model.eval()
    x = x.detach().clone().requires_grad_()
    g, = torch.autograd.grad(F.cross_entropy(model(x), y), x)
    model.train(was)
    g = g.sign() if norm == 'linf' else g/g.flatten(1).norm(dim=1).clamp(min=1e-20).view(-1, 1, 1, 1)
    return (x - eps*g).clamp(0, 1)
# %% wrong: raw gradient
def fgsm(model, x, y, eps, norm='linf'):
    was = model.training
    model.eval()
    x = x.detach().clone().requires_grad_()
    g, = torch.autograd.grad(F.cross_entropy(model(x), y), x)
    model.train(was)
    return (x + eps*g).clamp(0, 1)
# %% wrong: batch
def fgsm(model, x, y, eps, norm='linf'):
    was = model.training
    model.eval()
    x = x.detach().clone().requires_grad_()
    g, = torch.autograd.grad(F.cross_entropy(model(x), y), x)
    model.train(was)
    return (x + eps*(g.sign() if norm == 'linf' else g/g.norm())).clamp(0, 1)
# %% wrong: norm
def fgsm(model, x, y, eps, norm='linf'):
    was = model.training
    model.eval()
    x = x.detach().clone().requires_grad_()
    g, = torch.autograd.grad(F.cross_entropy(model(x), y), x)
    model.train(was)
    return (x + eps*g.sign()).clamp(0, 1)
# %% wrong: box
def fgsm(model, x, y, eps, norm='linf'):
    was = model.training
    model.eval()
    x = x.detach().clone().requires_grad_()
    g, = torch.autograd.grad(F.cross_entropy(model(x), y), x)
    model.train(was)
    return x + eps*(g.sign() if norm == 'linf' else g/g.flatten(1).norm(dim=1).clamp(min=1e-20).view(-1, 1, 1, 1))
# %% wrong: training mode
def fgsm(model, x, y, eps, norm='linf'):
    x = x.detach().clone().requires_grad_()
    g, = torch.autograd.grad(F.cross_entropy(model(x), y), x)
    g = g.sign() if norm == 'linf' else g/g.flatten(1).norm(dim=1).clamp(min=1e-20).view(-1, 1, 1, 1)
    return (x + eps*g).clamp(0, 1)
# %% wrong: mode
def fgsm(model, x, y, eps, norm='linf'):
    model.eval()
    x = x.detach().clone().requires_grad_()
    g, = torch.autograd.grad(F.cross_entropy(model(x), y), x)
    g = g.sign() if norm == 'linf' else g/g.flatten(1).norm(dim=1).clamp(min=1e-20).view(-1, 1, 1, 1)
    return (x + eps*g).clamp(0, 1)
# %% wrong: mode (train at the end, always)
def fgsm(model, x, y, eps, norm='linf'):
    model.eval()
    x = x.detach().clone().requires_grad_()
    g, = torch.autograd.grad(F.cross_entropy(model(x), y), x)
    model.train()
    g = g.sign() if norm == 'linf' else g/g.flatten(1).norm(dim=1).clamp(min=1e-20).view(-1, 1, 1, 1)
    return (x + eps*g).clamp(0, 1)
# %% wrong: traces (backward adds to the gradients of the parameters)
def fgsm(model, x, y, eps, norm='linf'):
    was = model.training
    model.eval()
    x = x.detach().clone().requires_grad_()
    F.cross_entropy(model(x), y).backward()
    model.train(was)
    g = x.grad.sign() if norm == 'linf' else x.grad/x.grad.flatten(1).norm(dim=1).clamp(min=1e-20).view(-1, 1, 1, 1)
    return (x + eps*g).detach().clamp(0, 1)
# %% wrong: traces (zero_grad)
def fgsm(model, x, y, eps, norm='linf'):
    model.zero_grad()
    was = model.training
    model.eval()
    x = x.detach().clone().requires_grad_()
    F.cross_entropy(model(x), y).backward()
    model.train(was)
    model.zero_grad()
    g = x.grad.sign() if norm == 'linf' else x.grad/x.grad.flatten(1).norm(dim=1).clamp(min=1e-20).view(-1, 1, 1, 1)
    return (x + eps*g).detach().clamp(0, 1)
# %% wrong: traces (requires_grad is switched off)
def fgsm(model, x, y, eps, norm='linf'):
    was = model.training
    model.eval().requires_grad_(False)
    x = x.detach().clone().requires_grad_()
    g, = torch.autograd.grad(F.cross_entropy(model(x), y), x)
    model.train(was)
    g = g.sign() if norm == 'linf' else g/g.flatten(1).norm(dim=1).clamp(min=1e-20).view(-1, 1, 1, 1)
    return (x + eps*g).clamp(0, 1)
# %% wrong: not finite (where the gradient is 0, in a hidden case)
def fgsm(model, x, y, eps, norm='linf'):
    was = model.training
    model.eval()
    x = x.detach().clone().requires_grad_()
    g, = torch.autograd.grad(F.cross_entropy(model(x), y), x)
    model.train(was)
    return (x + eps*(g.sign() if norm == 'linf' else g/g.flatten(1).norm(dim=1).view(-1, 1, 1, 1))).clamp(0, 1)
# %% wrong: too long
def fgsm(model, x, y, eps, norm='linf'):
    while True: model(x)
# %% wrong: raises
def fgsm(model, x, y, eps, norm='linf'):
    F.cross_entropy(model(x), y).backward()
    return x + eps*x.grad.sign()
