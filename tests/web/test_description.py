"""The API's description is true: schemathesis finds no answer that it does not know, and none that is our fault."""

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.web.conftest import Client
from tests.web.sender import CLOSED, make_secret
from tests.web.served import Served
from tests.web.test_access import asks_for_a_signature, routes
from tests.web.test_serving import first_token
from worker.web.app import PUBLIC

_CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,"
    "response_schema_conformance,unsupported_method"
)


def test_schemathesis_finds_nothing(redis_url: str, tmp_path: Path) -> None:
    token = first_token(redis_url)
    events = {"EXPUNGE_EVENT_SECRETS": make_secret(), "EXPUNGE_EVENT_TYPES": CLOSED}
    with Served(tmp_path, redis_url, **events) as served:
        batch = httpx.post(
            f"{served.url}/v1/batches",
            content="customer_id\nc1\nc2\n",
            headers={"Authorization": f"Bearer {token}", "Content-Type": "text/csv"},
        ).json()["batch"]
        (tmp_path / "schemathesis.toml").write_text(f'[parameters]\nbatch_id = "{batch}"\n')
        run = subprocess.run(
            [
                *(sys.executable, "-m", "schemathesis.cli", "run", f"{served.url}/v1/openapi.json"),
                *("--header", f"Authorization: Bearer {token}", "--checks", _CHECKS, "--seed", "1"),
                *("--phases", "examples,coverage,fuzzing", "--max-examples", "12", "--max-time", "20"),
                *("--suppress-health-check", "all", "--exclude-operation-id", "events", "--request-timeout", "20"),
            ],
            cwd=tmp_path,
            env=os.environ | {"NO_COLOR": "1", "HYPOTHESIS_STORAGE_DIRECTORY": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert run.returncode == 0, run.stdout[-20_000:] + run.stderr[-2_000:]
        assert "internal error" not in served.log


async def test_every_route_of_the_api_is_described_with_who_may_use_it(ada: Client) -> None:
    described = (await ada.get("/v1/openapi.json")).json()["paths"]
    for route in routes():
        if not (route.path or "").startswith("/v1/") or route.path in PUBLIC:
            continue
        for method in route.methods or ():
            operation = described[route.path][method.lower()]
            if asks_for_a_signature(route):
                assert operation["security"] == [{"signature": []}]
                assert {"400", "401", "413", "415", "503"} <= set(operation["responses"])
                continue
            assert operation["security"] == [{"token": []}, {"session": []}]
            assert {"401", "403", "429", "503"} <= set(operation["responses"])
            assert "For: " in operation["description"]


@pytest.mark.parametrize("name", ["StatusBody", "BatchBody"])
async def test_bodies_have_an_example(ada: Client, name: str) -> None:
    schemas = (await ada.get("/v1/openapi.json")).json()["components"]["schemas"]
    example = schemas[name]["example"]  # what is null in it, the framework leaves out
    assert len(example) > 12
    assert set(example) <= set(schemas[name]["properties"])
