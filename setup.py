"""The package's metadata; tool settings are in pyproject.toml, the tested versions in constraints.txt."""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent


def read_version() -> str:
    """The version in cvxlayers/_version.py, read as text: importing the package would need what it requires."""
    text = (ROOT / "cvxlayers" / "_version.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)
    if found is None:
        raise RuntimeError('cvxlayers/_version.py has no line __version__ = "..."; setup.py reads the version there.')
    return found.group(1)


# The tests run with the versions in constraints.txt; NumPy and SciPy may be as old as CVXPY 1.9 allows.
REQUIRES = [
    "cvxpy>=1.9.2",  # the first whose dual variables of exponential and Hermitian constraints are right
    "diffcp>=1.1.9",  # older ones lack what the adapter works round
    "scs>=3.3.1",  # older ones do not know the option linear_solver, and 3.3.0 crashes
    "clarabel>=0.11",
    "numpy>=2.0",
    "scipy>=1.13",
    "typer>=0.20",
    "rich>=13.8",
]

TORCH = ["torch>=2.5"]
TENSORFLOW = ["tensorflow>=2.18", "keras>=3"]
JAX = ["jax>=0.8.1"]
# ECOS is licensed under the GPL, version 3. It is installed only where it is asked for by name (and by those who
# work on cvxlayers), so `all` leaves it out.
ECOS = ["ecos>=2.0.14"]
PIQP = ["piqp>=0.6"]
PLOT = ["matplotlib>=3.9"]
FAST = ["numba>=0.61"]

EXTRAS = {
    "torch": TORCH,
    "tensorflow": TENSORFLOW,
    "jax": JAX,
    "ecos": ECOS,
    "piqp": PIQP,
    "plot": PLOT,
    "fast": FAST,
    "dev": [
        "pytest>=8.3",
        "pytest-xdist>=3.6",
        "hypothesis>=6.100",
        "ruff>=0.17",
        "mypy>=2.0",
        "packaging>=24",
        "markdown>=3.6",
        "setuptools>=77",
        "threadpoolctl>=3.5",
        *TORCH,
        "tensorflow-cpu>=2.18; sys_platform != 'darwin'",
        "keras>=3",
        *JAX,
        *ECOS,
        *PIQP,
        *PLOT,
        *FAST,
        "cvxpylayers>=1.2",  # its answers are compared with ours
    ],
    # The site, and the notebooks in it, which run when it is built.
    "docs": [
        "mkdocs>=1.6",
        "mkdocs-material>=9.6",
        "mkdocstrings[python]>=1.0",
        "ruff>=0.17",  # lays out the signatures of the API pages
        "jupytext>=1.16",
        "nbclient>=0.10",
        "nbformat>=5.10",
        "ipykernel>=6.29",
        "latex2mathml>=3.77",
        *TORCH,
        *JAX,
        "keras>=3",
        *PLOT,
        *FAST,
    ],
    "bench": ["cvxpylayers>=1.2", "proxsuite>=0.7", "threadpoolctl>=3.5", *TORCH, *PLOT, *FAST],
    "all": [*TORCH, *TENSORFLOW, *JAX, *PIQP, *PLOT, *FAST],
}

setup(
    name="cvxlayers",
    version=read_version(),
    description="Compile parametrized CVXPY problems into fast, differentiable, batched layers",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="the cvxlayers authors",
    license_expression="Apache-2.0",
    license_files=["LICENSE"],
    packages=find_packages(include=["cvxlayers", "cvxlayers.*"]),
    package_data={"cvxlayers": ["py.typed"]},
    zip_safe=False,
    python_requires=">=3.11",
    install_requires=REQUIRES,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["cvxlayers = cvxlayers.cli:main"]},
    keywords="convex optimization, differentiable optimization, implicit differentiation, CVXPY, PyTorch, JAX, Keras",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Mathematics",
        "Typing :: Typed",
    ],
)
