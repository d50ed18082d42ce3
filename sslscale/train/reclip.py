"""ReCLIP's self-training on unlabelled images (Hu et al. 2024, arXiv:2308.03793, section 3 and algorithm 1)."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sslscale.data.augment import normalize
from sslscale.data.images import Images
from sslscale.errors import DataError
from sslscale.evaluate.outputs import network_outputs
from sslscale.evaluate.propagation import centroids, class_directions, propagate
from sslscale.evaluate.zero_shot import ImageTower, embed_tokens
from sslscale.nn.classifier import Classifier, together
from sslscale.nn.towers import TwoTowers, classifier_of
from sslscale.settings.model import ImageConfig
from sslscale.settings.reclip import ReclipConfig
from sslscale.shapes import Float, Int

_READ = 500  # images looked at in one pass
_NORMS = (_BatchNorm, nn.LayerNorm, nn.GroupNorm)


class Branch:
    """One copy of the towers, of which the norms of one tower learn."""

    def __init__(self, towers: TwoTowers, tower: str, config: ReclipConfig, classes: Float[Tensor, "classes dim"]):
        self.towers = copy.deepcopy(towers).eval().requires_grad_(False)
        self.classes = classes  # unit vectors, one a class
        self.seeds = classes  # the points that labels spread from
        part = self.towers.text if tower == "text" else self.towers.backbone
        self.weights = [w for module in part.modules() if isinstance(module, _NORMS) for w in module.parameters()]
        if not self.weights:
            raise DataError(f"reclip: the {tower} tower has no norm with weights, which is what would learn")
        for weight in self.weights:
            weight.requires_grad_(True)
        self.optimizer = torch.optim.SGD(
            self.weights, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay
        )
        self.label: Int[Tensor, " images"] = torch.empty(0, dtype=torch.int64)

    def learn(self, logits: Float[Tensor, "batch classes"], label: Tensor, weight: Float[Tensor, " batch"]) -> None:
        """One step of cross-entropy, the mean over the images of weight 1; none has weight 0 alone."""
        loss = F.cross_entropy(logits, label, reduction="none")
        loss = (loss * weight).sum() / weight.sum().clamp(min=1)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()


class Reclip:
    """Adapts an image and a text tower to the images in these places.

    `short` are the tokens of each class in the first template, `every` those in all templates, a block of equal length
    for each class.
    """

    def __init__(
        self,
        towers: TwoTowers,
        config: ReclipConfig,
        image: ImageConfig,
        images: Images,
        places: tuple[np.ndarray, np.ndarray],
        short: Int[Tensor, "classes context"],
        every: Int[Tensor, "sentences context"],
        device: torch.device,
    ):
        self.config, self.image, self.images, self.places, self.device = config, image, images, places, device
        self.short, self.every = short.to(device), every
        self.num_classes, towers = len(short), towers.to(device)
        self.scale = towers.log_scale.detach().exp()
        first = self._classes(towers)
        self.branches = {name: Branch(towers, name, config, first) for name in config.branches}

    def _classes(self, towers: TwoTowers) -> Float[Tensor, "classes dim"]:
        """The classes' vectors, the mean over all templates."""
        found = embed_tokens(towers, self.every, self.device)
        return F.normalize(found.view(self.num_classes, -1, found.shape[1]).mean(1), dim=1)

    def label(self, progress: Callable[[int], None] = lambda done: None) -> dict[str, np.ndarray]:
        """Label all images anew by each branch, and set the classes of `vision`; returns the labels."""
        found = {}
        for name, branch in self.branches.items():
            if name == "text":
                branch.classes = branch.seeds = self._classes(branch.towers)
            features = network_outputs(
                ImageTower(branch.towers),
                self.image,
                self.images,
                *self.places,
                batch_size=_READ,
                device=self.device,
                on_progress=progress,
            ).to(self.device)
            points = torch.cat([branch.seeds, features])
            spread = points
            if self.config.project:
                spread = points @ class_directions(branch.seeds, self.config.kept(self.num_classes))
            label, _ = propagate(spread, self.num_classes, neighbors=self.config.neighbors, alpha=self.config.alpha)
            labels = torch.from_numpy(label).to(self.device)
            if name == "vision":
                branch.classes = centroids(points, labels, branch.classes)
            branch.label = labels[self.num_classes :]
            found[name] = label[self.num_classes :]
        return found

    def learn(self, epoch: int, progress: Callable[[int], None] = lambda done: None) -> None:
        """One pass over the images in an order of its own."""
        generator = np.random.default_rng([self.config.seed, epoch, 0x2EC1])
        order = generator.permutation(len(self.places[0]))
        labels = [branch.label for branch in self.branches.values()]
        agreed = torch.stack([label == labels[0] for label in labels]).all(0) if self.config.agreement else None
        for start in range(0, len(order), self.config.batch_size):
            chosen = order[start : start + self.config.batch_size]
            rows = torch.from_numpy(chosen).to(self.device)
            pixels = self.images.fetch(self.places[0][chosen], self.places[1][chosen]).to(self.device)
            x = normalize(pixels, self.image.mean, self.image.std)
            weight = torch.ones(len(chosen), device=self.device) if agreed is None else agreed[rows].float()
            for name, branch in self.branches.items():
                if name == "vision":
                    embedded, classes = branch.towers.embed_images(x), branch.classes
                else:
                    with torch.no_grad():
                        embedded = branch.towers.embed_images(x)
                    classes = branch.towers.embed_captions(self.short)
                branch.learn(self.scale * embedded @ classes.T, branch.label[rows], weight)
            progress(start + len(chosen))

    def classifier(self) -> Classifier:
        """The branches as one classifier, whose logits are the mean of theirs."""
        members = [
            classifier_of(branch.towers.cpu(), branch.classes.cpu(), self.scale.cpu())
            for branch in self.branches.values()
        ]
        return together(members) if members[1:] else members[0]
