# %% right: rounded to four digits
n, t = BATCH['images'], BATCH['temperature']
collapsed = round(float(np.log(2*n - 1)), 4)
orthogonal = float(f'{np.log1p(2*(n - 1)/np.exp(1/t)):.4g}')
least = float(f'{np.log1p(2*(n - 1)/np.exp((1 + 1/(n - 1))/t)):.4g}')
# %% right: computed on vectors by the function of task 2
n, t = BATCH.values()
collapsed, orthogonal, least = (
    nt_xent(v, v.copy(), t) for v in (np.ones((n, 3)), np.eye(n), np.eye(n) - 1/n))
# %% right: as tensors
n, t = torch.tensor(BATCH['images']), BATCH['temperature']
collapsed = (2*n - 1.).log()
orthogonal = torch.logsumexp(torch.cat([torch.ones(1)/t, torch.zeros(2*int(n) - 2)]), 0) - 1/t
least = F.softplus((2*n - 2.).log() - n/(n - 1)/t)
# %% wrong: count (all 2N views)
n, t = BATCH['images'], BATCH['temperature']
collapsed, orthogonal, least = np.log(2*n), 0, 0
# %% wrong: count (N images)
n, t = BATCH['images'], BATCH['temperature']
collapsed, orthogonal, least = np.log(2*n - 1), np.log1p((n - 1)*np.exp(-1/t)), 0
# %% wrong: count (itself in the sum)
n, t = BATCH['images'], BATCH['temperature']
collapsed, orthogonal, least = np.log(2*n - 1), np.log(2 + (2*n - 2)*np.exp(-1/t)), 0
# %% wrong: temperature
n, t = BATCH['images'], BATCH['temperature']
collapsed, orthogonal, least = np.log(2*n - 1), np.log1p((2*n - 2)*np.exp(-t)), 0
# %% wrong: temperature (left out)
n, t = BATCH['images'], BATCH['temperature']
collapsed, orthogonal, least = np.log(2*n - 1), np.log1p((2*n - 2)*np.exp(-1)), 0
# %% wrong: all opposite
n, t = BATCH['images'], BATCH['temperature']
collapsed, orthogonal = np.log(2*n - 1), np.log1p((2*n - 2)*np.exp(-1/t))
least = np.log1p((2*n - 2)*np.exp(-2/t))
# %% wrong: angles
n, t = BATCH['images'], BATCH['temperature']
collapsed, orthogonal = np.log(2*n - 1), np.log1p((2*n - 2)*np.exp(-1/t))
least = orthogonal
# %% wrong: zero
n, t = BATCH['images'], BATCH['temperature']
collapsed, orthogonal = np.log(2*n - 1), np.log1p((2*n - 2)*np.exp(-1/t))
least = 0
# %% wrong: sign
n, t = BATCH['images'], BATCH['temperature']
collapsed, orthogonal, least = -np.log(2*n - 1), 0, 0
# %% wrong: base
n, t = BATCH['images'], BATCH['temperature']
collapsed, orthogonal, least = np.log2(2*n - 1), 0, 0
# %% wrong: value (another batch)
n, t = 4, .35
collapsed = np.log(2*n - 1)
orthogonal, least = np.log1p((2*n - 2)*np.exp(-1/t)), np.log1p((2*n - 2)*np.exp(-n/(n - 1)/t))
# %% wrong: no number
collapsed, orthogonal, least = 'log(2N - 1)', None, None
# %% wrong: not done
collapsed = orthogonal = least = ...
# %% wrong: missing
n, t = BATCH['images'], BATCH['temperature']
collapse = np.log(2*n - 1)
