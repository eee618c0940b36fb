# %% right: the product
def period(strides): return int(np.prod(strides))
# %% right: a loop
def period(strides):
    n = 1
    for s in strides: n *= s
    return n
# %% right: tried on a ramp, layer by layer
def period(strides):
    grid = torch.arange(1000)
    for s in strides: grid = grid[::s]
    return grid[1] - grid[0]
# %% wrong: sum
def period(strides): return sum(strides)
# %% wrong: one layer
def period(strides): return max(strides)
# %% wrong: halving
def period(strides): return 2**len(strides)
# %% wrong: too fine
def period(strides): return 1
# %% wrong: too coarse
def period(strides): return 2*np.prod(strides)
# %% wrong: sum (with all the rest)
def period(strides): return np.sum(strides)
