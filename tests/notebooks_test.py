"""Notebooks run from top to bottom, in a kernel of their own."""

import json
import pathlib

import pytest

NOTEBOOKS = sorted(
  (pathlib.Path(__file__).parents[1] / 'experiments' / 'notebooks').glob(
    '*.ipynb'
  )
)


@pytest.mark.slow
@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path, monkeypatch):
  import nbclient
  import nbformat

  # Two steps of what takes minutes.
  monkeypatch.setenv('NOTEBOOK_STEPS', '2')
  monkeypatch.setenv('NOTEBOOK_WORK', str(tmp_path / 'work'))
  notebook = nbformat.read(path, as_version=4)
  nbformat.validate(notebook)
  nbclient.NotebookClient(
    notebook, timeout=600, resources={'metadata': {'path': str(tmp_path)}}
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
