"""The live page as it is sent: without JavaScript, and without anything that it may not run."""

import re
from html import unescape

from jobproxy.monitoring.page import TYPES
from jobproxy.monitoring.runbook import render_runbook
from tests.support.clients import Response
from tests.support.proxy import ProxyTestCase

SCRIPT = "<script>alert(1)</script>"


class PageTests(ProxyTestCase):
    settings = {"max_held": 100}

    def get(self, path: str = "/") -> Response:
        response = self.operate().get(path).response
        self.assertEqual(response.status, 200)
        return response

    def test_first_status_is_in_the_page(self) -> None:
        """Without JavaScript the page has the verdict, the numbers and the errors of now."""
        clients = [self.submit() for _ in range(3)]
        self.connect().request("/nowhere")
        self.has_descriptors = False
        page = self.get().body.decode()
        self.assertIn("<title>Down: jobproxy</title>", page)
        self.assertIn("Down since 15:34 UTC: there are no free file descriptors.", page)
        self.assertIn('href="runbook#jobproxyfilesshort">JobproxyFilesShort</a>', page)
        self.assertIn('<b id="held">3</b>', page)
        self.assertIn("<td>404 not-found</td>", page)
        for client in clients:
            client.leave()

    def test_page_runs_only_its_own_files(self) -> None:
        """The policy allows no inline script or style, there is none, and each file is served."""
        response = self.get()
        policy = response.headers["content-security-policy"]
        self.assertNotIn("unsafe", policy)
        self.assertIn("default-src 'none'", policy)
        page = response.body.decode()
        self.assertNotRegex(page, r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)")
        self.assertNotIn("$", page)
        used = set(re.findall(r'"assets/([\w.]+)"', page))
        self.assertEqual(used, set(TYPES) - {"chart.js"})
        for name, kind in TYPES.items():
            asset = self.get(f"/assets/{name}")
            self.assertEqual(asset.headers["content-type"], f"{kind}; charset=utf-8")
        self.assert_problem(self.operate().get("/assets/x").response, 404, "not-found")
        self.assert_problem(self.operate().get("/assets/page.html").response, 404, "not-found")

    def test_what_others_write_is_escaped(self) -> None:
        """What a client writes into its request cannot be markup in the page."""
        self.connect().request("/nowhere", headers={"X-Request-Id": "a<b"})
        self.connect().request(f"/{SCRIPT}", None, method="GET", headers={"X-Request-Id": SCRIPT})
        page = self.get().body.decode()
        self.assertNotIn("alert(1)</script>", page)
        self.assertNotIn("a<b", page)
        self.assertNotIn("<script>", page)

    def test_calm_page_refers_to_no_runbook(self) -> None:
        """A page without trouble has its sentence, and no link that leads nowhere."""
        page = self.get().body.decode()
        self.assertIn("Ok since 15:34 UTC: no jobs in the last minute.", unescape(page))
        self.assertIn('<a id="runbook" href="runbook#" hidden>', page)


class RunbookTests(ProxyTestCase):
    def test_runbook_has_a_section_for_each_reference(self) -> None:
        """The runbook is served with an anchor for each section, and without markup."""
        response = self.operate().get("/runbook").response
        page = response.body.decode()
        self.assertEqual(response.headers["content-type"], "text/html; charset=utf-8")
        anchors = set(re.findall(r'id="(\w+)"', page))
        self.assertIn("jobproxytimeouts", anchors)
        links = set(re.findall(r'href="#(\w+)"', page))
        self.assertTrue(links)
        self.assertLessEqual(links, anchors)
        for markup in ("``", ":option:", ":ref:", "code-block", "`_", "**"):
            self.assertNotIn(markup, page)

    def test_markup_becomes_text(self) -> None:
        """Literals, roles, references and blocks of the source become plain text and links."""
        source = (
            "Title\n=====\n\nOne\n---\n\n*page*: ``a <b>``.\n\n:To do:\n   See `Two`_ and\n"
            "   :option:`--wait`, :doc:`store <store>`.\n\n   .. code-block:: console\n\n"
            "      $ df\n\n\nTwo\n---\n\nEnd.\n"
        )
        page = render_runbook(source).decode()
        self.assertIn(
            '<h2 id="one">One</h2>\n<pre>page: a &lt;b&gt;.\n\nTo do:\n   See '
            '<a href="#two">Two</a> and\n   --wait, store.\n\n      $ df</pre>\n<h2 id="two">',
            page,
        )
