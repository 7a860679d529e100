"""Event syntax: whatever is typed is read or refused, and what is written from settings is read back as them."""

from hypothesis import given
from hypothesis import strategies as st

from branchmon.driver.attributes import SPECS, Attributes
from branchmon.driver.config import event_config
from branchmon.driver.syntax import parse_events
from branchmon.errors import UsageError
from branchmon.events import BmEvent

PIECES = [
    "intel_bm",
    "rets",
    "call-ret",
    "/",
    "{",
    "}",
    ",",
    ":",
    "=",
    "u",
    "k",
    "threshold",
    "event",
    "0x",
    "12",
    " ",
    "-",
    "é",
    "\0",
]


@given(st.one_of(st.text(max_size=30), st.lists(st.sampled_from(PIECES), max_size=12).map("".join)))
def test_anything_is_read_or_refused(text):
    try:
        requests = parse_events([text])
    except UsageError as error:
        assert error.exit_code == 2 and error.remedy
    else:
        assert requests
        assert all(0 <= request.config < 1 << 64 for request in requests)


TERMS = st.fixed_dictionaries({}, optional={name: st.integers(spec.low, spec.high) for name, spec in SPECS.items()})


@given(st.lists(st.tuples(st.sampled_from(BmEvent), TERMS, st.booleans()), min_size=1, max_size=4), st.booleans())
def test_settings_survive_being_written_and_read(events, grouped):
    attributes = Attributes()
    texts = []
    for event, terms, hexadecimal in events:
        written = [event.perf_name, *(f"{k}={v:#x}" if hexadecimal else f"{k}={v}" for k, v in terms.items())]
        texts.append(f"intel_bm/{','.join(written)}/")
    text = "{" + ",".join(texts) + "}" if grouped else ",".join(texts)
    requests = parse_events([text])
    assert [request.name for request in requests] == texts
    assert [request.group for request in requests] == [0 if grouped else None] * len(events)
    for request, (event, terms, _) in zip(requests, events, strict=True):
        found = event_config(request.config, request.config1, attributes)
        assert found.event == event
        for name, spec in SPECS.items():
            assert getattr(found, name) == (terms.get(name) or spec.default)  # 0: as the attribute says
