"""ClassVectorsMapping: write the negated class vector into the last normalization layers of the network.

Idea: the edit of ClassVectors without its gate. The weights and biases of the last `layers` normalization layers, a
few hundred numbers, are trained on a few images until their features lie at f(x) − scale · κ_c, while other images'
features stay:

    mean over the class of ‖f(x; θ) − f(x; θ_o) + scale · κ_c‖² + locality · mean over others of ‖f(x; θ) − f(x; θ_o)‖²

Reference: "Exploring and Leveraging Class Vectors for Classifier Editing", NeurIPS 2025, arXiv 2510.11268, the rows
marked with a dagger.

Must see: the inputs of the class to be forgotten, inputs of the retain set, and the model before training
(`origin = "pretrained"`).

Differences from the paper: it uses a single reference image and no others; optimizer, learning rate, steps and scale
are not stated, and no code was published. Here 16 images and a pull on 64 others, Adam, and of the scales of
ClassVectors the smallest with which the edited network calls at most 1 / 2C of the class's images so: without a gate
each further step costs the other classes. Its two origins of ours are there too. Batch normalization runs in eval mode:
running statistics stay.

Weaknesses: a scale and a shift of each feature move every class a little, so accuracy on the rest suffers more than
behind a gate. The layers before still tell the class apart. A model without normalization layers is refused.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from unlearnkit.editing import features, require_seam, write
from unlearnkit.methods.class_vectors import ORIGIN_NEEDS, SCALES, Origin, called, drawn, vector_from
from unlearnkit.methods.hyperparameters import Count, NotNegative, Positive, check
from unlearnkit.methods.steps import count_classes
from unlearnkit.types import Access, Method, Need


@dataclass(frozen=True)
class ClassVectorsMapping(Method):
    """The edit of ClassVectors in weights: the last normalization layers are fitted to it."""

    origin: Origin = "pretrained"  # what κ is measured from
    scale: NotNegative | None = None  # λ; None: the smallest that forgets
    layers: Count = 1  # normalization layers, counted from the head
    references: Count = 16  # images of the class that the fit sees
    kept: Count = 64  # images of the retain set that the fit sees
    locality: NotNegative = 1.0  # weight of the pull that keeps their features
    epochs: Count = 200  # passes over the references, at most
    lr: Positive = 0.01  # Adam
    images: Count = 500  # at most so many of the class, for κ
    others: Count = 2000  # at most so many of the retain set, for κ from "others"

    def __post_init__(self) -> None:
        check(self)

    @property
    def needs(self) -> Need:
        """What the origin asks for, and the inputs of both sets."""
        return Need.CLASS_WISE | Need.FORGET_INPUTS | Need.RETAIN_INPUTS | ORIGIN_NEEDS[self.origin]

    def run(self, model: nn.Module, access: Access, rng: torch.Generator) -> nn.Module:
        seam = require_seam(model, what=self.name)
        forget, others = drawn(access.forget, self.images, rng), drawn(access.retain, self.others, rng)
        vector = vector_from(self.origin, seam, access, forget, others, rng)
        references, kept = drawn(forget, self.references, rng), drawn(others, self.kept, rng)
        edited, enough = seam, 1 / (2 * count_classes(seam, forget))
        for scale in SCALES if self.scale is None else (self.scale,):
            edited = write(
                seam,
                -scale * vector,
                references,
                kept,
                layers=self.layers,
                epochs=self.epochs,
                lr=self.lr,
                locality=self.locality,
                what=self.name,
            )
            if called(edited, features(edited, forget), access) <= enough:
                break
        return edited
