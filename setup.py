"""What pyproject.toml cannot say: the wheel carries the flag files, as tf_robust_transfer/flags."""

import pathlib
import shutil

from setuptools import setup
from setuptools.command.build_py import build_py


class WithFlags(build_py):
    def run(self):
        super().run()
        if not self.editable_mode:  # which reads flags/ where it stands
            target = pathlib.Path(self.build_lib, "tf_robust_transfer", "flags")
            shutil.rmtree(target, ignore_errors=True)  # of an earlier build
            shutil.copytree("flags", target)


setup(cmdclass={"build_py": WithFlags})
