"Core: what is asked of the machine, what a file or a record survives, what bad input gets."
import json
import os
import random
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from visft_nb.core import RECORD_MIME, InputError, atomic_write, autocast, cache_dir, describe, fast_bf16, get_device, lookup, record, set_seed


def test_device_is_asked_for_and_checked(monkeypatch):
    assert get_device('cpu') == torch.device('cpu')
    monkeypatch.setenv('VISFT_DEVICE', 'cpu')
    assert get_device() == torch.device('cpu')
    with pytest.raises(InputError, match='did you mean cuda'): get_device('cida')
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match='no cuda device'): get_device('cuda:0')


@pytest.mark.parametrize('can, fast', [({'amx_bf16': True}, True), ({'avx512_bf16': True}, True), ({'avx2': True}, False)])
def test_bf16_by_capability_never_by_hope(monkeypatch, can, fast):
    if not hasattr(torch.cpu, 'get_capabilities'): pytest.skip('this torch asks the processor in another way')
    monkeypatch.setattr(torch.cpu, 'get_capabilities', lambda: can)
    assert fast_bf16('cpu') is fast
    a = torch.ones(2, 2)
    with autocast('cpu'): assert (a @ a).dtype == (torch.bfloat16 if fast else torch.float32)


def test_precision_can_be_forced():
    a = torch.ones(2, 2)
    with autocast('cpu', 'bf16'): assert (a @ a).dtype == torch.bfloat16
    with autocast('cpu', 'fp32'): assert (a @ a).dtype == torch.float32
    with pytest.raises(InputError, match='precision'): autocast('cpu', 'fp8')


def test_one_seed_for_all():
    draws = lambda: (random.random(), np.random.rand(), torch.rand(1).item())
    generator = set_seed(7)
    first, own = draws(), torch.rand(1, generator=generator)
    again = set_seed(7)
    assert draws() == first and torch.equal(torch.rand(1, generator=again), own)


def test_lookup_offers_the_nearest():
    with pytest.raises(InputError, match="No data set is called 'minst'; did you mean mnist"): lookup('minst', ['mnist', 'digits'], 'data set')
    with pytest.raises(InputError, match='there are: mnist'): lookup('xyzzy', ['mnist'], 'data set')
    assert [describe(v) for v in (torch.zeros(2, 3), np.zeros(4, np.uint8), [1])] == ['torch.float32 (2, 3)', 'uint8 (4,)', 'list']


def test_cache_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path)); monkeypatch.delenv('VISFT_CACHE', raising=False)
    assert cache_dir() == tmp_path/'visft_nb'
    monkeypatch.setenv('VISFT_CACHE', str(tmp_path/'own'))
    assert cache_dir() == tmp_path/'own'


@pytest.mark.parametrize('fault', [OSError(28, 'No space left on device'), KeyboardInterrupt(), RuntimeError('x')])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, fault):
    path = tmp_path/'a.json'
    with atomic_write(path) as tmp: tmp.write_text('old')
    with pytest.raises(InputError if isinstance(fault, OSError) else type(fault)) as e, atomic_write(path) as tmp:
        tmp.write_text('half')
        raise fault
    assert path.read_text() == 'old' and [p.name for p in tmp_path.iterdir()] == ['a.json']
    if isinstance(fault, OSError): assert 'make room' in str(e.value) and 'a.json' in str(e.value)


def test_a_written_file_has_the_usual_rights(tmp_path):
    with atomic_write(tmp_path/'a') as tmp: tmp.write_text('')
    (tmp_path/'b').write_text('')
    assert (tmp_path/'a').stat().st_mode == (tmp_path/'b').stat().st_mode


def test_an_unwritable_folder_is_named():
    if not os.path.isdir('/proc'): pytest.skip('no folder here that nobody can write to')
    with pytest.raises((InputError, FileNotFoundError)), atomic_write('/proc/visft/a') as tmp: tmp.write_text('')


@pytest.fixture
def shown(monkeypatch):
    out = []
    monkeypatch.setattr('IPython.display.display', lambda data, raw: out.append(data))
    return out


def test_record_keeps_full_precision_and_plain_types(shown):
    record(a=torch.tensor(1/3, dtype=torch.float64), b=np.float32(2), c='x', d=True, e=np.int64(3))
    kept = json.loads(json.dumps(shown[0][RECORD_MIME]))
    assert kept == dict(a=1/3, b=2.0, c='x', d=True, e=3) and '0.3333' in shown[0]['text/plain'] and '<table' in shown[0]['text/html']


@pytest.mark.parametrize('value', [float('nan'), float('inf'), None, [1, 2], SimpleNamespace()])
def test_record_refuses_what_is_no_figure(shown, value):
    with pytest.raises(InputError, match='record'): record(a=value)
    assert shown == []


def test_core_imports_no_torch():
    code = "import sys, visft_nb.core; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, '-c', code]).returncode == 0
