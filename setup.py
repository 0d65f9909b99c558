"""Puts tasks, mixtures and gin files into the wheel, below ofa_jax/bundled."""

import pathlib
import shutil

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithBundledFiles(build_py):
    """An editable installation reads the directories of the checkout instead."""

    def run(self):
        """Copies the top directories of the checkout into the package that is being built."""
        super().run()
        for name in () if self.editable_mode else ("tasks", "mixtures", "gin_configs"):
            target = pathlib.Path(self.build_lib, "ofa_jax", "bundled", name)
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(name, target, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))


setup(cmdclass={"build_py": BuildWithBundledFiles})
