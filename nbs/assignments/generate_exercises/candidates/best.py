# %% right: quantile
def best(values, q): return np.quantile(values, q)
# %% right: sorted
def best(values, q):
    v = sorted(values)
    return v[int(q*len(v))]
# %% right: grid
def best(values, q):
    c = np.linspace(min(values), max(values), 3000)
    d = np.asarray(values)[None] - c[:, None]
    return c[np.maximum(q*d, (q - 1)*d).mean(1).argmin()]
# %% wrong: median
def best(values, q): return np.median(values)
# %% wrong: mean
def best(values, q): return np.mean(values)
# %% wrong: other side
def best(values, q): return np.quantile(values, 1 - q)
# %% wrong: cost
def best(values, q):
    d = np.asarray(values) - np.quantile(values, q)
    return np.maximum(q*d, (q - 1)*d).mean()
# %% wrong: range
def best(values, q): return np.min(values) + q*(np.max(values) - np.min(values))
# %% wrong: sign
def best(values, q): return -np.quantile(values, q)
