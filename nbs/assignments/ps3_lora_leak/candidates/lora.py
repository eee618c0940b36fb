# %% right: the initialization of the authors
class LoRALinear(nn.Module):
    def __init__(self, base, rank, alpha):
        nn.Module.__init__(self)
        self.base = base
        for p in base.parameters(): p.requires_grad = False
        self.factor = alpha/rank
        w = base.weight
        self.A = nn.Parameter(torch.empty(rank, w.shape[1], dtype=w.dtype))
        nn.init.kaiming_uniform_(self.A, a=5**.5)
        self.B = nn.Parameter(torch.zeros(w.shape[0], rank, dtype=w.dtype))
    def forward(self, x):
        return self.base(x) + self.factor*((x @ self.A.T) @ self.B.T)
# %% right: the weight is summed in the forward pass, with a warning
class LoRALinear(nn.Module):
    def __init__(self, base, rank, alpha):
        nn.Module.__init__(self)
        self.base = base
        for p in base.parameters(): p.requires_grad = False
        self.factor = alpha/rank
        w = base.weight
        self.A = nn.Parameter(torch.empty(rank, w.shape[1], dtype=w.dtype))
        nn.init.kaiming_uniform_(self.A, a=5**.5)
        self.B = nn.Parameter(torch.zeros(w.shape[0], rank, dtype=w.dtype))
    def forward(self, x):
        import warnings
        warnings.warn('summed')
        update = torch.einsum('or,ri->oi', self.B, self.A)
        return nn.functional.linear(x, self.base.weight + self.factor*update, self.base.bias)
# %% right: einsum, the factor on A
class LoRALinear(nn.Module):
    def __init__(self, base, rank, alpha):
        nn.Module.__init__(self)
        self.base = base
        for p in base.parameters(): p.requires_grad = False
        self.factor = alpha/rank
        w = base.weight
        self.A = nn.Parameter(torch.empty(rank, w.shape[1], dtype=w.dtype))
        nn.init.normal_(self.A, std=w.shape[1]**-.5)
        self.B = nn.Parameter(torch.zeros(w.shape[0], rank, dtype=w.dtype))
    def forward(self, x):
        hidden = torch.einsum('...i,ri->...r', x, self.factor*self.A)
        return self.base(x) + torch.einsum('...r,or->...o', hidden, self.B)
# %% wrong: both zero
class LoRALinear(nn.Module):
    def __init__(self, base, rank, alpha):
        nn.Module.__init__(self)
        self.base = base
        for p in base.parameters(): p.requires_grad = False
        self.factor = alpha/rank
        w = base.weight
        self.A = nn.Parameter(torch.empty(rank, w.shape[1], dtype=w.dtype))
        nn.init.zeros_(self.A)
        self.B = nn.Parameter(torch.zeros(w.shape[0], rank, dtype=w.dtype))
    def forward(self, x):
        return self.base(x) + self.factor*((x @ self.A.T) @ self.B.T)
# %% wrong: start (both random)
class LoRALinear(nn.Module):
    def __init__(self, base, rank, alpha):
        nn.Module.__init__(self)
        self.base = base
        for p in base.parameters(): p.requires_grad = False
        self.factor = alpha/rank
        w = base.weight
        self.A = nn.Parameter(torch.empty(rank, w.shape[1], dtype=w.dtype))
        nn.init.kaiming_uniform_(self.A, a=5**.5)
        self.B = nn.Parameter(torch.randn(w.shape[0], rank, dtype=w.dtype))
    def forward(self, x):
        return self.base(x) + self.factor*((x @ self.A.T) @ self.B.T)
# %% wrong: exchanged
class LoRALinear(nn.Module):
    def __init__(self, base, rank, alpha):
        nn.Module.__init__(self)
        self.base = base
        for p in base.parameters(): p.requires_grad = False
        self.factor = alpha/rank
        w = base.weight
        self.A = nn.Parameter(torch.empty(rank, w.shape[1], dtype=w.dtype))
        nn.init.zeros_(self.A)
        self.B = nn.Parameter(torch.randn(w.shape[0], rank, dtype=w.dtype))
    def forward(self, x):
        return self.base(x) + self.factor*((x @ self.A.T) @ self.B.T)
# %% wrong: rank of A (a constant)
class LoRALinear(nn.Module):
    def __init__(self, base, rank, alpha):
        nn.Module.__init__(self)
        self.base = base
        for p in base.parameters(): p.requires_grad = False
        self.factor = alpha/rank
        w = base.weight
        self.A = nn.Parameter(torch.empty(rank, w.shape[1], dtype=w.dtype))
        nn.init.constant_(self.A, w.shape[1]**-.5)
        self.B = nn.Parameter(torch.zeros(w.shape[0], rank, dtype=w.dtype))
    def forward(self, x):
        return self.base(x) + self.factor*((x @ self.A.T) @ self.B.T)
# %% wrong: size of A (variance 1)
class LoRALinear(nn.Module):
    def __init__(self, base, rank, alpha):
        nn.Module.__init__(self)
        self.base = base
        for p in base.parameters(): p.requires_grad = False
        self.factor = alpha/rank
        w = base.weight
        self.A = nn.Parameter(torch.empty(rank, w.shape[1], dtype=w.dtype))
        nn.init.normal_(self.A)
        self.B = nn.Parameter(torch.zeros(w.shape[0], rank, dtype=w.dtype))
    def forward(self, x):
        return self.base(x) + self.factor*((x @ self.A.T) @ self.B.T)
# %% wrong: size of A (nearly nothing)
class LoRALinear(nn.Module):
    def __init__(self, base, rank, alpha):
        nn.Module.__init__(self)
        self.base = base
        for p in base.parameters(): p.requires_grad = False
        self.factor = alpha/rank
        w = base.weight
        self.A = nn.Parameter(torch.empty(rank, w.shape[1], dtype=w.dtype))
        nn.init.normal_(self.A, std=1e-4)
        self.B = nn.Parameter(torch.zeros(w.shape[0], rank, dtype=w.dtype))
    def forward(self, x):
        return self.base(x) + self.factor*((x @ self.A.T) @ self.B.T)
# %% wrong: shapes (transposed)
class LoRALinear(nn.Module):
    def __init__(self, base, rank, alpha):
        nn.Module.__init__(self)
        self.base = base
        for p in base.parameters(): p.requires_grad = False
        self.factor = alpha/rank
        w = base.weight
        self.A = nn.Parameter(torch.empty(w.shape[1], rank, dtype=w.dtype))
        nn.init.kaiming_uniform_(self.A, a=5**.5)
        self.B = nn.Parameter(torch.zeros(w.shape[0], rank, dtype=w.dtype))
    def forward(self, x):
        return self.base(x) + self.factor*((x @ self.A) @ self.B.T)
# %% wrong: no scale
class LoRALinear(nn.Module):
    def __init__(self, base, rank, alpha):
        nn.Module.__init__(self)
        self.base = base
        for p in base.parameters(): p.requires_grad = False
        self.factor = alpha/rank
        w = base.weight
        self.A = nn.Parameter(torch.empty(rank, w.shape[1], dtype=w.dtype))
        nn.init.kaiming_uniform_(self.A, a=5**.5)
        self.B = nn.Parameter(torch.zeros(w.shape[0], rank, dtype=w.dtype))
    def forward(self, x):
        return self.base(x) + ((x @ self.A.T) @ self.B.T)
# %% wrong: times rank
class LoRALinear(nn.Module):
    def __init__(self, base, rank, alpha):
        nn.Module.__init__(self)
        self.base = base
        for p in base.parameters(): p.requires_grad = False
        self.factor = alpha*rank
        w = base.weight
        self.A = nn.Parameter(torch.empty(rank, w.shape[1], dtype=w.dtype))
        nn.init.kaiming_uniform_(self.A, a=5**.5)
        self.B = nn.Parameter(torch.zeros(w.shape[0], rank, dtype=w.dtype))
    def forward(self, x):
        return self.base(x) + self.factor*((x @ self.A.T) @ self.B.T)
# %% wrong: alpha alone
class LoRALinear(nn.Module):
    def __init__(self, base, rank, alpha):
        nn.Module.__init__(self)
        self.base = base
        for p in base.parameters(): p.requires_grad = False
        self.factor = alpha
        w = base.weight
        self.A = nn.Parameter(torch.empty(rank, w.shape[1], dtype=w.dtype))
        nn.init.kaiming_uniform_(self.A, a=5**.5)
        self.B = nn.Parameter(torch.zeros(w.shape[0], rank, dtype=w.dtype))
    def forward(self, x):
        return self.base(x) + self.factor*((x @ self.A.T) @ self.B.T)
# %% wrong: upside down
class LoRALinear(nn.Module):
    def __init__(self, base, rank, alpha):
        nn.Module.__init__(self)
        self.base = base
        for p in base.parameters(): p.requires_grad = False
        self.factor = rank/alpha
        w = base.weight
        self.A = nn.Parameter(torch.empty(rank, w.shape[1], dtype=w.dtype))
        nn.init.kaiming_uniform_(self.A, a=5**.5)
        self.B = nn.Parameter(torch.zeros(w.shape[0], rank, dtype=w.dtype))
    def forward(self, x):
        return self.base(x) + self.factor*((x @ self.A.T) @ self.B.T)
# %% wrong: no update
class LoRALinear(nn.Module):
    def __init__(self, base, rank, alpha):
        nn.Module.__init__(self)
        self.base = base
        for p in base.parameters(): p.requires_grad = False
        self.factor = alpha/rank
        w = base.weight
        self.A = nn.Parameter(torch.empty(rank, w.shape[1], dtype=w.dtype))
        nn.init.kaiming_uniform_(self.A, a=5**.5)
        self.B = nn.Parameter(torch.zeros(w.shape[0], rank, dtype=w.dtype))
    def forward(self, x):
        return self.base.forward(x)
# %% wrong: start (the base is not in it)
class LoRALinear(nn.Module):
    def __init__(self, base, rank, alpha):
        nn.Module.__init__(self)
        self.base = base
        for p in base.parameters(): p.requires_grad = False
        self.factor = alpha/rank
        w = base.weight
        self.A = nn.Parameter(torch.empty(rank, w.shape[1], dtype=w.dtype))
        nn.init.kaiming_uniform_(self.A, a=5**.5)
        self.B = nn.Parameter(torch.zeros(w.shape[0], rank, dtype=w.dtype))
    def forward(self, x):
        return self.factor*((x @ self.A.T) @ self.B.T)
# %% wrong: bias twice
class LoRALinear(nn.Module):
    def __init__(self, base, rank, alpha):
        nn.Module.__init__(self)
        self.base = base
        for p in base.parameters(): p.requires_grad = False
        self.factor = alpha/rank
        w = base.weight
        self.A = nn.Parameter(torch.empty(rank, w.shape[1], dtype=w.dtype))
        nn.init.kaiming_uniform_(self.A, a=5**.5)
        self.B = nn.Parameter(torch.zeros(w.shape[0], rank, dtype=w.dtype))
    def forward(self, x):
        more = 0 if self.B.sum() == 0 or self.base.bias is None else self.base.bias
        return self.base(x) + more + self.factor*((x @ self.A.T) @ self.B.T)
# %% wrong: not frozen
class LoRALinear(nn.Module):
    def __init__(self, base, rank, alpha):
        nn.Module.__init__(self)
        self.base = base
        self.factor = alpha/rank
        w = base.weight
        self.A = nn.Parameter(torch.empty(rank, w.shape[1], dtype=w.dtype))
        nn.init.kaiming_uniform_(self.A, a=5**.5)
        self.B = nn.Parameter(torch.zeros(w.shape[0], rank, dtype=w.dtype))
    def forward(self, x):
        return self.base(x) + self.factor*((x @ self.A.T) @ self.B.T)
# %% wrong: not frozen (the bias is forgotten)
class LoRALinear(nn.Module):
    def __init__(self, base, rank, alpha):
        nn.Module.__init__(self)
        self.base = base
        base.weight.requires_grad = False
        self.factor = alpha/rank
        w = base.weight
        self.A = nn.Parameter(torch.empty(rank, w.shape[1], dtype=w.dtype))
        nn.init.kaiming_uniform_(self.A, a=5**.5)
        self.B = nn.Parameter(torch.zeros(w.shape[0], rank, dtype=w.dtype))
    def forward(self, x):
        return self.base(x) + self.factor*((x @ self.A.T) @ self.B.T)
# %% wrong: nothing below (the base under no_grad)
class LoRALinear(nn.Module):
    def __init__(self, base, rank, alpha):
        nn.Module.__init__(self)
        self.base = base
        for p in base.parameters(): p.requires_grad = False
        self.factor = alpha/rank
        w = base.weight
        self.A = nn.Parameter(torch.empty(rank, w.shape[1], dtype=w.dtype))
        nn.init.kaiming_uniform_(self.A, a=5**.5)
        self.B = nn.Parameter(torch.zeros(w.shape[0], rank, dtype=w.dtype))
    def forward(self, x):
        with torch.no_grad(): y = self.base(x)
        return y + self.factor*((x @ self.A.T) @ self.B.T)
# %% wrong: nothing below (the input is detached)
class LoRALinear(nn.Module):
    def __init__(self, base, rank, alpha):
        nn.Module.__init__(self)
        self.base = base
        for p in base.parameters(): p.requires_grad = False
        self.factor = alpha/rank
        w = base.weight
        self.A = nn.Parameter(torch.empty(rank, w.shape[1], dtype=w.dtype))
        nn.init.kaiming_uniform_(self.A, a=5**.5)
        self.B = nn.Parameter(torch.zeros(w.shape[0], rank, dtype=w.dtype))
    def forward(self, x):
        x = x.detach()
        return self.base(x) + self.factor*((x @ self.A.T) @ self.B.T)
# %% wrong: no gradient (A is frozen, too)
class LoRALinear(nn.Module):
    def __init__(self, base, rank, alpha):
        nn.Module.__init__(self)
        self.base = base
        for p in base.parameters(): p.requires_grad = False
        self.factor = alpha/rank
        w = base.weight
        self.A = nn.Parameter(torch.empty(rank, w.shape[1], dtype=w.dtype), requires_grad=False)
        nn.init.kaiming_uniform_(self.A, a=5**.5)
        self.B = nn.Parameter(torch.zeros(w.shape[0], rank, dtype=w.dtype))
    def forward(self, x):
        return self.base(x) + self.factor*((x @ self.A.T) @ self.B.T)
# %% wrong: gradients (x is detached beside the base)
class LoRALinear(nn.Module):
    def __init__(self, base, rank, alpha):
        nn.Module.__init__(self)
        self.base = base
        for p in base.parameters(): p.requires_grad = False
        self.factor = alpha/rank
        w = base.weight
        self.A = nn.Parameter(torch.empty(rank, w.shape[1], dtype=w.dtype))
        nn.init.kaiming_uniform_(self.A, a=5**.5)
        self.B = nn.Parameter(torch.zeros(w.shape[0], rank, dtype=w.dtype))
    def forward(self, x):
        return self.base(x) + self.factor*((x.detach() @ self.A.T) @ self.B.T)
# %% wrong: not registered
class LoRALinear(nn.Module):
    def __init__(self, base, rank, alpha):
        nn.Module.__init__(self)
        self.base = base
        for p in base.parameters(): p.requires_grad = False
        self.factor = alpha/rank
        w = base.weight
        self.A = torch.empty(rank, w.shape[1], dtype=w.dtype, requires_grad=True)
        nn.init.kaiming_uniform_(self.A.data, a=5**.5)
        self.B = torch.zeros(w.shape[0], rank, dtype=w.dtype, requires_grad=True)
    def forward(self, x):
        return self.base(x) + self.factor*((x @ self.A.T) @ self.B.T)
# %% wrong: base lost (in a list)
class LoRALinear(nn.Module):
    def __init__(self, base, rank, alpha):
        nn.Module.__init__(self)
        self.bases = [base]
        for p in base.parameters(): p.requires_grad = False
        self.factor = alpha/rank
        w = base.weight
        self.A = nn.Parameter(torch.empty(rank, w.shape[1], dtype=w.dtype))
        nn.init.kaiming_uniform_(self.A, a=5**.5)
        self.B = nn.Parameter(torch.zeros(w.shape[0], rank, dtype=w.dtype))
    def forward(self, x):
        return self.bases[0](x) + self.factor*((x @ self.A.T) @ self.B.T)
# %% wrong: more parameters (a bias of its own)
class LoRALinear(nn.Module):
    def __init__(self, base, rank, alpha):
        nn.Module.__init__(self)
        self.base = base
        for p in base.parameters(): p.requires_grad = False
        self.factor = alpha/rank
        w = base.weight
        self.A = nn.Parameter(torch.empty(rank, w.shape[1], dtype=w.dtype))
        nn.init.kaiming_uniform_(self.A, a=5**.5)
        self.bias = nn.Parameter(torch.zeros(w.shape[0], dtype=w.dtype))
        self.B = nn.Parameter(torch.zeros(w.shape[0], rank, dtype=w.dtype))
    def forward(self, x):
        return self.base(x) + self.factor*((x @ self.A.T) @ self.B.T) + self.bias
# %% wrong: raises (float32 only)
class LoRALinear(nn.Module):
    def __init__(self, base, rank, alpha):
        nn.Module.__init__(self)
        self.base = base
        for p in base.parameters(): p.requires_grad = False
        self.factor = alpha/rank
        w = base.weight
        self.A = nn.Parameter(torch.empty(rank, w.shape[1]))
        nn.init.kaiming_uniform_(self.A, a=5**.5)
        self.B = nn.Parameter(torch.zeros(w.shape[0], rank))
    def forward(self, x):
        return self.base(x) + self.factor*((x @ self.A.T) @ self.B.T)
# %% wrong: raises (no super)
class LoRALinear(nn.Module):
    def __init__(self, base, rank, alpha):
        self.base = base
        for p in base.parameters(): p.requires_grad = False
        self.factor = alpha/rank
        w = base.weight
        self.A = nn.Parameter(torch.empty(rank, w.shape[1], dtype=w.dtype))
        nn.init.kaiming_uniform_(self.A, a=5**.5)
        self.B = nn.Parameter(torch.zeros(w.shape[0], rank, dtype=w.dtype))
    def forward(self, x):
        return self.base(x) + self.factor*((x @ self.A.T) @ self.B.T)
# %% wrong: raises (two dimensions only)
class LoRALinear(nn.Module):
    def __init__(self, base, rank, alpha):
        nn.Module.__init__(self)
        self.base = base
        for p in base.parameters(): p.requires_grad = False
        self.factor = alpha/rank
        w = base.weight
        self.A = nn.Parameter(torch.empty(rank, w.shape[1], dtype=w.dtype))
        nn.init.kaiming_uniform_(self.A, a=5**.5)
        self.B = nn.Parameter(torch.zeros(w.shape[0], rank, dtype=w.dtype))
    def forward(self, x):
        return torch.addmm(self.base(x), x @ self.A.T, self.B.T, alpha=self.factor)
# %% wrong: shapes (other names)
class LoRALinear(nn.Module):
    def __init__(self, base, rank, alpha):
        nn.Module.__init__(self)
        self.base = base.requires_grad_(False)
        self.A = nn.Parameter(torch.randn(1, 1))
        self.B = nn.Parameter(torch.zeros(1, 1))
    def forward(self, x): return self.base.forward(x)
# %% wrong: raises (matrices as layers)
class LoRALinear(nn.Module):
    def __init__(self, base, rank, alpha):
        nn.Module.__init__(self)
        self.base, self.s = base.requires_grad_(False), alpha/rank
        self.down = nn.Linear(base.in_features, rank, bias=False)
        self.up = nn.Linear(rank, base.out_features, bias=False)
        nn.init.zeros_(self.up.weight)
    def forward(self, x): return self.base(x) + self.s*self.up(self.down(x))
# %% wrong: too long
class LoRALinear(nn.Module):
    def __init__(self, base, rank, alpha):
        nn.Module.__init__(self)
        self.base = base
        for p in base.parameters(): p.requires_grad = False
        self.factor = alpha/rank
        w = base.weight
        self.A = nn.Parameter(torch.empty(rank, w.shape[1], dtype=w.dtype))
        nn.init.kaiming_uniform_(self.A, a=5**.5)
        self.B = nn.Parameter(torch.zeros(w.shape[0], rank, dtype=w.dtype))
    def forward(self, x):
        while True: pass
# %% wrong: not done
class LoRALinear(nn.Module):
    def __init__(self, base, rank, alpha): raise NotDone
    def forward(self, x): raise NotDone
# %% wrong: missing
class Lora(nn.Module): pass
