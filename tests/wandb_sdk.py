"""A run of wandb's SDK that is played: what it was told is kept."""

from __future__ import annotations

from types import SimpleNamespace


class Run:
    """What `wandb.init` returns."""

    def __init__(self, path, offline=True, tags=None):
        self.settings = SimpleNamespace(
            sync_file=str(path), root_dir=str(path.parent), base_url="http://joe:x@h:1/",
            console="off", x_disable_stats=True,
        )  # fmt: skip
        self.id, self.url, self.starting_step = "w1", "http://h:1/w1", 4
        self.offline, self.disabled, self.tags, self.notes = offline, False, tags, None
        self.rows, self.defined, self.codes, self.configs = [], [], [], []
        self.config = SimpleNamespace(update=self._configure)
        self._is_finished = False
        self.hangs = False

    def _configure(self, values, allow_val_change):
        assert allow_val_change
        self.configs.append(values)

    def log(self, values, step=None, commit=False):
        assert commit
        self.rows.append((step, values))

    def define_metric(self, name, **options):
        self.defined.append((name, options))

    def finish(self, exit_code=None):
        if self.hangs:
            raise TimeoutError
        self.codes.append(exit_code)
        self._is_finished = True
