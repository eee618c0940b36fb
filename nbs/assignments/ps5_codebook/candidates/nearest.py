# %% right: loops
def nearest(z, codebook): return [int(np.argmin([((v - c)**2).sum() for c in codebook])) for v in z]
# %% right: in torch
def nearest(z, codebook): return torch.cdist(torch.tensor(z), torch.tensor(codebook)).argmin(1)
# %% wrong: farthest
def nearest(z, codebook): return ((z[:, None] - codebook)**2).sum(2).argmax(1)
# %% wrong: dot product
def nearest(z, codebook): return (z @ codebook.T).argmax(1)
# %% wrong: cross term
def nearest(z, codebook): return ((codebook**2).sum(1) - z @ codebook.T).argmin(1)
# %% wrong: axis
def nearest(z, codebook): return ((z[:, None] - codebook)**2).sum(2).argmin(0)
# %% wrong: ties
def nearest(z, codebook):
    return len(codebook) - 1 - ((z[:, None] - codebook[::-1])**2).sum(2).argmin(1)
# %% wrong: not done
def nearest(z, codebook): raise NotDone
