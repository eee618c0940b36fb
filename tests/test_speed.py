"The loops that are timed: the same photographs, the same start, one pass each; no time is asserted."
import pytest
import torch

from helpers import refused
from visft_nb.cnn.models import resnet18
from visft_nb.core import InputError
from visft_nb.finetune.speed import MEAN, STD, fastai_contestant, kit_contestant, photo_root, plain_contestant, race, some_photos, trainer_contestant

pytestmark = pytest.mark.filterwarnings('ignore')


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    root = photo_root(tmp_path_factory.mktemp('photos'), 'patches', 8)
    return some_photos(root, tmp_path_factory.mktemp('few'), 8)


def start():
    torch.manual_seed(0)
    return resnet18(2, mean=MEAN, std=STD)


def steps(model): return int(model.bn1.num_batches_tracked)


def contestant(kind, photos, model):
    if kind == 'trainer': pytest.importorskip('transformers')
    if kind == 'fastai': pytest.importorskip('fastai')
    return {'kit': kit_contestant, 'plain': plain_contestant, 'trainer': trainer_contestant, 'fastai': fastai_contestant}[kind](photos, model, 32, 4)


@pytest.mark.peer
@pytest.mark.parametrize('kind', ['kit', 'plain', 'trainer', 'fastai'])
def test_each_starts_from_the_model_and_takes_one_pass(kind, photos):
    model, x = start(), torch.rand(2, 3, 32, 32)
    with torch.no_grad(): before = model.eval()(x)
    c = contestant(kind, photos, model)
    with torch.no_grad(): assert torch.allclose(c.model().eval()(x), before, atol=1e-5)
    times = race([c], 2)
    assert steps(c.model()) == 4, 'two passes of two batches'
    assert len(times[c.name]) == 2 and min(times[c.name]) > 0
    assert kind == 'kit' or steps(model) == 0, 'the model that was given is left alone'
    with torch.no_grad(): assert not torch.allclose(c.model().eval()(x), before, atol=1e-4)


def test_passes_of_the_kit_differ_and_repeat(photos):
    runs = []
    for _ in range(2):
        c = kit_contestant(photos, start(), 32, 4, precision='fp32')
        runs.append([r['loss'] for _ in range(2) for r in c.run().steps])
    assert runs[0] == runs[1] and runs[0][:2] != runs[0][2:]


def test_patches_are_repeatable_and_halves_apart(tmp_path):
    a, b, c = (photo_root(tmp_path/n, 'patches', 3, seed=s) for n, s in (('a', 0), ('b', 0), ('c', 1)))
    files = sorted(p.relative_to(a) for p in a.rglob('*.jpg'))
    assert len(files) == 12 and all((a/f).read_bytes() == (b/f).read_bytes() for f in files)
    assert any((a/f).read_bytes() != (c/f).read_bytes() for f in files)


def test_hymenoptera_is_unpacked(data_root, tmp_path):
    root = photo_root(tmp_path)
    assert {p.name for p in (root/'train').iterdir()} == {'ants', 'bees'} == {p.name for p in (root/'val').iterdir()}
    assert len(list(root.rglob('*.jpg'))) == 397


def test_photographs_that_are_not_there_are_named(tmp_path, monkeypatch):
    for k in ('VISFT_DATA', 'VISFT_CACHE'): monkeypatch.setenv(k, str(tmp_path))
    with pytest.raises(InputError, match='hymenoptera is not in .*VISFT_DATA'): photo_root(tmp_path/'x')


BAD = {
    'name': (lambda root: photo_root(root/'x', 'cats'), ['cats', 'hymenoptera']),
    'too many': (lambda root: some_photos(root, root/'y', 1000), ['500', 'train']),
}


@pytest.mark.parametrize('name', BAD)
def test_bad_input(name, photos):
    call, words = BAD[name]
    with refused(words): call(photos)


def test_without_fastai(monkeypatch, photos):
    monkeypatch.setattr('visft_nb.finetune.contestants.find_spec', lambda name: None)
    with pytest.raises(InputError, match='pip install fastai'): fastai_contestant(photos, start())
