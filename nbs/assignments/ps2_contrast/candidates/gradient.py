# %% right: torch's automatic differentiation
def nt_xent_backward(z1, z2, temperature):
    leaves = [torch.tensor(z, requires_grad=True) for z in (z1, z2)]
    v = F.normalize(torch.cat(leaves), dim=1)
    scores = (v @ v.T/temperature).masked_fill(torch.eye(len(v), dtype=torch.bool), -torch.inf)
    F.cross_entropy(scores, torch.arange(len(v)).roll(len(z1))).backward()
    return leaves[0].grad, leaves[1].grad
# %% right: row by row, in float64, with a warning
import warnings
def nt_xent_backward(z1, z2, temperature):
    warnings.warn('this is slow')
    v = [np.asarray(z, float) for z in (*z1, *z2)]
    size = [np.sqrt(z @ z) for z in v]
    u = [z/k for z, k in zip(v, size)]
    du = [np.zeros_like(z) for z in u]
    for i in range(len(u)):
        others = [k for k in range(len(u)) if k != i]
        s = np.array([u[i] @ u[k] for k in others])/temperature
        weight = np.exp(s - np.logaddexp.reduce(s))
        for k, g in zip(others, weight):
            g = (g - (abs(k - i) == len(z1)))/temperature/len(u)
            du[i] += g*u[k]
            du[k] += g*u[i]
    dv = np.array([(np.eye(len(d)) - np.outer(a, a)) @ d/k for a, d, k in zip(u, du, size)])
    return [dv[:len(z1)], dv[len(z1):]]
# %% right: by the Jacobian of the cosines, as one array
def nt_xent_backward(z1, z2, temperature):
    v, n = np.concatenate([z1, z2]).astype(np.float64), len(z1)
    size = np.linalg.norm(v, axis=1)
    c, far = v @ v.T/np.outer(size, size), 1e6*np.eye(2*n)
    s = c/temperature - far
    g = np.exp(s - np.logaddexp.reduce(s, axis=1)[:, None]) - np.eye(2*n)[np.r_[n:2*n, :n]]
    g = (g + g.T)/(2*n*temperature)
    dv = (g/np.outer(size, size)) @ v - ((g*c).sum(1)/size**2)[:, None]*v
    return dv.reshape(2, n, -1)
# %% wrong: overflow
def nt_xent_backward(z1, z2, temperature):
    v, n = np.concatenate([z1, z2]), len(z1)
    size = np.sqrt((v**2).sum(1, keepdims=True))
    u, i = v/size, np.arange(2*n)
    s = u @ u.T/temperature
    s[i, i] = -np.inf
    q = np.exp(s)
    q = q/q.sum(1)[:, None]
    q[i, i - n] -= 1
    q = q/(2*n*temperature)
    du = (q + q.T) @ u
    dv = (du - (du*u).sum(1)[:, None]*u)/size
    return dv[:n], dv[n:]
# %% wrong: order (second view first)
def nt_xent_backward(z1, z2, temperature):
    v, n = np.concatenate([z1, z2]), len(z1)
    size = np.sqrt((v**2).sum(1, keepdims=True))
    u, i = v/size, np.arange(2*n)
    s = u @ u.T/temperature
    s[i, i] = -np.inf
    q = np.exp(s - s.max(1)[:, None])
    q = q/q.sum(1)[:, None]
    q[i, i - n] -= 1
    q = q/(2*n*temperature)
    du = (q + q.T) @ u
    dv = (du - (du*u).sum(1)[:, None]*u)/size
    return dv[n:], dv[:n]
# %% wrong: order (both in one array)
def nt_xent_backward(z1, z2, temperature):
    v, n = np.concatenate([z1, z2]), len(z1)
    size = np.sqrt((v**2).sum(1, keepdims=True))
    u, i = v/size, np.arange(2*n)
    s = u @ u.T/temperature
    s[i, i] = -np.inf
    q = np.exp(s - s.max(1)[:, None])
    q = q/q.sum(1)[:, None]
    q[i, i - n] -= 1
    q = q/(2*n*temperature)
    du = (q + q.T) @ u
    dv = (du - (du*u).sum(1)[:, None]*u)/size
    return dv
# %% wrong: one role (as asking alone)
def nt_xent_backward(z1, z2, temperature):
    v, n = np.concatenate([z1, z2]), len(z1)
    size = np.sqrt((v**2).sum(1, keepdims=True))
    u, i = v/size, np.arange(2*n)
    s = u @ u.T/temperature
    s[i, i] = -np.inf
    q = np.exp(s - s.max(1)[:, None])
    q = q/q.sum(1)[:, None]
    q[i, i - n] -= 1
    q = q/(2*n*temperature)
    du = q @ u
    dv = (du - (du*u).sum(1)[:, None]*u)/size
    return dv[:n], dv[n:]
# %% wrong: one role (as an answer alone)
def nt_xent_backward(z1, z2, temperature):
    v, n = np.concatenate([z1, z2]), len(z1)
    size = np.sqrt((v**2).sum(1, keepdims=True))
    u, i = v/size, np.arange(2*n)
    s = u @ u.T/temperature
    s[i, i] = -np.inf
    q = np.exp(s - s.max(1)[:, None])
    q = q/q.sum(1)[:, None]
    q[i, i - n] -= 1
    q = q/(2*n*temperature)
    du = q.T @ u
    dv = (du - (du*u).sum(1)[:, None]*u)/size
    return dv[:n], dv[n:]
# %% wrong: normalization
def nt_xent_backward(z1, z2, temperature):
    v, n = np.concatenate([z1, z2]), len(z1)
    size = np.sqrt((v**2).sum(1, keepdims=True))
    u, i = v/size, np.arange(2*n)
    s = u @ u.T/temperature
    s[i, i] = -np.inf
    q = np.exp(s - s.max(1)[:, None])
    q = q/q.sum(1)[:, None]
    q[i, i - n] -= 1
    q = q/(2*n*temperature)
    du = (q + q.T) @ u
    dv = du
    return dv[:n], dv[n:]
# %% wrong: projection
def nt_xent_backward(z1, z2, temperature):
    v, n = np.concatenate([z1, z2]), len(z1)
    size = np.sqrt((v**2).sum(1, keepdims=True))
    u, i = v/size, np.arange(2*n)
    s = u @ u.T/temperature
    s[i, i] = -np.inf
    q = np.exp(s - s.max(1)[:, None])
    q = q/q.sum(1)[:, None]
    q[i, i - n] -= 1
    q = q/(2*n*temperature)
    du = (q + q.T) @ u
    dv = du/size
    return dv[:n], dv[n:]
# %% wrong: length
def nt_xent_backward(z1, z2, temperature):
    v, n = np.concatenate([z1, z2]), len(z1)
    size = np.sqrt((v**2).sum(1, keepdims=True))
    u, i = v/size, np.arange(2*n)
    s = u @ u.T/temperature
    s[i, i] = -np.inf
    q = np.exp(s - s.max(1)[:, None])
    q = q/q.sum(1)[:, None]
    q[i, i - n] -= 1
    q = q/(2*n*temperature)
    du = (q + q.T) @ u
    dv = (du - (du*u).sum(1)[:, None]*u)
    return dv[:n], dv[n:]
# %% wrong: no pull
def nt_xent_backward(z1, z2, temperature):
    v, n = np.concatenate([z1, z2]), len(z1)
    size = np.sqrt((v**2).sum(1, keepdims=True))
    u, i = v/size, np.arange(2*n)
    s = u @ u.T/temperature
    s[i, i] = -np.inf
    q = np.exp(s - s.max(1)[:, None])
    q = q/q.sum(1)[:, None]
    q = q/(2*n*temperature)
    du = (q + q.T) @ u
    dv = (du - (du*u).sum(1)[:, None]*u)/size
    return dv[:n], dv[n:]
# %% wrong: no push
def nt_xent_backward(z1, z2, temperature):
    v, n = np.concatenate([z1, z2]), len(z1)
    size = np.sqrt((v**2).sum(1, keepdims=True))
    u, i = v/size, np.arange(2*n)
    s = u @ u.T/temperature
    s[i, i] = -np.inf
    q = np.exp(s - s.max(1)[:, None])
    q = q/q.sum(1)[:, None]
    q = 0*q
    q[i, i - n] -= 1
    q = q/(2*n*temperature)
    du = (q + q.T) @ u
    dv = (du - (du*u).sum(1)[:, None]*u)/size
    return dv[:n], dv[n:]
# %% wrong: temperature (not in the gradient)
def nt_xent_backward(z1, z2, temperature):
    v, n = np.concatenate([z1, z2]), len(z1)
    size = np.sqrt((v**2).sum(1, keepdims=True))
    u, i = v/size, np.arange(2*n)
    s = u @ u.T/temperature
    s[i, i] = -np.inf
    q = np.exp(s - s.max(1)[:, None])
    q = q/q.sum(1)[:, None]
    q[i, i - n] -= 1
    q = q/(2*n)
    du = (q + q.T) @ u
    dv = (du - (du*u).sum(1)[:, None]*u)/size
    return dv[:n], dv[n:]
# %% wrong: temperature (multiplied in the gradient)
def nt_xent_backward(z1, z2, temperature):
    v, n = np.concatenate([z1, z2]), len(z1)
    size = np.sqrt((v**2).sum(1, keepdims=True))
    u, i = v/size, np.arange(2*n)
    s = u @ u.T/temperature
    s[i, i] = -np.inf
    q = np.exp(s - s.max(1)[:, None])
    q = q/q.sum(1)[:, None]
    q[i, i - n] -= 1
    q = q*temperature/(2*n)
    du = (q + q.T) @ u
    dv = (du - (du*u).sum(1)[:, None]*u)/size
    return dv[:n], dv[n:]
# %% wrong: temperature (multiplied in the logits)
def nt_xent_backward(z1, z2, temperature):
    v, n = np.concatenate([z1, z2]), len(z1)
    size = np.sqrt((v**2).sum(1, keepdims=True))
    u, i = v/size, np.arange(2*n)
    s = u @ u.T*temperature
    s[i, i] = -np.inf
    q = np.exp(s - s.max(1)[:, None])
    q = q/q.sum(1)[:, None]
    q[i, i - n] -= 1
    q = q/(2*n*temperature)
    du = (q + q.T) @ u
    dv = (du - (du*u).sum(1)[:, None]*u)/size
    return dv[:n], dv[n:]
# %% wrong: temperature (multiplied everywhere)
def nt_xent_backward(z1, z2, temperature):
    v, n = np.concatenate([z1, z2]), len(z1)
    size = np.sqrt((v**2).sum(1, keepdims=True))
    u, i = v/size, np.arange(2*n)
    s = u @ u.T*temperature
    s[i, i] = -np.inf
    q = np.exp(s - s.max(1)[:, None])
    q = q/q.sum(1)[:, None]
    q[i, i - n] -= 1
    q = q*temperature/(2*n)
    du = (q + q.T) @ u
    dv = (du - (du*u).sum(1)[:, None]*u)/size
    return dv[:n], dv[n:]
# %% wrong: temperature (not in the logits)
def nt_xent_backward(z1, z2, temperature):
    v, n = np.concatenate([z1, z2]), len(z1)
    size = np.sqrt((v**2).sum(1, keepdims=True))
    u, i = v/size, np.arange(2*n)
    s = u @ u.T
    s[i, i] = -np.inf
    q = np.exp(s - s.max(1)[:, None])
    q = q/q.sum(1)[:, None]
    q[i, i - n] -= 1
    q = q/(2*n*temperature)
    du = (q + q.T) @ u
    dv = (du - (du*u).sum(1)[:, None]*u)/size
    return dv[:n], dv[n:]
# %% wrong: mean (a sum)
def nt_xent_backward(z1, z2, temperature):
    v, n = np.concatenate([z1, z2]), len(z1)
    size = np.sqrt((v**2).sum(1, keepdims=True))
    u, i = v/size, np.arange(2*n)
    s = u @ u.T/temperature
    s[i, i] = -np.inf
    q = np.exp(s - s.max(1)[:, None])
    q = q/q.sum(1)[:, None]
    q[i, i - n] -= 1
    q = q/temperature
    du = (q + q.T) @ u
    dv = (du - (du*u).sum(1)[:, None]*u)/size
    return dv[:n], dv[n:]
# %% wrong: mean (divided by the images)
def nt_xent_backward(z1, z2, temperature):
    v, n = np.concatenate([z1, z2]), len(z1)
    size = np.sqrt((v**2).sum(1, keepdims=True))
    u, i = v/size, np.arange(2*n)
    s = u @ u.T/temperature
    s[i, i] = -np.inf
    q = np.exp(s - s.max(1)[:, None])
    q = q/q.sum(1)[:, None]
    q[i, i - n] -= 1
    q = q/(n*temperature)
    du = (q + q.T) @ u
    dv = (du - (du*u).sum(1)[:, None]*u)/size
    return dv[:n], dv[n:]
# %% wrong: diagonal
def nt_xent_backward(z1, z2, temperature):
    v, n = np.concatenate([z1, z2]), len(z1)
    size = np.sqrt((v**2).sum(1, keepdims=True))
    u, i = v/size, np.arange(2*n)
    s = u @ u.T/temperature
    q = np.exp(s - s.max(1)[:, None])
    q = q/q.sum(1)[:, None]
    q[i, i - n] -= 1
    q = q/(2*n*temperature)
    du = (q + q.T) @ u
    dv = (du - (du*u).sum(1)[:, None]*u)/size
    return dv[:n], dv[n:]
# %% wrong: diagonal of zeros
def nt_xent_backward(z1, z2, temperature):
    v, n = np.concatenate([z1, z2]), len(z1)
    size = np.sqrt((v**2).sum(1, keepdims=True))
    u, i = v/size, np.arange(2*n)
    s = u @ u.T/temperature
    s[i, i] = 0
    q = np.exp(s - s.max(1)[:, None])
    q = q/q.sum(1)[:, None]
    q[i, i] = 0
    q[i, i - n] -= 1
    q = q/(2*n*temperature)
    du = (q + q.T) @ u
    dv = (du - (du*u).sum(1)[:, None]*u)/size
    return dv[:n], dv[n:]
# %% wrong: one direction
def nt_xent_backward(z1, z2, temperature):
    v, n = np.concatenate([z1, z2]), len(z1)
    size = np.sqrt((v**2).sum(1, keepdims=True))
    u, i = v/size, np.arange(2*n)
    s = u @ u.T/temperature
    s[i, i] = -np.inf
    q = np.exp(s - s.max(1)[:, None])
    q = q/q.sum(1)[:, None]
    q[i, i - n] -= 1
    q = q/(n*temperature)
    q[n:] = 0
    du = (q + q.T) @ u
    dv = (du - (du*u).sum(1)[:, None]*u)/size
    return dv[:n], dv[n:]
# %% wrong: partners
def nt_xent_backward(z1, z2, temperature):
    v, n = np.concatenate([z1, z2]), len(z1)
    size = np.sqrt((v**2).sum(1, keepdims=True))
    u, i = v/size, np.arange(2*n)
    s = u @ u.T/temperature
    s[i, i] = -np.inf
    q = np.exp(s - s.max(1)[:, None])
    q = q/q.sum(1)[:, None]
    q[i, i - 1] -= 1
    q = q/(2*n*temperature)
    du = (q + q.T) @ u
    dv = (du - (du*u).sum(1)[:, None]*u)/size
    return dv[:n], dv[n:]
# %% wrong: partners (as if the views took turns)
def nt_xent_backward(z1, z2, temperature):
    v, n = np.concatenate([z1, z2]), len(z1)
    size = np.sqrt((v**2).sum(1, keepdims=True))
    u, i = v/size, np.arange(2*n)
    s = u @ u.T/temperature
    s[i, i] = -np.inf
    q = np.exp(s - s.max(1)[:, None])
    q = q/q.sum(1)[:, None]
    q[i, i ^ 1] -= 1
    q = q/(2*n*temperature)
    du = (q + q.T) @ u
    dv = (du - (du*u).sum(1)[:, None]*u)/size
    return dv[:n], dv[n:]
# %% wrong: sign
def nt_xent_backward(z1, z2, temperature):
    v, n = np.concatenate([z1, z2]), len(z1)
    size = np.sqrt((v**2).sum(1, keepdims=True))
    u, i = v/size, np.arange(2*n)
    s = u @ u.T/temperature
    s[i, i] = -np.inf
    q = np.exp(s - s.max(1)[:, None])
    q = q/q.sum(1)[:, None]
    q[i, i - n] -= 1
    q = q/(2*n*temperature)
    du = (q + q.T) @ u
    dv = (du - (du*u).sum(1)[:, None]*u)/size
    return -dv[:n], -dv[n:]
# %% wrong: across
def nt_xent_backward(z1, z2, temperature):
    (a, la), (b, lb) = ((z/k, k) for z, k in ((z, np.linalg.norm(z, axis=1, keepdims=True)) for z in (z1, z2)))
    s = a @ b.T/temperature
    e = [np.exp(s - s.max(k, keepdims=True)) for k in (0, 1)]
    g = (e[0]/e[0].sum(0) + e[1]/e[1].sum(1, keepdims=True) - 2*np.eye(len(z1)))/(2*len(z1)*temperature)
    da, db = g @ b, g.T @ a
    return (da - a*(da*a).sum(1, keepdims=True))/la, (db - b*(db*b).sum(1, keepdims=True))/lb
# %% wrong: raises
def nt_xent_backward(z1, z2, temperature):
    nt_xent(z1, z2, temperature).backward()
    return z1.grad, z2.grad
# %% wrong: too long
def nt_xent_backward(z1, z2, temperature):
    while True: z1 = z1 + z2
# %% wrong: not done
def nt_xent_backward(z1, z2, temperature): raise NotDone
