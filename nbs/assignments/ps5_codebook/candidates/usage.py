# %% right: product of powers
def usage(batches, codes):
    p = np.bincount(np.concatenate(batches), minlength=codes)
    p = p/p.sum()
    return np.prod(p**-p)
# %% right: in torch
def usage(batches, codes):
    p = np.bincount(np.concatenate(batches), minlength=codes)
    p = p/p.sum()
    return torch.special.entr(torch.tensor(p)).sum().exp()
# %% wrong: mean of batches
def usage(batches, codes):
    out = []
    for b in batches:
        p = np.bincount(b)/len(b)
        out.append(np.prod(p**-p))
    return np.mean(out)
# %% wrong: log of 0
def usage(batches, codes):
    p = np.bincount(np.concatenate(batches), minlength=codes)
    p = p/p.sum()
    return np.exp(-(p*np.log(p)).sum())
# %% wrong: entropy
def usage(batches, codes):
    p = np.bincount(np.concatenate(batches), minlength=codes)
    p = p/p.sum()
    return -sum(x*np.log(x) for x in p if x)
# %% wrong: base
def usage(batches, codes):
    p = np.bincount(np.concatenate(batches), minlength=codes)
    p = p/p.sum()
    return 2**-sum(x*np.log(x) for x in p if x)
# %% wrong: count
def usage(batches, codes):
    p = np.bincount(np.concatenate(batches), minlength=codes)
    p = p/p.sum()
    return (p > 0).sum()
# %% wrong: inverse
def usage(batches, codes):
    p = np.bincount(np.concatenate(batches), minlength=codes)
    p = p/p.sum()
    return np.exp(sum(x*np.log(x) for x in p if x))
# %% wrong: not done
def usage(batches, codes): raise NotDone
