# %% right: variances add
def spread(d, s): return np.sqrt(d)*s**2
# %% right: by the variance
def spread(d, s):
    one = s**2*s**2
    return (d*one)**.5
# %% right: sampled
def spread(d, s):
    rng = np.random.default_rng(1)
    return ((s*rng.standard_normal((20000, d)))*(s*rng.standard_normal((20000, d)))).sum(1).std()
# %% wrong: variance
def spread(d, s): return d*s**4
# %% wrong: deviations
def spread(d, s): return d*s**2
# %% wrong: one factor
def spread(d, s): return np.sqrt(d)*s
# %% wrong: divided
def spread(d, s): return s**2
# %% wrong: no deviation
def spread(d, s): return d**.5
# %% wrong: negative
def spread(d, s): return -np.sqrt(d)*s**2
