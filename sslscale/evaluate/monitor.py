"""How good the features of a network in training are by now: kNN on a few labelled images that stay the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from sslscale.data.images import Images
from sslscale.data.samples import Samples
from sslscale.evaluate.knn import knn_classify
from sslscale.evaluate.outputs import network_outputs
from sslscale.nn.classifier import Classifier
from sslscale.nn.sound_towers import SoundTowers
from sslscale.nn.towers import TwoTowers
from sslscale.settings.model import ImageConfig

if TYPE_CHECKING:
    from torch import nn

_BATCH = 500


class KnnMonitor:
    """kNN accuracy of a backbone: `num_images` labelled training images, of which a fifth ask and the rest answer.

    Labels are read for this number alone. The network's mode and the random numbers are left as they were.
    """

    def __init__(
        self, samples: Samples, images: Images, image: ImageConfig, device: torch.device, *, num_images: int, seed: int
    ):
        order = np.random.default_rng([seed, 0x3017]).permutation(len(samples))[:num_images]
        self._places = samples.places(np.sort(order))
        self._labels = torch.from_numpy(samples.labels[np.sort(order)].astype(np.int64)).to(device)
        self._asks = torch.from_numpy(np.arange(len(order)) % 5 == 0).to(device)
        self._images, self._image, self._device = images, image, device
        self._num_classes = len(samples.index.classes)

    def __call__(self, network: nn.Module) -> float:
        """The accuracy now."""
        backbone = network.backbone if isinstance(network, Classifier | SoundTowers | TwoTowers) else network
        modes = [(module, module.training) for module in network.modules()]
        features = network_outputs(
            backbone, self._image, self._images, *self._places, batch_size=_BATCH, device=self._device
        ).to(self._device)
        for module, training in modes:
            module.training = training
        bank, queries = features[~self._asks], features[self._asks]
        probs = knn_classify(bank, self._labels[~self._asks], queries, self._num_classes, k=20, temperature=0.1)
        return (probs.argmax(1) == self._labels[self._asks]).float().mean().item()
