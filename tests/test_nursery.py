"The nursery: what it forks is as if newly started, obeys signals, ends with its parent; where it must not fork, it refuses."
import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from test_course import DEAF, book, results, visft, within_a_limit  # noqa: F401

from visft_nb.course.nursery import CannotFork, Nursery, can_fork
from visft_nb.course.runs import NotebookRun, Runner, run_folder

pytestmark = pytest.mark.skipif(not can_fork(), reason='this system starts kernels plainly')


def until(true, seconds=60):
    "Wait until something is true."
    end = time.monotonic() + seconds
    while not (found := true()) and time.monotonic() < end: time.sleep(.05)
    return found


def gone(pid):
    try: return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess: return True


# ------------------------------------------------------------------------------------------ the processes themselves

@pytest.fixture
def modules(tmp_path, monkeypatch):
    "Modules of our own that a nursery can run: `modules(name=source)`."
    folder = tmp_path/'modules'
    folder.mkdir()
    monkeypatch.setenv('PYTHONPATH', os.pathsep.join([str(folder), os.environ.get('PYTHONPATH', '')]))

    def write(**sources):
        for name, source in sources.items(): (folder/f'{name}.py').write_text(source)
    return write


@pytest.fixture
def log(tmp_path):
    with open(tmp_path/'log', 'w+') as f: yield f


SAY = 'import json, os, random, sys\nimport numpy as np\nimport torch\n\ndef _main():\n' \
      '    seen = [sys.argv, os.getcwd(), random.random(), np.random.rand(), torch.rand(1).item()]\n' \
      '    print(json.dumps(seen))\n    print("grave", file=sys.stderr)\n    sys.exit(int(sys.argv[1]))\n'


def test_each_child_has_its_arguments_output_code_and_seeds(modules, tmp_path, log, monkeypatch):
    modules(say=SAY)
    with Nursery(preload=('numpy', 'torch', 'no_such_module')) as nursery:
        monkeypatch.chdir(tmp_path)
        children = [nursery.start('say', [str(i), 'x\ny'], log) for i in range(3)]
        assert [c.wait(60) for c in children] == [0, 1, 2] == [c.poll() for c in children]
        seen = [json.loads(c.stdout.read()) for c in children]
    assert [s[0] for s in seen] == [['say', str(i), 'x\ny'] for i in range(3)]
    assert {s[1] for s in seen} == {str(tmp_path)}
    for k in (2, 3, 4): assert len({s[k] for s in seen}) == 3, 'siblings drew the same numbers'
    log.seek(0)
    assert log.read() == 'grave\n'*3
    assert len({c.pid for c in children}) == 3 and nursery.process.returncode == 0


def test_waiting_has_an_end_and_signals_arrive(modules, log):
    modules(deaf='import time\n\ndef _main():\n    print("up", flush=True)\n    time.sleep(600)\n')
    with Nursery(preload=()) as nursery:
        children = [nursery.start('deaf', [], log) for _ in range(3)]
        for c in children: assert c.stdout.readline() == 'up\n'
        with pytest.raises(subprocess.TimeoutExpired): children[0].wait(.1)
        assert children[0].poll() is None
        children[0].kill()
        children[1].send_signal(signal.SIGINT)
        assert children[0].wait(60) == -signal.SIGKILL and children[1].wait(60) not in (0, None)
        children[0].send_signal(signal.SIGINT)     # after its end: nothing happens
        assert not gone(children[2].pid)
    assert until(lambda: gone(children[2].pid)), 'a closed nursery left a process behind'
    assert children[2].wait(60) == -signal.SIGKILL


def test_a_killed_nursery_takes_its_children_along_and_says_that_it_is_gone(modules, log):
    modules(deaf='import time\n\ndef _main():\n    print("up", flush=True)\n    time.sleep(600)\n')
    with Nursery(preload=()) as nursery:
        child = nursery.start('deaf', [], log)
        assert child.stdout.readline() == 'up\n'
        nursery.process.kill()
        assert child.wait(60) == -signal.SIGKILL and until(lambda: gone(child.pid))
        with pytest.raises(CannotFork): nursery.start('deaf', [], log)


STARTED = 'import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n'


def test_no_fork_beside_a_thread(modules, log, tmp_path):
    modules(say=SAY, started=STARTED)
    with Nursery(preload=('started',)) as nursery:
        with pytest.raises(CannotFork, match='2 threads'): nursery.start('say', ['0'], log)


@pytest.mark.notebook
def test_where_a_nursery_refuses_runs_are_started_plainly(modules, tmp_path):
    modules(started=STARTED)
    with Nursery(preload=('started',)) as nursery:
        run, = Runner(report=False, nursery=nursery)([NotebookRun('course/02_records', folder=str(run_folder('course/02_records', tmp_path)))])
    assert run.status == 'ok', run.error


def test_what_is_imported_starts_no_thread(log, modules):
    modules(count='import os, sys\n\ndef _main(): print(len(os.listdir("/proc/self/task")), "torch" in sys.modules)\n')
    with Nursery({**os.environ, 'OMP_NUM_THREADS': '2', 'OPENBLAS_NUM_THREADS': '2', 'VISFT_THREADS': '2'}) as nursery:
        child = nursery.start('count', [], log)
        assert child.wait(120) == 0 and child.stdout.read() == '1 True\n'


@pytest.mark.parametrize('asked, system, may', [(None, 'linux', True), ('1', 'linux', True), ('0', 'linux', False), (None, 'darwin', False),
                                                (None, 'win32', False)])
def test_who_may_fork(monkeypatch, asked, system, may):
    monkeypatch.setattr(sys, 'platform', system)
    monkeypatch.delenv('VISFT_FORK', raising=False)
    if asked: monkeypatch.setenv('VISFT_FORK', asked)
    assert can_fork() is may


# ---------------------------------------------------------------------------------------------------------- kernels

SEEN = """
import json, os, random, signal, sys, threading
import matplotlib.pyplot as plt, numpy as np, sklearn.linear_model, torch, torchvision
from threadpoolctl import threadpool_info
from visft_nb.core import record, set_seed

pools = sorted({(p['user_api'], p['num_threads']) for p in threadpool_info()})
signals = [str(signal.getsignal(s)) for s in (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE)]
env = {k: v for k, v in os.environ.items() if k != 'JPY_PARENT_PID'}
process = dict(argv=sys.argv[:1], options=len(sys.argv), path=sys.path, pools=pools, threads=torch.get_num_threads(), signals=signals, env=env,
               main=sys.modules['__main__'].__name__, backend=plt.get_backend(), leader=os.getsid(0) == os.getpid() == os.getpgid(0),
               parent=os.environ['JPY_PARENT_PID'] == str(os.getppid()), stdin=sys.__stdin__.read(), cwd=os.path.basename(os.path.dirname(os.getcwd())))
drawn = [random.random(), np.random.rand(), torch.rand(1).item()]
set_seed(0)
net = torch.nn.Sequential(torch.nn.Conv2d(1, 16, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(16*64, 3))
x, y = torch.rand(32, 1, 10, 10), torch.arange(32) % 3
optimizer = torch.optim.SGD(net.parameters(), .1)
for _ in range(STEPS):
    optimizer.zero_grad()
    loss = torch.nn.functional.cross_entropy(net(x), y)
    loss.backward()
    optimizer.step()
record(loss=loss.item(), numpy=np.random.rand(), process=json.dumps(process, sort_keys=True), drawn=json.dumps(drawn),
       forked=float('papermill' in sys.modules))
"""
DRAW = "fig, ax = plt.subplots(figsize=(2, 2))\nax.plot(np.arange(5)**2)\nplt.show()"


@pytest.mark.notebook
def test_a_forked_kernel_is_as_a_new_one(book, tmp_path):  # noqa: F811
    top, runs, pictures = book(a=['STEPS = 5', SEEN, DRAW], b=['STEPS = 5', SEEN, DRAW]), {}, {}
    for fork in '01':
        (cwd := tmp_path/fork).mkdir()
        done = visft('run', 'all', '--no-report', '-p', 'STEPS=4', book=top, cwd=cwd, VISFT_FORK=fork, VISFT_THREADS='2')
        assert done.returncode == 0, done.stdout + done.stderr
        runs[fork] = [results(cwd)[n] for n in 'ab']
        cells = [json.loads(next(cwd.glob(f'_runs/{n}/*/{n}.ipynb')).read_text())['cells'] for n in 'ab']
        pictures[fork] = [[o['data'] for o in c[-1]['outputs'] if 'image/png' in o.get('data', {})] for c in cells]
    assert [r['records'].pop('forked') for f in '01' for r in runs[f]] == [0, 0, 1, 1]
    drawn = [json.loads(r['records'].pop('drawn')) for f in '01' for r in runs[f]]
    for k in range(3): assert len({d[k] for d in drawn}) == 4, 'unseeded generators in the same state'
    for mine in runs['1']:
        other, = (r for r in runs['0'] if r['name'] == mine['name'])
        process = [json.loads(r['records'].pop('process')) for r in (mine, other)]
        for p in process:
            for k in ('VISFT_FORK', 'VISFT_OWNER'): p['env'].pop(k, None)   # the way and the command that started it
        assert dict(process[0].pop('env').items() ^ process[1].pop('env').items()) == {} and process[0] == process[1]
        assert mine['records'] == other['records'] and mine['machine'] == other['machine'] and mine['memory'] > 100
    assert process[0]['threads'] == 2 and process[0]['leader'] and process[0]['parent'] and 'inline' in process[0]['backend']
    assert pictures['0'] == pictures['1'] and all(len(p) == 1 for p in pictures['1'])


@pytest.mark.notebook
def test_limit_and_death_are_named_and_the_rest_goes_on(book, tmp_path):  # noqa: F811
    top = book(a=['STEPS = 5', DEAF], b=['STEPS = 5', 'import os; os.abort()'], c=['STEPS = 5', 'import sys; assert "papermill" in sys.modules'])
    runs = within_a_limit(top, tmp_path, dict(a='failed', b='failed', c='ok'))
    assert 'its kernel died' in runs['b']['error']


@pytest.mark.notebook
@pytest.mark.parametrize('sign', [signal.SIGKILL, signal.SIGHUP])
def test_nursery_runner_and_kernel_end_with_the_command(book, tmp_path, sign):  # noqa: F811
    busy = 'import os\nopen("pids", "w").write(f"{os.getpid()} {os.getppid()}\\n")\nwhile True: pass'
    child = visft('run', 'all', book=book(a=['STEPS = 5', busy], b=['STEPS = 5', busy]), cwd=tmp_path, wait=False)
    path = until(lambda: [p for p in tmp_path.glob('_runs/*/*/pids') if p.read_text().endswith('\n')], 120)
    pids = [int(p) for p in path[0].read_text().split()] + [p.pid for p in psutil.Process(child.pid).children(recursive=True)]
    assert len(set(pids)) >= 3, 'kernel, runner, nursery'
    child.send_signal(sign)
    child.communicate(timeout=60)
    assert until(lambda: all(map(gone, pids))), [psutil.Process(p).cmdline() for p in pids if not gone(p)]


@pytest.mark.notebook
def test_a_second_kernel_is_started_plainly():
    code = '''
import sys
from visft_nb.course.nursery import _be_kernel, _plant, _Seed
seed = _Seed()
if seed.pid == 0:
    _be_kernel(seed.order)
    sys.exit()
_plant(seed)
from jupyter_client import KernelManager
km = KernelManager(kernel_name='python3')
km.start_kernel()
first = km.provisioner.pid
km.restart_kernel(now=True)
kc = km.client()
kc.start_channels()
kc.wait_for_ready(60)
reply = kc.execute_interactive('pass', timeout=60)
print('', first == seed.pid, km.provisioner.pid != seed.pid, reply['content']['status'])
km.shutdown_kernel(now=True)
'''
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=180)
    assert done.stdout.split()[-3:] == ['True', 'True', 'ok'], done.stdout + done.stderr
