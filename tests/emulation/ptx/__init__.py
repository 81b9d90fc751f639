"""An interpreter of PTX, written from the PTX ISA: what nvcc emitted runs on a CPU, with checks.

Every thread of a batch of blocks is a lane of numpy arrays; the lanes with the lowest program
counter go first. Tensors lie at their real addresses, so that a launch's arguments need no change.

What it does not know raises `Unsupported`. It does not imitate time, ptxas, or the memory model
beyond barriers, __syncwarp() and groups of cp.async. float32's fused multiply-add is formed in
float64, approximate functions exactly, tensor cores sum in float64: results are held to tolerances.
"""
