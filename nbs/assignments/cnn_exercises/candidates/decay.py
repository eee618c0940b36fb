# %% right: before the velocity
def decayed_step(w, g, v, lr, momentum, decay):
    v = momentum*v + g + decay*w
    return w - lr*v, v
# %% right: in place
def decayed_step(w, g, v, lr, momentum, decay):
    g += decay*w
    v *= momentum
    v += g
    w -= lr*v
    return [w, v]
# %% right: with torch
def decayed_step(w, g, v, lr, momentum, decay):
    p = torch.tensor(w, requires_grad=True)
    opt = torch.optim.SGD([p], lr, momentum, weight_decay=decay)
    p.grad, opt.state[p]['momentum_buffer'] = torch.tensor(g), torch.tensor(v)
    opt.step()
    return p, opt.state[p]['momentum_buffer']
# %% wrong: no decay
def decayed_step(w, g, v, lr, momentum, decay):
    v = momentum*v + g
    return w - lr*v, v
# %% wrong: decoupled
def decayed_step(w, g, v, lr, momentum, decay):
    v = momentum*v + g
    return (1 - lr*decay)*w - lr*v, v
# %% wrong: growth
def decayed_step(w, g, v, lr, momentum, decay):
    v = momentum*v + g - decay*w
    return w - lr*v, v
# %% wrong: dampened
def decayed_step(w, g, v, lr, momentum, decay):
    v = momentum*v + (1 - momentum)*(g + decay*w)
    return w - lr*v, v
# %% wrong: no momentum
def decayed_step(w, g, v, lr, momentum, decay):
    v = g + decay*w
    return w - lr*v, v
# %% wrong: order
def decayed_step(w, g, v, lr, momentum, decay):
    v = momentum*v + g + decay*w
    return v, w - lr*v
# %% wrong: one result
def decayed_step(w, g, v, lr, momentum, decay): return w - lr*(momentum*v + g + decay*w)
