"""Whether torch's weight gradients of small 3D convolutions in bfloat16 are right on this CPU; training there stays float32 until they are.

torch 2.13 and 2.15 give NaN or garbage on processors with AVX-512, and right numbers on others::

    python benchmarks/bfloat16_watch.py
"""

import torch
import torch.nn.functional as F


def kernel_gradient_error(kind: torch.dtype) -> float:
    """Return the largest error, relative to the largest value, of the weight gradient on a 2x2x2 map."""
    draw = torch.Generator().manual_seed(0)
    shapes = [(4, 64, 2, 2, 2), (64, 64, 3, 3, 3), (4, 64, 2, 2, 2)]
    x, w, out = (torch.randn(shape, generator=draw, dtype=torch.float64) for shape in shapes)

    def gradient(kind: torch.dtype) -> torch.Tensor:
        kernel = w.to(kind, copy=True).requires_grad_()
        (found,) = torch.autograd.grad(F.conv3d(x.to(kind), kernel, padding=1), kernel, out.to(kind))
        return found.double()

    expected = gradient(torch.float64)
    return float((gradient(kind) - expected).abs().max() / expected.abs().max())


if __name__ == "__main__":
    print(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}")
    for kind in (torch.float32, torch.bfloat16):
        print(f"{kind}: off by {kernel_gradient_error(kind):.2g} of the largest value")
