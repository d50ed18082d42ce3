"""CTAugment at work inside a method: its rates are learned while training, so the strong views are made there."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslscale import distributed
from sslscale.data import ctaugment, geometry, rng
from sslscale.data.ctaugment import CTAugment, Policy
from sslscale.data.transfer import Fetched, to_device
from sslscale.settings.model import ImageConfig
from sslscale.shapes import Float, Int


class LearnedAugment(nn.Module):
    """Makes strong views of weak ones, and learns from labelled images how strong they may be (FixMatch,
    arXiv:2001.07685, section 2.3).

    The draws follow from the seed, the step and the image, whose number (`index`) the host must know; the rates are
    state, alike on every worker, and those of the step before.
    """

    rates: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self._policies = CTAugment()
        self.register_buffer("rates", self._policies.rates)
        self.register_buffer("mean", torch.zeros(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.ones(3, 1, 1), persistent=False)
        self._seed = 0
        self._told: Fetched | None = None  # what the last probes showed, on its way to the host
        self._loaded = True  # the rates are those of a checkpoint, which the host does not know
        self.register_load_state_dict_post_hook(lambda module, keys: setattr(module, "_loaded", True))
        self.register_state_dict_pre_hook(lambda module, prefix, keep_vars: module._take_up())

    def prepare(self, image: ImageConfig, seed: int) -> None:
        """Learn how images were normalised, and the seed of the training."""
        self.mean, self.std = (torch.tensor(x).view(-1, 1, 1) for x in (image.mean, image.std))
        self._seed = seed

    @torch.no_grad()
    def strong(
        self, view: Float[Tensor, "batch channels h w"], index: Int[Tensor, " batch"], step: int, number: int = 0
    ) -> Float[Tensor, "batch channels h w"]:
        """A strong view, the `number`th of its image: operations drawn by the rates, then cutout of half the side."""
        self._take_up()
        draws = self._draws(f"strong {number}", index, step, self._policies.num_draws + 2)
        images = ctaugment.apply(self._pixels(view), self._policies.policy(draws[:, 2:], probe=False))
        half = torch.full((len(images),), view.shape[-1] // 4, device=view.device)
        x, y = to_device(draws[:, :2], view.device).unbind(1)
        return self._normalized(geometry.cutout(images, x, y, half, fill=ctaugment.FILL), view)

    @torch.no_grad()
    def learn(
        self,
        network: nn.Module,
        view: Float[Tensor, "batch channels h w"],
        index: Int[Tensor, " batch"],
        label: Int[Tensor, " batch"],
        step: int,
    ) -> None:
        """Distort labelled images at random; the rates of what was done follow how well they are still known.

        What the probes show is taken up by the next step, when it has come from the device without a wait.
        """
        self._take_up()
        policy = self._policies.policy(self._draws("probe", index, step, self._policies.num_draws), probe=True)
        probe = self._normalized(ctaugment.apply(self._pixels(view), policy), view)
        probs = _predicted_probabilities(network, probe)
        closeness = 1 - 0.5 * (probs - F.one_hot(label, probs.shape[1])).abs().sum(1)
        parts = (policy.operation, policy.level, policy.place)
        own = [to_device(x, view.device) for x in parts]
        self._told = Fetched(*(distributed.gather(x) for x in (*own, closeness)))

    def _take_up(self) -> None:
        """Make the rates, here and on the device, what the last probes showed."""
        if self._loaded:
            self._policies.rates, self._loaded = self.rates.cpu().clone(), False
        if self._told is not None:
            operation, level, place, closeness = self._told.get()
            self._told = None
            self._policies.update(Policy(operation, level, place), closeness)
            self.rates.copy_(to_device(self._policies.rates, self.rates.device))

    def _draws(self, name: str, index: Int[Tensor, " batch"], step: int, count: int) -> Float[Tensor, "batch count"]:
        seed = rng.stream_seed(self._seed, f"ctaugment {name}")
        return rng.uniforms(seed, torch.full_like(index, step), index, count)

    def _pixels(self, view: Tensor) -> Tensor:
        pixels = ((view.float() * self.std + self.mean) * 255).round().clamp(0, 255)
        return pixels.to(torch.uint8, memory_format=torch.contiguous_format)

    def _normalized(self, images: Tensor, like: Tensor) -> Tensor:
        return ((images.float() / 255 - self.mean) / self.std).to(like.dtype)


def _predicted_probabilities(network: nn.Module, images: Tensor) -> Tensor:
    """Probabilities in eval mode; the network is left as it was."""
    training = network.training
    try:
        return network.eval()(images).float().softmax(1)
    finally:
        network.train(training)
