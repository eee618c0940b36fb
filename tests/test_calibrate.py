"Expectations: what is refused, what is held against what, and how bounds are made from runs."
import json, random

import pytest
from helpers import refused
from test_course import book, visft  # noqa: F401

from visft_nb.core import InputError, fast_bf16, uses_bf16
from visft_nb.course.book import book_dir, notebooks
from visft_nb.course.calibrate import expectation, of_the_machine, seeded, settings, spread, tolerance_factor
from visft_nb.course.records import check_expectation, compare, load_expected, meets, orphans

PROFILES = ['smoke', 'laptop', 'night']


@pytest.mark.parametrize('expected, words', [
    ({'mim': 3}, ["'mim'", 'there are']), ({'why': 'seen 97'}, ['states nothing']), ({}, ['states nothing']),
    ({'min': 0, 'maximum': 1}, ["'maximum'"]), ([0, 1], ['[0, 1]']), (97, ['97'])])
def test_a_misspelt_expectation_is_refused(expected, words):
    with refused(['accuracy', *words]): check_expectation('accuracy', expected)


@pytest.mark.parametrize('value, expected, met', [
    (3., {'value': 3.1, 'abs': .2}, True), (3., {'value': 3.3, 'abs': .2}, False), (3., {'value': 3.3, 'rel': .1}, True),
    (3., {'min': 3}, True), (3., {'max': 2.9}, False), (3, {'equals': 3}, True), (True, {'equals': 1}, False), (1, {'equals': True}, False),
    ('3', {'min': 0}, False), (True, {'min': 0}, False), (float('nan'), {'finite': True}, False), (float('inf'), {'min': 0}, False),
    (3., {'above': 'low'}, True), (3., {'below': 'low'}, False), (3., {'above': 'gone'}, False), (3., {'above': 'low', 'max': 2}, False),
    (2., {'above': 'low'}, False), (7., {'finite': True}, True)])
def test_what_meets_what(value, expected, met): assert meets(value, expected, {'low': 2., 'word': 'x'}) is met


def test_a_record_without_an_expectation_and_the_reverse_are_faults():
    rows = compare({'a': 1., 'b': 2.}, {'a': {'min': 0}, 'c': {'min': 0}, '_run': {'seconds': 3}})
    assert [(r['name'], r['verdict']) for r in rows] == [('a', 'ok'), ('b', 'not expected'), ('c', 'missing')]


@pytest.mark.notebook
def test_a_record_that_nobody_expects_fails_the_run(book, tmp_path):  # noqa: F811
    top = book(a=['STEPS = 5', 'from visft_nb.core import record\nrecord(steps=STEPS)'])
    done = visft('run', 'a', book=top, cwd=tmp_path)
    assert done.returncode == 1 and 'not expected' in done.stdout


@pytest.mark.parametrize('profile', PROFILES)
def test_every_file_of_expectations_is_whole_and_has_its_notebook(profile):
    assert orphans(profile) == []
    for name in notebooks(): load_expected(name, profile)


def test_what_smoke_expects_was_calibrated():
    "Made by `visft calibrate`: it says how, from which runs and on which machine, and no figure was typed."
    files = sorted((book_dir()/'tests/expected/smoke').glob('*.json'))
    assert len(files) > 40
    for path in files:
        found = json.loads(path.read_text())
        told = found.get('_calibrated', {})
        assert len(told.get('runs', [])) >= 3 and told['machine']['torch'] and told['how'], path.name
        for k, e in found.items():
            if k[0] == '_': continue
            assert e['seen'] and e.get('why', 'a word'), (path.name, k)
            if of_the_machine(k, e): assert set(e) == {'min', 'seen', 'why'} and e['min'] == 0, f'{path.name}: a faster machine may not fail {k}'
            if 'value' in e and len(e['seen']) > 1: assert 2*e['abs'] <= 1.01*abs(e['value']), f'{path.name}: the band of {k} is wider than its value'


def test_the_factor_is_howes():
    "Near the exact factors of two-sided limits (ISO 16269-6; 95 % confidence, 99 % of the population) for n = 5, 10, 30."
    assert [tolerance_factor(n, .99, .95) for n in (5, 10, 30)] == pytest.approx([6.634, 4.433, 3.350], rel=.01)
    with refused(['1 run', 'two or more']): tolerance_factor(1)


@pytest.mark.parametrize('mean, sd', [(90, 1), (40, 8), (2, 3), (-5, 1), (1e-6, 4e-7), (.3, .01)])
def test_further_runs_meet_what_eight_runs_gave(mean, sd):
    draw = random.Random(0)
    runs = lambda n: [{'figure': draw.gauss(mean, sd)} for _ in range(n)]
    failed = 0
    for _ in range(40):
        e = expectation('figure', runs(8))
        failed += sum(not meets(r['figure'], e) for r in runs(25))
        s = spread([float(v) for v in e['seen']])
        assert 'value' not in e or s.narrow, 'a band wider than its value was stated'
    assert failed <= 10, f'{failed} of 1000'


def test_an_order_is_found_where_a_band_says_nothing():
    draw = random.Random(1)
    runs = [dict(clean_accuracy=90 + draw.gauss(0, 2), pgd_accuracy=max(0, 12 + draw.gauss(0, 9)), pgd_gain=draw.gauss(0, 5)) for _ in range(8)]
    assert expectation('clean_accuracy', runs).keys() >= {'value', 'abs'}
    assert expectation('pgd_accuracy', runs)['below'] == 'clean_accuracy'
    stated = expectation('pgd_gain', runs, {'below': 'clean_accuracy'})
    assert stated['below'] == 'clean_accuracy', 'an order that somebody stated stays'
    wrong = expectation('pgd_gain', runs, {'above': 'clean_accuracy'})
    assert 'above' not in wrong and ('finite' in wrong or 'below' in wrong)


def test_the_side_of_a_bound_stays():
    runs = [dict(x=v) for v in (50., 51, 49, 50.5, 50.2, 49.7, 50.1, 50.3)]
    assert set(expectation('x', runs, {'min': 3})) == {'min', 'seen', 'why'} and set(expectation('x', runs, {'max': 99})) == {'max', 'seen', 'why'}
    errors = [dict(x=v) for v in (1e-8, 5e-8, 2e-8, 3e-7, 1e-7, 1e-7, 4e-8, 1e-8)]
    assert expectation('x', errors, {'max': 1e-3})['max'] == 1e-3


def test_what_never_changed():
    same = lambda v: [{'x': v}]*8
    assert expectation('x', same(61706))['equals'] == 61706 and expectation('x', same('cpu'))['equals'] == 'cpu'
    ceiling = expectation('x', same(100.))
    assert meets(98.4, ceiling) and not meets(90., ceiling)
    with refused(['True', 'False', 'no spread']): expectation('x', [{'x': True}, {'x': False}])


def test_a_faster_machine_meets_everything():
    runs = [dict(train_seconds=30. + i, speedup=3. + i/10) for i in range(8)]
    for k, fast in (('train_seconds', .01), ('speedup', 400.), ('speedup', .2)): assert meets(fast, expectation(k, runs))


def test_seeds_move_and_lists_of_seeds_share_none():
    own = {'SEED': 3, 'SEEDS': [0, 1, 2], 'SHORT_SEEDS': 2, 'EPOCHS': 5}
    sets = [seeded(own, k).get('SEEDS', own['SEEDS']) for k in range(4)]
    assert len({s for x in sets for s in x}) == 12 and seeded(own, 2)['SEED'] == 5 and 'SHORT_SEEDS' not in seeded(own, 2)


def test_the_settings_are_four_where_bf16_is_fast():
    s = settings(5)
    assert len({(x.threads, x.precision) for x in s}) == (4 if fast_bf16('cpu') else 2) and len(s) == (8 if fast_bf16('cpu') else 6)
    with refused(['--seeds 1']): settings(1)


@pytest.mark.parametrize('name, bf16', [('fp32', False), ('bf16', True)])
def test_the_precision_is_forced_everywhere(monkeypatch, name, bf16):
    import torch

    from visft_nb.core import autocast
    from visft_nb.train import make_accelerator
    monkeypatch.setenv('VISFT_PRECISION', name)
    assert uses_bf16('cpu') is bf16 and (make_accelerator().mixed_precision == 'bf16') is bf16
    with autocast('cpu'): assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == (torch.bfloat16 if bf16 else torch.float32)
    assert not uses_bf16('cpu', 'fp32'), 'what is asked for by name stays'
    monkeypatch.setenv('VISFT_PRECISION', 'fp16')
    with pytest.raises(InputError, match='VISFT_PRECISION'): uses_bf16('cpu')


def test_threads_are_forced_and_nonsense_is_named(tmp_path):
    import subprocess
    import sys
    code = 'from visft_nb.train import fit; import torch, numpy; print(torch.get_num_threads())'
    env = {k: v for k, v in __import__('os').environ.items() if not k.endswith('_NUM_THREADS')}
    for n in (1, 3):
        done = subprocess.run([sys.executable, '-c', code], env={**env, 'VISFT_THREADS': str(n)}, capture_output=True, text=True)
        assert done.stdout.split() == [str(n)], done.stderr
    late = 'import torch; torch.set_num_threads(2); import visft_nb.core; print(torch.get_num_threads())'
    done = subprocess.run([sys.executable, '-c', late], env={**env, 'VISFT_THREADS': '1'}, capture_output=True, text=True)
    assert done.stdout.split() == ['1'], 'torch was there before the kit'
    done = visft('list', cwd=tmp_path, VISFT_THREADS='two')
    assert done.returncode == 2 and "'two' threads (VISFT_THREADS)" in done.stderr and 'Traceback' not in done.stderr


NOTEBOOK = ['SEED = 0', 'import os\nfrom visft_nb.core import record\n'
            'record(accuracy=90. + SEED, count=7, fit_seconds=1., both=int(os.environ["VISFT_THREADS"]) + .5*(os.environ["VISFT_PRECISION"] == "fp32"))']


@pytest.mark.notebook
def test_calibrate_writes_goes_on_and_follows_a_renamed_notebook(book, tmp_path):  # noqa: F811
    top, cache = book(a=NOTEBOOK), {'VISFT_CACHE': str(tmp_path/'cache')}
    (top/'settings.ini').write_text('')
    call = lambda name, *more: visft('calibrate', name, '--seeds', '2', *more, book=top, cwd=tmp_path, **cache)
    ran = lambda done: sum(' thread' in s and ' s' == s[-2:] for s in done.stdout.splitlines())
    first, path = call('a'), top/'tests/expected/smoke/a.json'
    assert first.returncode == 0, first.stdout + first.stderr
    found, n = json.loads(path.read_text()), len(settings(2))
    assert ran(first) == n and found['count'] == {'equals': 7, 'seen': [7], 'why': f'the same in all {n} runs'}
    assert found['fit_seconds']['min'] == 0 and found['_calibrated']['machine']['torch'] and len(found['both']['seen']) == n
    assert len(set(found['both']['seen'])) == (4 if fast_bf16('cpu') else 2), 'each setting was in force'
    for kept in list((tmp_path/'cache').rglob('0-2-*.json')): kept.unlink()   # as if it had been interrupted
    again = call('a')
    assert ran(again) == (2 if fast_bf16('cpu') else 1) and json.loads(path.read_text())['count'] == found['count']
    done = visft('run', 'a', '--profile', 'smoke', book=top, cwd=tmp_path, VISFT_THREADS='1', VISFT_PRECISION='fp32')
    assert done.returncode == 0, done.stdout
    (top/'nbs/a.ipynb').rename(top/'nbs/b.ipynb')
    path.write_text(json.dumps(found | {'accuracy': found['accuracy'] | {'max': 99.}}))
    assert call('b').returncode == 0
    assert not path.exists() and (top/'tests/expected/smoke/b.json').is_file()


@pytest.mark.notebook
def test_calibrate_says_what_failed(book, tmp_path):  # noqa: F811
    top = book(a=['SEED = 0', 'assert SEED == 0, "only this seed"'])
    done = visft('calibrate', 'a', '--seeds', '2', book=top, cwd=tmp_path, VISFT_CACHE=str(tmp_path/'cache'))
    assert done.returncode == 2 and 'seed 1' in done.stderr and 'only this seed' in done.stderr and 'Traceback' not in done.stderr
