# %% right: the difference of two kernels
saved = 3*64*(7*7 - 3*3)
# %% right: two networks counted
from visft_nb.cnn.models import resnet18
count = lambda net: sum(p.numel() for p in net.parameters())
saved = count(resnet18()) - count(resnet18(stem='cifar'))
# %% right: two layers counted, as a float
saved = float(torch.nn.Conv2d(3, 64, 7).weight.numel() - torch.nn.Conv2d(3, 64, 3).weight.numel())
# %% wrong: one channel
saved = 64*(7**2 - 3**2)
# %% wrong: one kernel
saved = 3*(49 - 9)
# %% wrong: sides
saved = 3*64*(7 - 3)
# %% wrong: difference
saved = 3*64*(7 - 3)**2
# %% wrong: the whole
saved = 3*64*49
# %% wrong: bias
saved = 64*(3*49 + 1) - 64*3*9
# %% wrong: sign
saved = 3*64*(9 - 49)
# %% wrong: count
saved = 11
# %% wrong: not done
saved = ...
