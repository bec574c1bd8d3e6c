"""The sparse step on a GPU, in Triton; `gate` decides who gets in, and nothing else here is imported before it.

Same signatures and the same rules as the CPU's loops: slots ascending after the unused ones (0, 0), of equal entries
the first, NaN as the largest, gradients to chosen entries alone. Nothing of size tokens x slots x d_in is ever made.
"""

from chronosae.kernels.gpu.gate import fused_kernels, gpu_kernels

__all__ = ["fused_kernels", "gpu_kernels"]
