"""Every GPU kernel compiles to machine code for Hopper and Ampere, which Triton does without a GPU.

This file is also the worker that compiles, in a process of its own: `python test_gpu_compile.py 90`.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[2]
KERNELS = ["_adamw", "_candidates", "_combine", "_count", "_difference", "_distance", "_dots"]
KERNELS += ["_energy", "_flooded", "_keep", "_move", "_round", "_weighted_rows"]


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton")
@pytest.mark.parametrize("capability", [80, 90])
def test_every_kernel_compiles_for_a_gpu_that_is_not_here(capability: int, tmp_path: Path) -> None:
    path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    environment = dict(os.environ, PYTHONPATH=path, TRITON_CACHE_DIR=str(tmp_path))
    environment.pop("TRITON_INTERPRET", None)
    command = [sys.executable, __file__, str(capability)]
    output = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    sizes = json.loads(output.splitlines()[-1])
    assert sorted(sizes) == KERNELS
    assert all(size > 0 for size in sizes.values())


def compile_all(capability: int) -> dict[str, int]:
    """Bytes of machine code of each kernel, over the types and sizes it is called with."""
    import triton
    from triton.backends.compiler import GPUTarget

    from chronosae.kernels import dispatch, gpu
    from chronosae.kernels.gpu import base

    class Driver:
        """What the compiler asks of a device."""

        def get_current_target(self) -> Any:
            return GPUTarget("cuda", capability, 32)

        def get_current_device(self) -> int:
            return 0

        def get_current_stream(self, device: int | None = None) -> int:
            return 0

    triton.runtime.driver.set_active(Driver())
    sizes: dict[str, int] = {}

    def compile_only(kernel: Any, grid: tuple, *args: Any, num_warps: int = 4, **constants: Any) -> None:
        compiled = kernel.warmup(*args, grid=grid, num_warps=num_warps, **constants)
        name = kernel.fn.__name__
        sizes[name] = sizes.get(name, 0) + len(compiled.asm["cubin"])

    # Before any kernel's module takes the name.
    base.launch = compile_only
    # What no kernel wrote is an index all the same.
    torch.empty = torch.zeros
    dispatch.interpreted = lambda: True
    assert dispatch.triton_kernels(torch.empty(0))
    for dtype, autocast in ((torch.float32, False), (torch.float32, True), (torch.float64, False)):
        _step(gpu, dtype, autocast)
    return sizes


def _step(gpu: Any, dtype: torch.dtype, autocast: bool) -> None:
    """A training step, of which no kernel computes anything: results are zeros."""
    from chronosae.kernels import Lookback, Moments, PositionWeights, Rates, no_lookback

    n, d, f, k = 128, 48, 1040, 3
    own = no_lookback(n, torch.zeros(f, dtype=dtype))
    x, W, b, c = (torch.zeros(*s, dtype=dtype, requires_grad=True) for s in ((n, d), (f, d), (f,), (d,)))
    active = torch.ones(n, dtype=torch.bool)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        values, indices, _ = gpu.encode.encode_topk_in_context(x, W, b, k, own, None, active)
        recon = gpu.slots.sparse_decode(torch.zeros_like(indices), values, W, c)
        gpu.elementwise.squared_error(x, recon, active).backward()
        gpu.encode.encode_threshold(x.detach(), W, b, active, count=k * n)
        back = Lookback(torch.zeros(2, f, dtype=dtype), (1, 2), torch.zeros(2, n, dtype=torch.int64))
        weigh = PositionWeights(torch.zeros(3, f, dtype=dtype), torch.zeros(n, dtype=torch.int64))
        gpu.encode.encode_topk_in_context(x.detach(), W, b, k, back, weigh, active)
    gpu.slots.count_active(indices, values.detach(), f)
    if dtype == torch.float64:
        return
    for moment, on_sphere in ((torch.float32, True), (torch.bfloat16, False)):
        weights, along = torch.zeros(f, d), torch.zeros(f)
        gpu.adam.gradient_energy(weights, weights, on_sphere)
        moments = Moments(torch.zeros(f, d, dtype=moment), torch.zeros(f, d, dtype=moment))
        gpu.adam.adamw_(weights, weights, moments, along, Rates(1e-3, 0.9, 0.999, 1e-8, 0.0, 1), on_sphere=on_sphere)


if __name__ == "__main__":
    print(json.dumps(compile_all(int(sys.argv[1]))))
