"""The OpenAPI document: valid, complete, and about the routes that are served."""

import json
import re
from typing import Any

from openapi_spec_validator import OpenAPIV31SpecValidator
from twisted.trial.unittest import SynchronousTestCase

from jobproxy.api.openapi import read_document
from jobproxy.wire.problems import Kind
from tests.support.proxy import ProxyTestCase

DOCUMENT: dict[str, Any] = json.loads(read_document())
METHODS = {"get", "post", "delete", "put", "patch"}


class DocumentTests(SynchronousTestCase):
    def test_document_is_valid(self) -> None:
        """The document is valid OpenAPI 3.1."""
        errors = list(OpenAPIV31SpecValidator(DOCUMENT).iter_errors())
        self.assertEqual(errors, [])

    def test_every_problem_is_documented(self) -> None:
        """Every kind of problem is in the document, with its status."""
        types = DOCUMENT["components"]["schemas"]["Problem"]["properties"]["type"]["enum"]
        slugs = {kind.slug for kind in Kind}
        wrong = {name.rpartition(":")[2] for name in types} ^ slugs
        place = "jobproxy/api/openapi.json"
        self.assertFalse(wrong, f"{place}: the enum of Problem.type differs by {wrong}")
        responses = DOCUMENT["components"]["responses"].values()
        described = " ".join(response["description"] for response in responses)
        missing = {slug for slug in slugs if f"`{slug}`" not in described}
        self.assertFalse(missing, f"{place}: the description of a response must name {missing}")

    def test_every_component_is_referenced(self) -> None:
        """Every component of the document is referenced."""
        text = json.dumps(DOCUMENT)
        for kind, parts in DOCUMENT["components"].items():
            for name in parts:
                reference = f'"#/components/{kind}/{name}"'
                self.assertIn(reference, text, f"openapi.json: use or remove {name}")


class ServedTests(ProxyTestCase):
    def test_document_is_served_with_the_version(self) -> None:
        """The document is served, with the version of the package."""
        response = self.operate().get("/openapi.json").response
        self.assertEqual(response.headers["content-type"], "application/json")
        self.assertEqual(response.json, DOCUMENT)
        self.assertNotEqual(DOCUMENT["info"]["version"], "0")

    def list_rules(self) -> set[tuple[str, str]]:
        """Return the methods and paths that are served on any port."""
        rules = set()
        for site in (self.site, self.admin_site):
            resource: Any = site.resource
            for rule in resource.rules:
                path = re.sub(r"<(\w+)>", r"{\1}", rule.rule)
                rules |= {(method.lower(), path) for method in rule.methods}
        return {(method, path) for method, path in rules if method in METHODS}

    def test_document_has_exactly_the_served_routes(self) -> None:
        """The document has all routes that are served, and no others."""
        described = {
            (method, path)
            for path, operations in DOCUMENT["paths"].items()
            for method in operations
            if method in METHODS
        }
        wrong = described ^ self.list_rules()
        self.assertFalse(wrong, f"jobproxy/api/openapi.json: paths differ from the routes: {wrong}")
