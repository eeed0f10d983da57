"""The OpenAPI document: valid, whole, and about what is really served."""

import json
import re
from typing import Any

from openapi_spec_validator import OpenAPIV31SpecValidator
from twisted.trial.unittest import SynchronousTestCase

from jobproxy.api.openapi import read_document
from jobproxy.wire.problems import Problem
from tests.support.proxy import ProxyTestCase

DOCUMENT: dict[str, Any] = json.loads(read_document())
METHODS = {"get", "post", "delete", "put", "patch"}


def list_kinds(kind: type[Problem] = Problem) -> list[type[Problem]]:
    """Return all kinds of problems."""
    own = [kind] if hasattr(kind, "slug") else []
    return own + [each for child in kind.__subclasses__() for each in list_kinds(child)]


class DocumentTests(SynchronousTestCase):
    def test_valid(self) -> None:
        """The document is OpenAPI 3.1."""
        errors = list(OpenAPIV31SpecValidator(DOCUMENT).iter_errors())
        self.assertEqual(errors, [])

    def test_problems(self) -> None:
        """Every kind of problem is there, with the status that it has."""
        types = DOCUMENT["components"]["schemas"]["Problem"]["properties"]["type"]["enum"]
        slugs = {kind.slug for kind in list_kinds()}
        self.assertEqual({name.rpartition(":")[2] for name in types}, slugs)
        responses = DOCUMENT["components"]["responses"].values()
        told = " ".join(response["description"] for response in responses)
        self.assertEqual({slug for slug in slugs if f"`{slug}`" not in told}, set())

    def test_nothing_unused(self) -> None:
        """Everything that is defined is referred to."""
        text = json.dumps(DOCUMENT)
        for kind, parts in DOCUMENT["components"].items():
            for name in parts:
                self.assertIn(f'"#/components/{kind}/{name}"', text)


class ServedTests(ProxyTestCase):
    def test_served(self) -> None:
        """The document is served, with the version of what serves it."""
        response = self.connect().get("/openapi.json").response
        self.assertEqual(response.headers["content-type"], "application/json")
        self.assertEqual(response.json, DOCUMENT)
        self.assertNotEqual(DOCUMENT["info"]["version"], "0")

    def list_rules(self) -> set[tuple[str, str]]:
        """Return the methods and paths that are served on one port or another."""
        rules = set()
        for site in (self.site, self.admin_site):
            resource: Any = site.resource
            for rule in resource._app.url_map.iter_rules():
                path = re.sub(r"<(\w+)>", r"{\1}", rule.rule)
                rules |= {(method.lower(), path) for method in rule.methods}
        return {(method, path) for method, path in rules if method in METHODS}

    def test_all_is_there(self) -> None:
        """What is served is in the document, and nothing else."""
        described = {
            (method, path)
            for path, operations in DOCUMENT["paths"].items()
            for method in operations
            if method in METHODS
        }
        self.assertEqual(described, self.list_rules())
