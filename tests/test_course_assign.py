"Assignments: what students hand in, and what may never happen to their marks."
import ast
import importlib
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from helpers import sentence

from visft_nb.course import items as items_module
from visft_nb.course.assignments import BEGIN, END, grade_id, leaks, load_assignment, parse_notebook, release_notebook
from visft_nb.course.book import book_dir, notebooks, read_notebook
from visft_nb.course.classroom import assignment_folders, grade_course, last_marks, new_course, open_course, release_course, report_course
from visft_nb.course.grading import find_student, student_of, submitted_files
from visft_nb.course.items import COMMON, Case, Item, NotDone, case_rng, check, find_item, judge, progress
from visft_nb.course.mutants import candidates, read_candidates, check_table, exercise_candidates, exercise_folders, try_candidates, try_exercises
from visft_nb.core import InputError
from visft_nb.course.sandbox import Answer, Limits, sit, step

SOLUTION = 'total_of_each_row = x.sum(1)'


def row_cases(rng):
    x = rng.normal(size=(3, 4))
    return [Case([step('row_mean', x)], x.mean(1))]


def twice_cases(rng):
    n = int(rng.integers(10, 99))
    return [Case([step('twice', n)], 2*n, about='of a number')]


ITEMS = [Item('toy.row_mean', 'Mean of each row', ['row_mean'], row_cases, COMMON, 3), Item('toy.twice', 'Twice a number', ['twice'], twice_cases, COMMON, 2)]
HIDDEN = '''import numpy as np
from visft_nb.course.items import Case
from visft_nb.course.sandbox import step
SECRET_SHAPES_OF_THE_HIDDEN_CASES = [(2, 9), (5, 1)]
HIDDEN = {'toy.row_mean': lambda rng: [Case([step('row_mean', np.ones(s))], np.ones(s[0])) for s in SECRET_SHAPES_OF_THE_HIDDEN_CASES]}
'''


def cell(source, gid='', **grader):
    meta = {'nbgrader': dict(dict(grade=False, locked=False, solution=False, task=False, schema_version=3, grade_id=gid), **grader)} if gid else {}
    return dict(cell_type='code', metadata=meta, source=source, outputs=[], execution_count=None, id=gid or 'none')


def source_cells():
    return [cell('import numpy as np', 'imports', locked=True),
            cell(f'def row_mean(x):\n    {BEGIN}\n    {SOLUTION}\n    return total_of_each_row/x.shape[1]\n    {END}', 'row_mean', solution=True),
            cell("check('toy.row_mean', row_mean)", 'row_mean-check', grade=True, locked=True, points=3),
            cell(f'def twice(n):\n    {BEGIN}\n    return n + n\n    {END}', 'twice', solution=True),
            cell("check('toy.twice', twice)", 'twice-check', grade=True, locked=True, points=2)]


@pytest.fixture
def book(tmp_path, monkeypatch):
    "A repository with one assignment of two items."
    import types
    monkeypatch.setitem(sys.modules, 'toy_items', types.SimpleNamespace(ITEMS=ITEMS))
    monkeypatch.setitem(items_module.TASKS, 'toy', 'toy_items')
    top = tmp_path/'book/nbs/assignments/toy'
    top.mkdir(parents=True)
    (top/'toy.ipynb').write_text(json.dumps(dict(cells=source_cells(), metadata={'visft': {'items': [i.name for i in ITEMS]}}, nbformat=4, nbformat_minor=5)))
    (top/'hidden.py').write_text(HIDDEN)
    return tmp_path/'book'


@pytest.fixture
def course(book, tmp_path):
    new_course(tmp_path/'class', book=book)
    (tmp_path/'class/roster.csv').write_text('id,name\n' + ''.join(f's{i:02},Student {i:02}\n' for i in range(40)))
    (tmp_path/'class/course.toml').write_text('salt = "pepper"\n[limits]\ncell = 8\nquestion = 5\nmemory = 1024\nprinted = 4\n')
    opened = open_course(tmp_path/'class')
    release_course(opened)
    return opened


def notebook(course, **answers):
    "The student's copy with answers in its slots."
    nb = json.loads((course.folder/'release/toy.ipynb').read_text())
    for c in nb['cells']: c['source'] = answers.get(c['metadata'].get('nbgrader', {}).get('grade_id', ''), c['source'])
    return nb


RIGHT = dict(row_mean='def row_mean(x): return x.mean(1)', twice='def twice(n): return 2*n')


def hand_in(folder, name, nb):
    folder.mkdir(exist_ok=True)
    (folder/name).write_text(nb if isinstance(nb, str) else json.dumps(nb))


def but(**answers): return lambda course: notebook(course, **RIGHT | answers)


def deleted(course):
    nb = notebook(course, **RIGHT)
    nb['cells'] = [c for c in nb['cells'] if not c['metadata'].get('nbgrader', {}).get('grade')]
    return nb


def copied(course):
    nb = notebook(course, **RIGHT)
    nb['cells'] += [dict(nb['cells'][3]), dict(nb['cells'][2])]
    return nb


def without_metadata(course):
    nb = notebook(course, **RIGHT)
    return dict(nb, metadata={}, cells=[dict(c, metadata={'id': 'colab'}) for c in nb['cells']][::-1])


def old_stub_last(course):
    nb = notebook(course, **RIGHT)
    nb['cells'].append(dict(notebook(course)['cells'][2], metadata={}))
    return nb


# what is handed in: (notebook, points for the rows, points for twice)
SUBMISSIONS = {
    'correct': (but(), 3, 2),
    'correct, with a warning': (but(row_mean='import warnings\ndef row_mean(x):\n    warnings.warn("careful")\n    return x.mean(1)'), 3, 2),
    'correct, with a progress bar on stderr': (but(row_mean='import sys\ndef row_mean(x):\n    print("50 %", file=sys.stderr)\n    return x.mean(1)'), 3, 2),
    'correct, as a tensor': (but(row_mean='import torch\ndef row_mean(x): return torch.from_numpy(x).mean(1)'), 3, 2),
    'correct, as a list': (but(row_mean='def row_mean(x): return [float(r.mean()) for r in x]'), 3, 2),
    'unchanged': (notebook, 0, 0),
    'patches np.allclose': (but(row_mean='import numpy as np\nnp.allclose = np.array_equal = lambda *a, **k: True\ndef row_mean(x): return x'), 0, 2),
    'drops every assert': (but(row_mean='import ast\nclass T(ast.NodeTransformer):\n    def visit_Assert(self, n): return ast.Pass()\n'
                                        'get_ipython().ast_transformers.append(T())\ndef row_mean(x): return 0'), 0, 2),
    'reads what ran': (but(row_mean='open("stolen.txt", "w").write(str(In))\ndef row_mean(x): return In[-1]'), 0, 2),
    'redefines float': (but(row_mean='import builtins\nbuiltins.float = lambda *a: 3\nbuiltins.sum = lambda *a: 99\ndef row_mean(x): return 0*x'), 0, 2),
    'claims points': (but(row_mean='def row_mean(x): return 1e9'), 0, 2),
    'patches the judge': (but(row_mean='import visft_nb.course.items as i, visft_nb.course.values as v\ni.alike = v.alike = lambda *a, **k: True\ndef row_mean(x): return 0'), 0, 2),
    'equal to everything': (but(row_mean='class Same:\n    def __eq__(self, other): return True\n    def __array__(self, *a): return 0\ndef row_mean(x): return Same()'), 0, 2),
    'hangs': (but(row_mean='while True: pass'), 0, 2),
    'hangs, and does not listen': (but(row_mean='import signal\nsignal.signal(signal.SIGALRM, signal.SIG_IGN)\nwhile True:\n    try:\n        while True: pass\n    except BaseException: pass'), 0, 2),
    'hangs when called': (but(row_mean='def row_mean(x):\n    while True: pass'), 0, 2),
    'ends the process': (but(row_mean='import os\nos._exit(0)'), 0, 2),
    'ends the process when called': (but(row_mean='import os\ndef row_mean(x): os._exit(1)'), 0, 2),
    'kills all it can': (but(row_mean='import os, signal\ntry: os.kill(-1, signal.SIGTERM)\nexcept OSError: pass\ndef row_mean(x): return x.mean(1)'), 3, 2),
    'prints 100 MB': (but(row_mean='def row_mean(x): return x.mean(1)\nfor _ in range(100): print("x"*2**20)'), 3, 2),
    'takes all memory': (but(row_mean='import numpy as np\ndef row_mean(x): return np.ones((2**16, 2**16)).mean(1)'), 0, 2),
    'a syntax error': (but(row_mean='def row_mean(x) return x'), 0, 2),
    'exits': (but(row_mean='import sys\nsys.exit()'), 0, 2),
    'a deleted test cell': (deleted, 3, 2),
    'a copied cell': (copied, 3, 2),
    'no metadata, upside down': (without_metadata, 3, 2),
    'the old slot once more at the end': (old_stub_last, 3, 2),
    'no notebook': (lambda course: '<html>saved as a page</html>', 0, 0),
    'empty': (lambda course: '', 0, 0),
    'no cells': (lambda course: '{"cells": null}', 0, 0),
    'of another assignment': (lambda course: dict(notebook(course, **RIGHT), metadata={'visft': {'assignment': 'ps9'}}), 0, 0)}


@pytest.fixture
def graded(course, tmp_path):
    for i, (make, *_) in enumerate(SUBMISSIONS.values()): hand_in(tmp_path/'in', f'ps_s{i:02}.ipynb', make(course))
    marks, notes = grade_course(course, tmp_path/'in')
    assert not notes
    return course, {n: next(m for m in marks if m.student == f's{i:02}') for i, n in enumerate(SUBMISSIONS)}


def test_course_assign_every_submission_gets_the_marks_it_deserves_and_none_stops_the_others(graded, tmp_path):
    course, marks = graded
    got = {n: tuple(v.points for v in m.verdicts) for n, m in marks.items()}
    assert got == {n: (a, b) for n, (_, a, b) in SUBMISSIONS.items()}
    named = {n: m.verdicts[0].mistake for n, m in marks.items()}
    assert named['hangs'] == 'missing' and named['hangs when called'] == 'too long' and named['ends the process when called'] == 'ends the process'
    assert named['unchanged'] == 'not done' and named['no notebook'] == 'no notebook'
    assert 'too long' in marks['hangs'].cells[1] and 'SyntaxError' in marks['a syntax error'].cells[1]
    assert any('there 2 times' in n for n in marks['a copied cell'].notes)
    assert any('lost their names' in n for n in marks['no metadata, upside down'].notes)
    assert 'ps9' in marks['of another assignment'].error and 'no notebook' in marks['no notebook'].error
    told = ''.join(p.read_text() for p in (course.folder/'feedback').rglob('*.html')) + (course.folder/'grades.csv').read_text()
    assert not leaks(told, [*HIDDEN.splitlines(), SOLUTION]) and 'SECRET' not in told
    assert not list(Path.cwd().glob('stolen.txt')) and not list(tmp_path.rglob('stolen.txt'))
    again, _ = grade_course(open_course(course.folder), tmp_path/'in')      # kept
    assert {m.student: m.points for m in again} == {m.student: m.points for m in marks.values()}
    for p in (course.folder/'marks').iterdir(): p.unlink()
    once_more, _ = grade_course(course, tmp_path/'in')                      # and computed anew
    assert {m.student: m.points for m in once_more} == {m.student: m.points for m in marks.values()}
    page = report_course(course, again).read_text()
    assert 'distribution' in page and 'ends the process 1' in page and 'too long' in page


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='namespaces are of Linux')
def test_course_assign_code_of_students_reads_no_test_and_reaches_no_network(course, tmp_path):
    folder = course.folder.resolve()
    spy = ('import os, urllib.request\n'
           f'def row_mean(x): return [p for p in ({str(folder)!r}, {str((tmp_path/"in").resolve())!r}) if os.listdir(p)]\n'
           'def twice(n): return urllib.request.urlopen("http://127.0.0.1:9", timeout=1).status\n')
    s = sit([(0, spy)], dict(files=[step('row_mean', 1)], net=[step('twice', 1)], memory=[step('len', '@__builtins__.__dict__')]), covered=[folder])
    if any('namespaces' in n for n in s.notes): pytest.skip(s.notes[0])
    assert s.answers['files'].error.startswith('FileNotFoundError') or s.answers['files'].value == []
    assert 'unreachable' in s.answers['net'].error or 'refused' in s.answers['net'].error


def test_course_assign_an_interrupted_night_goes_on(course, tmp_path, monkeypatch):
    for i in range(4): hand_in(tmp_path/'in', f's{i:02}.ipynb', notebook(course, **RIGHT))
    seen = []
    def stop(marks, new):
        seen.append((marks.student, new))
        if len(seen) == 2: raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): grade_course(course, tmp_path/'in', stop)
    grade_course(course, tmp_path/'in', lambda m, new: seen.append((m.student, new)))
    # what was being graded beside them when it was interrupted is kept, too
    assert seen[:4] == [('s00', True), ('s01', True), ('s00', False), ('s01', False)]
    assert [student for student, _ in seen[4:]] == ['s02', 's03']


def test_course_assign_as_many_at_a_time_as_one_likes(course, tmp_path):
    from visft_nb.course.grading import grade_all
    files = [(f's{i:02}.ipynb', json.dumps(notebook(course, **(RIGHT if i % 2 else {'row_mean': 'import os; os._exit(3)'}))).encode()) for i in range(4)]
    a = course.assignments['toy']
    one, three = (grade_all(a, files, course.roster, tmp_path/str(n), course.salt, workers=n) for n in (1, 3))
    assert [(m.student, m.points, m.verdicts) for m in one] == [(m.student, m.points, m.verdicts) for m in three]
    assert len({m.points for m in one}) == 2


def test_course_assign_a_changed_test_marks_anew(course, tmp_path):
    hand_in(tmp_path/'in', 's00.ipynb', notebook(course, **RIGHT))
    grade_course(course, tmp_path/'in')
    (course.folder/'source/toy/hidden.py').write_text(HIDDEN.replace('(2, 9)', '(7, 2)'))
    news = []
    grade_course(open_course(course.folder), tmp_path/'in', lambda m, new: news.append(new))
    assert news == [True]


def test_course_assign_zips_and_doubles(course, tmp_path):
    with zipfile.ZipFile(tmp_path/'all.zip', 'w') as z:
        z.writestr('Student 03_99_assignsubmission_file_/work.ipynb', json.dumps(notebook(course, **RIGHT)))
        z.writestr('../../s04.ipynb', json.dumps(notebook(course, **RIGHT)))
        z.writestr('s05-1.ipynb', json.dumps(notebook(course, row_mean='x = 1')))
        z.writestr('s05-2.ipynb', json.dumps(notebook(course, **RIGHT)))
        z.writestr('nobody.ipynb', json.dumps(notebook(course, **RIGHT)))
    marks, notes = grade_course(course, tmp_path/'all.zip')
    assert [(m.student, m.points) for m in marks] == [('s03', 5), ('', 5), ('s05', 0), ('s05', 5)]
    assert any('leaves its folder' in n for n in notes) and marks[2].notes[-1] == 'replaced by s05-2.ipynb'
    assert 'nobody of the roster' in marks[1].notes[-1]
    rows = (course.folder/'grades.csv').read_text().splitlines()
    assert len(rows) == 1 + 4 + 38 and sum('nothing handed in' in r for r in rows) == 38


def test_course_assign_sentences_for_what_a_teacher_does(course, book, tmp_path):
    source = course.folder/'source/toy/toy.ipynb'
    good = source.read_text()
    def planted(change, *words):
        nb = json.loads(good)
        change(nb)
        source.write_text(json.dumps(nb))
        sentence(lambda: release_course(open_course(course.folder)), *words)
    planted(lambda nb: nb['cells'][2]['metadata']['nbgrader'].update(points=4), 'points do not add up', 'row_mean')
    planted(lambda nb: nb['cells'].append(nb['cells'][1]), 'row_mean', 'twice')
    planted(lambda nb: nb['metadata'].clear(), 'names no items')
    planted(lambda nb: nb['cells'].append(cell(f'# {SOLUTION}\nold = 1; {SOLUTION}')), 'line of the solution')
    planted(lambda nb: nb['cells'][1].update(source='def row_mean(x): return x.mean(1)'), 'row_mean', BEGIN)
    source.write_text(good)
    (course.folder/'roster.csv').write_text('id,name\na,A\na,B\n')
    sentence(lambda: open_course(course.folder), 'roster.csv', 'twice')
    sentence(lambda: new_course(course.folder, book=book), 'not empty')
    sentence(lambda: new_course(tmp_path/'other', ['tyo'], book=book), 'toy')
    sentence(lambda: submitted_files(tmp_path/'nothing'), 'no folder')


def test_course_assign_students_are_found_by_name_or_number():
    roster = {'s1': 'Ada Lovelace', 's2': 'Zoë Müller', 's10': 'Li Wei', 's3': 'Ada Byron'}
    for name, who in {'ps1_lovelace_12345.ipynb': 's1', 'Müller Zoe_7_file/ps1.ipynb': 's2', 'ps1-S10.ipynb': 's10', 'weili.ipynb': 's10', 'ada.ipynb': '',
                      'byron ada ps1 (2).ipynb': 's3', 'Untitled.ipynb': ''}.items(): assert find_student(name, '', roster) == who, name
    assert find_student('Untitled.ipynb', 's2', roster) == 's2' and find_student('s1.ipynb', 's2', roster) == 's1'
    assert student_of(parse_notebook(json.dumps(dict(cells=[cell("STUDENT = 's7'  # me")])).encode(), 'a')) == 's7'


@pytest.mark.peer
def test_course_assign_nbgrader_takes_the_source_and_the_marks(course, tmp_path, monkeypatch):
    pytest.importorskip('nbgrader', reason="pip install 'visft_nb[peers]'")
    from nbgrader.api import Gradebook
    from nbgrader.apps import NbGraderAPI
    from traitlets.config import Config
    from visft_nb.course.classroom import fill_gradebook
    monkeypatch.setenv('PATH', os.pathsep.join([str(Path(sys.executable).parent), os.environ['PATH']]))     # it calls alembic by name
    (tmp_path/'grader/source/toy').mkdir(parents=True)
    nb = json.loads((course.folder/'source/toy/toy.ipynb').read_text())
    nb['metadata']['kernelspec'] = dict(name='python3', display_name='Python 3', language='python')
    (tmp_path/'grader/source/toy/toy.ipynb').write_text(json.dumps(nb))
    config = Config()
    config.CourseDirectory.root = str(tmp_path/'grader')
    config.CourseDirectory.course_id = 'toy'
    made = NbGraderAPI(config=config).generate_assignment('toy')
    assert made['success'], made
    text = (tmp_path/'grader/release/toy/toy.ipynb').read_text()
    assert 'total_of_each_row' not in text and 'row_mean-check' in text
    hand_in(tmp_path/'in', 's01.ipynb', notebook(course, row_mean=RIGHT['row_mean']))
    marks, _ = grade_course(course, tmp_path/'in')
    fill_gradebook(course, marks, tmp_path/'grader/gradebook.db')
    with Gradebook(f"sqlite:///{tmp_path/'grader/gradebook.db'}") as book:
        got = book.find_submission('toy', 's01')
        assert got.score == 3 and got.max_score == 5


# ---------------------------------------------------------------- in the notebook

@pytest.fixture
def toy(monkeypatch):
    import types
    monkeypatch.setitem(sys.modules, 'toy_items', types.SimpleNamespace(ITEMS=ITEMS))
    monkeypatch.setitem(items_module.TASKS, 'toy', 'toy_items')
    monkeypatch.setattr(items_module, '_STATE', {})


def test_course_assign_checks_teach(toy):
    def slot(x): raise NotDone
    assert 'not done yet' in repr(check('toy.row_mean', slot)) and 'not done yet' in repr(check('toy.row_mean', ...))
    assert progress('toy.row_mean', 'toy.twice') == '0 of 2 done; open: row_mean, twice.'
    said = repr(check('toy.row_mean', lambda x: -x.mean(1)))
    assert '(sign)' in said and 'computed' in said and 'expected' in said
    assert '(transposed)' not in said and 'right (1 cases)' in repr(check('toy.row_mean', lambda x: x.mean(1)))
    assert progress('toy.row_mean', 'toy.twice') == '1 of 2 done; open: twice.'
    assert '&lt;b&gt;' in check('toy.twice', lambda n: f'<b>{n}')._repr_html_()
    sentence(lambda: check('toy.twcie', 1), 'twice')
    sentence(lambda: check('toy.twice', 1, 2), 'takes 1 things')


def test_course_assign_each_student_has_own_numbers():
    a, b = (find_item('ps1.count').cases(case_rng('ps1.count', s))[0].judge(100) for s in ('ada', 'bob'))
    draws = {s: case_rng('ps1.count', s).integers(0, 2**40) for s in ('ada', 'bob', '')}
    assert len(set(draws.values())) == 3 and a == b == 'count'
    assert case_rng('ps1.count', 'ada', 'pepper').integers(0, 2**40) != draws['ada']


# ---------------------------------------------------------------- the assignments

PLACES = assignment_folders(book_dir())


@pytest.mark.parametrize('name', PLACES)
def test_course_assign_right_answers_pass_and_wrong_ones_are_named(name):
    assignment = load_assignment(PLACES[name])
    tried = try_candidates(assignment, candidates(assignment))
    assert not [(t.candidate.item, t.candidate.about, t.points, t.mistake) for t in tried if not t.ok]
    assert all(r['right'] >= 3 and r['mutants'] >= 5 for r in check_table(tried))


@pytest.mark.parametrize('name', PLACES)
def test_course_assign_the_copy_runs_and_is_not_done(name):
    assignment = load_assignment(PLACES[name])
    nb = release_notebook(assignment)
    cells = [(i, c['source']) for i, c in enumerate(nb['cells']) if c['cell_type'] == 'code']
    s = sit(cells, {'progress': [step('progress', *[i.name for i in assignment.items])]}, Limits(cell=120))
    assert not s.cells, s.cells
    assert s.answers['progress'].value.startswith(f'0 of {len(assignment.items)} done')
    assert all(m.hint for i in assignment.items for m in i.mistakes) and all(len({m.name for m in i.mistakes}) >= 3 for i in assignment.items)


# ---------------------------------------------------------------- the exercises of the lessons

EXERCISES = exercise_folders(book_dir())


@pytest.mark.parametrize('chapter', EXERCISES)
def test_course_assign_exercises_right_answers_pass_and_wrong_ones_are_named(chapter):
    tried = try_exercises(EXERCISES[chapter])
    assert not [(t.candidate.item, t.candidate.about, t.points, t.mistake) for t in tried if not t.ok]
    words = {t.candidate.item for t in tried}
    assert words == {i.name for i in importlib.import_module(items_module.TASKS[chapter]).ITEMS}
    for name in words:
        item = find_item(name)
        assert len({m.name for m in item.mistakes}) >= 3 and all(m.hint for m in item.mistakes), name
        meant = {m.name for m in item.mistakes} | {'wrong', 'raises', 'no value', 'too long', 'not done', 'missing'}
        assert {t.candidate.mistake for t in tried if t.candidate.item == name} <= meant | {''}, name


@pytest.mark.parametrize('chapter', EXERCISES)
def test_course_assign_exercises_stand_below_a_lesson_and_no_lesson_holds_a_solution(chapter):
    texts = {n: [c['source'] for c in read_notebook(p)['cells'] if c['cell_type'] == 'code'] for n, p in notebooks().items() if n.startswith(f'{chapter_folder(chapter)}/')}
    asked = [name for cells in texts.values() for c in cells for name in re.findall(rf"check\('({chapter}\.\w+)'", c)]
    shown = [name for cells in texts.values() for c in cells if c.startswith('progress(') for name in re.findall(rf"'({chapter}\.\w+)'", c)]
    listed = exercise_candidates(EXERCISES[chapter])
    assert sorted(asked) == sorted(shown) == sorted({c.item for c in listed})
    for cells in texts.values():
        slots = [c for c, after in zip(cells, cells[1:]) if after.startswith(f"check('{chapter}.")]
        assert all(c.splitlines()[-1].strip() == 'raise NotDone' or ' = ...' in c for c in slots)
    lines = [line.strip() for c in listed if c.right for line in c.source.splitlines() if 'return' in line]
    assert lines and not {n: f for n, cells in texts.items() if (f := [s for s in lines if len(s) > 18 and any(s in c for c in cells)])}


def chapter_folder(chapter):
    "The folder of the lesson that asks: cnn is asked in 1_cnn, codes in 5_generate."
    return next(n.split('/')[0] for n, p in notebooks().items() if n[0].isdigit() and f"check('{chapter}." in p.read_text())


def secrets():
    "(whose, lines) of solutions, of hidden cases and of right candidates."
    out = []
    for place in PLACES.values():
        for c in load_assignment(place).notebook['cells']:
            out += [(f'{place.name}, solution', region.splitlines()) for region in re.findall(f'{re.escape(BEGIN)}\n(.*?){re.escape(END)}', c['source'], re.S)]
        out.append((f'{place.name}, hidden.py', (place/'hidden.py').read_text().splitlines()))
    for p in (book_dir()/'nbs/assignments').glob('*/candidates/*.py'):
        out += [(f'{p.parent.parent.name}, {p.name}', c.source.splitlines()) for c in read_candidates(p, 'a.b') if c.right]
    return out


def given_away(text, lines):
    "Does a text hold half of the lines that tell something?"
    telling = leaks('\n'.join(lines), lines)
    return bool(telling) and len(leaks(text, lines)) >= max(1, (len(telling) + 1)//2)


def test_course_assign_no_solution_travels(tmp_path, site):
    if not PLACES: pytest.skip('this is no clone')
    build = subprocess.run([sys.executable, '-m', 'build', '--no-isolation', '--outdir', str(tmp_path), str(book_dir())], capture_output=True, text=True)
    assert build.returncode == 0, build.stderr
    wheel, = tmp_path.glob('*.whl')
    sdist, = tmp_path.glob('*.tar.gz')
    import tarfile
    with zipfile.ZipFile(wheel) as z: texts = {n: z.read(n).decode(errors='replace') for n in z.namelist() if n.endswith(('.py', '.ipynb', '.json', '.html'))}
    with tarfile.open(sdist) as t: texts |= {m.name: t.extractfile(m).read().decode(errors='replace') for m in t if m.name.endswith(('.py', '.ipynb'))}
    texts |= {str(p): p.read_text() for p in site.rglob('*.html') if 'marks' in p.name or 'task' in p.name or 'course' in p.parts}
    assert not [n for n in texts if 'nbs/assignments' in n]
    wanted = secrets()
    assert sum(len(lines) for _, lines in wanted) > 300 and given_away('\n'.join(wanted[1][1]), wanted[1][1])
    found = {n: [who for who, lines in wanted if given_away(text, lines)] for n, text in texts.items() if 'task' in n or 'course' in n}
    assert not {n: f for n, f in found.items() if f}


def test_course_assign_the_command(tmp_path):
    env = dict(os.environ, PYTHONPATH=str(book_dir()))
    run = lambda *a: subprocess.run([sys.executable, '-m', 'visft_nb.course.cli', 'course', *a], cwd=tmp_path, env=env, capture_output=True, text=True)
    if not PLACES: pytest.skip('this is no clone')
    assert run('new', 'spring', '--assignment', 'ps1_gradients').returncode == 0
    done = run('release', 'spring')
    assert done.returncode == 0 and 'spring/release/ps1_gradients.ipynb' in done.stdout
    refused = run('grade', 'nowhere', 'spring')
    assert refused.returncode == 2 and refused.stderr.count('\n') == 1 and 'no course' in refused.stderr
    assert run('grade', 'spring', 'nowhere').returncode == 2


def test_a_slot_keeps_the_names_that_are_asked_for():
    nb = release_notebook(load_assignment(book_dir()/'nbs/assignments/ps1_gradients'))
    slot = next(c['source'] for c in nb['cells'] if grade_id(c) == 'count')
    assert slot == 'parameters = ...\noutputs = ...'


@pytest.mark.parametrize('got, want', [
    (np.full((2, 3), .672134), np.full((2, 3), .672141)),
    (np.arange(30.), np.arange(30.) + (np.arange(30) == 20)),
    (1.001, 1.0), (np.array([np.nan, 1., 2, 3, 4, 5]), np.arange(6.))])
def test_computed_and_expected_are_told_apart(got, want):
    answers = [Answer(got)]
    case = Case([], want=want, rtol=1e-12)
    said = judge(Item('toy.apart', 'Apart', 1, [case], []), [case], answers).say
    computed, expected = re.search('computed (.*); expected (.*)', said).groups()
    assert computed != expected


def test_a_copy_opens_in_colab_and_installs_the_kit():
    nb = release_notebook(load_assignment(book_dir()/'nbs/assignments/ps1_gradients'))
    ast.parse(nb['cells'][1]['source'])
    assert "'google.colab' in sys.modules" in nb['cells'][1]['source'] and not nb['cells'][1]['source'].startswith('#|')


def test_a_broken_file_is_told_apart_from_nothing_handed_in(course, tmp_path, capsys):
    course.assignments['other_task'] = course.assignments['toy']
    hand_in(tmp_path/'in', 'toy_s01.ipynb', '{"cells": [')
    hand_in(tmp_path/'in', 'other_s02.ipynb', '')
    hand_in(tmp_path/'in', 's03.ipynb', '')
    marks, notes = grade_course(course, tmp_path/'in')
    assert [(m.student, bool(m.error)) for m in marks] == [('s02', True), ('s01', True)]
    assert len(notes) == 1 and 's03.ipynb' in notes[0] and 'toy' in notes[0]
    assert last_marks(course) == (marks, notes)
    (course.folder/'marks/last.json').write_text('{"marks": 3}')
    with pytest.raises(InputError, match='Grade again'): last_marks(course)
