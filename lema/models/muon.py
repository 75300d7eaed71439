"""Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon): momentum, orthogonalised, for weight matrices.

`torch.optim.Muon` works in bf16: on a CPU without bf16 instructions that takes ten times as long as the model itself.
"""

import torch


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, its update made about orthogonal; of matrices and a dict: `lr`, `momentum`, `weight_decay`."""

    @torch.no_grad()
    def step(self, closure: object = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One update of every matrix; `closure` is not supported."""
        for group in self.param_groups:
            for shape in {matrix.shape for matrix in group["params"]}:
                matrices = [matrix for matrix in group["params"] if matrix.shape == shape]
                gradients = torch.stack([matrix.grad for matrix in matrices])
                mean = self.state[matrices[0]].setdefault("mean", torch.zeros_like(gradients))
                mean.lerp_(gradients, 1 - group["momentum"])
                updates = orthogonalise(gradients.lerp(mean, group["momentum"]))
                rate = group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5
                for matrix, update in zip(matrices, updates, strict=True):
                    matrix.mul_(1 - group["lr"] * group["weight_decay"]).sub_(update, alpha=rate)


def orthogonalise(matrices: torch.Tensor) -> torch.Tensor:
    """Matrices (n, rows, columns) with their singular values brought near 1, roughly into 0.7 to 1.2."""
    if matrices.shape[1] > matrices.shape[2]:  # tall: the transpose has the smaller gram matrix
        return orthogonalise(matrices.mT).mT
    x = matrices / matrices.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    a, b, c = 3.4445, -4.7750, 2.0315  # the post's quintic Newton-Schulz iteration, and its five rounds
    for _ in range(5):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x
