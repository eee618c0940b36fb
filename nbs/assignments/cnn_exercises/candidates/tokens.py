# %% right: six widths
def tokens(d): return 6*d
# %% right: searched
def tokens(d): return next(n for n in range(1, 100*d) if 2*n*n*d >= 12*n*d*d)
# %% right: as a float
def tokens(d): return (3 + 1 + 4 + 4)*d**2/(2*d)
# %% wrong: one product
def tokens(d): return 12*d
# %% wrong: no MLP
def tokens(d): return 2*d
# %% wrong: MLP only
def tokens(d): return 4*d
# %% wrong: no width
def tokens(d): return 6
# %% wrong: all the same
def tokens(d): return d
# %% wrong: whole
def tokens(d): return d/7
# %% wrong: balance
def tokens(d): return 6*d + 1
