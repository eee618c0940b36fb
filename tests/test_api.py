"The reference is whole: every public name is described, typed and shown, and its types can be read."
import ast, doctest, importlib, inspect, json

import pytest
from api_docs import gaps, modules, public

from visft_nb.course.exports import load_types

OPEN = {}   # packages whose reference is not whole yet
MODULES = dict(modules())
WHOLE = [m for m in MODULES if m.split('.')[1] not in OPEN]

PLANTED = '''# %% ../nbs/a.ipynb #1
import typer
from contextlib import contextmanager
from typing import Annotated

Seed = Annotated[int, typer.Option(help='which numbers')]

def whole(
    x:int,  # a number
    # a longer word about
    # the second
    y:int=1,
)->int:     # their sum
    "Adds."

def typeless(
    x,  # a number
)->int:
    "Has no type."

def silent(x:int)->int:
    "Has no comment."

def endless(
    x:int,  # a number
):
    "Has no return type."

def speechless()->None: pass

def unseen()->None:
    "Has no example."

def proven()->int:
    """Has one here.

    >>> proven()
    1"""

@contextmanager
def inside():
    "Needs no return type."

class Card:
    "A dataclass."
    name: str  # what it is called
    size: int
    _own: int = 0

class Box:
    "A class."
    def __init__(self, size, *, own:int=0): pass
    def method(self, x): pass
    def _private(self, x): pass

@patch(cls_method=True)
def later(cls:Box, x:int): "Has no return type."

@app.command('go-on')
def go_on(
    folder: Annotated[str, typer.Argument(help='of images')],
    seed: Seed = 0,
    deep: Annotated[bool, typer.Option()] = False,
)->None:
    "A command."

@app.command()
def halt()->None:
    "A command that nobody shows."
'''
SHOWN = ['whole(1), typeless(2), silent(3)', 'endless(1); speechless()', 'with inside(): pass', 'Card(), Box()', "visft('go-on', 'x')"]
FOUND = [
    ('type', 'typeless(x)'), ('comment', 'silent(x)'), ('return', 'endless'), ('docstring', 'speechless'), ('example', 'unseen'),
    ('comment', 'Card.size'), ('type', 'Box(size)'), ('comment', 'Box(size)'), ('comment', 'Box(own)'),
    ('docstring', 'Box.method'), ('type', 'Box.method(x)'), ('return', 'Box.method'), ('return', 'later'),
    ('comment', 'go_on(deep)'), ('example', 'halt')]


def test_a_planted_gap_of_each_kind_is_found(tmp_path):
    (tmp_path/'nbs').mkdir()
    (tmp_path/'a.py').write_text(PLANTED)
    cells = [dict(cell_type='code', source=s) for s in ['#| export\nhalt(), unseen()', *SHOWN]] + [dict(cell_type='markdown', source='unseen() and visft halt')]
    (tmp_path/'nbs/a.ipynb').write_text(json.dumps(dict(cells=cells)))
    assert list(gaps(tmp_path/'a.py', tmp_path)) == FOUND


@pytest.mark.parametrize('module', WHOLE)
def test_reference_is_whole(module):
    assert list(gaps(MODULES[module])) == [], 'python tests/api_docs.py says what is missing'


@pytest.mark.parametrize('module', WHOLE)
def test_types_can_be_read_and_examples_in_docstrings_are_true(module):
    made = importlib.import_module(module)
    load_types(module)
    for name, d in public(ast.parse(MODULES[module].read_text())):
        found = inspect.getattr_static(made, name, None)
        if isinstance(d, ast.FunctionDef) and callable(found): inspect.signature(found, eval_str=True)
    assert doctest.testmod(made).failed == 0


def test_open_packages_are_chapters(): assert set(OPEN) <= {m.split('.')[1] for m in MODULES if '.' in m[9:]}
