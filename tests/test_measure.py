"Label efficiency: few labels by class, one table for all measures, labels that equal a reference; networks come back as they were."
import numpy as np, pandas as pd, pytest, torch

from helpers import refused
from visft_nb.cnn.models import small_cnn, vit_tiny
from visft_nb.core import set_seed
from visft_nb.data import Images, label_subset
from visft_nb.pretrain.contrast import embed
from visft_nb.pretrain.measure import finetune_accuracy, knn_accuracy, label_efficiency, labels_needed, linear_probe, plot_efficiency


def bars(n=120, seed=0):
    "Three classes: a bright bar on the left, in the middle, on the right."
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 3
    x = torch.randint(0, 60, (n, 1, 16, 16), generator=g)
    for i, c in enumerate(y): x[i, 0, :, 2 + 5*c:5 + 5*c] += 150
    return Images(x.to(torch.uint8), y, ('left', 'middle', 'right'))


def net(): set_seed(0); return small_cnn(3, width=4)


def test_finetuning_learns_and_leaves_the_network_as_it_was():
    model = net().train()
    before, state = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    model.body.requires_grad_(False)
    a = finetune_accuracy(model, bars(), bars(60, 1), steps=60, rates=(5e-3, 5e-3), augment=None)
    assert 1 >= a > .9 and model.training and not model.body[0][0].weight.requires_grad
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items()) and torch.equal(torch.get_rng_state(), state)
    assert a == finetune_accuracy(model, bars(), bars(60, 1), steps=60, rates=(5e-3, 5e-3), augment=None), 'the same twice'


def test_steps_are_the_same_however_many_images(monkeypatch):
    import visft_nb.pretrain.measure as m
    seen, real = [], m.fit
    monkeypatch.setattr(m, 'fit', lambda net, batches, epochs, **kw: seen.append(epochs*len(batches)) or real(net, batches, epochs=1, **kw))
    for n in (6, 60, 120): m.finetune_accuracy(net(), bars(n), bars(30, 1), steps=40, augment=None, batch_size=20)
    assert seen == [40, 39, 42] or all(abs(s - 40) <= 3 for s in seen)


def test_one_row_for_each_method_measure_number_and_seed():
    train, test = bars(), bars(60, 1)
    table = label_efficiency({'a': net(), 'b': [net(), net()]}, train, test, labels=(1, 5), seeds=2, steps=3, augment=None)
    assert len(table) == 2*3*2*2 and table.accuracy.between(0, 1).all()
    assert not table.duplicated(['method', 'measure', 'labels', 'seed']).any()
    few = label_subset(train, 5, 1)
    z = embed(net(), few), embed(net(), test)
    row = table[(table.method == 'a') & (table.labels == 5) & (table.seed == 1)].set_index('measure').accuracy
    assert abs(row['probe'] - linear_probe(z[0], few.labels, z[1], test.labels)) < 1e-6
    assert abs(row['knn'] - knn_accuracy(z[0], few.labels, z[1], test.labels, k=5)) < 1e-6


def test_own_options_of_a_method():
    table = label_efficiency({'a': net(), 'b': net()}, bars(), bars(30, 1), labels=(10,), seeds=1, measures=('finetune',), steps=40, augment=None,
                             rates=(5e-3, 5e-3), b={'rates': (1e-12, 1e-12)})
    a, b = table.accuracy
    assert a > b + .2, 'a rate of nothing learns nothing'


def test_transformers_and_colour():
    colour = Images(bars().images.expand(-1, 3, -1, -1).contiguous(), bars().labels, bars().classes)
    table = label_efficiency({'vit': vit_tiny(3, 3, 16, 4, 16, 1, 2)}, colour, colour, labels=(2,), seeds=1, steps=2, augment=None)
    assert set(table.measure) == {'knn', 'probe', 'finetune'}


def table_of(**curves): return pd.DataFrame([(m, 'finetune', n, s, v + s - .5) for m, c in curves.items() for n, v in c.items() for s in (0, 1)],
                                            columns=['method', 'measure', 'labels', 'seed', 'accuracy'])


def test_labels_needed_interpolates_in_the_logarithm():
    t = table_of(scratch={1: 20, 10: 60, 100: 90}, better={1: 60, 10: 75, 100: 95}, worse={1: 10, 10: 20, 100: 30})
    need = labels_needed(t, 'scratch')
    assert np.allclose(need.loc['scratch'], [1, 10, 100])
    assert np.isclose(need.loc['better', 10], 1) and np.isclose(need.loc['better', 100], 10**1.75) and need.loc['better', 1] == 1
    assert np.isclose(need.loc['worse', 1], 10) and np.isnan(need.loc['worse', 100])


def test_labels_needed_with_a_curve_that_dips():
    t = table_of(scratch={1: 50, 10: 40, 100: 90}, other={1: 30, 10: 45, 100: 40})
    assert labels_needed(t, 'scratch').loc['other', 10] < 10


def test_the_picture_has_a_panel_for_each_measure():
    shown = []
    import visft_nb.plot as p
    real, p.show = p.show, lambda fig, alt: shown.append((fig, alt))
    try: plot_efficiency(table_of(a={1: 20, 10: 60}), 'curves')
    finally: p.show = real
    (fig, alt), = shown
    assert alt == 'curves' and len(fig.axes) == 1 and fig.axes[0].get_title() == 'fine-tuned'


BAD = {
    'measure': (lambda: label_efficiency({'a': net()}, bars(), bars(), measures=('prob',)), ['prob', 'probe']),
    'too few': (lambda: label_efficiency({'a': net()}, bars(12), bars(), labels=(10,), seeds=1), ['4 images', 'per_class=10']),
    'networks': (lambda: label_efficiency({'a': [net(), net()]}, bars(), bars(), seeds=3), ['2 networks', '3 seeds']),
    'no image of a class': (lambda: finetune_accuracy(net(), bars()[bars().labels < 2], bars()), ['[2]', 'label_subset']),
    'reference': (lambda: labels_needed(table_of(a={1: 1.}), 'b'), ["'b'"]),
}


@pytest.mark.parametrize('name', BAD)
def test_bad_input(name):
    call, words = BAD[name]
    with refused(words): call()
