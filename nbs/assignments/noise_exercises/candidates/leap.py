# %% right: shares of the variance
def leap(a_s, a_t): return (a_t/a_s)**.5, (1 - a_t/a_s)**.5
# %% right: what is missing to the noise at t
def leap(a_s, a_t):
    factor = np.sqrt(a_t/a_s)
    return [factor, np.sqrt((1 - a_t) - factor**2*(1 - a_s))]
# %% right: as a tensor
def leap(a_s, a_t):
    a = torch.tensor(a_t/a_s, dtype=torch.float64)
    return torch.stack([a, 1 - a]).sqrt()
# %% wrong: from clean
def leap(a_s, a_t): return a_t**.5, (1 - a_t)**.5
# %% wrong: variance
def leap(a_s, a_t): return (a_t/a_s)**.5, 1 - a_t/a_s
# %% wrong: no root
def leap(a_s, a_t): return a_t/a_s, (1 - a_t/a_s)**.5
# %% wrong: difference
def leap(a_s, a_t): return (a_t/a_s)**.5, (a_s - a_t)**.5
# %% wrong: sign
def leap(a_s, a_t): return -(a_t/a_s)**.5, -(1 - a_t/a_s)**.5
# %% wrong: shape (one number)
def leap(a_s, a_t): return (a_t/a_s)**.5
# %% wrong: raises
def leap(a_s, a_t): return sqrt(a_t/a_s)
