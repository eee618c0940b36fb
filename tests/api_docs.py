"What the documentation of public functions lacks: python tests/api_docs.py [visft_nb.robust …] prints it."
import ast, io, json, re, sys, tokenize
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HOME = re.compile(r'^# %% .*?nbs/(\S+\.ipynb)', re.M)
FUNCTION = ast.FunctionDef


def modules(root=ROOT):
    "(name, path) of every exported module."
    for path in sorted((root/'visft_nb').rglob('*.py')):
        if path.name in ('__init__.py', '__main__.py', '_modidx.py'): continue
        yield '.'.join(path.relative_to(root).with_suffix('').parts), path


def comments(source):
    "line: does its comment stand alone on it?"
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {t.start[0]: not t.line[:t.start[1]].strip() for t in tokens if t.type == tokenize.COMMENT}


def helps(node):
    "Does an annotation of a command's parameter say `help=…`?"
    return any(k.arg == 'help' for call in ast.walk(node) if isinstance(call, ast.Call) for k in call.keywords)


def spoken(tree):
    "Names of annotations that say `help=…` and are used for several parameters: Window = Annotated[…]."
    return {t.id for a in tree.body if isinstance(a, ast.Assign) and helps(a.value) for t in a.targets if isinstance(t, ast.Name)}


class Module:
    "A module, read."
    def __init__(self, path, root=ROOT):
        self.source = path.read_text()
        self.tree = ast.parse(self.source)
        self.comments, self.spoken = comments(self.source), spoken(self.tree)
        self.shown = shown(self.source, root)

    def describes(self, arg):
        "Has a parameter or a field a comment on its lines, or right above, or help for the command line?"
        kind = arg.annotation
        if kind and (helps(kind) or getattr(kind, 'id', '') in self.spoken): return True
        on_it = any(n in self.comments for n in range(arg.lineno, arg.end_lineno + 1))
        return on_it or self.comments.get(arg.lineno - 1, False)

    def shows(self, name, d):
        "Is there an example: in the notebook, in the docstring, or as a command?"
        if '>>>' in (ast.get_docstring(d) or ''): return True
        called = command(d)
        return bool(re.search(rf"\b{name}\b", self.shown) or called and re.search(rf"\bvisft\b.*\b{called}\b", self.shown))


def shown(source, root=ROOT):
    "The code cells of a module's notebooks, without those that are exported."
    out = []
    for home in sorted(set(HOME.findall(source))):
        for c in json.loads((root/'nbs'/home).read_text())['cells']:
            code = ''.join(c['source'])
            if c['cell_type'] == 'code' and not re.search(r'^#\| *export', code, re.M): out.append(code)
    return '\n'.join(out)


def decorators(d):
    "Names of a function's decorators, called or not: patch, contextmanager, command."
    called = [getattr(x, 'func', x) for x in d.decorator_list]
    return [getattr(x, 'id', getattr(x, 'attr', '')) for x in called]


def command(d):
    "The name of a command of the command line, or ''."
    for x in d.decorator_list:
        if isinstance(x, ast.Call) and getattr(x.func, 'attr', '') in ('command', 'callback'):
            return x.args[0].value if x.args else d.name
    return ''


def patched(d): return isinstance(d, FUNCTION) and {'patch', 'patch_to'} & set(decorators(d))


def public(tree):
    "(qualified name, definition) of public functions and classes, and of public methods of public classes."
    for d in tree.body:
        if not isinstance(d, (FUNCTION, ast.ClassDef)) or d.name.startswith('_'): continue
        yield d.name, d
        for m in d.body if isinstance(d, ast.ClassDef) else []:
            if isinstance(m, FUNCTION) and not m.name.startswith('_'): yield f'{d.name}.{m.name}', m


def given(d):
    "The parameters of a function that a caller gives."
    a = d.args
    args = [*a.posonlyargs, *a.args, *a.kwonlyargs]
    if args and (args[0].arg in ('self', 'cls') or patched(d)): args = args[1:]
    return args


def parameter_gaps(name, d, read, comment=True):
    "What the parameters of a function lack."
    for a in given(d):
        if not a.annotation: yield 'type', f'{name}({a.arg})'
        if comment and not read.describes(a): yield 'comment', f'{name}({a.arg})'


def class_gaps(name, d, read):
    "What the parameters of a class lack: those of `__init__`, else the fields of a dataclass."
    inits = [m for m in d.body if isinstance(m, FUNCTION) and m.name == '__init__']
    for i in inits: yield from parameter_gaps(name, i, read)
    if inits: return
    fields = [f for f in d.body if isinstance(f, ast.AnnAssign) and not f.target.id.startswith('_')]
    yield from (('comment', f'{name}.{f.target.id}') for f in fields if not read.describes(f))


def gaps(path, root=ROOT):
    "(kind, name) of what is missing in a module."
    read = Module(path, root)
    for name, d in public(read.tree):
        method = '.' in name or patched(d)
        if not ast.get_docstring(d): yield 'docstring', name
        if not method and not read.shows(name, d): yield 'example', name
        if isinstance(d, ast.ClassDef):
            yield from class_gaps(name, d, read)
            continue
        yield from parameter_gaps(name, d, read, comment=not method)
        if not d.returns and 'contextmanager' not in decorators(d): yield 'return', name


if __name__ == '__main__':
    wanted, total = sys.argv[1:], Counter()
    for module, path in modules():
        if wanted and not any(module == w or module.startswith(w + '.') for w in wanted): continue
        found = list(gaps(path))
        total.update(k for k, _ in found)
        if found: print(module, dict(Counter(k for k, _ in found)))
        if wanted:
            for kind, name in found: print(f'    {kind:<10}{name}')
    print(dict(total))
