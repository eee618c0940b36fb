"What must hold when the machine fails or a name is hostile: killed processes, full disks, closed terminals, markup and formulas."
import errno, http.client, os, select, shutil, signal, socket, subprocess, sys, textwrap, threading, time, warnings
from contextlib import suppress
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from helpers import refused, sentence
import test_course
from test_course import results, visft
from test_train import Noisy, StopAt, batches, net, same
from torch.utils.data import DataLoader

from visft_nb.core import atomic_folder, atomic_write, no_room, owner_lives, owner_mark, sweep
from visft_nb.train import fit, load_checkpoint, unresumable

ROOT, book = Path(__file__).resolve().parents[1], test_course.book


# ---------------------------------------------------------------- exact resumption with worker processes

def noisy(workers=2, **kw): return DataLoader(Noisy(), batch_size=8, shuffle=True, num_workers=workers, **kw)


class NoisyOwn(Noisy):
    "Augmentation from a generator that the data set keeps."
    def __init__(self):
        super().__init__()
        self.rng = np.random.default_rng(0)
    def __getitem__(self, i): return self.x[i] + float(self.rng.random()), self.y[i]


PLAN = dict(epochs=3, lr=.01, seed=7, precision='fp32')


@pytest.mark.parametrize('step, goes_on', [(8, 'the end of epoch 1'), (12, 'there'), (15, 'the end of epoch 2')])
def test_workers_go_on_exactly_from_the_end_of_an_epoch(tmp_path, step, goes_on):
    "Stopped within an epoch, whatever the step: what goes on is the end of the epoch before, bit for bit."
    unbroken, resumed, file = net(), net(seed=1), tmp_path/'c'
    valid = noisy(1 if step == 8 else 0)
    history = fit(unbroken, noisy(), valid, **PLAN)
    with pytest.raises(KeyboardInterrupt) as e: fit(net(), noisy(), valid, checkpoint=file, callbacks=[StopAt(step)], **PLAN)
    kept = load_checkpoint(file)
    assert f'goes on from {goes_on}' in str(e.value) and kept['epoch']*6 + kept['step'] == step//6*6, e.value
    assert fit(resumed, noisy(), valid, checkpoint=file, **PLAN) == history and same(resumed, unbroken)


@pytest.mark.parametrize('data, valid, every, words', [
    (lambda: noisy(), None, 3, ['train', '2 worker processes', 'num_workers=0', 'resume=False']),
    (lambda: noisy(persistent_workers=True), None, None, ['train', 'persistent_workers']),
    (lambda: noisy(0), lambda: noisy(persistent_workers=True), None, ['valid', 'persistent_workers'])])
def test_what_cannot_be_continued_exactly_is_refused_before_it_begins(tmp_path, data, valid, every, words):
    model, kw = net(), dict(every=every, checkpoint=tmp_path/'c', **PLAN)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with refused(['continued exactly', *words]): fit(model, data(), valid and valid(), **kw)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items()) and not list(tmp_path.iterdir())


def test_a_file_within_an_epoch_is_written_on_request_and_not_gone_on_from(tmp_path):
    file = tmp_path/'c'
    with pytest.raises(KeyboardInterrupt) as e: fit(net(), noisy(), every=3, resume=False, checkpoint=file, callbacks=[StopAt(10)], **PLAN)
    assert 'holds an earlier state' in str(e.value) and load_checkpoint(file)['step'] == 3
    sentence(lambda: fit(net(), noisy(), checkpoint=file, **PLAN), 'step 3', 'resume=False')
    fit(net(), noisy(), resume=False, checkpoint=file, **PLAN)
    sentence(lambda: fit(net(), noisy(0), checkpoint=file, **PLAN), 'another run', 'workers')


def test_stopped_before_the_first_epoch_is_over_nothing_is_claimed(tmp_path, capsys):
    with pytest.raises(KeyboardInterrupt, match='no checkpoint was written'): fit(net(), noisy(), checkpoint=tmp_path/'c', callbacks=[StopAt(2)], **PLAN)
    assert not list(tmp_path.iterdir()) and 'checkpoint' not in capsys.readouterr().err
    with pytest.raises(KeyboardInterrupt): fit(net(), batches(), callbacks=[StopAt(2)], **PLAN)
    assert 'checkpoint' not in capsys.readouterr().err
    with pytest.raises(KeyboardInterrupt, match='goes on from there'): fit(net(), batches(), checkpoint=tmp_path/'c', callbacks=[StopAt(2)], **PLAN)
    assert 'the checkpoint written' in capsys.readouterr().err and load_checkpoint(tmp_path/'c')['step'] == 2


def test_what_is_known_to_be_exact_is_not_refused():
    assert unresumable(batches()) is unresumable([]) is unresumable(None) is unresumable(noisy(0)) is unresumable(noisy(), within=False) is None


def test_a_generator_that_no_checkpoint_holds_is_named(tmp_path):
    load = lambda: DataLoader(NoisyOwn(), batch_size=8)
    with pytest.raises(KeyboardInterrupt): fit(net(), load(), checkpoint=tmp_path/'c', callbacks=[StopAt(4)], **PLAN)
    with pytest.warns(UserWarning, match=r'train\.dataset\.rng is a random number generator of its own'): fit(net(), load(), checkpoint=tmp_path/'c', **PLAN)
    with pytest.raises(KeyboardInterrupt): fit(net(), noisy(0), checkpoint=tmp_path/'d', callbacks=[StopAt(4)], **PLAN)
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)
        fit(net(), noisy(0), checkpoint=tmp_path/'d', **PLAN)


# ---------------------------------------------------------------- places that are reserved, and what killed processes leave

def python(code, *args, wait=True, **kw):
    "A process of its own with this package; its output is text."
    env = {**os.environ, 'PYTHONPATH': os.pathsep.join([str(ROOT), str(ROOT/'tests')]), **kw.pop('env', {})}
    command = [sys.executable, '-c', textwrap.dedent(code), *map(str, args)]
    if wait: return subprocess.run(command, env=env, capture_output=True, text=True, **kw)
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kw)


WRITER = '''
import sys, time
from pathlib import Path
from visft_nb.core import InputError, atomic_folder
place, k = Path(sys.argv[1]), sys.argv[2]
print('ready', flush=True); sys.stdin.readline()
try:
    with atomic_folder(place) as (tmp, _):
        (tmp/'who').write_text(k)
        print('writes', flush=True); time.sleep(float(sys.argv[3]))
except InputError as e: print('refused', e, flush=True); sys.exit(2)
'''


def test_of_several_with_one_place_one_writes_and_the_others_are_told_at_once(tmp_path):
    writers = [python(WRITER, tmp_path/'out', k, 6, wait=False, stdin=subprocess.PIPE) for k in range(4)]
    for w in writers: assert w.stdout.readline() == 'ready\n'
    for w in writers: w.stdin.write('\n'); w.stdin.flush()
    said = [w.communicate(timeout=60)[0] for w in writers]
    won = [i for i, s in enumerate(said) if s == 'writes\n']
    assert len(won) == 1 and sorted(w.returncode for w in writers) == [0, 2, 2, 2], said
    assert all('is being written by process' in s or 'is not empty' in s for i, s in enumerate(said) if i not in won), said
    assert (tmp_path/'out'/'who').read_text() == str(won[0]) and os.listdir(tmp_path) == ['out']


def test_a_place_that_somebody_writes_is_refused_and_a_fresh_one_found(tmp_path):
    with atomic_folder(tmp_path/'out') as (tmp, place):
        (tmp/'a').write_text('first')
        with refused(['out is being written by process', str(os.getpid()), '--out']), atomic_folder(tmp_path/'out'): pass
        with atomic_folder(tmp_path/'out', fresh=True) as (second, other):
            (second/'b').touch()
            assert other.name == 'out-1'
    with refused(['out exists and is not empty']), atomic_folder(tmp_path/'out'): pass
    with atomic_folder(tmp_path/'out', fresh=True) as (_, other): assert other.name == 'out-2'
    assert sorted(os.listdir(tmp_path)) == ['out', 'out-1', 'out-2'] and os.listdir(place) == ['a']


def test_work_is_not_lost_where_the_place_was_filled_meanwhile(tmp_path):
    with refused(['filled by somebody else', 'out-1']), atomic_folder(tmp_path/'out') as (tmp, place):
        (tmp/'a').write_text('an hour of work')
        place.mkdir(); (place/'b').touch()
    assert (tmp_path/'out-1'/'a').read_text() == 'an hour of work' and sorted(os.listdir(tmp_path)) == ['out', 'out-1']


def test_an_interruption_says_whether_the_folder_is_there(tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt, match='out was not written'), atomic_folder(tmp_path/'out'): raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt, match='stopped after step 3; .*out was not written'), atomic_folder(tmp_path/'out'): raise KeyboardInterrupt('stopped after step 3')
    assert not os.listdir(tmp_path)
    real = os.replace
    def replace(a, b):
        real(a, b)
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt, match='out was not written'):   # one between the two is told the careful way
        monkeypatch.setattr(os, 'replace', replace)
        with atomic_folder(tmp_path/'out'): pass


LEFT = '''
import os, signal, sys
from pathlib import Path
from visft_nb.core import atomic_folder, atomic_write
with atomic_write(Path(sys.argv[1])/'file.txt') as tmp, atomic_folder(Path(sys.argv[1])/'out') as (folder, _):
    tmp.write_text('half'); (folder/'model').write_text('half')
    print('there', flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
'''


def test_what_a_killed_process_left_is_cleared_by_the_next_start(tmp_path):
    assert python(LEFT, tmp_path).returncode == -signal.SIGKILL
    left = os.listdir(tmp_path)
    assert len(left) == 2 and all(owner_lives(n) is False for n in left), left
    foreign = '.out.00000000.visft-1-1-00000000-abc'   # of another machine: nobody here can know
    (tmp_path/foreign).mkdir()
    with atomic_folder(tmp_path/'out') as (tmp, _): assert sorted(os.listdir(tmp_path)) == sorted([tmp.name, foreign, *(n for n in left if n.startswith('.file'))])
    code = 'import sys; from visft_nb.core import atomic_write\nwith atomic_write(sys.argv[1]) as t: t.write_text("whole")'
    assert python(code, tmp_path/'other.txt').returncode == 0
    assert sorted(os.listdir(tmp_path)) == [foreign, 'other.txt', 'out']


def test_what_living_processes_write_stays(tmp_path):
    with atomic_write(tmp_path/'a.txt') as tmp:
        tmp.write_text('mine')
        assert owner_lives(tmp.name) and not sweep(tmp_path)
        code = 'import sys; from visft_nb.core import sweep; print(sweep(sys.argv[1]))'
        assert python(code, tmp_path).stdout == '[]\n' and tmp.read_text() == 'mine'


def test_a_number_that_is_given_out_anew_is_no_owner():
    mark = owner_mark()
    name, pid, start, machine, _ = mark.split('-')
    assert owner_lives(mark) is True and owner_lives('.a.txt') is None
    assert owner_lives(f'{name}-{pid}-{int(start, 16) - 60:x}-{machine}-') is False
    assert owner_lives(f'{name}-{pid}-{start}-{int(machine, 16) ^ 1:08x}-') is None


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    happened, fsync, replace = [], os.fsync, os.replace
    def synced(fd): happened.append('folder' if os.path.isdir(f'/proc/self/fd/{fd}') else 'file'); fsync(fd)
    def renamed(a, b): happened.append('name'); replace(a, b)
    monkeypatch.setattr(os, 'fsync', synced); monkeypatch.setattr(os, 'replace', renamed)
    with atomic_write(tmp_path/'a') as tmp: tmp.write_text('x')
    if Path('/proc/self/fd').is_dir(): assert happened == ['file', 'name', 'folder']
    else: assert happened.index('name') and happened.count('name') == 1


@pytest.mark.parametrize('name', ['a'*300, 'ä'*200 + '.png', 'x.' + 'y'*300])
def test_a_name_that_is_too_long_is_said_before_the_work(tmp_path, name):
    with refused(['bytes', '255']), atomic_write(tmp_path/name): pytest.fail('the work was begun')
    with refused(['too long']), atomic_folder(tmp_path/name): pytest.fail('the work was begun')
    longest = 'b'*251 + '.png'
    with atomic_write(tmp_path/longest) as tmp: tmp.write_text('x')
    assert os.listdir(tmp_path) == [longest]


@pytest.fixture(scope='module')
def colours(tmp_path_factory):
    "A folder of images of two classes, and a small network to begin with."
    from PIL import Image
    from visft_nb.cnn.models import small_cnn
    from visft_nb.deploy import save_model
    top = tmp_path_factory.mktemp('colours')
    for k, c in enumerate(('dark', 'light')):
        (top/'data'/c).mkdir(parents=True)
        for i in range(12): Image.fromarray(np.random.default_rng(12*k + i).integers(100*k, 100*k + 120, (32, 32, 3), np.uint8)).save(top/'data'/c/f'{i}.png')
    torch.manual_seed(0)
    net = small_cnn(width=8, channels=3, classes=2)
    save_model(net, top/'net.safetensors', 'visft_nb.cnn.models:small_cnn', dict(width=8, channels=3, classes=2), ('dark', 'light'), 32, 3)
    return top


def cli(*args, **kw): return python('import sys; sys.argv[0] = "visft"; from visft_nb.course.cli import main; main()', *args, **kw)


def test_finetune_reserves_its_folder_before_it_learns(colours, tmp_path):
    with atomic_folder(tmp_path/'out'):
        done = cli('finetune', colours/'data', '--backbone', colours/'net.safetensors', '--size', '32', '--out', tmp_path/'out', cwd=tmp_path)
    assert done.returncode == 2 and 'is being written by process' in done.stderr and 'images to learn from' not in done.stdout, done.stdout + done.stderr


def test_finetunes_of_one_second_get_folders_of_their_own(colours, tmp_path, monkeypatch):
    from visft_nb.finetune import folder
    class Noon(folder.datetime):
        @classmethod
        def now(cls): return cls(2030, 1, 1, 12)
    monkeypatch.setattr(folder, 'datetime', Noon); monkeypatch.chdir(tmp_path)
    runs = [folder.finetune_folder(colours/'data', backbone=colours/'net.safetensors', size=32, log=lambda line: None) for _ in range(2)]
    assert [r.folder.name for r in runs] == ['20300101-120000', '20300101-120000-1'] and all((r.folder/'model.safetensors').is_file() for r in runs)


@pytest.mark.parametrize('sign', [s for s in ('SIGINT', 'SIGTERM', 'SIGHUP') if hasattr(signal, s)])
def test_finetune_interrupted_says_what_is_true_and_leaves_nothing(colours, tmp_path, sign):
    code = '''
    import os, signal, sys, time
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(signal, 'SIGHUP'): signal.signal(signal.SIGHUP, signal.SIG_DFL)
    from visft_nb.course.cli import main
    from visft_nb.finetune import folder
    sign = getattr(signal, sys.argv.pop())
    folder.train_network = lambda *_: (os.kill(os.getpid(), sign), time.sleep(30))
    sys.argv[0] = 'visft'
    main()
    '''
    done = python(code, 'finetune', colours/'data', '--backbone', colours/'net.safetensors', '--size', '32', '--out', tmp_path/'out', sign, cwd=tmp_path)
    assert done.returncode == 130 and 'out was not written' in done.stderr and 'Traceback' not in done.stderr, done.stderr
    assert 'checkpoint' not in done.stdout + done.stderr and not os.listdir(tmp_path)


# ---------------------------------------------------------------- no room

@pytest.fixture
def full_disk(tmp_path):
    "A function that makes a disk of so many kB; without the right to mount one, the test is skipped."
    made = []
    def make(kilobytes):
        top = tmp_path/'disk'
        top.mkdir()
        if not sys.platform.startswith('linux') or os.geteuid(): pytest.skip('only root on Linux may mount a small disk; the limit on the size of a file stands for it in other tests')
        if subprocess.run(['mount', '-t', 'tmpfs', '-o', f'size={kilobytes}k', 'tmpfs', str(top)], capture_output=True).returncode: pytest.skip('no disk can be mounted here')
        made.append(top)
        return top
    yield make
    for top in made: subprocess.run(['umount', '-l', str(top)], check=True)


LIMITED = '''
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1])*1024, resource.RLIM_INFINITY))
'''


def limited(code, kilobytes, *args, **kw):
    "A process in which no file may grow beyond so many kB: that is refused as a full disk is, and every system that has the limit lets anybody set it."
    pytest.importorskip('resource')
    return python(LIMITED + textwrap.dedent(code), kilobytes, *args, **kw)


WRITES = '''
import sys
from pathlib import Path
import numpy as np, torch
from visft_nb.core import NoRoom, atomic_write
from visft_nb.cnn.models import small_cnn
from visft_nb.deploy import export_onnx, export_program, save_model
from visft_nb.finetune.work import write_answers
from visft_nb.train import fit, save_checkpoint
import pandas as pd
from PIL import Image
top = Path(sys.argv[-1])
net, x, kw = small_cnn(width=48), torch.rand(2, 1, 28, 28), dict(width=48)
def picture():
    with atomic_write(top/'a.png') as t: Image.fromarray(np.random.default_rng(0).integers(0, 255, (400, 400, 3), np.uint8)).save(t, 'PNG')
def arrays():
    with atomic_write(top/'a.npz') as t: np.savez(t, a=np.random.default_rng(0).random(2**17))
def program():
    export_program(net, top/'a.pt2', x)
ways = dict(
    save_checkpoint=lambda: save_checkpoint(top/'a.ck', w=torch.zeros(2**17)),
    save_model=lambda: save_model(net, top/'a.safetensors', kwargs=kw),
    fit=lambda: fit(net, [(x, torch.tensor([0, 1]))], epochs=1, checkpoint=top/'a.fit'),
    export_onnx=lambda: export_onnx(net, top/'a.onnx', x, dynamo=False), program=program,
    table=lambda: write_answers(pd.DataFrame(np.random.default_rng(0).random((20000, 3))), top/'a.csv'), picture=picture, arrays=arrays)
for name, way in ways.items():
    try: way(); print(name, 'wrote')
    except NoRoom as e: print(name, 'no room' if 'make room' in str(e) and 'cannot be written' in str(e) and 'Traceback' not in str(e) else e)
'''
WAYS = ['save_checkpoint', 'save_model', 'fit', 'export_onnx', 'program', 'table', 'picture', 'arrays']


def old_files(top):
    for n in ('a.ck', 'a.safetensors', 'a.fit.old', 'a.onnx', 'a.pt2', 'a.csv', 'a.png', 'a.npz'): (top/n).write_text('old')


def check_whole(top, done):
    assert [s for s in done.stdout.splitlines()] == [f'{w} no room' for w in WAYS], done.stdout + done.stderr
    assert all(p.read_text() == 'old' for p in top.iterdir() if p.name != 'fill') and not [p for p in top.iterdir() if p.name[0] == '.'] and len(list(top.iterdir())) >= 8


def test_a_limit_on_files_is_one_sentence_and_the_old_file_stays(tmp_path):
    old_files(tmp_path)
    check_whole(tmp_path, limited(WRITES, 100, tmp_path))


def test_a_full_disk_is_one_sentence_and_the_old_file_stays(full_disk):
    top = full_disk(200)
    old_files(top)
    check_whole(top, python(WRITES, top))


def test_no_room_is_told_by_its_number_its_cause_or_its_text():
    wrapped = RuntimeError('x')
    wrapped.__cause__ = OSError(errno.ENOSPC, 'full')
    assert no_room(wrapped) and no_room(OSError(errno.EFBIG, 'x')) and no_room('OSError: [Errno 28] No space left on device')
    assert no_room(shutil.Error([('a', 'b', "[Errno 28] No space left on device: 'b'")])) and no_room(Exception('I/O error (os error 28)'))
    assert not no_room(OSError(errno.EACCES, 'Permission denied')) and not no_room(ValueError('28')) and not no_room(KeyboardInterrupt())


def test_an_error_about_another_file_is_not_laid_to_the_target(tmp_path):
    other = OSError(errno.EACCES, 'Permission denied', '/elsewhere/image.png')
    with pytest.raises(PermissionError, match='image.png'), atomic_folder(tmp_path/'out'): raise other
    with pytest.raises(PermissionError, match='image.png'), atomic_write(tmp_path/'a'): raise other
    with refused(['/elsewhere/cache', 'make room']), atomic_write(tmp_path/'a'): raise OSError(errno.ENOSPC, 'full', '/elsewhere/cache')
    with refused([str(tmp_path/'a'), 'make room']), atomic_write(tmp_path/'a') as tmp: raise OSError(errno.ENOSPC, 'full', str(tmp))
    with refused([str(tmp_path/'a'), 'owner']), atomic_write(tmp_path/'a') as tmp: raise OSError(errno.EACCES, 'Permission denied', str(tmp))


@pytest.mark.parametrize('kind', ['limit', 'disk'])
def test_finetune_without_room_is_one_sentence(colours, tmp_path, kind, request):
    args = ['finetune', colours/'data', '--backbone', colours/'net.safetensors', '--size', '32', '--out']
    if kind == 'limit':
        done = limited('sys.argv[:2] = ["visft"]; from visft_nb.course.cli import main; main()', 8, *args, tmp_path/'out', cwd=tmp_path)
        place = tmp_path
    else:
        place = request.getfixturevalue('full_disk')(16)
        done = cli(*args, place/'out', cwd=tmp_path)
    assert done.returncode == 1 and done.stderr.count('\n') == 1 and 'make room' in done.stderr, done.stdout + done.stderr
    assert not os.listdir(place)


@pytest.mark.notebook
def test_a_run_whose_report_has_no_room_is_not_ok(book, tmp_path):
    "The report's style sheets alone are larger than that; the notebook and its figures are not."
    top = book(a=['STEPS = 5', 'print(STEPS)'])
    code = f'import sys; sys.path.insert(0, {str(ROOT/"tests")!r}); from test_course import visft; import subprocess\n' \
           f'done = visft(*sys.argv[2:], book={str(top)!r}, cwd={str(tmp_path)!r})\nprint(done.stdout); print(done.stderr, file=sys.stderr); sys.exit(done.returncode)'
    done = limited(code, 128, 'run', 'a')
    assert done.returncode == 1 and 'It has no report' in done.stdout and 'make room' in done.stdout and 'Traceback' not in done.stdout + done.stderr, done.stdout + done.stderr
    run = results(tmp_path)['a']
    assert run['status'] == 'failed' and 'no report' in run['error'] and not list(tmp_path.glob('_runs/a/*/report.html'))


@pytest.mark.notebook
def test_a_run_whose_notebook_has_no_room_is_one_sentence(book, tmp_path, full_disk):
    top, disk = book(a=['STEPS = 5', 'print("x"*300_000)']), full_disk(128)
    done = visft('run', 'a', '--out', disk, book=top, cwd=tmp_path)
    assert done.returncode == 1 and 'make room' in done.stdout and 'Traceback' not in done.stdout + done.stderr, done.stdout + done.stderr


def test_a_full_cache_is_named(book, tmp_path, full_disk):
    disk = full_disk(64)
    with suppress(OSError): (disk/'fill').write_bytes(bytes(2**20))
    done = visft('run', 'a', book=book(a=['STEPS = 5', 'print(STEPS)']), cwd=tmp_path, VISFT_CACHE=str(disk/'cache'))
    assert done.returncode == 1 and str(disk/'cache') in done.stderr and 'make room' in done.stderr and done.stderr.count('\n') == 1, done.stdout + done.stderr


def test_docs_without_room_is_one_sentence(tmp_path):
    done = limited('sys.argv[:2] = ["visft"]; from visft_nb.course.cli import main; main()', 4, 'docs', '--out', tmp_path/'site', cwd=tmp_path)
    assert done.returncode == 1 and done.stderr.count('\n') == 1 and 'room' in done.stderr, done.stdout + done.stderr
    assert not os.listdir(tmp_path)


# ---------------------------------------------------------------- a closed terminal, a killed parent

BUSY = 'open("started", "w").close()\nx = 0\nwhile True:\n    try: x += 1\n    except KeyboardInterrupt: pass'


def started(tmp_path, child):
    "Wait for the busy cell; all processes that then belong to a command."
    deadline = time.time() + 120
    while not list(tmp_path.glob('_runs/a/*/started')) and time.time() < deadline and child.poll() is None: time.sleep(.1)
    assert list(tmp_path.glob('_runs/a/*/started')), child.poll()
    family = psutil.Process(child.pid).children(recursive=True)
    assert len(family) >= 2, family   # the runner and its kernel
    return family


def ended(family, seconds=30):
    "Whether all are gone within a time that a busy machine may need; none is left behind where not."
    _, alive = psutil.wait_procs(family, timeout=seconds)
    for p in alive: p.kill()
    return not alive


@pytest.mark.notebook
def test_a_killed_command_takes_runner_and_kernel_with_it(book, tmp_path):
    child = visft('run', 'a', book=book(a=['STEPS = 5', BUSY]), cwd=tmp_path, wait=False)
    family = started(tmp_path, child)
    child.kill(); child.wait()
    assert ended(family)


@pytest.mark.notebook
def test_a_second_ctrl_c_ends_a_cell_that_is_deaf_to_the_first(book, tmp_path):
    child = visft('run', 'a', book=book(a=['STEPS = 5', BUSY]), cwd=tmp_path, wait=False)
    family = started(tmp_path, child)
    for patience in (5, 120):
        child.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired): child.wait(patience)
    assert ended(family) and child.returncode in (1, 130) and 'Traceback' not in child.stderr.read()


@pytest.mark.notebook
def test_a_killed_runner_takes_its_kernel_with_it(book, tmp_path):
    child = visft('run', 'a', book=book(a=['STEPS = 5', BUSY]), cwd=tmp_path, wait=False)
    family = started(tmp_path, child)
    psutil.Process(child.pid).children()[0].kill()
    assert ended(family) and child.wait(60) == 1 and 'Traceback' not in child.stderr.read()


@pytest.mark.notebook
@pytest.mark.skipif(not hasattr(signal, 'SIGHUP'), reason='this system has no SIGHUP')
def test_a_closed_terminal_ends_it_all(book, tmp_path):
    "A terminal of our own: when its other side is closed, the system sends SIGHUP; the cell is deaf to Ctrl-C."
    import pty
    ours, theirs = pty.openpty()
    top = book(a=['STEPS = 5', BUSY])
    code = f'import os, sys, fcntl, termios\nos.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0)\nsys.path.insert(0, {str(ROOT/"tests")!r})\n' \
           f'import subprocess; from test_course import visft\n' \
           f'real = subprocess.Popen\nsubprocess.Popen = lambda a, **k: os.execve(a[0], a, k["env"])\nos.chdir({str(tmp_path)!r})\nvisft("run", "a", book={str(top)!r}, wait=False)'
    child = subprocess.Popen([sys.executable, '-c', code], stdin=theirs, stdout=theirs, stderr=theirs, env={**os.environ, 'PYTHONPATH': str(ROOT)})
    os.close(theirs)
    closed = threading.Event()
    reader = threading.Thread(target=_read_until, args=(ours, closed))
    reader.start()
    try: family = started(tmp_path, child)
    finally:
        closed.set(); reader.join(); os.close(ours)
    assert ended([psutil.Process(child.pid), *family], 60)
    child.wait()


def _read_until(fd, closed):
    "Take what is written to a terminal, or its writer would have to wait."
    while not closed.is_set():
        if select.select([fd], [], [], .1)[0]:
            with suppress(OSError): os.read(fd, 4096)


@pytest.mark.notebook
@pytest.mark.skipif(not hasattr(signal, 'SIGHUP'), reason='this system has no SIGHUP')
def test_a_hang_up_keeps_what_is_finished(book, tmp_path):
    wait = 'import time\nopen("started", "w").close()\ntime.sleep(600)'
    child = visft('run', 'a', book=book(a=['STEPS = 5', 'print(STEPS)', wait]), cwd=tmp_path, wait=False)
    family = started(tmp_path, child)
    child.send_signal(signal.SIGHUP)
    said = child.communicate(timeout=90)
    assert ended(family) and child.returncode == 130 and results(tmp_path)['a']['status'] == 'interrupted', said


@pytest.mark.skipif(not hasattr(signal, 'SIGHUP'), reason='this system has no SIGHUP')
def test_nohup_means_that_it_goes_on():
    code = 'import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\nfrom visft_nb.course.processes import end_on_hang_up; end_on_hang_up(); signal.raise_signal(signal.SIGHUP); print("goes on")'
    assert python(code).stdout == 'goes on\n'


# ---------------------------------------------------------------- hostile names: markup, HTML, Markdown, formulas

HOSTILE = ['[/red]', 'x[/red].png', '<img src=x onerror=alert(1)>', '"><script>alert(1)</script>', "'><b>", '&lt;b&gt;', '</pre><b>', '[here](javascript:alert(1))',
           '![x](https://example.org/x.png)', '`a`|**b**', '<https://example.org>', '\n\n<img src=x onerror=alert(1)>', '# title', '$\\frac$ $', ':smile: {a} %s', '~~x~~']


class Seen(HTMLParser):
    "The elements of a page with their attributes, and its text."
    def __init__(self, page):
        super().__init__()
        self.elements, self.text, self.raw = [], '', 0
        self.feed(page); self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.raw += tag in ('style', 'script')

    def handle_endtag(self, tag): self.raw -= tag in ('style', 'script')

    def handle_data(self, data):
        if not self.raw: self.text += data


def flat(text): return ' '.join(text.split())


def harmless(make, plain='abc', hostile=HOSTILE):
    "A page made of hostile text has the elements that it has with plain text, and shows the text."
    want = [(t, sorted(a)) for t, a in Seen(make(plain)).elements]
    for text in hostile:
        seen = Seen(make(text))
        assert [(t, sorted(a)) for t, a in seen.elements] == want, text
        shown = seen.text + ' '.join(v for _, a in seen.elements for v in a.values() if v)
        assert flat(text) in flat(shown), (text, shown)


def test_html_of_records_and_tables_is_text(monkeypatch):
    from visft_nb.core import record
    from visft_nb.report import html_image, html_page, html_table
    said = []
    monkeypatch.setattr('IPython.display.display', lambda data, raw: said.append(data['text/html']))
    harmless(lambda s: (record(figure=s), said[-1])[1])
    harmless(lambda s: (record(**{s: 1.}), said[-1])[1])
    harmless(lambda s: html_table([(s, 1.5)], ('name', 'value')))
    harmless(lambda s: html_table([(1, 2)], ('a', s)))
    harmless(lambda s: html_image(torch.zeros(3, 4, 4, dtype=torch.uint8), s))
    harmless(lambda s: html_page(s, ['<p>x</p>']))


@pytest.mark.parametrize('where', ['records', 'names', 'rows', 'why', 'error', 'machine', 'name'])
def test_report_of_a_run_is_text(tmp_path, monkeypatch, where):
    "From its Markdown cell to the page, as nbconvert makes it."
    import nbformat
    from visft_nb.course import reports
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell('# T'), nbformat.v4.new_code_cell('1')])
    nbformat.write(nb, tmp_path/'a.ipynb')
    monkeypatch.setattr(reports, 'notebooks', lambda: {'a': tmp_path/'a.ipynb'})
    monkeypatch.setattr(reports, 'Path', Path)
    def make(s):
        run = reports.NotebookRun('a', folder=str(tmp_path), status='ok', records={'x': 1.}, machine={'python': '3'}, error='bad' if where == 'error' else '')
        row = dict(name='x', value=1., expected='1', verdict='ok', why='so')
        if where == 'records': run.records = {'x': s}
        if where == 'names': run.records = {s: 1.}
        if where == 'rows': run.rows = [row | dict(value=s)]
        if where == 'why': run.rows = [row | dict(why=s)]
        if where == 'error': run.error = s
        if where == 'machine': run.machine = {'python': s}
        if where == 'name': run.profile = s
        page = reports.write_report(run).read_text(encoding='utf-8')
        return page[page.index('<body'):]
    harmless(make)


def test_report_of_finetune_is_text(tmp_path):
    from PIL import Image
    from visft_nb.cnn.models import small_cnn
    from visft_nb.deploy import save_model
    from visft_nb.finetune.folder import finetune_folder
    save_model(small_cnn(width=8, channels=3, classes=2), tmp_path/'net.safetensors', 'visft_nb.cnn.models:small_cnn', dict(width=8, channels=3, classes=2), ('a', 'b'), 32, 3)
    def make(s):
        top = tmp_path/f'data{len(os.listdir(tmp_path))}'
        for k, c in enumerate((f'a {s}', 'b')):
            (top/c).mkdir(parents=True)
            for i in range(8): Image.fromarray(np.random.default_rng(8*k + i).integers(0, 255, (32, 32, 3), np.uint8)).save(top/c/f'{i} {s}.png')
        run = finetune_folder(top, tmp_path/f'out{top.name}', tmp_path/'net.safetensors', size=32, log=lambda line: None)
        page = (run.folder/'report.html').read_text(encoding='utf-8')
        return page
    for text in ('<img src=x onerror=alert(1)>', '"><script>alert(1)<b>', '$\\frac$ $', '=1+1 [red]'):
        seen = Seen(make(text))
        assert not any(k.startswith('on') or t == 'script' for t, a in seen.elements for k in a) and not any(t == 'script' for t, _ in seen.elements)
        assert text in seen.text


def test_report_of_robustness_is_text(tmp_path):
    from visft_nb.robust.evaluate import robustness_report
    torch.manual_seed(0)
    model, x, y = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2)), torch.rand(8, 1, 4, 4), torch.arange(8) % 2
    text = '<img src=x onerror=alert(1)>'
    attack = lambda m, x, y: (x + .3*torch.sign(torch.randn(x.shape))).clamp(0, 1)
    report = robustness_report(model, x, y, .3, attacks={f'attack {text}': attack}, out=tmp_path/'out', name=text, classes=[f'a {text}', 'b'], steps=4, restarts=2, queries=4)
    seen = Seen((tmp_path/'out'/'report.html').read_text(encoding='utf-8'))
    assert not any(k.startswith('on') for _, a in seen.elements for k in a) and seen.text.count(text) >= 3
    assert not any(k.startswith('on') for page in (report._repr_html_(), report.masking._repr_html_()) for _, a in Seen(page).elements for k in a)
    assert all(any(tag == 'table' for tag, _ in Seen(page).elements) for page in (report._repr_html_(), report.masking._repr_html_())), 'the table is shown as text'


def markdown(text):
    "As GitHub's flavour of Markdown is rendered, tables and strikethrough included, HTML let through."
    import mistune
    return mistune.create_markdown(escape=False, plugins=['table', 'strikethrough', 'url'])(text)


def test_cards_are_text_in_markdown(tmp_path):
    from visft_nb.core import plain_markdown
    from visft_nb.deploy import model_card
    hostile = [s for s in HOSTILE if '://' not in s]   # a bare address may become a link, to what it names
    harmless(lambda s: markdown(f'**{plain_markdown(s)}**, probability'), hostile=hostile)
    def card(s): return markdown(model_card(dict(name='x', right=9, of=10, classes={s: {}, 'b': {}}, confusion=[[4, 1], [0, 5]], settings={'group': s}), name=s, data=dict(name='d', licence=s)).split('---', 2)[2])
    harmless(card, hostile=hostile)


@pytest.fixture(scope='module')
def named(tmp_path_factory):
    "A classifier whose classes have hostile names, and images that have."
    from PIL import Image
    from visft_nb.deploy import export_onnx
    top = tmp_path_factory.mktemp('named')
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.AvgPool2d(10), torch.nn.Flatten(), torch.nn.Linear(4, 4))
    export_onnx(net, top/'net.onnx', torch.rand(2, 1, 20, 20), ['[/red]', '=1+1', '<img src=x onerror=alert(1)>', '@[bold]'], dynamo=False)
    (top/'images'/'x[').mkdir(parents=True)
    for i, n in enumerate(('x[/red].png', '=1+1.png', '-2+3.png', '@a.png', "'=b.png", ':smile:[red].png', '\x1b[2J.png', 'ä<b>.png')):
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (20, 20), np.uint8)).save(top/'images'/n)
    (top/'images'/'[/bold].png').parent.mkdir(); (top/'images'/'[/bold].png').write_text('no image')
    return top


def test_predict_prints_names_as_they_are(named, tmp_path):
    done = cli('predict', named/'net.onnx', '.', '--out', tmp_path/'answers.csv', '--overlay', tmp_path/'shown', cwd=named/'images', env=dict(COLUMNS='250'))
    assert done.returncode == 1 and 'Traceback' not in done.stderr and done.stderr.count('\n') == 1 and '[/bold].png cannot be decoded' in done.stderr, done.stderr
    for name in ('x[/red].png', '=1+1.png', ':smile:[red].png', 'ä<b>.png'): assert name in done.stdout, done.stdout
    assert '\x1b' not in done.stdout and r'\x1b[2J.png' in done.stdout


def test_a_spreadsheet_finds_no_formula_and_reading_back_is_exact(named, tmp_path, monkeypatch):
    import csv
    from visft_nb.deploy import read_answers
    from visft_nb.finetune.work import predict_files
    monkeypatch.chdir(named/'images')
    names = ["=1+1.png", "-2+3.png", "@a.png", "'=b.png"]
    frame = predict_files(named/'net.onnx', names, tmp_path/'answers.csv')
    with open(tmp_path/'answers.csv', newline='', encoding='utf-8') as f: cells = [c for row in csv.reader(f) for c in row]
    assert not [c for c in cells if c[:1] in tuple('=+-@\t\r') and c[:1] and not _number(c)]
    assert {"'=1+1.png", "'-2+3.png", "'@a.png", "''=b.png"} <= set(cells)
    back = read_answers(tmp_path/'answers.csv', keep_default_na=False)
    assert list(back.image) == list(frame.image) == names and list(back.label) == list(frame.label)
    assert np.allclose(back.probability.astype(float), frame.probability.astype(float))


def _number(text):
    try: return float(text) is not None
    except ValueError: return False


@pytest.mark.parametrize('text', [*HOSTILE, '=1', '+1', '-1', '@x', '\t=1', '\r=1', "'=1", "''=1", "'", '', '-', "it's", '＝1', '0'])
def test_a_table_keeps_every_text(tmp_path, text):
    import pandas as pd
    from visft_nb.deploy import read_answers, write_answers
    table = pd.DataFrame({'a': [text, 'b'], f'c{text}': [-1.5, 2], 'd': [-1, 3]})
    write_answers(table, tmp_path/'t.csv')
    back = read_answers(tmp_path/'t.csv', keep_default_na=False, dtype={0: str})
    assert list(back.a) == [text, 'b'] and list(back.d) == [-1, 3] and list(back.iloc[:, 1]) == [-1.5, 2]
    assert ''.join(back.columns[1].split()) == ''.join(f'c{text}'.split())


@pytest.mark.parametrize('args', [['run', '[/red]'], ['run', 'core', '--workers', '[/red]'], ['[/red]'], ['predict', '[/red].onnx', 'x'], ['list', '[/red]'], ['data', 'get', '[/red]'],
                                  ['run', 'core', '-p', '[/red]=1'], ['finetune', '[/red]'], ['finetune', '.', '--strategy', '[/red]'], ['run', 'core', '--out', '/proc/[/red]']])
def test_arguments_with_markup_are_named_as_they_are(args, tmp_path):
    done = cli(*args, cwd=tmp_path)
    assert done.returncode == 2 and 'Traceback' not in done.stderr and 'MarkupError' not in done.stderr and ('[/red]' in done.stderr or '--workers' in args), done.stderr


# ---------------------------------------------------------------- the app

@pytest.fixture(scope='module')
def app(named):
    pytest.importorskip('gradio', reason="the app is built with gradio: pip install 'visft_nb[app]'")
    from visft_nb.finetune.work import launch_app
    app = launch_app(named/'net.onnx', free_port(), wait=False, log=lambda line: None)
    yield app
    app.close(verbose=False); app.uploads.cleanup()


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


def ask(port, method='GET', path='/config', **headers):
    "The status of a request with the given headers, Host among them."
    c = http.client.HTTPConnection('127.0.0.1', port, timeout=60)
    c.putrequest(method, path, skip_host=True)
    for k, v in headers.items():
        if v is not None: c.putheader(k, v)
    if method == 'POST': c.putheader('content-length', '2'); c.putheader('content-type', 'application/json')
    c.endheaders(b'{}' if method == 'POST' else None)
    try: return c.getresponse().status
    finally: c.close()


def test_app_answers_its_own_pages_only(app):
    port = app.server_port
    for host in (f'127.0.0.1:{port}', f'localhost:{port}', f'LOCALHOST:{port}', f'[::1]:{port}', 'localhost'):
        assert ask(port, Host=host) == 200, host
    for host in (f'evil.example:{port}', 'evil.example', f'127.0.0.1.evil.example:{port}', f'localhost.evil.example:{port}', '', None, '[::1', f'evil.example@127.0.0.1:{port}/',
                 '192.0.2.7', 'user@evil.example'):
        assert ask(port, Host=host) in (400, 403), host
    here = f'127.0.0.1:{port}'
    for path in ('/gradio_api/upload', '/gradio_api/queue/join', '/gradio_api/call/predict'):
        for origin in ('http://evil.example', 'null', f'http://127.0.0.1:{port + 1}', f'http://localhost:{port}', 'http://127.0.0.1'):
            assert ask(port, 'POST', path, Host=here, Origin=origin) == 403, (path, origin)
        assert ask(port, 'POST', path, Host=here, Origin=f'http://{here}') != 403


def test_app_knows_its_names():
    from visft_nb.finetune.work import host_names
    assert host_names('127.0.0.1') == ['127.0.0.1', '[::1]', 'localhost'] and 'pc.lan' in host_names('PC.lan') and '[fe80::1]' in host_names('fe80::1')
    assert socket.gethostname().lower() in host_names('0.0.0.0') and not {'*', ''} & set(host_names('0.0.0.0'))


def test_app_deletes_what_a_killed_one_left(named, tmp_path):
    pytest.importorskip('gradio')
    code = '''
    import os, sys
    from pathlib import Path
    from visft_nb.finetune.work import launch_app
    app = launch_app(sys.argv[1], int(sys.argv[2]), wait=False, log=lambda line: None)
    Path(app.uploads.name, 'scan.dcm').write_bytes(b'a patient')
    print(sorted(p.name for p in Path(app.uploads.name).parent.glob('visft_app_*')), flush=True)
    if sys.argv[3] == 'kill': os.kill(os.getpid(), 9)
    app.close(verbose=False)
    '''
    env = dict(TMPDIR=str(tmp_path))
    first = python(code, named/'net.onnx', free_port(), 'kill', env=env)
    left = [p.name for p in tmp_path.glob('visft_app_*')]
    assert first.returncode == -9 and len(left) == 1 and (tmp_path/left[0]/'scan.dcm').is_file(), first.stderr
    second = python(code, named/'net.onnx', free_port(), 'close', env=env)
    assert left[0] not in second.stdout and second.returncode == 0 and not list(tmp_path.glob('visft_app_*')), second.stdout + second.stderr
