"""deploy/k8s without a cluster: valid by Kubernetes' own schema, and everything it names exists in the code."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from sieis_platform.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
MANIFEST = ROOT / "deploy" / "k8s" / "dagster-code.yaml"
TEXT = MANIFEST.read_text()
OBJECTS: dict[str, dict[str, Any]] = {found["kind"]: found for found in yaml.safe_load_all(TEXT)}
POD = OBJECTS["Deployment"]["spec"]["template"]
CONTAINER = POD["spec"]["containers"][0]
COMPOSED = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["dagster-code"]
#: The settings that the secret is said to hold.
SECRET = set(re.findall(r"SIEIS_\w+", "".join(re.findall(r"^#       (.+)$", TEXT, re.MULTILINE))))


def test_it_is_valid_by_the_schema_of_kubernetes() -> None:
    validator = Path(sys.executable).with_name("kubernetes-validate")
    done = subprocess.run([str(validator), "--strict", str(MANIFEST)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_it_runs_what_compose_runs_where_a_workspace_looks_for_it() -> None:
    assert CONTAINER["args"] == COMPOSED["command"]  # which test_compose.py holds to the command line
    (port,) = CONTAINER["ports"]
    (served,) = OBJECTS["Service"]["spec"]["ports"]
    assert port["containerPort"] == served["port"] == int(CONTAINER["args"][-1])
    assert served["targetPort"] == port["name"]
    assert OBJECTS["Service"]["spec"]["selector"].items() <= POD["metadata"]["labels"].items()
    assert OBJECTS["Deployment"]["spec"]["selector"]["matchLabels"].items() <= POD["metadata"]["labels"].items()


@pytest.mark.parametrize("probe", ["startupProbe", "readinessProbe", "livenessProbe"])
def test_it_is_asked_for_its_health_as_dagster_s_own_client_asks(probe: str) -> None:
    from dagster._grpc import client

    asked = CONTAINER[probe]["grpc"]
    assert asked["port"] == CONTAINER["ports"][0]["containerPort"]
    assert f'service="{asked["service"]}"' in Path(client.__file__).read_text()


def test_it_is_told_what_compose_tells_and_secrets_lie_apart() -> None:
    config = OBJECTS["ConfigMap"]["data"]
    assert [entry[kind]["name"] for entry in CONTAINER["envFrom"] for kind in entry] == [
        OBJECTS["ConfigMap"]["metadata"]["name"],
        "sieis-secrets",
    ]
    fields = {f"SIEIS_{name.upper()}": field for name, field in Settings.model_fields.items()}
    assert {*config, *SECRET} - {*fields, "DAGSTER_HOME"} == set()
    assert [name for name in config if name in fields and "SecretStr" in str(fields[name].annotation)] == []
    # In compose the token comes from `sieis setup`, and some settings are passed on only where somebody has set them.
    composed = {name for name, value in COMPOSED["environment"].items() if ":-" not in str(value)}
    assert {*config, *SECRET} - {"SIEIS_INFLUX_TOKEN"} == composed - {"SIEIS_DAGSTER_CODE"}
    for name, value in config.items():
        assert value == COMPOSED["environment"][name]


def test_it_runs_as_the_image_s_user_on_the_volume_of_the_image() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    user = POD["spec"]["securityContext"]
    assert f"USER {user['runAsUser']}:{user['runAsGroup']}" in dockerfile
    assert user["runAsNonRoot"] is True
    assert CONTAINER["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    (mount,), (volume,) = CONTAINER["volumeMounts"], POD["spec"]["volumes"]
    assert mount["name"] == volume["name"]
    assert f"VOLUME {mount['mountPath']}" in dockerfile
    assert volume["persistentVolumeClaim"]["claimName"] == OBJECTS["PersistentVolumeClaim"]["metadata"]["name"]
