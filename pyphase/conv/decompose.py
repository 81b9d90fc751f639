"""The pair nearest to a trained convolution: in its weights, or in its outputs on given data."""

from __future__ import annotations

import torch
from torch import Tensor

from pyphase.conv.dense import as_matrices, split_matrices

__all__ = ["Decomposition"]

# Of the inputs' mean square, added to their second moments: directions that the calibration never
# showed still count a little, so that few images don't make the pair arbitrary there.
_DAMPING = 1e-3
_ROUNDS = 8  # of the alternation, at most
_SETTLED = 1e-3  # a round that lowers the error by less than this share is the last
_CG_STEPS = 6  # a round needs no exact solution: the next one starts from its result


class Decomposition:
    """A convolution's kernel as a pair of given rank, in one order.

    With M a group's kernel as a matrix, (o v, i h) for a row first, the pair is M' of rank r.
    Without ``moment`` M' is the truncated SVD, which minimises ||M - M'||^2. With it M' minimises
    the outputs' error E ||(M - M') q||^2, with q the patches under the kernel.

    Args:
        weight: (K, C / groups, k', k).
        groups: of the convolution.
        row_first: whether the row kernel comes first.
        moment: E[q q^T] of the inputs' patches, (groups, d, d) with d = C / groups * k' * k in
            the order of ``torch.nn.functional.unfold``; None: fit the weights.
    """

    def __init__(
        self, weight: Tensor, groups: int, row_first: bool, moment: Tensor | None = None
    ) -> None:
        self._shape, self._row_first = tuple(weight.shape), row_first
        self._matrices = as_matrices(weight.detach().cpu().double(), groups, row_first)
        self.full_rank = min(self._matrices.shape[1:])
        self._errors: dict[int, float] = {}
        self._fits: list[_OutputFit] = []
        if moment is None:
            energies = torch.linalg.svdvals(self._matrices).square().sum(0)
            tails = energies.flip(0).cumsum(0).flip(0)
            self._tails = [float(tail / tails[0]) for tail in tails] + [0.0]
        else:
            moments = self._by_sides(moment.double(), groups)
            self._fits = [_OutputFit(*both) for both in zip(self._kernels(), moments, strict=True)]

    def error(self, rank: int) -> float:
        """Return ||M - M'||^2 / ||M||^2 at a rank, or that of the outputs with a ``moment``.

        Where outputs are fitted it is an upper bound, of the solution that :meth:`pair` improves.
        """
        if not self._fits or rank == self.full_rank:
            return 0.0 if rank == self.full_rank else self._tails[rank]
        if rank not in self._errors:
            total = sum(fit.total for fit in self._fits)
            self._errors[rank] = sum(fit.error(rank) for fit in self._fits) / total
        return self._errors[rank]

    def pair(self, rank: int) -> tuple[Tensor, Tensor, float]:
        """Return both weights in order of execution, in float64, and their error."""
        matrices, error = self._matrices, self.error(rank)
        if self._fits and rank < self.full_rank:
            kernels, errors = zip(*(fit.nearest(rank) for fit in self._fits), strict=True)
            matrices = torch.stack(kernels).flatten(1, 2)
            error = sum(errors) / sum(fit.total for fit in self._fits)
        first, second = split_matrices(matrices, rank, self._shape, self._row_first)
        return first, second, error

    def _kernels(self) -> Tensor:
        """Return the matrices with the second side apart, (g, o, v, i h)."""
        side = self._shape[2] if self._row_first else self._shape[3]
        groups, rows, columns = self._matrices.shape
        return self._matrices.reshape(groups, rows // side, side, columns)

    def _by_sides(self, moment: Tensor, groups: int) -> Tensor:
        """Return the moment's axes (i, v, h) as (v, i h), or as (h, i v) for a column first."""
        _, channels, height, width = self._shape
        split = moment.reshape(groups, channels, height, width, channels, height, width)
        one = (2, 1, 3) if self._row_first else (3, 1, 2)
        split = split.permute(0, *one, *(axis + 3 for axis in one))
        outer, inner = split.shape[1], split.shape[2] * split.shape[3]
        return split.reshape(groups, outer, inner, outer, inner)


class _OutputFit:
    """The outputs' error of one group, E ||sum over v of (M_v - A_v B) q_v||^2, and its minimum.

    M_v (o, n) is the kernel at place v of the second side, B (r, n) the first convolution, A_v
    (o, r) the second one. For a given B the best A is linear least squares; for a given A so is B.
    They alternate, from the better of two starts: the right singular vectors of M, and those of M
    weighted by sum over v of E[q_v q_v^T], which is the solution for places without correlation.
    """

    def __init__(self, kernel: Tensor, moment: Tensor) -> None:
        self.kernel = kernel  # (o, k, n)
        _, self.k, self.n = kernel.shape
        size = self.k * self.n
        square = moment.reshape(size, size)
        mean = square.diagonal().mean().clamp(min=torch.finfo(torch.float64).tiny)
        self.moment = square + _DAMPING * mean * torch.eye(size, dtype=square.dtype)
        self.target = kernel.flatten(1) @ self.moment  # (o, k n)
        self.total = float((self.target * kernel.flatten(1)).sum())
        inner = self.moment.reshape(self.k, self.n, self.k, self.n)
        self.inner = inner.diagonal(dim1=0, dim2=2).sum(-1)  # (n, n), sum over v
        self.root = torch.linalg.cholesky(self.inner)
        weighted = kernel.flatten(0, 1) @ self.root
        right = torch.linalg.svd(weighted, full_matrices=False).Vh
        self.start = torch.linalg.solve_triangular(self.root, right, upper=False, left=False)
        self.gram, self.cross = self._seen_through(self.start)

    def error(self, rank: int) -> float:
        """Return the error with the weighted start as B, and the best A for it."""
        gram, cross = self.gram[:, :rank, :, :rank], self.cross[:, :, :rank]
        return self._best_second(gram, cross)[1]

    def nearest(self, rank: int) -> tuple[Tensor, float]:
        """Return the kernel (o, k, n) of this rank, and its error."""
        plain = torch.linalg.svd(self.kernel.flatten(0, 1), full_matrices=False).Vh[:rank]
        starts = [self._normalized(first) for first in (self.start[:rank], plain)]
        tried = [(first, *self._best_second(*self._seen_through(first))) for first in starts]
        first, second, error = min(tried, key=lambda trial: trial[2])
        for _ in range(_ROUNDS):
            new_first = self._normalized(self._better_first(first, second))
            new_second, new_error = self._best_second(*self._seen_through(new_first))
            if not new_error < error:
                break  # rounding is all that is left
            is_settled = new_error > (1 - _SETTLED) * error
            first, second, error = new_first, new_second, new_error
            if is_settled:
                break
        return second @ first, error

    def _seen_through(self, first: Tensor) -> tuple[Tensor, Tensor]:
        """Return the intermediate's moments (k, r, k, r) and those with the outputs (o, k, r)."""
        half = first @ self.moment.reshape(self.k, self.n, -1)
        gram = half.reshape(self.k, len(first), self.k, self.n) @ first.T
        return gram, self.target.reshape(-1, self.k, self.n) @ first.T

    def _best_second(self, gram: Tensor, cross: Tensor) -> tuple[Tensor, float]:
        size = gram.shape[0] * gram.shape[1]
        right = cross.flatten(1).T
        solved = torch.cholesky_solve(right, torch.linalg.cholesky(gram.reshape(size, size)))
        error = max(self.total - float((right * solved).sum()), 0.0)
        return solved.T.reshape(cross.shape), error

    def _better_first(self, first: Tensor, second: Tensor) -> Tensor:
        """Take some steps of preconditioned conjugate gradients towards the best B for an A."""
        outer = torch.einsum("okr,oks->rs", second, second)
        outer += 1e-12 * outer.trace() * torch.eye(len(outer), dtype=outer.dtype)
        outer_root = torch.linalg.cholesky(outer)

        def apply(b: Tensor) -> Tensor:
            return self._back(second, self._outputs(second, b))

        def precondition(b: Tensor) -> Tensor:
            return torch.cholesky_solve(torch.cholesky_solve(b, outer_root).T, self.root).T

        b = first
        residual = self._back(second, self.target) - apply(b)
        step = precondition(residual)
        power = (residual * step).sum()
        for _ in range(_CG_STEPS):
            if not power > 0:
                break
            image = apply(step)
            length = power / (step * image).sum()
            b = b + length * step
            residual = residual - length * image
            solved = precondition(residual)
            power, previous = (residual * solved).sum(), power
            step = solved + power / previous * step
        return b

    def _outputs(self, second: Tensor, first: Tensor) -> Tensor:
        """Return the outputs' moments with the patches, (o, k n)."""
        half = first @ self.moment.reshape(self.k, self.n, -1)
        return second.flatten(1) @ half.flatten(0, 1)

    def _back(self, second: Tensor, outputs: Tensor) -> Tensor:
        return second.flatten(0, 1).T @ outputs.reshape(-1, self.n)

    def _normalized(self, first: Tensor) -> Tensor:
        """Return the same row space with B (sum of moments) B^T = 1."""
        root = torch.linalg.cholesky(first @ self.inner @ first.T)
        normalized: Tensor = torch.linalg.solve_triangular(root, first, upper=False)
        return normalized
