# %% right: one or two
def products(n, c, o, k, side, need_dx): return (1 + need_dx)*n*c*o*k*k*side**2
# %% right: as matrices
def products(n, c, o, k, side, need_dx):
    rows, cols, places = o, c*k**2, n*side**2
    total = rows*cols*places
    if need_dx: total += cols*rows*places
    return total
# %% right: torch counts
def products(n, c, o, k, side, need_dx):
    from torch.utils.flop_counter import FlopCounterMode
    x = torch.zeros(n, c, side, side, requires_grad=need_dx)
    y = torch.nn.Conv2d(c, o, k, padding=k//2)(x).sum()
    with FlopCounterMode(display=False) as counter: y.backward()
    return counter.get_total_flops()/2
# %% wrong: dx counted
def products(n, c, o, k, side, need_dx): return 2*n*c*o*k*k*side**2
# %% wrong: one product
def products(n, c, o, k, side, need_dx): return n*c*o*k*k*side**2
# %% wrong: additions
def products(n, c, o, k, side, need_dx): return 2*(1 + need_dx)*n*c*o*k*k*side**2
# %% wrong: forward
def products(n, c, o, k, side, need_dx): return (2 + need_dx)*n*c*o*k*k*side**2
# %% wrong: one axis
def products(n, c, o, k, side, need_dx): return (1 + need_dx)*n*c*o*k*side**2
# %% wrong: one image
def products(n, c, o, k, side, need_dx): return (1 + need_dx)*c*o*k*k*side**2
