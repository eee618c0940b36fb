# %% right: the last bias
moved = [False]*5 + [True]
# %% right: as numbers
moved = np.eye(6)[5]
# %% right: asked of the kit's network
from visft_nb.cnn import layers
from visft_nb.cnn.numpy_train import SGD, lenet
net = lenet()
for p in net.params: p *= 0
_, cache = layers.softmax_cross_entropy(net(np.ones((2, 1, 28, 28), 'float32')), np.array([0, 1]))
net.back(layers.softmax_cross_entropy_backward(1, cache))
SGD(net.params, .1).step(net.grads)
moved = [p.any() for p in net.params]
# %% wrong: all
moved = [True]*6
# %% wrong: none
moved = np.zeros(6, bool)
# %% wrong: activations
moved = [False, False, False, False, True, True]
# %% wrong: biases
moved = [False, True]*3
# %% wrong: bias
moved = [0, 0, 0, 0, 1, 0]
# %% wrong: first
moved = (True, True, False, False, False, False)
# %% wrong: six
moved = 'the last bias'
# %% wrong: another
moved = [True] + [False]*5
# %% wrong: not done
moved = ...
