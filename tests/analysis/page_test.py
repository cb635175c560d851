"""The shell of pages: what is foreign stays text, what is packed comes back."""

import base64
import gzip
import json
import re

from rlpt_jax.analysis import page

NASTY = '</script><img src=x onerror=1>"\'& \u202e \x00 \ud800 😀'


def test_shown_text_has_no_way_out():
  assert page.shown('<b> & "\u202e\ud800', 'note') == (
    '<bdi class="note">&lt;b&gt; &amp; &quot;<span class="unseen">\\u202e'
    '</span><span class="unseen">\\ud800</span></bdi>'
  )
  assert page.escaped('"\x00>') == '&quot;\\x00&gt;'


def test_packed_data_come_back_and_have_no_way_out():
  data = {NASTY: [NASTY, None, 1.5]}
  element = page.packed('some', data)
  inside = re.fullmatch(
    r'<script type="text/plain" id="some">([A-Za-z0-9+/=]+)</script>\n', element
  )[1]
  assert json.loads(gzip.decompress(base64.b64decode(inside))) == data
  assert element == page.packed('some', data)  # No time is in it.


def test_a_page_in_parts_is_the_same_page():
  options = {'style': 'p { margin: 0; }', 'script': 'start();'}
  parts = page.parts('t', iter(['<p>a', '</p>']), **options)
  assert ''.join(parts) == page.page('t', '<p>a</p>', **options)


def test_browser_refuses_scripts_that_are_not_the_pages(browser, tmp_path):
  path = tmp_path / 'page.html'
  body = '<p>before</p><script>document.title = "ran"</script>'
  path.write_text(page.page('calm', body, script='document.body.id = "own";'))
  browser.open(path)
  found = browser.evaluate('return [document.title, document.body.id]')
  assert found == ['calm', 'own']
  assert len(browser.console) == 1
  assert 'Content Security Policy' in browser.console[0]
