"""The report's page in a real headless browser: draws, answers the mouse, asks nobody, fits, light and dark."""

import re
import time
import zlib
from pathlib import Path

import pytest

from branchmon.driver.syntax import parse_events
from branchmon.reports.page import write_page
from branchmon.traces.analysis import Analysis, analyse
from branchmon.traces.reader import Trace
from branchmon.traces.ring import FileStore
from branchmon.traces.schema import Metadata, RowKind
from branchmon.traces.writer import TraceWriter
from browser import MISSING, Browser, browser
from streams import make_stream

EVIL = "</script><script>document.title='broken'</script><b>&"


@pytest.fixture(scope="module")
def analysis(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    path = str(tmp_path_factory.mktemp("trace") / "t")
    with TraceWriter(FileStore(path), Metadata(program=["prog", EVIL], source="step")) as writer:
        for tid in (7, 8):
            writer.event(0, RowKind.START, tid, {"pid": 7, "parent": None, "comm": EVIL if tid == 8 else "prog"})
            writer.event(0, RowKind.NAMES, tid, {"pid": 7, "names": [[0x400000, EVIL, "prog"]]})
            writer.append(0, tid, *make_stream(tid, 20_000).columns)
            writer.append(1, tid, [0] * 60, [4] * 60, [1] * 60, [0x400010] * 60, [1] * 60, [0x400020] * 60)
    return analyse(Trace(path), parse_events(["intel_bm/rets,threshold=55/"]), {})


@pytest.fixture(scope="module")
def page(analysis: Analysis, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_page(analysis, str(path))
    return path


def test_the_page_names_no_other_place(page: Path) -> None:
    text = page.read_text()
    outside = re.findall(r"""<(?:script|link|img|iframe)[^>]*(?:src|href)=["'](?!data:)[^"']*""", text)
    assert outside == []
    assert EVIL not in text


needs_browser = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory):
    with browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


def show(chromium: Browser, page: Path, width: int, *, dark: bool) -> None:
    chromium.resize(width, 1000, dark=dark)
    chromium.console()
    chromium.requests()
    chromium.open(page.as_uri())
    chromium.wait(f"document.body.dataset.painted === '{'dark' if dark else 'light'}'")
    chromium.wait("Bokeh.documents.every((d) => d.is_idle)")


@needs_browser
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_loads_fits_and_draws(chromium: Browser, page: Path, tmp_path: Path, width: int, dark: bool) -> None:
    show(chromium, page, width, dark=dark)
    assert chromium.console() == []
    asked = [url for url in chromium.requests() if not url.startswith(("data:", "blob:", "chrome:"))]
    assert asked == [page.as_uri()]
    assert chromium.run("return document.documentElement.scrollWidth") == width
    assert chromium.run("return document.title").startswith("prog </script>")
    charts = chromium.run("return document.querySelectorAll('.chart').length")
    assert charts == 2 + 6
    # Every chart has a canvas with ink of more than one colour on it.
    colours = chromium.run(COLOURS)
    assert len(colours) == charts and min(colours) >= 3, colours
    background = chromium.run("return getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", background)[:3])) < 384) == dark
    shot = chromium.screenshot(tmp_path / "shot.png")
    # A blank picture of this size compresses to almost nothing.
    assert len(zlib.compress(shot)) > 15_000


COLOURS = """
const found = [];
function canvases(node) {
  const own = [...node.querySelectorAll('*')];
  const inside = own.filter((e) => e.shadowRoot).flatMap((e) => canvases(e.shadowRoot));
  return own.filter((e) => e.tagName === 'CANVAS').concat(inside);
}
for (const chart of document.querySelectorAll('.chart')) {
  const colours = new Set();
  for (const canvas of canvases(chart)) {
    if (canvas.width === 0) continue;
    const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
    for (let i = 0; i < data.length; i += 4)
      if (data[i + 3] > 200) colours.add(data[i] >> 4 << 8 | data[i + 1] >> 4 << 4 | data[i + 2] >> 4);
  }
  found.push(colours.size);
}
return found;
"""


def tooltip(chromium: Browser) -> str:
    """The text of the tooltip that shows."""
    script = """
    function texts(node) {
      return [...node.querySelectorAll('*')].flatMap((e) => {
        const shown = e.matches('[class*=ooltip]') && e.shadowRoot;
        const own = shown ? [e.shadowRoot.textContent] : [];
        return own.concat(e.shadowRoot ? texts(e.shadowRoot) : []);
      });
    }
    return texts(document.body).join(' ');
    """
    return str(chromium.run(script))


def point(chromium: Browser, chart: int, x: str, y: str) -> tuple[int, int]:
    """Where data coordinates are on the screen, after the chart was scrolled into view."""
    box = chromium.run(
        f"const e = document.querySelectorAll('.chart')[{chart}]; e.scrollIntoView({{block: 'center'}});"
        "const views = Object.values(Bokeh.index.roots ?? Bokeh.index);"
        f"const v = views.find((v) => e.contains(v.el)); const f = v.frame; const r = v.el.getBoundingClientRect();"
        f"return [r.x + f.x_scale.compute({x}), r.y + f.y_scale.compute({y})];"
    )
    return round(box[0]), round(box[1])


def hover(chromium: Browser, x: float, y: float, expected: str) -> str:
    """Move the mouse about a point until the tooltip there says what is expected; what it says at last."""
    deadline = time.monotonic() + 30
    text = ""
    while expected not in text and time.monotonic() < deadline:
        chromium.move(x + 1, y)
        chromium.move(x, y)
        text = tooltip(chromium)
    return text


@needs_browser
def test_hovering_shows_values(chromium: Browser, page: Path, analysis: Analysis) -> None:
    show(chromium, page, 1280, dark=False)
    heat = analysis.heat[0]
    x, y = point(chromium, 2, "'1023'", "'2'")
    chromium.move(x, y)
    chromium.wait("true")
    text = hover(chromium, x, y, f"{heat.trips[0][-1]:,}")
    assert "window" in text and "1023" in text and f"{heat.trips[0][-1]:,}" in text
    mark = analysis.curves[0].marks[0]
    x, y = point(chromium, 0, str(mark.at), str(mark.count))
    text = hover(chromium, x, y, "trip")
    assert "trip" in text and str(mark.count) in text


@needs_browser
def test_a_trip_opens_and_colours_follow(chromium: Browser, page: Path) -> None:
    show(chromium, page, 1280, dark=False)
    assert chromium.run(
        "document.querySelector('#trip1 summary').click(); return document.querySelector('#trip1').open"
    )
    assert chromium.run("return document.querySelectorAll('#trip1 tbody tr').length") > 0
    chromium.resize(1280, 1000, dark=True)
    chromium.wait("document.body.dataset.painted === 'dark'")
    assert chromium.console() == []
