# %% right: all orders
def arrangements(side, patch):
    import math
    return math.factorial((side//patch)**2)
# %% right: multiplied
def arrangements(side, patch):
    n = 1
    for k in range(2, (side//patch)**2 + 1): n *= k
    return n
# %% right: by the gamma function, as a float
def arrangements(side, patch):
    return torch.exp(torch.lgamma(torch.tensor((side/patch)**2 + 1, dtype=torch.float64)))
# %% wrong: patches
def arrangements(side, patch): return (side//patch)**2
# %% wrong: one row
def arrangements(side, patch):
    import math
    return math.factorial(side//patch)
# %% wrong: pairs
def arrangements(side, patch): return (side//patch)**4
# %% wrong: subsets
def arrangements(side, patch): return 2**((side//patch)**2)
# %% wrong: pixels
def arrangements(side, patch):
    import math
    return math.factorial(side**2)
# %% wrong: raises
def arrangements(side, patch): return factorial((side//patch)**2)
