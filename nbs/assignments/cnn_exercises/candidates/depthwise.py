# %% right: two terms
def depthwise(k, c, o): return 1/o + 1/k**2
# %% right: counted for one pixel
def depthwise(k, c, o):
    full = c*o*k*k
    return (c*k*k + c*o)/full
# %% right: counted by torch's weights
def depthwise(k, c, o):
    conv = lambda *a, **kw: torch.nn.Conv2d(*a, bias=False, device='meta', **kw).weight.numel()
    return torch.tensor((conv(c, c, k, groups=c) + conv(c, o, 1))/conv(c, o, k), dtype=torch.float64)
# %% wrong: upside down
def depthwise(k, c, o): return c*o*k*k/(c*k*k + c*o)
# %% wrong: depthwise only
def depthwise(k, c, o): return c*k*k/(c*o*k*k)
# %% wrong: 1 x 1 only
def depthwise(k, c, o): return 1/k**2
# %% wrong: channels
def depthwise(k, c, o): return 1/c + 1/k**2
# %% wrong: one axis
def depthwise(k, c, o): return 1/o + 1/k
# %% wrong: wrong (operations, not products)
def depthwise(k, c, o): return 2/o + 2/k**2
