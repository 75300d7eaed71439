"""Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon): momentum, orthogonalised, for weight matrices.

`torch.optim.Muon` works in bf16, which on a CPU without bf16 instructions takes ten times as long as the model
itself; this one works in the weights' own precision, and on all matrices of one shape together.
"""

import torch


class Muon(torch.optim.Optimizer):
    """Nesterov momentum whose update is moved to the nearest (about) orthogonal matrix; decoupled weight decay.

    Made from the matrices and a dict with `lr`, `momentum` and `weight_decay`.
    """

    @torch.no_grad()
    def step(self, closure: object = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One update of every matrix; `closure` is not supported."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[tuple[torch.Tensor, torch.Tensor]]] = {}
            for matrix in group["params"]:
                mean = self.state[matrix].setdefault("mean", torch.zeros_like(matrix))
                mean.lerp_(matrix.grad, 1 - group["momentum"])
                update = matrix.grad.lerp(mean, group["momentum"])
                by_shape.setdefault(matrix.shape, []).append((matrix, update))
            for (rows, columns), pairs in by_shape.items():
                rate = group["lr"] * max(1.0, rows / columns) ** 0.5
                updates = orthogonalise(torch.stack([update for _, update in pairs]))
                for (matrix, _), update in zip(pairs, updates, strict=True):
                    matrix.mul_(1 - group["lr"] * group["weight_decay"]).sub_(update, alpha=rate)


def orthogonalise(matrices: torch.Tensor) -> torch.Tensor:
    """Matrices (n, rows, columns) with their singular values brought near 1, roughly into 0.7 to 1.2."""
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    a, b, c = 3.4445, -4.7750, 2.0315  # the post's quintic Newton-Schulz iteration, and its five rounds
    for _ in range(5):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
