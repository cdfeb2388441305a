"""Writes docs/configuration.md from the settings: `python -m service.settings_page > docs/configuration.md`.

Knows only the fields and their descriptions. `settings.py` reads what the page describes.
"""

from __future__ import annotations

from service.limits import MIB
from service.settings import CONFIG_VARIABLE, DEFAULT_FILE, Settings, default_text, flag, variable

INTRODUCTION = f"""\
# Configuration

<!-- Written by `python -m service.settings_page > docs/configuration.md` from service/settings.py: change that. -->

Every setting can be given in three places. The first of these that names it holds:

1. a flag of `torchere serve`: `--http-port 9000`, `--access-log`, `--no-access-log`; a list repeats its flag;
2. an environment variable: `TORCHERE_HTTP_PORT=9000`; a list is separated by commas; an empty one counts as not set;
3. a line in a YAML file: `http_port: 9000`. The file is the one that `--config` or `{CONFIG_VARIABLE}` names, else
   `{DEFAULT_FILE}` in the working directory where there is one.

Settings are read once, when the server starts. A key, flag or variable that is almost a setting is refused with the
nearest right name, and a wrong value with the place where it stands:

```
Error: torchere.yaml:3: unknown key 'http_prot': did you mean 'http_port'?
Error: TORCHERE_THREADS: threads must be a valid integer, not 'many'
```

What concerns one model (batching, compile options, labels) stands in its `model.yaml`: see
[the model repository](model-repository.md).

| Flag | Variable | Key in the file | Default | Meaning |
|---|---|---|---|---|
"""

EXAMPLE = """
An example file:

```yaml
# torchere.yaml
model_repository: /srv/models
models: [digits, efficientnet_lite0]
host: 0.0.0.0
cache_dir: /var/cache/torchere
log_format: json
drain_timeout_s: 60
```
"""


def configuration_page() -> str:
    """The page as markdown."""
    return INTRODUCTION + "".join(_row(name) for name in Settings.model_fields) + EXAMPLE


def _row(name: str) -> str:
    field = Settings.model_fields[name]
    default = default_text(name) + (f" ({field.default // MIB} MiB)" if name == "max_body_bytes" else "")
    switch = f"`{flag(name)}`, `--no-{name.replace('_', '-')}`" if field.annotation is bool else f"`{flag(name)}`"
    return f"| {switch} | `{variable(name)}` | `{name}` | {default} | {field.description} |\n"


if __name__ == "__main__":
    print(configuration_page(), end="")
