# %% right: formula
def patches(side, layers): return (side//2**layers - 2)**2
# %% right: layer by layer
def patches(side, layers):
    for s in [2]*layers + [1, 1]: side = (side + 2 - 4)//s + 1
    return side*side
# %% right: halves
def patches(side, layers):
    for _ in range(layers): side //= 2
    return (side - 2)*(side - 2)
# %% wrong: one side
def patches(side, layers): return side//2**layers - 2
# %% wrong: no border
def patches(side, layers): return (side//2**layers)**2
# %% wrong: one convolution
def patches(side, layers): return (side//2**layers - 1)**2
# %% wrong: tiles
def patches(side, layers): return (side//[16, 34, 70][layers - 1])**2
# %% wrong: pixels
def patches(side, layers): return (side - 2)**2
# %% wrong: zero
def patches(side, layers): return 0
