# %% right: add.at
def follow(z, i, sizes, sums, decay, eps):
    n, s = np.zeros(len(sizes)), np.zeros(sums.shape)
    np.add.at(n, i, 1)
    np.add.at(s, i, z)
    n = n*1.
    sizes, sums = decay*sizes + (1 - decay)*n, decay*sums + (1 - decay)*s
    m = (sizes + eps)*sizes.sum()/(sizes.sum() + len(sizes)*eps)
    return sizes, sums, sums/m[:, None]
# %% right: lists
def follow(z, i, sizes, sums, decay, eps):
    n, s = np.zeros(len(sizes)), np.zeros(sums.shape)
    np.add.at(n, i, 1)
    np.add.at(s, i, z)
    n = n*1.
    sizes, sums = decay*sizes + (1 - decay)*n, decay*sums + (1 - decay)*s
    m = (sizes + eps)*sizes.sum()/(sizes.sum() + len(sizes)*eps)
    return [sizes.tolist(), torch.tensor(sums), sums/m[:, None]]
# %% wrong: decay
def follow(z, i, sizes, sums, decay, eps):
    n, s = np.zeros(len(sizes)), np.zeros(sums.shape)
    np.add.at(n, i, 1)
    np.add.at(s, i, z)
    decay = 1 - decay
    sizes, sums = decay*sizes + (1 - decay)*n, decay*sums + (1 - decay)*s
    m = (sizes + eps)*sizes.sum()/(sizes.sum() + len(sizes)*eps)
    return sizes, sums, sums/m[:, None]
# %% wrong: new share
def follow(z, i, sizes, sums, decay, eps):
    n, s = np.zeros(len(sizes)), np.zeros(sums.shape)
    np.add.at(n, i, 1)
    np.add.at(s, i, z)
    n = n*1.
    sizes, sums = decay*sizes + 1*n, decay*sums + 1*s
    m = (sizes + eps)*sizes.sum()/(sizes.sum() + len(sizes)*eps)
    return sizes, sums, sums/m[:, None]
# %% wrong: no smoothing
def follow(z, i, sizes, sums, decay, eps):
    n, s = np.zeros(len(sizes)), np.zeros(sums.shape)
    np.add.at(n, i, 1)
    np.add.at(s, i, z)
    n = n*1.
    sizes, sums = decay*sizes + (1 - decay)*n, decay*sums + (1 - decay)*s
    m = sizes
    return sizes, sums, sums/m[:, None]
# %% wrong: total
def follow(z, i, sizes, sums, decay, eps):
    n, s = np.zeros(len(sizes)), np.zeros(sums.shape)
    np.add.at(n, i, 1)
    np.add.at(s, i, z)
    n = n*1.
    sizes, sums = decay*sizes + (1 - decay)*n, decay*sums + (1 - decay)*s
    m = sizes + eps
    return sizes, sums, sums/m[:, None]
# %% wrong: means
def follow(z, i, sizes, sums, decay, eps):
    n, s = np.zeros(len(sizes)), np.zeros(sums.shape)
    np.add.at(n, i, 1)
    np.add.at(s, i, z)
    s = s/np.maximum(n, 1)[:, None]
    sizes, sums = decay*sizes + (1 - decay)*n, decay*sums + (1 - decay)*s
    m = (sizes + eps)*sizes.sum()/(sizes.sum() + len(sizes)*eps)
    return sizes, sums, sums/m[:, None]
# %% wrong: not done
def follow(z, i, sizes, sums, decay, eps): raise NotDone
