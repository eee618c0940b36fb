# %% right: the formula
def winograd(m, r): return (m*r/(m + r - 1))**2
# %% right: counted
def winograd(m, r):
    direct = sum(r*r for _ in range(m) for _ in range(m))
    tile = np.zeros((m + r - 1, m + r - 1))
    return direct/tile.size
# %% right: with the tile of torch
def winograd(m, r):
    tile = torch.nn.functional.conv_transpose2d(torch.ones(1, 1, m, m), torch.ones(1, 1, r, r))
    return torch.tensor(m*m*r*r)/tile.numel()
# %% wrong: upside down
def winograd(m, r): return ((m + r - 1)/(m*r))**2
# %% wrong: one axis
def winograd(m, r): return m*r/(m + r - 1)
# %% wrong: tile
def winograd(m, r): return (m*r/(m + r))**2
# %% wrong: per output
def winograd(m, r): return r*r
# %% wrong: outputs
def winograd(m, r): return m*m*r*r/(r*r)
# %% wrong: too long
def winograd(m, r):
    while True: m = m + r
