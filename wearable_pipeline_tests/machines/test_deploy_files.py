"""The files `wearable-pipeline deploy` writes: what a cluster would refuse is refused here."""

import importlib.util
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from dagster._core.instance.config import dagster_instance_config
from dagster._serdes import ConfigurableClassData
from typer.testing import CliRunner

import wearable_pipeline
from wearable_pipeline.cli import app
from wearable_pipeline.deploy import SOURCE
from wearable_pipeline.orchestration.celery_launcher import WatchfulCeleryRunLauncher
from wearable_pipeline.orchestration.instance import INSTANCE_FILE

ROOT = Path(wearable_pipeline.__file__).parents[1]
KUBERNETES = "1.34"
MANIFESTS = sorted(
    path for path in (SOURCE / "kubernetes").glob("*.yaml") if path.name != "values.yaml"
)
# Keys of Dagster's chart 1.13 that the values use, and what each must be. A key that is not here was not
# compared with the chart.
CHART: Mapping[str, Any] = {
    "global": {"postgresqlSecretName": str},
    "generatePostgresqlPasswordSecret": bool,
    "generateCeleryConfigSecret": bool,
    "postgresql": {
        "enabled": bool,
        "postgresqlHost": str,
        "postgresqlUsername": str,
        "postgresqlDatabase": str,
        "service": {"port": int},
    },
    "rabbitmq": {"enabled": bool},
    "redis": {"enabled": bool},
    "dagsterWebserver": {"replicaCount": int, "@pod": True},
    "dagsterDaemon": {
        "enabled": bool,
        "runCoordinator": {"enabled": bool},
        "runMonitoring": {"enabled": bool},
        "sensors": {"useThreads": bool, "numWorkers": int, "numSubmitWorkers": int},
        "schedules": {"useThreads": bool, "numWorkers": int},
        "@pod": True,
    },
    "additionalInstanceConfig": dict,
    "runLauncher": {
        "type": str,
        "config": {"customRunLauncher": {"module": str, "class": str, "config": dict}},
    },
    "computeLogManager": {"type": str},
    "telemetry": {"enabled": bool},
    "retention": {
        "enabled": bool,
        "sensor": {"purgeAfterDays": dict},
        "schedule": {"purgeAfterDays": dict},
    },
    "dagster-user-deployments": {"enabled": bool, "enableSubchart": bool, "deployments": list},
}
POD_KEYS: Mapping[str, Any] = {
    "image": {"repository": str, "tag": str, "pullPolicy": str},
    "envConfigMaps": list,
    "envSecrets": list,
    "resources": dict,
    "podSecurityContext": dict,
    "securityContext": dict,
}
DEPLOYMENT_KEYS = {**POD_KEYS, "name": str, "codeServerArgs": list, "port": int}


def documents() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in MANIFESTS:
        for document in yaml.safe_load_all(path.read_text()):
            yield path.name, document


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    for _, document in documents():
        if document["kind"] in ("Deployment", "Job"):
            yield document["metadata"]["name"], document["spec"]["template"]["spec"]


@pytest.fixture
def values() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((SOURCE / "kubernetes" / "values.yaml").read_text())
    return found


@pytest.fixture
def instance_file() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((SOURCE / "dagster.yaml").read_text())
    return found


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_a_manifest_is_what_kubernetes_knows(path: Path) -> None:
    found = list(yaml.safe_load_all(path.read_text()))
    assert found
    for document in found:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)


def test_a_manifest_with_a_wrong_field_is_found_out() -> None:
    _, document = next(one for one in documents() if one[1]["kind"] == "Deployment")
    document["spec"]["template"]["spec"]["containers"][0]["enviroment"] = []
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(document, KUBERNETES, strict=True)


def test_pods_run_as_nobody_in_particular_within_bounds() -> None:
    names = []
    for name, pod in pods():
        names.append(name)
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["automountServiceAccountToken"] is False, name
        for container in pod["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True, name
            assert container["securityContext"]["allowPrivilegeEscalation"] is False, name
            assert {"requests", "limits"} <= container["resources"].keys(), name
    assert names == ["wearable-api", "wearable-migrate", "wearable-redis", "wearable-worker"]


def test_selectors_find_their_pods_and_policies_their_targets() -> None:
    labels = {
        document["metadata"]["name"]: document["spec"]["template"]["metadata"]["labels"]
        for _, document in documents()
        if document["kind"] in ("Deployment", "Job")
    }
    for _, document in documents():
        name, spec = document["metadata"]["name"], document.get("spec", {})
        if document["kind"] in ("Deployment", "PodDisruptionBudget"):
            assert spec["selector"]["matchLabels"].items() <= labels[name].items()
        if document["kind"] == "Service":
            assert spec["selector"].items() <= labels[name].items()
        if document["kind"] == "NetworkPolicy" and "matchExpressions" in spec["podSelector"]:
            (rule,) = spec["podSelector"]["matchExpressions"]
            assert set(rule["values"]) <= {one[rule["key"]] for one in labels.values()}


def test_secrets_come_by_reference_and_every_reference_is_in_the_example() -> None:
    example = {
        document["metadata"]["name"]: document["stringData"]
        for name, document in documents()
        if name == "secrets.example.yaml"
    }
    assert all(
        name == "secrets.example.yaml" for name, one in documents() if one["kind"] == "Secret"
    )
    for name, pod in pods():
        for container in pod["containers"]:
            for source in container.get("envFrom", []):
                if "secretRef" in source:
                    assert source["secretRef"]["name"] in example, name
            for variable in container.get("env", []):
                wanted = variable["valueFrom"]["secretKeyRef"]
                assert wanted["key"] in example[wanted["name"]], name
    config = next(one for name, one in documents() if name == "config.yaml")["data"]
    assert not set(config) & set(example["wearable-secrets"])


def test_all_roles_run_the_same_image_of_this_version(values: dict[str, Any]) -> None:
    ours = {
        container["image"]
        for name, pod in pods()
        if name != "wearable-redis"
        for container in pod["containers"]
    }
    image = values["dagsterWebserver"]["image"]
    assert ours == {f"{image['repository']}:{image['tag']}"}
    assert image["tag"] == wearable_pipeline.__version__
    assert values["dagsterDaemon"]["image"] == image


def test_what_the_pods_start_is_there() -> None:
    for name, pod in pods():
        for container in pod["containers"]:
            program, *words = container["command"]
            if program == "wearable-pipeline":
                result = CliRunner().invoke(app, [*words, "--help"])
                assert result.exit_code == 0, name
            elif program == "celery":
                assert importlib.util.find_spec(words[words.index("-A") + 1]) is not None


def test_the_values_use_keys_the_chart_has(values: dict[str, Any]) -> None:
    def compare(given: Mapping[str, Any], known: Mapping[str, Any], where: str) -> None:
        if known.get("@pod"):
            known = {**POD_KEYS, **known}
        for key, value in given.items():
            assert key in known, f"{where}{key}"
            if isinstance(known[key], dict):
                compare(value, known[key], f"{where}{key}.")
            else:
                assert isinstance(value, known[key]), f"{where}{key}"

    compare(values, CHART, "")
    for deployment in values["dagster-user-deployments"]["deployments"]:
        compare(deployment, DEPLOYMENT_KEYS, "deployment.")


def test_the_kubernetes_parts_of_the_values_are_what_kubernetes_knows(
    values: dict[str, Any],
) -> None:
    for part in (
        values["dagsterWebserver"],
        values["dagsterDaemon"],
        *values["dagster-user-deployments"]["deployments"],
    ):
        container = {
            "name": "any",
            "image": f"{part['image']['repository']}:{part['image']['tag']}",
            "imagePullPolicy": part["image"]["pullPolicy"],
            "resources": part["resources"],
            "securityContext": part["securityContext"],
            "envFrom": [
                *({"configMapRef": one} for one in part["envConfigMaps"]),
                *({"secretRef": one} for one in part["envSecrets"]),
            ],
        }
        pod = {"containers": [container], "securityContext": part["podSecurityContext"]}
        manifest = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "any"},
            "spec": pod,
        }
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


def test_the_chart_and_the_file_make_the_same_instance(
    values: dict[str, Any], instance_file: dict[str, Any]
) -> None:
    added = values["additionalInstanceConfig"]
    for key in ("run_monitoring", "concurrency", "nux"):
        assert added[key] == instance_file[key], key
    # The chart would write these keys a second time.
    assert values["dagsterDaemon"]["runMonitoring"] == {"enabled": False}
    assert values["dagsterDaemon"]["runCoordinator"] == {"enabled": False}
    launcher = values["runLauncher"]["config"]["customRunLauncher"]
    assert launcher == instance_file["run_launcher"]
    for key in ("sensor", "schedule"):
        chart = values["retention"][key]["purgeAfterDays"]
        assert chart == instance_file["retention"][key]["purge_after_days"]


def test_both_instance_files_bound_lanes_and_runtime_alike(instance_file: dict[str, Any]) -> None:
    local = yaml.safe_load(INSTANCE_FILE.read_text())
    limits = instance_file["concurrency"]["runs"]["tag_concurrency_limits"]
    assert limits == local["concurrency"]["runs"]["tag_concurrency_limits"]
    for key in ("enabled", "max_runtime_seconds", "free_slots_after_run_end_seconds"):
        assert instance_file["run_monitoring"][key] == local["run_monitoring"][key]


def test_dagster_accepts_the_file_and_its_launcher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", "postgresql://nobody@127.0.0.1:1/none")
    monkeypatch.setenv("DAGSTER_CELERY_BROKER_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setenv("DAGSTER_CELERY_BACKEND_URL", "redis://127.0.0.1:1/1")
    (tmp_path / "dagster.yaml").write_text((SOURCE / "dagster.yaml").read_text())
    config, _ = dagster_instance_config(str(tmp_path))
    told = config["run_launcher"]
    made = ConfigurableClassData(
        told["module"], told["class"], yaml.safe_dump(told["config"])
    ).rehydrate(WatchfulCeleryRunLauncher)
    assert made.celery.conf.broker_url == "redis://127.0.0.1:1/0"
    assert made.celery.conf.worker_disable_prefetch is True


def test_the_image_is_made_from_what_the_repository_holds() -> None:
    text = (SOURCE / "Dockerfile").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for extra in re.findall(r"--extra (\w+)", text):
        assert extra in project["optional-dependencies"]
    sources = [
        word
        for line in re.findall(r"^COPY (?!--from)(.*)$", text, re.MULTILINE)
        for word in line.split()[:-1]
        if not word.startswith("--")
    ]
    assert sources
    assert all((ROOT / source).exists() for source in sources), sources


def test_files_are_written_once_and_stay_as_their_owner_left_them(tmp_path: Path) -> None:
    runner = CliRunner()
    first = runner.invoke(app, ["deploy", str(tmp_path / "deploy")])
    assert first.exit_code == 0, first.output
    own = tmp_path / "deploy" / "kubernetes" / "values.yaml"
    own.write_text("mine: true\n")
    again = runner.invoke(app, ["deploy", str(tmp_path / "deploy")])
    assert again.output == ""
    assert own.read_text() == "mine: true\n"
    assert (tmp_path / "deploy" / "dagster.yaml").read_bytes() == (
        SOURCE / "dagster.yaml"
    ).read_bytes()
    assert not list((tmp_path / "deploy").rglob("*.py"))


def test_migrating_makes_everything_and_may_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEARABLE_HOME", str(tmp_path / "home"))
    for _ in range(2):
        result = CliRunner().invoke(app, ["migrate"])
        assert result.exit_code == 0, result.output
    assert (tmp_path / "home" / "registry.sqlite").exists()
    assert (tmp_path / "home" / "dagster" / "dagster.yaml").exists()
