"""A page in a real browser: Chromium without a window, over DevTools.

The page's own policy stays in force; what DevTools evaluates is exempt.
"""

import asyncio
import base64
import json
import os
import pathlib
import shutil
import subprocess
import tempfile

import aiohttp
import pytest

NAMES = (
  'chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable',
  'chrome',
)  # fmt: skip
SECONDS = 300  # A busy machine needs long for little.


def found() -> str:
  """The path of a browser. In CI there must be one; elsewhere its tests are
  left out, and pytest says so in a line.
  """
  path = next(filter(None, map(shutil.which, NAMES)), None)
  if path:
    return path
  message = (
    'tests of pages need a browser and none is in PATH: apt-get install '
    f'chromium (looked for {", ".join(NAMES)})'
  )
  if os.environ.get('CI'):
    pytest.fail(message, pytrace=False)
  pytest.skip(message)


class Browser:
  """A browser and its one tab. `console` is all that it complained of."""

  def __init__(self, path: str):
    self.console: list[str] = []
    self._loop = asyncio.new_event_loop()
    self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
    self._process = subprocess.Popen(
      [
        path, '--headless', '--disable-gpu', '--no-first-run',
        '--remote-debugging-port=0', f'--user-data-dir={self._profile.name}',
        # Chromium's own sandbox refuses to run as root.
        *(['--no-sandbox'] if os.geteuid() == 0 else []),
        # The shared memory of a container is small.
        '--disable-dev-shm-usage', '--disable-background-networking',
        '--disable-component-update', '--disable-sync', '--disable-quic',
        'about:blank',
      ],
      stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    said = []
    for line in self._process.stderr:
      said.append(line)
      if line.startswith('DevTools listening on '):
        break
    else:
      raise RuntimeError(f'the browser did not start: {"".join(said)}')
    self._ids, self._answers, self._loaded = 0, {}, False
    self._run(self._connect(line.split()[-1]))

  def close(self):
    self._run(self._disconnect())
    self._loop.close()
    self._process.kill()
    self._process.wait()
    self._process.stderr.close()
    self._profile.cleanup()

  def open(
    self,
    path: pathlib.Path,
    *,
    address: str = '',
    size: tuple[int, int] = (1280, 900),
    dark: bool = False,
  ):
    """Shows a page; returns when it is loaded."""
    self.console.clear()
    width, height = size
    self.call(
      'Emulation.setDeviceMetricsOverride',
      width=width, height=height, deviceScaleFactor=1, mobile=width < 600,
    )  # fmt: skip
    scheme = {
      'name': 'prefers-color-scheme',
      'value': 'dark' if dark else 'light',
    }
    self.call('Emulation.setEmulatedMedia', features=[scheme])
    # Another address of the same page would not load it again.
    self._visit('about:blank')
    self._visit(path.as_uri() + address)

  def evaluate(self, script: str):
    """What a script comes to; it may await."""
    answer = self.call(
      'Runtime.evaluate',
      expression=f'(async () => {{ {script} }})()',
      awaitPromise=True,
      returnByValue=True,
    )
    assert 'exceptionDetails' not in answer, answer['exceptionDetails']
    return answer['result'].get('value')

  def wait(self, condition: str):
    """Returns when an expression holds."""
    self.evaluate(
      f'while (!({condition})) await new Promise((f) => setTimeout(f, 20));'
    )

  def press(self, key: str):
    for kind in ('keyDown', 'keyUp'):
      self.call('Input.dispatchKeyEvent', type=kind, key=key, code=key)

  def screenshot(self, path: pathlib.Path, *, whole: bool = False):
    answer = self.call('Page.captureScreenshot', captureBeyondViewport=whole)
    path.write_bytes(base64.b64decode(answer['data']))

  def call(self, method: str, **params) -> dict:
    """A command of the DevTools protocol."""
    return self._run(self._call(method, params))

  def _visit(self, address: str):
    self._loaded = False
    self.call('Page.navigate', url=address)

    async def until_loaded():
      while not self._loaded:
        await self._receive()

    self._run(until_loaded())

  def _run(self, coroutine):
    return self._loop.run_until_complete(
      asyncio.wait_for(coroutine, timeout=SECONDS)
    )

  async def _connect(self, address: str):
    self._client = aiohttp.ClientSession()
    self._session = None
    self._socket = await self._client.ws_connect(address, max_msg_size=0)
    targets = await self._call('Target.getTargets', {})
    (page,) = (t for t in targets['targetInfos'] if t['type'] == 'page')
    attached = await self._call(
      'Target.attachToTarget', {'targetId': page['targetId'], 'flatten': True}
    )
    self._session = attached['sessionId']
    for domain in ('Page', 'Runtime', 'Log'):
      await self._call(f'{domain}.enable', {})

  async def _disconnect(self):
    await self._socket.close()
    await self._client.close()

  async def _call(self, method: str, params: dict) -> dict:
    self._ids += 1
    sent = {'id': self._ids, 'method': method, 'params': params}
    if self._session:
      sent['sessionId'] = self._session
    await self._socket.send_str(json.dumps(sent))
    while self._ids not in self._answers:
      await self._receive()
    answer = self._answers.pop(self._ids)
    assert 'error' not in answer, (method, answer)
    return answer['result']

  async def _receive(self):
    message = await self._socket.receive()
    assert message.type == aiohttp.WSMsgType.TEXT, message
    said = json.loads(message.data)
    if 'id' in said:
      self._answers[said['id']] = said
      return
    params = said['params']
    match said['method']:
      case 'Page.loadEventFired':
        self._loaded = True
      case 'Runtime.exceptionThrown':
        details = params['exceptionDetails']
        text = details.get('exception', {}).get('description', '')
        self.console.append(f'{details["text"]} {text}')
      case 'Runtime.consoleAPICalled':
        self.console.append(json.dumps(params['args']))
      case 'Log.entryAdded':
        self.console.append(params['entry']['text'])
