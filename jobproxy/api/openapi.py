"""The OpenAPI 3.1 document of the routes that are served."""

import json
from collections.abc import Sequence
from copy import deepcopy
from functools import cached_property
from importlib.resources import files
from typing import Any, ClassVar

from attrs import define
from klein import Klein

from jobproxy import __version__
from jobproxy.api.jobs import PROXY_PATHS
from jobproxy.api.responses import respond
from jobproxy.http1.request import Request
from jobproxy.profiles.profile import Profile

_CALLBACK, _JOB = "/callback/{token}", "/jobs/{job_id}"


def read_document(profiles: Sequence[Profile] = (), *, has_sample: bool = True) -> bytes:
    """Return the document as JSON, with the version of this package.

    :param profiles: whose routes are served.
    :param has_sample: whether those of the work sample are served.
    """
    document = json.loads(files("jobproxy.api").joinpath("openapi.json").read_bytes())
    document["info"]["version"] = __version__
    paths = document["paths"]
    start, callback = paths[PROXY_PATHS[0]]["post"], paths[_CALLBACK]["post"]
    if not any(profile.cancel for profile in profiles):
        del paths[_JOB]["delete"]
    if not has_sample:
        for path in (*PROXY_PATHS, _CALLBACK):
            paths.pop(path, None)
    for profile in profiles:
        path = profile.path.text.replace("*}", "}")
        paths[path] = {
            method.lower(): _describe_start(profile, start, method) for method in profile.methods
        }
        token = "" if profile.correlates_by_id else "/{token}"
        paths[f"/callback/{profile.name}{token}"] = {
            method.lower(): _describe_callback(profile, callback, method)
            for method in profile.callback_methods
        }
    return json.dumps(document, ensure_ascii=False).encode()


def _describe_start(profile: Profile, sample: dict[str, Any], method: str) -> dict[str, Any]:
    operation = deepcopy(sample)
    operation["operationId"] = f"{method.lower()}-{profile.name}"
    operation["summary"] = f"Run a job of the API {profile.name}"
    operation["requestBody"] = {"content": {"*/*": {}}}
    operation["parameters"] += [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in profile.path.names
    ]
    return operation


def _describe_callback(profile: Profile, sample: dict[str, Any], method: str) -> dict[str, Any]:
    operation = deepcopy(sample)
    operation["operationId"] = f"{method.lower()}-callback-{profile.name}"
    if profile.correlates_by_id:
        # There is no variable in the path.
        operation["parameters"] = [
            each for each in operation["parameters"] if each.get("in", "") != "path"
        ]
    return operation


@define(eq=False)
class OpenApiRoutes:
    """Serves the OpenAPI document.

    :param profiles: see :func:`read_document`.
    """

    side: ClassVar = "admin"
    _profiles: Sequence[Profile] = ()
    _has_sample: bool = True

    @cached_property
    def _document(self) -> bytes:
        # Most processes are never asked for it.
        return read_document(self._profiles, has_sample=self._has_sample)

    def add_to(self, app: Klein) -> None:
        app.route("/openapi.json", methods=["GET"])(self.get_document)

    def get_document(self, request: Request) -> bytes:
        return respond(request, self._document)
