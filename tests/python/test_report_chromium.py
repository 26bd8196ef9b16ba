"""The report's page in a browser: it loads from the disk, asks for nothing, complains about nothing, and fits."""

from __future__ import annotations

import pytest
from chromium import PROGRAMS, Page, find_chromium, open_chromium
from report_runs import measured, run, stage, with_energy, write_run

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

from edgekern.report.page.write import write_report

PROGRAM = find_chromium()
pytestmark = pytest.mark.skipif(PROGRAM is None, reason=f"none of {', '.join(PROGRAMS)} is installed")
SIZES = """[...document.querySelectorAll('svg')].map(svg => {
  const box = svg.getBoundingClientRect();
  return [box.width, box.height];
})"""
WIDTHS = "[...document.querySelectorAll('svg text')].map(text => text.getBoundingClientRect().width)"
OUTSIDE = """[...document.querySelectorAll('svg text')].filter(text => {
  const svg = text.closest('.card').getBoundingClientRect(), box = text.getBoundingClientRect();
  return box.left < svg.left - 1 || box.right > svg.right + 1;
}).map(text => text.textContent)"""


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """A page with everything on it: several runs, joules, hostile names."""
    folder = tmp_path_factory.mktemp("runs")
    joules = run(
        stage("</style><script>document.title = 'taken'</script>", measured=with_energy(measured(), t2=3.0)),
        stage("b", measured=with_energy(measured(0.9, 0.5), t2=1.0)),
    )
    written = write_report([write_run(folder / "full"), write_run(folder / "joules", joules)], folder / "report")
    return written.page.as_uri()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with open_chromium(PROGRAM, tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


@pytest.mark.parametrize(("width", "theme"), [(1280, "light"), (1280, "dark"), (390, "light")])
def test_the_page_in_a_browser(browser, url, width, theme):
    page = Page(browser, url, width, theme=theme)
    assert page.requests == [url]
    assert page.complaints == []
    assert page.evaluate("document.title") == "2 runs compared"
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true })")
    sizes = page.evaluate(SIZES)
    assert len(sizes) >= 15
    assert all(min(size) > 100 for size in sizes)
    assert min(page.evaluate(WIDTHS)) > 0
    assert page.evaluate(OUTSIDE) == []
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == {"light": "rgb(245, 246, 248)", "dark": "rgb(15, 20, 25)"}[theme]
    words = page.evaluate("getComputedStyle(document.querySelector('svg text')).fill")
    assert words == {"light": "rgb(93, 104, 117)", "dark": "rgb(152, 165, 179)"}[theme]


def test_what_a_page_must_not_do_is_noticed(browser, tmp_path):
    """Otherwise the test above could not fail."""
    (tmp_path / "page.html").write_text("<img src='beside.png'><script>console.error('no')</script>")
    page = Page(browser, (tmp_path / "page.html").as_uri())
    assert page.requests[1:] == [(tmp_path / "beside.png").as_uri()]
    assert len(page.complaints) >= 1
