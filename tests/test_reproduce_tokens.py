"Entity scores: against seqeval, on the published submissions, at the edges; files that are damaged; the tagger."
import zipfile

import numpy as np
import pytest
import torch

from helpers import sentence
from visft_nb.data import find_file
from visft_nb.reproduce import (EntityScores, Sentences, TokenTagger, Vocabulary, entity_scores, load_wnut, make_sentences, read_conll, span_counts, spans, tag_loss, tag_sentences, token_accuracy, word_batches)
from visft_nb.train import fit

TAGS = ['O', 'B-person', 'I-person', 'B-group', 'I-group']


def random_tags(n, seed):
    rng = np.random.default_rng(seed)
    return [list(rng.choice(TAGS, rng.integers(1, 12), p=[.4, .2, .15, .1, .15])) for _ in range(n)]


def like(tags, seed):
    rng = np.random.default_rng(seed)
    return [[str(rng.choice(TAGS)) if rng.random() < .3 else str(t) for t in row] for row in tags]


@pytest.mark.peer
@pytest.mark.parametrize('seed', range(5))
def test_scores_are_those_of_seqeval(seed):
    "Also where an I- continues nothing: random tags are full of that."
    seqeval = pytest.importorskip('seqeval.metrics')
    gold = [list(map(str, r)) for r in random_tags(80, seed)]
    guess = like(gold, seed + 100)
    s = entity_scores(gold, guess)
    for name, ours in (('precision_score', s.precision), ('recall_score', s.recall), ('f1_score', s.f1)):
        assert ours == pytest.approx(getattr(seqeval, name)(gold, guess), abs=1e-12)
    assert token_accuracy(gold, guess) == pytest.approx(seqeval.accuracy_score(gold, guess), abs=1e-12)
    entities = [(k, i, j - 1) for row in gold for i, j, k in spans(row)]
    from seqeval.metrics.sequence_labeling import get_entities
    assert sorted(entities) == sorted((k, i, j) for row in gold for k, i, j in get_entities(row))


@pytest.mark.parametrize('tags, expected', [
    ([], []), (['O'], []), (['B-x'], [(0, 1, 'x')]),
    (['B-x', 'B-x'], [(0, 1, 'x'), (1, 2, 'x')]),
    (['B-x', 'I-x', 'I-x'], [(0, 3, 'x')]),
    (['I-x', 'I-x'], [(0, 2, 'x')]),                       # continues nothing: begins
    (['B-x', 'I-y'], [(0, 1, 'x'), (1, 2, 'y')]),          # another class: begins
    (['B-x', 'O', 'I-x'], [(0, 1, 'x'), (2, 3, 'x')]),
    (['B-creative-work', 'I-creative-work'], [(0, 2, 'creative-work')]),
])
def test_spans(tags, expected): assert spans(tags) == expected


def test_scores_at_the_edges():
    gold = [['B-x', 'I-x', 'O']]
    assert entity_scores(gold, gold).f1 == 1 and entity_scores(gold, [['O']*3]).f1 == 0
    assert entity_scores([['O']], [['O']]) == EntityScores(0, 0, 0)
    assert EntityScores(0, 0, 0).f1 == 0
    assert entity_scores(gold, [['B-x', 'O', 'O']]).right == 0, 'cut short is wrong'
    assert entity_scores(gold, [['B-y', 'I-y', 'O']]).right == 0, 'another class is wrong'
    assert span_counts([], []).shape == (0, 3)


def test_counts_add_up():
    gold = random_tags(30, 3); guess = like(gold, 4)
    s = entity_scores(gold, guess)
    assert tuple(span_counts(gold, guess).sum(0)) == (s.right, s.given, s.true)
    assert entity_scores(guess, gold).f1 == s.f1, 'precision and recall change places'


def test_bad_tags():
    sentence(lambda: spans(['B-x', 'X-y']), 'X-y', 'B-class', 'BIO')
    sentence(lambda: spans(['B-']), 'B-', 'expected')
    sentence(lambda: spans([3]), '3', 'expected')
    sentence(lambda: spans(['S-x']), 'S-x', 'BIOES')
    sentence(lambda: entity_scores([['O']], []), '1 sentences', '0')
    sentence(lambda: entity_scores([['O', 'O']], [['O']]), 'Sentence 0', '2 true tags', '1 given')
    sentence(lambda: token_accuracy([], []), 'no words')


def test_files_as_they_come():
    "CR LF, spaces or tabs, several empty lines, no empty line at the end."
    a = read_conll('New\tB-x\r\nYork\tI-x\r\n\r\n\r\nis O\r\n')
    b = read_conll('New B-x\nYork I-x\n\nis\tO')
    assert a.words == b.words == [['New', 'York'], ['is']] and a.tags == b.tags == [['B-x', 'I-x'], ['O']]
    assert read_conll('New NNP B-NP B-x\n').words == [['New']] and read_conll('New NNP B-NP B-x\n').tags == [['B-x']]


def test_file_by_its_path(tmp_path):
    (tmp_path/'a.conll').write_text('é B-x\n', 'utf-8')
    assert read_conll(tmp_path/'a.conll').name == 'a.conll'


def test_bad_files(tmp_path):
    sentence(lambda: read_conll('New B-x\nYork\n', 'a.conll'), 'Line 2', 'a.conll', 'York')
    sentence(lambda: read_conll('\n\n', 'a.conll'), 'a.conll', 'no sentence')
    sentence(lambda: load_wnut('wnut17', tmp_path), 'wnut17.zip', 'VISFT_DATA', 'generated')
    sentence(lambda: load_wnut('conll'), 'conll', 'wnut17')
    sentence(lambda: make_sentences(0), '0')


def test_an_archive_that_is_not_whole(tmp_path):
    (tmp_path/'wnut17').mkdir()
    with zipfile.ZipFile(tmp_path/'wnut17/wnut17.zip', 'w') as z: z.writestr('wnut17/README.md', '')
    sentence(lambda: load_wnut('', tmp_path), 'wnut17.zip lacks', 'submissions')


def test_generated_sentences_say_so(tmp_path):
    made = load_wnut('', tmp_path)
    assert made.name == 'generated sentences' and made.reference == {} and len(made.systems) == 7
    assert made.systems == load_wnut('generated').systems
    for tags in (made.train.tags, made.test.tags, *made.systems.values()):
        for row in tags: spans(row)


@pytest.mark.skipif(find_file(['wnut17/wnut17.zip']) is None, reason='WNUT-17 is not there')
def test_the_seven_submissions():
    wnut = load_wnut('wnut17')
    assert (len(wnut.train), len(wnut.dev), len(wnut.test)) == (3394, 1009, 1287)
    found = {k: 100*entity_scores(wnut.test.tags, t).f1 for k, t in wnut.systems.items()}
    assert {k: round(v, 2) for k, v in found.items()} == wnut.reference
    right = [100*token_accuracy(wnut.test.tags, t) for t in wnut.systems.values()]
    assert 93.2 <= min(right) and max(right) < 94.2


def test_vocabulary_and_batches():
    data = make_sentences(40)
    v = Vocabulary(data)
    batches = word_batches(data, v, 7, device='cpu')
    assert sorted(i for b in batches for i in b[3].tolist()) == list(range(40))
    for words, chars, tags, rows in batches:
        assert words.shape == tags.shape == chars.shape[:2]
        assert ((tags == -100) == (words == 0)).all()
        for i, t in zip(rows.tolist(), tags.tolist()):
            assert [v.tags[k] for k in t if k >= 0] == data.tags[i]
    a, b = (word_batches(data, v, 7, s, 'cpu') for s in (1, 1))
    assert all(torch.equal(x, y) for p, q in zip(a, b) for x, y in zip(p, q))
    unknown = Sentences([['x']], [['B-planet']])
    sentence(lambda: word_batches(unknown, v, device='cpu'), 'B-planet', 'B-person')
    sentence(lambda: word_batches(data, v, 0), '0')


def test_padding_changes_nothing():
    "A sentence has the same tags' scores alone as beside a longer one."
    data = make_sentences(20, 5)
    v = Vocabulary(data, 1)
    torch.manual_seed(0)
    model = TokenTagger(v, 16).double().eval()
    together, = word_batches(data, v, 20, device='cpu')
    alone = word_batches(data, v, 1, device='cpu')
    out = model(*together[:2])
    for i, (words, chars, _, _) in enumerate(alone):
        n = words.shape[1]
        assert torch.allclose(model(words, chars)[0], out[i, :n], atol=1e-10)


@pytest.mark.parametrize('spelling', [True, False])
def test_the_tagger_learns(spelling):
    data = make_sentences(60, 1)
    v = Vocabulary(data, 1)
    torch.manual_seed(0)
    model = TokenTagger(v, 24, spelling)
    fit(model, word_batches(data, v, 16, 0), epochs=30, loss=tag_loss, lr=1e-2, bar=False)
    model.eval()
    answer = tag_sentences(model, word_batches(data, v, 16))
    assert list(map(len, answer)) == list(map(len, data.tags))
    assert entity_scores(data.tags, answer).f1 > .3
    sentence(lambda: TokenTagger(v, 2), 'width', '2')
