"What the documentation of public functions lacks: python tests/api_docs.py [visft_nb.robust …] prints it."
import ast, io, json, re, sys, tokenize
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HOME = re.compile(r'^# %% .*?nbs/(\S+\.ipynb)', re.M)


def modules():
    "(name, path) of every exported module."
    for path in sorted((ROOT/'visft_nb').rglob('*.py')):
        if path.name in ('__init__.py', '__main__.py', '_modidx.py'): continue
        yield '.'.join(path.relative_to(ROOT).with_suffix('').parts), path


def comments(source):
    "line: its comment, and whether the comment stands alone on it."
    out = {}
    for t in tokenize.generate_tokens(io.StringIO(source).readline):
        if t.type == tokenize.COMMENT: out[t.start[0]] = not t.line[:t.start[1]].strip()
    return out


def _described(arg, said):
    "Has a parameter a comment on its lines, or right above?"
    return any(l in said for l in range(arg.lineno, arg.end_lineno + 1)) or said.get(arg.lineno - 1) is True


def public(tree):
    "(qualified name, definition) of public functions, and of public methods of public classes."
    for d in tree.body:
        if isinstance(d, (ast.FunctionDef, ast.ClassDef)) and not d.name.startswith('_'):
            yield d.name, d
            if isinstance(d, ast.ClassDef):
                for m in d.body:
                    if isinstance(m, ast.FunctionDef) and not m.name.startswith('_'): yield f'{d.name}.{m.name}', m


def patched(d):
    "Is it a method that `@patch` gives to a class?"
    return any(getattr(x, 'id', '') in ('patch', 'patch_to') or getattr(getattr(x, 'func', None), 'id', '') == 'patch_to' for x in d.decorator_list)


def given(d):
    "The parameters of a function that a caller gives."
    a = d.args
    args = [*a.posonlyargs, *a.args, *a.kwonlyargs]
    if args and (args[0].arg in ('self', 'cls') or patched(d)): args = args[1:]
    return args


def shown(path, source):
    "The code cells that the home of a module shows and runs, without those that are exported."
    out = []
    for home in sorted(set(HOME.findall(source))):
        for c in json.loads((ROOT/'nbs'/home).read_text())['cells']:
            code = ''.join(c['source'])
            if c['cell_type'] == 'code' and not re.search(r'^#\| *export', code, re.M): out.append(code)
    return '\n'.join(out)


def gaps(module, path):
    "(kind, name) of what is missing in a module."
    source = path.read_text()
    tree, said = ast.parse(source), comments(source)
    used = shown(path, source)
    for name, d in public(tree):
        method = '.' in name or (isinstance(d, ast.FunctionDef) and patched(d))
        if not ast.get_docstring(d): yield 'docstring', name
        last = name.split('.')[-1]
        if not method and not re.search(rf'\b{last}\b', used) and '>>>' not in (ast.get_docstring(d) or ''): yield 'example', name
        if isinstance(d, ast.ClassDef):
            inits = [m for m in d.body if isinstance(m, ast.FunctionDef) and m.name == '__init__']
            fields = [f for f in d.body if isinstance(f, ast.AnnAssign)] if not inits else []
            for f in fields:
                if not f.target.id.startswith('_') and not _described(f, said): yield 'comment', f'{name}.{f.target.id}'
            for i in inits:
                for a in given(i):
                    if not a.annotation: yield 'type', f'{name}({a.arg})'
                    if not _described(a, said): yield 'comment', f'{name}({a.arg})'
            continue
        for a in given(d):
            if not a.annotation: yield 'type', f'{name}({a.arg})'
            if not method and not _described(a, said): yield 'comment', f'{name}({a.arg})'
        if not d.returns and not any(getattr(x, 'id', '') in ('contextmanager',) for x in d.decorator_list): yield 'return', name


if __name__ == '__main__':
    wanted, total = sys.argv[1:], Counter()
    for module, path in modules():
        if wanted and not any(module == w or module.startswith(w + '.') for w in wanted): continue
        found = list(gaps(module, path))
        total.update(k for k, _ in found)
        if found: print(module, dict(Counter(k for k, _ in found)))
        if wanted:
            for kind, name in found: print(f'    {kind:<10}{name}')
    print(dict(total))
