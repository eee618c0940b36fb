# %% right: the ReLU alone
def start(x): return np.maximum(x, 0)
# %% right: the block itself
def start(x):
    from visft_nb.cnn.models import BasicBlock
    block = BasicBlock(x.shape[1], x.shape[1])
    torch.nn.init.zeros_(block.bn2.weight)
    return block(torch.from_numpy(x).float())
# %% right: by a mask
def start(x): return np.where(x > 0, x, 0.)
# %% wrong: identity
def start(x): return x
# %% wrong: nothing
def start(x): return np.zeros_like(x)
# %% wrong: twice
def start(x): return x + np.maximum(x, 0)
# %% wrong: absolute
def start(x): return np.abs(x)
# %% wrong: factor (the shortcut counted twice)
def start(x): return np.maximum(x + x, 0)
# %% wrong: shape
def start(x): return np.maximum(x, 0).mean((2, 3))
