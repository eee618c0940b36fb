"Transformers: the same function under other names, the same steps, the same files; what cannot be carried over is refused."
import pytest
import torch
from torch import nn

from fake_cuda import fake_cuda
from helpers import fake_step, refused
from visft_nb.cnn.models import resnet18, resnet50, small_cnn, vit_tiny
from visft_nb.core import InputError
from visft_nb.data import Augment, Batches, Images
from visft_nb.train import evaluate, fit

tf = pytest.importorskip('transformers', reason='the extra `course` is not installed')
from visft_nb.finetune.hub import InOrder, PixelClassifier, from_hub, from_transformers, hub_names, image_processor, to_transformers  # noqa: E402

pytestmark = pytest.mark.filterwarnings('ignore')


def vit(classes=3, **kw): return vit_tiny(classes, 1, 16, 4, 24, 2, 3, **kw)
MAKERS = {'vit': (vit, (2, 1, 16, 16)), 'resnet18': (lambda **kw: resnet18(3, width=8, **kw), (2, 3, 48, 48)), 'resnet50': (lambda **kw: resnet50(3, width=8, **kw), (2, 3, 48, 48))}


@pytest.mark.parametrize('name', MAKERS)
@pytest.mark.parametrize('dtype,tolerance', [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_same_logits_there_and_back(name, dtype, tolerance):
    make, shape = MAKERS[name]
    torch.manual_seed(0)
    ours = make(mean=.3, std=.2).to(dtype)
    ours.train()(torch.rand(8, *shape[1:], dtype=dtype))     # batch norm away from its start
    x = torch.rand(*shape, dtype=dtype)
    ours.eval()
    theirs = to_transformers(ours)
    back = from_transformers(theirs, .3, .2)
    with torch.no_grad():
        assert (theirs(pixel_values=ours.normalise(x)).logits - ours(x)).abs().max() <= tolerance
        assert (back(x) - ours(x)).abs().max() <= tolerance
    assert not theirs.training and not back.training and next(theirs.parameters()).dtype == dtype


def test_weights_are_copies_and_nothing_outside_moves():
    ours = vit().train()
    state, rng = {k: v.clone() for k, v in ours.state_dict().items()}, torch.get_rng_state()
    theirs = to_transformers(ours, classes=('a', 'b', 'c'))
    assert torch.equal(rng, torch.get_rng_state()) and theirs.training and theirs.config.id2label == {0: 'a', 1: 'b', 2: 'c'}
    with torch.no_grad():
        for p in theirs.parameters(): p.zero_()
    assert all(torch.equal(v, state[k]) for k, v in ours.state_dict().items())
    assert all(p.requires_grad for p in theirs.parameters())


def test_every_tensor_has_a_name_of_its_own():
    for make, _ in MAKERS.values():
        names = [n for v in hub_names(make()).values() for n in (v if isinstance(v, tuple) else (v,))]
        assert len(names) == len(set(names))


def test_queries_keys_and_values_are_not_mixed_up():
    ours = vit()
    with torch.no_grad():
        for i, part in enumerate(ours.blocks[0].attn.qkv.weight.chunk(3)): part.fill_(i)
    attention = to_transformers(ours).vit.layers[0].attention
    assert [m.weight.unique().tolist() for m in (attention.q_proj, attention.k_proj, attention.v_proj)] == [[0], [1], [2]]


def test_a_config_of_theirs_with_another_epsilon():
    config = tf.ViTConfig(hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=96, image_size=16, patch_size=4, num_channels=1, num_labels=3, layer_norm_eps=1e-2)
    theirs = tf.ViTForImageClassification(config).double().eval()
    x = torch.rand(2, 1, 16, 16, dtype=torch.float64)
    with torch.no_grad(): assert (from_transformers(theirs)(x) - theirs(pixel_values=x).logits).abs().max() < 1e-12


@pytest.mark.parametrize('channels', [1, 3])
def test_processor_is_our_normalisation(channels):
    ours = vit_tiny(3, channels, 16, 4, 24, 1, 3, mean=.4, std=.25)
    x = torch.randint(0, 256, (4, channels, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(image_processor(ours, 16)(list(x), return_tensors='pt')['pixel_values'], ours.normalise(x.float()/255), atol=1e-6)


def images(n=30, classes=3):
    x = torch.randint(0, 90, (n, 1, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    y = torch.arange(n) % classes
    for i in range(n): x[i, :, 4*int(y[i]):4*int(y[i]) + 4] += 120
    return Images(x, y, tuple(map(str, range(classes))))


@pytest.mark.peer
@pytest.mark.parametrize('augment', [None, Augment(degrees=10, noise=.05)])
def test_trainer_takes_the_steps_of_fit(tmp_path, augment):
    torch.manual_seed(0)
    start, epochs = vit(mean=.4, std=.25), 3
    make = lambda: Batches(images(), 10, seed=1, transform=augment, device='cpu')
    arguments = tf.TrainingArguments(str(tmp_path), per_device_train_batch_size=10, num_train_epochs=1, learning_rate=2e-3, train_sampling_strategy='sequential', logging_steps=1,
                                     save_strategy='no', disable_tqdm=True, use_cpu=True, report_to='none')
    theirs = to_transformers(start)
    trainer = tf.Trainer(theirs, arguments, train_dataset=InOrder(make(), epochs, start.normalise))
    trainer.train()
    history = fit(start, make(), epochs=epochs, lr=2e-3, weight_decay=0, schedule=lambda step, total: 1 - step/total, clip=1., precision='fp32', bar=False)
    losses = [r['loss'] for r in trainer.state.log_history if 'loss' in r]
    assert len(losses) == len(history.steps) == 9
    assert max(abs(a - r['loss']) for a, r in zip(losses, history.steps)) < 1e-4
    assert abs(evaluate(start, images()) - evaluate(PixelClassifier(theirs, .4, .25), images())) < .04


def test_in_order_gives_what_the_batches_give():
    batches = Batches(images(), 10, seed=3, transform=Augment(noise=.1), device='cpu')
    rows = InOrder(batches, 2)
    assert len(rows) == 60
    for epoch in range(2):
        batches.epoch = epoch
        for k, (x, y) in enumerate(batches):
            got = [rows[epoch*30 + k*10 + i] for i in range(10)]
            assert torch.equal(torch.stack([r['pixel_values'] for r in got]), x) and [int(r['labels']) for r in got] == y.tolist()


def test_fit_trains_a_model_of_theirs():
    torch.manual_seed(0)
    model = PixelClassifier(to_transformers(vit()), .5, .5)
    history = fit(model, Batches(images(), 10), epochs=20, lr=3e-3, precision='fp32', bar=False)
    assert history.epochs[-1]['loss'] < history.steps[0]['loss']


def test_a_saved_folder_comes_back(tmp_path):
    torch.manual_seed(0)
    ours = vit(mean=.4, std=.25).eval()
    to_transformers(ours, ('x', 'y', 'z')).save_pretrained(tmp_path); image_processor(ours, 16).save_pretrained(tmp_path)
    loaded = from_hub(tmp_path)
    x = torch.rand(3, 1, 16, 16)
    with torch.no_grad(): assert torch.allclose(loaded(x), ours(x), atol=1e-5) and loaded(torch.rand(2, 1, 40, 40)).shape == (2, 3)
    assert not loaded.training and loaded.model.config.id2label[2] == 'z'
    other = from_hub(str(tmp_path), classes=['p', 'q'])
    with torch.no_grad(): assert other(x).shape == (3, 2)
    assert torch.equal(other.model.vit.embeddings.cls_token, loaded.model.vit.embeddings.cls_token)


def without_qkv_bias():
    return tf.ViTForImageClassification(tf.ViTConfig(hidden_size=24, num_hidden_layers=1, num_attention_heads=3, intermediate_size=96, image_size=16, patch_size=4, qkv_bias=False))


BAD = {
    'no counterpart': (lambda: to_transformers(small_cnn(width=4)), ['SmallCNN', 'VisionTransformer']),
    'cifar stem': (lambda: to_transformers(resnet18(2, stem='cifar', width=4)), ['stem']),
    'names': (lambda: to_transformers(vit(), classes=('a',)), ['1 names', '3 outputs']),
    'other model': (lambda: from_transformers(nn.Linear(2, 2)), ['Linear', 'PixelClassifier']),
    'other options': (without_qkv_bias, ['qkv_bias']),
    'rest': (lambda: InOrder(Batches(images(25), 10), 2), ['25', 'drop_last']),
    'not there': (lambda: from_hub('nobody/no-such-model', offline=True), ['nobody/no-such-model', 'from_config']),
    'no name': (lambda: from_hub('not a name', offline=True), ['not a name']),
}


@pytest.mark.parametrize('name', BAD)
def test_bad_input(name):
    call, words = BAD[name]
    with refused(words):
        made = call()
        from_transformers(made)


def test_a_folder_that_is_no_model(tmp_path):
    (tmp_path/'config.json').write_text('{}')
    with pytest.raises(InputError, match='cannot be had'): from_hub(tmp_path)


def test_without_transformers(monkeypatch):
    monkeypatch.setattr('visft_nb.finetune.hub_architectures.find_spec', lambda name: None)
    with pytest.raises(InputError, match='pip install'): to_transformers(vit())


def test_on_another_device():
    model = to_transformers(vit())
    with fake_cuda():
        model = PixelClassifier(type(model)(model.config), .5, .5)
        fake_step(model, (torch.rand(4, 1, 16, 16), torch.zeros(4, dtype=torch.long)))
