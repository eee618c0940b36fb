# %% right: a copy, changed in place
from copy import deepcopy
def merge(base, A, B, alpha):
    new = deepcopy(base)
    new.weight.data += (alpha/A.shape[0])*torch.matmul(B, A)
    return new
# %% right: column by column, in float64
def merge(base, A, B, alpha):
    r, has_bias = A.shape[0], base.bias is not None
    weight = base.weight.detach().double().clone()
    for k in range(r): weight += alpha/r*torch.outer(B[:, k].double(), A[k].double())
    new = nn.Linear(base.in_features, base.out_features, bias=has_bias).to(base.weight.dtype)
    new.load_state_dict(dict(base.state_dict(), weight=weight))
    return new
# %% right: the update is what a pair of layers puts out for unit vectors
def merge(base, A, B, alpha):
    update = nn.functional.linear(nn.functional.linear(torch.eye(A.shape[1], dtype=A.dtype), A), B).T
    layer = nn.Linear(*base.weight.shape[::-1], bias=False)
    layer.weight = nn.Parameter(base.weight.detach() + update*alpha/len(A))
    layer.bias = None if base.bias is None else nn.Parameter(base.bias.detach().clone())
    return layer
# %% wrong: no scale
from copy import deepcopy
def merge(base, A, B, alpha):
    new = deepcopy(base)
    new.weight.data += B @ A
    return new
# %% wrong: times rank
from copy import deepcopy
def merge(base, A, B, alpha):
    new = deepcopy(base)
    new.weight.data += alpha*A.shape[0]*(B @ A)
    return new
# %% wrong: alpha alone
from copy import deepcopy
def merge(base, A, B, alpha):
    new = deepcopy(base)
    new.weight.data += alpha*(B @ A)
    return new
# %% wrong: upside down
from copy import deepcopy
def merge(base, A, B, alpha):
    new = deepcopy(base)
    new.weight.data += len(A)/alpha*(B @ A)
    return new
# %% wrong: transposed
from copy import deepcopy
def merge(base, A, B, alpha):
    new = deepcopy(base)
    update = alpha/len(A)*(A.T @ B.T)
    new.weight.data += update if update.shape == new.weight.shape else update.T
    return new
# %% wrong: transposed (and no other shape goes)
from copy import deepcopy
def merge(base, A, B, alpha):
    new = deepcopy(base)
    new.weight.data += alpha/len(A)*(B @ A).T
    return new
# %% wrong: minus
from copy import deepcopy
def merge(base, A, B, alpha):
    new = deepcopy(base)
    new.weight.data -= alpha/len(A)*(B @ A)
    return new
# %% wrong: no update (the copy is not kept)
from copy import deepcopy
def merge(base, A, B, alpha):
    new = deepcopy(base)
    new.weight.data + alpha/len(A)*(B @ A)
    return new
# %% wrong: update alone
from copy import deepcopy
def merge(base, A, B, alpha):
    new = deepcopy(base)
    new.weight.data = alpha/len(A)*(B @ A)
    return new
# %% wrong: bias lost
def merge(base, A, B, alpha):
    new = nn.Linear(base.in_features, base.out_features, bias=False)
    new.weight.data = base.weight.data + alpha/len(A)*(B @ A)
    return new
# %% wrong: wrong (a fresh bias)
def merge(base, A, B, alpha):
    new = nn.Linear(base.in_features, base.out_features, base.bias is not None)
    new.weight.data = base.weight.data + alpha/len(A)*(B @ A)
    return new
# %% wrong: base changed
def merge(base, A, B, alpha):
    base.weight.data += alpha/len(A)*(B @ A)
    return base
# %% wrong: base changed (the two share their weight)
from copy import copy
def merge(base, A, B, alpha):
    new = copy(base)
    new.weight.data += alpha/len(A)*(B @ A)
    return new
# %% wrong: raises (no bias is not thought of)
def merge(base, A, B, alpha):
    new = nn.Linear(base.in_features, base.out_features)
    new.weight.data = base.weight.data + alpha/len(A)*(B @ A)
    new.bias.data = base.bias.data.clone()
    return new
# %% wrong: no layer (only the weight comes back)
def merge(base, A, B, alpha): return base.weight.detach() + alpha/len(A)*(B @ A)
# %% wrong: raises (a function comes back)
def merge(base, A, B, alpha): return lambda x: base(x) + alpha/len(A)*(x @ A.T @ B.T)
# %% wrong: raises (float32 only)
def merge(base, A, B, alpha):
    new = nn.Linear(base.in_features, base.out_features, base.bias is not None)
    with torch.no_grad():
        new.weight += base.weight + alpha/len(A)*(B @ A) - new.weight
        if base.bias is not None: new.bias += base.bias - new.bias
    return new
# %% wrong: too long
def merge(base, A, B, alpha):
    while True: pass
# %% wrong: not done
def merge(base, A, B, alpha): raise NotDone
# %% wrong: missing
merged = 3
