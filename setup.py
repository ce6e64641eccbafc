"""Everything is in setup.cfg but the README, whose links must work on an index page too."""

import configparser
import re
from pathlib import Path

from setuptools import setup

HERE = Path(__file__).parent


def readme() -> str:
    """The README, with links into the repository where it has links to files beside it."""
    declared = configparser.ConfigParser()
    declared.read(HERE / "setup.cfg", encoding="utf-8")
    files = declared["metadata"]["url"] + "/blob/main/"
    text = (HERE / "README.md").read_text(encoding="utf-8")
    return re.sub(r"\]\((?!https?:|#)", f"]({files}", text)


setup(long_description=readme(), long_description_content_type="text/markdown")
