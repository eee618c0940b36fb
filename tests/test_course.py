"Runs, profiles, the command line: what arrives, what fails, what an interruption leaves."
import asyncio, json, os, shutil, signal, subprocess, sys, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from visft_nb.core import InputError
from visft_nb.course.book import find_notebooks, notebooks, read_notebook
from visft_nb.course.profiles import check_settings, overrides
from visft_nb.course.runs import NotebookRun, save_run

HEAD = '# T\n\n> Do it\n\nText.'


@pytest.fixture
def book(tmp_path):
    "A book of our own, as a clone: `book(name=[cells])` writes a notebook."
    top = tmp_path/'clone'
    (top/'nbs').mkdir(parents=True)
    (top/'settings.ini').write_text('[smoke]\nSTEPS = 1\n')
    (top/'pyproject.toml').write_text('[project.urls]\nRepository = "https://github.com/a/b"\n')
    shutil.copytree(Path(__file__).resolve().parents[1]/'visft_nb', top/'visft_nb', ignore=shutil.ignore_patterns('__pycache__'))

    def write(**books):
        for name, sources in books.items():
            cells = [dict(cell_type='markdown', id='h', metadata={}, source=HEAD)]
            cells += [dict(cell_type='code', id=f'c{i}', metadata=dict(tags=['parameters']) if i == 0 else {}, source=s, outputs=[], execution_count=None)
                      for i, s in enumerate(sources)]
            kernel = dict(name='python3', display_name='python3', language='python')
            (top/f'nbs/{name}.ipynb').write_text(json.dumps(dict(cells=cells, metadata=dict(kernelspec=kernel), nbformat=4, nbformat_minor=5)))
        return top
    return write


def visft(*args, book=None, cwd=None, wait=True, **env):
    "The command line on a book of our own."
    # a background job is born deaf to the signal; what the command starts hears it again
    code = 'import sys, signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n'
    code += f'sys.argv = ["visft", *{list(map(str, args))!r}]\nfrom visft_nb.course.cli import main; main()'
    path = {'PYTHONPATH': os.pathsep.join(filter(None, [str(book), os.environ.get('PYTHONPATH')]))} if book else {}
    command, env = [sys.executable, '-c', code], {**os.environ, 'COLUMNS': '200', **path, **env}
    if not wait: return subprocess.Popen(command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)


def results(cwd): return {p.parent.parent.name: json.loads(p.read_text()) for p in Path(cwd).glob('_runs/*/*/records.json')}


RECORD = 'from visft_nb.core import record\nrecord(steps=STEPS)'


@pytest.mark.notebook
def test_injected_parameter_arrives_and_skipped_cells_stay(book, tmp_path):
    top = book(a=['STEPS = 5', RECORD, '#| eval: false\nraise RuntimeError'])
    (top/'tests/expected/smoke').mkdir(parents=True)
    (top/'tests/expected/smoke/a.json').write_text('{"steps": {"equals": 1, "why": "the profile"}}')
    done = visft('run', 'a', '--profile', 'smoke', book=top, cwd=tmp_path)
    run = results(tmp_path)['a']
    assert done.returncode == 0, done.stdout + done.stderr
    assert run['records'] == {'steps': 1} and run['rows'][0]['verdict'] == 'ok' and run['memory'] > 10
    report = next(tmp_path.glob('_runs/a/*/report.html')).read_text()
    assert '<table class="record"><tr><th style="text-align:left">steps</th><td style="text-align:right">1</td></tr></table>\n</div>' in report
    done = visft('run', 'a', '-p', 'STEPS=7', '--out', 'mine', book=top, cwd=tmp_path)
    run, = (json.loads(p.read_text()) for p in tmp_path.glob('mine/a/*/records.json'))
    assert run['records'] == {'steps': 7} and 'not compared' in done.stdout


@pytest.mark.notebook
def test_a_failing_notebook_is_shown_and_the_others_go_on(book, tmp_path):
    top = book(a=['STEPS = 5', '1/(STEPS - STEPS)'], b=['STEPS = 5', 'print(STEPS)'])
    done = visft('run', 'all', '--workers', '2', book=top, cwd=tmp_path)
    assert done.returncode == 1 and '1/(STEPS - STEPS)' in done.stdout and 'ZeroDivisionError' in done.stdout
    assert {k: r['status'] for k, r in results(tmp_path).items()} == {'a': 'failed', 'b': 'ok'}
    report = next(tmp_path.glob('_runs/a/*/report.html')).read_text()
    assert 'ZeroDivisionError' in report and 'class="visft-code"' in report


@pytest.mark.notebook
def test_a_figure_that_drifts_fails(book, tmp_path):
    top = book(a=['STEPS = 5', RECORD])
    (top/'tests/expected/laptop').mkdir(parents=True)
    (top/'tests/expected/laptop/a.json').write_text('{"steps": {"value": 4, "abs": 0.5, "why": "x"}, "gone": {"min": 1}}')
    done = visft('run', 'a', book=top, cwd=tmp_path)
    assert done.returncode == 1 and 'differs' in done.stdout and 'missing' in done.stdout


@pytest.mark.notebook
@pytest.mark.parametrize('sign', [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_reaches_the_kernel_and_keeps_what_finished(book, tmp_path, sign):
    wait = ('import time\nopen("started", "w").close()\n'
            'try: time.sleep(60)\nexcept KeyboardInterrupt: open("checkpoint", "w").close(); raise')
    top = book(a=['STEPS = 5', 'print(STEPS)'], b=['STEPS = 5', 'print(STEPS)', wait])
    child = visft('run', 'all', book=top, cwd=tmp_path, wait=False)
    deadline = time.time() + 90
    while not list(tmp_path.glob('_runs/b/*/started')) and time.time() < deadline and child.poll() is None: time.sleep(.2)
    child.send_signal(sign)
    said = child.communicate(timeout=60)
    assert child.returncode == 130, said
    assert {k: r['status'] for k, r in results(tmp_path).items()} == {'a': 'ok', 'b': 'interrupted'}
    assert list(tmp_path.glob('_runs/b/*/checkpoint')) and 'Traceback' not in said[1]


DEAF = 'import time\ndef deaf():\n    while True:\n        try: time.sleep(60)\n        except KeyboardInterrupt: pass\ndeaf()'


def within_a_limit(book, cwd, expected, *args):
    "Run a book whose notebook `a` never ends: {name: results}. The limit is the first one in which this machine, busy as it is, comes as far as that."
    for limit in (12, 40, 130):
        (folder := cwd/str(limit)).mkdir()
        done = visft('run', 'all', '--workers', '2', '--limit', limit, *args, book=book, cwd=folder)
        runs = results(folder)
        assert runs['a']['status'] == 'failed' and f'not finished after {limit} s' in runs['a']['error'], done.stdout + done.stderr
        if {k: r['status'] for k, r in runs.items()} == expected and 'in deaf' in runs['a']['error']: break
    assert done.returncode == 1 and {k: r['status'] for k, r in runs.items()} == expected, done.stdout + done.stderr
    assert 'in deaf' in runs['a']['error']
    return runs


@pytest.mark.notebook
def test_a_run_over_its_limit_says_where_it_stood(book, tmp_path):
    within_a_limit(book(a=['STEPS = 5', DEAF], b=['STEPS = 5', 'print(STEPS)']), tmp_path, {'a': 'failed', 'b': 'ok'})


@pytest.mark.notebook
def test_what_a_notebook_leaves_behind_does_not_hold_up_the_end(book, tmp_path):
    left = ('import subprocess, sys\nwith open("left", "w") as f: f.write(str(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], '
            'start_new_session=True).pid))')
    done = visft('run', 'a', book=book(a=['STEPS = 5', left]), cwd=tmp_path)
    pid = int(next(tmp_path.glob('_runs/a/*/left')).read_text())
    assert done.returncode == 0 and psutil.pid_exists(pid), done.stdout + done.stderr
    psutil.Process(pid).kill()


@pytest.mark.notebook
def test_a_kernel_that_dies_is_named(book, tmp_path):
    done = visft('run', 'a', book=book(a=['STEPS = 5', 'import os; os.abort()']), cwd=tmp_path)
    assert done.returncode == 1 and 'its kernel died' in done.stdout and 'Traceback' not in done.stderr, done.stdout + done.stderr


@pytest.mark.notebook
def test_save_writes_outputs_once(book, tmp_path):
    top = book(a=['STEPS = 5', RECORD, 'import os; print(os.getcwd())'])
    first = visft('run', 'a', '--save', book=top, cwd=tmp_path)
    saved = (top/'nbs/a.ipynb').read_text()
    assert 'saved' in first.stdout and '"steps": 5' in saved and str(tmp_path) not in saved and 'papermill' not in saved
    assert json.loads((top/'tests/expected/laptop/a.json').read_text())['_run']['cores'] >= 1
    second = visft('run', 'a', '--save', book=top, cwd=tmp_path)
    assert 'unchanged' in second.stdout and (top/'nbs/a.ipynb').read_text() == saved
    assert 'visft' not in json.loads(saved)['metadata']
    (top/'settings.ini').write_text('[night]\nSTEPS = 6\n')
    visft('run', 'a', '--profile', 'night', '--save', book=top, cwd=tmp_path)
    kept = json.loads((top/'nbs/a.ipynb').read_text())
    assert kept['metadata']['visft'] == {'profile': 'night'} and '"steps": 6' in json.dumps(kept)


def test_save_refuses_other_profiles():
    with pytest.raises(InputError, match='laptop or night'): save_run(NotebookRun('lib/core', 'smoke', status='ok'))
    with pytest.raises(InputError, match='no parameter set by hand'): save_run(NotebookRun('lib/core', 'laptop', {'SEED': 3}, status='ok'))


@pytest.mark.parametrize('args, words', [
    (['run', 'tuor'], ['tour', 'did you mean']), (['run', 'core', '--profile', 'smok'], ['smoke']),
    (['run', 'core', '-p', 'SED=1'], ['SEED']), (['run', 'core', '-p', 'SEED=one'], ['SEED', 'str', 'int']),
    (['run', 'core', '-p', 'SEED'], ['NAME=VALUE']), (['run', 'core', '--workers', '0'], ['workers']),
    (['run', 'core', '--out', '/proc/none'], ['--out']), (['data', 'get', 'minst5k'], ['mnist5k']),
    (['predict', 'no.onnx', 'no.png'], ['no.onnx']), (['list', 'cmn'], ['cnn'])])
def test_bad_arguments_get_one_sentence(args, words, tmp_path):
    done = visft(*args, cwd=tmp_path)
    said = done.stderr
    assert done.returncode == 2 and 'Traceback' not in said and all(w in said for w in words), said
    assert not list(tmp_path.rglob('*.ipynb'))


def test_find_notebooks_takes_short_names():
    names = list(notebooks())
    assert find_notebooks('core') == ['lib/core'] and find_notebooks('nbs/tour.ipynb') == ['tour']
    assert find_notebooks('robust') == [n for n in names if n.startswith('4_robust/')]
    assert 'index' not in find_notebooks('all')


@pytest.mark.parametrize('ini, words', [
    ('[smoke a]\nSTEP = 1\n', 'no parameter STEP'), ('[smoke]\nSTEPS = "x"\n', 'type str'), ('[smokes]\nSTEPS = 1\n', 'did you mean smoke'),
    ('[smoke]\nSTEPS = one\n', 'no Python literal'), ('[smoke b]\nSTEPS = 1\n', 'no such notebook'), ('[laptop]\nSTEPS = 1\n', 'change it there'),
    ('[smoke]\nSTEPS = 1\n[night]\nSTEPS = 2\n', 'sorted'), ('[smoke]\nEPOCHS = 1\n', 'no notebook has')])
def test_the_gate_names_each_fault(book, ini, words):
    top = book(a=['STEPS = 5', 'print(STEPS)'])
    assert check_settings(top) == []
    (top/'settings.ini').write_text(ini)
    assert any(words in f for f in check_settings(top)), check_settings(top)


def test_the_gate_finds_dead_parameters(book):
    top = book(a=['STEPS = 5\nRATE = 1.', 'STEPS = 6; print(STEPS)'])
    assert len(check_settings(top)) == 2


def test_a_whole_number_will_do_for_a_float(book):
    top = book(a=['RATE = 0.5', 'print(RATE)'])
    (top/'settings.ini').write_text('')
    value = overrides('a', 'laptop', {'RATE': 1}, top)['RATE']
    assert value == 1.0 and isinstance(value, float)


def test_list_and_doctor_answer(tmp_path):
    listed = visft('list', cwd=tmp_path)
    assert listed.returncode == 0 and all(n in listed.stdout for n in notebooks() if n != 'index')
    assert 'VISFT_DATA' in visft('doctor', cwd=tmp_path).stdout


def test_the_tour_is_the_default(): assert 'tour' in notebooks() and read_notebook(notebooks()['tour'])['cells']


def test_one_install_cell_whoever_wrote_it(tmp_path):
    "A copy by hand of Colab's install cell is replaced, not joined by a second one."
    from visft_nb.course.book import book_dir, install_cell, sync_headers
    shutil.copytree(book_dir()/'nbs'/'course', tmp_path/'nbs'/'course')
    for f in ('settings.ini', 'pyproject.toml'): shutil.copy(book_dir()/f, tmp_path)
    path = tmp_path/'nbs'/'course'/'01_profiles.ipynb'
    nb = json.loads(path.read_text())
    nb['cells'].insert(1, dict(cell_type='code', execution_count=None, id='byhand', metadata={}, outputs=[], source=install_cell(tmp_path).splitlines(keepends=True)))
    path.write_text(json.dumps(nb))
    sync_headers(tmp_path)
    cells = [''.join(c['source']) for c in json.loads(path.read_text())['cells']]
    assert cells.count(install_cell(tmp_path)) == 1


@pytest.mark.parametrize('given,word', [('EPOCHS=-1', 'more than 0'), ('RATES=[1e999]', 'more than 0'), ('SEED=-1', '0 or more'),
                                        ('EPOCHS=many', 'of type str'), ('RATES=[]', 'empty'), ('RATES=["a"]', 'expected numbers'),
                                        ('HIDDEN=1.5', 'at most 1'), ('DATA=mnist4k', 'mnist5k'), ('EPOCH=1', 'EPOCHS')])
def test_a_value_that_the_notebook_cannot_mean_is_refused_before_anything_runs(book, tmp_path, given, word):
    parameters = 'SEED = 0\nEPOCHS = 3\nRATES = [.1, .2]\nHIDDEN = .5   # share of the pixels\nDATA = "mnist5k"'
    top = book(a=[parameters, 'print(SEED, EPOCHS, RATES, HIDDEN, DATA)\nopen("ran", "w")'])
    (top/'settings.ini').write_text('[smoke]\n')
    done = visft('run', 'a', '-p', given, book=top, cwd=tmp_path)
    assert done.returncode == 2 and word in done.stdout + done.stderr
    assert 'Traceback' not in done.stderr and not list(tmp_path.rglob('ran')) and not (tmp_path/'_runs').exists()


def test_zero_and_negative_numbers_pass_where_the_notebook_says_so(book):
    top = book(a=['SEED = 0\nTURN = 3   # degrees (any sign)\nEXTRA = 2   # epochs (from 0)\nPEERS = ["a"]   # (may be empty)', 'print(SEED, TURN, EXTRA, PEERS)'])
    (top/'settings.ini').write_text('[smoke]\n')
    given = {'SEED': 0, 'TURN': -7, 'EXTRA': 0, 'PEERS': []}
    assert overrides('a', 'laptop', given, book=top) == given


@pytest.mark.parametrize('patient', [False, True])
def test_an_answer_whose_report_was_swallowed_is_read(patient):
    "Writing to a ZeroMQ socket takes the report of a message that has just come; without our client this waits for ever."
    import zmq, zmq.asyncio
    from jupyter_client.asynchronous import AsyncKernelClient
    from jupyter_client.session import Session
    from visft_nb.course.kernels import _patient_client
    client, session = _patient_client() if patient else AsyncKernelClient, Session(key=b'key')

    async def answer():
        with zmq.asyncio.Context() as context, context.socket(zmq.PAIR) as kernel, context.socket(zmq.PAIR) as socket:
            kernel.bind('inproc://shell'); socket.connect('inproc://shell')
            channel = client().shell_channel_class(socket, session, None)
            waits = asyncio.ensure_future(channel.get_msg(timeout=None))
            await asyncio.sleep(.2)
            session.send(kernel, 'execute_reply', dict(status='ok'))
            session.send(socket, 'comm_msg', {})          # before the loop turns: the report is gone
            try: return await asyncio.wait_for(waits, 5)
            except TimeoutError: return None

    with ThreadPoolExecutor(1) as pool: said = pool.submit(asyncio.run, answer()).result()   # the browser has a loop in this thread
    assert (said and said['content']) == (dict(status='ok') if patient else None)
