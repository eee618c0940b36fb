"Dual encoder and learned context: the loss, the causal text, names, frozen parts, open_clip, bad input."
import math

import pytest
import torch
import torch.nn.functional as F

from fake_cuda import fake_cuda
from helpers import fake_step, refused
from visft_nb.cnn.models import small_cnn
from visft_nb.core import InputError
from visft_nb.data import Images
from visft_nb.finetune import ClipEncoder, ContextPrompt, DualEncoder, ZeroShot, clip_loss, load_clip, load_prompt_state, prompt_state, train_dual, zero_shot_weights
from visft_nb.finetune.context import CaptionStep
from visft_nb.train import fit

pytestmark = pytest.mark.filterwarnings('ignore')
NAMES = ['red circle', 'blue circle', 'red square']


def dual(length=10): return DualEncoder(small_cnn(8, channels=3, width=4), ['a red blue circle, square', 'there is'], dim=8, width=12, depth=2, heads=3, length=length)


@pytest.fixture(autouse=True)
def seed(): torch.manual_seed(0)


def captioned(n=48):
    "Red or blue images with a bright upper or lower half."
    x, colour, half = torch.zeros(n, 3, 16, 16, dtype=torch.uint8), torch.arange(n) % 2, torch.arange(n)//2 % 2
    for i in range(n): x[i, 2*int(colour[i]), 8*int(half[i]):8*int(half[i]) + 8] = 200
    x += torch.randint(0, 40, x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return Images(x, 2*half + colour, ('red circle', 'blue circle', 'red square', 'blue square'),
                  captions=[f"a {('red', 'blue')[c]} {('circle', 'square')[h]}" for c, h in zip(colour.tolist(), half.tolist())])


def unit(*shape): return F.normalize(torch.randn(*shape, dtype=torch.float64), dim=-1)


def test_loss_is_the_formula_and_symmetric():
    u, v = unit(7, 5), unit(7, 5)
    e = (u @ v.T/.1).exp()
    by_hand = -sum((e[i, i]/e[i].sum()).log() + (e[i, i]/e[:, i].sum()).log() for i in range(7))/14
    assert abs(clip_loss(u, v, 10.) - by_hand) < 1e-12
    assert abs(clip_loss(u, v, 10.) - clip_loss(v, u, 10.)) < 1e-12
    p = torch.randperm(7)
    assert abs(clip_loss(u, v, 10.) - clip_loss(u[p], v[p], 10.)) < 1e-12


def test_loss_has_its_known_values():
    assert math.isclose(clip_loss(torch.ones(8, 1), torch.ones(8, 1), 5.), math.log(8), rel_tol=1e-6)
    assert math.isclose(clip_loss(torch.eye(8), torch.eye(8), 5.), math.log(1 + 7*math.exp(-5)), rel_tol=1e-5)


@pytest.mark.peer
def test_loss_equals_open_clips():
    theirs = pytest.importorskip('open_clip.loss').ClipLoss()
    u, v, scale = unit(16, 6).requires_grad_(), unit(16, 6).requires_grad_(), torch.tensor(14., dtype=torch.float64)
    a, b = clip_loss(u, v, scale), theirs(u, v, scale)
    assert abs(a - b) < 1e-12
    assert torch.allclose(torch.autograd.grad(a, u)[0], torch.autograd.grad(b, u)[0], atol=1e-12)


def test_equal_sentences_are_not_wrong_answers():
    u = torch.eye(3).repeat(2, 1)
    same = (u @ u.T) > .5
    assert clip_loss(u, u, 50.) > math.log(2) - .01
    floor = clip_loss(u, u, 50., same)
    moved = clip_loss(F.normalize(u + .3*torch.randn(6, 3), dim=1), u, 50., same)
    assert math.isclose(floor, math.log(2), abs_tol=1e-3) and moved > floor     # the entropy of the shared target, reached
    assert torch.allclose(clip_loss(u, u, 3., torch.eye(6, dtype=torch.bool)), clip_loss(u, u, 3.))


def test_text_is_read_to_its_end_and_no_further():
    d = dual()
    tokens = d.tokenize(['a red circle', 'there is a blue square'])
    other = torch.where(tokens == 0, 2, tokens)
    assert torch.allclose(d.encode_text(tokens), d.encode_words(d.embed_words(other), tokens.argmax(1)), atol=1e-6)
    assert torch.allclose(d.encode_text(['a red circle'])[0], d.encode_text(tokens)[0], atol=1e-6)
    assert not torch.allclose(d.encode_text(['red blue'])[0], d.encode_text(['blue red'])[0], atol=1e-4), 'order counts'


def test_vectors_have_length_one_and_vocabulary_is_fixed():
    d = dual()
    assert d.words == ('<pad>', '<start>', 'a', 'blue', 'circle', 'is', 'red', 'square', 'there', '<end>')
    assert torch.allclose(d.encode_text(['a', 'red']).norm(dim=1), torch.ones(2)) and torch.allclose(d.encode_image(torch.rand(2, 3, 16, 16)).norm(dim=1), torch.ones(2))
    assert torch.equal(d.tokenize(['A red, CIRCLE']), d.tokenize(['a red circle'])) and d.tokenize('a').shape == (1, 10)


def test_training_pairs_images_with_sentences_and_repeats():
    runs = []
    for _ in range(2):
        torch.manual_seed(1)
        d, data = dual(), captioned()
        history = train_dual(d, data, epochs=12, batch_size=16, lr=.01, bar=False, precision='fp32')
        model = ZeroShot(d, data.classes)
        with torch.no_grad(): runs.append((model(data.floats()).argmax(1) == data.labels).float().mean().item())
    assert runs[0] == runs[1] and runs[0] > .9 and history.epochs[-1]['loss'] < history.epochs[0]['loss']


def test_zero_shot_weights_are_the_mean_over_templates():
    d = dual()
    one = [d.encode_text([t.format(n) for n in NAMES]) for t in ('a {}', 'there is {}')]
    assert torch.allclose(zero_shot_weights(d, NAMES, ['a {}', 'there is {}']), F.normalize(sum(one), dim=1), atol=1e-6)
    assert torch.allclose(zero_shot_weights(d, NAMES, 'a {}'), one[0], atol=1e-6)
    x = torch.rand(4, 3, 16, 16)
    model = ZeroShot(d, NAMES, 'a {}')
    assert torch.allclose(model(x), d.scale*d.encode_image(x) @ one[0].T, atol=1e-5) and torch.allclose(model(d.encode_image(x)), model(x))


def test_context_that_starts_from_words_is_zero_shot_with_them():
    d = dual()
    for words in ('a', 'there is a'): assert torch.allclose(ContextPrompt(d, NAMES, init=words).weights(), zero_shot_weights(d, NAMES, words + ' {}'), atol=1e-6)


@pytest.mark.parametrize('per_class', [False, True])
def test_context_learns_and_the_encoders_do_not_move(per_class):
    d, data = dual(), captioned()
    before = {k: v.clone() for k, v in d.state_dict().items()}
    prompt = ContextPrompt(d, data.classes, 3, per_class=per_class)
    with torch.no_grad(): vectors = d.encode_image(data.floats())
    history = fit(prompt, [(vectors, data.labels)], epochs=30, lr=.05, bar=False, precision='fp32')
    assert history.epochs[-1]['loss'] < .97*history.epochs[0]['loss']
    assert all(torch.equal(v, before[k]) for k, v in d.state_dict().items()) and [k for k, p in prompt.named_parameters() if p.requires_grad] == ['context']
    assert not any(m.training for m in d.modules()) and prompt.context.shape == (4 if per_class else 1, 3, 12)


def test_images_and_their_vectors_give_the_same_logits():
    prompt, x = ContextPrompt(dual(), NAMES, 2), torch.rand(3, 3, 16, 16)
    assert torch.allclose(prompt(x), prompt(prompt.base.encode_image(x)))


def test_context_moves_to_other_names():
    d = dual()
    prompt = ContextPrompt(d, NAMES, init='there is a')
    other = prompt.for_classes(['blue square', 'blue circle'])
    assert other.context is prompt.context and torch.allclose(other.weights(), zero_shot_weights(d, ['blue square', 'blue circle'], 'there is a {}'), atol=1e-6)


def test_names_of_differing_lengths_keep_their_ends():
    d = dual()
    both, alone = ContextPrompt(d, ['circle', 'red blue square'], init='a'), ContextPrompt(d, ['circle', 'square'], init='a')
    assert torch.allclose(both.weights()[0], alone.weights()[0], atol=1e-6)
    long = ContextPrompt(d, ['red blue square', 'circle'], 5)     # 1 + 5 + 3 + 1 = 10 tokens, all there are
    assert long.tokens.shape == (2, 10) and long.ends.tolist() == [9, 7]


def test_a_context_is_saved_alone():
    d = dual()
    a, b = ContextPrompt(d, NAMES, 2), ContextPrompt(d, NAMES, 2)
    assert list(prompt_state(a)) == ['context'] and torch.equal(load_prompt_state(b, prompt_state(a)).weights(), a.weights())


@pytest.fixture(scope='module')
def clip():
    open_clip = pytest.importorskip('open_clip')
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
    torch.manual_seed(0)
    model = CLIP(32, CLIPVisionCfg(layers=2, width=64, head_width=32, patch_size=16, image_size=64), CLIPTextCfg(width=64, heads=2, layers=2)).eval()
    return ClipEncoder(model, open_clip.get_tokenizer('ViT-B-32'))


@pytest.mark.peer
def test_clip_is_open_clips_own(clip):
    x, words = torch.rand(2, 3, 64, 64), ['a photo of a cat', 'a diagram, with words']
    with torch.no_grad():
        assert torch.allclose(clip.encode_text(words), clip.model.encode_text(clip.tokenizer(words), normalize=True), atol=1e-6)
        assert torch.allclose(clip.encode_image(x), clip.model.encode_image((x - clip.mean)/clip.std, normalize=True), atol=1e-6)
        assert torch.allclose(clip.encode_image(torch.full((1, 3, 90, 90), .4)), clip.encode_image(torch.full((1, 3, 64, 64), .4)), atol=1e-4)
        assert torch.isclose(clip.scale, clip.model.logit_scale.exp())


@pytest.mark.peer
def test_context_works_on_clip(clip):
    names = ['cat', 'golden retriever', 'x-ray']
    prompt = ContextPrompt(clip, names, init='a photo of a')
    assert prompt.length == 4 and torch.allclose(prompt.weights(), zero_shot_weights(clip, names, 'a photo of a {}'), atol=1e-6)
    prompt(torch.rand(2, 3, 64, 64)).square().sum().backward()
    assert prompt.context.grad.abs().sum() > 0 and all(p.grad is None for p in clip.parameters())


@pytest.mark.peer
def test_load_clip_with_random_weights():
    pytest.importorskip('open_clip')
    model = load_clip('ViT-S-32-alt', pretrained=None)
    assert model.size == 224 and not model.training
    with torch.no_grad(): assert ZeroShot(model, ['a cat', 'a dog'])(torch.rand(1, 3, 32, 32)).shape == (1, 2)


@pytest.mark.peer
@pytest.mark.parametrize('tag,quick', [('openai', True), ('laion2b_s34b_b79k', False)])
def test_the_activation_goes_with_the_weights(monkeypatch, tag, quick):
    open_clip = pytest.importorskip('open_clip')
    def made(name, pretrained, force_quick_gelu, weights_only):
        assert force_quick_gelu == quick and weights_only
        raise OSError('asked for')
    monkeypatch.setattr(open_clip, 'create_model', made)
    with pytest.raises(InputError, match='asked for'): load_clip('ViT-B-32', tag)


@pytest.mark.peer
def test_load_clip_says_what_is_missing(monkeypatch):
    open_clip = pytest.importorskip('open_clip')
    def offline(*args, **kwargs): raise OSError('no route to host')
    monkeypatch.setattr(open_clip, 'create_model', offline)
    for call, words in ((lambda: load_clip('ViT-B-32'), ['openai', 'no route', 'network', 'path']), (lambda: load_clip('ViT-B-33'), ['ViT-B-33', 'ViT-B-32']),
                        (lambda: load_clip('ViT-B-32', 'opnai'), ['opnai', 'openai'])):
        with refused(words): call()


def test_without_open_clip_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr('visft_nb.finetune.clip.find_spec', lambda name: None)
    with pytest.raises(InputError, match='pip install open_clip_torch'): load_clip()


BAD = {
    'unknown word': (lambda: dual().tokenize(['a green circle']), ["'green'", 'a, blue, circle, is, red, square, there']),
    'unknown name': (lambda: ContextPrompt(dual(), ['red circle', 'red dog']), ["'dog'", 'red dog']),
    'too long': (lambda: dual(6).tokenize(['a red a red a']), ['5 words', '4 at most']),
    'no sentence': (lambda: dual().tokenize([3]), ['int', '3']),
    'no captions': (lambda: train_dual(dual(), Images(captioned().images), 1), ['captions']),
    'caption words': (lambda: train_dual(dual(), Images(captioned(2).images, captions=['a', 'green']), 1), ["'green'"]),
    'template': (lambda: zero_shot_weights(dual(), NAMES, ['a red']), ['{}']),
    'one name': (lambda: ZeroShot(dual(), ['red']), ['two names']),
    'twice': (lambda: ContextPrompt(dual(), ['red', 'red']), ['two names', 'once']),
    'no context': (lambda: ContextPrompt(dual(), NAMES, 0), ['length=0', 'ZeroShot']),
    'no room': (lambda: ContextPrompt(dual(), NAMES, 7), ['7 learned words', '11 tokens', '10 at most']),
    'per class': (lambda: ContextPrompt(dual(), NAMES, 2, per_class=True).for_classes(['blue', 'red']), ['per_class']),
    'init': (lambda: ContextPrompt(dual(), NAMES, init='a photo'), ["'photo'"]),
}


@pytest.mark.parametrize('name', BAD)
def test_bad_input(name):
    call, words = BAD[name]
    with refused(words): call()


def test_on_another_device():
    with fake_cuda():
        d = dual()
        fake_step(d, (torch.rand(6, 3, 16, 16), torch.arange(6)), CaptionStep(torch.zeros(6, 10, dtype=torch.long)))
        fake_step(ContextPrompt(dual(20), NAMES, 2), (torch.rand(6, 3, 16, 16), torch.zeros(6, dtype=torch.long)))
        ZeroShot(dual(), NAMES)(torch.rand(2, 3, 16, 16))
