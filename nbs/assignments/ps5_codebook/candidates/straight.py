# %% right: the other way round
def straight_through(z, e): return e.detach() + z - z.detach()
def code_loss(z, e, beta):
    return torch.nn.functional.mse_loss(e, z.detach()) + beta*torch.nn.functional.mse_loss(z, e.detach())
# %% right: by data
def straight_through(z, e): return z - (z.data - e.data)
def code_loss(z, e, beta): return ((z.data - e)**2).mean() + ((z - e.data)**2).mean()*beta
# %% wrong: codes pulled
def straight_through(z, e): return e + z - z.detach()
def code_loss(z, e, beta): return ((z.data - e)**2).mean() + ((z - e.data)**2).mean()*beta
# %% wrong: not quantized
def straight_through(z, e): return z
def code_loss(z, e, beta): return ((z.data - e)**2).mean() + ((z - e.data)**2).mean()*beta
# %% wrong: gradient
def straight_through(z, e): return z + (e - z).detach()
def code_loss(z, e, beta): return (1 + beta)*((z - e)**2).mean()
# %% wrong: no gradient
def straight_through(z, e): return z + (e - z).detach()
def code_loss(z, e, beta): return (1 + beta)*((z - e.detach())**2).mean()
# %% wrong: beta
def straight_through(z, e): return z + (e - z).detach()
def code_loss(z, e, beta): return ((z.data - e)**2).mean() + ((z - e.data)**2).mean()
# %% wrong: sum
def straight_through(z, e): return z + (e - z).detach()
def code_loss(z, e, beta): return ((z.data - e)**2).sum() + ((z - e.data)**2).sum()*beta
# %% wrong: raises
def straight_through(z, e): return e.detach()
def code_loss(z, e, beta): return ((z.data - e)**2).mean() + ((z - e.data)**2).mean()*beta
