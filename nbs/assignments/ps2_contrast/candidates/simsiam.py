# %% right: dot products of directions
def simsiam(p1, p2, z1, z2):
    unit = lambda v: v/v.norm(dim=1, keepdim=True)
    with torch.no_grad(): t1, t2 = unit(z1), unit(z2)
    return -.5*((unit(p1)*t2).sum(1) + (unit(p2)*t1).sum(1)).mean()
# %% right: both directions as one batch
def simsiam(p1, p2, z1, z2):
    p, target = torch.cat([p1, p2]), torch.cat([z2, z1]).detach()
    return F.cosine_similarity(p, target).mean().neg()
# %% right: the loss of a distance, made to fit, with a warning
import warnings
def simsiam(p1, p2, z1, z2):
    warnings.warn('this way round')
    far = lambda p, z: (F.normalize(p, dim=1) - F.normalize(z.data, dim=1)).square().sum(1).mean()/2
    return (far(p1, z2) + far(p2, z1))/2 - 1
# %% wrong: no stop-gradient
def simsiam(p1, p2, z1, z2):
    return -(F.cosine_similarity(p1, z2).mean() + F.cosine_similarity(p2, z1).mean())/2
# %% wrong: no stop-gradient (one of two)
def simsiam(p1, p2, z1, z2):
    return -(F.cosine_similarity(p1, z2.detach()).mean() + F.cosine_similarity(p2, z1).mean())/2
# %% wrong: no stop-gradient (a clone is no stop)
def simsiam(p1, p2, z1, z2):
    z1, z2 = z1.clone(), z2.clone()
    return -(F.cosine_similarity(p1, z2).mean() + F.cosine_similarity(p2, z1).mean())/2
# %% wrong: wrong side
def simsiam(p1, p2, z1, z2):
    return -(F.cosine_similarity(p1.detach(), z2).mean() + F.cosine_similarity(p2.detach(), z1).mean())/2
# %% wrong: no gradient (everything is detached)
@torch.no_grad()
def simsiam(p1, p2, z1, z2):
    return -(F.cosine_similarity(p1, z2).mean() + F.cosine_similarity(p2, z1).mean())/2
# %% wrong: raises (a plain number)
def simsiam(p1, p2, z1, z2):
    return -(F.cosine_similarity(p1, z2).mean().item() + F.cosine_similarity(p2, z1).mean().item())/2
# %% wrong: same view
def simsiam(p1, p2, z1, z2):
    return -(F.cosine_similarity(p1, z1.detach()).mean() + F.cosine_similarity(p2, z2.detach()).mean())/2
# %% wrong: one direction
def simsiam(p1, p2, z1, z2): return -F.cosine_similarity(p1, z2.detach()).mean()
# %% wrong: one direction (the gradient of one is stopped altogether)
def simsiam(p1, p2, z1, z2):
    return -(F.cosine_similarity(p1, z2.detach()).mean() + F.cosine_similarity(p2.detach(), z1.detach()).mean())/2
# %% wrong: sign
def simsiam(p1, p2, z1, z2):
    return (F.cosine_similarity(p1, z2.detach()).mean() + F.cosine_similarity(p2, z1.detach()).mean())/2
# %% wrong: half
def simsiam(p1, p2, z1, z2):
    return -F.cosine_similarity(p1, z2.detach()).mean() - F.cosine_similarity(p2, z1.detach()).mean()
# %% wrong: sum
def simsiam(p1, p2, z1, z2):
    return -(F.cosine_similarity(p1, z2.detach()).sum() + F.cosine_similarity(p2, z1.detach()).sum())/2
# %% wrong: sum (one number for each image)
def simsiam(p1, p2, z1, z2):
    return -(F.cosine_similarity(p1, z2.detach()) + F.cosine_similarity(p2, z1.detach()))/2
# %% wrong: not normalized
def simsiam(p1, p2, z1, z2):
    return -((p1*z2.detach()).sum(1).mean() + (p2*z1.detach()).sum(1).mean())/2
# %% wrong: axis
def simsiam(p1, p2, z1, z2):
    return -(F.cosine_similarity(p1, z2.detach(), dim=0).mean() + F.cosine_similarity(p2, z1.detach(), dim=0).mean())/2
# %% wrong: no predictor
def simsiam(p1, p2, z1, z2): return -F.cosine_similarity(z1, z2.detach()).mean()
# %% wrong: distance
def simsiam(p1, p2, z1, z2):
    return 1 - (F.cosine_similarity(p1, z2.detach()).mean() + F.cosine_similarity(p2, z1.detach()).mean())/2
# %% wrong: gradient (the lengths of p are taken as constants)
def simsiam(p1, p2, z1, z2):
    unit = lambda v: v/v.detach().norm(dim=1, keepdim=True)
    return -((unit(p1)*unit(z2).detach()).sum(1).mean() + (unit(p2)*unit(z1).detach()).sum(1).mean())/2
# %% wrong: raises
def simsiam(p1, p2, z1, z2): return -np.cos(p1, z2.detach())
# %% wrong: not done
def simsiam(p1, p2, z1, z2): raise NotDone
