"""Profiles: a TOML file with attributes, events and what ``watch`` does at a trip. Reference: docs/profiles.md."""

import re
import tomllib
from pathlib import Path
from typing import NoReturn

import msgspec

from branchmon.driver.attributes import SPECS
from branchmon.driver.refusals import store_attributes
from branchmon.driver.syntax import parse_events
from branchmon.errors import OutputError, UsageError


class WatchProfile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab", omit_defaults=True):
    """What ``watch`` does; each is an option of the same name, which has precedence."""

    on_trip: list[str] | None = None
    max_trips: int | None = None
    rate_limit: str | None = None
    suppress: str | None = None
    """Path, relative to the profile."""
    only_if: list[str] | None = None


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A profile's contents.

    :ivar attributes: sysfs attributes by name, as numbers.
    :ivar events: in perf's syntax, as for ``-e``.
    """

    description: str = ""
    attributes: dict[str, int] = {}
    events: list[str] = []
    watch: WatchProfile = WatchProfile()


def load_profile(path: str) -> Profile:
    """Read and check a profile.

    :raises UsageError: it cannot be read, is not TOML, or says something that does not exist: with the line, and what
        is allowed there.
    """
    try:
        text = Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise UsageError(f"{path}: {why}", slug="bad-profile", remedy="name a TOML file that can be read") from error
    return parse_profile(text, path)


def parse_profile(text: str, path: str) -> Profile:
    """The same for text that was read already; `path` is for messages."""
    reader = _Reader(text, path)
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"line (\d+)", str(error))
        reader.refuse(int(found[1]) if found else text.count("\n") + 1, f"not TOML: {error}", "see https://toml.io")
    try:
        profile = msgspec.convert(data, Profile)
    except msgspec.ValidationError as error:
        reader.refuse_structure(str(error))
    reader.check(profile)
    return profile


def write_profile(profile: Profile, path: str, *, comment: str = "") -> None:
    """Write a profile, so that :func:`load_profile` reads it back.

    :param comment: lines to put at its top.
    :raises OutputError: the file cannot be written.
    """
    try:
        Path(path).write_text(format_profile(profile, comment=comment), "utf-8")
    except OSError as error:
        raise OutputError(f"{path}: {error.strerror}", slug="output-failed", remedy="name another file") from error


def format_profile(profile: Profile, *, comment: str = "") -> str:
    """A profile as TOML."""
    lines = [f"# {line}".rstrip() for line in comment.splitlines()]
    if profile.description:
        lines.append(f"description = {_toml(profile.description)}")
    if profile.events:
        lines.append(f"events = {_toml(profile.events)}")
    if profile.attributes:
        lines += ["", "[attributes]", *(f"{name} = {value}" for name, value in profile.attributes.items())]
    watch = {name: value for name, value in msgspec.to_builtins(profile.watch).items() if value is not None}
    if watch:
        lines += ["", "[watch]", *(f"{name} = {_toml(value)}" for name, value in watch.items())]
    return "\n".join(lines) + "\n"


def _toml(value: str | int | list[str]) -> str:
    # A JSON string, and a list of them, are TOML ones too (but for DEL, which TOML wants escaped).
    return msgspec.json.encode(value).decode().replace("\x7f", "\\u007f")


class _Reader:
    """Finds the line to blame, and says what is allowed there."""

    def __init__(self, text: str, path: str) -> None:
        self.lines = text.splitlines()
        self.path = path

    def refuse(self, line: int, what: str, allowed: str) -> NoReturn:
        raise UsageError(f"{self.path}, line {line}: {what}", slug="bad-profile", remedy=allowed)

    def refuse_structure(self, message: str) -> NoReturn:
        what, _, where = message.partition(" - at `")
        path = where.rstrip("`").removeprefix("$").lstrip(".")
        table = path.split(".")[0].split("[")[0]
        unknown = re.search(r"unknown field `(.*)`", what)
        key = unknown[1] if unknown else path.split(".")[-1].split("[")[0]
        if path.endswith("[...]") and table == "attributes":
            key = ""  # msgspec does not tell which key of a free table
        in_watch = table == "watch"
        allowed = (
            f"[watch] takes {', '.join(_keys(WatchProfile))}"
            if in_watch
            else f"[attributes] takes numbers for {', '.join(SPECS)}"
            if table == "attributes"
            else f"a profile takes {', '.join(_keys(Profile))}"
        )
        line = self.line_of(key, table if in_watch or table == "attributes" else "", wrong_number=key == "")
        self.refuse(line, what if unknown else f"{key or table}: {what}", allowed)

    def check(self, profile: Profile) -> None:
        from branchmon.actions import parse_actions
        from branchmon.actions.policy import parse_rate
        from branchmon.driver.attributes import Attributes
        from branchmon.evidence.facts import parse_condition

        for name, value in profile.attributes.items():
            self._checked(name, "attributes", lambda n=name, v=value: store_attributes(Attributes(), {n: v}))
        for event in profile.events:
            self._checked("events", "", lambda e=event: parse_events([e]), text=event)
        watch = profile.watch
        for action in watch.on_trip or []:
            self._checked("on-trip", "watch", lambda a=action: parse_actions([a]), text=action)
        for condition in watch.only_if or []:
            self._checked("only-if", "watch", lambda c=condition: parse_condition(c), text=condition)
        if watch.rate_limit is not None:
            self._checked("rate-limit", "watch", lambda: parse_rate(watch.rate_limit or ""))
        if watch.max_trips is not None and watch.max_trips < 1:
            self.refuse(self.line_of("max-trips", "watch"), "max-trips is not a number from 1", "write 1 or more")

    def _checked(self, key: str, table: str, check: object, text: str = "") -> None:
        try:
            check()  # type: ignore[operator]
        except UsageError as error:
            self.refuse(self.line_of(key, table, text), error.message, error.remedy)

    def line_of(self, key: str, table: str, text: str = "", *, wrong_number: bool = False) -> int:
        """The line, from 1, of `key` in `table` (the top level if empty), or of `text` from there on."""
        inside = ""
        found = 0
        for number, line in enumerate(self.lines, 1):
            header = re.match(r"\s*\[+\s*([^\]]+?)\s*\]", line)
            if header and not found:
                inside = header[1].strip("\"'")
                if inside == table and not key and not wrong_number:
                    return number
                if key == inside and not table:
                    return number
                continue
            value = re.match(r"\s*[\"']?([\w.-]+)[\"']?\s*=(.*)", line)
            if not found and value:
                name = f"{inside}.{value[1]}" if inside else value[1]
                wanted = f"{table}.{key}" if table else key
                if wrong_number and name.startswith(f"{table}.") and not re.fullmatch(r"\s*[-+\w]+\s*(#.*)?", value[2]):
                    return number
                if key and (name == wanted or (not table and name.split(".")[0] == key)):
                    found = number
            if found and (not text or text in line):
                return number
        return found or 1


def _keys(structure: type[msgspec.Struct]) -> tuple[str, ...]:
    return tuple(field.encode_name for field in msgspec.structs.fields(structure))
