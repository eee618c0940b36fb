# %% right: slope times way
def brighter(w, s): return w*s
# %% right: two maps
def brighter(w, s):
    x = np.random.default_rng(0).uniform(size=w.shape)
    return w*(x + s) - w*x
# %% right: torch
def brighter(w, s): return torch.from_numpy(w).mul(s)
# %% wrong: nothing
def brighter(w, s): return 0*w
# %% wrong: no weights
def brighter(w, s): return np.full(w.shape, s)
# %% wrong: no weights (a number)
def brighter(w, s): return s
# %% wrong: added up
def brighter(w, s): return s*w.sum()
# %% wrong: other way
def brighter(w, s): return -s*w
# %% wrong: no shift
def brighter(w, s): return w
