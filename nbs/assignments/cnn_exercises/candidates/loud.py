# %% right: size and number
def loud(a): return abs(a), a
# %% right: as an array
def loud(a): return np.array([np.sqrt(a*a), a])
# %% right: measured on a linear score
def loud(a):
    x = torch.tensor(2., requires_grad=True)
    (a*3*x).backward()
    return [x.grad.abs()/3, (x.grad*x)/6]
# %% wrong: unchanged
def loud(a): return 1, 1
# %% wrong: square
def loud(a): return a**2, a**2
# %% wrong: no magnitude
def loud(a): return a, a
# %% wrong: sign lost
def loud(a): return abs(a), abs(a)
# %% wrong: order
def loud(a): return a, abs(a)
# %% wrong: shape
def loud(a): return a
