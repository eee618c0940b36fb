# %% right: as in the paper
def guide(told, untold, w): return (1 + w)*told - w*untold
# %% right: from the told one, further
def guide(told, untold, w): return told + w*(told - untold)
# %% right: by interpolation beyond the end
def guide(told, untold, w):
    return torch.lerp(torch.from_numpy(untold), torch.from_numpy(told), 1 + w)
# %% wrong: gamma
def guide(told, untold, w): return untold + w*(told - untold)
# %% wrong: swapped
def guide(told, untold, w): return (1 + w)*untold - w*told
# %% wrong: added
def guide(told, untold, w): return (1 + w)*told + w*untold
# %% wrong: not one
def guide(told, untold, w): return told - w*untold
# %% wrong: sign
def guide(told, untold, w): return w*untold - (1 + w)*told
# %% wrong: raises
def guide(told, untold, w): return told.guide(untold, w)
