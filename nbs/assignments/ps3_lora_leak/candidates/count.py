# %% right: torch counts
net = personal_layers(case_rng('ps3.count', str(STUDENT)))
def pair(a, r): return nn.Sequential(nn.Linear(a['inputs'], r, bias=False), nn.Linear(r, a['outputs'], bias=False))
def size(m): return sum(p.numel() for p in m.parameters())
def lora(r): return sum(size(pair(a, r))*a['times'] for a in net['layers'])
trained = lora(net['rank'])
held = sum(size(nn.Linear(a['inputs'], a['outputs']))*a['times'] for a in net['layers'])
largest_rank = 1
while 10*lora(largest_rank + 1) <= held: largest_rank += 1
# %% right: by arrays, as floats
table = personal_layers(case_rng('ps3.count', str(STUDENT)))
i, o, t = np.array([[a['inputs'], a['outputs'], a['times']] for a in table['layers']]).T
trained = float(table['rank']*(t*(i + o)).sum())
held = (t*(i*o + o)).sum()
largest_rank = np.floor(held*.1/(t*(i + o)).sum())
# %% right: as tensors
table = personal_layers(case_rng('ps3.count', str(STUDENT)))
costs = torch.tensor([(a['inputs'] + a['outputs'])*a['times'] for a in table['layers']]).sum()
trained = costs*table['rank']
held = torch.tensor([(a['inputs']*a['outputs'] + a['outputs'])*a['times'] for a in table['layers']]).sum()
largest_rank = held//costs//10
# %% wrong: bias (one for each of the two)
net = personal_layers(case_rng('ps3.count', str(STUDENT)))
r = net['rank']
trained = sum(a['times']*(r*(a['inputs'] + a['outputs'] + 1) + a['outputs']) for a in net['layers'])
largest_rank = 4
# %% wrong: bias (of B)
net = personal_layers(case_rng('ps3.count', str(STUDENT)))
trained = sum(a['times']*(net['rank']*(a['inputs'] + a['outputs']) + a['outputs']) for a in net['layers'])
largest_rank = 4
# %% wrong: product
net = personal_layers(case_rng('ps3.count', str(STUDENT)))
trained = net['rank']*sum(a['times']*a['inputs']*a['outputs'] for a in net['layers'])
largest_rank = 0
# %% wrong: one matrix (A alone)
net = personal_layers(case_rng('ps3.count', str(STUDENT)))
trained = net['rank']*sum(a['times']*a['inputs'] for a in net['layers'])
largest_rank = 4
# %% wrong: one matrix (B alone)
net = personal_layers(case_rng('ps3.count', str(STUDENT)))
trained = net['rank']*sum(a['times']*a['outputs'] for a in net['layers'])
largest_rank = 4
# %% wrong: once
net = personal_layers(case_rng('ps3.count', str(STUDENT)))
trained = net['rank']*sum(a['inputs'] + a['outputs'] for a in net['layers'])
largest_rank = 4
# %% wrong: with the base
net = personal_layers(case_rng('ps3.count', str(STUDENT)))
small = net['rank']*sum(a['times']*(a['inputs'] + a['outputs']) for a in net['layers'])
trained = small + sum(a['times']*(a['inputs'] + 1)*a['outputs'] for a in net['layers'])
largest_rank = 4
# %% wrong: count (somebody else's numbers)
net = personal_layers(case_rng('ps3.count', 'somebody else'))
trained = net['rank']*sum(a['times']*(a['inputs'] + a['outputs']) for a in net['layers'])
largest_rank = 4
# %% wrong: count (a text)
trained = 'many'
largest_rank = '4'
# %% wrong: one too many (rounded up)
net = personal_layers(case_rng('ps3.count', str(STUDENT)))
each = sum(a['times']*(a['inputs'] + a['outputs']) for a in net['layers'])
trained = net['rank']*each
largest_rank = -(-sum(a['times']*(a['inputs'] + 1)*a['outputs'] for a in net['layers'])//(10*each))
# %% wrong: largest rank (not a tenth, but as many)
net = personal_layers(case_rng('ps3.count', str(STUDENT)))
each = sum(a['times']*(a['inputs'] + a['outputs']) for a in net['layers'])
trained = net['rank']*each
largest_rank = sum(a['times']*(a['inputs'] + 1)*a['outputs'] for a in net['layers'])//each
# %% wrong: largest rank (no whole number)
net = personal_layers(case_rng('ps3.count', str(STUDENT)))
each = sum(a['times']*(a['inputs'] + a['outputs']) for a in net['layers'])
trained = net['rank']*each
largest_rank = sum(a['times']*(a['inputs'] + 1)*a['outputs'] for a in net['layers'])/(10*each)
# %% wrong: biases of the base
net = personal_layers(case_rng('ps3.count', str(STUDENT)))
each = sum(a['times']*(a['inputs'] + a['outputs']) for a in net['layers'])
trained, held = net['rank']*each, sum(a['times']*a['inputs']*a['outputs'] for a in net['layers'])
largest_rank = (held + sum(a['times']*a['outputs'] for a in net['layers']))//(10*each)
# %% wrong: held (with what LoRA adds)
net = personal_layers(case_rng('ps3.count', str(STUDENT)))
each = sum(a['times']*(a['inputs'] + a['outputs']) for a in net['layers'])
trained, held = net['rank']*each, sum(a['times']*(a['inputs'] + 1)*a['outputs'] for a in net['layers'])
largest_rank = held//(10*each)
held += trained
# %% wrong: not done
trained = ...
largest_rank = ...
held = ...
# %% wrong: missing
numbers = 3
