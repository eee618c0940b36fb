# %% right: the formula
def same(k, d): return d*(k - 1)//2
# %% right: half of what sticks out
def same(k, d):
    covered = d*(k - 1) + 1
    return (covered - 1)//2
# %% right: tried until torch agrees, as a float
def same(k, d):
    for p in range(100):
        if torch.nn.Conv1d(1, 1, k, padding=p, dilation=d)(torch.zeros(1, 1, 80)).shape[2] == 80: return float(p)
# %% wrong: no dilation
def same(k, d): return (k - 1)//2
# %% wrong: both sides
def same(k, d): return d*(k - 1)
# %% wrong: span
def same(k, d): return d*k//2
# %% wrong: whole
def same(k, d): return k/2
# %% wrong: size
def same(k, d): return k + d
# %% wrong: raises
def same(k, d): return d*(k - 1)//zwei
# %% wrong: not done
def same(k, d): raise NotDone
