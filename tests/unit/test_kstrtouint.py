"""Attributes read numbers as the kernel's kstrtouint with base 0, and refuse what it refuses, changing nothing."""

import errno
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from branchmon.driver.attributes import SPECS, Attributes, kstrtouint
from branchmon.errors import PerfError

CASES = {
    "7": 7,
    "+7": 7,
    "7\n": 7,
    "0": 0,
    "00": 0,
    "017": 15,
    "0x20": 32,
    "0X2f": 47,
    "+0x1\n": 1,
    "4294967295": 4294967295,
    "0x00000000000000000005": 5,
    "5\0junk": 5,
}
REFUSED = {
    "": errno.EINVAL,
    "\n": errno.EINVAL,
    " 5": errno.EINVAL,
    "5 ": errno.EINVAL,
    "1\n\n": errno.EINVAL,
    "08": errno.EINVAL,
    "0x": errno.EINVAL,
    "0xg": errno.EINVAL,
    "+": errno.EINVAL,
    "++1": errno.EINVAL,
    "-1": errno.EINVAL,
    "-0": errno.EINVAL,
    "1_000": errno.EINVAL,
    "0b1": errno.EINVAL,
    "٣": errno.EINVAL,
    "5x": errno.EINVAL,
    "4294967296": errno.ERANGE,
    "4294967296x": errno.EINVAL,
    "99999999999999999999999": errno.ERANGE,
    "99999999999999999999999x": errno.ERANGE,
}


@pytest.mark.parametrize(("text", "value"), CASES.items())
def test_numbers(text: str, value: int) -> None:
    assert kstrtouint(text) == value


@pytest.mark.parametrize(("text", "number"), REFUSED.items())
def test_refusals(text: str, number: int) -> None:
    with pytest.raises(PerfError) as caught:
        kstrtouint(text)
    assert caught.value.errno == number


GRAMMAR = re.compile(r"\+?(?:0[xX](?P<hex>[0-9a-fA-F]+)|0(?P<oct>[0-7]*)|(?P<dec>[1-9][0-9]*))\n?")


@given(st.text(alphabet="0123456789abcdefxX+-\n _", max_size=14))
def test_any_text_against_a_grammar(text: str) -> None:
    match = GRAMMAR.fullmatch(text)
    try:
        value = kstrtouint(text)
    except PerfError as error:
        if match is not None:
            assert error.errno == errno.ERANGE
            digits, base = next(
                (match[name] or "0", base)
                for name, base in (("hex", 16), ("oct", 8), ("dec", 10))
                if match[name] is not None
            )
            assert int(digits, base) > 0xFFFFFFFF
        return
    assert match is not None
    name, base = next((name, base) for name, base in (("hex", 16), ("oct", 8), ("dec", 10)) if match[name] is not None)
    assert value == int(match[name] or "0", base) <= 0xFFFFFFFF


@pytest.mark.parametrize("spec", SPECS.values(), ids=lambda spec: spec.name)
def test_each_attribute_keeps_its_range(spec) -> None:
    attributes = Attributes()
    assert attributes.show(spec.name) == f"{spec.default}\n"
    for value in (spec.low, spec.high):
        attributes.store(spec.name, f"{value}\n")
        assert attributes[spec.name] == value
    with pytest.raises(PerfError) as caught:
        attributes.store(spec.name, str(spec.high + 1))
    assert caught.value.errno == errno.EINVAL
    assert attributes[spec.name] == spec.high
