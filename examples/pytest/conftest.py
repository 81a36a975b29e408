"""The fixtures of pyctrd for the tests in this folder."""

pytest_plugins = ["pyctrd.pytest_plugin"]
