"""The page: its sections as HTML, its charts, and the little script that follows light and dark."""

from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources

from branchmon.events import BmEvent, BranchKind
from branchmon.reports.page.charts import curves_chart, heat_chart
from branchmon.reports.trace_summary import notes, place
from branchmon.traces.analysis import Analysis
from branchmon.traces.trips import MAX_TRIPS, TripPlace

SHOWN_TRIPS = 200
SHOWN_MODULES = 200
_KINDS = [kind for kind in BranchKind if kind != BranchKind.PLAIN]

# No network: the browser itself refuses any request, whatever the charts' library may try.
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; font-src data:"
)


def render(analysis: Analysis) -> str:
    """The whole page as text."""
    from bokeh.embed import components
    from bokeh.model import Model
    from bokeh.resources import Resources

    charts: dict[str, Model] = {
        f"curves{i}": curves_chart(thread, analysis.settings) for i, thread in enumerate(analysis.curves)
    }
    charts.update({f"heat{i}": heat_chart(heat) for i, heat in enumerate(analysis.heat)})
    script, places = components(charts) if charts else ("", {})
    body = "\n".join(
        (
            _header(analysis),
            _section("Counts, window by window", _curves(analysis, places)),
            _section("Trips for other settings", _heat(analysis, places)),
            _section("Hottest returns", _returns(analysis)),
            _section("Trips", _trips(analysis)),
            _section("Threads", _threads(analysis)),
            _section("Modules", _modules(analysis)),
        )
    )
    files = resources.files("branchmon.reports.page")
    style = (files / "page.css").read_text(encoding="utf-8")
    paint = (files / "page.js").read_text(encoding="utf-8")
    library = Resources(mode="inline", components=["bokeh"]).render() if charts else ""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{escape(_title(analysis))}</title>
<style>{style}</style>
{library}
</head>
<body>
<main>
{body}
</main>
{script}
<script>{paint}</script>
</body>
</html>
"""


def _title(analysis: Analysis) -> str:
    metadata = analysis.contents.metadata
    program = " ".join(metadata.program) or ", ".join(f"process {pid}" for pid in metadata.pids)
    return f"{program or analysis.contents.path}: branch monitoring"


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>\n{content}</section>" if content else ""


def _table(headings: Sequence[str], rows: Iterable[Sequence[object]], *, left: int = 1) -> str:
    """A table whose columns from `left` on are numbers."""

    def cells(tag: str, values: Sequence[object]) -> str:
        return "".join(
            f"<{tag}{' class=n' if i >= left else ''}>{escape(f'{v:,}' if isinstance(v, int) else str(v))}</{tag}>"
            for i, v in enumerate(values)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return (
        f"<div class=scroll><table><thead><tr>{cells('th', headings)}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _header(analysis: Analysis) -> str:
    contents, metadata = analysis.contents, analysis.contents.metadata
    facts = [
        ("branches", f"{contents.branches:,}"),
        ("instructions", f"{contents.instructions:,}"),
        ("threads", f"{len(contents.threads):,}"),
        ("source", f"{metadata.source or 'unknown'}, {'exact' if metadata.exact else 'approximate'}"),
        ("state", "complete" if contents.cut is None else f"cut: {contents.cut}"),
        ("gaps", ", ".join(f"{count:,} {why}" for why, count in contents.gaps.items()) or "none"),
        ("recorded", metadata.started),
        ("host", ", ".join(value for value in metadata.host.values() if value)),
    ]
    cards = "".join(
        f"<div class=card><b>{count.trips:,}</b> trips<br><code>{escape(count.name)}</code>"
        f"<br><small>highest count in a window: {count.highest}</small></div>"
        for count in analysis.replayed.result.events
    )
    told = "".join(f"<li>{escape(sentence)}</li>" for sentence in notes(analysis))
    return (
        f"<header><h1>{escape(_title(analysis))}</h1><div class=cards>{cards}</div><dl>"
        + "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts if value)
        + f"</dl>{f'<ul class=notes>{told}</ul>' if told else ''}</header>"
    )


def _curves(analysis: Analysis, places: dict[str, str]) -> str:
    window = analysis.settings[0][1].window_size
    hint = f"<p>Each point is a window of {window:,}. Dashed: the threshold. Click a name to show or hide it.</p>"
    parts = []
    for i, thread in enumerate(analysis.curves):
        missing = ", ".join(f"{event.perf_name} {analysis.highest[thread.tid].get(event, 0)}" for event in BmEvent)
        parts.append(
            f"<h3>{escape(thread.comm)} {thread.tid}</h3><p>Highest: {escape(missing)}</p>"
            f"<div class=chart>{places[f'curves{i}']}</div>"
        )
    return hint + "".join(parts) if parts else "<p>No branches.</p>"


def _heat(analysis: Analysis, places: dict[str, str]) -> str:
    charts = "".join(f"<div class=chart>{places[f'heat{i}']}</div>" for i in range(len(analysis.heat)))
    return f"<p>How often each event alone would have tripped.</p><div class=grid>{charts}</div>" if charts else ""


def _returns(analysis: Analysis) -> str:
    most = max((site.count for site in analysis.returns), default=1)
    rows = "".join(
        f"<tr><td><code>{escape(site.place.name)}</code></td><td>{escape(site.place.module_name)}</td>"
        f"<td class=n>{site.count:,}</td><td class=bar><i style='width:{100 * site.count / most:.1f}%'></i></td></tr>"
        for site in analysis.returns
    )
    head = "<thead><tr><th>where</th><th>module</th><th class=n>returns</th><th></th></tr></thead>"
    return f"<div class=scroll><table>{head}<tbody>{rows}</tbody></table></div>" if rows else "<p>No returns.</p>"


def _trips(analysis: Analysis) -> str:
    found = analysis.replayed
    if not found.all_trips:
        return "<p>None at these settings.</p>"
    shown = found.trips[:SHOWN_TRIPS]
    hint = f"<p>{found.all_trips:,} trips; the first {len(shown)} with their last branches.</p>" if shown else ""
    kept = "" if found.all_trips <= MAX_TRIPS else f"<p>Only the first {MAX_TRIPS:,} are marked in the charts.</p>"
    return hint + kept + "".join(_trip(number, trip) for number, trip in enumerate(shown, 1))


def _trip(number: int, trip: TripPlace) -> str:
    rows = [
        (BranchKind(branch.kind).name.lower().replace("_", "-"), branch.source_name, branch.target_name,
         "mispredicted" if branch.mispredicted else "")
        for branch in reversed(trip.lbr)
    ]  # fmt: skip
    evidence = _table(("kind", "from", "to", ""), rows, left=4) if rows else "<p>No last branches.</p>"
    return (
        f"<details id=trip{number}><summary><b>{number}</b> <code>{escape(place(trip))}</code> "
        f"<small>{escape(', '.join(trip.events))} · thread {trip.thread} · count {max(trip.counts)} · "
        f"window {trip.window}</small></summary><p>Last branches, newest first.</p>{evidence}</details>"
    )


def _threads(analysis: Analysis) -> str:
    trips: dict[int, int] = {}
    for trip in analysis.replayed.trips:
        trips[trip.thread] = trips.get(trip.thread, 0) + 1
    rows = [
        (str(thread.tid), thread.comm, trips.get(thread.tid, 0), thread.instructions,
         *(thread.branches.get(kind.name.lower().replace("_", "-"), 0) for kind in _KINDS),
         *(analysis.highest.get(thread.tid, {}).get(event, 0) for event in BmEvent))
        for thread in analysis.contents.threads
    ]  # fmt: skip
    kinds = [kind.name.lower().replace("_", "-") for kind in _KINDS]
    highest = [f"highest {event.perf_name}" for event in BmEvent]
    return _table(("thread", "name", "trips", "instructions", *kinds, *highest), rows, left=2)


def _modules(analysis: Analysis) -> str:
    rows = sorted(analysis.sites.by_module().items(), key=lambda item: (item[0][0], -item[1].total()))
    ids = analysis.contents.modules
    kinds = [kind.name.lower().replace("_", "-") for kind in _KINDS]
    return _table(
        ("thread", "module", "build-id", *kinds),
        [
            (str(thread), module or "?", ids.get(module, "")[:16], *(counts[kind] for kind in _KINDS))
            for (thread, module), counts in rows[:SHOWN_MODULES]
        ],
        left=3,
    )
