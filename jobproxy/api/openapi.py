"""The document that says what is served, for programs that read such things (OpenAPI 3.1)."""

import json
from importlib.resources import files

from attrs import define, field
from klein import Klein

from jobproxy import __version__
from jobproxy.api.responses import respond
from jobproxy.http1.request import Request


def read_document() -> bytes:
    """Return the document, JSON, with our version in it."""
    document = json.loads(files("jobproxy.api").joinpath("openapi.json").read_bytes())
    document["info"]["version"] = __version__
    return json.dumps(document, ensure_ascii=False).encode()


@define(eq=False)
class InterfaceRoutes:
    """Serves the document."""

    _document: bytes = field(factory=read_document, init=False, repr=False)

    def add_to(self, app: Klein) -> None:
        app.route("/openapi.json", methods=["GET"])(self.tell_interface)

    def tell_interface(self, request: Request) -> bytes:
        return respond(request, self._document)
