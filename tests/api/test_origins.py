"""Web pages that try to start jobs: only those of allowed origins may."""

from typing import Any

from jobproxy.api.jobs import PROXY_PATHS
from tests.support.clients import Response
from tests.support.http1_server import head
from tests.support.profiles import parse_profile
from tests.support.proxy import ProxyTestCase, result_of

PAGE = "https://app.example"


class ForbiddenTests(ProxyTestCase):
    """A proxy for which no page is allowed."""

    def check_forbidden(self, **headers: str) -> None:
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        for path in PROXY_PATHS:
            response = self.connect().request(path, headers=fields).response
            self.assert_problem(response, 403, "forbidden")
        self.assertEqual(self.starts, [])

    def test_web_pages_start_no_jobs(self) -> None:
        """Q28: the request of a web page starts no job, whatever kind of page it is."""
        for origin in (PAGE, "null", "http://127.0.0.1:8080"):
            self.check_forbidden(Origin=origin)
        for site in ("cross-site", "same-site"):
            self.check_forbidden(Sec_Fetch_Site=site)

    def test_programs_are_not_affected(self) -> None:
        """Q28: a client that is no browser, or what its user has typed, is served."""
        for headers in ({}, {"Sec-Fetch-Site": "none"}, {"Sec-Fetch-Site": "same-origin"}):
            client = self.connect().request(headers=headers)
            self.starts[-1].respond(result_of("1"))
            self.assertEqual(client.response.status, 200)
            self.assertNotIn("access-control-allow-origin", client.response.headers)

    def test_preflight_is_not_served(self) -> None:
        """Q28: nothing is permitted to a browser that asks."""
        asked = self.connect().request("/proxy", None, method="OPTIONS").response
        self.assert_problem(asked, 405, "method-not-allowed")


class AllowedTests(ProxyTestCase):
    """A proxy for which the pages of one origin are allowed."""

    settings: dict[str, Any] = {"allow_origin": (PAGE,)}

    def check_readable(self, response: Response) -> None:
        self.assertEqual(response.headers["access-control-allow-origin"], PAGE)
        self.assertEqual(response.headers["vary"], "Origin")
        self.assertIn("Location", response.headers["access-control-expose-headers"])

    def test_page_of_an_allowed_origin_starts_a_job_and_reads_its_result(self) -> None:
        """Q28: a page of an allowed origin starts jobs, and may read results and problems."""
        client = self.connect().request(headers={"Origin": PAGE, "Sec-Fetch-Site": "cross-site"})
        self.starts[0].respond(result_of("1"))
        self.assertEqual((client.response.status, client.response.body), (200, result_of("1")))
        self.check_readable(client.response)
        path = client.response.headers["content-location"]
        self.check_readable(self.connect().get(path, Origin=PAGE).response)
        refused = self.connect().request(body=b"{", headers={"Origin": PAGE}).response
        self.assert_problem(refused, 400, "invalid-json")
        self.check_readable(refused)

    def test_preflight_permits_it(self) -> None:
        """Q28: a browser that asks first is told what is permitted."""
        asked = self.connect().request("/proxy", None, method="OPTIONS", headers={"Origin": PAGE})
        self.assertEqual(asked.response.status, 204)
        self.check_readable(asked.response)
        self.assertIn("idempotency-key", asked.response.headers["access-control-allow-headers"])
        self.assertEqual(asked.response.headers["access-control-allow-methods"], "POST")
        asked = self.connect().request("/jobs/x", None, method="OPTIONS", headers={"Origin": PAGE})
        self.assertEqual(asked.response.headers["access-control-allow-methods"], "GET, HEAD")

    def test_other_pages_are_refused(self) -> None:
        """Q28: pages of other origins are refused as before."""
        for origin in ("https://evil.example", "null", f"{PAGE}.evil.example"):
            refused = self.connect().request(headers={"Origin": origin}).response
            self.assert_problem(refused, 403, "forbidden")
            self.assertNotIn("access-control-allow-origin", refused.headers)
        self.assertEqual(self.starts, [])


class ErrorTests(ProxyTestCase):
    """What a page of an allowed origin can read of requests that reach no route for clients."""

    settings: dict[str, Any] = {"allow_origin": (PAGE,)}

    def refuse(self, *lines: bytes, body: bytes = b"", origin: str = PAGE) -> Response:
        """Send a request with an origin that is refused, and return the response."""
        client = self.connect().send(head(b"Origin: " + origin.encode(), *lines) + body)
        self.clock.pump([1] * 20)
        return client.response

    def assert_readable(self, response: Response, status: int) -> None:
        self.assertEqual(response.status, status)
        self.assertEqual(response.headers["access-control-allow-origin"], PAGE)
        self.assertEqual(response.headers["vary"], "Origin")
        self.assertIn("Retry-After", response.headers["access-control-expose-headers"])

    def test_errors_of_the_server_can_be_read(self) -> None:
        """Q28: a page gets the problem of a request that is refused before it has a route."""
        chunked = b"Transfer-Encoding: chunked"
        for status, line, body in (
            (400, b"Host: another.example", b""),
            (400, chunked, b"no chunk\r\n"),
            (408, b"Content-Length: 5", b"{"),
            (413, b"Content-Length: 65537", b""),
            (413, chunked, b"10001\r\n" + b"x" * 65_537),
            (417, b"Expect: nothing", b""),
            (431, b"X: " + b"x" * 16_384, b""),
        ):
            self.assert_readable(self.refuse(line, body=body), status)
            for origin in ("https://evil.example", "null"):
                refused = self.refuse(line, body=body, origin=origin)
                self.assertEqual(refused.status, status)
                self.assertNotIn("access-control-allow-origin", refused.headers)

    def test_lack_of_memory_can_be_read(self) -> None:
        """Q28: so does a page whose body comes while too many large ones arrive."""
        budget = self.site.parsing[1](b"POST", b"/proxy")
        assert budget is not None
        budget.size = budget.limit
        self.assert_readable(self.refuse(b"Content-Length: 60000", body=b"x"), 503)
        budget.size = 0

    def test_errors_without_a_route_can_be_read(self) -> None:
        """Q28: so does a page that asks for what is not there."""
        self.assert_readable(self.connect().get("/nowhere", Origin=PAGE).response, 404)
        self.assert_readable(self.connect().get("/proxy", Origin=PAGE).response, 405)
        refused = self.connect().get("/nowhere", Origin="https://evil.example").response
        self.assertNotIn("access-control-allow-origin", refused.headers)

    def test_operator_is_not_for_pages(self) -> None:
        """Q28: no page reads anything from the port of the operator."""
        for path in ("/nowhere", "/status"):
            client = self.operate().get(path, Origin=PAGE)
            self.assertNotIn("access-control-allow-origin", client.response.headers)
        refused = self.operate().send(head(b"Origin: " + PAGE.encode(), b"Expect: nothing"))
        self.assertEqual(refused.response.status, 417)
        self.assertNotIn("access-control-allow-origin", refused.response.headers)

    def test_origin_is_that_of_the_refused_request(self) -> None:
        """Q28: the origin of an earlier request of the connection does not count."""
        served = head(b"Origin: " + PAGE.encode(), start=b"GET /nowhere HTTP/1.1")
        for bad in (b"\0\r\n\r\n", head(b"Expect: nothing"), b"FOO / HTTP/1.1\r\n\r\n"):
            first, refused = self.connect().send(served + bad).responses
            self.assertEqual(first.headers["access-control-allow-origin"], PAGE)
            self.assertNotIn("access-control-allow-origin", refused.headers)


class ProfileTests(ProxyTestCase):
    """A profile whose clients send a credential, and may be pages."""

    def setUp(self) -> None:
        text = """
            path = "/v1/{kind}"
            methods = ["POST", "PUT"]
            account = "$request.header.X-Key"
            [start]
            url = "{URL}/start"
            forward = ["X-Key", "X-Version"]
            [cancel]
            url = "{URL}/cancel"
        """
        profile = parse_profile(text)
        self.settings = {"profile": (profile,), "job_server_url": "", "allow_origin": (PAGE,)}
        super().setUp()

    def ask(self, path: str) -> dict[str, str]:
        client = self.connect().request(path, None, method="OPTIONS", headers={"Origin": PAGE})
        self.assertEqual(client.response.status, 204)
        return client.response.headers

    def test_preflight_permits_what_the_profile_needs(self) -> None:
        """Q28: its methods, and the headers that it reads or passes on."""
        permitted = self.ask("/v1/images")
        self.assertEqual(permitted["access-control-allow-methods"], "POST, PUT")
        for name in ("x-key", "x-version", "prefer"):
            self.assertIn(name, permitted["access-control-allow-headers"].split(", "))
        self.assertEqual(self.ask("/jobs/x")["access-control-allow-methods"], "DELETE, GET, HEAD")
