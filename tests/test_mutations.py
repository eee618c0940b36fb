"Broken inputs of every kind the kit reads: an answer that is right or one sentence; no traceback, no hang, no silent answer."
import io, json, os, sys, time, zipfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import mutation_calls as c
import mutation_kinds as k
import mutations as m
from helpers import refused, sentence
from visft_nb.core import InputError, as_array, given_path, one_line, parse_json, record
from visft_nb.course import book, profiles, records
from visft_nb.data import csv_images, image_folder, load_dataset, read_arrays, read_table
from visft_nb.deploy import load_model, load_onnx, model_card, read_answers, read_image

EACH = 60   # mutants of each kind; `python tests/mutation_kinds.py --each 5000` tries more
FEW = {'model onnx': 12}   # each of its calls is a process of its own
OWN = {('fit', 'schedule', 'function'), ('evaluate', 'metric', 'function')}   # what the caller's own function raises is the caller's



# --- the campaign ---

def cases(*values): return pytest.mark.parametrize('v', values, ids=map(str, range(len(values))))   # what they hold is no name for a test


@pytest.mark.parametrize('name', k.KINDS)
def test_broken_files_get_an_answer_or_a_sentence(name, tmp_path):
    found = [(seed, how, call, o.kind, o.what) for seed, how, call, o in m.try_mutants(k.KINDS[name](), tmp_path, range(FEW.get(name, EACH))) if not o.fine]
    assert not found, f'python tests/mutation_kinds.py "{name}" --seed {found[0][0]} --each 1 shows the first of {len(found)}: {found[0]}'


@pytest.mark.parametrize('name', c.NAMES)
def test_arguments_of_the_wrong_kind_get_a_sentence(name):
    f, valid, _, _, judge = c.calls()[name]
    assert m.outcome(partial(f, **valid), judge=judge).kind == 'answered', 'the valid call'
    found = [(arg, what, o.kind, o.what) for n, arg, what, call, judge in c.wrong_calls([name]) if n == name and (n, arg, what) not in OWN
             for o in [m.outcome(call, judge=judge)] if not o.fine]
    assert not found, f'python tests/mutation_calls.py {name} shows {len(found)}, the first is {found[0]}'


def test_no_function_is_forgotten(): assert tuple(c.calls()) == c.NAMES


# --- the judge itself ---

def test_the_judge_tells_them_apart(monkeypatch):
    monkeypatch.setattr(m, 'SECONDS', .2)
    def fail(): raise KeyError('a')
    def refuse(): raise InputError('no.')
    def wait():
        try: time.sleep(5)
        except Exception: pass
    def wrong(a): assert a == 2, 'not 2'
    def through(): return torch.nn.Linear(2, 2)(torch.zeros(3))
    kinds = [m.outcome(f, judge=j).kind for f, j in ((fail, None), (refuse, None), (wait, None), (lambda: 1, wrong), (lambda: 2, wrong), (through, None))]
    assert kinds == ['traceback', 'refused', 'hang', 'silent', 'answered', 'network']


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='only Linux keeps the limit on memory')
def test_the_judge_sees_memory_that_is_only_claimed():
    o = m.outcome(lambda: np.empty(8*m.ROOM, np.uint8))   # nothing is written to it
    assert o.kind == 'traceback' and 'MemoryError' in o.what, o


def test_the_judge_of_the_command_line_tells_them_apart(monkeypatch):
    from visft_nb.course import cli
    assert m.outcome(m.command, 'list', 'tour').kind == 'answered' and m.outcome(m.command, 'list', 'nothing').kind == 'refused'
    def broken(): raise KeyError('a')
    monkeypatch.setattr(cli, 'main', broken)
    assert m.outcome(m.command, 'list').kind == 'traceback'


def test_every_mutator_changes_something(tmp_path):
    idle = {}
    for name, make in k.KINDS.items():
        kind, folder = make(), tmp_path/name.replace('.', '_')
        folder.mkdir()
        source = Path(kind.valid(folder)).read_bytes()
        same = {f.__name__ for f in dict.fromkeys(kind.mutators) if all(f(source, np.random.default_rng(s)) == source for s in range(12))}
        if same - {'crlf'}: idle[name] = same
    assert not idle


# --- the smallest case of each kind ---

NOTEBOOKS = {
    'cells are null': ({'cells': None}, ['no cells']), 'no cells': ({}, ['no cells']), 'a list': ([], ['list']), 'no source': ({'cells': [{'cell_type': 'code', 'metadata': {}}]}, ['cell 1', 'source']),
    'metadata of a list': ({'cells': [{'cell_type': 'code', 'metadata': [], 'source': ''}]}, ['cell 1', 'metadata']), 'a cell that is a text': ({'cells': ['x']}, ['cell 1', 'str']), 'source of numbers': ({'cells': [{'cell_type': 'code', 'metadata': {}, 'source': [1]}]}, ['cell 1', 'source']),
    'tags': ({'cells': [{'cell_type': 'code', 'metadata': {'tags': 3}, 'source': ''}]}, ['tags']), 'an output': ({'cells': [{'cell_type': 'code', 'metadata': {}, 'source': '', 'outputs': [3]}]}, ['output']),
}

@pytest.mark.parametrize('name', NOTEBOOKS)
def test_a_notebook_of_another_shape_is_named(name, tmp_path):
    nb, words = NOTEBOOKS[name]
    (tmp_path/'a.ipynb').write_text(json.dumps(nb))
    for read in (book.read_notebook, book.about, profiles.parameters): sentence(lambda read=read: read(tmp_path/'a.ipynb'), 'a.ipynb', *words)


@pytest.mark.parametrize('text, words', [(b'{"cells": [], "cells": []}', ['cells', 'twice']), (b'{"cells": ["caf\xe9"]}', ['UTF-8', 'line 1']), (b'['*100_000, ['no JSON']), (b'', ['no JSON']), (b'{"a": "\\ud800"}', ['no JSON']), (b'\0', ['no JSON'])])
def test_a_notebook_that_is_no_json_is_named(text, words, tmp_path):
    (tmp_path/'a.ipynb').write_bytes(text)
    sentence(lambda: book.read_notebook(tmp_path/'a.ipynb'), 'a.ipynb', *words)


@cases(*['EPOCHS = ', 'EPOCHS = (', 'EPOCHS = {[]: 1}', 'EPOCHS = ' + '('*3000 + ')'*3000, 'EPOCHS = ' + '-'*50_000 + '1', 'EPOCHS = ' + '+'.join('1'*20_000), 'EPOCHS = 0777', 'A.B = 1', 'del EPOCHS', 'EPOCHS = 1\0'])
def test_parameters_that_are_no_python_are_named(v, tmp_path):
    nb = json.loads(k.notebook_bytes())
    nb['cells'][1]['source'] = v
    (tmp_path/'a.ipynb').write_text(json.dumps(nb))
    sentence(lambda: profiles.parameters(tmp_path/'a.ipynb'), 'a.ipynb', 'parameters')


@pytest.mark.parametrize('text, words', [(b'[smoke]\nNAME = "caf\xe9"\n', ['settings.ini', 'UTF-8', 'line 2']), (b'[smoke]\nA = ' + b'('*3000 + b')'*3000, ['settings.ini', 'literal']), (b'[smoke]\nA = {[]: 1}\n', ['literal']), (b'[smoke]\nA = 1\nA = 2\n', ['A']),
                                         (b'[DEFAULT]\nEPOCHS = 7\n', ['DEFAULT']), (b'[smoke a]\nA = 1\n[smoke  a]\nA = 2\n', ['twice']), (b'EPOCHS = 1\n', ['settings.ini'])])
def test_settings_that_cannot_be_read_are_named(text, words, tmp_path):
    (tmp_path/'settings.ini').write_bytes(text)
    sentence(lambda: profiles.read_settings(tmp_path), *words)


@pytest.mark.parametrize('text, words', [('{"a": {"min": 1}, "a": {"min": 2}}', ['twice']), ('{"a": {"min": "1"}}', ['min', 'number']), ('{"a": {"value": NaN}}', ['value', 'number']), ('{"a": {"value": 1, "abs": Infinity}}', ['abs']), ('{"a": 3}', ['a']),
                                         ('{"_run": []}', ['_run']), ('[]', ['list']), ('{"a": {"value": true}}', ['value'])])
def test_an_expectation_that_states_nothing_is_named(text, words, tmp_path):
    (path := records.expected_path('a', 'smoke', tmp_path)).parent.mkdir(parents=True)
    path.write_text(text)
    sentence(lambda: records.load_expected('a', 'smoke', tmp_path), 'a.json', *words)


@pytest.mark.parametrize('change', [dict(confusion=[[1, 2]]), dict(confusion='x'), dict(accuracy=float('nan')), dict(right=9), dict(images=3), dict(images={'train': 'many'}), dict(settings=[]), dict(leaks=3), dict(classes=[]), dict(of=True)])
def test_records_that_no_run_has_written_are_named(change, tmp_path):
    (tmp_path/'records.json').write_text(json.dumps(k.RUN | change))
    sentence(lambda: model_card(tmp_path), 'records.json')


def table(tmp_path, text):
    k._pngs(tmp_path, ['a.png', 'b.png'])
    (tmp_path/'t.csv').write_bytes(text if isinstance(text, bytes) else text.encode())
    return tmp_path/'t.csv'


@pytest.mark.parametrize('text, words', [
    (b'image,label\na.png,caf\xe9\n', ['UTF-8', 'line 2']), ('image,label\na.png,ant,1\nb.png,bee,2\n', ['Line 2', '3 fields']), ('image,label\na.png,ant\nb.png\n', ['Line 3', '1 field']), ('image,label,label\na.png,ant,bee\n', ['two columns']),
    ('image,label\na.png,ant\0\n', ['NUL']), ('image,label\na.png,"ant\n', ['quotation']), ('image,label,patient\na.png,ant,p\nb.png,bee,\n', ['no patient', 'row 3']), ('image,label\na.png,1e400\nb.png,1.5\n', ['row 2']),
    ('image,label\na.png,20240115\nb.png,20240116\n', ['20,240,116', 'classes=']), (f'image,label\n{"x"*300}.png,ant\n', ['cannot be looked at'])])
def test_a_table_that_pandas_would_bend_is_named(text, words, tmp_path): sentence(lambda: csv_images(table(tmp_path, text)), 't.csv', *words)


def test_dates_are_classes_once_they_are_named(tmp_path):
    dates = table(tmp_path, 'image,label\na.png,d20240115\nb.png,d20240116\n')
    assert csv_images(dates).classes == ('d20240115', 'd20240116')
    few = table(tmp_path, 'image,label\na.png,3\nb.png,700\n')
    assert len(csv_images(few).classes) == 701, 'numbers of classes may have gaps'


def test_patients_keep_their_zeros(tmp_path):
    assert csv_images(table(tmp_path, 'image,label,patient\na.png,ant,007\nb.png,bee,7\n')).groups == ['007', '7']


def archive(path, **members):
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as z:
        for name, data in members.items(): z.writestr(f'{name}.npy', data)
    return path


@pytest.mark.parametrize('data, words', [(m._claim((10**6, 10**5)), ['claims', '100,000,000,000']), (m._claim((2**62, 4)), ['claims']), (m._claim((-1, 4)), ['claims']), (m._claim((10,), '|O', b'cos\nsystem\n'), ['pickle']), (b'', ['x']), (b'\x93NUMPY', ['x'])])
def test_a_header_that_lies_takes_no_memory(data, words, tmp_path):
    file = archive(tmp_path/'a.npz', x=data)
    assert m.outcome(read_arrays, file).kind == 'refused'
    sentence(lambda: read_arrays(file), 'a.npz', *words)


def test_a_directory_that_lies_takes_no_memory(tmp_path):
    "The zip's own directory claims 100 GB, and so does the header: the bytes that are there cannot unfold to that."
    file = archive(tmp_path/'a.npz', x=m._claim((10**11 - 128,), data=b''))
    b = bytearray(file.read_bytes())
    at = b.rindex(b'PK\x01\x02')
    b[at + 24:at + 28] = (2**32 - 2).to_bytes(4, 'little')
    file.write_bytes(bytes(b))
    o = m.outcome(read_arrays, file)
    assert o.kind == 'refused' and 'a.npz' in o.what, o


@pytest.mark.parametrize('change, words', [(dict(train_labels=None), ['train_labels', 'missing']), (dict(train_labels=np.array(['a']*4)), ['train_labels']), (dict(train_images=np.zeros((4, 28, 28), np.float32)), ['uint8']), (dict(train_images=np.zeros((4, 28, 56), np.uint8)), ['28']),
                                           (dict(train_labels=np.full((4, 1), 7, np.uint8)), ['7']), (dict(train_labels=np.zeros((3, 1), np.uint8)), ['rows']), (dict(train_images=np.zeros((0, 28, 28), np.uint8)), ['train_images'])])
def test_arrays_of_another_kind_are_named(change, words, tmp_path):
    (tmp_path/'p').mkdir()
    arrays = dict(train_images=np.zeros((4, 28, 28), np.uint8), train_labels=np.array([[0], [1], [0], [1]], np.uint8)) | change
    np.savez(tmp_path/'p/pneumoniamnist.npz', **{n: a for n, a in arrays.items() if a is not None})
    sentence(lambda: load_dataset('pneumoniamnist', 'train', tmp_path), *words)


def test_flat_labels_are_labels(tmp_path):
    (tmp_path/'p').mkdir()
    np.savez(tmp_path/'p/pneumoniamnist.npz', train_images=np.zeros((4, 28, 28), np.uint8), train_labels=np.array([0, 1, 1, 0], np.uint8))
    assert load_dataset('pneumoniamnist', 'train', tmp_path).labels.tolist() == [0, 1, 1, 0]


def test_a_single_array_is_no_npz(tmp_path):
    np.save(tmp_path/'a.npy', np.zeros(3))
    os.replace(tmp_path/'a.npy', tmp_path/'a.npz')
    sentence(lambda: read_arrays(tmp_path/'a.npz'), 'a.npz')


@pytest.mark.parametrize('name, words', [('../a/x.png', ['outside']), ('/etc/x.png', ['outside']), ('C:/x.png', ['outside']), ('ant/0.png', ['one name'])])
def test_an_archive_that_is_not_safe_is_named(name, words, tmp_path):
    png = io.BytesIO()
    Image.fromarray(k.pixels()[0]).save(png, 'PNG')
    (tmp_path/'s.zip').write_bytes(m._archive([('ant/0.png', png.getvalue()), ('bee/0.png', png.getvalue()), (name, png.getvalue())]))
    sentence(lambda: image_folder(tmp_path/'s.zip'), 's.zip', *words)


@pytest.mark.parametrize('text, words', [('a,a\n1,2\n', ['two columns']), ('', ['empty']), ('a\n"x\n', ['quotation'])])
def test_a_table_is_read_as_it_stands(text, words, tmp_path):
    (tmp_path/'t.csv').write_text(text)
    sentence(lambda: read_table(tmp_path/'t.csv'), 't.csv', *words)


# --- names ---

NAMES = {'long': 'x'*300, 'long folder': 'x'*300 + '/x', 'deep': 'a/'*3000 + 'b', 'home': '~nobody-here/x', 'loop': 'loop', 'newline': 'a\nb', 'surrogate': 'caf\udce9'}

COMMANDS = {
    'model': lambda n: ['predict', f'{n}.onnx', 'x.png'], 'image': lambda n: ['predict', 'm.safetensors', f'{n}.png'], 'zip': lambda n: ['predict', 'm.safetensors', f'{n}.zip'], 'bare': lambda n: ['predict', 'm.safetensors', n], 'out': lambda n: ['predict', 'm.safetensors', 'x.png', '--out', f'{n}.csv'],
    'finetune': lambda n: ['finetune', n], 'finetune out': lambda n: ['finetune', 'set', '--out', n, '--epochs', '0'], 'run': lambda n: ['run', n], 'run p': lambda n: ['run', 'lib/core', '-p', n], 'run out': lambda n: ['run', 'lib/core', '--out', n, '--profile', n],
    'list': lambda n: ['list', n], 'data': lambda n: ['data', 'get', n]}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    k.KINDS['model safetensors']().valid(tmp_path)   # in this process, where an ONNX file takes one of its own
    os.symlink('loop', 'loop')
    return tmp_path


@pytest.mark.parametrize('command', COMMANDS)
def test_a_name_that_no_system_takes_is_one_line(command, folder):
    found = {what: o for what, n in NAMES.items() if not (o := m.outcome(m.command, *COMMANDS[command](n))).fine}
    assert not found, found


@cases('x'*300, 'a\0b', '~nobody-here/x', 5, None, b'x')
def test_a_path_that_is_none_is_refused(v): sentence(lambda: given_path(v, 'the folder'), 'the folder')


def test_library_functions_take_long_names_too(tmp_path):
    for f in (image_folder, csv_images, partial(load_dataset, 'pneumoniamnist', 'train'), read_arrays, read_table, read_answers, read_image, load_model, load_onnx, book.read_notebook): sentence(lambda f=f: f(tmp_path/('x'*300 + '.onnx'*(f is load_onnx) + '.safetensors'*(f is load_model))), 'xxx')


def test_a_cell_without_metadata_has_none(tmp_path):
    (tmp_path/'a.ipynb').write_text(json.dumps({'cells': [{'cell_type': 'code', 'source': ['A = ', '1']}]}))
    assert book.read_notebook(tmp_path/'a.ipynb') == {'metadata': {}, 'cells': [{'cell_type': 'code', 'source': 'A = 1', 'metadata': {}}]}
    assert profiles.parameters(tmp_path/'a.ipynb') == {}


# --- the command line on a book of its own ---

@pytest.fixture
def broken_book(tmp_path, monkeypatch):
    "`broken_book(bytes)` makes a book of which the one notebook holds these bytes; no kernel is started."
    from visft_nb.course import cli, runs
    k._book(tmp_path)
    for module in (book, profiles, records, cli, runs):
        if hasattr(module, 'book_dir'): monkeypatch.setattr(module, 'book_dir', lambda: tmp_path)
    monkeypatch.setattr(runs.Runner, '__call__', lambda self, found: [replace(r, status='ok') for r in found])
    monkeypatch.chdir(tmp_path)
    return lambda b: (tmp_path/'nbs/a.ipynb').write_bytes(b)


def test_the_command_line_on_broken_notebooks(broken_book):
    kind, source = k.notebook_kind(), k.notebook_bytes()
    for args in (['list'], ['run', 'a', '--profile', 'smoke']): assert m.outcome(m.command, *args).kind == 'answered'
    for seed in range(40):
        how, b = m.mutant(kind, source, seed)
        broken_book(b)
        for args in (['list'], ['run', 'a', '--profile', 'smoke'], ['run', 'a', '-p', 'EPOCHS=2']):
            o = m.outcome(m.command, *args)
            assert o.fine, (seed, how, args, o)


@cases(*['', '=', 'EPOCHS', 'EPOCHS=', '=3', 'EPOCHS=' + '('*3000 + ')'*3000, 'EPOCHS={[]: 1}', 'EPOCHS=' + '-'*50_000 + '1', 'EPOCHS=' + '9'*5000, 'EPOCHS=nan', 'EPOCHS=1e999', 'EPOCHS=[1', 'É=1', 'EPOCHS=\udce9', 'EPOCHS=3.5', 'a b=1', 'EPOCH=1'])
def test_parameters_on_the_command_line(v, broken_book):
    o = m.outcome(m.command, 'run', 'a', '--profile', 'smoke', '-p', v)
    assert o.kind == 'refused', o


# --- records and sentences ---

@cases(*[float('nan'), float('inf'), 10**5000, 10**400, 1j, None, [], {}, torch.zeros(2), np.zeros(3), torch.zeros(0), torch.tensor(float('nan')), np.array(['a', 'b']), object(), b'x'])
def test_a_record_is_a_finite_number_or_a_text(v): sentence(lambda: record(loss=v), 'record(loss=')


def test_a_sentence_is_one_line_of_what_can_be_shown():
    with refused(['a b', r'\x1b[31m', r'\udce9', 'é']): raise InputError('a\n  b \x1b[31m \udce9 é')
    assert one_line('a\r\nb') == 'a b' and str(InputError()) == ''


@cases(*[np.array(['ant', 'bee']), ['ant'], 'ant', np.array([None]), [[1], [1, 2]], np.array(['2024-01-15'], 'M8[D]'), {'a': 1}, torch.eye(2).to_sparse(), torch.zeros(2, device='meta'), np.zeros(2, complex)])
def test_what_is_no_array_of_numbers_is_named(v): sentence(lambda: as_array(v, 'labels'), 'labels')


def test_json_keeps_what_it_can_keep():
    assert parse_json('{"a": [1, "\\ud83d\\ude00"]}', 'it', 'mend it') == {'a': [1, '😀']}
    with refused(['it', 'twice', 'mend it']): parse_json('{"a": 1, "a": 1}', 'it', 'mend it')
