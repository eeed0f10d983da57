"""What is served keeps to the OpenAPI document: requests by the hundred, made up from it."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis import Case
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from jobproxy.api.openapi import read_document
from jobproxy.sandbox.processes import find_free_port, run_pair
from tests.support.waiting import DEADLINE

CHECKS = [
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
]
#: One has no end, and the other is one.
UNTRIED = "^/(events|drain)$"

DOCUMENT = schemathesis.openapi.from_dict(json.loads(read_document()))
CLIENTS = DOCUMENT.include(tag=["client", "job server", "monitoring"])
OPERATORS = DOCUMENT.include(tag=["operator", "monitoring"]).exclude(path_regex=UNTRIED)

few = settings(
    max_examples=25,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def urls() -> Iterator[dict[str, str]]:
    """Run proxies whose jobs take no time; return where they serve clients, and operators."""
    admin = find_free_port()
    options = {"admin-listen": f"tcp:{admin}:interface=127.0.0.1"}
    with run_pair({"duration": "0"}, {}) as (_, proxy), run_pair({"duration": "0"}, options):
        yield {"clients": proxy.url, "operators": f"http://127.0.0.1:{admin}"}


@pytest.fixture
def url(request: pytest.FixtureRequest, urls: dict[str, str]) -> str:
    """Return the URL of one side; see :func:`to`."""
    found: str = urls[request.param]
    return found


def to(side: str) -> pytest.MarkDecorator:
    """Test one side.

    A test with a parameter of its own gets an id for each operation. Without one pytest 9 gives all
    operations the same, of which pytest-xdist runs only one.
    """
    return pytest.mark.parametrize("url", [side], indirect=True)


def check(case: Case[Any], url: str) -> None:
    """Send a request, and look whether its answer is one that the document knows."""
    case.call_and_validate(base_url=url, checks=CHECKS, timeout=DEADLINE)


@to("clients")
@CLIENTS.parametrize()
@few
def test_clients_get_what_the_document_says(case: Case[Any], url: str) -> None:
    """Q1, Q2: clients, the job server and monitoring get what the document says."""
    check(case, url)


@to("operators")
@OPERATORS.parametrize()
@few
def test_operators_get_what_the_document_says(case: Case[Any], url: str) -> None:
    """Operators get what the document says."""
    check(case, url)
