"Downloads: what comes whole, cut off, late, wrong, or not at all, and what is left of it."
import hashlib, io, os, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from helpers import refused, sentence
from visft_nb.core import InputError, NoRoom
from visft_nb.data import DATASETS, fetch_file, get_dataset, load_dataset
from visft_nb.finetune.medmnist import load_medmnist


def npz():
    "A small file of the kind of MedMNIST's."
    arrays = {f'{s}_{k}': v for s in ('train', 'val', 'test') for k, v in
              dict(images=np.full((4, 28, 28), 7, np.uint8), labels=np.array([[0], [1], [0], [1]], np.uint8)).items()}
    np.savez(out := io.BytesIO(), **arrays)
    return out.getvalue()


WHOLE = npz()


@pytest.fixture
def server(monkeypatch, tmp_path):
    "A server at home: `answers` are what it does, one after another, the last one for ever; `asked` are the addresses."
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            server.asked.append(self.path)
            status, size, blob = server.answers[0] if len(server.answers) == 1 else server.answers.pop(0)
            self.send_response(status)
            self.send_header('Content-Length', str(size))
            self.end_headers()
            self.wfile.write(blob)
        def log_message(self, *args): pass
    server = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    server.answers, server.asked = [(200, len(WHOLE), WHOLE)], []
    server.url = f'http://127.0.0.1:{server.server_port}/file.npz'
    for name in ('http_proxy', 'HTTP_PROXY', 'all_proxy', 'ALL_PROXY'): monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr('pooch.core.time.sleep', lambda s: None)
    monkeypatch.delenv('VISFT_DATA', raising=False)
    monkeypatch.setenv('VISFT_CACHE', str(tmp_path/'cache'))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def entry(server, monkeypatch):
    "PneumoniaMNIST, as if it were that file."
    d = DATASETS['pneumoniamnist']
    monkeypatch.setattr(d, 'url', server.url)
    monkeypatch.setattr(d, 'md5', hashlib.md5(WHOLE).hexdigest())
    return d


def files(folder): return sorted(str(p.relative_to(folder)) for p in folder.rglob('*'))


MD5 = f'md5:{hashlib.md5(WHOLE).hexdigest()}'
CUT, WRONG, ERROR, RIGHT = (200, len(WHOLE), WHOLE[:300]), (200, 5, b'other'), (503, 0, b''), (200, len(WHOLE), WHOLE)


def test_a_file_comes_whole(server, tmp_path):
    path = fetch_file(server.url, MD5, tmp_path/'new'/'file.npz', bar=False)
    assert path.read_bytes() == WHOLE and files(tmp_path) == ['new', 'new/file.npz'] and len(server.asked) == 1
    known = hashlib.sha256(WHOLE).hexdigest()
    assert fetch_file(server.url, f'sha256:{known}', tmp_path/'b', bar=False).read_bytes() == WHOLE


@pytest.mark.parametrize('first', [CUT, WRONG, ERROR], ids=['cut', 'wrong', 'error'])
def test_what_fails_once_is_tried_again(server, tmp_path, first):
    server.answers = [first, RIGHT]
    assert fetch_file(server.url, MD5, tmp_path/'file.npz', bar=False).read_bytes() == WHOLE and len(server.asked) == 2


@pytest.mark.parametrize('answer, error', [(CUT, (OSError, RuntimeError)), (WRONG, RuntimeError), (ERROR, OSError)], ids=['cut', 'wrong', 'error'])
def test_what_fails_again_leaves_what_was_there(server, tmp_path, answer, error):
    server.answers = [answer]
    with pytest.raises(error): fetch_file(server.url, MD5, tmp_path/'file.npz', bar=False)
    assert files(tmp_path) == []
    (tmp_path/'file.npz').write_bytes(b'before')
    with pytest.raises(error): fetch_file(server.url, MD5, tmp_path/'file.npz', bar=False)
    assert files(tmp_path) == ['file.npz'] and (tmp_path/'file.npz').read_bytes() == b'before'


def test_a_full_disk_is_told_as_such(server, tmp_path):
    import resource
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(NoRoom, match='make room'): fetch_file(server.url, MD5, tmp_path/'file.npz', bar=False)
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert files(tmp_path) == []


def test_a_data_set_is_fetched_once(entry, server, capfd):
    for _ in range(2): assert len(load_dataset('pneumoniamnist', 'test')) == 4
    assert server.asked == ['/file.npz'] and '100%' in capfd.readouterr().err, 'progress is shown'


@pytest.mark.parametrize('answer, words', [(WRONG, ['md5', 'twice']), (CUT, ['could not be fetched']), (ERROR, ['503'])], ids=['wrong', 'cut', 'error'])
def test_a_data_set_that_cannot_be_had_is_one_sentence(entry, server, tmp_path, answer, words):
    server.answers = [answer]
    sentence(lambda: get_dataset('pneumoniamnist'), 'pneumoniamnist', '4.2 MB', 'medmnist.com', 'VISFT_DATA', *words)
    assert not [p for p in (tmp_path/'cache').rglob('*') if p.is_file()]


def test_a_broken_network_is_one_sentence(entry, server, tmp_path):
    server.shutdown()
    server.server_close()
    sentence(lambda: load_dataset('pneumoniamnist'), 'pneumoniamnist', 'could not be fetched', 'VISFT_DATA')


def test_volumes_come_the_same_way(server, tmp_path, monkeypatch):
    from visft_nb.finetune import medmnist_sets as med
    known, info = dict(url=server.url, MD5=MD5[4:]), med.medmnist_info
    monkeypatch.setattr(med, 'medmnist_info', lambda name: info(name) | known)
    with refused(['nodulemnist3d', 'uint8']): load_medmnist('nodulemnist3d')   # it came, and holds images
    assert server.asked == ['/file.npz'] and (tmp_path/'cache'/'medmnist'/'nodulemnist3d.npz').read_bytes() == WHOLE
    server.answers, _ = [WRONG], (tmp_path/'cache'/'medmnist'/'nodulemnist3d.npz').unlink()
    sentence(lambda: load_medmnist('nodulemnist3d'), 'nodulemnist3d', 'could not be fetched', server.url)


def test_torchvision_leaves_nothing_and_what_the_killed_left_is_swept(server, tmp_path, monkeypatch):
    from visft_nb.core import owner_mark
    left = tmp_path/'cache'/('.fetch.' + owner_mark().replace(str(os.getpid()), '999999') + 'x')
    left.mkdir(parents=True)
    import torchvision.datasets
    monkeypatch.setattr(torchvision.datasets.MNIST, 'mirrors', [server.url])
    server.answers = [ERROR]
    with pytest.raises(InputError, match='mnist'): get_dataset('mnist')
    assert not list((tmp_path/'cache').iterdir())
