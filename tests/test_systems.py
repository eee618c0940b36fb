"Windows and macOS, as far as they can be played here: no signal that Windows lacks is sent, and the GPU that is meant is asked."
import ast, asyncio, re, signal, subprocess

import psutil
import pytest
import torch

from visft_nb.core import fast_bf16
from visft_nb.course import processes, runs


class WindowsProcess:
    "A process as Python's subprocess and psutil show it on Windows: it takes Ctrl-Break and an end, nothing else."
    returncode = None
    def __init__(self): self.heard = []
    def poll(self): return self.returncode
    def kill(self): self.heard.append('kill'); self.returncode = 1
    def wait(self, timeout=None):
        if self.returncode is None: raise subprocess.TimeoutExpired('it', timeout)
        return self.returncode
    def send_signal(self, sign):
        if sign != signal.CTRL_BREAK_EVENT: raise ValueError(f'Unsupported signal: {sign}')
        self.heard.append('break')


@pytest.fixture
def windows(monkeypatch):
    monkeypatch.setattr(processes, '_WINDOWS', True)
    monkeypatch.setattr(signal, 'CTRL_BREAK_EVENT', 1001, raising=False)
    monkeypatch.setattr(signal, 'SIGBREAK', signal.SIGUSR1, raising=False)   # any signal whose handler can be set here
    yield
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)


def test_a_runner_stops_its_runs_by_a_break(windows):
    runner = runs.Runner()
    runner.children = [WindowsProcess(), WindowsProcess()]
    runner.children[1].returncode = 0
    runner.stop()
    assert [c.heard for c in runner.children] == [['break'], []]


def test_what_is_aborted_ends_where_there_is_no_signal_to_abort(windows, monkeypatch):
    kernel, child = WindowsProcess(), WindowsProcess()
    monkeypatch.setattr(psutil, 'Process', lambda pid: type('Tree', (), {'children': lambda self, recursive: [kernel]})())
    child.pid = 1
    runs._abort(child, grace=0)
    assert kernel.heard[0] == 'kill' and child.heard == ['kill']


def test_a_kernel_is_interrupted_by_its_manager(windows):
    told = []
    class Manager:
        async def interrupt_kernel(self): told.append('interrupted')
    async def main():
        processes.interrupt_kernel(Manager(), asyncio.get_running_loop())
        await asyncio.sleep(.05)
    asyncio.run(main())
    assert told == ['interrupted']


def test_a_break_is_heard_as_ctrl_c(windows):
    before, heard = signal.getsignal(signal.SIGINT), []
    try:
        processes.on_interrupt(lambda *_: heard.append(1))
        signal.raise_signal(signal.SIGBREAK)
        signal.raise_signal(signal.SIGINT)
    finally: signal.signal(signal.SIGINT, before)
    assert heard == [1, 1]


def test_a_group_of_its_own_is_asked_for_in_the_words_of_the_system(windows, monkeypatch):
    monkeypatch.setattr(subprocess, 'CREATE_NEW_PROCESS_GROUP', 512, raising=False)
    assert processes.own_group() == {'creationflags': 512}
    monkeypatch.setattr(processes, '_WINDOWS', False)
    assert processes.own_group() == {'start_new_session': True}


def test_signals_are_sent_from_the_rooms_that_know_the_systems(root):
    "Elsewhere nobody sends SIGINT or SIGABRT by hand, or uses a module or a function that only Unix has without asking for it."
    rooms = {'processes.py', 'nursery.py', 'sandbox.py'}   # the nursery and the sandbox fork, and ask only where the system can
    wrong = []
    for path in (root/'visft_nb').rglob('*.py'):
        if path.name in rooms: continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call): continue
            text = ast.unparse(node)
            if re.match(r'(os\.(kill|killpg|fork|getuid|setsid)|.*\.send_signal)\(', text): wrong.append(f'{path.name}: {text}')
    assert not wrong, wrong


def test_the_gpu_that_is_meant_is_asked(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda device=None: (9, 0) if device == torch.device('cuda:1') else (7, 5))
    assert fast_bf16('cuda:1') and fast_bf16(torch.device('cuda', 1))
    assert not fast_bf16('cuda:0') and not fast_bf16('cuda')
