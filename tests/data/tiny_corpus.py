"""A corpus of TensorFlow Datasets that a test makes."""

import tensorflow as tf
import tensorflow_datasets as tfds


class TinyCorpus(tfds.core.GeneratorBasedBuilder):
  """Forty documents and two more."""

  VERSION = tfds.core.Version('1.0.0')

  def _info(self):
    features = {
      'text': tfds.features.Text(),
      'number': tf.int64,
      'tags': tfds.features.Sequence(tfds.features.Text()),
    }
    return tfds.core.DatasetInfo(
      builder=self, features=tfds.features.FeaturesDict(features)
    )

  def _split_generators(self, _):
    return {
      name: self._generate_examples(count)
      for name, count in (('train', 40), ('test', 2))
    }

  def _generate_examples(self, count):
    for i in range(count):
      text = f'día {i}' if i != 7 else 'N\0L'
      yield i, {'text': text, 'number': i, 'tags': ['a', 'b'][: i % 3]}


# TFDS looks for checksums beside the class, by way of a package which it does
# not require. Of a class of no module it does not.
TinyCorpus.__module__ = 'tiny_corpus'
