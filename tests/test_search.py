"Search: folds, pruning, the budget, repeatability, bad input."
import numpy as np
import optuna
import pytest
import torch

from helpers import refused
from visft_nb.cnn.models import small_cnn
from visft_nb.core import InputError
from visft_nb.data import Batches, Images
from visft_nb.finetune.search import Pruning, ask, budget, cross_validate, folds, tune
from visft_nb.train import evaluate, fit

pytestmark = pytest.mark.filterwarnings('ignore')


def images(n=24, classes=2):
    x = torch.randint(0, 60, (n, 1, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    y = torch.arange(n) % classes
    for i in range(n): x[i, :, 4*int(y[i]):4*int(y[i]) + 4] += 150
    return Images(x, y, tuple(map(str, range(classes))), names=[str(i) for i in range(n)])


def test_folds_hold_each_image_out_once_and_keep_the_classes():
    data = images(30, 3)
    parts = folds(data, 5, seed=1)
    assert sorted(n for _, b in parts for n in b.names) == sorted(data.names)
    for a, b in parts:
        assert not set(a.names) & set(b.names) and len(a) + len(b) == 30
        assert torch.bincount(b.labels, minlength=3).tolist() == [2, 2, 2]
    assert [b.names for _, b in parts] == [b.names for _, b in folds(data, 5, seed=1)] != [b.names for _, b in folds(data, 5, seed=2)]


def test_cross_validation_is_the_mean_and_sees_no_test():
    seen = []
    def score(a, b): seen.append(len(b)); return float(len(seen))
    assert cross_validate(score, images(), 4) == 2.5 and seen == [6]*4


def bowl(trial): return -(trial.suggest_float('x', -4, 4) - 1)**2


def test_search_finds_the_top_and_repeats_itself():
    a, b, c = (tune(bowl, 40, seed=s) for s in (0, 0, 1))
    assert abs(a.best_params['x'] - 1) < .3
    xs = lambda s: [t.params['x'] for t in s.trials]
    assert xs(a) == xs(b) != xs(c)


def test_the_default_is_tried_first_and_the_best_is_no_worse():
    study = tune(bowl, 6, first=[{'x': .5}])
    assert study.trials[0].params == {'x': .5} and study.best_value >= -.25


def test_less_can_be_better():
    assert tune(lambda t: -bowl(t), 20, goal='min').best_value < .5


def test_poor_trials_are_stopped_and_counted():
    ran = []
    def objective(trial):
        quality = trial.suggest_float('q', 0, 1)
        for step in range(4):
            ran.append(step); ask(trial, quality, step)
        return quality
    study = tune(objective, 30)
    spent = budget(study)
    assert 0 < spent['pruned'] < 1 and spent['trials'] == 30 and spent['reports'] == len(ran) < 120 and spent['seconds'] > 0
    assert study.best_value == max(t.intermediate_values[0] for t in study.trials), 'the best one is never stopped'
    ran.clear(); tune(objective, 30, pruner='none')
    assert len(ran) == 120


def test_time_is_a_budget_too():
    import time
    study = tune(lambda t: time.sleep(.05) or bowl(t), 10_000, seconds=.4)
    assert 1 <= len(study.trials) < 40


def test_pruning_a_training_leaves_things_in_order():
    data, models = images(), []
    def objective(trial):
        torch.manual_seed(0); models.append(small_cnn(2, width=4).eval())
        lr = [1e-2, 1e-2, 1e-2, 1e-2, 1e-2, 1e-7][trial.number]
        valid = lambda model: float(trial.number < 5)
        return fit(models[-1], Batches(data, 12, seed=trial.number), valid, epochs=2, lr=lr, bar=False, precision='fp32', callbacks=[Pruning(trial)]).best
    rng = torch.get_rng_state()
    study = tune(lambda t: objective(t), 6)
    assert study.trials[-1].state == optuna.trial.TrialState.PRUNED and len(study.trials[-1].intermediate_values) == 1
    assert not models[-1].training, 'the mode is put back'
    assert evaluate(models[-1], data) >= 0 and rng.shape == torch.get_rng_state().shape


def test_verbosity_is_left_as_it_was():
    before = optuna.logging.get_verbosity()
    tune(bowl, 2)
    assert optuna.logging.get_verbosity() == before


def test_the_winner_of_equals_is_too_good():
    rng = np.random.default_rng(0)
    study = tune(lambda t: t.suggest_float('x', 0, 1)*0 + rng.normal(), 40, pruner='none')
    assert .5 < study.best_value < (2*np.log(40))**.5 + 2


BAD = {
    'no budget': (lambda: tune(bowl, 0), ['trials=0']),
    'pruner': (lambda: tune(bowl, 2, pruner='medium'), ['medium', 'median']),
    'goal': (lambda: tune(bowl, 2, goal='best'), ['best']),
    'nothing finished': (lambda: tune(lambda t: (_ for _ in ()).throw(optuna.TrialPruned()), 3), ['3 trials']),
    'no labels': (lambda: folds(Images(images().images)), ['labels']),
    'one fold': (lambda: folds(images(), 1), ['k=1']),
    'too few': (lambda: folds(images(4, 2), 3), ['2 images', 'k=3']),
    'one image': (lambda: folds(images(2, 2), 2), ['single image']),
    'nan': (lambda: cross_validate(lambda a, b: float('nan'), images(), 2), ['fold 1', 'nan']),
}


@pytest.mark.parametrize('name', BAD)
def test_bad_input(name):
    call, words = BAD[name]
    with refused(words): call()


def test_pruning_needs_a_figure():
    with pytest.raises(InputError, match='valid'):
        fit(small_cnn(2, width=4), Batches(images(), 12), epochs=1, bar=False, callbacks=[Pruning(None)])
