"""perf's event syntax: what each spelling programs, and what each mistake teaches."""

import pytest

from branchmon.driver.attributes import Attributes
from branchmon.driver.config import event_config
from branchmon.driver.syntax import parse_events
from branchmon.errors import UsageError
from branchmon.events import BmEvent

ATTRIBUTES = Attributes()


def settings(text):
    (request,) = parse_events([text])
    return event_config(request.config, request.config1, ATTRIBUTES)


@pytest.mark.parametrize(
    ("text", "event"),
    [
        ("rets", BmEvent.RETS),
        ("call-ret:u", BmEvent.CALL_RET),
        ("intel_bm/ret-misp/", BmEvent.RET_MISP),
        ("intel_bm/event=3/", BmEvent.BRANCH_MISP),
        ("intel_bm/event=0x4/", BmEvent.INDIRECT_BRANCH_MISP),
        ("intel_bm/config=0x5/", BmEvent.FAR_BRANCH),
        ("intel_bm//", BmEvent.RETS),
        ("intel_bm/rets,event=5/", BmEvent.FAR_BRANCH),
    ],
)
def test_names_and_numbers_of_events(text, event):
    assert settings(text).event == event


def test_terms_set_their_fields_and_leave_the_rest_to_the_attributes():
    found = settings("intel_bm/rets,threshold=100,window_size=64,window_cnt_sel=2,cnt_and_mode,lbr_freeze=1/")
    assert (found.threshold, found.window_size, found.window_cnt_sel) == (100, 64, 2)
    assert (found.cnt_and_mode, found.lbr_freeze, found.mispred_evt_cnt, found.guest_disable) == (1, 1, 0, 0)
    assert settings("intel_bm/rets,window=0x40/").window_size == 64
    assert settings("rets").threshold == 127


def test_a_term_of_value_0_means_as_the_attribute_says_and_the_user_is_told():
    (request,) = parse_events(["intel_bm/rets,threshold=0/"])
    assert event_config(request.config, request.config1, ATTRIBUTES).threshold == 127
    assert "--set threshold=0" in request.notes[0]


def test_the_later_term_wins():
    assert settings("intel_bm/rets,threshold=127,threshold=64/").threshold == 64


def test_the_packed_layout():
    # threshold 100 in bits 14:8, window 1023 in 49:40, event 1 in 7:1
    found = settings(f"intel_bm/config={100 << 8 | 1023 << 40 | 1 << 1:#x}/")
    assert (found.event, found.threshold, found.window_size) == (BmEvent.CALL_RET, 100, 1023)


def test_lists_groups_and_several_options():
    found = parse_events(["intel_bm/rets,threshold=5/,far-branch", "{call-ret,ret-misp}:u,{rets}"])
    assert [(request.config & 0xFF, request.group) for request in found] == [
        (0, None),
        (5, None),
        (1, 0),
        (2, 0),
        (0, 1),
    ]
    assert [request.exclude_kernel for request in found] == [False, False, True, True, False]


def test_names_are_shown_as_typed_unless_one_is_given():
    found = parse_events(["intel_bm/rets,threshold=5/u,intel_bm/rets,name=mine/,call-ret:u"])
    assert [request.name for request in found] == ["intel_bm/rets,threshold=5/u", "mine", "call-ret:u"]


def test_modifiers_become_attr_bits():
    (request,) = parse_events(["intel_bm/rets/uDe"])
    attr = request.attr(7, inherit=True)
    assert (attr.type, attr.inherit, attr.exclude_kernel, attr.exclude_hv, attr.pinned, attr.exclusive) == (
        7, True, True, True, True, True,
    )  # fmt: skip
    assert not attr.exclude_user


@pytest.mark.parametrize(
    ("text", "slug", "teaches"),
    [
        ("cycles", "no-such-event", "intel_bm/indirect-branch-misp/"),
        ("cpu/rets/", "no-such-event", "intel_bm/rets/"),
        ("intel_bm/nosuch/", "unknown-term", "window_size"),
        ("intel_bm/rets,foo=1/", "unknown-term", "threshold"),
        ("intel_bm/rets=1/", "unknown-term", "rets"),
        ("intel_bm/rets,threshold=128/", "term-range", "0 to 127"),
        ("intel_bm/rets,window=1024/", "term-range", "0 to 1023"),
        ("intel_bm/rets,threshold=-1/", "term-range", "0 to 127"),
        ("intel_bm/rets,threshold=/", "term-range", "0 to 127"),
        ("intel_bm/event=6/", "term-range", "0 to 5"),
        ("intel_bm/rets,period=5/", "sampling", "watch"),
        ("intel_bm/rets", "event-syntax", "examples"),
        ("rets,", "event-syntax", "examples"),
        ("{rets", "event-syntax", "examples"),
        ("rets}", "event-syntax", "examples"),
        ("{{rets}}", "event-syntax", "examples"),
        ("", "event-syntax", "examples"),
        ("rets:k", "unknown-modifier", "drop the k"),
        ("intel_bm/rets/z", "unknown-modifier", "u, h"),
    ],
)
def test_mistakes_teach(text, slug, teaches):
    with pytest.raises(UsageError) as caught:
        parse_events([text])
    assert caught.value.slug == slug
    assert caught.value.exit_code == 2
    assert teaches in caught.value.remedy
