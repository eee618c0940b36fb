# %% right: by the output
def tanh_backward(dy, y): return dy*(1 - y**2)
# %% right: with torch
def tanh_backward(dy, y):
    x = torch.atanh(torch.from_numpy(y)).requires_grad_()
    torch.tanh(x).backward(torch.from_numpy(dy))
    return x.grad
# %% right: factored, with a warning
import warnings
def tanh_backward(dy, y):
    warnings.warn('for large inputs this is nearly zero')
    return (1 - y)*(1 + y)*dy
# %% wrong: no square
def tanh_backward(dy, y): return dy*(1 - y)
# %% wrong: tanh twice
def tanh_backward(dy, y): return dy*(1 - np.tanh(y)**2)
# %% wrong: sigmoid
def tanh_backward(dy, y): return dy*y*(1 - y)
# %% wrong: dy
def tanh_backward(dy, y): return 1 - y**2
# %% wrong: sign
def tanh_backward(dy, y): return dy*(y**2 - 1)
# %% wrong: raises
def tanh_backward(dy): return dy
