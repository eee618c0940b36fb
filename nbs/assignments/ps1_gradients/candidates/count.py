# %% right: by hand over the layers
n, last = 0, None
for a in personal_stack(case_rng('ps1.count', str(STUDENT))):
    n += a['kernel']*a['kernel']*a['inputs']*a['outputs'] + a['outputs']
    last = (a['side'] - a['kernel'] + 2*a['padding'])//a['stride'] + 1, a['outputs']
parameters, outputs = n, last[0]*last[0]*last[1]
# %% right: torch counts
import torch
convs = [torch.nn.Conv2d(a['inputs'], a['outputs'], a['kernel'], a['stride'], a['padding'])
         for a in personal_stack(case_rng('ps1.count', str(STUDENT)))]
parameters = sum(p.numel() for p in torch.nn.Sequential(*convs).parameters())
side = personal_stack(case_rng('ps1.count', str(STUDENT)))[0]['side']
outputs = float(torch.nn.Sequential(*convs)(torch.zeros(1, 3, side, side)).numel())
# %% wrong: no bias
layers = personal_stack(case_rng('ps1.count', str(STUDENT)))
parameters = sum(a['outputs']*a['inputs']*a['kernel']**2 for a in layers)
outputs = 1
# %% wrong: one channel
layers = personal_stack(case_rng('ps1.count', str(STUDENT)))
parameters = sum(a['outputs']*(a['inputs']*a['kernel']**2 + 1) for a in layers)
a = layers[-1]
outputs = ((a['side'] + 2*a['padding'] - a['kernel'])//a['stride'] + 1)**2
# %% wrong: side
layers = personal_stack(case_rng('ps1.count', str(STUDENT)))
parameters = sum(a['outputs']*(a['inputs']*a['kernel']**2 + 1) for a in layers)
a = layers[-1]
outputs = (a['side'] + 2*a['padding'] - a['kernel'])//a['stride'] + 1
# %% wrong: count (somebody else's numbers)
layers = personal_stack(case_rng('ps1.count', 'somebody else'))
parameters = sum(a['outputs']*(a['inputs']*a['kernel']**2 + 1) for a in layers)
outputs = 7
# %% wrong: count (kernel not squared)
layers = personal_stack(case_rng('ps1.count', str(STUDENT)))
parameters = sum(a['outputs']*(a['inputs']*a['kernel'] + 1) for a in layers)
outputs = 7
# %% wrong: not done
parameters = ...
outputs = ...
# %% wrong: missing
params = 3
