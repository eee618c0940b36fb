# %% right: bits over bits, the grid rounded up
def saving(side, factor, k): return side*side*24/(np.ceil(side/factor)**2*np.log2(k))
# %% right: with whole numbers only
def saving(side, factor, k):
    grid = (side + factor - 1)//factor
    return 3*8*side**2/grid**2/np.log2(k)
# %% right: a pixel at a time
def saving(side, factor, k):
    numbers = -(-side//factor)
    return (24/np.log(k)*np.log(2))*(side/numbers)**2
# %% wrong: one channel
def saving(side, factor, k): return side*side*8/(np.ceil(side/factor)**2*np.log2(k))
# %% wrong: no bits
def saving(side, factor, k): return side*side*3/(np.ceil(side/factor)**2*np.log2(k))
# %% wrong: whole numbers
def saving(side, factor, k): return side*side*24/(np.ceil(side/factor)**2*k)
# %% wrong: nats
def saving(side, factor, k): return side*side*24/(np.ceil(side/factor)**2*np.log(k))
# %% wrong: one side
def saving(side, factor, k): return side*side*24/(np.ceil(side/factor)*np.log2(k))
# %% wrong: rounded down
def saving(side, factor, k): return side*side*24/((side//factor)**2*np.log2(k))
# %% wrong: upside down
def saving(side, factor, k): return (np.ceil(side/factor)**2*np.log2(k))/(side*side*24)
# %% wrong: not done
def saving(side, factor, k): raise NotDone
