# %% right: torch's cross entropy on arrays
def nt_xent(z1, z2, temperature):
    v = F.normalize(torch.from_numpy(np.vstack([z1, z2])), dim=1)
    scores = v @ v.T/temperature - 1e9*torch.eye(len(v), dtype=v.dtype)
    return F.cross_entropy(scores, torch.arange(len(v)).roll(len(z1)))
# %% right: loops, with logaddexp
def nt_xent(z1, z2, temperature):
    views = [z/np.sqrt(np.sum(z*z)) for z in (*z1, *z2)]
    losses = []
    for i, u in enumerate(views):
        others = [float(u @ w)/temperature for k, w in enumerate(views) if k != i]
        own = float(u @ views[(i + len(z1)) % len(views)])/temperature
        losses.append(np.logaddexp.reduce(others) - own)
    return sum(losses)/len(losses)
# %% right: by log1p of the differences to the partner, in float64
def nt_xent(z1, z2, temperature):
    v = np.concatenate([z1, z2]).astype(float)
    v /= np.linalg.norm(v, axis=1, keepdims=True)
    s, i = v @ v.T/temperature, np.arange(len(v))
    gap = s - s[i, (i + len(z1)) % len(v)][:, None]
    gap[i, i] = -np.inf
    return np.mean(np.logaddexp.reduce(gap, axis=1))
# %% wrong: overflow (the exponential as it stands)
def nt_xent(z1, z2, temperature):
    v, n = np.concatenate([z1, z2]), len(z1)
    e = np.exp(similarity(v, v, temperature))*(1 - np.eye(2*n, dtype=v.dtype))
    i = np.arange(2*n)
    return -np.log(e[i, (i + n) % (2*n)]/e.sum(1)).mean()
# %% wrong: overflow (the softmax is stable, its logarithm is not)
def nt_xent(z1, z2, temperature):
    v, n = np.concatenate([z1, z2]), len(z1)
    s = similarity(v, v, temperature)
    np.fill_diagonal(s, -np.inf)
    e = np.exp(s - s.max(1, keepdims=True))
    i = np.arange(2*n)
    return -np.log((e/e.sum(1, keepdims=True))[i, (i + n) % (2*n)]).mean()
# %% wrong: clamped (a small number under the logarithm)
def nt_xent(z1, z2, temperature):
    v, n = np.concatenate([z1, z2]), len(z1)
    s = similarity(v, v, temperature)
    np.fill_diagonal(s, -np.inf)
    e = np.exp(s - s.max(1, keepdims=True))
    i = np.arange(2*n)
    return -np.log((e/e.sum(1, keepdims=True))[i, (i + n) % (2*n)] + 1e-8).mean()
# %% wrong: diagonal
def nt_xent(z1, z2, temperature):
    v, n = np.concatenate([z1, z2]), len(z1)
    s, i = similarity(v, v, temperature), np.arange(2*n)
    return (np.logaddexp.reduce(s, axis=1) - s[i, (i + n) % (2*n)]).mean()
# %% wrong: diagonal of zeros
def nt_xent(z1, z2, temperature):
    v, n = np.concatenate([z1, z2]), len(z1)
    s, i = similarity(v, v, temperature)*(1 - np.eye(2*n)), np.arange(2*n)
    return (np.logaddexp.reduce(s, axis=1) - s[i, (i + n) % (2*n)]).mean()
# %% wrong: not normalized
def nt_xent(z1, z2, temperature):
    v, n = np.concatenate([z1, z2]), len(z1)
    s, i = v @ v.T/temperature, np.arange(2*n)
    s[i, i] = -np.inf
    return (np.logaddexp.reduce(s, axis=1) - s[i, (i + n) % (2*n)]).mean()
# %% wrong: temperature (multiplied)
def nt_xent(z1, z2, temperature):
    v, n = np.concatenate([z1, z2]), len(z1)
    s, i = similarity(v, v, 1.)*temperature, np.arange(2*n)
    s[i, i] = -np.inf
    return (np.logaddexp.reduce(s, axis=1) - s[i, (i + n) % (2*n)]).mean()
# %% wrong: temperature (twice)
def nt_xent(z1, z2, temperature):
    v, n = np.concatenate([z1, z2]), len(z1)
    s, i = similarity(v, v, temperature)/temperature, np.arange(2*n)
    s[i, i] = -np.inf
    return (np.logaddexp.reduce(s, axis=1) - s[i, (i + n) % (2*n)]).mean()
# %% wrong: one direction
def nt_xent(z1, z2, temperature):
    v, n = np.concatenate([z1, z2]), len(z1)
    s, i = similarity(v, v, temperature), np.arange(2*n)
    s[i, i] = -np.inf
    return (np.logaddexp.reduce(s, axis=1) - s[i, (i + n) % (2*n)])[:n].mean()
# %% wrong: across (first views with second ones only)
def nt_xent(z1, z2, temperature):
    s = similarity(z1, z2, temperature)
    return (np.logaddexp.reduce(s, axis=1) - s.diagonal()).mean()
# %% wrong: across (both ways)
def nt_xent(z1, z2, temperature):
    s = similarity(z1, z2, temperature)
    return (np.logaddexp.reduce(s, axis=1) + np.logaddexp.reduce(s, axis=0) - 2*s.diagonal()).mean()/2
# %% wrong: partner left out
def nt_xent(z1, z2, temperature):
    v, n = np.concatenate([z1, z2]), len(z1)
    s, i = similarity(v, v, temperature), np.arange(2*n)
    s[i, i], own = -np.inf, s[i, (i + n) % (2*n)]
    s[i, (i + n) % (2*n)] = -np.inf
    return (np.logaddexp.reduce(s, axis=1) - own).mean()
# %% wrong: partners (the next row)
def nt_xent(z1, z2, temperature):
    v, n = np.concatenate([z1, z2]), len(z1)
    s, i = similarity(v, v, temperature), np.arange(2*n)
    s[i, i] = -np.inf
    return (np.logaddexp.reduce(s, axis=1) - s[i, (i + 1) % (2*n)]).mean()
# %% wrong: partners (as if the views took turns)
def nt_xent(z1, z2, temperature):
    v, n = np.concatenate([z1, z2]), len(z1)
    s, i = similarity(v, v, temperature), np.arange(2*n)
    s[i, i] = -np.inf
    return (np.logaddexp.reduce(s, axis=1) - s[i, i ^ 1]).mean()
# %% wrong: partners (each view is its own)
def nt_xent(z1, z2, temperature):
    v = np.concatenate([z1, z2])
    s = similarity(v, v, temperature)
    return (np.logaddexp.reduce(s, axis=1) - s.diagonal()).mean()
# %% wrong: sum
def nt_xent(z1, z2, temperature):
    v, n = np.concatenate([z1, z2]), len(z1)
    s, i = similarity(v, v, temperature), np.arange(2*n)
    s[i, i] = -np.inf
    return (np.logaddexp.reduce(s, axis=1) - s[i, (i + n) % (2*n)]).sum()
# %% wrong: sum (divided by the images)
def nt_xent(z1, z2, temperature):
    v, n = np.concatenate([z1, z2]), len(z1)
    s, i = similarity(v, v, temperature), np.arange(2*n)
    s[i, i] = -np.inf
    return (np.logaddexp.reduce(s, axis=1) - s[i, (i + n) % (2*n)]).sum()/n
# %% wrong: sum (a loss for each view)
def nt_xent(z1, z2, temperature):
    v, n = np.concatenate([z1, z2]), len(z1)
    s, i = similarity(v, v, temperature), np.arange(2*n)
    s[i, i] = -np.inf
    return np.logaddexp.reduce(s, axis=1) - s[i, (i + n) % (2*n)]
# %% wrong: base
def nt_xent(z1, z2, temperature):
    v, n = np.concatenate([z1, z2]), len(z1)
    s, i = similarity(v, v, temperature), np.arange(2*n)
    s[i, i] = -np.inf
    return (np.logaddexp.reduce(s, axis=1) - s[i, (i + n) % (2*n)]).mean()/np.log(2)
# %% wrong: sign
def nt_xent(z1, z2, temperature):
    v, n = np.concatenate([z1, z2]), len(z1)
    s, i = similarity(v, v, temperature), np.arange(2*n)
    s[i, i] = -np.inf
    return (s[i, (i + n) % (2*n)] - np.logaddexp.reduce(s, axis=1)).mean()
# %% wrong: raises
def nt_xent(z1, z2, temperature):
    s = similarity(z1, z2, temperature)
    return F.cross_entropy(s, np.arange(len(z1)))
# %% wrong: too long
def nt_xent(z1, z2, temperature):
    while True: temperature = temperature/2
# %% wrong: not done
def nt_xent(z1, z2, temperature): raise NotDone
