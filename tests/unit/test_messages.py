"""Every message's word is explained in docs/messages.md, and nothing is explained that no message says."""

import ast
from pathlib import Path

import pytest

from branchmon.commands import main
from branchmon.commands.help import explanation, messages

SOURCE = Path(__file__).parents[2] / "src" / "branchmon"


def slugs_in_code():
    """``slug=…`` of every call, and the word of every ``{"word": remedy}`` table is one of these."""
    found = set()
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.keyword) and node.arg == "slug":
                choices = [node.value.body, node.value.orelse] if isinstance(node.value, ast.IfExp) else [node.value]
                words = [leaf.value for leaf in choices if isinstance(leaf, ast.Constant)]
                found |= {(word, path.name) for word in words}
    return found


def headings():
    return [line[3:].strip() for line in messages().splitlines() if line.startswith("## ")]


def test_every_slug_is_a_heading():
    known = set(headings())
    assert known
    missing = sorted((slug, file) for slug, file in slugs_in_code() if slug not in known)
    assert missing == []


def test_headings_are_slugs_and_stand_once():
    assert len(headings()) == len(set(headings()))
    used = {slug for slug, _ in slugs_in_code()}
    assert sorted(set(headings()) - used) == []


@pytest.mark.parametrize("topic", ["counters-taken", "[counters-taken]"])
def test_help_prints_an_entry(capsys, topic):
    assert main(["help", topic]) == 0
    assert "two counters for each task" in capsys.readouterr().out


def test_no_entry_no_explanation():
    assert explanation("nosuch") is None
