"""Notebooks run from top to bottom, in a kernel of their own."""

import json
import pathlib

import pytest

from tests import compiled

NOTEBOOKS = sorted(
  (pathlib.Path(__file__).parents[1] / 'experiments' / 'notebooks').glob(
    '*.ipynb'
  )
)


# What takes minutes, and what is run instead.
SHORTER = {
  'strict_or_prefix': {
    'texts=4000, demonstrations=8000, held_out=100, questions=100': (
      'texts=400, demonstrations=2000, held_out=20, questions=8'
    ),
    'cold_start.gin --': (
      'cold_start.gin "train_sft.Config.num_steps = 4" --'
    ),
    'rlpt.gin "': (
      'rlpt.gin "train_rl.Config.prompts = 4"'
      ' "held_out.HeldOut.examples = 4" "'
    ),
  },
  'who_chooses': {
    "'texts': 20_000, 'demonstrations': 20_000, 'questions': 200": (
      "'texts': 400, 'demonstrations': 2000, 'questions': 8"
    ),
    "'choices': 20_000, 'predictions': 20_000": (
      "'choices': 2000, 'predictions': 2000"
    ),
    'cold_start.gin --': (
      'cold_start.gin "train_sft.Config.num_steps = 4" --'
    ),
    '.gin "train_rl.Config.num_steps': (
      '.gin "train_rl.Config.prompts = 2"'
      ' "train_rl.Hardware.num_microbatches = 1" "train_rl.Config.num_steps'
    ),
    "for name in ('cold_start', *ARMS)": 'for name in ARMS[:1]',
  },
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path, monkeypatch):
  import nbclient
  import nbformat

  for name, value in compiled.on_one_device().items():
    monkeypatch.setenv(name, value)
  monkeypatch.setenv('NOTEBOOK_STEPS', '2')
  monkeypatch.setenv('NOTEBOOK_WORK', str(tmp_path / 'work'))
  notebook = nbformat.read(path, as_version=4)
  nbformat.validate(notebook)
  for long, short in SHORTER[path.stem].items():
    (cell,) = (cell for cell in notebook.cells if long in cell.source)
    cell.source = cell.source.replace(long, short)
  nbclient.NotebookClient(
    notebook, timeout=None, resources={'metadata': {'path': str(tmp_path)}}
  ).execute()
  drawn = [
    output
    for cell in notebook.cells
    for output in cell.get('outputs', [])
    if 'image/png' in output.get('data', {})
  ]
  assert drawn


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)
def test_what_a_run_left_in_it_names_no_machine(path):
  text = path.read_text()
  assert not any(f'/{name}/' in text for name in ('home', 'tmp', 'root'))
  for cell in json.loads(text)['cells']:
    for output in cell.get('outputs', []):
      assert output.get('name') != 'stderr' and 'ename' not in output
