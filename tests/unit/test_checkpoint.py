"""Checkpoints: whole or absent, bit for bit, and never loaded in part."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from sslscale.errors import DataError
from sslscale.nn.classifier import Classifier, build_classifier, num_parameters
from sslscale.settings.model import ImageConfig, ModelConfig
from sslscale.storage import jsonio, sums
from sslscale.train import checkpoint

CPU = torch.device("cpu")
SMALL = ModelConfig(name="wrn_10_0.5")


def state(step: int) -> dict:
    torch.manual_seed(step)
    network = build_classifier(SMALL, 3)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    network(torch.randn(4, 3, 8, 8)).sum().backward()
    optimizer.step()
    loader = {"step": step, "batch_sizes": {"labeled": 4}}
    return {"method": network.state_dict(), "optimizer": optimizer.state_dict(), "loader": loader}


def same(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.equal(b)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def test_a_state_comes_back_bit_for_bit_and_only_two_are_kept(tmp_path: Path) -> None:
    assert checkpoint.load_state(tmp_path / "state", CPU) is None
    for step in (10, 20, 30):
        checkpoint.save_state(tmp_path / "state", step, state(step))
    step, found = checkpoint.load_state(tmp_path / "state", CPU) or (0, {})
    assert step == 30
    assert same(found, state(30))
    assert [p.name for p in sorted((tmp_path / "state").iterdir())] == ["step-00000020", "step-00000030"]


@pytest.mark.parametrize("file", ["method.safetensors", "optimizer.pt", "commit.json"])
@pytest.mark.parametrize("fault", ["cut", "gone", "flipped"])
def test_a_damaged_state_gives_way_to_the_one_before(tmp_path: Path, file: str, fault: str) -> None:
    for step in (10, 20):
        checkpoint.save_state(tmp_path, step, state(step))
    victim = tmp_path / "step-00000020" / file
    data = bytearray(victim.read_bytes())
    if fault == "gone":
        victim.unlink()
    elif fault == "cut":
        victim.write_bytes(data[: len(data) // 2])
    else:
        data[len(data) // 2] ^= 0xFF
        victim.write_bytes(data)
    step, found = checkpoint.load_state(tmp_path, CPU) or (0, {})
    assert step == 10
    assert same(found, state(10))


def test_leftovers_of_a_killed_save_are_removed(tmp_path: Path) -> None:
    checkpoint.save_state(tmp_path, 10, state(10))
    (tmp_path / "tmp-dead").mkdir()
    (tmp_path / "tmp-dead" / "method.safetensors").write_bytes(b"half")
    assert (checkpoint.load_state(tmp_path, CPU) or (0,))[0] == 10
    checkpoint.save_state(tmp_path, 20, state(20))
    assert not (tmp_path / "tmp-dead").exists()


def test_a_full_disk_keeps_the_old_state_and_says_where(tmp_path: Path) -> None:
    """A file-size limit in a process of its own is a full disk that needs no rights."""
    import subprocess
    import sys

    checkpoint.save_state(tmp_path, 10, state(10))
    script = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from tests.unit.test_checkpoint import state, checkpoint\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "s = state(20); resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\n"
        f"checkpoint.save_state(Path({str(tmp_path)!r}), 20, s)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode != 0
    assert "sslscale.errors.ResourceError: " in done.stderr and "step 20 cannot be written" in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000010"]


def model(folder: Path, config: ModelConfig = SMALL) -> Classifier:
    network = build_classifier(config, 3)
    image = ImageConfig(size=8, mean=(0.1, 0.2, 0.3))
    checkpoint.save_model(folder, network, checkpoint.describe_model(network, config, image, ("a", "b", "c")))
    return network


def test_a_model_comes_back_with_what_it_is_fed(tmp_path: Path) -> None:
    network = model(tmp_path).eval()
    loaded, info = checkpoint.load_model(tmp_path)
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(loaded(x), network(x), rtol=1e-5, atol=1e-5)
    assert info.classes == ("a", "b", "c") and info.image.mean == (0.1, 0.2, 0.3)
    assert info.num_parameters == num_parameters(network)


def test_mismatched_weights_are_counted_and_refused(tmp_path: Path) -> None:
    model(tmp_path)
    deeper = build_classifier(ModelConfig(name="wrn_16_0.5"), 3)
    with pytest.raises(DataError, match=r"\d+ missing \(.*of \d+ tensors"):
        checkpoint.load_weights(deeper, tmp_path / "model.safetensors")
    wider = build_classifier(SMALL, 4)
    before = {n: t.clone() for n, t in wider.state_dict().items()}
    with pytest.raises(DataError, match=r"2 of another shape \(head\.bias, head\.weight\)"):
        checkpoint.load_weights(wider, tmp_path / "model.safetensors")
    assert same(dict(wider.state_dict()), before)
    plain = build_classifier(SMALL, 3)
    plain.head = torch.nn.Identity()  # type: ignore[assignment]
    with pytest.raises(DataError, match=r"2 unexpected \(head\.bias, head\.weight\)"):
        checkpoint.load_weights(plain, tmp_path / "model.safetensors")


@pytest.mark.parametrize("fault", ["{", "{}", '{"model": 3}', "[]"])
def test_an_unreadable_model_file_says_so(tmp_path: Path, fault: str) -> None:
    with pytest.raises(DataError, match="no checkpoint there"):
        checkpoint.load_model(tmp_path)
    (tmp_path / "model.json").write_text(fault)
    with pytest.raises(DataError, match=r"model\.json"):
        checkpoint.load_model(tmp_path)
    model(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(DataError, match="unreadable weights"):
        checkpoint.load_model(tmp_path)


def test_a_pickle_bomb_in_the_optimizer_state_does_not_run(tmp_path: Path) -> None:
    import os
    import pickle

    class Bomb:
        def __reduce__(self) -> tuple:
            return (os.system, (f"touch {tmp_path / 'ran'}",))

    checkpoint.save_state(tmp_path / "s", 10, state(10))
    folder = tmp_path / "s" / "step-00000010"
    (folder / "optimizer.pt").write_bytes(pickle.dumps(Bomb()))
    commit = jsonio.unsealed(json.loads((folder / "commit.json").read_text()))
    commit["files"]["optimizer.pt"] = sums.sha256(folder / "optimizer.pt")
    (folder / "commit.json").write_text(json.dumps(jsonio.sealed(commit)))
    with pytest.raises(pickle.UnpicklingError):
        checkpoint.load_state(tmp_path / "s", CPU)
    assert not (tmp_path / "ran").exists()
