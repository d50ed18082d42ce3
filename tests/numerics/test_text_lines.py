"""Lines of text: CTC and consistency against literal transcriptions in float64, decoding, error rates, line images."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sslscale.data import alphabet
from sslscale.data.augment import make_view
from sslscale.data.plan import make_plan, num_draws
from sslscale.data.preparation import Preparation, line_view
from sslscale.errors import DataError
from sslscale.evaluate.reading import edit_distance, measure_reading
from sslscale.methods.method import StepInfo, build_method
from sslscale.methods.text_lines import agreement, read_as
from sslscale.methods.text_uda.method import column_divergence
from sslscale.nn import ctc
from sslscale.nn.recognizer import AttentionHead, CTCHead, Recognizer, build_recognizer, columns
from sslscale.settings.augment import AugmentConfig, BlurConfig, JitterConfig, RandAugmentConfig
from sslscale.settings.model import ModelConfig
from tests.configurations import CONFIGS, batch_of


def collapse(path: Any) -> tuple[int, ...]:
    """B of the paper: repeats are one, blanks are none."""
    return tuple(char for char, _ in itertools.groupby(path) if char != 0)


def test_ctc_is_the_sum_over_all_alignments() -> None:
    torch.manual_seed(0)
    log_probs = torch.randn(4, 5, 3, dtype=torch.float64).log_softmax(2)
    texts: list[tuple[int, ...]] = [(1, 2), (1, 1), (2,), ()]
    tokens = torch.tensor([[*text, *[0] * (3 - len(text))] for text in texts])
    lengths = torch.tensor([len(text) for text in texts])
    found = ctc.ctc_by_columns(log_probs, tokens, lengths)
    for n, text in enumerate(texts):
        total = 0.0
        for path in itertools.product(range(3), repeat=5):
            if collapse(path) == text:
                total += math.exp(sum(float(log_probs[n, t, char]) for t, char in enumerate(path)))
        assert float(found[n]) == pytest.approx(-math.log(total), rel=1e-9)


def test_both_losses_and_their_gradients_are_alike_and_too_long_a_text_costs_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    logits = torch.randn(6, 12, 8, requires_grad=True)
    lengths = torch.tensor([1, 3, 5, 2, 7, 7])
    tokens = torch.randint(1, 8, (6, 9)) * (torch.arange(9) < lengths[:, None])
    tokens[5, :7] = 3  # seven equal characters need thirteen columns
    native = ctc.ctc_loss(logits, tokens, lengths)
    (gradient,) = torch.autograd.grad(native.sum(), logits)
    monkeypatch.setattr(ctc, "NATIVE", ())
    own = ctc.ctc_loss(logits, tokens, lengths)
    (other,) = torch.autograd.grad(own.sum(), logits)
    torch.testing.assert_close(own, native, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(other, gradient, rtol=1e-4, atol=1e-6)
    assert float(own[5].detach()) == 0 and not other[5].any() and (own.detach()[:5] > 0).all()


def test_the_best_path_is_that_of_the_most_probable_columns() -> None:
    torch.manual_seed(0)
    logits = 3 * torch.randn(50, 9, 4)
    tokens, lengths, confidence = ctc.best_path(logits)
    for n in range(50):
        path = logits[n].argmax(1).tolist()
        text = collapse(path)
        assert tuple(tokens[n, : int(lengths[n])].tolist()) == text and not tokens[n, int(lengths[n]) :].any()
        probs = logits[n].double().softmax(1)
        mean = sum(math.log(float(probs[t, char])) for t, char in enumerate(path)) / 9
        assert float(confidence[n]) == pytest.approx(math.exp(mean), rel=1e-5)


def test_a_sure_reading_is_learned_and_no_other() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(8, 6, 4), 4 * torch.randn(8, 6, 4)
    teacher[0, :, 0] = 50.0  # surely empty
    head = CTCHead(4, 4)
    torch.nn.init.eye_(head.weight)
    torch.nn.init.zeros_(head.bias)
    found, kept = read_as(head, student, teacher, 0.8)
    total, sure = 0.0, []
    for n in range(8):
        probs = teacher[n].double().softmax(1)
        path = probs.argmax(1).tolist()
        mean = math.exp(sum(math.log(float(probs[t, c])) for t, c in enumerate(path)) / 6)
        text = collapse(path)
        sure.append(mean >= 0.8 and len(text) > 0)
        if sure[-1]:
            target = torch.tensor([text])
            native = F.ctc_loss(
                student[n, :, None].double().log_softmax(2),
                target,
                torch.tensor([6]),
                torch.tensor([len(text)]),
                reduction="none",
            )
            total += float(native) / len(text)
    assert kept.tolist() == sure and 0 < sum(sure) < 8 and not sure[0]
    assert float(found.detach()) == pytest.approx(total / 8, rel=1e-5)


def test_attention_writes_character_after_character() -> None:
    """A step at a time with scalars, as the paper's equations 1 to 5 say."""
    torch.manual_seed(0)
    head, seen = AttentionHead(5, 4, 3), 2 * torch.randn(6, 7, 5)
    for weights in head.parameters():
        weights.data *= 3  # so that readings differ in length
    tokens = torch.tensor([[1, 2, 3], [2, 2, 0], [3, 0, 0], [0, 0, 0], [1, 3, 0], [2, 1, 3]])
    lengths = (tokens > 0).sum(1)
    state = {name: value.double() for name, value in head.state_dict().items()}

    def written(line: torch.Tensor, given: list[int] | None) -> list[torch.Tensor]:
        h = c = torch.zeros(4, dtype=torch.float64)
        before, result = 0, []
        for step in range(7 if given is None else len(given) + 1):
            scores = torch.stack(
                [
                    state["score.weight"][0]
                    @ torch.tanh(state["key.weight"] @ x + state["query.weight"] @ h + state["query.bias"])
                    for x in line
                ]
            )
            weights = scores.exp() / scores.exp().sum()
            context = (weights[:, None] * line).sum(0)
            x = torch.cat([context, torch.eye(4, dtype=torch.float64)[before]])
            gates = state["cell.weight_ih"] @ x + state["cell.bias_ih"] + state["cell.weight_hh"] @ h
            i, f, g, o = (gates + state["cell.bias_hh"]).split(4)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            result.append((state["char.weight"] @ h + state["char.bias"]).log_softmax(0))
            before = int(result[-1].argmax()) if given is None else (given[step] if step < len(given) else 0)
        return result

    with torch.no_grad():
        taught, free = head(seen, tokens), head(seen)
    losses = head.loss(taught, tokens, lengths)
    read, found, sure = head.text(free)
    ends = []
    for n in range(6):
        line, text = seen[n].double(), tokens[n, : int(lengths[n])].tolist()
        steps = written(line, text)
        wanted = -sum(float(step[char]) for step, char in zip(steps, [*text, 0], strict=True)) / (len(text) + 1)
        assert float(losses[n]) == pytest.approx(wanted, rel=1e-4)
        steps = written(line, None)
        path = [int(step.argmax()) for step in steps]
        end = path.index(0) if 0 in path else len(path)
        ends.append(end)
        assert read[n].tolist() == path[:end] + [0] * (7 - end) and int(found[n]) == end
        mean = np.mean([float(step.max()) for step in steps[: end + 1]])
        assert float(sure[n]) == pytest.approx(math.exp(mean), rel=1e-4)
    assert len(set(ends)) > 1


@pytest.mark.parametrize("name", ["crnn_0.1", pytest.param("crnn_attention_0.1", marks=pytest.mark.slow)])
def test_it_learns_to_read(name: str) -> None:
    """Bars of three heights as characters, on lines of 2 to 4."""
    torch.manual_seed(0)
    texts = torch.randint(1, 4, (64, 4)) * (torch.arange(4) < torch.randint(2, 5, (64, 1)))
    lines = torch.zeros(64, 3, 32, 48)
    for n, place in itertools.product(range(64), range(4)):
        lines[n, :, : 10 * int(texts[n, place]), 12 * place + 2 : 12 * place + 8] = 1.0
    network = build_recognizer(ModelConfig(name=name), 3)
    optim = torch.optim.Adam(network.parameters(), 0.01)
    lengths = (texts > 0).sum(1)
    for _ in range(100):
        logits = network.head(network.columns(lines), texts)
        loss = network.head.loss(logits, texts, lengths).mean()
        optim.zero_grad()
        loss.backward()
        optim.step()
    read, found, _ = network.head.text(network.eval()(lines))
    exact = (read[:, :4] == texts).all(1) & (found == lengths)
    assert float(exact.float().mean()) > 0.9


def test_columns_agree_and_diverge_as_written() -> None:
    torch.manual_seed(0)
    a, b = 2 * torch.randn(3, 4, 5), 2 * torch.randn(3, 4, 5)
    p, q = a.double().softmax(2), b.double().softmax(2)
    assert float(agreement(a, b)) == pytest.approx(float((p - q).square().sum()) / 60, rel=1e-5)
    distance, mask = column_divergence(a, b, 0.5, 0.4)
    sharp = (b.double() / 0.4).softmax(2)
    for n, t in itertools.product(range(3), range(4)):
        wanted = sum(float(sharp[n, t, c] * (sharp[n, t, c].log() - p[n, t, c].log())) for c in range(5))
        assert float(distance[n, t]) == pytest.approx(wanted, rel=1e-4)
        assert float(mask[n, t]) == (float(q[n, t].max()) >= 0.5 and int(q[n, t].argmax()) != 0)
    assert 0 < float(mask.sum()) < 12


def test_unlabelled_lines_count_more_as_the_weight_rises() -> None:
    config = CONFIGS["text_mean_teacher"]
    batch = {name: batch_of(config, name, size, 0) for name, size in config.batch_sizes.items()}
    totals = []
    for progress in (0.0, 0.15, 0.9):
        torch.manual_seed(0)
        method: Any = build_method(config.method, config.model, 10)
        method.prepare({"labeled": 200, "unlabeled": 200}, config)
        method.average.head.bias.data += torch.arange(11.0)
        method.before_step(StepInfo(0, progress, 0.0))
        losses = method(batch)
        parts = {name: float(value) for name, value in losses.parts.items()}
        weight = min(progress / 0.3, 1.0)
        assert float(losses.total) == pytest.approx(parts["labeled_loss"] + weight * parts["unlabeled_loss"], rel=1e-5)
        totals.append(float(losses.total))
    assert totals[0] < totals[1] < totals[2]
    assert method.momentum(0, 0.0) == 0 and method.momentum(10**6, 1.0) == 0.9


def test_the_network_has_a_column_for_each_four_pixels() -> None:
    assert columns(100) == 24  # as published
    network = Recognizer(1.0, 36)
    assert network(torch.randn(2, 3, 32, 100)).shape == (2, 24, 37)
    assert network.backbone.num_features == 512
    with pytest.raises(ValueError, match="is none of"):
        ModelConfig(name="crnn")


def test_error_rates_are_edit_distances_over_characters_and_words() -> None:
    rng = np.random.default_rng(0)

    def slow(a: str, b: str) -> int:
        if not a or not b:
            return len(a) + len(b)
        return min(slow(a[1:], b) + 1, slow(a, b[1:]) + 1, slow(a[1:], b[1:]) + (a[0] != b[0]))

    for _ in range(60):
        a, b = ("".join(rng.choice(list("abc"), rng.integers(0, 6))) for _ in range(2))
        assert edit_distance(a, b) == slow(a, b)
    said, true = ["một hai", "ba", "", "Bốn"], ["một hai", "bà năm", "sáu", "bốn"]
    found = measure_reading(said, true, ignore_case=False, resamples=200, seed=0)
    assert found["distances"] == [0, 5, 3, 1] and found["characters"] == 19
    assert found["cer"] == pytest.approx(9 / 19) and found["wer"] == pytest.approx((0 + 2 + 1 + 1) / 6)
    assert found["one_minus_ned"] == pytest.approx(1 - (0 + 5 / 6 + 1 + 1 / 3) / 4) and found["exact"] == 0.25
    assert found["cer_interval"][0] < found["cer"] < found["cer_interval"][1]
    folded = measure_reading(said, true, ignore_case=True, resamples=200, seed=0)
    assert folded["exact"] == 0.5


def test_letters_and_their_marks_are_one_character(tmp_path: Any) -> None:
    apart = "ti\u0302\u0301ng  Vie\u0323\u0302t "  # t i ^ ´ n g, V i e . ^ t
    assert alphabet.normal(apart) == "tî\u0301ng Việt" or alphabet.normal(apart) == "tîńng Việt"
    text = alphabet.normal("tie\u0302\u0301ng Vie\u0323\u0302t")
    assert text == "tiếng Việt" and len(text) == 10
    chars = tuple(sorted(set(text)))
    rows = alphabet.encode([text, "ti"], chars, 12)
    assert rows.dtype == np.uint16 and not rows[1, 2:].any()
    assert [alphabet.decode(row.tolist(), chars) for row in rows] == [text, "ti"]
    for wrong, kind in (("", "empty"), ("x" * 13, "too long"), ("tix", "with other characters"), (text, "")):
        assert alphabet.why_unusable(wrong, chars, 12) == kind
    (tmp_path / "chars.txt").write_text("ab\nc ", "utf-8")
    assert alphabet.read_alphabet(tmp_path / "chars.txt") == ("a", "b", "c", " ")
    (tmp_path / "chars.txt").write_text("aba", "utf-8")
    with pytest.raises(DataError, match="the character 'a' stands there twice"):
        alphabet.read_alphabet(tmp_path / "chars.txt")


def test_lines_keep_their_shape_and_are_filled_with_their_border() -> None:
    image = torch.full((3, 16, 40), 200, dtype=torch.uint8)
    image[:, 4:12, 4:36] = 10
    found = line_view(image, 32, 120)
    assert found.shape == (3, 32, 120) and (found[:, :, 80:] == 200).all()
    torch.testing.assert_close(found[:, :, :80], line_view(image, 32, 80))
    assert line_view(image, 32, 50).shape == (3, 32, 50)  # narrower than it was
    assert Preparation(32, width=120).shape_of_all([(16, 40), (20, 60)]) == (32, 120)


def test_views_of_lines_are_as_wide_as_the_lines() -> None:
    torch.manual_seed(0)
    images = torch.randint(0, 256, (5, 3, 32, 100), dtype=torch.uint8)
    for config in (
        AugmentConfig(),
        AugmentConfig(blur=BlurConfig(), jitter=JitterConfig(hue=0.0)),
        AugmentConfig(randaugment=RandAugmentConfig(magnitude=7), erase=1.0),
    ):
        plan = make_plan(torch.rand(5, num_draws(config)), config, 32, 32, 100, 100)
        view = make_view(images, plan, config, 32, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
        assert view.shape == (5, 3, 32, 100)
        if config == AugmentConfig():
            torch.testing.assert_close(view, images / 255)
        elif plan.erased is not None:
            assert float((plan.erased[:, 1] + plan.erased[:, 3]).max()) > 32  # boxes lie anywhere in the line
