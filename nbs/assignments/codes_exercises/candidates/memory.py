# %% right: shares multiply
def memory(decay, steps): return decay**steps
# %% right: step by step
def memory(decay, steps):
    left = 1.
    for _ in range(steps): left *= decay
    return left
# %% right: by logarithms
def memory(decay, steps): return np.exp(steps*np.log(decay))
# %% wrong: what came
def memory(decay, steps): return 1 - decay**steps
# %% wrong: linear
def memory(decay, steps): return 1 - steps*(1 - decay)
# %% wrong: one step
def memory(decay, steps): return decay
# %% wrong: one too many
def memory(decay, steps): return decay**(steps + 1)
# %% wrong: new share
def memory(decay, steps): return (1 - decay)**steps
# %% wrong: not done
def memory(decay, steps): raise NotDone
