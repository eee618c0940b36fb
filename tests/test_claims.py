"A sentence of result and the figure that decides it."
import json

import numpy as np
import pytest
import torch
from scipy import stats

from visft_nb.claims import CLAIM_MIME, Claim, claim, claim_table, collect_claims, describe_claim, judge_claim
from visft_nb.course.book import notebooks, read_notebook
from visft_nb.core import InputError


def test_the_interval_is_students():
    runs = [2.1, 3.4, .8, 2.9, 1.7]
    found = judge_claim('s', runs, at_least=0, level=.9)
    low, high = stats.t.interval(.9, 4, np.mean(runs), stats.sem(runs))
    assert (found.low, found.high) == pytest.approx((low, high)) and found.runs == 5


@pytest.mark.parametrize('figure', [[1., 2, 3], np.array([1., 2, 3]), torch.tensor([1., 2, 3])])
def test_runs_come_as_a_list_an_array_or_a_tensor(figure):
    assert judge_claim('s', figure, at_least=-5) == judge_claim('s', [1., 2, 3], at_least=-5)


@pytest.mark.parametrize('interval, line, verdict', [
    ((1, 3), dict(at_least=1), 'shown'), ((0, 3), dict(at_least=1), 'not shown'), ((0, .9), dict(at_least=1), 'contradicted'),
    ((1, 3), dict(at_most=3), 'shown'), ((1, 4), dict(at_most=3), 'not shown'), ((3.1, 4), dict(at_most=3), 'contradicted'),
    ((1, 2), dict(at_least=1, at_most=2), 'shown'), ((1, 2), dict(at_least=1.5, at_most=1.6), 'not shown'),
    ((1, 2), dict(at_least=3, at_most=4), 'contradicted')])
def test_verdicts(interval, line, verdict):
    assert judge_claim('s', sum(interval)/2, interval=interval, **line).verdict == verdict


def test_a_true_gain_is_shown_as_often_as_its_level_says():
    "Of true claims on the line itself, 2.5 % are shown: the interval keeps its promise."
    rng = np.random.default_rng(0)
    shown = [judge_claim('s', rng.normal(0, 1, 5), at_least=0).verdict == 'shown' for _ in range(4000)]
    assert .018 < np.mean(shown) < .033


@pytest.mark.parametrize('figure, how, words', [
    (1., dict(at_least=0), 'several seeds'), ([1.], dict(at_least=0), '2 or more runs'),
    ([1., float('nan')], dict(at_least=0), 'diverged'), ([1., 2], {}, 'needs a line'),
    ([1., 2], dict(at_least=2, at_most=1), 'No figure'), (1., dict(at_least=0, interval=(2, 3)), 'does not hold'),
    (1., dict(at_least=0, interval=(0, 3), exact=True), 'not exact'), ([1., 2], dict(at_least=0, exact=True), 'one number a run'),
    (1., dict(at_least=0, interval='ab'), 'low, high'), ('x', dict(at_least=0), 'a number'), (True, dict(at_least=0), 'a number'),
    ([[1., 2], [3, 4]], dict(at_least=0), 'a number'), ([1., 2], dict(at_least='0'), 'a number was expected'),
    ([1., 2], dict(at_least=0, level=95), 'share between 0 and 1')])
def test_a_figure_that_decides_nothing_is_refused(figure, how, words):
    with pytest.raises(InputError, match=words): judge_claim('s', figure, **how)


def test_a_sentence_is_needed_and_shown_as_text(capsys):
    with pytest.raises(InputError, match='a sentence'): judge_claim(' ', [1., 2], at_least=0)
    shown = []
    import IPython.display
    IPython.display.display, before = lambda *a, **k: shown.append(a[0]), IPython.display.display
    try: claim('<b>more</b>', [1., 2, 1.5], at_least=0, unit='points', published=2., source='<i>')
    finally: IPython.display.display = before
    data, = shown
    assert '<b>more' not in data['text/html'] and '&lt;b&gt;more' in data['text/html'] and '3 seeds' in data['text/plain']
    again, = collect_claims({'cells': [{'outputs': [{'data': json.loads(json.dumps(data))}]}]})
    assert again.sentence == '<b>more</b>' and 'published: 2 points (<i>)' in describe_claim(again)
    assert claim_table([again]).verdict.tolist() == ['shown']


def test_a_damaged_claim_is_named():
    with pytest.raises(InputError, match='damaged'): collect_claims({'cells': [{'outputs': [{'data': {CLAIM_MIME: {'sentence': 's'}}}]}]})


def test_no_saved_lesson_holds_a_sentence_that_its_own_figure_contradicts():
    said = {n: collect_claims(read_notebook(p)) for n, p in notebooks().items() if n != 'lib/claims'}
    assert all(isinstance(c, Claim) for cs in said.values() for c in cs)
    assert [(n, c.sentence) for n, cs in said.items() for c in cs if c.verdict == 'contradicted'] == []
