"""For the API pages: where a package exports a name that one of its modules has, too, the name means what is exported.

That is what Python says after the package's import statements; griffe, which reads the sources without running them,
takes the module.
"""

from __future__ import annotations

from typing import Any

from griffe import Alias, Extension, Module

__all__ = ["Exports"]


class Exports(Extension):
    """Put what is exported in the place of modules of the same name."""

    def on_package(self, *, pkg: Module, **kwargs: Any) -> None:
        """Called when all modules of a package have been read."""
        found, pending = [], [pkg]
        while pending:
            package = pending.pop()
            for name, member in package.members.items():
                if isinstance(member, Module):
                    pending.append(member)
                    target = package.imports.get(name, member.path)
                    if target != member.path:
                        found.append((package, name, pkg[target.removeprefix(f"{pkg.path}.")]))
        for package, name, target in found:  # afterwards, since names are looked up through the modules
            package.members[name] = Alias(name, target, parent=package)
