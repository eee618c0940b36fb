# %% right: patient by patient, with a set
import random
def split_by_patient(patients, share, seed):
    images = {}
    for i, p in enumerate(patients): images.setdefault(str(p), []).append(i)
    order = sorted(images)
    random.Random(seed).shuffle(order)
    test = []
    while len(test) < share*len(patients): test += images[order.pop()]
    return [i for p in order for i in images[p]], test
# %% right: those that fit, in torch, as tensors, in any order
def split_by_patient(patients, share, seed):
    ids, who = np.unique([str(p) for p in patients], return_inverse=True)
    g = torch.Generator().manual_seed(seed)
    room, chosen = share*len(who), []
    sizes = np.bincount(who)
    for p in torch.randperm(len(ids), generator=g).tolist():
        if sizes[p] <= room or not chosen:
            chosen.append(p)
            room -= sizes[p]
    inside = torch.from_numpy(np.isin(who, chosen))
    return torch.nonzero(~inside)[:, 0].flip(0), torch.nonzero(inside)[:, 0]
# %% right: the nearest of many random splits by patient
def split_by_patient(patients, share, seed):
    patients, rng = np.asarray(patients), np.random.RandomState(seed)
    ids, best = np.unique(patients), None
    for _ in range(30):
        order = rng.permutation(ids)
        for k in range(1, len(ids)):
            test = np.isin(patients, order[:k])
            off = abs(test.mean() - share)
            if best is None or off < best[0]: best = off, test
            if test.mean() > share: break
    return np.where(~best[1])[0], np.where(best[1])[0]
# %% wrong: torn (by image)
def split_by_patient(patients, share, seed):
    order = np.random.default_rng(seed).permutation(len(patients))
    k = round(share*len(patients))
    return order[k:], order[:k]
# %% wrong: torn (cut where the share is, patients in order)
def split_by_patient(patients, share, seed):
    order = np.argsort(np.asarray(patients), kind='stable')
    order = np.roll(order, seed % 50)
    k = round(share*len(order)) + 1
    return order[k:], order[:k]
# %% wrong: drops (one image of each patient)
def split_by_patient(patients, share, seed):
    ids, first = np.unique(np.asarray(patients), return_index=True)
    order = np.random.default_rng(seed).permutation(first)
    k = round(share*len(order))
    return order[k:], order[:k]
# %% wrong: drops (the patient at the cut)
def split_by_patient(patients, share, seed):
    patients = np.asarray(patients)
    ids = np.random.default_rng(seed).permutation(np.unique(patients))
    k, n = 0, 0
    while n < share*len(patients):
        n += (patients == ids[k]).sum()
        k += 1
    return np.flatnonzero(np.isin(patients, ids[k:])), np.flatnonzero(np.isin(patients, ids[:k - 1]))
# %% wrong: twice (the patient at the cut is on both sides)
def split_by_patient(patients, share, seed):
    patients = np.asarray(patients)
    ids = np.random.default_rng(seed).permutation(np.unique(patients))
    k, n = 0, 0
    while n < share*len(patients):
        n += (patients == ids[k]).sum()
        k += 1
    return np.flatnonzero(np.isin(patients, ids[k - 1:])), np.flatnonzero(np.isin(patients, ids[:k]))
# %% wrong: other share
def split_by_patient(patients, share, seed):
    patients = np.asarray(patients)
    ids = np.random.default_rng(seed).permutation(np.unique(patients))
    k, n = 0, 0
    while n < share*len(patients):
        n += (patients == ids[k]).sum()
        k += 1
    return np.flatnonzero(np.isin(patients, ids[:k])), np.flatnonzero(np.isin(patients, ids[k:]))
# %% wrong: other share (the two in the other order)
def split_by_patient(patients, share, seed):
    patients = np.asarray(patients)
    ids = np.random.default_rng(seed).permutation(np.unique(patients))
    ends = np.cumsum([(patients == p).sum() for p in ids])
    k = np.searchsorted(ends, share*len(patients)) + 1
    return np.flatnonzero(np.isin(patients, ids[:k])), np.flatnonzero(np.isin(patients, ids[k:]))
# %% wrong: share (always half)
def split_by_patient(patients, share, seed):
    patients = np.asarray(patients)
    ids = np.random.default_rng(seed).permutation(np.unique(patients))
    test = np.isin(patients, ids[:len(ids)//2])
    return np.flatnonzero(~test), np.flatnonzero(test)
# %% wrong: share (of the patients)
def split_by_patient(patients, share, seed):
    patients = np.asarray(patients)
    ids = np.random.default_rng(seed).permutation(np.unique(patients))
    test = np.isin(patients, ids[:max(1, round(share*len(ids)))])
    return np.flatnonzero(~test), np.flatnonzero(test)
# %% wrong: share (of the patients, by scikit-learn)
from sklearn.model_selection import GroupShuffleSplit
def split_by_patient(patients, share, seed):
    return next(GroupShuffleSplit(1, test_size=share, random_state=seed).split(patients, groups=patients))
# %% wrong: share (the patients with the fewest images first)
def split_by_patient(patients, share, seed):
    patients = np.asarray(patients)
    ids = np.random.default_rng(seed).permutation(np.unique(patients))
    sizes = np.array([(patients == p).sum() for p in ids])
    ids = ids[np.argsort(sizes, kind='stable')]
    k = round(share*len(ids))
    return np.flatnonzero(np.isin(patients, ids[k:])), np.flatnonzero(np.isin(patients, ids[:k]))
# %% wrong: masks
def split_by_patient(patients, share, seed):
    patients = np.asarray(patients)
    ids = np.random.default_rng(seed).permutation(np.unique(patients))
    ends = np.cumsum([(patients == p).sum() for p in ids])
    test = np.isin(patients, ids[:np.searchsorted(ends, share*len(patients)) + 1])
    return ~test, test
# %% wrong: numbers of patients
def split_by_patient(patients, share, seed):
    ids = np.random.default_rng(seed).permutation(np.unique(np.asarray(patients)))
    k = round(share*len(ids))
    return ids[k:], ids[:k]
# %% wrong: no pair
def split_by_patient(patients, share, seed): return np.arange(len(patients))
# %% wrong: not repeatable
def split_by_patient(patients, share, seed):
    patients = np.asarray(patients)
    ids = np.random.default_rng().permutation(np.unique(patients))
    ends = np.cumsum([(patients == p).sum() for p in ids])
    test = np.isin(patients, ids[:np.searchsorted(ends, share*len(patients)) + 1])
    return np.flatnonzero(~test), np.flatnonzero(test)
# %% wrong: seed (is not used)
def split_by_patient(patients, share, seed):
    patients = np.asarray(patients)
    ids = np.random.default_rng(0).permutation(np.unique(patients))
    ends = np.cumsum([(patients == p).sum() for p in ids])
    test = np.isin(patients, ids[:np.searchsorted(ends, share*len(patients)) + 1])
    return np.flatnonzero(~test), np.flatnonzero(test)
# %% wrong: raises (patients are numbers)
def split_by_patient(patients, share, seed):
    patients = np.asarray(patients).astype(int)
    ids = np.random.default_rng(seed).permutation(np.unique(patients))
    ends = np.cumsum([(patients == p).sum() for p in ids])
    test = np.isin(patients, ids[:np.searchsorted(ends, share*len(patients)) + 1])
    return np.flatnonzero(~test), np.flatnonzero(test)
# %% wrong: too long
def split_by_patient(patients, share, seed):
    while True: pass
# %% wrong: not done
def split_by_patient(patients, share, seed): raise NotDone
# %% wrong: missing
train, test = [], []
