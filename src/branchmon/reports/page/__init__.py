"""A trace's analysis as one page for the browser: no network, no server, light and dark, narrow and wide."""

from branchmon.errors import OutputError
from branchmon.reports.page.document import render
from branchmon.traces.analysis import Analysis


def write_page(analysis: Analysis, path: str) -> None:
    """Write the page.

    :raises OutputError: the file cannot be written.
    """
    text = render(analysis)
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}", slug="report-write") from error
