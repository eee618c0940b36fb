# %% right: what is left, in the time that is left
def velocity(x, noise, t): return (noise - x)/(1 - t)
# %% right: through the clean picture
def velocity(x, noise, t):
    clean = (x - t*noise)/(1 - t)
    return noise - clean
# %% right: as a tensor
def velocity(x, noise, t): return torch.from_numpy(noise - x).div(1 - t)
# %% wrong: sign
def velocity(x, noise, t): return (x - noise)/(1 - t)
# %% wrong: clean
def velocity(x, noise, t): return (x - t*noise)/(1 - t)
# %% wrong: divided by t
def velocity(x, noise, t): return (noise - x)/t
# %% wrong: not divided
def velocity(x, noise, t): return noise - x
# %% wrong: zero
def velocity(x, noise, t): return 0*x
# %% wrong: shape (a mean)
def velocity(x, noise, t): return ((noise - x)/(1 - t)).mean()
# %% wrong: not done
def velocity(x, noise, t): raise NotDone
