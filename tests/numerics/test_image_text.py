"""CLIP, SigLIP, zero-shot classification and label propagation against literal transcriptions in float64."""

from __future__ import annotations

import copy
import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sslscale.errors import ConfigError, DataError
from sslscale.evaluate.propagation import centroids, class_directions, propagate
from sslscale.evaluate.zero_shot import class_embeddings, recalls, sentences
from sslscale.methods.clip import CLIP
from sslscale.methods.clip.method import clip_loss
from sslscale.methods.image_text import ImageTextMethod, own_captions
from sslscale.methods.method import StepInfo, build_method
from sslscale.methods.siglip.method import siglip_loss
from sslscale.methods.simclr import SimCLR
from sslscale.nn.classifier import build_classifier, together
from sslscale.nn.open_clip_towers import count_tokens, text_of, tokenizer
from sslscale.nn.towers import build_towers, classifier_of
from sslscale.settings.model import ImageConfig, ModelConfig
from sslscale.settings.text import TextConfig, ZeroShotConfig
from sslscale.train import checkpoint, first_weights
from sslscale.train.engine import Engine
from sslscale.train.public_weights import read_towers
from tests.configurations import CONFIGS, TEXT, batch_of


def pairs(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return F.normalize(torch.randn(count, 5), dim=1), F.normalize(torch.randn(count, 5), dim=1)


def own(groups: list[int]) -> torch.Tensor:
    return torch.tensor([[a == b for b in groups] for a in groups])


@pytest.mark.parametrize("groups", [[0, 1, 2, 3], [0, 1, 0, 3]], ids=["pairs alone", "equal captions"])
def test_clip_is_half_the_sum_of_both_cross_entropies(groups: list[int]) -> None:
    images, texts = pairs(4)
    s = 7.5
    x, t = images.double().tolist(), texts.double().tolist()
    total = 0.0
    for rows, columns in ((x, t), (t, x)):
        for i in range(4):
            logits = [s * sum(a * b for a, b in zip(rows[i], column, strict=True)) for column in columns]
            mass = sum(math.exp(v) for v in logits)
            matches = [j for j in range(4) if groups[j] == groups[i]]
            total -= sum(math.log(math.exp(logits[j]) / mass) for j in matches) / len(matches)
    loss, logits = clip_loss(images, texts, torch.tensor([s]), own(groups))
    assert float(loss) == pytest.approx(total / 8, rel=1e-5)
    torch.testing.assert_close(logits, s * images @ texts.T)


@pytest.mark.parametrize("groups", [[0, 1, 2, 3], [0, 1, 0, 3]], ids=["pairs alone", "equal captions"])
def test_siglip_judges_every_pair_by_itself(groups: list[int]) -> None:
    images, texts = pairs(4)
    t, b = 10.0, -8.0
    total = 0.0
    for i, x in enumerate(images.double().tolist()):
        for j, y in enumerate(texts.double().tolist()):
            z = 1 if groups[i] == groups[j] else -1
            cosine = sum(a * c for a, c in zip(x, y, strict=True))
            total += math.log(1 / (1 + math.exp(z * (-t * cosine - b))))
    loss, _ = siglip_loss(images, texts, torch.tensor([t]), torch.tensor([b]), own(groups))
    assert float(loss) == pytest.approx(-total / 4, rel=1e-5)


def test_equal_captions_are_those_of_the_very_same_tokens() -> None:
    tokens = tokenizer(12)(["a photo of a cat", "a cat photo of a", "a photo of a cat", "a photo of a dog"])
    assert own_captions(tokens, True).tolist() == own([0, 1, 0, 3]).tolist()
    assert own_captions(tokens, False).tolist() == torch.eye(4).bool().tolist()
    many = torch.randint(1, 49405, (3000, 16), generator=torch.Generator().manual_seed(0))
    assert int(own_captions(many, True).sum()) == 3000


def test_gradient_caching_changes_neither_the_loss_nor_the_gradients() -> None:
    config = dataclasses.replace(CONFIGS["clip_cached"], sync_batch_norm=False)
    batch = {"images": batch_of(config, "images", 15, 0)}
    found = []
    for parts in (1, 4):
        assert isinstance(config.method, CLIP)
        torch.manual_seed(0)
        method = build_method(dataclasses.replace(config.method, gradient_cache=parts), config.model, 10)
        losses = method(batch)
        losses.total.backward()
        found.append((losses.total.detach(), [p.grad for p in method.parameters()]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-6)


def test_a_second_pass_leaves_no_trace_in_running_statistics() -> None:
    config = dataclasses.replace(CONFIGS["clip"], sync_batch_norm=False)
    assert isinstance(config.method, CLIP)
    method = build_method(dataclasses.replace(config.method, gradient_cache=2), config.model, 10)
    batch = {"images": batch_of(config, "images", 8, 0)}
    loss = method(batch).total
    before = copy.deepcopy(dict(method.named_buffers()))
    loss.backward()
    torch.testing.assert_close(dict(method.named_buffers()), before)


def test_the_scale_is_brought_back_below_100_and_above_1() -> None:
    config = dataclasses.replace(CONFIGS["clip"], sync_batch_norm=False)
    method = build_method(config.method, config.model, 10)
    assert isinstance(method, ImageTextMethod)
    assert float(method.towers.log_scale.exp().detach()) == pytest.approx(1 / 0.07)
    engine = Engine(method, config, 10, torch.device("cpu"))
    for start, end in ((9.0, math.log(100)), (-3.0, 0.0)):
        with torch.no_grad():
            method.towers.log_scale.fill_(start)
        parts, _ = engine.train_step({"images": batch_of(config, "images", 16, 0)}, StepInfo(0, 0.0, 0.0))
        assert float(parts["scale"]) == pytest.approx(math.exp(end))


def test_captions_are_cut_with_their_end_and_read_back() -> None:
    tokens = tokenizer(6)(["A  Photo of a cat", "one two three four five six"])
    assert tokens.dtype == torch.int64 and tokens.shape == (2, 6)
    assert tokens[0].tolist()[0] == 49406 and tokens[1].tolist()[-1] == 49407
    assert text_of(tokens[1].tolist()) == "one two three four"
    assert count_tokens("a photo of a cat") == 7


def test_a_class_is_the_mean_of_its_sentences() -> None:
    torch.manual_seed(0)
    towers = build_towers(ModelConfig(name="wrn_10_0.5"), dataclasses.replace(TEXT, context=12)).eval()
    config = ZeroShotConfig(templates=("a photo of a {}.", "my {}"), names=(("b_c", "bee"),))
    texts = sentences(config, ("red_cat", "b_c"))
    assert texts == [["a photo of a red cat.", "my red cat"], ["a photo of a bee.", "my bee"]]
    found = class_embeddings(towers, texts, torch.device("cpu"))
    for row, own_texts in zip(found, texts, strict=True):
        with torch.no_grad():
            each = [towers.text(tokenizer(12)([text]))[0].double() for text in own_texts]
        mean = sum((x / x.norm() for x in each), torch.zeros(16, dtype=torch.float64)) / 2
        torch.testing.assert_close(row.double(), mean / mean.norm(), rtol=1e-5, atol=1e-6)
    x = torch.randn(3, 3, 8, 8)
    with torch.no_grad():
        logits = classifier_of(towers, found, torch.tensor([20.0])).eval()(x)
        torch.testing.assert_close(logits, 20 * towers.embed_images(x) @ found.T)


def test_published_templates_and_names_are_whole() -> None:
    classes = tuple(f"n{number:08d}" for number in range(1000))
    assert len(sentences(ZeroShotConfig(templates=("imagenet",)), ("cat",))[0]) == 80
    assert "itap of a cat." in sentences(ZeroShotConfig(templates=("simple",)), ("cat",))[0]
    assert sentences(ZeroShotConfig(templates=("{}",), names="imagenet"), classes)[0] == ["tench"]
    with pytest.raises(ConfigError, match="names for 1,000 classes, the data has 2"):
        sentences(ZeroShotConfig(names="imagenet"), ("a", "b"))
    with pytest.raises(ConfigError, match="'dog' is not one of the 1 classes"):
        sentences(ZeroShotConfig(names=(("dog", "hound"),)), ("cat",))


def test_recall_counts_any_right_answer() -> None:
    bank = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.9, 0.1], [-1.0, 0.0]])
    queries = torch.tensor([[1.0, 0.05], [0.0, 1.0]])
    found = recalls(queries, bank, np.array([2, 9]), np.array([0, 1, 2, 3]), ranks=(1, 2))
    assert found == {"recall_at_1": 0.0, "recall_at_2": 0.5}


def test_the_projection_is_the_classes_span_without_what_they_share() -> None:
    torch.manual_seed(0)
    classes = F.normalize(torch.randn(4, 9) + 3, dim=1)
    left, _, _ = np.linalg.svd(classes.double().numpy().T)
    wanted = left[:, 1:4] @ left[:, 1:4].T
    np.testing.assert_allclose(class_directions(classes, 4), wanted, atol=1e-5)
    np.testing.assert_allclose(class_directions(classes, 3), left[:, 1:3] @ left[:, 1:3].T, atol=1e-5)


def test_labels_spread_as_the_dense_system_says() -> None:
    torch.manual_seed(0)
    points = F.normalize(torch.randn(40, 6), dim=1)
    k, alpha, classes, count = 5, 0.9, 3, 40
    x = points.double().numpy()
    affinity = (x @ x.T + 1) / 2
    np.fill_diagonal(affinity, 0)
    kept = np.zeros_like(affinity)
    for i in range(count):
        for j in np.argsort(-affinity[i])[:k]:
            kept[i, j] = affinity[i, j]
    weight = (kept + kept.T) / 2
    degree = weight.sum(1)
    normed = weight / np.sqrt(degree[:, None] * degree[None])
    scores = np.linalg.solve(np.eye(count) - alpha * normed, np.eye(count)[:, :classes])
    shares = scores / scores.sum(1, keepdims=True)
    confidence = 1 + (shares * np.log(shares)).sum(1) / math.log(classes)
    label, found = propagate(points, classes, neighbors=k, alpha=alpha, iterations=200, tolerance=1e-10)
    assert label.tolist() == scores.argmax(1).tolist()
    np.testing.assert_allclose(found, confidence, atol=1e-5)


def test_a_class_that_loses_all_its_points_keeps_its_vector() -> None:
    features = F.normalize(torch.tensor([[1.0, 0.2], [1.0, -0.2], [0.0, 1.0]]), dim=1)
    before = torch.tensor([[0.0, 1.0], [1.0, 0.0], [-1.0, 0.0]])
    found = centroids(features, torch.tensor([1, 1, 0]), before)
    torch.testing.assert_close(found, torch.tensor([[0.0, 1.0], [1.0, 0.0], [-1.0, 0.0]]))


def test_public_weights_give_open_clips_embeddings(tmp_path: Path) -> None:
    import open_clip
    from safetensors.torch import save_file

    torch.manual_seed(0)
    theirs: Any = open_clip.create_model("ViT-S-32-alt").eval()
    x, tokens = torch.randn(2, 3, 224, 224), tokenizer(77)(["a cat", "a photo of two dogs"])
    with torch.no_grad():
        wanted = F.normalize(theirs.encode_image(x), dim=1), F.normalize(theirs.encode_text(tokens), dim=1)
    file, pickled = tmp_path / "clip.safetensors", tmp_path / "clip.pt"
    save_file(theirs.state_dict(), file)
    torch.save({"state_dict": {f"module.{n}": v for n, v in theirs.state_dict().items()}}, pickled)
    model = ModelConfig(name="open_clip:ViT-S-32-alt")
    for source in (file, pickled):
        towers = read_towers(source, model)
        with torch.no_grad():
            torch.testing.assert_close((towers.embed_images(x), towers.embed_captions(tokens)), wanted)
        assert float(towers.log_scale.detach()) == pytest.approx(math.log(1 / 0.07), rel=1e-5)
    assert towers.config == TextConfig(width=256, depth=10, heads=4, embed_dim=256)
    with pytest.raises(DataError, match="holds no weights of open_clip:RN50"):
        read_towers(file, ModelConfig(name="open_clip:RN50"))


def test_first_weights_of_both_towers_or_of_the_image_tower_alone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, image = ModelConfig(name="wrn_10_0.5"), ImageConfig(size=8)
    towers = build_towers(model, TEXT)
    checkpoint.save_model(tmp_path, towers, checkpoint.describe_model(towers, model, image, ()))
    method = build_method(CLIP(text=TEXT), model, 10)
    first_weights.initialize_method(method, tmp_path, ())
    torch.testing.assert_close(method.result.state_dict(), towers.state_dict())
    for other in (
        build_method(CLIP(text=dataclasses.replace(TEXT, depth=2)), model, 10),
        build_method(SimCLR(), model, 10),
    ):
        first_weights.initialize_method(other, tmp_path, ())
        backbone: Any = first_weights.backbones(other)[0]
        torch.testing.assert_close(backbone.state_dict(), towers.backbone.state_dict())
    classifier = build_classifier(model, 10)
    first_weights.initialize(classifier, tmp_path, ("a", "b"))
    torch.testing.assert_close(classifier.backbone.state_dict(), towers.backbone.state_dict())
    loaded = checkpoint.load_towers(tmp_path)
    torch.testing.assert_close(loaded.state_dict(), towers.state_dict())
    described = checkpoint.describe_model(classifier, model, image, tuple("abcdefghij"))
    checkpoint.save_model(tmp_path, classifier, described)
    with pytest.raises(DataError, match="has no text tower"):
        checkpoint.load_towers(tmp_path)


def test_two_networks_are_one_classifier_after_loading(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = ModelConfig(name="wrn_10_0.5")
    members = [classifier_of(build_towers(model, TEXT), torch.randn(3, 16), torch.tensor([5.0])) for _ in range(2)]
    both = together(members).eval()
    checkpoint.save_model(tmp_path, both, checkpoint.describe_model(both, model, ImageConfig(size=8), ("a", "b", "c")))
    loaded, info = checkpoint.load_model(tmp_path)
    x = torch.randn(4, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(loaded(x), (members[0](x) + members[1](x)) / 2)
    assert (info.members, info.cosine_dim) == (2, 16)


def test_names_that_open_clip_does_not_have_are_one_line() -> None:
    with pytest.raises(ConfigError, match="open_clip has no model 'ViT-B32'; it has, among others, ViT-B-32"):
        build_towers(ModelConfig(name="open_clip:ViT-B32"), TextConfig())
    with pytest.raises(ConfigError, match="comes from the Hugging Face hub"):
        build_towers(ModelConfig(name="open_clip:ViT-B-16-SigLIP"), TextConfig())
    assert "leave method.text out" in str(CLIP(text=TEXT).unsupported_model(ModelConfig(name="open_clip:RN50"), 224))
    assert "224 pixels, not of 64" in str(CLIP().unsupported_model(ModelConfig(name="open_clip:RN50"), 64))
