"""Reports in a browser."""

import pytest

from rlpt_jax.analysis import report_page


@pytest.fixture
def show(browser, tmp_path):
  """Shows runs in the browser, at an address of the page."""

  def show(runs, *, ready='loaded', title='Report', **options):
    path = tmp_path / 'report.html'
    path.write_text(
      ''.join(report_page.report_page(runs, title)), encoding='utf-8'
    )
    browser.open(path, **options)
    browser.wait(ready)
    return browser

  yield show
  assert browser.console == []
