# %% right: with var and broadcasting
def group_norm(x, gamma, beta, groups, eps=1e-5):
    g = x.reshape(x.shape[0], groups, x.shape[1]//groups, *x.shape[2:])
    g = (g - g.mean((2, 3, 4), keepdims=True))/np.sqrt(g.var((2, 3, 4), keepdims=True) + eps)
    return g.reshape(x.shape)*gamma[:, None, None] + beta[:, None, None]
# %% right: loops
def group_norm(x, gamma, beta, groups, eps=1e-5):
    y, k = np.zeros(x.shape), x.shape[1]//groups
    for n in range(len(x)):
        for g in range(groups):
            part = x[n, g*k:(g + 1)*k]
            y[n, g*k:(g + 1)*k] = (part - part.mean())/(part.var() + eps)**.5
    return np.einsum('nchw,c->nchw', y, gamma) + beta.reshape(1, -1, 1, 1)
# %% wrong: no scale
def group_norm(x, gamma, beta, groups, eps=1e-5):
    p = x.reshape(len(x), groups, -1)
    return ((p - p.mean(2, keepdims=True))/np.sqrt(p.var(2, keepdims=True) + eps)).reshape(x.shape)
# %% wrong: unbiased
def group_norm(x, gamma, beta, groups, eps=1e-5):
    p = x.reshape(len(x), groups, -1)
    p = (p - p.mean(2, keepdims=True))/np.sqrt(p.var(2, ddof=1, keepdims=True) + eps)
    return p.reshape(x.shape)*gamma.reshape(-1, 1, 1) + beta.reshape(-1, 1, 1)
# %% wrong: axes (batch normalization)
def group_norm(x, gamma, beta, groups, eps=1e-5):
    p = (x - x.mean((0, 2, 3), keepdims=True))/np.sqrt(x.var((0, 2, 3), keepdims=True) + eps)
    return p*gamma.reshape(-1, 1, 1) + beta.reshape(-1, 1, 1)
# %% wrong: axes (every group_th channel is taken together)
def group_norm(x, gamma, beta, groups, eps=1e-5):
    n, c, h, w = x.shape
    p = x.reshape(n, c//groups, groups, h, w)
    p = (p - p.mean((1, 3, 4), keepdims=True))/np.sqrt(p.var((1, 3, 4), keepdims=True) + eps)
    return p.reshape(x.shape)*gamma.reshape(-1, 1, 1) + beta.reshape(-1, 1, 1)
# %% wrong: axes (the groups are never used)
def group_norm(x, gamma, beta, groups, eps=1e-5):
    p = x.reshape(len(x), 1, -1)
    p = (p - p.mean(2, keepdims=True))/np.sqrt(p.var(2, keepdims=True) + eps)
    return p.reshape(x.shape)*gamma.reshape(-1, 1, 1) + beta.reshape(-1, 1, 1)
# %% wrong: shape
def group_norm(x, gamma, beta, groups, eps=1e-5):
    p = x.reshape(len(x), groups, -1)
    return (p - p.mean(2, keepdims=True))/np.sqrt(p.var(2, keepdims=True) + eps)
# %% wrong: raises
def group_norm(x, gamma, beta, groups, eps=1e-5):
    p = x.reshape(len(x), groups, -1)
    return (p - p.mean(2))/np.sqrt(p.var(2) + eps)
# %% wrong: not done
def group_norm(x, gamma, beta, groups, eps=1e-5):
    raise NotDone
