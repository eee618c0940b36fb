# %% right: over flat entries
def numeric_gradient(f, x, dy, h=1e-5):
    flat = np.array([((f((x.ravel() + h*e).reshape(x.shape)) - f((x.ravel() - h*e).reshape(x.shape)))*dy).sum()/(2*h)
                     for e in np.eye(x.size)])
    return flat.reshape(x.shape)
# %% right: in place and back, with a warning and a progress bar
import sys, warnings
def numeric_gradient(f, x, dy, h=1e-6):
    warnings.warn('this is slow')
    g = np.empty_like(x)
    it = np.nditer(x, flags=['multi_index'])
    x = x.copy()
    for _ in it:
        i = it.multi_index
        print('.', end='', file=sys.stderr)
        old = x[i]
        x[i] = old + h; up = np.sum(dy*f(x))
        x[i] = old - h; down = np.sum(dy*f(x))
        x[i] = old
        g[i] = (up - down)/(2*h)
    return g
# %% wrong: half
def numeric_gradient(f, x, dy, h=1e-5):
    return dy*(f(x + h) - f(x - h))/h
# %% wrong: one side
def numeric_gradient(f, x, dy, h=1e-5):
    return dy*(f(x + h) - f(x))/h
# %% wrong: dy
def numeric_gradient(f, x, dy, h=1e-5):
    return (f(x + h) - f(x - h))/(2*h)
# %% wrong: all at once
def numeric_gradient(f, x, dy, h=1e-5):
    return dy*(f(x + h) - f(x - h))/(2*h)
# %% wrong: sign
def numeric_gradient(f, x, dy, h=1e-5):
    return dy*(f(x - h) - f(x + h))/(2*h)
# %% wrong: shape
def numeric_gradient(f, x, dy, h=1e-5):
    return (dy*(f(x + h) - f(x - h))).sum()/(2*h)
# %% wrong: raises
def numeric_gradient(f, x, dy, h=1e-5):
    return dy*(f(x + h) - f(x - h))/(2*step)
# %% wrong: too long
def numeric_gradient(f, x, dy, h=1e-5):
    while True: h = h/2
