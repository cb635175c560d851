"""Options that the commands for sampling share."""


def check_options(**options):
  """Raises if a value is outside of its (least, most) bounds; skips None."""
  for name, (value, least, most) in options.items():
    if value is None:
      continue
    if not least <= value <= (value if most is None else most):  # NaN too.
      upper = '' if most is None else f' and at most {most}'
      raise ValueError(f'--{name}={value}: expected at least {least}{upper}.')
