# %% right: the formula
def stack(k):
    n = (k - 1)//2
    return n, 9*n/k**2
# %% right: grown layer by layer
def stack(k):
    seen, n = 3, 1
    while seen < k: seen, n = seen + 2, n + 1
    return [n, n*(3/k)**2]
# %% right: with weights that are there
def stack(k):
    n = round((k - 3)/2) + 1
    return n, n*torch.zeros(64, 64, 3, 3).numel()/np.zeros((64, 64, k, k)).size
# %% wrong: one too many
def stack(k):
    n = (k + 1)//2
    return n, 9*n/k**2
# %% wrong: one too many (too few, that is)
def stack(k): return (k - 3)//2, 9*(k - 3)/2/k**2
# %% wrong: thirds
def stack(k): return k/3, 9*(k/3)/k**2
# %% wrong: one layer
def stack(k): return (k - 1)//2, 9/k**2
# %% wrong: sides
def stack(k): return (k - 1)//2, 3*((k - 1)//2)/k
# %% wrong: upside down
def stack(k): return (k - 1)//2, k**2/(9*(k - 1)/2)
# %% wrong: wrong
def stack(k): return 1, 1
