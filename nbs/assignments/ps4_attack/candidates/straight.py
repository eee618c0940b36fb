# %% right: a function of autograd
class Through(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, f): return f(x.detach().clone())
    @staticmethod
    def backward(ctx, g): return g, None
def straight_through(f, x): return Through.apply(x, f)
# %% right: under no_grad, and the difference of x with itself
def straight_through(f, x):
    with torch.no_grad(): value = f(x)
    return value + x - x.detach()
# %% right: the data of a clone
def straight_through(f, x):
    value = f(x.detach())
    y = x.clone()
    y.data.copy_(value)
    return y
# %% wrong: no gradient
def straight_through(f, x):
    return f(x.detach())
# %% wrong: no gradient (detached at the end)
def straight_through(f, x):
    return (x + f(x) - x).detach()
# %% wrong: own gradient (right for rounding alone)
def straight_through(f, x):
    return f(x) + x - x.detach()
# %% wrong: own gradient
def straight_through(f, x):
    y = f(x)
    return y if y.grad_fn is not None and y.grad_fn.name() != 'RoundBackward0' else x + (y - x).detach()
# %% wrong: forward
def straight_through(f, x):
    return f(x).detach() + x - f(x).detach()
# %% wrong: value
def straight_through(f, x):
    return x + f(x).detach()
# %% wrong: gradient
def straight_through(f, x):
    return 2*x + (f(x) - 2*x).detach()
# %% wrong: gradient (its sign)
def straight_through(f, x):
    return (f(x) + x).detach() - x
# %% wrong: value (with the wrong sign)
def straight_through(f, x):
    return x - (f(x) + x).detach()
# %% wrong: in place
def straight_through(f, x):
    y = x.clone()
    x.data = f(x.data)
    return x + y - y.detach()
# %% wrong: not done
def straight_through(f, x):
    raise NotDone
