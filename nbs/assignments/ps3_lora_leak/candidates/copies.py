# %% right: by matrices
def near_copies(test, train, like=.95):
    a, b = (np.asarray(x, float).reshape(len(x), x.shape[1]*x.shape[2]) for x in (test, train))
    a, b = (x - x.mean(1, keepdims=True) for x in (a, b))
    na, nb = (np.sqrt((x*x).sum(1)) for x in (a, b))
    r = (a @ b.T)/np.maximum(np.outer(na, nb), 1e-9)
    return np.flatnonzero((r > like).any(1))
# %% right: pair by pair, with warnings
def near_copies(test, train, like=.95):
    found = []
    for i, a in enumerate(test):
        for b in train:
            if np.corrcoef(a.ravel(), b.ravel())[0, 1] > like:
                found.append(i)
                break
    return found
# %% right: by distance of standardized images, in torch
def near_copies(test, train, like=.95):
    if not len(test): return torch.zeros(0, dtype=torch.int64)
    def standard(x):
        x = torch.as_tensor(np.asarray(x)).double().flatten(1)
        return (x - x.mean(1, keepdim=True))/x.std(1, keepdim=True).clamp_min(1e-6)
    p = test[0].size - 1
    d2 = torch.cdist(standard(test), standard(train))**2
    grey = torch.as_tensor([a.std() == 0 for a in test])
    return torch.nonzero(~grey & (1 - d2/(2*p) > like).any(1)).flatten()
# %% wrong: exact
def near_copies(test, train, like=.95):
    a, b = (np.asarray(x, float).reshape(len(x), x.shape[1]*x.shape[2]) for x in (test, train))
    a, b = (x - x.mean(1, keepdims=True) for x in (a, b))
    na, nb = (np.sqrt((x*x).sum(1)) for x in (a, b))
    r = (a @ b.T)/np.maximum(np.outer(na, nb), 1e-9)
    return [i for i, x in enumerate(test) if any((x == y).all() for y in train)]
# %% wrong: exact (by their bytes)
def near_copies(test, train, like=.95):
    seen = {x.tobytes() for x in train}
    return [i for i, x in enumerate(test) if x.tobytes() in seen]
# %% wrong: brightness (distance of the pixels)
def near_copies(test, train, like=.95):
    a, b = (np.asarray(x, float).reshape(len(x), x.shape[1]*x.shape[2]) for x in (test, train))
    s = 255 if a.max(initial=0) > 1 else 1
    na, nb = (np.sqrt((x*x).sum(1)) for x in (a, b))
    r = (a @ b.T)/np.maximum(np.outer(na, nb), 1e-9)
    return [i for i in range(len(a)) if (np.abs(a[i] - b).mean(1) < .03*s).any()]
# %% wrong: brightness (only the mean is taken away)
def near_copies(test, train, like=.95):
    a, b = (np.asarray(x, float).reshape(len(x), x.shape[1]*x.shape[2]) for x in (test, train))
    s = 255 if a.max(initial=0) > 1 else 1
    a, b = (x - x.mean(1, keepdims=True) for x in (a, b))
    na, nb = (np.sqrt((x*x).sum(1)) for x in (a, b))
    r = (a @ b.T)/np.maximum(np.outer(na, nb), 1e-9)
    return [i for i in range(len(a)) if (np.abs(a[i] - b).mean(1) < .015*s).any()]
# %% wrong: everything (the set with itself)
def near_copies(test, train, like=.95):
    a, b = (np.asarray(x, float).reshape(len(x), x.shape[1]*x.shape[2]) for x in (test, test))
    a, b = (x - x.mean(1, keepdims=True) for x in (a, b))
    na, nb = (np.sqrt((x*x).sum(1)) for x in (a, b))
    r = (a @ b.T)/np.maximum(np.outer(na, nb), 1e-9)
    return np.flatnonzero((r > like).any(1))
# %% wrong: itself (the set with itself, without the diagonal)
def near_copies(test, train, like=.95):
    a, b = (np.asarray(x, float).reshape(len(x), x.shape[1]*x.shape[2]) for x in (test, test))
    a, b = (x - x.mean(1, keepdims=True) for x in (a, b))
    na, nb = (np.sqrt((x*x).sum(1)) for x in (a, b))
    r = (a @ b.T)/np.maximum(np.outer(na, nb), 1e-9)
    np.fill_diagonal(r, 0)
    return np.flatnonzero((r > like).any(1))
# %% wrong: everything (the mean counts)
def near_copies(test, train, like=.95):
    a, b = (np.asarray(x, float).reshape(len(x), x.shape[1]*x.shape[2]) for x in (test, train))
    na, nb = (np.sqrt((x*x).sum(1)) for x in (a, b))
    r = (a @ b.T)/np.maximum(np.outer(na, nb), 1e-9)
    return np.flatnonzero((r > like - .15).any(1))
# %% wrong: too many (the bound is low)
def near_copies(test, train, like=.95):
    a, b = (np.asarray(x, float).reshape(len(x), x.shape[1]*x.shape[2]) for x in (test, train))
    a, b = (x - x.mean(1, keepdims=True) for x in (a, b))
    na, nb = (np.sqrt((x*x).sum(1)) for x in (a, b))
    r = (a @ b.T)/np.maximum(np.outer(na, nb), 1e-9)
    return np.flatnonzero((r > .6).any(1))
# %% wrong: everything (the mean of all images)
def near_copies(test, train, like=.95):
    a, b = (np.asarray(x, float).reshape(len(x), x.shape[1]*x.shape[2]) for x in (test, train))
    na, nb = (np.sqrt((x*x).sum(1)) for x in (a, b))
    r = (a @ b.T)/np.maximum(np.outer(na, nb), 1e-9)
    return np.flatnonzero((r > .8).any(1))
# %% wrong: missed (the bound is high)
def near_copies(test, train, like=.95):
    a, b = (np.asarray(x, float).reshape(len(x), x.shape[1]*x.shape[2]) for x in (test, train))
    a, b = (x - x.mean(1, keepdims=True) for x in (a, b))
    na, nb = (np.sqrt((x*x).sum(1)) for x in (a, b))
    r = (a @ b.T)/np.maximum(np.outer(na, nb), 1e-9)
    return np.flatnonzero((r > .992).any(1))
# %% wrong: nothing (all must be alike)
def near_copies(test, train, like=.95):
    a, b = (np.asarray(x, float).reshape(len(x), x.shape[1]*x.shape[2]) for x in (test, train))
    a, b = (x - x.mean(1, keepdims=True) for x in (a, b))
    na, nb = (np.sqrt((x*x).sum(1)) for x in (a, b))
    r = (a @ b.T)/np.maximum(np.outer(na, nb), 1e-9)
    return np.flatnonzero((r > like).all(1))
# %% wrong: other side
def near_copies(test, train, like=.95):
    a, b = (np.asarray(x, float).reshape(len(x), x.shape[1]*x.shape[2]) for x in (test, train))
    a, b = (x - x.mean(1, keepdims=True) for x in (a, b))
    na, nb = (np.sqrt((x*x).sum(1)) for x in (a, b))
    r = (a @ b.T)/np.maximum(np.outer(na, nb), 1e-9)
    return np.flatnonzero((r > like).any(0))
# %% wrong: mask
def near_copies(test, train, like=.95):
    a, b = (np.asarray(x, float).reshape(len(x), x.shape[1]*x.shape[2]) for x in (test, train))
    a, b = (x - x.mean(1, keepdims=True) for x in (a, b))
    na, nb = (np.sqrt((x*x).sum(1)) for x in (a, b))
    r = (a @ b.T)/np.maximum(np.outer(na, nb), 1e-9)
    return (r > like).any(1)
# %% wrong: no indices (pairs)
def near_copies(test, train, like=.95):
    a, b = (np.asarray(x, float).reshape(len(x), x.shape[1]*x.shape[2]) for x in (test, train))
    a, b = (x - x.mean(1, keepdims=True) for x in (a, b))
    na, nb = (np.sqrt((x*x).sum(1)) for x in (a, b))
    r = (a @ b.T)/np.maximum(np.outer(na, nb), 1e-9)
    return np.argwhere(r > like)
# %% wrong: twice
def near_copies(test, train, like=.95):
    a, b = (np.asarray(x, float).reshape(len(x), x.shape[1]*x.shape[2]) for x in (test, train))
    a, b = (x - x.mean(1, keepdims=True) for x in (a, b))
    na, nb = (np.sqrt((x*x).sum(1)) for x in (a, b))
    r = (a @ b.T)/np.maximum(np.outer(na, nb), 1e-9)
    return np.repeat(np.flatnonzero((r > like).any(1)), 2)
# %% wrong: negative
def near_copies(test, train, like=.95):
    a, b = (np.asarray(x, float).reshape(len(x), x.shape[1]*x.shape[2]) for x in (test, train))
    a, b = (x - x.mean(1, keepdims=True) for x in (a, b))
    na, nb = (np.sqrt((x*x).sum(1)) for x in (a, b))
    r = (a @ b.T)/np.maximum(np.outer(na, nb), 1e-9)
    return np.flatnonzero((abs(r) > like).any(1))
# %% wrong: everything (what is no number counts as alike)
def near_copies(test, train, like=.95):
    a, b = (np.asarray(x, float).reshape(len(x), x.shape[1]*x.shape[2]) for x in (test, train))
    a, b = (x - x.mean(1, keepdims=True) for x in (a, b))
    na, nb = (np.sqrt((x*x).sum(1)) for x in (a, b))
    r = np.nan_to_num((a @ b.T)/np.outer(na, nb), nan=1.)
    return np.flatnonzero((r > like).any(1))
# %% wrong: flat (images of one grey are equal)
def near_copies(test, train, like=.95):
    a, b = (np.asarray(x, float).reshape(len(x), x.shape[1]*x.shape[2]) for x in (test, train))
    a, b = (x - x.mean(1, keepdims=True) for x in (a, b))
    na, nb = (np.sqrt((x*x).sum(1)) for x in (a, b))
    r = (a @ b.T)/np.maximum(np.outer(na, nb), 1e-9)
    return np.flatnonzero(((r > like) | (np.hypot.outer(na, nb) == 0)).any(1))
# %% wrong: raises (no test image)
def near_copies(test, train, like=.95):
    a, b = (np.asarray(x, float).reshape(len(x), x.shape[1]*x.shape[2]) for x in (test, train))
    a, b = (x - x.mean(1, keepdims=True) for x in (a, b))
    na, nb = (np.sqrt((x*x).sum(1)) for x in (a, b))
    r = (a @ b.T)/np.maximum(np.outer(na, nb), 1e-9)
    r.max()
    return np.flatnonzero((r > like).any(1))
# %% wrong: raises (square images alone)
def near_copies(test, train, like=.95):
    a, b = (np.asarray(x, float).reshape(len(x), x.shape[1]**2) for x in (test, train))
    a, b = (x - x.mean(1, keepdims=True) for x in (a, b))
    na, nb = (np.sqrt((x*x).sum(1)) for x in (a, b))
    r = (a @ b.T)/np.maximum(np.outer(na, nb), 1e-9)
    return np.flatnonzero((r > like).any(1))
# %% wrong: too many (like is the mean over the set)
def near_copies(test, train, like=.95):
    a, b = (np.asarray(x, float).reshape(len(x), x.shape[1]*x.shape[2]) for x in (test, train))
    a, b = (x - x.mean(1, keepdims=True) for x in (a, b))
    na, nb = (np.sqrt((x*x).sum(1)) for x in (a, b))
    r = (a @ b.T)/np.maximum(np.outer(na, nb), 1e-9)
    return np.flatnonzero((r > like*r.max(initial=0) - .2).any(1))
# %% wrong: no value (a generator)
def near_copies(test, train, like=.95):
    a, b = (np.asarray(x, float).reshape(len(x), x.shape[1]*x.shape[2]) for x in (test, train))
    a, b = (x - x.mean(1, keepdims=True) for x in (a, b))
    na, nb = (np.sqrt((x*x).sum(1)) for x in (a, b))
    r = (a @ b.T)/np.maximum(np.outer(na, nb), 1e-9)
    return (i for i in range(3))
# %% wrong: too long
def near_copies(test, train, like=.95):
    a, b = (np.asarray(x, float).reshape(len(x), x.shape[1]*x.shape[2]) for x in (test, train))
    a, b = (x - x.mean(1, keepdims=True) for x in (a, b))
    na, nb = (np.sqrt((x*x).sum(1)) for x in (a, b))
    r = (a @ b.T)/np.maximum(np.outer(na, nb), 1e-9)
    while True: pass
# %% wrong: ends the process
def near_copies(test, train, like=.95):
    a, b = (np.asarray(x, float).reshape(len(x), x.shape[1]*x.shape[2]) for x in (test, train))
    a, b = (x - x.mean(1, keepdims=True) for x in (a, b))
    na, nb = (np.sqrt((x*x).sum(1)) for x in (a, b))
    r = (a @ b.T)/np.maximum(np.outer(na, nb), 1e-9)
    import os
    os._exit(0)
# %% wrong: not done
def near_copies(test, train, like=.95): raise NotDone
# %% wrong: missing
def find_copies(test, train): return []
