# %% right: by einsum, with a small number under the root
def similarity(a, b, temperature):
    dots = np.einsum('nd,md->nm', a, b)
    na, nb = np.sqrt((a*a).sum(-1) + 1e-30), np.sqrt((b*b).sum(-1) + 1e-30)
    return dots/np.outer(na, nb)/temperature
# %% right: in torch, with a warning
import warnings
def similarity(a, b, temperature):
    warnings.warn('not in NumPy')
    a, b = (F.normalize(torch.tensor(v), dim=1) for v in (a, b))
    return (a @ b.T).div(temperature)
# %% right: loops
def similarity(a, b, temperature):
    rows = []
    for x in a:
        row = []
        for y in b:
            size = np.linalg.norm(x)*np.linalg.norm(y)
            row.append(float(x @ y)/size/temperature if size > 0 else 0.)
        rows.append(row)
    return rows
# %% wrong: not normalized
def similarity(a, b, temperature): return a @ b.T/temperature
# %% wrong: one side
def similarity(a, b, temperature):
    a = a/np.maximum(np.linalg.norm(a, axis=1, keepdims=True), 1e-12)
    return a @ b.T/temperature
# %% wrong: axis (columns)
def similarity(a, b, temperature):
    a, b = (v/np.maximum(np.linalg.norm(v, axis=0), 1e-12) for v in (a, b))
    return a @ b.T/temperature
# %% wrong: axis (the whole matrix)
def similarity(a, b, temperature):
    return (a/np.linalg.norm(a)) @ (b/np.linalg.norm(b)).T/temperature
# %% wrong: squared length
def similarity(a, b, temperature):
    a, b = (v/np.maximum((v**2).sum(1, keepdims=True), 1e-12) for v in (a, b))
    return a @ b.T/temperature
# %% wrong: temperature (multiplied)
def similarity(a, b, temperature):
    a, b = (v/np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-12) for v in (a, b))
    return temperature*(a @ b.T)
# %% wrong: temperature (not used)
def similarity(a, b, temperature):
    a, b = (v/np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-12) for v in (a, b))
    return a @ b.T
# %% wrong: zero row
def similarity(a, b, temperature):
    a, b = (v/np.linalg.norm(v, axis=1, keepdims=True) for v in (a, b))
    return a @ b.T/temperature
# %% wrong: in place
def similarity(a, b, temperature):
    scores = [[x @ y for y in b] for x in a]
    sizes = np.outer(*(np.maximum(np.linalg.norm(v, axis=1), 1e-12) for v in (a, b)))
    a /= np.maximum(np.linalg.norm(a, axis=1, keepdims=True), 1e-12)
    return scores/sizes/temperature
# %% wrong: distance
def similarity(a, b, temperature):
    a, b = (v/np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-12) for v in (a, b))
    return np.sqrt(((a[:, None] - b)**2).sum(2))/temperature
# %% wrong: transposed
def similarity(a, b, temperature):
    a, b = (v/np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-12) for v in (a, b))
    return b @ a.T/temperature
# %% wrong: sign
def similarity(a, b, temperature):
    a, b = (v/np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-12) for v in (a, b))
    return -(a @ b.T)/temperature
# %% wrong: raises
def similarity(a, b, temperature):
    return a @ b/temperature
# %% wrong: no value
def similarity(a, b, temperature):
    return lambda: a @ b.T/temperature
# %% wrong: not done
def similarity(a, b, temperature): raise NotDone
