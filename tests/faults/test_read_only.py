"""A run writes to its root, its scratch folder, the folder of temporary files and the home directory alone.

So a container's own file system may be read-only, as in infra/.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests import runs

# everything is read-only but what is mounted on top
_SCRIPT = """
set -e
mount --make-rprivate /
mount -t tmpfs none "$1"
mkdir "$1/home" "$1/tmp" "$1/runs"
mount --bind / /
mount -o remount,ro,bind /
if touch "$2" 2>/dev/null; then exit 99; fi
export HOME="$1/home" TMPDIR="$1/tmp" PYTHONDONTWRITEBYTECODE=1
folder=$1; shift 2
"$@" --root "$folder/runs"
"""


@pytest.mark.slow
def test_a_run_needs_no_more_to_write_to(tmp_path: Path) -> None:
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        pytest.skip("mount namespaces are not allowed here")
    config = runs.write(tmp_path, runs.SHORT_CONFIG, "short.yaml")
    command = [sys.executable, "-m", "sslscale", "run", str(config), "train.num_steps=40"]
    with tempfile.TemporaryDirectory(prefix="ro-", dir="/tmp") as folder:  # Ray's sockets need a short path
        done = subprocess.run(
            ["unshare", "--mount", "bash", "-c", _SCRIPT, "bash", folder, str(tmp_path / "forbidden"), *command],
            capture_output=True,
            text=True,
            cwd=runs.ROOT,
            timeout=280,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 of 4 stages ran" in done.stdout and "warning" not in done.stdout + done.stderr, done.stdout
