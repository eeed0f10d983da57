"""Expressions and templates: what they read, and what is wrong with others."""

from twisted.trial.unittest import SynchronousTestCase

from jobproxy.profiles.expressions import parse_expression, parse_template
from jobproxy.profiles.messages import Message, Scope
from jobproxy.profiles.places import BadSyntax

FORM = {b"content-type": b"application/x-www-form-urlencoded; charset=utf-8"}
REQUEST = Message(
    b'{"account": "a/b c", "n": 12345678901234567890, "deep": {"list": [1, {"x": true}]},'
    b' "no": null}',
    {b"authorization": b"Bearer x", b"x-two": b"1, 2"},
    "q=1&q=2&r=%20",
    {"model": "owner/name"},
    "PUT",
)
RESPONSE = Message(b"", {b"location": b"/jobs/7"}, status=202)
MESSAGE = Message(b"id=7&state=done", FORM)
SCOPE = Scope(REQUEST, RESPONSE, MESSAGE, "http://proxy/callback/t")


class ExpressionTests(SynchronousTestCase):
    """One value."""

    def test_each_part_of_a_message_is_read(self) -> None:
        for text, value in {
            "$request.body#/account": "a/b c",
            "$request.body#/n": "12345678901234567890",
            "$request.body#/deep/list/1/x": "true",
            "$request.body#/deep/list": '[1, {"x": true}]',
            "$request.body": REQUEST.body.decode(),
            "$request.header.AUTHORIZATION": "Bearer x",
            "$request.query.q": "1",
            "$request.query.r": " ",
            "$request.path.model": "owner/name",
            "$request.method": "PUT",
            "$response.header.Location": "/jobs/7",
            "$statusCode": "202",
            "$message.payload#/state": "done",
            "$message.payload": "id=7&state=done",
            "$callback.url": "http://proxy/callback/t",
            "'all'": "all",
        }.items():
            self.assertEqual(parse_expression(text).find(SCOPE), value, text)

    def test_what_is_not_there_is_nothing(self) -> None:
        for text in (
            "$request.body#/no",
            "$request.body#/missing",
            "$request.body#/account/x",
            "$request.header.Cookie",
            "$request.query.s",
            "$request.path.other",
            "$response.body#/id",
            "$message.payload#/id/x",
        ):
            self.assertIsNone(parse_expression(text).find(SCOPE), text)
        self.assertIsNone(parse_expression("$response.body#/id").find(Scope(REQUEST)))

    def test_mistake_is_named_with_its_place(self) -> None:
        for text, at, words in (
            ("request.body#/a", 0, "they begin with $request"),
            ("$request.bodi", 9, "body#/…, header.NAME, query.NAME, path.NAME"),
            ("$request.body#a", 14, "begins with /"),
            ("$response.query.x", 10, "body#/…, header.NAME"),
            ("$message.body#/a", 9, "payload#/…"),
            ("$request.header.a b", 16, "not the name of a header"),
            ("$request.query.", 15, "not the name of a query"),
        ):
            with self.assertRaises(BadSyntax, msg=text) as caught:
                parse_expression(text)
            self.assertEqual(caught.exception.at, at, text)
            self.assertIn(words, str(caught.exception))

    def test_body_that_is_no_json_has_no_members(self) -> None:
        for body in (b"", b"text", b"\xff\xfe", b"[1]", b'{"id": ', b"{" * 100_000):
            scope = Scope(response=Message(body))
            self.assertIsNone(parse_expression("$response.body#/id").find(scope))


class TemplateTests(SynchronousTestCase):
    """Text with expressions."""

    def test_values_are_put_in_their_places(self) -> None:
        template = parse_template("{{{$request.body#/account}}}-{$statusCode}")
        self.assertEqual(template.render(SCOPE), "{a/b c}-202")

    def test_values_in_a_url_are_encoded(self) -> None:
        """A value can neither end a segment nor begin a query; a wide variable keeps slashes."""
        template = parse_template("https://h/{$request.path.model}?a={$request.body#/account}")
        self.assertEqual(template.render_url(SCOPE), "https://h/owner%2Fname?a=a%2Fb%20c")
        url = template.render_url(SCOPE, frozenset({"model"}))
        self.assertEqual(url, "https://h/owner/name?a=a%2Fb%20c")

    def test_url_that_is_one_expression_is_taken_as_it_is(self) -> None:
        self.assertEqual(parse_template("{$callback.url}").render_url(SCOPE), SCOPE.callback_url)

    def test_value_that_leads_elsewhere_is_nothing(self) -> None:
        """``..`` would climb in the path."""
        for value in (".", ".."):
            scope = Scope(Message(b"", query=f"q={value}"))
            url = parse_template("https://h/queues/{$request.query.q}/jobs").render_url(scope)
            self.assertIsNone(url)

    def test_nothing_in_a_template_makes_it_nothing(self) -> None:
        self.assertIsNone(parse_template("x{$request.body#/no}").render(SCOPE))
        self.assertIsNone(parse_template("x{$request.body#/no}").render_url(SCOPE))

    def test_mistake_is_named_with_its_place(self) -> None:
        for text, at in (("ab{$statusCode", 2), ("ab}c", 2), ("ab{$x}", 3), ("a{$request.x}", 11)):
            with self.assertRaises(BadSyntax, msg=text) as caught:
                parse_template(text)
            self.assertEqual(caught.exception.at, at, text)
