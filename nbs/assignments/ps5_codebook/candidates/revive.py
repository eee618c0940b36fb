# %% right: with a list of living codes
def revive(z, book, sizes, least):
    living = [e for e, n in zip(book, sizes) if n >= least]
    out = [e for e in book]
    for k, n in enumerate(sizes):
        if n >= least: continue
        gaps = [min(float(((v - e)**2).sum()) for e in living) for v in z]
        out[k] = z[int(np.argmax(gaps))]
        living.append(out[k])
    return np.array(out)
# %% right: in torch, with a warning
def revive(z, book, sizes, least):
    import warnings
    warnings.warn('slow')
    z, out = torch.as_tensor(z), torch.as_tensor(book).clone()
    on = torch.as_tensor(sizes) >= least
    for k in torch.nonzero(~on).flatten().tolist():
        far = torch.cdist(z, out[on]).amin(1)
        out[k] = z[far.argmax()]
        on[k] = True
    return out
# %% wrong: at once
def revive(z, book, sizes, least):
    out, idle = book.copy(), np.flatnonzero(sizes < least)
    far = ((z[:, None] - book[sizes >= least])**2).sum(2).min(1)
    out[idle] = z[np.argsort(-far)[:len(idle)]]
    return out
# %% wrong: nearest
def revive(z, book, sizes, least):
    out, idle, left = book.copy(), np.flatnonzero(sizes < least), list(range(len(z)))
    living = list(book[sizes >= least])
    for k in idle:
        gaps = [min(((z[j] - e)**2).sum() for e in living) for j in left]
        out[k] = z[left.pop(int(np.argmin(gaps)))]
        living.append(out[k])
    return out
# %% wrong: idle ones count
def revive(z, book, sizes, least):
    out = book.copy()
    living = list(book)
    for k in np.flatnonzero(sizes < least):
        gaps = [min(((v - e)**2).sum() for e in living) for v in z]
        out[k] = z[int(np.argmax(gaps))]
        living.append(out[k])
    return out
# %% wrong: any vector
def revive(z, book, sizes, least):
    out, idle = book.copy(), sizes < least
    out[idle] = z[:idle.sum()]
    return out
# %% wrong: nothing moved
def revive(z, book, sizes, least):
    return book.copy()
# %% wrong: living ones moved
def revive(z, book, sizes, least):
    out = book.copy()
    for k in np.flatnonzero(sizes >= least): out[k] = z[k % len(z)] + .1
    return out
# %% wrong: raises
def revive(z, book, sizes, least):
    return book[sizes]
# %% wrong: not done
def revive(z, book, sizes, least): raise NotDone
