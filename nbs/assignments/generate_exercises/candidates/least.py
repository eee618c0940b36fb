# %% right: formula
def least(p, q):
    p, q = np.asarray(p), np.asarray(q)
    d = p/(p + q)
    return -(p*np.log(d) + q*np.log(1 - d)).sum()/2
# %% right: by Jensen-Shannon
def least(p, q):
    p, q = np.asarray(p), np.asarray(q)
    m = (p + q)/2
    js = ((p*np.log(p/m)).sum() + (q*np.log(q/m)).sum())/2
    return np.log(2) - js
# %% right: logits
def least(p, q):
    z = np.log(np.asarray(p)/np.asarray(q))
    return sum(a*np.log1p(np.exp(-v)) + b*np.log1p(np.exp(v)) for a, b, v in zip(p, q, z))/2
# %% wrong: no half
def least(p, q):
    p, q = np.asarray(p), np.asarray(q)
    return -(p*np.log(p/(p + q)) + q*np.log(q/(p + q))).sum()
# %% wrong: real only
def least(p, q):
    p, q = np.asarray(p), np.asarray(q)
    return -(p*np.log(p/(p + q))).sum()/2
# %% wrong: bits
def least(p, q):
    p, q = np.asarray(p), np.asarray(q)
    return -(p*np.log2(p/(p + q)) + q*np.log2(q/(p + q))).sum()/2
# %% wrong: coin
def least(p, q): return np.log(2)
# %% wrong: negative
def least(p, q):
    p, q = np.asarray(p), np.asarray(q)
    return (p*np.log(p/(p + q)) + q*np.log(q/(p + q))).sum()/2
