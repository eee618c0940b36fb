"Every notebook runs from the wheel in an empty folder, and what stands saved in `nbs/` is what is expected."
import ast, builtins, json, re, shutil, subprocess, sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from visft_nb.course.book import book_dir, notebooks, read_notebook, sync_headers, wrong_imports
from visft_nb.course.nursery import Nursery, can_fork
from visft_nb.course.processes import owned
from visft_nb.course.profiles import check_settings, parameters
from visft_nb.course.records import collect, compare, load_expected, saved_profile
from visft_nb.course.runs import NotebookRun, Runner, run_folder

NAMES = list(notebooks())
RUN = [n for n in NAMES if n != 'index']


@pytest.fixture(scope='session')
def run_wheel(wheel_env, tmp_path_factory):
    "Runs a notebook at smoke scale in the working folder, by the wheel's code, forked from a nursery where the system can."
    empty = tmp_path_factory.mktemp('empty')
    code = 'import json, visft_nb.course.runs as r; print(json.dumps(r._environment(1)))'
    done = subprocess.run([sys.executable, '-c', code], env=wheel_env, cwd=empty, capture_output=True, text=True, check=True)
    env = owned(json.loads(done.stdout))   # by this process, not by the one that wrote it
    with Nursery(env) if can_fork() else nullcontext() as nursery:
        runner = Runner(report=False, limit=400, nursery=nursery, env=env)
        yield lambda name: runner([NotebookRun(name, 'smoke', folder=str(run_folder(name, Path('_runs'))))])[0]


def outside(env, folder):
    "Files that were written elsewhere than to the cache and the folder of runs."
    home = Path(env['HOME'])
    return [p for p in home.rglob('*') if p.is_file() and home/'.cache' not in p.parents] + [p for p in folder.iterdir() if p.name != '_runs']


@pytest.mark.notebook
@pytest.mark.parametrize('name', RUN)
def test_runs_from_the_wheel(run_wheel, wheel_env, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = run_wheel(name)
    wrong = [r for r in run.rows if r['verdict'] != 'ok']
    assert run.status == 'ok', f'{run.status}: {run.error} {wrong}'
    assert {r['name'] for r in run.rows} >= set(run.records), 'figures that nothing is expected of: tests/expected/smoke'
    assert outside(wheel_env, tmp_path) == []
    executed = read_notebook(Path(run.folder)/notebooks()[name].name)
    assert executed['metadata']['papermill']['input_path'].startswith(wheel_env['PYTHONPATH']), 'this is not the notebook of the wheel'


@pytest.mark.notebook
def test_the_command_runs_from_the_wheel(wheel_env, tmp_path):
    command = [sys.executable, '-m', 'visft_nb.course.cli', 'run', 'course/02_records', '--profile', 'smoke']
    done = subprocess.run(command, env=wheel_env, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {p.name for p in tmp_path.glob('_runs/course__02_records/*/*')} == {'02_records.ipynb', 'records.json', 'report.html'}
    assert outside(wheel_env, tmp_path) == []


@pytest.mark.parametrize('name', NAMES)
def test_saved_figures_are_the_expected_ones(name):
    nb = read_notebook(notebooks()[name])
    wrong = [r for r in compare(collect(nb), load_expected(name, saved_profile(nb))) if r['verdict'] != 'ok']
    assert not wrong, wrong


@pytest.mark.parametrize('name', NAMES)
def test_saved_notebook_is_light_and_clean(name):
    path = notebooks()[name]
    nb, text = read_notebook(path), path.read_text()
    assert len(text) < 500_000
    assert not re.search(r'/(work|root|tmp|home)/[A-Za-z0-9_.]', text), 'a path of this machine'
    code = [c for c in nb['cells'] if c['cell_type'] == 'code' and c['source'].strip()]
    assert any(c['outputs'] for c in code), 'saved without outputs: run `visft run NOTEBOOK --save`'
    assert not any(o['output_type'] == 'error' for c in code for o in c['outputs'])
    pictures = [o for c in code for o in c['outputs'] if 'image/png' in o.get('data', {})]
    assert all(o['metadata'].get('image/png', {}).get('alt') for o in pictures), 'a picture without alternative text'
    assert max(len(c['source'].splitlines()) for c in code) <= 40, 'a cell of over 40 lines'
    lesson = [c['source'] for c in code if 'export' not in c['source']]
    assert not any(re.search(r'\bif\b.*\b(smoke|SMOKE|PROFILE|profile)\b', s) for s in lesson), 'branches on the profile'
    assert re.match(r'# .+\n\n> .+', nb['cells'][0]['source']), 'the first cell is a title and one line behind ">"'


def test_no_module_and_no_notebook_is_a_wall():
    modules = {p.relative_to(book_dir()).as_posix(): len(p.read_text().splitlines()) for p in (book_dir()/'visft_nb').rglob('*.py') if p.name != '_modidx.py'}
    modules = {m: n for m, n in modules.items() if '/tasks_' not in m}    # collections of items, each of which is read by itself
    assert {m: n for m, n in modules.items() if n > 450} == {}, 'part these modules'
    def size(path):
        "Cells before the exercises."
        cells = read_notebook(path)['cells']
        return next((i for i, c in enumerate(cells) if '## Exercises' in c['source']), len(cells))
    cells = {name: size(path) for name, path in notebooks().items()}
    assert {name: n for name, n in cells.items() if n > 80} == {}, 'part these notebooks'


def test_code_is_at_most_88_wide():
    wide = {}
    for name, path in notebooks().items():
        code = [c['source'] for c in read_notebook(path)['cells'] if c['cell_type'] == 'code']
        wide[name] = [line for s in code for line in s.splitlines() if len(line) > 88]
    assert {n: lines[:3] for n, lines in wide.items() if lines} == {}, 'break these lines'



def test_parameters_and_settings_agree(): assert check_settings() == []


def test_every_lesson_has_parameters(): assert [n for n in RUN if not n.startswith('lib/') and not parameters(notebooks()[n])] == []


def test_modules_import_downwards(root): assert wrong_imports(root/'visft_nb') == []


def test_no_module_takes_a_private_name_of_another(root):
    taken = {}
    for path in sorted((root/'visft_nb').rglob('*.py')):
        froms = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ImportFrom)]
        ours = [n for n in froms if n.level or (n.module or '').startswith('visft_nb')]
        names = sorted(a.name for n in ours for a in n.names if a.name.startswith('_') and not a.name.startswith('__'))
        if names: taken[path.relative_to(root/'visft_nb').as_posix()] = names
    assert taken == {}, 'give such a name a public one'


@pytest.fixture(scope='session')
def copy(root, tmp_path_factory):
    "A copy of what nbdev reads and writes."
    top = tmp_path_factory.mktemp('copy')
    for d in ('nbs', 'visft_nb'): shutil.copytree(root/d, top/d, ignore=shutil.ignore_patterns('__pycache__', '.ipynb_checkpoints'))
    for f in ('pyproject.toml', 'README.md', 'settings.ini', 'LICENSE'): shutil.copy(root/f, top)
    return top


def _nbdev(command, cwd):
    done = subprocess.run([str(Path(sys.executable).parent/command)], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def _files(top, pattern): return {p.relative_to(top).as_posix(): p.read_text() for p in top.rglob(pattern) if '__pycache__' not in p.parts}


def test_package_is_what_the_notebooks_export(root, copy):
    _nbdev('nbdev-export', copy)
    assert _files(copy/'visft_nb', '*.py') == _files(root/'visft_nb', '*.py'), 'edit the notebooks, then run nbdev-export'


def test_notebooks_are_clean_and_headed(root, copy):
    _nbdev('nbdev-clean', copy)
    assert sync_headers(copy) == [], 'run `visft sync`'
    changed = [n for n, text in _files(copy/'nbs', '*.ipynb').items() if json.loads(text) != json.loads((root/'nbs'/n).read_text())]
    assert changed == [], 'run nbdev-clean'


def test_clean_keeps_tags_and_grader_metadata(root, tmp_path):
    for f in ('pyproject.toml', 'README.md'): shutil.copy(root/f, tmp_path)
    (tmp_path/'nbs').mkdir()
    grader = dict(grade=True, grade_id='a', points=2, solution=False, locked=True, schema_version=3)
    cell = dict(cell_type='code', id='aa', execution_count=3, source='A = 1', outputs=[], metadata=dict(tags=['parameters'], nbgrader=grader, cellView='form', junk=1))
    picture = dict(output_type='display_data', data={'image/png': 'aGk='}, metadata={'image/png': dict(alt='a digit'), 'junk': 1})
    shown = dict(cell_type='code', id='bb', execution_count=4, source='A', metadata={}, outputs=[picture])
    nb = dict(cells=[cell, shown], metadata=dict(kernelspec=dict(name='python3', display_name='x', language='python'), accelerator='GPU', junk=1), nbformat=4, nbformat_minor=5)
    (path := tmp_path/'nbs/a.ipynb').write_text(json.dumps(nb))
    _nbdev('nbdev-clean', tmp_path)
    new = json.loads(path.read_text())
    assert new['cells'][0]['metadata'] == dict(tags=['parameters'], nbgrader=grader, cellView='form') and new['cells'][0]['execution_count'] is None
    assert new['cells'][1]['outputs'][0]['metadata'] == {'image/png': dict(alt='a digit')}
    assert new['metadata']['accelerator'] == 'GPU' and 'junk' not in new['metadata']


def test_import_is_light_and_lazy():
    code = "import sys, visft_nb, visft_nb.cnn, visft_nb.pretrain, visft_nb.finetune, visft_nb.robust, visft_nb.generate; print([m for m in ('torch', 'matplotlib', 'numpy') if m in sys.modules])"
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.strip() == '[]'


def test_wheel_carries_the_book(root, wheel_env, tmp_path):
    code = "import visft_nb, visft_nb.course.book as b; print(b.book_dir()); print(visft_nb.__file__)"
    book, package = subprocess.run([sys.executable, '-c', code], env=wheel_env, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.split()
    assert package.startswith(wheel_env['PYTHONPATH']) and book.startswith(wheel_env['PYTHONPATH'])
    inside = {p.relative_to(book).as_posix() for p in Path(book).rglob('*') if p.is_file()}
    assert {f'nbs/{n}.ipynb' for n in NAMES} <= inside and 'settings.ini' in inside
    templates = {p.name for p in (root/'visft_nb/templates').iterdir()}
    assert templates == {p.name for p in (Path(package).parent/'templates').iterdir()} and 'page.html.j2' in templates


def test_code_is_lint_free(root):
    done = subprocess.run([sys.executable, '-m', 'ruff', 'check', '.'], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_readme_and_ci_say_the_same(root):
    readme, ci = (root/'README.md').read_text(), (root/'.ci/run').read_text()
    assert len(re.findall(r'<!-- test command -->\n```bash\n(.+pytest)\n```', readme)) == 1 and 'test command' in ci
    assert re.search(r'```bash\n.*pip install -q -e \. && \.venv/bin/visft run\n```', readme), 'the command that does everything'
    missing = [f for f in re.findall(r'\]\(([^):#]+)\)', readme) if not (root/f).exists()]
    assert missing == [], 'the README links to files that are not there'


def bound_names(path):
    "Names that exported cells import, names that the lesson's own cells assign, and names that are used and bound nowhere."
    imported, assigned, bound, used = set(), set(), set(dir(builtins)) | {'get_ipython', 'display', '__file__'}, set()
    for c in read_notebook(path)['cells']:
        if c['cell_type'] != 'code' or c['id'] == 'colab': continue
        tree = ast.parse('\n'.join('pass' if s.lstrip().startswith(('%', '!')) else s for s in c['source'].splitlines()))
        exported = '#| export' in c['source']
        for n in ast.walk(tree):
            if isinstance(n, (ast.Import, ast.ImportFrom)):
                names = {(a.asname or a.name).split('.')[0] for a in n.names}
                bound |= names
                if exported: imported |= names
            elif isinstance(n, ast.Name): (used if isinstance(n.ctx, ast.Load) else bound).add(n.id)
            elif isinstance(n, (ast.FunctionDef, ast.ClassDef)): bound.add(n.name)
            elif isinstance(n, ast.arg): bound.add(n.arg)
            elif isinstance(n, ast.ExceptHandler) and n.name: bound.add(n.name)
        if exported: continue
        for statement in tree.body:
            if isinstance(statement, (ast.FunctionDef, ast.ClassDef)): continue
            assigned |= {n.id for n in ast.walk(statement) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    return imported, assigned, used - bound


@pytest.mark.parametrize('name', NAMES)
def test_a_lesson_hides_no_name_of_its_module_and_uses_none_that_is_not_there(name):
    "Exported code runs in the lesson too: a variable that has the name of an import breaks it there and nowhere else."
    imported, assigned, missing = bound_names(notebooks()[name])
    known = {'3_finetune/08_hub': {'shown'}}   # not called after that
    assert (imported & assigned) - known.get(name, set()) == set() and missing == set()
