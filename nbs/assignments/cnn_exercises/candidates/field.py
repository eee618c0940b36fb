# %% right: jumps
def field(kernels, strides):
    seen, jump = 1, 1
    for k, s in zip(kernels, strides): seen, jump = seen + (k - 1)*jump, jump*s
    return seen
# %% right: backwards
def field(kernels, strides):
    n = 1
    for k, s in list(zip(kernels, strides))[::-1]: n = (n - 1)*s + k
    return n
# %% right: by products
def field(kernels, strides):
    jumps = np.cumprod([1, *strides])[:-1]
    return 1 + np.dot(np.array(kernels) - 1, jumps)
# %% wrong: no strides
def field(kernels, strides): return 1 + sum(k - 1 for k in kernels)
# %% wrong: own stride
def field(kernels, strides):
    seen, jump = 1, 1
    for k, s in zip(kernels, strides):
        jump *= s
        seen += (k - 1)*jump
    return seen
# %% wrong: sum
def field(kernels, strides): return sum(kernels)
# %% wrong: product
def field(kernels, strides): return np.prod(kernels)
# %% wrong: one pixel
def field(kernels, strides): return sum((k - 1)*int(np.prod(strides[:i])) for i, k in enumerate(kernels))
# %% wrong: area
def field(kernels, strides):
    n = 1
    for k, s in list(zip(kernels, strides))[::-1]: n = (n - 1)*s + k
    return n*n
