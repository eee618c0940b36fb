"Codes and their prior: gradients and codes against vector-quantize-pytorch, k-means against scikit-learn, sampling with and without cache, bad input."
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fake_cuda import fake_cuda
from helpers import fake_step, sentence
from visft_nb.data import Images
from visft_nb.deploy import load_model, save_model
from visft_nb.generate import (CausalTransformer, NextToken, VQVAE, VectorQuantizer, encode_all, fit_codes, kmeans, nearest_codes, perplexity, sample_logits)
from visft_nb.train import fit

pytestmark = pytest.mark.filterwarnings('ignore')


def gen(seed=0): return torch.Generator().manual_seed(seed)


def quantizer(seed=0, **kw):
    torch.manual_seed(seed)
    return VectorQuantizer(**dict(codes=7, dim=3) | kw)


def vectors(seed=1, n=4): return torch.randn(n, 3, 2, 5, generator=gen(seed)).requires_grad_()


def pictures(n=48, channels=1, side=16):
    x = torch.randint(0, 60, (n, channels, side, side), generator=gen(), dtype=torch.uint8)
    for i in range(n): x[i, :, 4*(i % 3):4*(i % 3) + 4] += 150
    return Images(x)


def small(**kw):
    torch.manual_seed(0)
    return VQVAE(**dict(channels=1, size=16, codes=8, dim=4, width=4) | kw)


# ---- the codebook

@pytest.mark.parametrize('decay', [None, .99])
def test_gradients_go_where_they_should(decay):
    q, z = quantizer(decay=decay, restart=None).eval(), vectors()
    out = q(z)
    up = torch.randn(out.vectors.shape, generator=gen(2))
    by_decoder = torch.autograd.grad((out.vectors*up).sum(), z, retain_graph=True)[0]
    assert torch.equal(by_decoder, up), 'the encoder gets exactly the gradient of the decoder'
    by_loss = torch.autograd.grad(out.loss, z, retain_graph=True)[0]
    e = q.lookup(out.indices)
    assert torch.allclose(by_loss, .25*2*(z - e)/z.numel(), atol=1e-8), 'commitment alone reaches the encoder'
    assert torch.allclose(out.vectors, e, atol=1e-6)
    if decay is None:
        got = torch.autograd.grad(out.loss, q.codebook, retain_graph=True)[0]
        flat, i = z.detach().movedim(1, -1).reshape(-1, 3), out.indices.flatten()
        want = torch.zeros_like(got).index_add_(0, i, 2*(q.codebook.detach()[i] - flat)/z.numel())
        assert torch.allclose(got, want, atol=1e-7)
        assert torch.autograd.grad((out.vectors*up).sum(), q.codebook, allow_unused=True)[0] is None, 'the decoder says nothing to the codes'
    else: assert 'codebook' in dict(q.named_buffers()) and not list(q.parameters())


@pytest.mark.peer
@pytest.mark.parametrize('decay', [None, .9])
def test_codes_losses_and_gradients_are_those_of_the_peer(decay):
    from vector_quantize_pytorch import VectorQuantize
    ours = quantizer(decay=decay, restart=None)
    how = dict(learnable_codebook=True, ema_update=False) if decay is None else dict(decay=decay)
    peer = VectorQuantize(dim=3, codebook_size=7, commitment_weight=1., rotation_trick=False, accept_image_fmap=True, sync_codebook=False, **how)
    book = peer._codebook
    with torch.no_grad():
        book.embed.copy_(ours.codebook[None])
        if decay is not None: book.embed_avg.copy_(ours.codebook[None]); book.cluster_size.fill_(1.)
    for step in range(3):
        z = vectors(step + 1, 40); y = z.detach().clone().requires_grad_()
        a = ours(z)
        vectors_b, indices_b, loss_b = peer(y)
        assert torch.equal(a.indices, indices_b) and torch.allclose(a.vectors, vectors_b, atol=1e-5)
        grads = [torch.autograd.grad((v*torch.arange(30.).view(3, 2, 5)).sum() + w, u, retain_graph=True)[0]
                 for v, w, u in ((a.vectors, 0, z), (vectors_b, 0, y))]
        assert torch.allclose(*grads)
        if decay is None:
            ours.beta = 1.
            a = ours(z)
            assert torch.allclose(a.loss, 2*loss_b.squeeze(), rtol=1e-5) or torch.allclose(a.loss, loss_b.squeeze(), rtol=1e-5)
        else:
            assert torch.allclose(a.loss/ours.beta, loss_b.squeeze(), rtol=1e-5)
            assert torch.allclose(ours.sizes, book.cluster_size[0], rtol=1e-5) and torch.allclose(ours.sums, book.embed_avg[0], rtol=1e-4, atol=1e-5)
            assert torch.allclose(ours.codebook, book.embed[0], rtol=1e-3, atol=1e-3)


def test_moving_averages_by_hand_and_not_before_quantising():
    q, z = quantizer(decay=.9, restart=None), vectors().detach()
    before = q.codebook.clone()
    out = q(z)
    flat, i = z.movedim(1, -1).reshape(-1, 3), out.indices.flatten()
    assert torch.allclose(out.vectors, before[out.indices].movedim(-1, 1), atol=1e-6), 'vectors are those of the codes that were there'
    for k in range(7):
        mine = flat[i == k]
        want = (.9*before[k] + .1*mine.sum(0))/(.9 + .1*len(mine))
        assert torch.allclose(q.codebook[k], want, atol=1e-5)
    held = {k: v.clone() for k, v in q.state_dict().items()}
    q.eval()(z)
    assert all(torch.equal(v, held[k]) for k, v in q.state_dict().items()), 'in eval mode nothing moves'


@pytest.mark.parametrize('decay', [None, .9])
def test_codes_that_none_chooses_come_back(decay):
    q = quantizer(decay=decay, restart=3)
    with torch.no_grad(): q.codebook[3:] = 100.; q.sums[3:] = 100.
    far = lambda: int((q.codebook.abs().amax(1) > 50).sum())
    for step in range(3):
        assert far() == 4
        q(vectors(step))
    assert far() == 0 and (q.idle < 3).all()
    q = quantizer(decay=decay, restart=None)
    with torch.no_grad(): q.codebook[3:] = 100.; q.sums[3:] = 100.
    for step in range(5): q(vectors(step))
    assert int((q.codebook.abs().amax(1) > 50).sum()) == 4


def test_kmeans_is_that_of_scikit_learn():
    from sklearn.cluster import KMeans
    z = torch.cat([10*c + torch.randn(60, 3, generator=gen(1)) for c in torch.randn(5, 3, generator=gen())]).double()
    begin, end = (kmeans(z, 5, steps, gen()) for steps in (0, 50))
    peer = KMeans(5, init=begin.numpy(), n_init=1, max_iter=50, tol=0, algorithm='lloyd').fit(z.numpy())
    assert torch.allclose(end, torch.from_numpy(peer.cluster_centers_), atol=1e-9)
    z = z.float()
    q = VectorQuantizer(5, 3); q.start(z[:, :, None], gen())
    assert torch.isclose(q.sizes.sum(), torch.tensor(300.)) and torch.allclose(q.sums/q.sizes[:, None], q.codebook, atol=1e-4)


def test_nearest_codes_are_those_of_cdist():
    z, e = torch.randn(200, 6, generator=gen()), torch.randn(30, 6, generator=gen(1))
    assert torch.equal(nearest_codes(z.double(), e.double()), torch.cdist(z.double(), e.double()).argmin(1))


def test_distances_are_not_taken_in_bf16():
    q, z = quantizer(codes=200).eval(), torch.randn(50, 3, 8, 8, generator=gen())
    with torch.autocast('cpu', torch.bfloat16): inside = q(z)
    assert torch.equal(inside.indices, q(z).indices) and inside.loss.dtype == torch.float32


def test_perplexity():
    assert perplexity(torch.arange(8).repeat(3), 8) == pytest.approx(8)
    assert perplexity(torch.zeros(5, 2, dtype=torch.long), 8) == pytest.approx(1)
    p = torch.tensor([.5, .25, .25])
    assert perplexity(torch.tensor([0, 0, 1, 2]), 9) == pytest.approx(math.exp(-(p*p.log()).sum()))


# ---- the autoencoder

@pytest.mark.parametrize('size,factor,grid', [(28, 4, (7, 7)), (28, 8, (4, 4)), (32, 8, (4, 4)), (32, 4, (8, 8)), ((20, 30), 2, (10, 15)), (9, 1, (9, 9))])
@pytest.mark.parametrize('channels', [1, 3])
def test_sizes(size, factor, grid, channels):
    model, (h, w) = small(channels=channels, size=size, factor=factor).eval(), (size, size) if isinstance(size, int) else size
    x = torch.rand(2, channels, h, w, generator=gen())
    codes = model.encode(x)
    assert codes.shape == (2, *grid) == (2, *model.grid) and model(x).shape == x.shape
    assert torch.allclose(model.decode(codes), model(x), atol=1e-5), 'decoding the numbers gives the reconstruction'
    model.train().loss(x).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize('options', [{}, {'decay': None}, {'sigma': .3}])
def test_training_lowers_the_loss_and_repeats_itself(options):
    data, runs = pictures(), []
    for _ in range(2):
        model = small(**options)
        h = fit_codes(model, data, epochs=6, batch_size=16, lr=1e-2, bar=False, precision='fp32')
        runs.append(torch.cat([v.double().flatten() for v in model.state_dict().values()]))
    assert h.epochs[-1]['loss'] < h.epochs[0]['loss'] and torch.equal(*runs)
    codes = encode_all(model, data, 10)
    assert codes.shape == (48, 4, 4) and torch.equal(codes, encode_all(model, data.floats(), 48))
    assert perplexity(codes, 8) > 1.5


def test_it_is_saved_and_loaded(tmp_path):
    model = small(channels=3, size=(16, 24)).eval()
    x = torch.rand(2, 3, 16, 24, generator=gen())
    save_model(model, tmp_path/'codes.safetensors')
    again = load_model(tmp_path/'codes.safetensors', 'cpu')
    assert isinstance(again, VQVAE) and torch.equal(again.encode(x), model.encode(x)) and torch.equal(again(x), model(x))


def test_a_step_on_a_gpu_that_is_not_there():
    with fake_cuda():
        model = small().cuda()
        fake_step(model, (torch.rand(4, 1, 16, 16, device='cuda'), None), lambda m, b: m.loss(b[0]))


# ---- the prior

def prior(**kw):
    torch.manual_seed(0)
    return CausalTransformer(**dict(vocab=9, length=10, dim=16, depth=2, heads=2) | kw)


def rows(n=3, t=10): return torch.randint(0, 9, (n, t), generator=gen())


def test_nothing_is_known_of_what_comes_after():
    model, tokens = prior().double(), rows()
    whole = model(tokens)
    for t in range(1, 10):
        other = tokens.clone(); other[:, t:] = (other[:, t:] + 1) % 9
        assert torch.equal(model(other)[:, :t], whole[:, :t]) and not torch.equal(model(other)[:, t], whole[:, t])


def test_attention_is_that_of_a_transformer_layer_of_torch():
    model = prior(depth=1).double().eval()
    block = model.blocks[0]
    peer = nn.TransformerEncoderLayer(16, 2, 64, 0., 'gelu', batch_first=True, norm_first=True).double().eval()
    with torch.no_grad():
        for a, b in ((peer.self_attn.in_proj_weight, block.qkv.weight), (peer.self_attn.in_proj_bias, block.qkv.bias), (peer.self_attn.out_proj.weight, block.out.weight), (peer.self_attn.out_proj.bias, block.out.bias),
                     (peer.linear1.weight, block.mlp[0].weight), (peer.linear1.bias, block.mlp[0].bias), (peer.linear2.weight, block.mlp[2].weight), (peer.linear2.bias, block.mlp[2].bias)): a.copy_(b)
    x = torch.randn(2, 6, 16, dtype=torch.float64, generator=gen())
    assert torch.allclose(block(x), peer(x, nn.Transformer.generate_square_subsequent_mask(6, dtype=torch.float64), is_causal=True), atol=1e-12)


@pytest.mark.parametrize('parts', [[10], [1]*10, [3, 7], [2, 3, 1, 4]])
def test_reading_in_parts_with_the_cache_is_reading_at_once(parts):
    model, tokens = prior().double(), rows()
    cache = model.new_cache(3)
    assert torch.allclose(torch.cat([model(t, cache) for t in tokens.split(parts, 1)], 1), model(tokens), atol=1e-12)


@pytest.mark.parametrize('how', [{}, {'top_k': 3}, {'temperature': 0}, {'guidance': 2., 'null': torch.zeros(1, 2, dtype=torch.long)}, {'length': 7}, {'adjust': lambda z, t: z + t*torch.arange(9)}])
def test_cached_sampling_is_uncached_sampling(how):
    model = prior().double()
    draws = [model.generate(rows()[:, :2], generator=gen(5), cached=c, **how) for c in (True, False)]
    assert torch.equal(*draws) and draws[0].shape == (3, how.get('length', 10)) and torch.equal(draws[0][:, :2], rows()[:, :2])
    assert model.training


def test_sampling_follows_the_probabilities():
    p = torch.tensor([.5, 0., .3, .2])
    share = lambda **kw: sample_logits(p.log().repeat(40_000, 1), generator=gen(), **kw).bincount(minlength=4)/40_000
    for got, want in ((share(), p), (share(top_k=2), torch.tensor([.625, 0, .375, 0])), (share(temperature=.5), p**2/(p**2).sum()), (share(temperature=0), torch.tensor([1., 0, 0, 0]))):
        assert (got - want).abs().max() < .012 and got[1] == 0


def test_forbidden_tokens_are_neither_drawn_nor_learned():
    model, allowed = prior(), torch.zeros(10, 9, dtype=torch.bool)
    allowed[:4, :5] = True; allowed[4:, 5:] = True
    drawn = model.generate(torch.zeros(50, 1, dtype=torch.long), allowed=allowed, generator=gen())
    assert (drawn[:, :4] < 5).all() and (drawn[:, 4:] >= 5).all()
    nll = model.nll(drawn, allowed)
    assert nll.shape == (50, 9) and nll.dtype == torch.float32 and (nll < model.nll(drawn)).all()
    loss = NextToken(weights=torch.tensor([1.]*4 + [7.]*6), allowed=allowed)(model, [drawn])
    assert torch.isclose(loss, (nll[:, :3].sum() + 7*nll[:, 3:].sum())/(50*(3 + 42)), rtol=1e-5)


def test_a_rule_is_learned():
    torch.manual_seed(0)
    tokens = (torch.arange(10) + torch.randint(0, 9, (64, 1), generator=gen())) % 9
    model = prior()
    fit(model, [tokens]*60, epochs=1, loss=NextToken(), lr=1e-2, bar=False, precision='fp32')
    assert model.nll(tokens).mean() < .1 and torch.equal(model.generate(tokens[:, :1], temperature=0), tokens)


def test_a_prior_steps_on_a_gpu_that_is_not_there():
    with fake_cuda():
        fake_step(prior().cuda(), torch.zeros(4, 10, dtype=torch.long, device='cuda'), NextToken().cuda())


def test_the_prior_is_saved_and_loaded(tmp_path):
    model = prior().eval()
    save_model(model, tmp_path/'prior.safetensors')
    again = load_model(tmp_path/'prior.safetensors', 'cpu')
    assert torch.equal(again(rows()), model(rows()))


# ---- bad input

def test_bad_input():
    q, model, p = quantizer(), small().eval(), prior()
    sentence(lambda: q(torch.zeros(2, 4, 5)), '(2, 4, 5)', '(N, 3')
    sentence(lambda: q.lookup(torch.tensor([[0, 7]])), 'run from 0 to 7', 'has 7')
    sentence(lambda: model.decode(torch.full((1, 4, 4), -1)), '-1', 'has 8')
    sentence(lambda: model.decode(torch.zeros(1, 4, 4)), 'int64')
    sentence(lambda: model(torch.zeros(1, 1, 20, 20)), '(20, 20)', '(16, 16)')
    sentence(lambda: model(torch.zeros(1, 3, 16, 16)), '1 channel')
    sentence(lambda: perplexity(torch.tensor([9]), 8), 'has 8')
    sentence(lambda: kmeans(torch.zeros(3, 2), 4), '3 vectors', '4 codes')
    sentence(lambda: VQVAE(factor=3), 'factor=3')
    sentence(lambda: VQVAE(sigma=0.), 'sigma')
    sentence(lambda: VectorQuantizer(0), 'codes=0')
    sentence(lambda: VectorQuantizer(decay=2), 'decay=2')
    sentence(lambda: CausalTransformer(5, 5, 10, 1, 4), 'heads=4')
    sentence(lambda: p(torch.zeros(1, 11, dtype=torch.long)), '11 tokens', '10 positions')
    sentence(lambda: p(torch.full((1, 2), 9)), '9', '0 to 8')
    sentence(lambda: p(torch.zeros(2, 3)), 'int64')
    sentence(lambda: p.nll(torch.zeros(2, 1, dtype=torch.long)), 'at least 2')
    start = torch.zeros(2, 2, dtype=torch.long)
    sentence(lambda: p.generate(start, length=2), 'length=2')
    sentence(lambda: p.generate(start, length=11), 'length=11')
    sentence(lambda: p.generate(start, guidance=2.), 'null')
    sentence(lambda: p.generate(start, null=start[:, :1], guidance=2.), '(2, 1)')
    sentence(lambda: p.generate(start, temperature=-1), 'temperature=-1')
    sentence(lambda: p.generate(start, top_k=0), 'top_k=0')
    sentence(lambda: p.generate(start, allowed=torch.ones(3, 9, dtype=torch.bool)), 'allowed', '10 positions')
    sentence(lambda: p.generate(start, allowed=torch.zeros(10, 9, dtype=torch.bool)), 'position 0')
    sentence(lambda: fit_codes(small(codes=4000), pictures(), 1, bar=False), '4000 codes')
