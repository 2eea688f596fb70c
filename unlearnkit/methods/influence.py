"""InfluenceUnlearning: one Newton step toward the weights that training without the forget set would have found.

Idea: at the end of training the gradient of the regularized loss over all data is zero, so that over the retain set
it is

    −v,   v = g_f / n − g_r · n_f / (n · n_r)

where g_f and g_r are the gradients summed over the forget set and the retain set and n = n_f + n_r. The step is
θ ← θ + alpha · H⁻¹ v, with the curvature H of the loss on the retain set in one of three forms:

- conjugate-gradient: H is the Gauss-Newton matrix on `samples` retain examples plus `damping` on the diagonal. With the
  weight decay of the training as damping, it finds the retrained weights of a linear model to second order.
- woodfisher: H = I + mean of s sᵀ over the gradients s of `samples` single examples, inverted sample by sample:
  o_i = s_i − Σ_{j<i} o_j (o_jᵀ s_i) / (N + c_j),   k ← k − o_i (s_iᵀ k) / (N + c_i),   c_i = o_iᵀ s_i
- reference: what was published as that recursion, below.

Reference: IU of "Model Sparsity Can Simplify Machine Unlearning", NeurIPS 2023, arXiv 2304.04934; the recursion is that
of "WoodFisher: Efficient Second-Order Approximation for Neural Network Compression", NeurIPS 2020, arXiv 2004.14340.

Must see: the forget set and the retain set, both with labels.

Differences from the published code: its recursion carries one vector from sample to sample, which stays parallel to the
first sample's gradient, so that its "inverse" acts in one direction and the method is in effect one step of gradient
ascent. `mode="reference"` does the same, for comparison with published rows, which used alpha 10 on CIFAR-10, 20 on
CIFAR-100 and 5 on CelebA. Batch normalization runs in eval mode: running statistics stay.

Weaknesses: the step is right near a minimum of a convex loss, and networks offer neither. Damping decides how far it
goes along flat directions. woodfisher holds `samples` vectors of the size of the model in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from unlearnkit.methods.hyperparameters import Count, Positive, check
from unlearnkit.methods.steps import device_of_model, flat, gradient, inputs, set_flat, summed_gradient
from unlearnkit.types import Access, Examples, Method, Need

Vector = Float[Tensor, " p"]


@dataclass(frozen=True)
class InfluenceUnlearning(Method):
    """One step of `alpha` times the inverse curvature; an empty forget set changes nothing."""

    needs: ClassVar[Need] = Need.FORGET | Need.RETAIN

    mode: Literal["conjugate-gradient", "woodfisher", "reference"] = "conjugate-gradient"
    alpha: Positive = 1.0  # length of the step; 1 is Newton's
    samples: Count = 1000  # retain examples, drawn at random, on which the curvature is measured
    damping: Positive = 1e-3  # conjugate gradient only; the weight decay of the training is part of it
    iterations: Count = 100  # conjugate gradient only, at most
    batch_size: Count = 256  # examples

    def __post_init__(self) -> None:
        check(self)

    def run(self, model: nn.Module, access: Access, rng: torch.Generator) -> nn.Module:
        model.eval()
        with torch.autocast(device_of_model(model).type, enabled=False):  # half precision is too little to solve with
            step = self._step(model, access.forget, access.retain, rng)
        set_flat(model, flat(model) + self.alpha * step)
        return model

    def _step(self, model: nn.Module, forget: Examples, retain: Examples, rng: torch.Generator) -> Vector:
        """H⁻¹ v."""
        n_f, n_r = len(forget), len(retain)
        v = summed_gradient(model, forget, batch_size=self.batch_size) / (n_f + n_r)
        v -= summed_gradient(model, retain, batch_size=self.batch_size) * (n_f / ((n_f + n_r) * n_r))
        rows = torch.randperm(n_r, generator=rng)[: self.samples]
        if self.mode == "conjugate-gradient":

            def curved(vector: Tensor) -> Tensor:
                product = gauss_newton_product(model, retain, rows, vector, batch_size=self.batch_size)
                return product + self.damping * vector

            return conjugate_gradient(curved, v, self.iterations)
        solve = woodfisher if self.mode == "woodfisher" else one_direction
        return solve(lambda i: _sample_gradient(model, retain, rows[i : i + 1]), len(rows), v)


def _sample_gradient(model: nn.Module, examples: Examples, row: Int[Tensor, " 1"]) -> Vector:
    x = inputs(model, examples, row)
    return gradient(model, functional.cross_entropy(model(x), examples.labels()[row].to(x.device)))


def gauss_newton_product(
    model: nn.Module, examples: Examples, rows: Int[Tensor, " n"], vector: Vector, *, batch_size: int
) -> Vector:
    """Mean over the rows of Jᵀ(diag(p) − p pᵀ)J · vector, J being the derivative of the logits by the weights."""
    total = torch.zeros_like(vector)
    for batch in torch.split(rows, batch_size):
        logits = model(inputs(model, examples, batch))
        # Jᵀu is linear in u, so that its own derivative, taken along the vector, is J · vector.
        u = torch.zeros_like(logits, requires_grad=True)
        backward = gradient(model, (logits * u).sum(), create_graph=True)
        (forward,) = torch.autograd.grad(backward @ vector, u, retain_graph=True)
        p = logits.detach().softmax(1)
        weighted = p * forward - p * (p * forward).sum(1, keepdim=True)
        total += gradient(model, (logits * weighted).sum())
    return total / len(rows)


def conjugate_gradient(product: Callable[[Tensor], Tensor], v: Vector, iterations: int) -> Vector:
    """Solves H x = v for a positive definite H given by its product with a vector."""
    x, residual = torch.zeros_like(v), v.clone()
    direction, size = residual.clone(), residual @ residual
    enough = (torch.finfo(v.dtype).eps ** 2) * size
    for _ in range(iterations):
        if size <= enough:
            break
        image = product(direction)
        length = size / (direction @ image)
        x += length * direction
        residual -= length * image
        before, size = size, residual @ residual
        direction = residual + (size / before) * direction
    return x


def woodfisher(sample: Callable[[int], Tensor], n: int, v: Vector) -> Vector:
    """(I + mean of s sᵀ)⁻¹ v over the gradients s of n samples, one rank at a time (Sherman-Morrison)."""
    k = v.clone()
    o, scale = v.new_zeros(n, len(v)), v.new_zeros(n)
    for i in range(n):
        s = sample(i)
        o[i] = s - o[:i].T @ ((o[:i] @ s) / scale[:i])
        scale[i] = n + o[i] @ s
        k -= o[i] * (s @ k) / scale[i]
    return k


def one_direction(sample: Callable[[int], Tensor], n: int, v: Vector) -> Vector:
    """The published recursion, with its defect: `o` never leaves the direction of the first sample's gradient."""
    k, o = v.clone(), sample(0)
    for i in range(1, n):
        s = sample(i)
        c = o @ s
        k -= o * (k @ s) / (n + c)
        o -= o * c / (n + c)
    return k
