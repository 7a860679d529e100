"""Profiles: what is taken, what is refused with which line, and that a written one reads back."""

from pathlib import Path

import msgspec
import pytest

from branchmon.errors import UsageError
from branchmon.profile import Profile, WatchProfile, load_profile, parse_profile, write_profile

GOOD = """\
description = "a test"
events = ["intel_bm/rets,threshold=9/"]

[attributes]
window_size = 64

[watch]
on-trip = ["report", "core=/tmp/x.%p", "kill"]
only-if = ["not-call-preceded>=2", "pivot"]
rate-limit = "5/m"
max-trips = 3
suppress = "known"
"""


def test_everything_is_read_and_reads_back(tmp_path: Path) -> None:
    profile = parse_profile(GOOD, "p.toml")
    assert profile.attributes == {"window_size": 64}
    assert profile.watch.only_if == ["not-call-preceded>=2", "pivot"]
    path = str(tmp_path / "p.toml")
    tricky = msgspec.structs.replace(profile, description='"quoted" \\ back\nline \x7f é')
    for one in (profile, Profile(), Profile(watch=WatchProfile(max_trips=1)), tricky):
        write_profile(one, path, comment="made by a test\nof two lines")
        assert load_profile(path) == one


@pytest.mark.parametrize(
    ("text", "line", "what", "allowed"),
    [
        ("events = [\n", 2, "not TOML", "toml.io"),
        ("a = 1\n", 1, "unknown field `a`", "description, attributes, events, watch"),
        ("events = []\n\n[wach]\n", 3, "unknown field `wach`", "watch"),
        ("events = 'rets'\n", 1, "Expected `array`", "a profile takes"),
        ("events = [\n  'rets',\n  'cycles',\n]\n", 3, "cycles", "far-branch"),
        ("[attributes]\nthreshold = 'x'\n", 2, "Expected `int`", "threshold"),
        ("[attributes]\nwindow_size = 64\nthreshold = 128\n", 3, "128", "0 to 127"),
        ("[attributes]\nspeed = 1\n", 2, "no such attribute: speed", "threshold"),
        ("[watch]\non-trip = ['stop', 'explode']\n", 2, "explode", "report, stop, kill"),
        ("[watch]\nmax-trips = 1\nfoo = 2\n", 3, "unknown field `foo`", "on-trip, max-trips"),
        ("[watch]\nonly-if = ['guilt>=1']\n", 2, "guilt", "not-call-preceded"),
        ("[watch]\nrate-limit = 'often'\n", 2, "often", "20/s"),
        ("[watch]\nmax-trips = 0\n", 2, "max-trips", "1 or more"),
        ("[watch]\nmax-trips = 'many'\n", 2, "Expected `int", "[watch] takes"),
        ("watch = 3\n", 1, "Expected `object`", "takes"),
    ],
)
def test_refusals_name_the_line_and_what_is_allowed(text: str, line: int, what: str, allowed: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_profile(text, "p.toml")
    assert caught.value.slug == "bad-profile"
    assert caught.value.message.startswith(f"p.toml, line {line}: "), caught.value.message
    assert what in caught.value.message
    assert allowed in caught.value.remedy


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        load_profile(str(tmp_path / "none"))
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="not UTF-8"):
        load_profile(str(tmp_path / "bytes"))
