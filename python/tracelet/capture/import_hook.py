"""Something done when a module is imported: by others, and with its own loader."""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # not importlib.abc: it takes 7 ms, a sixth of what importing tracelet may
    import importlib.machinery

Callback = Callable[[types.ModuleType], None]


class ImportHook:
    """Calls `after(module)` when the module `name` has been imported, at once if it is already.

    `before(module)` is called before its code runs, which with `importlib.reload` is that of a
    module in use. Neither may raise: that would fail the import. Imports of other modules pass by.
    """

    def __init__(self, name: str, before: Callback, after: Callback) -> None:
        self._name = name
        self.before = before
        self.after = after
        # First the hook, then the look at what is there: an import meanwhile is seen twice at most.
        sys.meta_path.insert(0, self)
        if sys.modules.get(name) is not None:
            after(importlib.import_module(name))  # waits for a thread that is still importing it

    def remove(self) -> None:
        """From now on imports are as before. Does nothing a second time."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: types.ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._name:
            return None
        # Those behind this one: another hook that asks the rest in turn would ask us for ever.
        finders = list(sys.meta_path)
        for finder in finders[finders.index(self) + 1 :] if self in finders else ():
            find_spec = getattr(finder, "find_spec", None)  # absent in finders for old Pythons
            if find_spec is None:
                continue
            spec: importlib.machinery.ModuleSpec | None = find_spec(fullname, path, target)
            if spec is not None:
                is_ours = isinstance(spec.loader, _Loader) and spec.loader.hook is self
                if hasattr(spec.loader, "exec_module") and not is_ours:
                    spec.loader = _Loader(self, spec.loader)  # type: ignore[assignment]
                return spec
        return None


class _Loader:
    """Stands for the real loader until the module's code runs."""

    def __init__(self, hook: ImportHook, loader: Any) -> None:
        self.hook = hook
        self._loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType | None:
        return self._loader.create_module(spec)  # type: ignore[no-any-return]

    def exec_module(self, module: types.ModuleType) -> None:
        # The module keeps no trace of us: inspect and importlib.resources ask its loader.
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self.hook.before(module)
        self._loader.exec_module(module)
        self.hook.after(module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)
