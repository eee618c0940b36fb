# %% right: image by image
def before_after(train_images, train_labels, test_images, test_labels, leaked):
    a = np.asarray(test_images).reshape(len(test_images), -1).astype(float)
    b = np.asarray(train_images).reshape(len(train_images), -1).astype(float)
    said = [train_labels[np.linalg.norm(b - x, axis=1).argmin()] for x in a]
    right = np.array(said) == test_labels
    rest = np.setdiff1d(np.arange(len(right)), leaked)
    return right.mean(), right[rest].mean()
# %% right: twice, in torch, as tensors
def before_after(train_images, train_labels, test_images, test_labels, leaked):
    def accuracy(x, y):
        u, v = (torch.tensor(np.asarray(z)).double().flatten(1) for z in (x, train_images))
        return (torch.tensor(train_labels)[torch.cdist(u, v).argmin(1)] == torch.tensor(y)).double().mean()
    gone = set(np.asarray(leaked).tolist())
    kept = [i for i in range(len(test_labels)) if i not in gone]
    return accuracy(test_images, test_labels), accuracy(test_images[kept], test_labels[kept])
# %% right: by products, with a progress bar
def before_after(train_images, train_labels, test_images, test_labels, leaked):
    import sys
    sys.stderr.write('half of it is done')
    x, t = (np.reshape(z, (len(z), -1)).astype(np.float64) for z in (test_images, train_images))
    near = ((t**2).sum(1) - 2*x @ t.T).argmin(1)
    ok = (train_labels[near] == test_labels).astype(float)
    return [float(ok.mean()), float(np.delete(ok, leaked).mean())]
# %% wrong: order
def before_after(train_images, train_labels, test_images, test_labels, leaked):
    a = np.asarray(test_images).reshape(len(test_images), -1).astype(float)
    b = np.asarray(train_images).reshape(len(train_images), -1).astype(float)
    said = [train_labels[np.linalg.norm(b - x, axis=1).argmin()] for x in a]
    right = np.array(said) == test_labels
    rest = np.setdiff1d(np.arange(len(right)), leaked)
    return right[rest].mean(), right.mean()
# %% wrong: per cent
def before_after(train_images, train_labels, test_images, test_labels, leaked):
    a = np.asarray(test_images).reshape(len(test_images), -1).astype(float)
    b = np.asarray(train_images).reshape(len(train_images), -1).astype(float)
    said = [train_labels[np.linalg.norm(b - x, axis=1).argmin()] for x in a]
    right = np.array(said) == test_labels
    rest = np.setdiff1d(np.arange(len(right)), leaked)
    return 100*right.mean(), 100*right[rest].mean()
# %% wrong: not removed
def before_after(train_images, train_labels, test_images, test_labels, leaked):
    a = np.asarray(test_images).reshape(len(test_images), -1).astype(float)
    b = np.asarray(train_images).reshape(len(train_images), -1).astype(float)
    said = [train_labels[np.linalg.norm(b - x, axis=1).argmin()] for x in a]
    right = np.array(said) == test_labels
    rest = np.setdiff1d(np.arange(len(right)), leaked)
    return right.mean(), right.mean()
# %% wrong: leaked alone
def before_after(train_images, train_labels, test_images, test_labels, leaked):
    a = np.asarray(test_images).reshape(len(test_images), -1).astype(float)
    b = np.asarray(train_images).reshape(len(train_images), -1).astype(float)
    said = [train_labels[np.linalg.norm(b - x, axis=1).argmin()] for x in a]
    right = np.array(said) == test_labels
    rest = np.setdiff1d(np.arange(len(right)), leaked)
    return right.mean(), right[leaked].mean()
# %% wrong: of all
def before_after(train_images, train_labels, test_images, test_labels, leaked):
    a = np.asarray(test_images).reshape(len(test_images), -1).astype(float)
    b = np.asarray(train_images).reshape(len(train_images), -1).astype(float)
    said = [train_labels[np.linalg.norm(b - x, axis=1).argmin()] for x in a]
    right = np.array(said) == test_labels
    rest = np.setdiff1d(np.arange(len(right)), leaked)
    return right.mean(), right[rest].sum()/len(right)
# %% wrong: counts
def before_after(train_images, train_labels, test_images, test_labels, leaked):
    a = np.asarray(test_images).reshape(len(test_images), -1).astype(float)
    b = np.asarray(train_images).reshape(len(train_images), -1).astype(float)
    said = [train_labels[np.linalg.norm(b - x, axis=1).argmin()] for x in a]
    right = np.array(said) == test_labels
    rest = np.setdiff1d(np.arange(len(right)), leaked)
    return right.sum(), right[rest].sum()
# %% wrong: errors
def before_after(train_images, train_labels, test_images, test_labels, leaked):
    a = np.asarray(test_images).reshape(len(test_images), -1).astype(float)
    b = np.asarray(train_images).reshape(len(train_images), -1).astype(float)
    said = [train_labels[np.linalg.norm(b - x, axis=1).argmin()] for x in a]
    right = np.array(said) == test_labels
    rest = np.setdiff1d(np.arange(len(right)), leaked)
    return 1 - right.mean(), 1 - right[rest].mean()
# %% wrong: training images removed
def before_after(train_images, train_labels, test_images, test_labels, leaked):
    a = np.asarray(test_images).reshape(len(test_images), -1).astype(float)
    b = np.asarray(train_images).reshape(len(train_images), -1).astype(float)
    said = [train_labels[np.linalg.norm(b - x, axis=1).argmin()] for x in a]
    right = np.array(said) == test_labels
    rest = np.setdiff1d(np.arange(len(right)), leaked)
    keep = np.setdiff1d(np.arange(len(b)), leaked)
    again = [train_labels[keep][np.linalg.norm(b[keep] - x, axis=1).argmin()] for x in a]
    return right.mean(), (np.array(again) == test_labels).mean()
# %% wrong: itself
def before_after(train_images, train_labels, test_images, test_labels, leaked):
    a = np.asarray(test_images).reshape(len(test_images), -1).astype(float)
    b = np.asarray(train_images).reshape(len(train_images), -1).astype(float)
    said = [test_labels[np.linalg.norm(a - x, axis=1).argmin()] for x in a]
    right = np.array(said) == test_labels
    rest = np.setdiff1d(np.arange(len(right)), leaked)
    return right.mean(), right[rest].mean()
# %% wrong: bytes
def before_after(train_images, train_labels, test_images, test_labels, leaked):
    x, t = (np.reshape(z, (len(z), -1)) for z in (test_images, train_images))
    near = ((x[:, None] - t)**2).sum(2).argmin(1)
    ok = train_labels[near] == test_labels
    return ok.mean(), np.delete(ok, leaked).mean()
# %% wrong: neighbour (the farthest)
def before_after(train_images, train_labels, test_images, test_labels, leaked):
    a = np.asarray(test_images).reshape(len(test_images), -1).astype(float)
    b = np.asarray(train_images).reshape(len(train_images), -1).astype(float)
    said = [train_labels[np.linalg.norm(b - x, axis=1).argmax()] for x in a]
    right = np.array(said) == test_labels
    rest = np.setdiff1d(np.arange(len(right)), leaked)
    return right.mean(), right[rest].mean()
# %% wrong: neighbour (the sum of differences)
def before_after(train_images, train_labels, test_images, test_labels, leaked):
    a = np.asarray(test_images).reshape(len(test_images), -1).astype(float)
    b = np.asarray(train_images).reshape(len(train_images), -1).astype(float)
    said = [train_labels[np.abs((b - x).sum(1)).argmin()] for x in a]
    right = np.array(said) == test_labels
    rest = np.setdiff1d(np.arange(len(right)), leaked)
    return right.mean(), right[rest].mean()
# %% wrong: neighbour (the largest product)
def before_after(train_images, train_labels, test_images, test_labels, leaked):
    a = np.asarray(test_images).reshape(len(test_images), -1).astype(float)
    b = np.asarray(train_images).reshape(len(train_images), -1).astype(float)
    said = [train_labels[(b @ x).argmax()] for x in a]
    right = np.array(said) == test_labels
    rest = np.setdiff1d(np.arange(len(right)), leaked)
    return right.mean(), right[rest].mean()
# %% wrong: second (one image too many)
def before_after(train_images, train_labels, test_images, test_labels, leaked):
    a = np.asarray(test_images).reshape(len(test_images), -1).astype(float)
    b = np.asarray(train_images).reshape(len(train_images), -1).astype(float)
    said = [train_labels[np.linalg.norm(b - x, axis=1).argmin()] for x in a]
    right = np.array(said) == test_labels
    rest = np.setdiff1d(np.arange(len(right)), leaked)
    return right.mean(), right[rest[1:]].mean() if right[rest[0]] else (right[rest].sum() + 1)/len(rest)
# %% wrong: second (as a mask of -1)
def before_after(train_images, train_labels, test_images, test_labels, leaked):
    a = np.asarray(test_images).reshape(len(test_images), -1).astype(float)
    b = np.asarray(train_images).reshape(len(train_images), -1).astype(float)
    said = [train_labels[np.linalg.norm(b - x, axis=1).argmin()] for x in a]
    right = np.array(said) == test_labels
    rest = np.setdiff1d(np.arange(len(right)), leaked)
    return right.mean(), 1 - right[rest].mean()
# %% wrong: raises (labels are looked up by image)
def before_after(train_images, train_labels, test_images, test_labels, leaked):
    a = np.asarray(test_images).reshape(len(test_images), -1).astype(float)
    b = np.asarray(train_images).reshape(len(train_images), -1).astype(float)
    said = [train_labels[10**6 + np.linalg.norm(b - x, axis=1).argmin()] for x in a]
    right = np.array(said) == test_labels
    rest = np.setdiff1d(np.arange(len(right)), leaked)
    return right.mean(), right[rest].mean()
# %% wrong: neighbour (one number)
def before_after(train_images, train_labels, test_images, test_labels, leaked):
    a = np.asarray(test_images).reshape(len(test_images), -1).astype(float)
    b = np.asarray(train_images).reshape(len(train_images), -1).astype(float)
    said = [train_labels[np.linalg.norm(b - x, axis=1).argmin()] for x in a]
    right = np.array(said) == test_labels
    rest = np.setdiff1d(np.arange(len(right)), leaked)
    return [0, right[rest].mean()]
# %% wrong: wrong (one number)
def before_after(train_images, train_labels, test_images, test_labels, leaked):
    a = np.asarray(test_images).reshape(len(test_images), -1).astype(float)
    b = np.asarray(train_images).reshape(len(train_images), -1).astype(float)
    said = [train_labels[np.linalg.norm(b - x, axis=1).argmin()] for x in a]
    right = np.array(said) == test_labels
    rest = np.setdiff1d(np.arange(len(right)), leaked)
    return right[rest].mean()
# %% wrong: too long
def before_after(train_images, train_labels, test_images, test_labels, leaked):
    a = np.asarray(test_images).reshape(len(test_images), -1).astype(float)
    b = np.asarray(train_images).reshape(len(train_images), -1).astype(float)
    said = [train_labels[np.linalg.norm(b - x, axis=1).argmin()] for x in a]
    right = np.array(said) == test_labels
    rest = np.setdiff1d(np.arange(len(right)), leaked)
    while True: pass
# %% wrong: not done
def before_after(*a): raise NotDone
# %% wrong: missing
before, after = .9, .6
