# %% right: the formula of one line
def group_norm_backward(dy, x, gamma, groups, eps=1e-5):
    s = x.shape
    p, d = x.reshape(s[0], groups, -1), (dy*gamma[:, None, None]).reshape(s[0], groups, -1)
    m = p.shape[2]
    std = np.sqrt(p.var(2, keepdims=True) + eps)
    u = (p - p.mean(2, keepdims=True))/std
    dx = (m*d - d.sum(2, keepdims=True) - u*(d*u).sum(2, keepdims=True))/(m*std)
    return dx.reshape(s), np.einsum('nchw,nchw->c', dy, u.reshape(s)), dy.sum(axis=(0, 2, 3))
# %% right: the three paths one by one
def group_norm_backward(dy, x, gamma, groups, eps=1e-5):
    dx, dgamma = np.zeros(x.shape), np.zeros(x.shape[1])
    k = x.shape[1]//groups
    for n in range(len(x)):
        for g in range(groups):
            c = slice(g*k, (g + 1)*k)
            p, d = x[n, c], dy[n, c]*gamma[c][:, None, None]
            mu, var, m = p.mean(), p.var(), p.size
            dvar = (d*(p - mu)*-.5*(var + eps)**-1.5).sum()
            dmu = -(d/np.sqrt(var + eps)).sum() - 2*dvar*(p - mu).mean()
            dx[n, c] = d/np.sqrt(var + eps) + dvar*2*(p - mu)/m + dmu/m
            dgamma[c] += (dy[n, c]*(p - mu)/np.sqrt(var + eps)).sum((1, 2))
    return [dx, dgamma, dy.sum((0, 2, 3))]
# %% wrong: statistics (mean and variance are taken as constants)
def group_norm_backward(dy, x, gamma, groups, eps=1e-5):
    p = x.reshape(len(x), groups, -1)
    std = np.sqrt(p.var(2, keepdims=True) + eps)
    u = ((p - p.mean(2, keepdims=True))/std).reshape(x.shape)
    dx = ((dy*gamma.reshape(-1, 1, 1)).reshape(p.shape)/std).reshape(x.shape)
    return dx, (dy*u).sum((0, 2, 3)), dy.sum((0, 2, 3))
# %% wrong: statistics (the variance is taken as a constant)
def group_norm_backward(dy, x, gamma, groups, eps=1e-5):
    p = x.reshape(len(x), groups, -1)
    std = np.sqrt(p.var(2, keepdims=True) + eps)
    u = ((p - p.mean(2, keepdims=True))/std).reshape(x.shape)
    d = (dy*gamma.reshape(-1, 1, 1)).reshape(p.shape)
    dx = ((d - d.mean(2, keepdims=True))/std).reshape(x.shape)
    return dx, (dy*u).sum((0, 2, 3)), dy.sum((0, 2, 3))
# %% wrong: statistics (gamma is left out of dx)
def group_norm_backward(dy, x, gamma, groups, eps=1e-5):
    p = x.reshape(len(x), groups, -1)
    std = np.sqrt(p.var(2, keepdims=True) + eps)
    u, d = (p - p.mean(2, keepdims=True))/std, dy.reshape(p.shape)
    dx = (d - d.mean(2, keepdims=True) - u*(d*u).mean(2, keepdims=True))/std
    return dx.reshape(x.shape), (dy*u.reshape(x.shape)).sum((0, 2, 3)), dy.sum((0, 2, 3))
# %% wrong: dgamma
def group_norm_backward(dy, x, gamma, groups, eps=1e-5):
    p = x.reshape(len(x), groups, -1)
    std = np.sqrt(p.var(2, keepdims=True) + eps)
    u, d = (p - p.mean(2, keepdims=True))/std, (dy*gamma.reshape(-1, 1, 1)).reshape(p.shape)
    dx = (d - d.mean(2, keepdims=True) - u*(d*u).mean(2, keepdims=True))/std
    return dx.reshape(x.shape), (dy*x).sum((0, 2, 3)), dy.sum((0, 2, 3))
# %% wrong: dbeta
def group_norm_backward(dy, x, gamma, groups, eps=1e-5):
    p = x.reshape(len(x), groups, -1)
    std = np.sqrt(p.var(2, keepdims=True) + eps)
    u, d = (p - p.mean(2, keepdims=True))/std, (dy*gamma.reshape(-1, 1, 1)).reshape(p.shape)
    dx = (d - d.mean(2, keepdims=True) - u*(d*u).mean(2, keepdims=True))/std
    return dx.reshape(x.shape), (dy*u.reshape(x.shape)).sum((0, 2, 3)), dy.mean((0, 2, 3))
# %% wrong: order
def group_norm_backward(dy, x, gamma, groups, eps=1e-5):
    p = x.reshape(len(x), groups, -1)
    std = np.sqrt(p.var(2, keepdims=True) + eps)
    u, d = (p - p.mean(2, keepdims=True))/std, (dy*gamma.reshape(-1, 1, 1)).reshape(p.shape)
    dx = (d - d.mean(2, keepdims=True) - u*(d*u).mean(2, keepdims=True))/std
    return (dy*u.reshape(x.shape)).sum((0, 2, 3)), dy.sum((0, 2, 3)), dx.reshape(x.shape)
# %% wrong: not done
def group_norm_backward(dy, x, gamma, groups, eps=1e-5): raise NotDone
