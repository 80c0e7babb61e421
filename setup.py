"""Installs the package btw_backup and the command btw-backup."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
lines = [line.partition("#")[0].strip() for line in (HERE / "requirements.txt").read_text().splitlines()]
OPTIONAL = '; extra == "lock"'

setup(
    name="btw-backup",
    version="3.0.0",
    description="Backups of trees, PostgreSQL databases and more that plain tools can read, and their restores",
    long_description=(HERE / "README.rst").read_text() if (HERE / "README.rst").exists() else "",
    license="MIT",
    python_requires=">=3.11",
    packages=find_packages(include=["btw_backup", "btw_backup.*"]),
    package_data={"btw_backup.store.rescue": ["README.txt"], "btw_backup.offsite.rescue": ["README.txt"]},
    install_requires=[line for line in lines if line and not line.endswith(OPTIONAL)],
    extras_require={"lock": [line.removesuffix(OPTIONAL) for line in lines if line.endswith(OPTIONAL)]},
    entry_points={"console_scripts": ["btw-backup = btw_backup.cli:run"]},
)
