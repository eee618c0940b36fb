# %% right: by eigenvalues and torch's entropy
def spread(z):
    u = F.normalize(torch.as_tensor(z).double(), dim=-1)
    return u.std(0, unbiased=False).sum()/u.shape[1]**.5
def rank_me(z):
    small = z @ z.T if len(z) < z.shape[1] else z.T @ z
    sigma = np.sqrt(np.clip(np.linalg.eigvalsh(small), 0, None))
    sigma = torch.from_numpy(sigma/sigma.sum())
    return torch.special.entr(sigma).sum().exp()
# %% right: with the small number of the paper
def spread(z):
    u = z/np.sqrt((z**2).sum(1))[:, None]
    deviations = [np.sqrt(max(np.mean(c*c) - np.mean(c)**2, 0)) for c in u.T]
    return float(np.mean(deviations)*len(u.T)**.5)
def rank_me(z):
    _, s, _ = np.linalg.svd(z, full_matrices=False)
    p = s/np.sum(np.abs(s)) + 1e-7
    return float(np.exp(-np.sum(p*np.log(p))))
# %% right: as a product of powers
def spread(z):
    return np.sqrt(z.shape[1])*np.std(z/np.linalg.norm(z, axis=1)[:, None], axis=0).mean()
def rank_me(z):
    shares = torch.linalg.svdvals(torch.tensor(z))
    shares = shares/shares.sum()
    return (shares**-shares).prod().item()
# %% wrong: log of 0
def spread(z): return (z/np.linalg.norm(z, axis=1)[:, None]).std(0).mean()*z.shape[1]**.5
def rank_me(z):
    p = np.linalg.svd(z, compute_uv=False)
    p = np.round(p/p.sum(), 9)
    return np.exp(-(p*np.log(p)).sum())
# %% wrong: not normalized
def spread(z): return z.std(0).mean()*z.shape[1]**.5
def rank_me(z): return 1.
# %% wrong: root
def spread(z): return (z/np.linalg.norm(z, axis=1)[:, None]).std(0).mean()
def rank_me(z): return 1.
# %% wrong: unbiased
def spread(z): return (z/np.linalg.norm(z, axis=1)[:, None]).std(0, ddof=1).mean()*z.shape[1]**.5
def rank_me(z): return 1.
# %% wrong: axis
def spread(z): return (z/np.linalg.norm(z, axis=1)[:, None]).std(1).mean()*z.shape[1]**.5
def rank_me(z): return 1.
# %% wrong: axis (all at once)
def spread(z): return (z/np.linalg.norm(z, axis=1)[:, None]).std()*z.shape[1]**.5
def rank_me(z): return 1.
# %% wrong: no mean
def spread(z): return (z/np.linalg.norm(z, axis=1)[:, None]).std(0)*z.shape[1]**.5
def rank_me(z): return 1.
# %% wrong: squares
def spread(z): return (z/np.linalg.norm(z, axis=1)[:, None]).std(0).mean()*z.shape[1]**.5
def rank_me(z):
    p = np.linalg.svd(z, compute_uv=False)**2
    p = p[p > 1e-20]/p.sum()
    return np.exp(-(p*np.log(p)).sum())
# %% wrong: centred
def spread(z): return (z/np.linalg.norm(z, axis=1)[:, None]).std(0).mean()*z.shape[1]**.5
def rank_me(z):
    p = np.linalg.svd(z - z.mean(0), compute_uv=False)
    p = p[p > 1e-12]/p.sum()
    return np.exp(-(p*np.log(p)).sum())
# %% wrong: centred (the effective rank of the lesson)
from visft_nb.pretrain.collapse import effective_rank
def spread(z): return (z/np.linalg.norm(z, axis=1)[:, None]).std(0).mean()*z.shape[1]**.5
def rank_me(z): return effective_rank(torch.from_numpy(z))
# %% wrong: entropy
def spread(z): return (z/np.linalg.norm(z, axis=1)[:, None]).std(0).mean()*z.shape[1]**.5
def rank_me(z):
    p = np.linalg.svd(z, compute_uv=False)
    p = p[p > 1e-12]/p.sum()
    return -(p*np.log(p)).sum()
# %% wrong: count
def spread(z): return (z/np.linalg.norm(z, axis=1)[:, None]).std(0).mean()*z.shape[1]**.5
def rank_me(z): return int((np.linalg.svd(z, compute_uv=False) > 1e-9).sum())
# %% wrong: shares
def spread(z): return (z/np.linalg.norm(z, axis=1)[:, None]).std(0).mean()*z.shape[1]**.5
def rank_me(z):
    p = np.linalg.svd(z, compute_uv=False)
    p = p[p > 1e-12]/p.max()
    return np.exp(-(p*np.log(p)).sum())
# %% wrong: inverse
def spread(z): return (z/np.linalg.norm(z, axis=1)[:, None]).std(0).mean()*z.shape[1]**.5
def rank_me(z):
    p = np.linalg.svd(z, compute_uv=False)
    p = p[p > 1e-12]/p.sum()
    return np.exp((p*np.log(p)).sum())
# %% wrong: base
def spread(z): return (z/np.linalg.norm(z, axis=1)[:, None]).std(0).mean()*z.shape[1]**.5
def rank_me(z):
    p = np.linalg.svd(z, compute_uv=False)
    p = p[p > 1e-12]/p.sum()
    return np.exp(-(p*np.log2(p)).sum())
# %% wrong: missing
def spread(z): return (z/np.linalg.norm(z, axis=1)[:, None]).std(0).mean()*z.shape[1]**.5
# %% wrong: not done
def spread(z): raise NotDone
def rank_me(z): raise NotDone
