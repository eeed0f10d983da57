"""The paths at which a profile's clients come: ``/v1/{model*}``."""

import re

from attrs import frozen

from jobproxy.profiles.places import BadSyntax

_VARIABLE = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)(\*?)\}")
_PLAIN = re.compile(r"[A-Za-z0-9._~!$&'()+,;=:@-]+")


@frozen
class PathPattern:
    """A path with variables.

    :ivar text: the path as it was written.
    :ivar segments: each is a text, or the name of a variable.
    :ivar names: of the variables, in their order.
    :ivar wide: the variable that may contain slashes, if there is one; it is the last segment.
    """

    text: str
    segments: tuple[tuple[str, bool], ...]
    wide: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name, is_variable in self.segments if is_variable)

    @property
    def rule(self) -> str:
        """The path as Werkzeug's routing writes it."""
        written = ""
        for name, is_variable in self.segments:
            kind = "path:" if name == self.wide else ""
            written += f"/<{kind}{name}>" if is_variable else f"/{name}"
        return written or "/"


def parse_path(text: str) -> PathPattern:
    """Return a path.

    :raises BadSyntax: if it is none.
    """
    if text[:1] != "/":
        raise BadSyntax("a path begins with /")
    segments: list[tuple[str, bool]] = []
    wide = None
    at = 1
    for segment in text[1:].split("/") if text != "/" else ():
        variable = _VARIABLE.fullmatch(segment)
        if wide is not None:
            raise BadSyntax(f"{{{wide}*}} must be the last segment", at)
        if variable is not None:
            name = variable[1]
            if (name, True) in segments:
                raise BadSyntax(f"{{{name}}} is there twice", at)
            segments.append((name, True))
            wide = name if variable[2] else None
        elif segment in (".", "..") or not _PLAIN.fullmatch(segment):
            raise BadSyntax(f"{segment!r} is not a segment of a path", at)
        else:
            segments.append((segment, False))
        at += len(segment) + 1
    return PathPattern(text, tuple(segments), wide)


def match_path(pattern: PathPattern, path: str) -> dict[str, str] | None:
    """Return the variables in a path; :data:`None`: it is another one."""
    segments = path.strip("/").split("/") if path.strip("/") else []
    found: dict[str, str] = {}
    for number, (name, is_variable) in enumerate(pattern.segments):
        if number >= len(segments) or not (is_variable or segments[number] == name):
            return None
        if name == pattern.wide:
            return found | {name: "/".join(segments[number:])}
        if is_variable:
            found[name] = segments[number]
    return found if len(segments) == len(pattern.segments) else None


def is_safe(value: str) -> bool:
    """Whether the value of a variable leads to no other place (``..``, an encoded slash)."""
    return bool(value) and not any(
        segment in ("", ".", "..") or "%" in segment or "\\" in segment
        for segment in value.split("/")
    )
