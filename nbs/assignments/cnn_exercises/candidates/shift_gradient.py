# %% right: two cases
def shift_gradient(dy, gamma, var, train):
    if train: return np.zeros(len(gamma))
    return dy.sum((0, 2, 3))*gamma/np.sqrt(var + 1e-5)
# %% right: by einsum, as a tensor
def shift_gradient(dy, gamma, var, train):
    return torch.from_numpy((not train)*np.einsum('nchw,c->c', dy, gamma/(var + 1e-5)**.5))
# %% right: torch, in eval
def shift_gradient(dy, gamma, var, train):
    x = torch.randn(dy.shape, dtype=torch.float64)
    s = torch.zeros(dy.shape[1], dtype=torch.float64, requires_grad=True)
    y = torch.nn.functional.batch_norm(x + s[:, None, None], torch.zeros_like(s), torch.tensor(var), torch.tensor(gamma),
                                       None, train)
    y.backward(torch.from_numpy(dy))
    return s.grad
# %% wrong: training
def shift_gradient(dy, gamma, var, train): return dy.sum((0, 2, 3))*gamma/np.sqrt(var + 1e-5)
# %% wrong: always zero
def shift_gradient(dy, gamma, var, train): return 0*gamma
# %% wrong: no gamma
def shift_gradient(dy, gamma, var, train): return (1 - train)*dy.sum((0, 2, 3))/np.sqrt(var)
# %% wrong: no scale
def shift_gradient(dy, gamma, var, train): return (1 - train)*dy.sum((0, 2, 3))*gamma
# %% wrong: variance
def shift_gradient(dy, gamma, var, train): return (1 - train)*dy.sum((0, 2, 3))*gamma/var
# %% wrong: not added up
def shift_gradient(dy, gamma, var, train): return (1 - train)*dy*(gamma/np.sqrt(var))[:, None, None]
# %% wrong: mean
def shift_gradient(dy, gamma, var, train): return (1 - train)*dy.mean((0, 2, 3))*gamma/np.sqrt(var)
