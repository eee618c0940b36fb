# %% right: a quarter each
def most_left(n): return .25**n
# %% right: by the slope at 0
def most_left(n):
    s = 1/(1 + np.exp(0.))
    return np.prod([s*(1 - s)]*n)
# %% right: searched on a grid, as a tensor
def most_left(n):
    x = torch.linspace(-3, 3, 601, dtype=torch.float64, requires_grad=True)
    torch.sigmoid(x).sum().backward()
    return x.grad.max()**n
# %% wrong: value
def most_left(n): return .5**n
# %% wrong: sum
def most_left(n): return n/4
# %% wrong: one layer
def most_left(n): return .25
# %% wrong: not the steepest
def most_left(n):
    s = 1/(1 + np.exp(-1.))
    return (s*(1 - s))**n
# %% wrong: upside down
def most_left(n): return 4**n
# %% wrong: no value
def most_left(n): return lambda: .25**n
