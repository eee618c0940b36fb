# %% right: a loop over images
def robust_accuracy(model, x, y, tries, eps):
    count = 0
    for i in range(len(x)):
        ok = [v[i:i + 1] for v in tries
              if (v[i] - x[i]).abs().max() <= eps + 1e-5 and 0 <= v[i].min() and v[i].max() <= 1]
        count += all(int(model(v).argmax()) == int(y[i]) for v in [x[i:i + 1], *ok])
    return count/len(x)
# %% right: one batch of all, as a tensor
def robust_accuracy(model, x, y, tries, eps):
    every = torch.stack([x, *tries])
    allowed = ((every - x).abs() <= eps + 1e-5) & (every >= 0) & (every <= 1)
    right = model(every.flatten(0, 1)).argmax(1).view(len(every), -1) == y
    return (right | ~allowed.flatten(2).all(2)).all(0).double().mean()
# %% right: the clean image takes the place of a try that is not allowed
def robust_accuracy(model, x, y, tries, eps):
    stands = model(x).argmax(1).eq(y)
    for v in tries:
        bad = ((v - x).abs().amax((1, 2, 3)) > eps + 1e-5) | (v.amin((1, 2, 3)) < 0) | (v.amax((1, 2, 3)) > 1)
        stands &= model(torch.where(bad.view(-1, 1, 1, 1), x, v)).argmax(1).eq(y)
    return float(stands.sum())/len(stands)
# %% wrong: best
def robust_accuracy(model, x, y, tries, eps):
    bad = torch.stack([((v - x).abs().amax((1, 2, 3)) > eps + 1e-5) | ((v - .5).abs().amax((1, 2, 3)) > .5)
                       for v in tries])
    right = torch.stack([model(v).argmax(1) == y for v in tries])
    return ((right | bad).any(0) & (model(x).argmax(1) == y)).float().mean().item()
# %% wrong: average
def robust_accuracy(model, x, y, tries, eps):
    bad = torch.stack([((v - x).abs().amax((1, 2, 3)) > eps + 1e-5) | ((v - .5).abs().amax((1, 2, 3)) > .5)
                       for v in tries])
    right = torch.stack([model(v).argmax(1) == y for v in tries])
    return ((right | bad) & (model(x).argmax(1) == y)).float().mean().item()
# %% wrong: worst run
def robust_accuracy(model, x, y, tries, eps):
    bad = torch.stack([((v - x).abs().amax((1, 2, 3)) > eps + 1e-5) | ((v - .5).abs().amax((1, 2, 3)) > .5)
                       for v in tries])
    right = torch.stack([model(v).argmax(1) == y for v in tries])
    return ((right | bad) & (model(x).argmax(1) == y)).float().mean(1).min().item()
# %% wrong: clean
def robust_accuracy(model, x, y, tries, eps):
    bad = torch.stack([((v - x).abs().amax((1, 2, 3)) > eps + 1e-5) | ((v - .5).abs().amax((1, 2, 3)) > .5)
                       for v in tries])
    right = torch.stack([model(v).argmax(1) == y for v in tries])
    return (right | bad).all(0).float().mean().item()
# %% wrong: not allowed
def robust_accuracy(model, x, y, tries, eps):
    return torch.stack([model(v).argmax(1) == y for v in [x, *tries]]).all(0).float().mean().item()
# %% wrong: no box
def robust_accuracy(model, x, y, tries, eps):
    stands = model(x).argmax(1) == y
    for v in tries: stands = stands & ((model(v).argmax(1) == y) | ((v - x).abs().amax((1, 2, 3)) > eps + 1e-5))
    return stands.float().mean().item()
# %% wrong: share of clean
def robust_accuracy(model, x, y, tries, eps):
    clean = stands = model(x).argmax(1) == y
    for v in tries:
        bad = ((v - x).abs().amax((1, 2, 3)) > eps + 1e-5) | ((v - .5).abs().amax((1, 2, 3)) > .5)
        stands = stands & ((model(v).argmax(1) == y) | bad)
    return (stands.sum()/clean.sum()).item()
# %% wrong: last
def robust_accuracy(model, x, y, tries, eps):
    clean = model(x).argmax(1) == y
    for v in tries:
        bad = ((v - x).abs().amax((1, 2, 3)) > eps + 1e-5) | ((v - .5).abs().amax((1, 2, 3)) > .5)
        stands = clean & ((model(v).argmax(1) == y) | bad)
    return stands.float().mean().item()
# %% wrong: tolerance
def robust_accuracy(model, x, y, tries, eps):
    stands = model(x).argmax(1) == y
    for v in tries:
        bad = ((v - x).abs().amax((1, 2, 3)) > eps) | ((v - .5).abs().amax((1, 2, 3)) > .5)
        stands = stands & ((model(v).argmax(1) == y) | bad)
    return stands.float().mean().item()
# %% wrong: per cent
def robust_accuracy(model, x, y, tries, eps):
    stands = model(x).argmax(1) == y
    for v in tries:
        bad = ((v - x).abs().amax((1, 2, 3)) > eps + 1e-5) | ((v - .5).abs().amax((1, 2, 3)) > .5)
        stands = stands & ((model(v).argmax(1) == y) | bad)
    return 100*stands.float().mean().item()
# %% wrong: fooled
def robust_accuracy(model, x, y, tries, eps):
    stands = model(x).argmax(1) == y
    for v in tries:
        bad = ((v - x).abs().amax((1, 2, 3)) > eps + 1e-5) | ((v - .5).abs().amax((1, 2, 3)) > .5)
        stands = stands & ((model(v).argmax(1) == y) | bad)
    return 1 - stands.float().mean().item()
# %% wrong: number (a table comes back)
def robust_accuracy(model, x, y, tries, eps):
    return [model(v).argmax(1) == y for v in tries]
# %% wrong: no value
def robust_accuracy(model, x, y, tries, eps):
    return lambda: 0
