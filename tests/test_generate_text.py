"""Text to picture: sentences, their reader, rows of tokens, and the weights that ship."""
import math
from importlib.resources import files

import pytest
import torch

from visft_nb.core import InputError
from visft_nb.generate import (
    CaptionStep, CellVQVAE, TextToImage, Words, draw_scene, draw_scenes, draw_sentence, drawing_model,
    fit_cells, fit_drawing, judge_scene, load_generator, read_generator, read_scene,
    save_generator, save_sheet, scene_of, split_captions, tidy, unknown_words,
    weights_hash)
from visft_nb.generate.codes import encode_all
from visft_nb.generate.scenes import GROUNDS, PLACES, THINGS, WORDS, caption
from visft_nb.train import save_checkpoint

SAID = 'a large red circle left of a small blue square'


@pytest.fixture(scope='module')
def captions(): return split_captions()


@pytest.fixture(scope='module')
def model():
    torch.manual_seed(0)
    return drawing_model(codes=32, dim=32, depth=2, heads=2).eval()


@pytest.mark.parametrize('said, meant', [
    ('Large red circle left of a small blue square.', SAID),
    ('an orange', None), ('a small red cross', 'a small red cross in the middle'),
    ('a small red cross on black', 'a small red cross in the middle'),
    ('the small red cross at top on white', 'a small red cross at the top on white')])
def test_generate_a_sentence_is_put_right(said, meant):
    if meant is None:
        with pytest.raises(InputError, match='in an order that no caption has'): tidy(said)
    else: assert tidy(said) == meant


@pytest.mark.parametrize('said, found', [
    ('a big red circle', r"'big' \(nearest: large"), ('', 'no sentence'),
    ('a large crimson circle', r"'crimson' \(nearest: red"), (None, 'no sentence'),
    ('a large rad circle', r"'rad' \(nearest: red"), ('a red large circle', 'order'),
    ('a large red circle left of', 'order'), ('a large red circle ' * 9, 'order')])
def test_generate_what_is_no_sentence_is_refused(said, found):
    with pytest.raises(InputError, match=found) as e: tidy(said)
    assert '\n' not in str(e.value)


def test_generate_two_ways_to_say_the_same():
    other = 'a small blue square right of a large red circle'
    assert scene_of(SAID) == scene_of(other)
    assert torch.equal(draw_scene(SAID), draw_scene(other))
    assert scene_of(SAID) != scene_of('a small blue square left of a large red circle')


def test_generate_the_parts_share_no_combination(captions):
    scenes = [{scene_of(s) for s in part} for part in captions]
    for i, a in enumerate(scenes):
        for b in scenes[:i]: assert not a & b
    things = [{t for s in part for _, t in s.things} for part in scenes]
    assert len(things[3] - things[0]) == 4 and things[2] <= things[0]
    pairs = [{frozenset(t for _, t in s.things) for s in part if len(s.things) == 2}
             for part in scenes]
    assert not pairs[0] & (pairs[1] | pairs[2])
    seen = {w for s in captions.train for w in s.split()}
    assert seen == set(WORDS) - {'black'}
    assert captions == split_captions() and captions != split_captions(seed=1)


@pytest.mark.parametrize('how, found', [
    (dict(share=0.), 'empty|out of'), (dict(share=.9, valid=.1), 'empty'),
    (dict(novel=99), 'novel'), (dict(share=math.nan), 'share')])
def test_generate_a_split_that_leaves_nothing(how, found):
    with pytest.raises(InputError, match=found): split_captions(**how)


def test_generate_the_reader_reads_everything_that_can_be_said(captions):
    said = captions.test[:150] + captions.novel[:50] + [
        caption(t, None, p, g) for t in THINGS for p in PLACES for g in GROUNDS]
    assert all(read_scene(x) == scene_of(s) for x, s in zip(draw_scenes(said), said))


def test_generate_the_reader_refuses_what_is_no_scene():
    g = torch.Generator().manual_seed(0)
    assert read_scene(torch.zeros(3, 32, 32)) is None
    assert read_scene(torch.rand(3, 32, 32, generator=g)) is None
    with pytest.raises(InputError, match=r'\(3, 32, 32\)'): read_scene(torch.zeros(3, 8, 8))


def test_generate_a_wrong_word_is_found():
    v = judge_scene(draw_scene(SAID.replace('red', 'green')), SAID)
    assert not v['red'] and not v['all'] and v['circle'] and v['blue'] and v['at the left']
    v = judge_scene(torch.zeros(3, 32, 32), SAID)
    assert not any(v.values())
    assert all(judge_scene(draw_scene(SAID), SAID).values())


def test_generate_words_go_there_and_back(captions):
    words = Words()
    rows = words.encode(captions.test[:200])
    assert words.decode(rows) == captions.test[:200] and rows.max() < len(words)
    with pytest.raises(InputError, match='at most 12'): words.encode(['a ' * 13])
    with pytest.raises(InputError, match='nearest'): words.encode(['a huge circle'])


@pytest.mark.parametrize('window', [8, 24])
def test_generate_a_code_sees_its_window(window):
    torch.manual_seed(0)
    book = CellVQVAE(16, window=window).eval()
    x = torch.rand(4, 3, 32, 32, requires_grad=True)
    book.vectors(x)[:, :, 1, 2].abs().sum().backward()
    seen = x.grad.abs().amax((0, 1)) > 0
    centre = 8 + 4, 16 + 4
    rows = torch.arange(32)
    inside = [((rows + .5 - c).abs() < window/2) for c in centre]
    assert torch.equal(seen, inside[0][:, None] & inside[1])


@pytest.mark.parametrize('how', [dict(window=4), dict(window=9), dict(size=30)])
def test_generate_a_window_that_fits_no_cell(how):
    with pytest.raises(InputError, match='window'): CellVQVAE(16, **how)


def test_generate_few_kinds_of_vectors_get_a_code_each():
    torch.manual_seed(0)
    kinds = torch.randn(20, 32)
    rare = torch.cat([torch.zeros(500, dtype=torch.long), torch.arange(20)])
    z = kinds[rare][:, :, None, None]
    q = CellVQVAE(24).quantizer
    q.start(z, torch.Generator().manual_seed(0))
    assert torch.allclose(q.eval()(z).vectors, z)
    q.codebook.copy_(kinds[:1].expand(24, 32))   # all at one place: the rest is dead
    q.revive(z.flatten(1), torch.arange(24) > 0)
    assert len(q.codebook.unique(dim=0)) > 5


def test_generate_each_token_may_stand_where_it_stands(model, captions):
    k = encode_all(model.codes, draw_scenes(captions.test[:20]))
    rows = model.tokens(captions.test[:20], k)
    assert model.allowed[torch.arange(rows.shape[1]), rows].all()
    text, image = model.allowed[1:model.text], model.allowed[model.text:]
    assert not (text.any(0) & image.any(0)).any()
    assert torch.equal(rows[:, model.text:] - model.begin - 1, k.flatten(1))


def test_generate_the_loss_is_the_weighted_one(model, captions):
    said = captions.test[:8]
    rows = model.tokens(said, encode_all(model.codes, draw_scenes(said)))
    logits = model.transformer(rows[:, :-1]).masked_fill(~model.allowed[1:], -torch.inf)
    nll = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), rows[:, 1:].flatten(), reduction='none').view(8, -1)
    mine = nll[:, :12].mean()/8 + 7*nll[:, 12:].mean()/8
    assert torch.allclose(CaptionStep(model)(model, [rows]), mine, rtol=1e-4)


def test_generate_a_cache_changes_nothing_and_the_codes_do_not_move(model, captions):
    said = captions.test[:6]
    before = weights_hash(model.codes.state_dict())
    for how in (dict(temperature=0), dict(temperature=0, guidance=2.)):
        a, b = (model.write(said, cached=c, **how) for c in (True, False))
        assert torch.equal(a, b)
    g = lambda: torch.Generator().manual_seed(3)
    a, b = (model.write(said, top_k=3, guidance=1.5, generator=g()) for _ in 'ab')
    assert torch.equal(a, b) and a.min() >= 0 and a.max() < 32
    model.train()
    assert not model.codes.training and model.transformer.training
    model.eval()
    assert weights_hash(model.codes.state_dict()) == before


def test_generate_a_score_is_a_difference_of_two_likelihoods(model, captions):
    said = captions.test[:5]
    k = encode_all(model.codes, draw_scenes(said))
    log_p = lambda words: -model.transformer.nll(
        model.tokens(words, k), model.allowed)[:, model.text - 1:].sum(1)
    with torch.no_grad(): mine = log_p(said) - log_p(['']*5)
    assert torch.allclose(model.score(said, k), mine, atol=1e-4)


@pytest.mark.parametrize('call, found', [
    (lambda m: m.tokens([SAID], torch.zeros(1, 3, 3).long()), r'\(1, 4, 4\)'),
    (lambda m: m.tokens([SAID], torch.full((1, 4, 4), 32)), 'codebook'),
    (lambda m: m.paint(torch.full((1, 4, 4), 99)), 'codebook'),
    (lambda m: m.write(['a ' * 20]), 'at most 12'),
    (lambda m: m.write(['a dog']), 'nearest'),
    (lambda m: draw_sentence(SAID, 0, model=m), 'n=0'),
    (lambda m: CaptionStep(m, drop=2.), 'drop')])
def test_generate_bad_input_is_one_sentence(model, call, found):
    with pytest.raises(InputError, match=found): call(model)


def test_generate_training_learns(captions):
    torch.manual_seed(0)
    said = captions.train[:96]
    book = CellVQVAE(64)
    fit_cells(book, draw_scenes(said), 5, 16, bar=False)
    m = TextToImage(book, dim=32, depth=1, heads=2)
    before = weights_hash(m.codes.state_dict())
    k = encode_all(m.codes, draw_scenes(said))
    h = fit_drawing(m, said, k, 6, 16, 1e-2, bar=False)
    losses = [r['loss'] for r in h.steps]
    assert losses[-1] < .7*losses[0]
    assert weights_hash(m.codes.state_dict()) == before


def test_generate_a_file_goes_there_and_back(tmp_path, model, captions):
    path = tmp_path/'m.safetensors'
    digest = save_generator(path, model, '5_generate/05_text', 'smoke', exact_unseen=.5)
    held, again = read_generator(path), load_generator(path)
    assert held['sha256'] == digest == weights_hash(again.state_dict())
    assert held['figures'] == {'exact_unseen': .5} and held['profile'] == 'smoke'
    said = captions.test[:4]
    assert torch.equal(again.write(said, 0), model.write(said, 0))


def test_generate_files_of_another_kind_are_refused(tmp_path, model):
    path, spec = tmp_path/'m.safetensors', dict(model.spec)
    state = dict(model.state_dict())
    whole = dict(model=state, spec=spec, sha256=weights_hash(state), notebook='n',
                 profile='p')
    def refuse(found, **other):
        save_checkpoint(path, **whole | other)
        with pytest.raises(InputError, match=found): load_generator(path)
    refuse('hash', sha256='0'*64)
    refuse('no generator', spec=spec | dict(builder='os:system'))
    refuse('expected', spec=spec | dict(kwargs=spec['kwargs'] | dict(codes=10**9)))
    refuse('expected', spec=spec | dict(kwargs=spec['kwargs'] | dict(path='/etc')))
    refuse('64', spec=spec | dict(kwargs=spec['kwargs'] | dict(codes=64)))
    save_checkpoint(path, model=state)
    with pytest.raises(InputError, match='has no spec'): load_generator(path)
    with pytest.raises(InputError, match='generator of the kit'): load_generator('kit/txt')
    with pytest.raises(InputError, match='no generator'):
        save_generator(path, torch.nn.Linear(1, 1), 'n', 'p')


def test_generate_a_sheet(tmp_path):
    from PIL import Image
    x = draw_scenes([SAID]*3)
    one = save_sheet(tmp_path/'one.png', x[:1], scale=2)
    im = Image.open(one)
    assert im.size == (64, 64)
    assert im.getpixel((16, 32)) == tuple((x[0][:, 16, 8]*255).round().int().tolist())
    assert Image.open(save_sheet(tmp_path/'b.png', x, 'abc', cols=2)).size[0] == 2*200 + 8
    with pytest.raises(InputError, match='.png'): save_sheet(tmp_path/'a.jpg', x)
    with pytest.raises(InputError, match='2 titles'): save_sheet(tmp_path/'a.png', x, 'ab')
    with pytest.raises(InputError, match='folder'):
        (tmp_path/'d.png').mkdir(); save_sheet(tmp_path/'d.png', x)


def test_generate_weights_that_ship_are_what_their_header_says():
    held = read_generator('kit/text')
    assert held['notebook'] == '5_generate/05_text' and held['profile'] == 'laptop'
    assert held['sha256'] == weights_hash(held['model'])
    assert held['figures']['exact_unseen'] >= .6 and held['figures']['perplexity'] >= 32
    file = files('visft_nb')/'weights'/'text.safetensors'
    assert file.stat().st_size < 6e6


def test_generate_weights_that_ship_draw_what_is_said(captions):
    model = load_generator('kit/text')
    said = captions.test[-60:]
    right = sum(judge_scene(x, s)['all'] for x, s in zip(model.paint(model.write(said, 0)), said))
    assert right >= 40
    drawn = draw_sentence(SAID, 4, seed=1, model=model)
    assert [d.score for d in drawn] == sorted((d.score for d in drawn), reverse=True)
    assert drawn[0].right and drawn[0].picture.shape == (3, 32, 32)


def test_generate_the_command(tmp_path):
    from typer.testing import CliRunner
    from visft_nb.course.cli import app
    out = tmp_path/'a.png'
    said = CliRunner().invoke(app, ['generate', SAID, '--out', str(out), '--n', '3'])
    assert said.exit_code == 0 and out.stat().st_size > 500
    assert said.output.count('as said') == 3
    wrong = CliRunner().invoke(app, ['generate', 'a big red circle', '--out', str(out)])
    assert isinstance(wrong.exception, InputError) and 'large' in str(wrong.exception)
    assert unknown_words('a big red circle').keys() == {'big'}
