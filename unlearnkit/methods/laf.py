"""LAF: unlearn without a single label, by what the features look like.

Idea: two small variational autoencoders learn how the original's penultimate features are distributed, h on the retain
set and h_f on the forget set. Then for every pair of batches one Adam step each on

    L_UE = S(h, e_r) − S(h_f, e_f)        S(h, e) = Σ exp(d/(d + 1)),  d = ‖h(e) − e‖²
    L_RA = Σ_i log[exp(d_i^r) / Σ_j exp(d_j^f/τ)]        d = 1 − cos(e, original e)

of which the first keeps the features of the retain set where they were and drives those of the forget set off their
distribution, and the second holds every retain example to its old features and turns the forget examples away from
theirs. With `repair_epochs` (LAF+R) the head is trained on labeled retain examples afterwards.

Reference: "Label-Agnostic Forgetting: A Supervision-Free Unlearning in Deep Models", ICLR 2024, arXiv 2404.00506.

Must see: the inputs of the forget set and of the retain set; no labels. With `repair_epochs` also the labels of the
retain set.

Differences from the paper: the divergences of its derivation that its own code drops are left out here too.
Differences from the published code: that learns h on the whole training set, and its decoder ends in a sigmoid, though
features are not bounded by 1; here h learns the retain set, as in the paper, and the decoder ends linear. `legacy`
brings both back. Once the autoencoders are trained, reconstructions are made from the mean of the latent distribution.
Both parts of their loss are means over the batch. The settings of the final repair are ours, for want of published
ones. No random crops. The defaults are the published ones for small networks and whole classes; for ResNet-18 they are
40 epochs, 1e-5 and 5e-5 (random subsets: 4e-5) and latent 16, and for random subsets τ is 5 (small networks) or 20.
Batch normalization runs in eval mode, as published.

Weaknesses: it costs two autoencoders. Without `repair_epochs` the head is never touched, so a probe on the features
and the old head can disagree. Where forget and retain features are one distribution, as for a random subset, the two
halves of L_UE pull against each other.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from unlearnkit.methods.distill import collect, split_model
from unlearnkit.methods.hyperparameters import Count, CountOrZero, NotNegative, Positive, check
from unlearnkit.methods.steps import cross_entropy, inputs
from unlearnkit.models import Classifier, seeded
from unlearnkit.result import UsageError
from unlearnkit.train import make_optimizer, shuffled, take_steps
from unlearnkit.types import Access, Examples, Method, Need


@dataclass(frozen=True)
class LAF(Method):
    """Features of the forget set off their distribution, those of the retain set where they were; no labels."""

    epochs: Count = 20  # passes over the smaller of the two sets
    lr_unlearn: Positive = 5e-5  # of the steps on L_UE, Adam
    lr_align: Positive = 1e-4  # of the steps on L_RA, Adam
    temperature: Positive = 20.0  # τ of L_RA
    latent: Count = 8  # width of the autoencoders' latent distribution
    vae_epochs: Count = 10  # passes over each set
    vae_lr: Positive = 1e-3  # Adam
    divergence_weight: NotNegative = 0.025  # of the divergence from the standard normal in the autoencoders' loss
    batch_size: Count = 32  # examples of each set
    repair_epochs: CountOrZero = 0  # LAF+R: passes over the retain set that train the head alone
    repair_lr: Positive = 1e-3  # Adam
    legacy: bool = False  # h on both sets and bounded reconstructions, as in the published code

    @property
    def needs(self) -> Need:
        plain = Need.FORGET_INPUTS | Need.RETAIN_INPUTS
        return plain | Need.RETAIN_LABELS if self.repair_epochs else plain

    def __post_init__(self) -> None:
        check(self)

    def run(self, model: nn.Module, access: Access, rng: torch.Generator) -> nn.Module:
        forget, retain = access.forget, access.retain
        split = split_model(model, self.name)
        old_f, old_r = (collect(split.features, model, part, self.batch_size) for part in (forget, retain))
        kept = torch.cat([old_r, old_f]) if self.legacy else old_r
        h, h_f = self._autoencoder(kept, rng, "retain set"), self._autoencoder(old_f, rng, "forget set")
        unlearn = make_optimizer(model, "adamw", lr=self.lr_unlearn)
        align = make_optimizer(model, "adamw", lr=self.lr_align)

        def features(rows: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            parts = (inputs(model, forget, rows[0]), inputs(model, retain, rows[1]))
            new_f, new_r = split.features(torch.cat(parts)).split([len(part) for part in parts])
            return new_f, new_r

        def off_distribution(rows: tuple[Tensor, Tensor]) -> Tensor:
            new_f, new_r = features(rows)
            return strangeness(h, new_r) - strangeness(h_f, new_f)

        def off_course(rows: tuple[Tensor, Tensor]) -> Tensor:
            new_f, new_r = features(rows)
            away_f = turned(new_f, old_f[rows[0].to(old_f.device)])
            away_r = turned(new_r, old_r[rows[1].to(old_r.device)])
            return alignment_loss(away_r, away_f, self.temperature)

        model.eval()
        for epoch in range(self.epochs):
            pairs = zip(
                shuffled(len(forget), self.batch_size, rng), shuffled(len(retain), self.batch_size, rng), strict=False
            )
            for i, rows in enumerate(pairs):
                what = f"{self.name}, epoch {epoch + 1}, batch {i + 1}"
                take_steps(unlearn, [rows], off_distribution, what=f"{what}, L_UE")
                take_steps(align, [rows], off_course, what=f"{what}, L_RA")
        if self.repair_epochs:
            self._repair(split, retain, rng)
        return model

    def _autoencoder(self, features: Float[Tensor, "n d"], rng: torch.Generator, which: str) -> Autoencoder:
        with seeded(int(torch.randint(2**31, (), generator=rng))):
            vae = Autoencoder(features.shape[1], self.latent, bounded=self.legacy)
        vae.to(features.device)
        optimizer = make_optimizer(vae, "adamw", lr=self.vae_lr)

        def loss(rows: Tensor) -> Tensor:
            v = features[rows.to(features.device)]
            mean, log_variance = vae.encode(v)
            noise = torch.randn(mean.shape, generator=rng).to(mean.device)
            missed = (vae.decode(mean + (log_variance / 2).exp() * noise) - v).square().sum(dim=1)
            divergence = (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1) / 2
            return (missed + self.divergence_weight * divergence).mean()

        for epoch in range(self.vae_epochs):
            batches = shuffled(len(features), self.batch_size, rng)
            take_steps(optimizer, batches, loss, what=f"{self.name}, autoencoder of the {which}, epoch {epoch + 1}")
        return vae.requires_grad_(False)

    def _repair(self, model: Classifier, retain: Examples, rng: torch.Generator) -> None:
        if not list(model.head.parameters()):
            raise UsageError(
                f"{self.name}.repair_epochs: the head has no weights to train, got {type(model.head).__name__}; "
                "set repair_epochs = 0"
            )
        optimizer = make_optimizer(model.head, "adamw", lr=self.repair_lr)

        def loss(rows: Tensor) -> Tensor:
            return cross_entropy(model, retain, rows, "none", rng).mean()

        for epoch in range(self.repair_epochs):
            batches = shuffled(len(retain), self.batch_size, rng)
            take_steps(optimizer, batches, loss, what=f"{self.name}, repair, epoch {epoch + 1}")


class Autoencoder(nn.Module):
    """d-128-32-(mean, log variance) and back; `bounded` ends the decoder in a sigmoid."""

    def __init__(self, d: int, latent: int, *, bounded: bool) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Linear(d, 128), nn.ReLU(), nn.Linear(128, 32), nn.ReLU(), nn.Linear(32, 2 * latent)
        )
        self.decoder = nn.Sequential(nn.Linear(latent, 32), nn.ReLU(), nn.Linear(32, 128), nn.ReLU(), nn.Linear(128, d))
        self.end = nn.Sigmoid() if bounded else nn.Identity()

    def encode(self, v: Float[Tensor, "b d"]) -> tuple[Float[Tensor, "b latent"], Float[Tensor, "b latent"]]:
        """Mean and log variance of the latent distribution."""
        mean, log_variance = self.encoder(v).chunk(2, dim=1)
        return mean, log_variance

    def decode(self, z: Float[Tensor, "b latent"]) -> Float[Tensor, "b d"]:
        """The features that belong to a latent point."""
        features: Tensor = self.end(self.decoder(z))
        return features

    def forward(self, v: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
        mean, _ = self.encode(v)
        return self.decode(mean)


def strangeness(vae: Autoencoder, v: Float[Tensor, "b d"]) -> Float[Tensor, ""]:
    """S = Σ exp(d/(d + 1)) with d the squared error of each reconstruction: between b and e·b."""
    missed = (vae(v) - v).square().sum(dim=1)
    total: Tensor = (missed / (missed + 1)).exp().sum()
    return total


def turned(new: Float[Tensor, "b d"], old: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
    """1 − cos between the new features and the old ones: 0 where they point the same way, at most 2."""
    away: Tensor = 1 - functional.cosine_similarity(new.float(), old, dim=1)
    return away


def alignment_loss(away_r: Float[Tensor, " r"], away_f: Float[Tensor, " f"], temperature: float) -> Float[Tensor, ""]:
    """L_RA = Σ_i log[exp(d_i^r) / Σ_j exp(d_j^f/τ)]: small where retain examples stay and forget examples turn."""
    total: Tensor = (away_r - (away_f / temperature).logsumexp(dim=0)).sum()
    return total
