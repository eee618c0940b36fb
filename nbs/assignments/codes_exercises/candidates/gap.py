# %% right: the logarithm of the sum over the term
def gap(prior, given, chosen):
    terms = [p*q for p, q in zip(prior, given)]
    return np.log(sum(terms)/terms[chosen])
# %% right: the negative logarithm of the posterior
def gap(prior, given, chosen):
    joint = np.array(prior)*np.array(given)
    return -np.log(joint[chosen]/joint.sum())
# %% right: bound less truth
def gap(prior, given, chosen):
    bound = -np.log(prior[chosen]) - np.log(given[chosen])
    truth = -np.log(np.dot(prior, given))
    return bound - truth
# %% wrong: bound
def gap(prior, given, chosen): return -np.log(prior[chosen]*given[chosen])
# %% wrong: truth
def gap(prior, given, chosen): return -np.log(sum(p*q for p, q in zip(prior, given)))
# %% wrong: negative
def gap(prior, given, chosen): return np.log(prior[chosen]*given[chosen]/sum(p*q for p, q in zip(prior, given)))
# %% wrong: no prior
def gap(prior, given, chosen): return np.log(sum(given)/given[chosen])
# %% wrong: share
def gap(prior, given, chosen): return sum(p*q for p, q in zip(prior, given))/(prior[chosen]*given[chosen])
# %% wrong: bits
def gap(prior, given, chosen): return np.log2(sum(p*q for p, q in zip(prior, given))/(prior[chosen]*given[chosen]))
# %% wrong: not done
def gap(prior, given, chosen): raise NotDone
