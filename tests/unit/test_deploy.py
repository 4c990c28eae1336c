"""deploy/: the ClearML server's compose file, read as Docker reads it; there is no Docker here."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

yaml = pytest.importorskip("yaml")

COMPOSE = Path(__file__).parents[2] / "deploy" / "clearml-server" / "compose.yaml"


@pytest.fixture(scope="module")
def compose():
    return yaml.safe_load(COMPOSE.read_text())


def test_each_image_has_a_version_and_no_registrys_name(compose):
    for name, service in compose["services"].items():
        assert re.fullmatch(r"[a-z]+(/[a-z]+)?:\d+\.\d+\.\d+", service["image"]), name


def test_each_service_has_a_health_check_and_waits_for_what_it_needs(compose):
    services = compose["services"]
    for name, service in services.items():
        check = service["healthcheck"]
        assert check["test"][0] in ("CMD", "CMD-SHELL"), name
        assert {"interval", "timeout", "retries", "start_period"} <= set(check), name
        assert service["restart"] == "unless-stopped"
        for needed, how in service.get("depends_on", {}).items():
            assert needed in services
            assert how == {"condition": "service_healthy"}
    assert set(services["apiserver"]["depends_on"]) == {"elasticsearch", "mongo", "redis"}
    # Each asks its own port: a copied check of another service passes for nothing.
    tests = [" ".join(service["healthcheck"]["test"]) for service in services.values()]
    assert len(set(tests)) == len(services)


def test_the_stores_keep_their_data_and_cannot_be_reached_from_outside(compose):
    used = set()
    for name, service in compose["services"].items():
        for volume in service.get("volumes", ()):
            used.add(volume.partition(":")[0])
        if name in ("elasticsearch", "mongo", "redis"):
            assert "ports" not in service
            assert service["networks"] == ["inside"]
            assert service["volumes"]
    assert used == set(compose["volumes"])
    assert compose["networks"]["inside"] == {"internal": True}


def test_the_ports_are_clearmls_and_open_to_this_machine_alone_by_default(compose):
    ports = [port for service in compose["services"].values() for port in service.get("ports", ())]
    assert sorted(port.rpartition("}:")[2] for port in ports) == [
        "8008:8008",
        "8080:80",
        "8081:8081",
    ]
    assert all(port.startswith("${CLEARML_BIND:-127.0.0.1}:") for port in ports)
    stores = compose["services"]["apiserver"]["environment"]
    hosts = {value for name, value in stores.items() if name.endswith("_SERVICE_HOST")}
    assert hosts == {"elasticsearch", "mongo", "redis"}
