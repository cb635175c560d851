"""`rlpt make_questions` against models that often fail, killed ten times.

    python benchmarks/questions.py FOLDER [--documents 2000] [--kills 10]

A server of our own stands for the models. It replies well, or with broken, cut
or missing JSON, with prose, with 429 or 500, drops the connection, or hangs.
First `--sample` estimates the use of all documents. Then the command runs, is
killed with SIGKILL at random moments, and is started again. Prints a line of
JSON: what became of the documents, the use beside the estimate, how many calls
were recorded twice, and how many replies were lost on their way at a kill.
"""

import argparse
import collections
import json
import pathlib
import random
import re
import shutil
import subprocess
import sys
import time

from rlpt_jax.corpus.questions import CALLS
from rlpt_jax.llm import call_records
from tests.corpus.questions_test import say
from tests.llm import scripted_models

ACTS = {
  'good': 60, 'fenced': 10, 'wrong_json': 5, 'cut': 5, 'prose': 5, 'empty': 3,
  'drop': 3, ('status', 500): 4, 'limited': 4, 'hang': 1,
}  # fmt: skip
GIN = """
boxes/sources.Files.name = 'boxes'
boxes/sources.Files.files = '{folder}/documents.jsonl'
boxes/sources.Files.part_bytes = 40000

cleaning.Corpus.sources = [@boxes/sources.Files()]
cleaning.Corpus.folder = '{folder}/out'
cleaning.Corpus.stages = [@questions.Questions()]
questions.Questions.folder = '{folder}/out'
questions.Questions.models = @questions.Models()
questions.Questions.budget = @budget.Budget()
questions.Questions.patience = @remote.Patience()
questions.Models.generate = @remote.Endpoint()
remote.Endpoint.url = '{url}'
remote.Endpoint.model = 'all'
remote.Endpoint.fields = {{'max_tokens': 200, 'temperature': 1, 'seed': 0}}
remote.Patience.timeout = 2.0
remote.Patience.first_delay = 0.05
remote.Patience.concurrency = 16
remote.Patience.open_after = 1000
budget.Budget.max_money = 100.0
budget.Budget.prices = {{'all': @budget.Price()}}
budget.Price.prompt = 2.0
budget.Price.completion = 8.0
"""


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('folder', type=pathlib.Path)
  parser.add_argument('--documents', type=int, default=2000)
  parser.add_argument('--kills', type=int, default=10)
  parser.add_argument('--sample', type=int, default=100)
  args = parser.parse_args()
  folder = args.folder.absolute()
  shutil.rmtree(folder, ignore_errors=True)
  folder.mkdir(parents=True)
  rng = random.Random(0)
  with (folder / 'documents.jsonl').open('w') as file:
    for n in range(args.documents):
      more = ' '.join(['It stands by the wall.'] * rng.randrange(40))
      text = f'{more} Box {n} holds {n} red balls and nothing else.'
      file.write(json.dumps({'text': text.strip()}) + '\n')
  with scripted_models.running(say, scripted_models.mixed(ACTS)) as models:
    gin = folder / 'questions.gin'
    gin.write_text(GIN.format(folder=folder, url=models.url))
    command = [
      sys.executable, '-m', 'rlpt_jax.cli', 'make_questions', str(gin),
    ]  # fmt: skip
    estimated = _money(_output([*command, f'--sample={args.sample}']))
    sampled = len(_replies(folder))
    since, kills = time.monotonic(), 0
    while kills < args.kills:
      process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
      )
      # Until some more calls are recorded; at a random moment after that.
      wanted = len(_replies(folder)) + rng.randrange(100, 500)
      while len(_replies(folder)) < wanted and process.poll() is None:
        time.sleep(0.05)
      if process.poll() is not None:
        sys.exit(f'the run ended after {kills} kills; use more --documents')
      time.sleep(rng.random() / 4)
      process.kill()
      process.wait()
      kills += 1
    text = _output(command)
    seconds = time.monotonic() - since
  keys = collections.Counter(one['key'] for one in _replies(folder))
  manifest = json.loads((folder / 'out' / 'manifest.json').read_text())
  (stage,) = manifest['stages']
  used = _money(text)
  line = {
    'documents': stage['documents'],
    'questions': stage['left'],
    'rejected': stage['dropped'],
    'bad_replies': stage['events'],
    'calls': len(keys),
    'of_the_sample': sampled,
    'recorded_twice': sum(n - 1 for n in keys.values()),
    'kills': kills,
    'lost_on_their_way': sum(models.paid.values()) - len(keys),
    'estimated': estimated,
    'used': used,
    'estimate_over_use': round(estimated / used, 3),
    'seconds': round(seconds, 1),
  }
  print(json.dumps(line))


def _output(command: list[str]) -> str:
  done = subprocess.run(command, capture_output=True, text=True, check=False)
  if done.returncode:
    sys.exit(done.stderr)
  return done.stdout


def _replies(folder: pathlib.Path) -> list[dict]:
  path = folder / 'out' / CALLS
  if not path.exists():
    return []
  return [one for one in call_records.read(path) if 'reply' in one]


def _money(text: str) -> float:
  row = next(
    line for line in text.splitlines() if line.split()[:1] == ['total']
  )
  return float(re.findall(r'[\d.,]+', row)[-1].replace(',', ''))


if __name__ == '__main__':
  main()
