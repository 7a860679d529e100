"""``branchmon list``: the schema of --json, and the machine as /proc and /sys tell it."""

import json

import pytest

from branchmon.commands import main
from branchmon.driver.attributes import SPECS
from branchmon.machine import this_machine


def listed(capsys, *argv):
    assert main(["list", "--json", *argv]) == 0
    return json.loads(capsys.readouterr().out)


def test_json_has_the_schema_of_docs_list_md(capsys):
    found = listed(capsys)
    assert set(found) == {"version", "pmu", "events", "attributes", "sources", "machine"}
    assert found["version"] == 1
    assert (found["pmu"]["name"], found["pmu"]["num_counters"]) == ("intel_bm", 2)
    assert found["pmu"]["format"]["event"] == "config:0-7"
    for name, keys in {
        "events": {"name", "perf", "config", "meaning"},
        "attributes": {"name", "low", "high", "default", "value", "meaning"},
        "sources": {"name", "available", "default", "why", "exact", "attach", "threads", "survives"},
    }.items():
        assert all(set(entry) == keys for entry in found[name]), name
    assert set(found["machine"]) == {
        "cpu", "family", "model", "cpus", "kernel", "silicon", "kernel_pmu", "hardware_pmu", "paranoid", "ptrace_scope",
    }  # fmt: skip


def test_the_six_events_and_the_seven_attributes(capsys):
    found = listed(capsys)
    assert [(event["name"], event["config"]) for event in found["events"]] == [
        ("rets", 0), ("call-ret", 1), ("ret-misp", 2),
        ("branch-misp", 3), ("indirect-branch-misp", 4), ("far-branch", 5),
    ]  # fmt: skip
    ranges = {entry["name"]: (entry["low"], entry["high"], entry["default"]) for entry in found["attributes"]}
    assert ranges == {
        "window_size": (0, 1023, 1023),
        "threshold": (0, 127, 127),
        "lbr_freeze": (0, 1, 0),
        "guest_disable": (0, 1, 0),
        "window_cnt_sel": (0, 3, 0),
        "cnt_and_mode": (0, 1, 0),
        "mispred_evt_cnt": (0, 1, 0),
    }


def test_set_changes_the_value_shown(capsys):
    values = {entry["name"]: entry["value"] for entry in listed(capsys, "--set", "threshold=0x20")["attributes"]}
    assert values == {**{name: spec.default for name, spec in SPECS.items()}, "threshold": 32}


def test_text_names_everything(capsys):
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    for word in ("intel_bm/indirect-branch-misp/", "window_cnt_sel", "Sources", "silicon", "hardware counters"):
        assert word in out


CANNON_LAKE = """processor	: 0
vendor_id	: GenuineIntel
cpu family	: 6
model		: 102
model name	: Intel(R) Core(TM) i3-8121U CPU @ 2.20GHz

processor	: 1
model name	: not this one
"""


@pytest.mark.parametrize("silicon", [True, False])
def test_the_machine_is_read_from_proc_and_sys(tmp_path, silicon):
    (tmp_path / "proc/sys/kernel/yama").mkdir(parents=True)
    text = CANNON_LAKE if silicon else CANNON_LAKE.replace("102", "158")
    (tmp_path / "proc/cpuinfo").write_text(text)
    (tmp_path / "proc/sys/kernel/perf_event_paranoid").write_text("3\n")
    (tmp_path / "proc/sys/kernel/yama/ptrace_scope").write_text("1\n")
    (tmp_path / "sys/bus/event_source/devices" / ("intel_bm" if silicon else "cpu")).mkdir(parents=True)
    found = this_machine(tmp_path)
    assert found.cpu == "Intel(R) Core(TM) i3-8121U CPU @ 2.20GHz"
    assert (found.silicon, found.kernel_pmu, found.hardware_pmu) == (silicon, silicon, not silicon)
    assert (found.paranoid, found.ptrace_scope) == (3, 1)


def test_a_machine_that_tells_nothing(tmp_path):
    found = this_machine(tmp_path)
    assert (found.family, found.silicon, found.kernel_pmu, found.hardware_pmu) == (None, False, False, False)
    assert (found.paranoid, found.ptrace_scope) == (None, None)
