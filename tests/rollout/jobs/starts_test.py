"""Where a learner is, and which of its weights were lost."""

import dataclasses
import stat

import pytest

from rlpt_jax.core.run_files import SAMPLERS
from rlpt_jax.rollout.jobs import starts
from rlpt_jax.rollout.jobs.starts import NO_VERSION, Contact, Start


def test_what_is_written_is_read(tmp_path):
  assert starts.read(tmp_path) is None
  first = starts.following(None, host='learner', version=0)
  starts.write(tmp_path, dataclasses.replace(first, port=7))
  found = starts.read(tmp_path)
  assert found == dataclasses.replace(first, port=7)
  second = starts.following(found, host='elsewhere', version=5)
  starts.write(tmp_path, dataclasses.replace(second, over=9))
  found = starts.read(tmp_path)
  assert (found.versions, found.number, found.over) == ((0, 5), 1, 9)
  assert len(found.secret) == 32 and found.secret != first.secret


def test_only_the_owner_may_read_the_secret(tmp_path):
  for _ in range(2):
    starts.write(tmp_path, starts.following(None, host='h', version=0))
    mode = (tmp_path / SAMPLERS).stat().st_mode
    assert stat.S_IMODE(mode) == 0o600
    (tmp_path / SAMPLERS).chmod(0o644)  # As in a copy of the folder.


@pytest.mark.parametrize('text', ['', '{'])
def test_a_file_that_is_half_written_is_none(tmp_path, text):
  (tmp_path / SAMPLERS).write_text(text)
  assert starts.read(tmp_path) is None


def test_the_weights_of_a_start_are_lost_from_where_a_later_one_began():
  all_versions = (0, 6, 4, 9)
  of_run = [
    Start('host', 1, f'secret {i}', all_versions[: i + 1]) for i in range(4)
  ]
  assert of_run[3].number == 3
  # The third start began with version 4, after 6 of the second was lost.
  assert [of_run[3].newest_of(earlier) for earlier in of_run] == [4, 4, 9, None]


@pytest.mark.parametrize('versions', [(0, 6), (0, 6, 7), (3,)])
def test_of_another_run_in_the_folder_everything_was_lost(versions):
  start = Start('host', 1, 'secret', (0, 6))
  assert start.newest_of(Start('host', 1, 'other', versions)) == NO_VERSION


def test_a_contact_that_makes_no_sense_is_refused():
  with pytest.raises(ValueError, match=r'Contact.lease_s=0'):
    Contact(lease_s=0)
  with pytest.raises(ValueError, match=r'port=65536: expected .* up to 65535'):
    Contact(port=65536)


def test_a_machine_whose_name_leads_nowhere_needs_another(monkeypatch):
  monkeypatch.setattr(starts.socket, 'gethostname', lambda: 'x.invalid')
  with pytest.raises(ValueError, match=r"itself 'x.invalid'.*Contact.host"):
    starts.own_name()
