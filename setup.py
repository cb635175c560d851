"""The package, its one command and the versions that were tested together."""

import pathlib
import re

import setuptools

HERE = pathlib.Path(__file__).parent
VERSION = re.search(
  r"__version__ = '(.+)'", (HERE / 'rlpt_jax/__init__.py').read_text()
).group(1)
CORPUS = [
  'rensa>=0.5,<0.6',
  'datatrove>=0.10,<0.11',
  'phonenumbers>=9,<10',
  'py3langid>=0.4,<0.5',
]

setuptools.setup(
  name='rlpt_jax',
  version=VERSION,
  description='Reinforcement learning on raw text, in JAX',
  long_description=(HERE / 'README.md').read_text(),
  long_description_content_type='text/markdown',
  packages=setuptools.find_packages(include=['rlpt_jax', 'rlpt_jax.*']),
  package_data={
    'rlpt_jax.data': ['*.json'],
    'rlpt_jax.corpus': ['question_examples/*.jsonl'],
    'rlpt_jax.quickstart': ['*.gin', 'base/*', 'judge/*'],
    'rlpt_jax.analysis': ['*.css', '*.js'],
  },
  python_requires='>=3.11',
  install_requires=[
    'jax>=0.10.2,<0.13',
    'flax>=0.12,<0.13',  # flax.struct, for pytrees.
    'numpy>=2.0',
    'optax>=0.2.8,<0.3',
    'orbax-checkpoint>=0.12.8,<0.13',
    'tensorstore>=0.1.86,<0.2',  # What Orbax writes with.
    'gin-config>=0.5.0,<0.6',
    'tyro>=1.0,<2',
    'safetensors>=0.6,<1',
    'transformers>=5.0,<6',
    'tokenizers>=0.22,<1',
    'jinja2>=3.1',  # What transformers renders chat templates with.
    'rich>=13',
    'matplotlib>=3.9',
    'scipy>=1.17,<2',  # rlpt fit.
    'aiohttp>=3.14,<4',  # rlpt serve.
    'math-verify>=0.9,<0.10',
    # What reads corpora. The versions depend on each other: Beam needs protobuf
    # 6, with which sentencepiece works only before 0.2.2, and tensorflow-text
    # needs the same version of tensorflow.
    'seqio>=0.0.20,<0.1',
    'tensorflow>=2.21,<2.22',
    'tensorflow-text>=2.21,<2.22',
    'tensorflow-datasets>=4.9.10,<4.10',
    'apache-beam>=2.77,<2.78',
    'protobuf>=6.33.6,<7',
    'sentencepiece>=0.2.1,<0.2.2',
    'nltk>=3.10,<4',
    'pyarrow>=20',
    'zstandard>=0.23',
  ],
  extras_require={
    'cuda': ['jax[cuda12]>=0.10.2,<0.13'],
    # What `rlpt make_corpus` cleans corpora with.
    'corpus': CORPUS,
    'tpu': ['jax[tpu]>=0.10.2,<0.13'],
    # What `rlpt plan --compile` compiles with, on any machine. JAX names the
    # libtpu of its version; the CUDA plugin must have the version of jaxlib.
    'plan-tpu': ['jax[tpu]>=0.10.2,<0.13'],
    'plan-cuda': [
      'jax-cuda12-plugin>=0.10.2,<0.13',
      'jax-cuda12-pjrt>=0.10.2,<0.13',
    ],
    # torch is pinned, since another specifier may fetch gigabytes of CUDA.
    'test': [
      *CORPUS,
      'pytest>=9',
      'pytest-xdist>=3.7',
      'hypothesis>=6',
      'ruff>=0.9',
      'nbclient>=0.10,<0.12',  # Runs experiments/notebooks/.
      'ipykernel>=6,<8',
      'openai>=3.50,<4',  # A client for rlpt serve.
      'torch==2.13.0',
    ],
  },
  entry_points={'console_scripts': ['rlpt = rlpt_jax.cli:main']},
)
