"""A CUDA device that is not there: `with fake_cuda():` runs code on tensors without values, to find those on the wrong device.

Every tensor made inside lies on `cuda` unless it says otherwise; an operation on tensors of two devices raises, as it would on a real GPU.
Nothing is computed, so shapes and devices are checked, never numbers:
- `Tensor.backward` and `torch.autograd.grad` give gradients of the right shape and device, without values;
- what asks a tensor for its value (`item`, `float`) gets 1, `if` gets False;
- to code that asks, CUDA is available and good at bf16.
"""
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

__all__ = ['fake_cuda', 'FakeAccelerator']


class _Fake(FakeTensorMode):
    "A FakeTensorMode that answers where Python asks for a value."
    number, truth = 1, False
    avoid_device_init = True   # else torch tries to start the CUDA that it was told is there

    def dispatch(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._local_scalar_dense.default:
            kind = args[0].dtype
            return self.truth if kind == torch.bool else float(self.number) if kind.is_floating_point else int(self.number)
        return super().dispatch(func, types, args, kwargs or {})


def leaves(loss):
    "The leaf tensors that `loss` was computed from."
    seen, todo, found = set(), [loss.grad_fn], []
    while todo:
        node = todo.pop()
        if node is None or node in seen: continue
        seen.add(node)
        if hasattr(node, 'variable'): found.append(node.variable)
        todo += [n for n, _ in node.next_functions]
    return found


def _backward(self, gradient=None, *args, inputs=None, **kwargs):
    assert self.requires_grad, 'backward from a tensor that requires no gradient'
    for leaf in leaves(self) if inputs is None else inputs: leaf.grad = torch.empty_like(leaf)


def _grad(outputs, inputs, *args, **kwargs):
    outputs = [outputs] if torch.is_tensor(outputs) else list(outputs)
    assert all(o.requires_grad for o in outputs), 'the gradient of a tensor that requires none was asked for'
    return tuple(torch.empty_like(i) for i in ([inputs] if torch.is_tensor(inputs) else inputs))


def _apply(self, fn, recurse=True):
    "`Module.to` and its like; torch's own swaps tensors in place, which fakes do not allow."
    for module in self.modules() if recurse else [self]:
        for key, p in module._parameters.items():
            if p is not None: module._parameters[key] = torch.nn.Parameter(fn(p.detach()), p.requires_grad)
        for key, b in module._buffers.items():
            if b is not None: module._buffers[key] = fn(b)
    return self


class FakeAccelerator:
    "What `train_step` needs of an Accelerator, on the fake device."
    device, num_processes, process_index = torch.device('cuda'), 1, 0
    def reduce(self, tensor, how): return tensor
    def backward(self, loss): loss.backward()
    def clip_grad_norm_(self, parameters, clip): return torch.nn.utils.clip_grad_norm_(parameters, clip)


@contextmanager
def fake_cuda(
    number=1,     # what `item`, `float` and `int` get
    truth=False,  # what `if` gets
):
    "Inside, tensors are fake and lie on `cuda`; yields the mode, whose `from_tensor` makes a fake of a real one."
    mode = _Fake()
    mode.number, mode.truth = number, truth
    with ExitStack() as stack:
        for target, value in (('torch.Tensor.backward', _backward), ('torch.autograd.grad', _grad), ('torch.nn.Module._apply', _apply), ('torch.cuda.is_available', lambda: True),
                              ('torch.cuda.is_bf16_supported', lambda *a, **k: True),
                              ('torch.cuda.get_device_capability', lambda *a: (9, 0)), ('torch.cuda.is_current_stream_capturing', lambda: False)):
            stack.enter_context(patch(target, value))
        stack.enter_context(mode)
        stack.enter_context(torch.device('cuda'))
        yield mode
