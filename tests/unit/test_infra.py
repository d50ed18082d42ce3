"""What stands in infra/ is what its own tools take: schemas of Ray, Compose and Kubernetes, hadolint, shellcheck."""

from __future__ import annotations

import configparser
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import check_jsonschema
import jsonschema
import kubernetes_validate
import pytest
import ray.autoscaler
import yaml

INFRA = Path(__file__).parents[2] / "infra"
TOOLS = Path(sys.executable).parent


def read(name: str) -> Any:
    return yaml.safe_load((INFRA / name).read_text("utf-8"))


def tool(*words: str) -> str:
    done = subprocess.run([str(TOOLS / words[0]), *words[1:]], capture_output=True, text=True, timeout=60)
    return done.stdout + done.stderr if done.returncode else ""


@pytest.mark.parametrize("name", ["ray-aws.yaml", "ray-gcp.yaml"])
def test_the_cluster_launcher_files_match_their_schema(name: str) -> None:
    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    found = read(name)
    jsonschema.validate(found, schema)
    assert found["head_node_type"] in found["available_node_types"]
    spot = json.dumps(found["available_node_types"]["gpu"])
    assert "spot" in spot.lower()
    starts = [*found["head_start_ray_commands"], *found["worker_start_ray_commands"]]
    assert all("RAY_AUTH_MODE=token" in line for line in starts if "ray start" in line)
    assert any("--dashboard-host=127.0.0.1" in line for line in starts)


def test_compose_matches_its_schema_and_binds_the_loopback() -> None:
    schema = Path(check_jsonschema.__file__).parent / "builtin_schemas/vendor/compose-spec.json"
    found = read("compose.yaml")
    jsonschema.validate(found, json.loads(schema.read_text()))
    ports = [port for service in found["services"].values() for port in service.get("ports", [])]
    assert ports and all(port.startswith("127.0.0.1:") for port in ports)
    secrets = re.findall(r"\$\{(\w+)(:\?)?", (INFRA / "compose.yaml").read_text("utf-8"))
    expected = {"POSTGRES_PASSWORD", "S3_KEY", "S3_SECRET", "MLFLOW_PASSWORD", "MLFLOW_SECRET_KEY"}
    assert {name for name, _ in secrets} == expected
    assert {name for name, required in secrets if required} == {name for name, _ in secrets}  # no default password
    server = found["services"]["mlflow"]
    assert "--app-name=basic-auth" in server["command"] and server["read_only"] and server["cap_drop"] == ["ALL"]
    options = configparser.ConfigParser()
    options.read_string(found["configs"]["auth"]["content"])
    assert options["mlflow"]["authorization_function"].endswith(":authenticate_request_basic_auth")


@pytest.mark.parametrize("name", ["kuberay-cluster.yaml", "kuberay-job.yaml"])
def test_kubernetes_manifests_match_their_schemas(name: str) -> None:
    found = read(name)
    assert found["apiVersion"] == "ray.io/v1" and found["kind"] in ("RayCluster", "RayJob")
    spec = found["spec"] if found["kind"] == "RayCluster" else found["spec"]["rayClusterSpec"]
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    assert len(groups) == 3
    for group in groups:
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, **group["template"]}
        kubernetes_validate.validate(pod, kubernetes_validate.latest_version(), strict=True)
        assert pod["spec"]["securityContext"]["runAsNonRoot"]
        assert all(one["securityContext"]["readOnlyRootFilesystem"] for one in pod["spec"]["containers"])
        environment = {one["name"]: one["value"] for one in pod["spec"]["containers"][0]["env"]}
        assert environment["RAY_AUTH_MODE"] == "token"
    if found["kind"] == "RayJob":
        config = found["spec"]["entrypoint"].split()[2]
        assert (INFRA.parent / config).exists()


def test_the_dockerfile_passes_lint_and_is_not_root() -> None:
    assert tool("hadolint", str(INFRA / "Dockerfile")) == ""
    lines = (INFRA / "Dockerfile").read_text("utf-8").splitlines()
    assert [line for line in lines if line.startswith("USER")] == ["USER 1000"]
    for line in lines:  # what is copied is there
        if line.startswith("COPY"):
            assert all((INFRA.parent / name).exists() for name in line.split()[1:-1])


def test_the_slurm_script_is_clean_and_asks_for_its_configuration() -> None:
    assert tool("shellcheck", str(INFRA / "slurm.sh"), str(INFRA.parent / ".ci" / "audit")) == ""
    done = subprocess.run(["bash", str(INFRA / "slurm.sh")], capture_output=True, text=True)
    assert done.returncode == 2 and "usage:" in done.stderr


def test_a_vulnerability_that_is_passed_over_has_a_reason() -> None:
    for line in (INFRA / "allowed-vulnerabilities.txt").read_text("utf-8").splitlines():
        assert line.startswith("#") or re.fullmatch(r"(CVE|GHSA|PYSEC)-\S+ \S.{20,}", line), line


def test_no_file_opens_a_port_to_the_world() -> None:
    for file in INFRA.iterdir():
        text = file.read_text("utf-8")
        assert "--dashboard-host=0.0.0.0" not in text and "LoadBalancer" not in text, file


def test_the_image_installs_the_versions_of_the_constraints_by_their_sums() -> None:
    """A file that somebody has replaced in an index is refused."""
    pins = dict(line.split("==") for line in (INFRA / "constraints.txt").read_text().splitlines() if "==" in line)
    text = (INFRA / "image-requirements.txt").read_text()
    entries = text.split("\n", 1)[1].replace(" \\\n    ", " ").strip().splitlines()
    for entry in entries:
        package, *sums = entry.split()
        name, version = package.split("==")
        assert pins[name] == version
        assert sums and all(re.fullmatch("--hash=sha256:[0-9a-f]{64}", one) for one in sums)
    named = {entry.split("==")[0] for entry in entries}
    assert {"torch", "torchvision", "ray", "webdataset", "mlflow-skinny", "deepspeed", "s3fs", "hatchling"} <= named
    assert "://" not in text
    assert "pip install --require-hashes -r infra/image-requirements.txt" in (INFRA / "Dockerfile").read_text()
