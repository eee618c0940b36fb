"Pictures: what they show, how they are displayed, and what bad input gets."
import base64
import io
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from visft_nb.core import InputError
from visft_nb.plot import history
from visft_nb.plot import (LivePlot, figure, picture, plot_confusion, plot_curves, plot_embedding, plot_history, plot_intervals, plot_reliability,
                           running_mean, show, show_images)

STEPS = [{'loss': 2/(i + 1), 'lr': .1} for i in range(40)]
EPOCHS = [{'epoch': i, 'step': 10*i, 'loss': 1., 'valid_loss': .5/i, 'accuracy': 80. + i} for i in (1, 2, 3, 4)]
HISTORY = SimpleNamespace(steps=STEPS, epochs=EPOCHS)


@pytest.fixture
def shown(monkeypatch):
    "The mime bundles that are displayed, in order."
    seen = []
    def display(thing, display_id=None):
        seen.append(thing._repr_mimebundle_())
        return SimpleNamespace(update=lambda new: seen.append(new._repr_mimebundle_())) if display_id else None
    monkeypatch.setattr('IPython.display.display', display)
    return seen


def pixels(bundle): return np.asarray(Image.open(io.BytesIO(base64.b64decode(bundle[0]['image/png']))).convert('RGB'))


CALLS = {
    'images': lambda **k: show_images(torch.rand(5, 3, 8, 8), **k),
    'history': lambda **k: plot_history(HISTORY, **k),
    'confusion': lambda **k: plot_confusion(pd.DataFrame(np.eye(3, dtype=int)*9 + 1), **k),
    'embedding': lambda **k: plot_embedding(torch.randn(30, 5), torch.arange(30) % 3, ('a', 'b', 'c'), **k),
    'curves': lambda **k: plot_curves({'ours': ([0, 1, 2], [3., 2, 1], .1), 'theirs': ([0, 1], [3., 2])}, 'eps', 'accuracy', **k),
    'intervals': lambda **k: plot_intervals({'a': (90, 1), 'b': (91, 90, 93)}, 'accuracy, %', **k),
    'reliability': lambda **k: plot_reliability(pd.DataFrame({'confidence': [.5, np.nan, .9], 'accuracy': [.4, np.nan, 1.], 'count': [3, 0, 5]}), **k),
}


@pytest.mark.parametrize('name', CALLS)
def test_every_plot_displays_one_light_png_with_its_text(name, shown):
    assert CALLS[name]() is None
    (data, meta), = shown
    alt = meta['image/png']['alt']
    assert len(alt) >= 9 and 'nan' not in alt and data['text/plain'] == alt and len(data['image/png']) < 60_000
    image = pixels(shown[0])
    assert (image[[0, -1]] == 255).all() and (image[:, [0, -1]] == 255).all() and image.std() > 1     # white margin, something inside
    CALLS[name](alt='A sentence of the caller.')
    assert shown[1][1]['image/png']['alt'] == 'A sentence of the caller.'


@pytest.mark.parametrize('name', CALLS)
def test_every_plot_draws_into_given_axes_and_displays_nothing(name, shown):
    fig, ax = figure()
    assert CALLS[name](ax=ax) is None and not shown
    assert ax.lines or ax.images or ax.collections


def test_the_callers_style_is_left_alone(shown):
    import matplotlib as mpl
    before = dict(mpl.rcParams)
    for call in CALLS.values(): call()
    assert dict(mpl.rcParams) == before


def test_show_closes_pyplot_figures(shown):
    import matplotlib.pyplot as plt
    fig, ax = plt.subplots()
    show(ax, 'An axes will do.')
    assert not plt.fignum_exists(fig.number) and len(shown) == 1


def test_without_a_notebook_the_text_is_printed():
    code = "from visft_nb.plot import show, figure; show(figure()[0], 'Empty axes.')"
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=120)
    assert out.stdout.strip() == 'Empty axes.' and out.returncode == 0


def test_a_picture_is_dense_keeps_its_size_on_the_page_and_the_same_figure_gives_the_same_bytes():
    fig, ax = figure(); ax.plot([1, 2])
    a, b = picture(fig, 'a line'), picture(fig, 'a line', density=1)
    assert a.png == picture(fig, 'a line').png
    pixels = {k: Image.open(io.BytesIO(v.png)).width for k, v in dict(a=a, b=b).items()}
    assert 1.95 < pixels['a']/pixels['b'] < 2.05 and abs(a.size()[0] - b.size()[0]) <= 1
    assert b.size()[0] == pixels['b'] and a._repr_mimebundle_()[1]['image/png']['width'] == a.size()[0]
    with pytest.raises(InputError, match='density'): picture(fig, 'a line', density=500)


def test_a_large_picture_is_drawn_less_densely():
    fig, ax = figure(width=8, height=6)
    ax.imshow(np.random.default_rng(0).random((400, 400, 3)))
    a = picture(fig, 'noise')
    assert Image.open(io.BytesIO(a.png)).width == a.size()[0] > 400


# images

def sheet(*a, **k):
    fig, ax = figure()
    show_images(*a, **k, ax=ax)
    return np.asarray(ax.images[0].get_array()), ax


@pytest.mark.parametrize('shape', [(2, 3, 6, 8), (2, 6, 8, 3), (2, 1, 6, 8), (2, 6, 8, 1), (2, 6, 8)])
@pytest.mark.parametrize('kind', ['uint8', 'float32', 'bfloat16', 'numpy', 'list'])
def test_layouts_and_types_give_the_same_tiles(shape, kind):
    x = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    given = {'uint8': x, 'float32': x/255, 'bfloat16': (x/255).bfloat16(), 'numpy': x.numpy(), 'list': list(x.numpy())}[kind]
    tile = sheet(given, cols=2)[0][:6, :8]
    first = x[0].permute(1, 2, 0) if shape[1] in (1, 3) else x[0]
    first = first.reshape(6, 8, -1).expand(6, 8, 3).numpy()/255
    np.testing.assert_allclose(tile, first, atol=.005)


def test_columns_and_white_gaps():
    x, _ = sheet(torch.zeros(5, 10, 10), cols=3)
    assert x.shape[:2] == (21, 32) and (x[:10, 10] == 1).all() and (x[11:, 22:] == 1).all() and (x[:10, :10] == 0).all()
    assert sheet(torch.zeros(8, 4, 4))[0].shape[1] == 4*4 + 3      # about twice as wide as high


def test_images_of_several_sizes_pil_and_transparency():
    x, _ = sheet([np.zeros((4, 4)), np.zeros((8, 6, 3))], cols=2)
    assert (x[:2, :6] == 1).all() and (x[2:6, 1:5] == 0).all()
    assert (sheet([Image.new('RGBA', (4, 4), (255, 0, 0, 0))])[0] == 1).all()


def test_limits():
    x = torch.tensor([[[-1., 0, 1]]])
    np.testing.assert_allclose(sheet(x, limits=(-1, 1))[0][0, :3, 0], [0, .5, 1], atol=.01)
    np.testing.assert_allclose(sheet(7*x, limits='each')[0][0, :3, 0], [0, .5, 1], atol=.01)
    assert (sheet(torch.full((1, 2, 2), 1.0005))[0] == 1).all()      # rounding is forgiven


def test_masks_boxes_titles_and_mistakes():
    x = torch.zeros(2, 6, 6)
    m = torch.zeros(2, 6, 6, dtype=torch.uint8); m[0, :3] = 1; m[0, 3:] = 2
    image, ax = sheet(x, titles=torch.tensor([3, 4]), masks=m, boxes=[[[1, 1, 4, 5]], []], wrong=[False, True], cols=2)
    top = image.shape[0] - 6
    assert not np.allclose(image[top, 0], image[top + 5, 0]) and (image[top:, 7:13] == 0).all()
    assert [t.get_text() for t in ax.texts] == ['3', '4'] and ax.texts[1].get_weight() == 'bold'
    box, = ax.patches
    assert (box.get_x(), box.get_y(), box.get_width(), box.get_height()) == (.5, top + .5, 3, 4)
    soft = torch.zeros(2, 6, 6); soft[1, 0] = .7
    assert sheet(x, masks=soft, cols=2)[0][0, 7].sum() > 0


def test_an_images_brings_titles_masks_and_boxes():
    d = SimpleNamespace(images=torch.zeros(2, 1, 4, 4, dtype=torch.uint8), labels=torch.tensor([1, 0]), classes=('cat', 'dog'), masks=None, boxes=None)
    assert [t.get_text() for t in sheet(d)[1].texts] == ['dog', 'cat']
    d.labels = torch.tensor([.25, 1.])
    assert [t.get_text() for t in sheet(d)[1].texts] == ['0.25', '1.00']


# curves

def test_running_mean_has_no_bias_at_the_start():
    np.testing.assert_allclose(running_mean(np.full(50, 3.)), 3)
    assert abs(running_mean(np.r_[np.zeros(200), np.ones(200)], .9)[-1] - 1) < 1e-6


def test_history_puts_epochs_at_their_steps():
    fig, axes = figure(1, 2)
    plot_history(HISTORY, ax=axes)
    valid, = (a for a in axes[0].lines if a.get_label() == 'valid loss')
    assert valid.get_xdata().tolist() == [10, 20, 30, 40] and axes[1].lines[0].get_label() == 'accuracy' and len(axes[1].lines) == 1


@pytest.mark.parametrize('history', [
    {'steps': [], 'epochs': []}, {'steps': STEPS[:3], 'epochs': []}, {'steps': [], 'epochs': EPOCHS}, {'steps': [(2., .1), (1., .1)], 'epochs': []},
    {'steps': {'loss': [3., 2.], 'lr': [1., 1.]}, 'epochs': pd.DataFrame(EPOCHS)}, {'steps': [{'loss': float('nan')}, {'loss': 1.}], 'epochs': [{'accuracy': None}]}])
def test_histories_that_are_young_or_of_another_make(history, shown):
    plot_history(history)
    assert len(shown) == 1


def test_a_long_history_stays_light(shown):
    plot_history({'steps': [{'loss': 1 + np.sin(i)} for i in range(60_000)], 'epochs': []})
    assert len(shown[0][0]['image/png']) < 60_000


def test_live_plot_updates_one_output_at_most_so_often(shown, monkeypatch):
    now = [0.]
    monkeypatch.setattr(history.time, 'monotonic', lambda: now[0])
    live = LivePlot(every=1., live=True)
    for i in range(1, 41):
        now[0] += .25
        live.on_step(SimpleNamespace(steps=STEPS[:i], epochs=[]), None)
    assert live.drawn == len(shown) == 10
    live.on_epoch(HISTORY, None); live.on_end(HISTORY, None)
    assert live.drawn == len(shown) == 11 and live.handle is None and 'accuracy goes from 81 to 84' in shown[-1][1]['image/png']['alt']


def test_unwatched_it_draws_the_last_picture_alone(shown, monkeypatch):
    monkeypatch.setenv('VISFT_LIVE', '0')
    live = LivePlot()
    for _ in range(3): live.on_step(HISTORY, None); live.on_epoch(HISTORY, None)
    assert not shown
    live.on_end(HISTORY, None)
    assert len(shown) == 1


def test_live_plot_follows_fit(shown):
    train = pytest.importorskip('visft_nb.train')
    x, y = torch.randn(64, 4), torch.arange(64) % 2
    batches = [(x[i:i + 16], y[i:i + 16]) for i in range(0, 64, 16)]
    live = LivePlot(live=True, every=0.)
    train.fit(torch.nn.Linear(4, 2), batches, batches, epochs=2, callbacks=[live], bar=False)
    assert live.drawn == len(shown) >= 9 and 'accuracy' in shown[-1][1]['image/png']['alt']


def test_curves_have_bands_and_ticks_where_measured():
    fig, ax = figure()
    plot_curves({'a': ([1, 10, 100], [1., np.nan, 3], [.1, .2, .3])}, 'n', 'y', ax=ax, xscale='log', ylim=(0, 5))
    assert len(ax.collections) == 1 and [t.get_text() for t in ax.get_xticklabels()] == ['1', '10', '100'] and ax.get_ylim() == (0, 5)


def test_confusion_says_the_worst(shown):
    plot_confusion(pd.DataFrame([[5, 3], [0, 2]], columns=['cat', 'dog']))
    assert '70.0 %' in shown[0][1]['image/png']['alt'] and 'cat is taken for dog (3 times)' in shown[0][1]['image/png']['alt']
    plot_confusion(np.eye(30)*4)


def test_embedding_projects_and_names(shown):
    fig, ax = figure()
    z = torch.randn(40, 6)
    plot_embedding(z, torch.arange(40) % 2, ('cat', 'dog'), ax=ax, method='tsne')
    assert [t.get_text() for t in ax.texts] == ['cat', 'dog'] and 't-SNE' in ax.get_xlabel()
    fig, ax = figure()
    plot_embedding(z[:, :2], np.array(['u', 'v']*20), ax=ax)
    np.testing.assert_allclose(ax.collections[0].get_offsets(), z[::2, :2])


x4 = torch.rand(4, 3, 8, 8)
BAD = {
    'no text': (lambda: show(figure()[0], ''), 'alt sentence'),
    'no figure': (lambda: show([1], 'text here'), 'list figure'),
    'single image': (lambda: show_images(x4[0, 0]), '[x] list'),
    'two channels': (lambda: show_images(torch.rand(2, 2, 8, 8)), '(2, 8, 8) channels'),
    'none': (lambda: show_images(x4[:0]), '0 1 to 400'),
    'too many': (lambda: show_images(torch.rand(500, 2, 2)), '500 images[:64]'),
    'range': (lambda: show_images(3*x4), 'limits normalisation'),
    'int range': (lambda: show_images(torch.tensor([[[300]]])), '300'),
    'nan': (lambda: show_images(x4*float('nan')), 'NaN'),
    'titles': (lambda: show_images(x4, titles=['a']), '4 1 titles'),
    'wrong': (lambda: show_images(x4, wrong=[True]), 'wrong'),
    'mask shape': (lambda: show_images(x4, masks=torch.zeros(4, 4, 4)), '(4, 4) (8, 8)'),
    'mask count': (lambda: show_images(x4, masks=torch.zeros(3, 8, 8)), '3 masks'),
    'history': (lambda: plot_history([1, 2]), 'list History'),
    'curve lengths': (lambda: plot_curves({'ours': ([1, 2], [1, 2, 3])}), "'ours' length"),
    'curve half': (lambda: plot_curves({'ours': ([1, 2], [1, 2], [1, 2, 3])}), "'ours' half"),
    'curve inf': (lambda: plot_curves({'ours': ([1, 2], [1, np.inf])}), 'infinity'),
    'no curve': (lambda: plot_curves({}), 'no curve'),
    'no interval': (lambda: plot_intervals({}), 'no value'),
    'interval nan': (lambda: plot_intervals({'a': (np.nan, np.nan)}), 'NaN'),
    'confusion shape': (lambda: plot_confusion(np.ones((2, 3))), '(2, 3)'),
    'confusion nan': (lambda: plot_confusion(np.full((2, 2), np.nan)), 'NaN'),
    'embedding shape': (lambda: plot_embedding(torch.rand(5, 3), [1, 2]), '(5, 3) 2'),
    'embedding nan': (lambda: plot_embedding(torch.full((5, 3), np.nan), [1]*5), 'NaN'),
    'embedding method': (lambda: plot_embedding(torch.rand(9, 3), [1]*9, method='tsn'), 'tsne'),
    'reliability': (lambda: plot_reliability(pd.DataFrame({'accuracy': [1.]})), 'confidence, count'),
}


@pytest.mark.parametrize('case', BAD)
def test_bad_input_says_what_to_do(case, shown):
    call, words = BAD[case]
    with pytest.raises(InputError) as e: call()
    for w in words.split(): assert w in str(e.value), str(e.value)
    assert not shown


def test_pieces_of_html_are_found_in_the_old_place_with_a_warning():
    import visft_nb.plot
    from visft_nb import report
    for name in ('html_table', 'html_image', 'html_page'):
        with pytest.warns(DeprecationWarning, match='visft_nb.report'): assert getattr(visft_nb.plot, name) is getattr(report, name)
    with pytest.raises(AttributeError): getattr(visft_nb.plot, 'html_' + 'chart')
    assert set(visft_nb.plot.__all__) <= set(dir(visft_nb.plot))
