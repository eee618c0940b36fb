"LoRA in peft's files, both ways, held against peft itself; and what must be refused."
import json
from copy import deepcopy

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from visft_nb.cnn.models import small_cnn, vit_tiny
from visft_nb.core import InputError
from visft_nb.finetune import apply_lora, load_delta, load_peft, remove_delta, save_delta, save_peft
from visft_nb.finetune.lora import LoRALayer


def shaken(model, x, seed=0):
    "A delta that is not nothing: updates, head and statistics have moved."
    g = torch.Generator().manual_seed(seed)
    for m in model.modules():
        if isinstance(m, LoRALayer): nn.init.normal_(m.B.weight, std=.1, generator=g)
    with torch.no_grad(): model.train()(x)
    model.head.weight.data += .1*torch.randn(model.head.weight.shape, generator=g)
    return model.eval()


@pytest.fixture
def nets():
    torch.manual_seed(0)
    return [(small_cnn(3, width=8).eval(), torch.rand(4, 1, 28, 28), None),
            (vit_tiny(size=28, patch=7, channels=1, classes=3, dim=24, depth=1, heads=2).eval(), torch.rand(4, 1, 28, 28), ['qkv', 'proj'])]


@pytest.mark.peer
def test_peft_reads_what_is_written_here(nets, tmp_path):
    peft = pytest.importorskip('peft')
    for i, (base, x, targets) in enumerate(nets):
        ours = shaken(apply_lora(deepcopy(base), 2, 6, targets), x)
        save_peft(ours, tmp_path/str(i), base='mine')
        theirs = peft.PeftModel.from_pretrained(deepcopy(base), str(tmp_path/str(i))).eval()
        a, b = ours(x), theirs(x)
        assert not torch.allclose(a, base(x), atol=1e-3) and (a - b).abs().max() <= 1e-5*max(1, b.abs().max())


@pytest.mark.peer
@pytest.mark.parametrize('rslora', [False, True])
def test_what_peft_writes_is_read_here(nets, tmp_path, rslora):
    peft = pytest.importorskip('peft')
    for i, (base, x, targets) in enumerate(nets):
        targets = targets or [n for n, m in base.named_modules() if isinstance(m, nn.Conv2d)]
        config = peft.LoraConfig(r=2, lora_alpha=6, target_modules=targets, modules_to_save=['head'], use_rslora=rslora)
        theirs = peft.get_peft_model(deepcopy(base), config).eval()
        g = torch.Generator().manual_seed(1)
        for _, p in theirs.named_parameters():
            if p.requires_grad: p.data = .1*torch.randn(p.shape, generator=g)
        theirs.save_pretrained(str(tmp_path/str(i)))
        ours = load_peft(deepcopy(base), tmp_path/str(i)).eval()
        a, b = ours(x), theirs(x)
        assert not torch.allclose(a, base(x), atol=1e-3) and (a - b).abs().max() <= 1e-5*max(1, b.abs().max())
        save_delta(ours, tmp_path/f'{i}.safetensors')
        assert torch.equal(load_delta(deepcopy(base), tmp_path/f'{i}.safetensors').eval()(x), a)
        assert torch.equal(remove_delta(ours).eval()(x), base(x))


def test_a_head_of_another_size_comes_along(nets, tmp_path):
    base, x, _ = nets[0]
    wide = deepcopy(base)
    wide.head = nn.Linear(base.head.in_features, 7)
    ours = shaken(apply_lora(wide, 2), x)
    save_peft(ours, tmp_path)
    assert torch.equal(load_peft(deepcopy(base), tmp_path).eval()(x), ours(x))


def change(folder, **config):
    c = json.loads((folder/'adapter_config.json').read_text())
    (folder/'adapter_config.json').write_text(json.dumps(c | config))

def tensors(folder, act):
    t = load_file(folder/'adapter_model.safetensors')
    save_file(act(t), folder/'adapter_model.safetensors')

WRONG = {
    'no folder': (lambda f: [p.unlink() for p in f.iterdir()], 'There is no'),
    'no JSON': (lambda f: (f/'adapter_config.json').write_text('{"r": '), 'no JSON'),
    'a list': (lambda f: (f/'adapter_config.json').write_text('[1]'), 'LORA was expected'),
    'deep': (lambda f: (f/'adapter_config.json').write_text('['*100_000), 'no JSON'),
    'another method': (lambda f: change(f, peft_type='IA3'), 'LORA was expected'),
    'DoRA': (lambda f: change(f, use_dora=True), 'use_dora'),
    'biases': (lambda f: change(f, bias='all'), 'bias'),
    'ranks of their own': (lambda f: change(f, rank_pattern={'a': 4}), 'rank_pattern'),
    'a base that was changed': (lambda f: change(f, init_lora_weights='pissa'), 'changes the weights of the base'),
    'rank 0': (lambda f: change(f, r=0), 'r in'),
    'a rank that does not fit': (lambda f: change(f, r=3), 'does not fit'),
    'a text for a number': (lambda f: change(f, lora_alpha='6'), 'lora_alpha'),
    'NaN': (lambda f: tensors(f, lambda t: {k: v*float('nan') for k, v in t.items()}), 'NaN'),
    'foreign names': (lambda f: tensors(f, lambda t: {k.removeprefix('base_model.'): v for k, v in t.items()}), 'base_model.model.'),
    'another base': (lambda f: tensors(f, lambda t: {k.replace('.body', '.trunk').replace('.blocks', '.trunk').replace('stages', 'trunk').replace('.stem', '.trunk').replace('.layers', '.trunk'): v for k, v in t.items()}), 'another base'),
    'no update': (lambda f: tensors(f, lambda t: {k: v for k, v in t.items() if 'lora_' not in k}), 'no update'),
    'half an update': (lambda f: tensors(f, lambda t: {k: v for k, v in t.items() if 'lora_B' not in k}), 'does not fit'),
    'no safetensors': (lambda f: (f/'adapter_model.safetensors').write_bytes(b'x'*100), 'adapter_model'),
}

@pytest.mark.parametrize('what', WRONG)
def test_what_is_no_plain_lora_is_refused_and_the_model_stays(nets, tmp_path, what):
    base, x, _ = nets[0]
    save_peft(shaken(apply_lora(deepcopy(base), 2), x), tmp_path)
    act, word = WRONG[what]
    act(tmp_path)
    net = deepcopy(base)
    with pytest.raises(InputError, match=word): load_peft(net, tmp_path)
    assert torch.equal(net.eval()(x), base(x)) and not hasattr(net, '_delta')


def test_a_layer_trained_in_full_is_refused(nets, tmp_path):
    base, x, _ = nets[0]
    save_peft(shaken(apply_lora(deepcopy(base), 2), x), tmp_path)
    name = next(n for n, m in base.named_modules() if isinstance(m, nn.BatchNorm2d))
    tensors(tmp_path, lambda t: t | {f'base_model.model.{name}.weight': t[f'base_model.model.{name}.weight'] + 1})
    with pytest.raises(InputError, match='trained in full'): load_peft(deepcopy(base), tmp_path)


def test_only_lora_across_groups_is_written(tmp_path):
    from visft_nb.finetune import apply_bitfit
    with pytest.raises(InputError, match='bitfit'): save_peft(apply_bitfit(small_cnn(3, width=8)), tmp_path)
    net = nn.Sequential(nn.Conv2d(4, 8, 3, groups=2), nn.Conv2d(8, 8, 1))
    with pytest.raises(InputError, match='within the groups'): save_peft(apply_lora(net, 2, targets=['0'], across=False), tmp_path)
