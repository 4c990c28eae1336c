"""The subcommands of `tracelet`, one module each. See `tracelet.cli` for what a module has."""
