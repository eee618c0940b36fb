"How the suite is spread over processes, and what several files share: a data folder, the kit installed from its wheel."
import os, shutil, signal, subprocess, sys
from pathlib import Path

import pytest
from filelock import FileLock

# One thread a process, before torch is loaded: the suite runs one process a core. VISFT_THREADS forces another number.
for _threads in ('OMP_NUM_THREADS', 'MKL_NUM_THREADS'): os.environ.setdefault(_threads, '1')

# A job in the background is born deaf to Ctrl-C (under nohup to the end of its terminal), and so would be the commands that the tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN: signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, 'SIGHUP') and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN: signal.signal(signal.SIGHUP, signal.SIG_DFL)

ROOT = Path(__file__).resolve().parents[1]


def cores(): return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


# These fork and train in the children, which torch allows only before the simulated GPU of other tests has given autograd threads of its own.
FORKING = 'two_processes', 'rows_are_gathered', 'wrong_in_a_process'


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    "The whole suite runs side by side, one process a core and one more, for the waits, and four at most; files or words that are named, in this one; `-n` has the last word."
    named = config.args_source != pytest.Config.ArgsSource.TESTPATHS or config.option.keyword or config.option.usepdb
    if named or hasattr(config, 'workerinput') or getattr(config.option, 'numprocesses', 0) is not None: return
    config.option.numprocesses, config.option.dist = min(cores() + 1, 4), 'worksteal'


def _cost(item):
    "What a notebook's run may take, for the order: seconds at smoke scale where they are known."
    from visft_nb.course.records import load_expected
    name = item.callspec.params['name']
    known = {p: load_expected(name, p).get('_run', {}).get('seconds') for p in ('smoke', 'laptop')}
    return known['smoke'] or (known['laptop'] or 0)/10


def pytest_collection_modifyitems(items):
    """The notebooks' runs come last, longest first: each process begins with a run of whole files, whose fixtures it makes once, and who has
    done its share takes from the end of another's, where the short ones are. One process builds the site while the others have other work; what
    looks at it comes behind."""
    builds = next((i for i in items if 'site' in getattr(i, 'fixturenames', ())), None)
    def rank(item):
        if any(w in item.name for w in FORKING): return -2, 0
        if item is builds: return -1, 0
        if item.originalname == 'test_runs_from_the_wheel': return 2, -_cost(item)
        return int('site' in item.fixturenames), 0
    items.sort(key=rank)


@pytest.fixture(scope='session')
def root(): return ROOT


@pytest.fixture(scope='session')
def data_root():
    "The folder of real data sets that `VISFT_DATA` names."
    here = os.environ.get('VISFT_DATA')
    if not here or not Path(here).is_dir(): pytest.skip('VISFT_DATA names no folder, so the tests on real data sets are skipped')
    return Path(here)


def once(tmp_path_factory, name, make):
    "A folder that `make(folder)` fills, made by the first process of the suite that asks for it."
    top = tmp_path_factory.getbasetemp()
    if 'PYTEST_XDIST_WORKER' in os.environ: top = top.parent
    folder, done = top/name, top/f'{name}.done'
    with FileLock(top/f'{name}.lock'):
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            done.touch()
    return folder


def _install(top):
    build = [sys.executable, '-m', 'build', '--wheel', '--no-isolation', '--outdir', str(top/'dist'), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True, text=True)
    wheel, = (top/'dist').glob('*.whl')
    subprocess.run([sys.executable, '-m', 'pip', 'install', '-q', '--no-deps', '--target', str(top/'site'), str(wheel)], check=True, capture_output=True)
    (top/'home').mkdir()


@pytest.fixture(scope='session')
def wheel_env(tmp_path_factory):
    "An environment in which `visft_nb` is the one of a freshly built wheel, with an empty home."
    top = once(tmp_path_factory, 'wheel', _install)
    kept = 'VISFT_THREADS', 'VISFT_PRECISION'   # what a run of the suite forces is forced in the notebooks too
    env = {k: v for k, v in os.environ.items() if k in kept or not k.startswith(('VISFT_', 'XDG_', 'JUPYTER', 'IPYTHON'))}
    return {**env, 'PYTHONPATH': str(top/'site'), 'HOME': str(top/'home'), 'PYTHONDONTWRITEBYTECODE': '1'}


@pytest.fixture(scope='session')
def site(tmp_path_factory):
    "The docs site of the real book, built once for all tests and processes."
    from test_docs import build_site
    return once(tmp_path_factory, 'site', build_site)/'site'
