"""Residual networks (He et al. 2016, arXiv:1512.03385), with two things that torchvision lacks: a stem for small images
and all channels times a factor. Weights have torchvision's names, which timm's ResNets share."""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from sslscale.nn.pointwise import Pointwise
from sslscale.shapes import Float

DEPTHS: dict[int, tuple[type[BasicBlock | Bottleneck], tuple[int, int, int, int]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
}


class ResNet(nn.Module):
    """Four stages of residual blocks; mean-pooled features.

    `width` multiplies every number of channels (SimCLR's 2x and 4x, arXiv:2002.05709). `small_images` makes the stem
    one 3x3 convolution without a stride, and leaves out the pooling (appendix B.9 there).
    """

    def __init__(self, depth: int, *, width: float = 1.0, small_images: bool = False, channels: int = 3):
        super().__init__()
        kind, counts = DEPTHS[depth]
        inputs = round(64 * width)
        size, stride = (3, 1) if small_images else (7, 2)
        self.conv1 = nn.Conv2d(channels, inputs, size, stride, size // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(inputs)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.Identity() if small_images else nn.MaxPool2d(3, 2, 1)
        for stage, count in enumerate(counts):
            planes = round(64 * 2**stage * width)
            blocks: list[nn.Module] = []
            for number in range(count):
                stride = 2 if stage and not number else 1
                outputs = planes * kind.expansion
                shortcut = None
                if stride != 1 or inputs != outputs:
                    convolution = Pointwise(inputs, outputs, stride)
                    shortcut = nn.Sequential(convolution, nn.BatchNorm2d(outputs))
                blocks.append(kind(inputs, planes, stride, shortcut))
                inputs = outputs
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.num_features = inputs
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(
        self, x: Float[Tensor, "batch channels h w"], *, maps: bool = False
    ) -> Float[Tensor, "batch features ..."]:
        """Mean-pooled features, or with `maps` those of each place: (batch, features, h', w')."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for stage in range(1, 5):
            x = self.get_submodule(f"layer{stage}")(x)
        return x if maps else x.mean((2, 3))
