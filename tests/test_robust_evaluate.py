"Evaluation: intervals with their coverage, checks that accuse the guilty and not the honest, a report that is whole or not there, bad input."
import json, math, re, warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fake_cuda import fake_cuda
from helpers import refused
from visft_nb.cnn.models import Normalise, small_cnn, vit_tiny
from visft_nb.robust import averaged, images_needed, masking_report, paired_difference, pgd, robustness_report, straight_through
from visft_nb.train import rng_state

QUICK = dict(steps=8, restarts=2, queries=60, samples=3)


def stripes(n, classes=4, channels=1, side=16):
    "Noise, darker in a stripe that tells the class."
    x, y = torch.rand(n, channels, side, side, generator=torch.Generator().manual_seed(0)), torch.arange(n) % classes
    wide = side//classes
    for i in range(classes): x[y == i, :, wide*i:wide*(i + 1)] *= .25
    return x, y


def learned(model, x, y, steps=40, eps=0.):
    "A few steps of training, adversarial ones with `eps`."
    opt = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(steps):
        model.train()
        adv = pgd(model, x, y, eps, steps=3, drop=False) if eps else x
        opt.zero_grad(); F.cross_entropy(model(adv), y).backward(); opt.step()
    return model.eval()


@pytest.fixture(scope='module')
def setup():
    torch.manual_seed(0)
    x, y = stripes(120)
    return learned(small_cnn(4, width=4), x, y), x, y


@pytest.fixture(scope='module')
def honest(setup):
    torch.manual_seed(0)
    _, x, y = setup
    return learned(small_cnn(4, width=4), x, y, 60, .08)


class Picky(nn.Module):
    "Takes no empty batch, as many layers do."
    def __init__(self, model): super().__init__(); self.model = model
    def forward(self, x):
        assert len(x), 'an empty batch'
        return self.model(x)


class Around(nn.Module):
    def __init__(self, model): super().__init__(); self.model = model
class Scaled(Around):
    def forward(self, x): return 1000*self.model(x)
class Quantised(Around):
    def forward(self, x): return self.model((7*x).round()/7)
class Noisy(Around):
    def forward(self, x): return self.model(x + .5*torch.randn_like(x))
class Blind(Around):
    def forward(self, x): return self.model(x).detach()


def masks(n, b, c, both=0):
    "Booleans of two cases that differ as said."
    one, two = torch.zeros(n, dtype=torch.bool), torch.zeros(n, dtype=torch.bool)
    one[:b] = True; two[b:b + c] = True
    one[n - both:] = True; two[n - both:] = True
    return one, two


@pytest.mark.parametrize('n,b,c', [(60, .0, .0), (60, .05, .05), (60, .2, .05), (150, .02, .0), (150, .1, .1)])
def test_paired_interval_covers_exactly_enough(n, b, c):
    "All outcomes with their probability: at least 98 % of a 99 % interval."
    logs = lambda v: v*0 if v == 0 else math.log(v)
    total = 0.
    for i in range(n + 1 if b else 1):
        for j in range(n - i + 1 if c else 1):
            logp = math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(j + 1) - math.lgamma(n - i - j + 1) + i*logs(b) + j*logs(c) + (n - i - j)*logs(1 - b - c)
            if logp < -18: continue
            _, low, high = paired_difference(*masks(n, i, j))
            total += math.exp(logp)*(low <= b - c <= high)
    assert total >= .98, total


def test_paired_difference_is_that_of_the_accuracies():
    one, two = masks(50, 7, 2, 20)
    d, low, high = paired_difference(one, two)
    assert math.isclose(d, .1) and low < d < high and math.isclose(d, (one.double().mean() - two.double().mean()).item())
    e, other_low, other_high = paired_difference(two, one)
    assert (e, other_low, other_high) == pytest.approx((-d, -high, -low))


def test_more_images_narrow_the_interval_and_a_higher_level_widens_it():
    width = lambda n, **k: (lambda r: r[2] - r[1])(paired_difference(*masks(n, n//10, n//20), **k))
    assert width(1000) < width(200) < width(100) and width(100, level=.999) > width(100, level=.9)


@pytest.mark.parametrize('p,q', [(.88, .90), (.5, .6), (.03, .01)])
def test_images_needed_reach_the_power(p, q):
    n = images_needed(p, q)
    g = torch.Generator().manual_seed(0)
    k = [torch.binomial(torch.full((4000,), float(n)), torch.full((4000,), v), generator=g)/n for v in (p, q)]
    m = (k[0] + k[1])/2
    found = ((k[0] - k[1]).abs() > 1.96*(2*m*(1 - m)/n).sqrt()).float().mean().item()
    assert abs(found - .8) < .04


def test_images_needed_of_pairs():
    assert images_needed(.88, .9, differ=.02) < images_needed(.88, .9, differ=.06) < images_needed(.88, .9)
    assert images_needed(.88, .9, power=.95) > images_needed(.88, .9) and images_needed(.88, .9) == images_needed(.9, .88)
    n, d, delta = images_needed(.7, .8, differ=.2), .2, .1
    g = torch.Generator().manual_seed(0)
    u = torch.rand(4000, n, generator=g)
    b, c = (u < (d + delta)/2).sum(1).double(), (u > 1 - (d - delta)/2).sum(1).double()
    found = ((b - c).abs() > 1.96*(b + c).sqrt()).float().mean().item()
    assert abs(found - .8) < .04


@pytest.mark.parametrize('norm,eps', [('linf', .08), ('l2', .6), ('l1', 3.)])
def test_the_honest_are_not_accused(setup, honest, norm, eps):
    model, x, y = setup
    for net in (honest, model):
        r = masking_report(net, x, y, eps, norm, substitute=model, **QUICK)
        assert not r.failed, str(r)
        assert 'not to be believed' not in r.verdict
        assert r.table.set_index('check').verdict['black box'] != 'not run'


def test_an_honest_network_is_accused_by_no_seed(setup, honest):
    _, x, y = setup
    for seed in range(5): assert not masking_report(honest, x, y, .08, seed=seed, **QUICK).failed


GUILTY = {'scaled': (Scaled, ['vanishing gradient', 'another loss']), 'quantised': (Quantised, ['vanishing gradient', 'transfer', 'unbounded eps']), 'noisy': (Noisy, ['averaging'])}


@pytest.mark.parametrize('name', GUILTY)
def test_the_guilty_are(setup, name):
    model, x, y = setup
    make, expected = GUILTY[name]
    r = masking_report(make(model), x, y, .12, substitute=model, **QUICK | dict(samples=8))
    assert set(expected) <= set(r.failed), str(r)
    assert 'not to be believed' in r.verdict and all(c in r.verdict for c in r.failed)
    assert set(r.table.columns) == {'check', 'measured', 'expected', 'verdict'} and r.table.verdict.isin(['ok', 'fails', 'undecided', 'note', 'not run']).all()


def test_a_network_that_always_says_the_same_is_not_masked(setup):
    _, x, y = setup
    r = masking_report(lambda x: torch.tensor([3., 0., 1., 2.]) + 0*x.flatten(1)[:, :4], x, y, .1, **QUICK)
    assert 'unbounded eps' not in r.failed, 'chance is no sign of masking'


def test_nobody_is_asked_about_no_image(setup, tmp_path):
    model, x, y = setup
    r = robustness_report(Picky(model), x, y, .5, substitute=model, out=tmp_path/'r', **QUICK)
    assert r.records['attacks'][-1]['standing'] == 0 and not r.masking.failed


def test_few_images_are_not_enough_to_pass(honest, setup):
    _, x, y = setup
    r = masking_report(honest, x[:12], y[:12], .08, **QUICK)
    assert r.undecided and not r.failed and r.verdict.startswith('Undecided') and '12 images' in r.verdict


def test_who_stands_is_consistent(setup):
    model, x, y = setup
    r = masking_report(model, x, y, .05, **QUICK)
    with torch.no_grad(): right = model(x).argmax(1) == y
    assert torch.equal(r.stands['clean'], right)
    assert all((s <= right).all() for s in r.stands.values()), 'what is wrong unattacked does not stand'


def test_without_gradients_only_questions_are_asked(setup):
    model, x, y = setup
    for blind in (Blind(model), lambda v: model(v).detach().numpy()):
        r = masking_report(blind, x, y, .1, **QUICK)
        ran = r.table[r.table.verdict.isin(['ok', 'fails', 'undecided'])].check.tolist()
        assert set(ran) == {'equal answers', 'larger eps', 'unbounded eps'} and 'black-box' in r.verdict
    assert not [k for k in r.stands if k.startswith('PGD')]


def test_the_model_and_the_generators_come_back_as_they_were(setup):
    _, x, y = setup
    torch.manual_seed(4)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(.5), nn.Flatten(), nn.Linear(4*14*14, 4)).train()
    model[0].weight.requires_grad_(False)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    flags, x0, state = [p.requires_grad for p in model.parameters()], x.clone(), rng_state()['torch']
    with pytest.warns(UserWarning, match='train mode'): one = masking_report(model, x, y, .1, **QUICK)
    assert all(m.training for m in model.modules()) and [p.requires_grad for p in model.parameters()] == flags and all(p.grad is None for p in model.parameters())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items()) and torch.equal(x, x0)
    assert torch.equal(rng_state()['torch'], state)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        two = masking_report(model.eval(), x, y, .1, **QUICK)
    assert one.table.equals(two.table) and one.verdict == two.verdict, 'the same seed, the same figures, whatever the mode'


@pytest.mark.parametrize('name', ['two classes', 'colour', 'torchvision', 'transformer', 'not square'])
def test_networks_that_no_test_knows(name):
    torch.manual_seed(0)
    channels, classes, side = (1 if name in ('two classes', 'not square') else 3), (2 if name == 'two classes' else 4), (32 if name == 'torchvision' else 16)
    x, y = stripes(64, classes, channels, side)
    if name == 'not square': x = torch.cat([x, torch.zeros(64, 1, 16, 4)], 3)
    if name == 'torchvision':
        models = pytest.importorskip('torchvision.models')
        model = nn.Sequential(Normalise(), models.shufflenet_v2_x0_5(weights=None, num_classes=4))
        for m in model.modules():
            if isinstance(m, nn.BatchNorm2d): m.momentum = .5
        learned(model, x, y, 15)
    elif name == 'transformer': model = learned(vit_tiny(4, 3, 16, 4, 16, 2, 2), x, y, 60)
    else: model = learned(small_cnn(classes, channels, width=4), x, y)
    r = masking_report(model, x, y, .1, **QUICK | dict(steps=4, queries=20))
    assert not r.failed, str(r)
    assert r.stands['clean'].float().mean() > .6, 'it has learned something, or there would be nothing to examine'
    assert ('dlr' in ''.join(r.table.measured)) == (classes > 2)


def test_averaged_is_the_mean_of_logits_and_gradients(setup):
    model, x, _ = setup
    assert torch.allclose(averaged(model, 5)(x), model(x), atol=1e-5)
    noisy = averaged(Noisy(model), 64)
    torch.manual_seed(0); a = noisy(x[:8])
    torch.manual_seed(1); b = noisy(x[:8])
    torch.manual_seed(2); one = Noisy(model)(x[:8])
    assert (a - b).abs().mean() < .5*(one - b).abs().mean(), 'a mean over 64 varies less than one draw'


def test_straight_through():
    x = torch.rand(2, 1, 4, 4, requires_grad=True)
    z = straight_through(lambda v: (v > .5).float())(x)
    g, = torch.autograd.grad((z*torch.arange(16.).view(4, 4)).sum(), x)
    assert torch.allclose(z, (x > .5).float(), atol=1e-6) and torch.equal(g, torch.arange(16.).view(4, 4).expand(2, 1, 4, 4))


def test_report_is_whole_and_says_what_was_measured(setup, tmp_path):
    model, x, y = setup
    r = robustness_report(model, x, y, .2, out=tmp_path/'r', name='<b>net</b> & co', classes=['<a>', 'b', 'c', 'd'], pictures=2, **QUICK)
    assert sorted(p.name for p in tmp_path.rglob('*')) == ['r', 'records.json', 'report.html']
    page, records = (tmp_path/'r'/'report.html').read_text(), json.loads((tmp_path/'r'/'records.json').read_text())
    assert records == json.loads(json.dumps(r.records)) and '<b>net</b>' not in page and '&lt;b&gt;net' in page and '<a>' not in page
    assert not re.search(r'(src|href)="(?!data:)', page), 'the page needs no other file'
    assert page.count('<img ') == sum(map(len, r.examples.values())) == page.count('alt="') and all(len(e) <= 2 for e in r.examples.values())
    assert 'data:image/png' in page and r.masking.verdict.split(';')[0][:40] in page
    rows = {a['attack']: a for a in records['attacks']}
    with torch.no_grad(): right = model(x).argmax(1) == y
    assert torch.equal(r.stands[f"PGD-{QUICK['steps']}"], r.masking.stands['PGD']), 'what the checks have attacked is not attacked again'
    assert rows['clean']['standing'] == int(right.sum())
    assert all(a['low'] <= a['accuracy'] <= a['high'] for a in rows.values())
    assert rows['with the attacks of the checks']['accuracy'] <= rows['all of these']['accuracy'] <= min(a['accuracy'] for k, a in rows.items() if k not in ('all of these', 'with the attacks of the checks'))
    assert sum(c['images'] for c in records['classes']) == len(y)
    assert math.isclose(sum(c['images']*c['robust'] for c in records['classes'])/len(y), rows['with the attacks of the checks']['accuracy'])
    assert records['threat']['norm'] == 'linf' and records['settings']['seed'] == 0 and torch.__version__.startswith(records['machine']['torch'])
    for e in (e for es in r.examples.values() for e in es): assert e['before'][0] == e['label'] != e['after'][0] and e['largest'] <= .2 + 1e-6


def test_report_with_attacks_of_ones_own_colour_and_a_random_network(tmp_path):
    torch.manual_seed(0)
    x, y = stripes(40, 4, 3)
    model = Noisy(learned(small_cnn(4, 3, width=4), x, y))
    r = robustness_report(model, x, y, .05, attacks={'mine': lambda m, x, y: pgd(m, x, y, .05, steps=2)}, out=tmp_path/'r', **QUICK)
    assert [a['attack'] for a in r.records['attacks']] == ['clean', 'mine', 'all of these', 'with the attacks of the checks'] and 'mean over 3 draws' in r.records['settings']['judged']
    blind = robustness_report(Blind(model.model), x, y, .05, out=tmp_path/'b', **QUICK)
    assert 'Square' in blind.stands and 'answers alone' in blind.records['threat']['the attacker knows']


def test_a_report_that_fails_leaves_nothing(setup, tmp_path):
    model, x, y = setup
    def broken(m, x, y): raise ZeroDivisionError
    with pytest.raises(ZeroDivisionError): robustness_report(model, x, y, .05, attacks={'broken': broken}, out=tmp_path/'r', **QUICK)
    assert not list(tmp_path.iterdir())


BAD = {
    'range': (lambda m, x, y, t: masking_report(m, 2*x - 1, y, .1), ['[0, 1]', 'normalisation']),
    'probabilities': (lambda m, x, y, t: masking_report(nn.Sequential(m, nn.Softmax(1)), x, y, .1), ['probabilities', 'logits']),
    'labels': (lambda m, x, y, t: masking_report(m, x, y + 1, .1), ['1 to 4', '4 outputs']),
    'labels of a blind one': (lambda m, x, y, t: masking_report(Blind(m), x, y + 1, .1), ['1 to 4', '4 outputs']),
    'one image': (lambda m, x, y, t: masking_report(m, x[0], y[:1], .1), ['x[None]']),
    'bytes': (lambda m, x, y, t: masking_report(m, (255*x).byte(), y, .1), ['uint8']),
    'eps': (lambda m, x, y, t: masking_report(m, x, y, 0.), ['eps=0.0']),
    'norm': (lambda m, x, y, t: masking_report(m, x, y, .1, 'l7'), ["'l7'"]),
    'steps': (lambda m, x, y, t: masking_report(m, x, y, .1, steps=1), ['steps=1', 'at least 4']),
    'all wrong': (lambda m, x, y, t: masking_report(m, x, (m(x).argmax(1) + 1) % 4, .1), ['None of the 120', 'labels']),
    'samples': (lambda m, x, y, t: averaged(m, 0), ['samples=0']),
    'full folder': (lambda m, x, y, t: ((t/'r').mkdir(), (t/'r'/'a').write_text('a'), robustness_report(m, x, y, .1, out=t/'r')), ['not empty', 'out=']),
    'no attacks': (lambda m, x, y, t: robustness_report(m, x, y, .1, attacks={}, out=t/'r'), ['attacks']),
    'names': (lambda m, x, y, t: robustness_report(m, x, y, .1, classes=['a'], out=t/'r', **QUICK), ['1 names', '4 outputs']),
    'equal': (lambda m, x, y, t: images_needed(.9, .9), ['different']),
    'differ': (lambda m, x, y, t: images_needed(.8, .9, differ=.05), ['differ=0.05', '0.1']),
    'per cent': (lambda m, x, y, t: images_needed(80, 90), ['p=80', '0 to 1']),
    'differ per cent': (lambda m, x, y, t: images_needed(.8, .9, differ=12), ['differ=12', '0 to 1']),
    'power': (lambda m, x, y, t: images_needed(.8, .9, power=1.), ['power=1.0']),
    'not booleans': (lambda m, x, y, t: paired_difference(y, y), ['int64', 'booleans']),
    'shape': (lambda m, x, y, t: straight_through(lambda v: v[:, :, :8])(x), ['shape']),
}


@pytest.mark.parametrize('name', BAD)
def test_bad_input(setup, name, tmp_path):
    call, words = BAD[name]
    with refused(words): call(*setup, tmp_path)
    assert not list(tmp_path.rglob('report.html'))


def test_on_another_device():
    from visft_nb.robust.bench import vanishing
    with fake_cuda():
        model, x, y = small_cnn(width=4), torch.rand(6, 1, 16, 16), torch.zeros(6, dtype=torch.long)
        assert all(v.device.type == 'cuda' for v in vanishing(model, x, y, 4))
        assert averaged(model, 2)(x).device.type == 'cuda' and straight_through(torch.round)(x).device.type == 'cuda'
