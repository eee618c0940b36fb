# %% right: networks counted
def growth(w):
    from visft_nb.cnn.models import small_cnn
    count = lambda w: sum(p.numel() for p in small_cnn(width=w).parameters())
    return count(2*w)/count(w)
# %% right: the lesson's terms
def growth(w):
    def weights(w):
        return 9*(w + w*2*w + 2*w*4*w + 4*w*4*w) + 2*(w + 2*w + 4*w + 4*w) + (4*w + 1)*10
    return weights(2*w)/weights(w)
# %% right: by degrees
def growth(w):
    square, linear, constant = 234*w*w, (9 + 22 + 40)*w, 10
    return np.float64(4*square + 2*linear + constant)/(square + linear + constant)
# %% wrong: linear
def growth(w): return 2
# %% wrong: quadratic
def growth(w): return 4.
# %% wrong: convolutions only
def growth(w):
    f = lambda w: 9*(w + 26*w*w)
    return f(2*w)/f(w)
# %% wrong: no norm
def growth(w):
    f = lambda w: 9*(w + 26*w*w) + (4*w + 1)*10
    return f(2*w)/f(w)
# %% wrong: no head
def growth(w):
    f = lambda w: 9*(w + 26*w*w) + 22*w
    return f(2*w)/f(w)
# %% wrong: upside down
def growth(w):
    f = lambda w: 234*w*w + 71*w + 10
    return f(w)/f(2*w)
