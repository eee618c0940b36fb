"""Valid inputs of every kind the kit reads, ways to break them, and what a reader may do with what comes out.

A reader answers rightly or raises `InputError` in one sentence; it raises nothing else, does not hang, takes no memory that a file only claims to
need, and gives no answer that cannot be right."""
import contextlib, io, json, re, signal, sys, threading, traceback, warnings, zipfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil

from visft_nb.core import InputError

SECONDS = 60        # a call may take, even on a busy machine
ROOM = 3*2**30      # bytes a call may ask for beyond what the process has


class Hang(BaseException):
    "A call that took longer than `SECONDS`; no reader catches it."


class Silent(AssertionError):
    "An answer that cannot be right."


def _alarm(*_): raise Hang(f'no answer after {SECONDS} s')


@contextlib.contextmanager
def limits():
    "A clock, and on Linux a limit on memory, for what runs inside."
    clock = hasattr(signal, 'setitimer') and threading.current_thread() is threading.main_thread()
    if clock:
        before = signal.signal(signal.SIGALRM, _alarm)
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        with _memory(): yield
    finally:
        if clock:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def _memory():
    if not sys.platform.startswith('linux'):
        yield
        return
    import resource
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = psutil.Process().memory_info().vms + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (most if hard < 0 else min(most, hard), hard))
    try: yield
    finally: resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@dataclass
class Outcome:
    kind: str        # answered, refused, traceback, hang, silent; network: the network itself does not take the images; unnamed: a sentence without the file
    what: str = ''   # the sentence, or where it went wrong
    answer: object = None

    @property
    def fine(self): return self.kind in ('answered', 'refused', 'network')


def outcome(call, *args, judge=None):
    "What a call does. `judge(answer)` raises `Silent` or AssertionError for an answer that cannot be right."
    with limits(), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try: answer = call(*args)
        except InputError as e:
            lines = str(e).splitlines()
            return Outcome('refused', str(e)) if len(lines) == 1 else Outcome('traceback', f'a sentence of {len(lines)} lines: {e!s:.200}')
        except Hang as e: return Outcome('hang', str(e))
        except Exception as e: return Outcome('network' if _in_network(e) else 'traceback', _where(e))
        try: answer if judge is None else judge(answer)
        except AssertionError as e: return Outcome('silent', str(e) or _where(e))
        return Outcome('answered', answer=answer)


def _in_network(e):
    "Was it raised inside a network that the caller brought, below its `forward`?"
    files = [f.filename for f in traceback.extract_tb(e.__traceback__)]
    return any('torch/nn/modules' in f for f in files) and 'visft_nb' not in files[-1]

def _where(e):
    "The exception, and the last line of the kit that it went through."
    frames = [f for f in traceback.extract_tb(e.__traceback__) if 'visft_nb' in f.filename]
    at = f'{Path(frames[-1].filename).stem}.{frames[-1].name}' if frames else '?'
    return f'{at}: {type(e).__name__}: {" ".join(str(e).split())[:120]}'


def command(*args):
    "`visft ARGS` in this process, judged as `outcome` judges: exit 0, or another code with one line that begins with visft: on stderr."
    from visft_nb.course.cli import main
    out, err, argv = io.StringIO(), io.StringIO(), sys.argv
    handlers = {s: signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT, *([signal.SIGHUP] if hasattr(signal, 'SIGHUP') else []))}
    sys.argv = ['visft', *map(str, args)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err): main()
    except SystemExit as e:
        said = err.getvalue().strip().splitlines()
        if e.code in (0, None): return out.getvalue()
        if len(said) == 1 and said[0].startswith('visft: '): raise InputError(said[0]) from None
        raise RuntimeError(f'exit {e.code!r} with {said[:3]} on stderr') from None
    finally:
        sys.argv = argv
        for s, h in handlers.items(): signal.signal(s, h)
    return out.getvalue()


# --- ways to break bytes ---

def flip(b, rng):
    "One to eight bits."
    b = bytearray(b)
    for _ in range(rng.integers(1, 9) if b else 0): b[rng.integers(len(b))] ^= 1 << rng.integers(8)
    return bytes(b)

def cut(b, rng): return b[:rng.integers(len(b))] if b else b
def empty(b, rng): return b''
def append(b, rng): return b + rng.bytes(int(rng.integers(1, 64)))
def insert(b, rng): i = rng.integers(len(b) + 1); return b[:i] + rng.bytes(int(rng.integers(1, 32))) + b[i:]
def remove(b, rng): i = rng.integers(len(b) + 1); return b[:i] + b[i + rng.integers(1, 32):]
def repeat(b, rng): i, n = rng.integers(len(b) + 1), rng.integers(1, 256); return b[:i] + b[i:i + n]*2 + b[i + n:]
def zeros(b, rng): i, n = rng.integers(len(b) + 1), int(rng.integers(1, 64)); return b[:i] + b'\0'*n + b[i + n:]
def nul(b, rng): i = rng.integers(len(b) + 1); return b[:i] + b'\0' + b[i:]
def latin1(b, rng): i = rng.integers(len(b) + 1); return b[:i] + b'\xe9' + b[i:]
def mark(b, rng): return b'\xef\xbb\xbf' + b
def utf16(b, rng): return b.decode('utf-8', 'replace').encode('utf-16')
def crlf(b, rng): return b.replace(b'\n', b'\r\n')
def large(b, rng): return _swap(b, rng, rb'-?\d+(\.\d+)?', [b'1' + b'0'*30, b'9'*5000, b'-1', b'1e400', b'20240115', b'4294967296', b'9223372036854775808'])
def nan(b, rng): return _swap(b, rng, rb'-?\d+(\.\d+)?', [b'NaN', b'Infinity', b'-Infinity', b'nan', b'inf'])
def unicode(b, rng): return _swap(b, rng, rb'\w+', ['é'.encode()*300, '\U0001f4a9'.encode(), 'ﬁ½'.encode(), '\u202e'.encode(), b'x'*70_000])
def nest(b, rng): return _swap(b, rng, rb'\w+', [b'['*100_000, b'('*3000 + b')'*3000, b'{"a":'*20_000 + b'1' + b'}'*20_000])

def _swap(b, rng, pattern, values):
    "One match replaced."
    found = list(re.finditer(pattern, b[:200_000]))
    if not found: return b
    m = found[rng.integers(len(found))]
    return b[:m.start()] + values[rng.integers(len(values))] + b[m.end():]

BYTES = [flip, cut, empty, append, insert, remove, repeat, zeros]
TEXT = [*BYTES, nul, latin1, mark, utf16, crlf, large, nan, unicode, nest]


# --- ways to break JSON ---

_DEEP = '@@deep@@'
VALUES = [None, True, False, 0, -1, 10**30, 0.5, float('nan'), float('inf'), '', 'x'*10_000, 'é', '\ud800', '\0', [], {}, [[]], [None], {'': None}, {'a': {'b': []}}, _DEEP]

def _nodes(v, at=()):
    yield at
    for k, w in (v.items() if isinstance(v, dict) else enumerate(v) if isinstance(v, list) else ()): yield from _nodes(w, (*at, k))

def _at(v, path):
    for k in path: v = v[k]
    return v

def _dump(v):
    deep = '['*50_000 + ']'*50_000
    return json.dumps(v, indent=1).replace(f'"{_DEEP}"', deep).encode()

def _node(v, rng, want=lambda w: True):
    "The path of a random node below the top, or None."
    paths = [p for p in _nodes(v) if p and want(_at(v, p))]
    return paths[rng.integers(len(paths))] if paths else None

def other_value(b, rng):
    "A node becomes another kind of thing."
    v, new = json.loads(b), VALUES[rng.integers(len(VALUES))]
    if (p := _node(v, rng)) is None or not rng.integers(12): return _dump(new)
    _at(v, p[:-1])[p[-1]] = new
    return _dump(v)

def drop_key(b, rng):
    v = json.loads(b)
    if p := _node(v, rng): del _at(v, p[:-1])[p[-1]]
    return _dump(v)

def double_key(b, rng):
    "A key that stands twice, the second time with another value."
    v = json.loads(b)
    inside = [p for p in _nodes(v) if p and isinstance(_at(v, p[:-1]), dict)]
    if not inside: return b
    p = inside[rng.integers(len(inside))]
    where = _at(v, p[:-1])
    where['@@twice@@'] = VALUES[rng.integers(len(VALUES) - 1)]
    return _dump(v).replace(b'"@@twice@@"', json.dumps(p[-1]).encode(), 1)

def new_key(b, rng):
    v = json.loads(b)
    dicts = [p for p in _nodes(v) if isinstance(_at(v, p), dict)]
    if dicts: _at(v, dicts[rng.integers(len(dicts))])[['', 'x'*300, 'é', 'cells', 'value', '_run', 'a\nb'][rng.integers(7)]] = VALUES[rng.integers(len(VALUES))]
    return _dump(v)

def swap_nodes(b, rng):
    "Two values change places."
    v = json.loads(b)
    p, q = _node(v, rng), _node(v, rng)
    if p and q and p[:len(q)] != q and q[:len(p)] != p:
        a, c = _at(v, p[:-1]), _at(v, q[:-1])
        a[p[-1]], c[q[-1]] = c[q[-1]], a[p[-1]]
    return _dump(v)

JSON = [other_value, drop_key, double_key, new_key, swap_nodes]


# --- ways to break tables ---

CELLS = ['', '20240115', '-1', '1e400', 'nan', 'NA', '1.5', '0', '../a.png', '/etc/passwd', 'x'*300, 'a'*4096 + '/b.png', 'é.png', 'a\0b', '=1+1', '"', "a'b", ' ant ',
         'a,b', 'ant\nbee', 'True', '007', '9'*30, '.', '~nobody/x.png']

def _rows(b): return [line.split(',') for line in b.decode().splitlines()]
def _table(rows): return '\n'.join(','.join(r) for r in rows).encode() + b'\n'

def cell(b, rng):
    rows = _rows(b)
    r = rows[rng.integers(len(rows))]
    r[rng.integers(len(r))] = CELLS[rng.integers(len(CELLS))]
    return _table(rows)

def column(b, rng):
    "All labels or all names become something else."
    rows = _rows(b)
    j, values = rng.integers(len(rows[0])), [CELLS[i] for i in rng.integers(len(CELLS), size=2)]
    for i, r in enumerate(rows[1:]): r[j] = values[i % 2]
    return _table(rows)

def ragged(b, rng):
    rows = _rows(b)
    for r in [rows[rng.integers(len(rows))]] if rng.integers(2) else rows[1:]: r[:] = r + ['more']*int(rng.integers(1, 3)) if rng.integers(2) else r[:-1]
    return _table(rows)

def header(b, rng):
    rows = _rows(b)
    rows[0] = [[], rows[0][:1]*len(rows[0]), [h.upper() for h in rows[0]], [f' {h}' for h in rows[0]], rows[0][::-1]][rng.integers(5)]
    return _table(rows)

def blank_lines(b, rng): return b.replace(b'\n', b'\n\n' if rng.integers(2) else b'\n \n')
def separator(b, rng): return b.replace(b',', b';' if rng.integers(2) else b'\t')
def only_header(b, rng): return b.split(b'\n')[0] + b'\n'*int(rng.integers(2))

TABLES = [cell, column, ragged, header, blank_lines, separator, only_header]


# --- ways to break archives ---

def _members(b):
    with zipfile.ZipFile(io.BytesIO(b)) as z: return [(i, z.read(i)) for i in z.infolist()]

def _archive(members, compression=zipfile.ZIP_DEFLATED):
    out = io.BytesIO()
    with zipfile.ZipFile(out, 'w', compression) as z, warnings.catch_warnings():
        warnings.simplefilter('ignore')
        for info, data in members: z.writestr(info, data)
    return out.getvalue()

NAMES = ['../x.png', '/etc/x.png', 'C:/x.png', '..\\x.png', 'ant/' + 'x'*300 + '.png', 'x'*70 + '/a.png', 'ant/é\ufffd.png', 'ant/a\nb.png', 'ant', 'ant/./x.png', 'ant//x.png',
         ' /x.png', '.hidden/x.png', 'ant/[/red].png', 'bee/' + 'd/'*400 + 'x.png', '\x1b[31m/x.png']

def member_name(b, rng):
    found = _members(b)
    i = rng.integers(len(found))
    found[i] = (NAMES[rng.integers(len(NAMES))], found[i][1])
    return _archive(found)

def member_twice(b, rng):
    found = _members(b)
    return _archive(found + [(found[0][0].filename, found[-1][1])])

def member_lost(b, rng):
    found = _members(b)
    del found[rng.integers(len(found))]
    return _archive(found)

def member_empty(b, rng):
    found = _members(b)
    i = rng.integers(len(found))
    found[i] = (found[i][0].filename, b'')
    return _archive(found)

def member_flip(b, rng):
    found = _members(b)
    i = rng.integers(len(found))
    found[i] = (found[i][0].filename, [flip, cut, zeros, insert][rng.integers(4)](found[i][1], rng))
    return _archive(found)

def member_link(b, rng):
    "A member that says it is a symbolic link."
    found = _members(b)
    info = zipfile.ZipInfo('ant/link.png')
    info.create_system, info.external_attr = 3, 0o120777 << 16
    return _archive(found + [(info, b'/etc/passwd')])

def claims(b, rng):
    "The directory claims other sizes, flags or methods than there are."
    b = bytearray(b)
    at = [m.start() for m in re.finditer(b'PK\x01\x02', bytes(b))]
    if not at: return bytes(b)
    i = at[rng.integers(len(at))]
    where, value = [(8, b'\x01\0'), (10, b'\x63\0'), (20, b'\xff\xff\xff\x7f'), (24, b'\xff\xff\xff\x7f'), (24, b'\xff\xff\xff\xff'), (16, b'\0\0\0\0'), (42, b'\xff\xff\xff\x7f'), (28, b'\xff\xff')][rng.integers(8)]
    b[i + where:i + where + len(value)] = value
    return bytes(b)

ZIPS = [*BYTES, member_name, member_twice, member_lost, member_empty, member_flip, member_link, claims]


# --- ways to break arrays ---

def _npy(a):
    out = io.BytesIO()
    np.lib.format.write_array(out, a, allow_pickle=True)
    return out.getvalue()

def _claim(shape, dtype='|u1', data=b'\0'*64):
    "An array file whose header claims a shape that its data do not have."
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, dict(descr=dtype, fortran_order=False, shape=shape))
    return out.getvalue() + data

def _change(a, rng):
    "An array of another type, shape or content, as the bytes of its file."
    flat = a.reshape(-1)
    options = [lambda: _npy(flat), lambda: _npy(a[None]), lambda: _npy(a[:-1]), lambda: _npy(a[:0]), lambda: _npy(a.astype(np.float64)), lambda: _npy(a.astype(str)),
               lambda: _npy(a.astype(object)), lambda: _npy(a.astype('>i4')), lambda: _npy(a.astype(np.complex64)), lambda: _npy(np.full(a.shape, np.nan)),
               lambda: _npy(np.array(7)), lambda: _npy(-a.astype(np.int64) - 1) if a.dtype.kind in 'iuf' else _npy(flat), lambda: _npy(a.astype(bool)) if a.dtype.kind in 'iuf' else _npy(flat),
               lambda: _npy(np.zeros(a.shape, [('a', 'u1'), ('b', 'u1')])), lambda: _claim((10**6, 10**5)), lambda: _claim((2**40,)), lambda: _claim((2**62, 4)), lambda: _claim((-1, 4)), lambda: _claim((0,)*3),
               lambda: _claim((10,), '|O', b'cos\nsystem\n'), lambda: _claim((4, 4), '<M8[D]'), lambda: _npy(np.asfortranarray(a)), lambda: _npy(a.astype(np.uint64) + 10**18) if a.dtype.kind in 'iuf' else _npy(flat),
               lambda: b'', lambda: b'\x93NUMPY', lambda: _npy(a.astype(np.float16)) if a.dtype.kind in 'iuf' else _npy(flat), lambda: _npy(np.repeat(a, 2, -1)) if a.ndim else _npy(a)]
    try: return options[rng.integers(len(options))]()
    except (ValueError, TypeError): return _npy(a.reshape(-1)) # text is no number

def array(b, rng):
    found = _members(b)
    i = rng.integers(len(found))
    a = np.load(io.BytesIO(found[i][1]))
    found[i] = (found[i][0].filename, _change(a, rng))
    return _archive(found)

def bare_array(b, rng): return _members(b)[0][1]

NPZ = [*BYTES, array, array, array, array, member_twice, member_lost, member_flip, member_empty, claims, bare_array]


# --- ways to break safetensors and ONNX ---

def _header(b): n = int.from_bytes(b[:8], 'little'); return json.loads(b[8:8 + n]), b[8 + n:]

def _with_header(head, data):
    head = head if isinstance(head, bytes) else json.dumps(head).encode()
    return len(head).to_bytes(8, 'little') + head + data

def tensors_header(b, rng):
    "The header of a safetensors file as another JSON."
    head, data = _header(b)
    return _with_header(JSON[rng.integers(len(JSON))](json.dumps(head).encode(), rng), data)

def structure(b, rng):
    "The JSON that the kit keeps in the metadata, changed."
    head, data = _header(b)
    head['__metadata__']['visft'] = JSON[rng.integers(len(JSON))](head['__metadata__']['visft'].encode(), rng).decode()
    return _with_header(head, data)

def header_length(b, rng): return int([0, 1, 2**31, 2**62, 2**64 - 1, len(b)][rng.integers(6)]).to_bytes(8, 'little') + b[8:]

def weights(b, rng):
    "A weight that is NaN or infinite."
    return _other_weight(b, rng, [np.nan, np.inf, -np.inf])

def huge_weights(b, rng):
    "A weight that is huge, and a number: what comes out of it may be right."
    return _other_weight(b, rng, [3e38, -3e38])

def _other_weight(b, rng, values):
    head, data = _header(b)
    spans = [v['data_offsets'] for k, v in head.items() if k != '__metadata__' and v['dtype'] == 'F32' and v['data_offsets'][1] > v['data_offsets'][0]]
    i, j = spans[rng.integers(len(spans))]
    a = np.frombuffer(data[i:j], '<f4').copy()
    a[rng.integers(len(a))] = values[rng.integers(len(values))]
    return _with_header(head, data[:i] + a.tobytes() + data[j:])

SAFETENSORS = [*BYTES, tensors_header, tensors_header, structure, structure, structure, header_length, weights, huge_weights]

def onnx_metadata(b, rng):
    import onnx
    m = onnx.load_from_string(b)
    p = m.metadata_props[rng.integers(len(m.metadata_props))]
    p.value = [other_value, other_value, lambda v, r: b'', lambda v, r: b'{', cut][rng.integers(5)](p.value.encode(), rng).decode('utf-8', 'replace').replace('\ud800', '')
    if not rng.integers(4): m.metadata_props.remove(p)
    return m.SerializeToString()

def onnx_graph(b, rng):
    import onnx
    m = onnx.load_from_string(b)
    g = m.graph
    [lambda: g.ClearField('input'), lambda: g.ClearField('output'), lambda: g.ClearField('node'), lambda: g.ClearField('initializer'), lambda: m.ClearField('opset_import'), lambda: m.ClearField('graph'),
     lambda: g.input.add(name='more', type=g.input[0].type), lambda: setattr(g.node[0], 'op_type', 'Nothing'), lambda: setattr(g.input[0].type.tensor_type, 'elem_type', 8),
     lambda: setattr(g.input[0].type.tensor_type, 'elem_type', 7), lambda: g.output[0].CopyFrom(g.input[0]), lambda: setattr(g.input[0].type.tensor_type.shape.dim[1], 'dim_value', 7),
     lambda: g.node[0].input.append('nowhere'), lambda: setattr(m, 'ir_version', 999)][rng.integers(14)]()
    return m.SerializeToString()

def onnx_weights(b, rng):
    import onnx
    from onnx import numpy_helper
    m = onnx.load_from_string(b)
    t = m.graph.initializer[rng.integers(len(m.graph.initializer))]
    a = numpy_helper.to_array(t).copy()
    if a.dtype.kind == 'f': a.reshape(-1)[0] = [np.nan, np.inf][rng.integers(2)]
    t.CopyFrom(numpy_helper.from_array(a, t.name))
    return m.SerializeToString()

ONNX = [*BYTES, onnx_metadata, onnx_metadata, onnx_graph, onnx_weights]


# --- a kind of input ---

@dataclass
class Kind:
    "Inputs of one kind: `valid(folder)` writes one and gives its path; its bytes are broken by `mutators` and put before `calls`."
    name: str
    valid: object
    mutators: list
    calls: dict                                   # name -> function(path)
    judge: dict = field(default_factory=dict)     # name of a call -> function(answer, path), raises AssertionError
    same: set = field(default_factory=set)        # mutators after which an answer must equal that for the valid input
    equal: object = None                          # function(answer, answer for the valid input) -> bool, for `same`
    unnamed: set = field(default_factory=set)     # calls that are given no file, so that their sentences cannot name it


def mutant(kind, source, seed):
    "Name of the mutator, and the broken bytes."
    rng = np.random.default_rng([seed, 2026])
    m = kind.mutators[rng.integers(len(kind.mutators))]
    return m.__name__, m(source, rng)


def try_mutants(kind, folder, seeds):
    "Iterates (seed, mutator, call, outcome) over the mutants of the seeds."
    path = Path(kind.valid(Path(folder)))
    source, clean = path.read_bytes(), {}
    for name, call in kind.calls.items():
        o = outcome(call, path, judge=lambda a, name=name: _judge(kind, name, a, path))
        assert o.kind == 'answered', f'the valid {kind.name} is not read by {name}: {o}'
        clean[name] = o.answer
    for seed in seeds:
        how, b = mutant(kind, source, seed)
        path.write_bytes(b)
        for name, call in kind.calls.items():
            def judge(a, name=name, how=how, b=b):
                if how in kind.same and b != source and not kind.equal(a, clean[name]): raise Silent(f'another answer than for the whole file: {a!r:.100}')
                _judge(kind, name, a, path)
            o = outcome(call, path, judge=judge)
            if o.kind == 'refused' and path.name not in o.what and name not in kind.unnamed: o = Outcome('unnamed', o.what)
            yield seed, how, name, o
    path.write_bytes(source)


def _judge(kind, name, answer, path):
    if name in kind.judge: kind.judge[name](answer, path)
