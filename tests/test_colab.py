"The first cell of a notebook in Colab: it adds what is missing, changes nothing that is there, and says so."
import json
import re
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest

from visft_nb import __version__
from visft_nb.course.book import book_dir, install_cell, notebooks

UV = shutil.which('uv', path=str(Path(sys.executable).parent)) or shutil.which('uv')


def pinned(text): return {m[1].lower().replace('_', '-'): m[2] for m in re.finditer(r'^([\w.-]+)==([^\s;]+)', text, re.M)}


def test_colab_every_notebook_has_the_cell():
    for name, path in notebooks().items():
        cells = json.loads(path.read_text())['cells']
        assert ''.join(cells[1]['source']) == install_cell(), f'{name}: run visft sync'


@pytest.mark.parametrize('there, gained, changed', [({'torch': '2.11.0+cu128', 'numpy': '2.1.3'}, {'visft_nb': __version__, 'timm': '1.0'}, {}),
                                                    ({'torch': '2.11.0+cu128', 'numpy': '2.1.3'}, {'visft_nb': __version__}, {'numpy': '2.4'}), ({'torch': '2'}, {}, {})])
def test_colab_the_cell_pins_what_is_there_and_says_what_it_did(monkeypatch, tmp_path, capsys, there, gained, changed):
    import importlib.metadata as metadata
    there, asked = dict(there), []
    def pip(name, line):
        asked.append((name, line))
        there.update(gained | changed)
    monkeypatch.setitem(sys.modules, 'google.colab', types.ModuleType('google.colab'))
    monkeypatch.setattr(metadata, 'distributions', lambda: [types.SimpleNamespace(name=n, metadata={'Name': n}, version=v) for n, v in there.items()])
    monkeypatch.chdir(tmp_path)
    before = dict(there)
    exec(install_cell(), {'get_ipython': lambda: types.SimpleNamespace(run_line_magic=pip)})
    (name, line), = asked
    assert name == 'pip' and f'@v{__version__}"' in line and ' -c ' in line
    pins = Path(re.search(r' -c (\S+)', line)[1]).read_text()
    assert pinned(pins) == pinned(''.join(f'{n}=={v}\n' for n, v in before.items()))
    said = capsys.readouterr().out
    assert said.count('\n') == 1
    if not gained: assert 'not installed' in said
    else: assert f'visft_nb {__version__}' in said and f'{len(changed)} changed' in said and f'{len(gained)} added' in said


def test_colab_elsewhere_the_cell_does_nothing(capsys):
    exec(install_cell(), {})
    assert not capsys.readouterr().out


def test_colab_the_kit_resolves_beside_what_the_runtime_has(data_root, tmp_path):
    "Against Colab's own list, on its Python: no package that is there changes, and torch least of all."
    if not UV: pytest.skip('uv, which resolves for another Python, is not installed: pip install uv')
    pins = data_root/'colab/constraints.txt'
    run = subprocess.run([UV, 'pip', 'compile', str(book_dir()/'pyproject.toml'), '--extra', 'course', '--python-version', '3.13', '--python-platform',
                          'x86_64-manylinux_2_28', '-c', str(pins), '-q', '-o', str(tmp_path/'resolved.txt')], capture_output=True, text=True, cwd=tmp_path)
    if run.returncode and re.search(r'error sending request|dns error|Connection|timed out', run.stderr): pytest.skip('the package index cannot be reached')
    assert run.returncode == 0, run.stderr
    there, resolved = pinned(pins.read_text()), pinned((tmp_path/'resolved.txt').read_text())
    assert len(resolved) > 60 and resolved['torch'] == there['torch']
    assert not {n: (there[n], v) for n, v in resolved.items() if n in there and there[n] != v}
