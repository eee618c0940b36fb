# %% right: everything by hand, with the margin as the loss
def unmask(defence, x, y, eps, alpha, steps):
    adv = (x + eps*(2*torch.rand_like(x) - 1)).clamp(0, 1)
    for _ in range(steps):
        v = adv.clone().requires_grad_()
        seen = v + (defence.transform(v) - v).detach()
        z = defence.net(seen)
        own = z.gather(1, y[:, None])[:, 0]
        other = z.scatter(1, y[:, None], -1e9).amax(1)
        g, = torch.autograd.grad((other - own).sum(), v)
        adv = torch.minimum(torch.maximum(adv + alpha*g.sign(), x - eps), x + eps).clamp(0, 1)
    return adv
# %% right: logits of the whole defence, divided by its scale
def unmask(defence, x, y, eps, alpha, steps):
    class Rescaled(torch.nn.Module):
        def forward(self, v):
            seen = straight_through(defence.transform, v)
            return defence.scale*defence.net(seen)/defence.scale
    return pgd(Rescaled(), x, y, eps, alpha, steps, 'linf')
# %% right: the network without its defence is attacked, and the best of three is kept
def unmask(defence, x, y, eps, alpha, steps):
    best = x.clone()
    class Open(torch.nn.Module):
        def forward(self, v): return defence.net(straight_through(lambda u: quantise(u, defence.levels), v))
    for model in (Open(), defence.net, Open()):
        adv = pgd(model, x, y, eps, alpha, steps)
        with torch.no_grad(): fell = defence(adv).argmax(1) != y
        best[fell] = adv[fell]
    return best
# %% wrong: rounding (plain PGD)
def unmask(defence, x, y, eps, alpha, steps):
    return pgd(defence, x, y, eps, alpha, steps)
# %% wrong: rounding (the scale alone is taken away)
def unmask(defence, x, y, eps, alpha, steps):
    class Open(torch.nn.Module):
        def forward(self, v): return defence(v)/defence.scale
    return pgd(Open(), x, y, eps, alpha, steps)
# %% wrong: saturated
def unmask(defence, x, y, eps, alpha, steps):
    class Open(torch.nn.Module):
        def forward(self, v): return defence.scale*defence.net(straight_through(defence.transform, v))
    return pgd(Open(), x, y, eps, alpha, steps)
# %% wrong: weak (half of the radius)
def unmask(defence, x, y, eps, alpha, steps):
    class Open(torch.nn.Module):
        def forward(self, v): return defence.net(straight_through(defence.transform, v))
    return pgd(Open(), x, y, .75*eps, alpha, steps)
# %% wrong: rounding (random noise)
def unmask(defence, x, y, eps, alpha, steps):
    return (x + eps*torch.randn_like(x).sign()).clamp(0, 1)
# %% wrong: rounding (goes down)
def unmask(defence, x, y, eps, alpha, steps):
    class Open(torch.nn.Module):
        def forward(self, v): return -defence.net(straight_through(defence.transform, v))
    return pgd(Open(), x, y, eps, alpha, steps)
# %% wrong: ball
def unmask(defence, x, y, eps, alpha, steps):
    class Open(torch.nn.Module):
        def forward(self, v): return defence.net(straight_through(defence.transform, v))
    return defence.transform(pgd(Open(), x, y, eps, alpha, steps))
# %% wrong: ball (far too large)
def unmask(defence, x, y, eps, alpha, steps):
    return pgd(defence.net, x, y, 2*eps, alpha, steps)
# %% wrong: box
def unmask(defence, x, y, eps, alpha, steps):
    class Open(torch.nn.Module):
        def forward(self, v): return defence.net(straight_through(defence.transform, v))
    adv = pgd(Open(), x, y, eps, alpha, steps)
    return x + eps*(adv - x).sign()
# %% wrong: shape
def unmask(defence, x, y, eps, alpha, steps):
    with torch.no_grad(): return defence(x)
# %% wrong: not done
def unmask(defence, x, y, eps, alpha, steps):
    raise NotDone
