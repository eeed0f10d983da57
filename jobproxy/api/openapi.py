"""The OpenAPI 3.1 document of all routes."""

import json
from importlib.resources import files

from attrs import define, field
from klein import Klein

from jobproxy import __version__
from jobproxy.api.responses import respond
from jobproxy.http1.request import Request


def read_document() -> bytes:
    """Return the document as JSON, with the version of this package."""
    document = json.loads(files("jobproxy.api").joinpath("openapi.json").read_bytes())
    document["info"]["version"] = __version__
    return json.dumps(document, ensure_ascii=False).encode()


@define(eq=False)
class OpenApiRoutes:
    """Serves the OpenAPI document."""

    _document: bytes = field(factory=read_document, init=False, repr=False)

    def add_to(self, app: Klein) -> None:
        app.route("/openapi.json", methods=["GET"])(self.get_document)

    def get_document(self, request: Request) -> bytes:
        return respond(request, self._document)
