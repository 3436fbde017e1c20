"""The daily tasks: `nox` checks format, lint rules and types, and runs the fast tests; `nox -l` lists all sessions."""

import nox

nox.options.sessions = ["lint", "types", "fast"]
nox.options.default_venv_backend = "uv|venv"
nox.options.reuse_existing_virtualenvs = True


@nox.session(name="format")
def format_code(session: nox.Session) -> None:
    """Format the code and fix what ruff can fix."""
    session.install("ruff>=0.14")
    session.run("ruff", "check", "--fix", ".")
    session.run("ruff", "format", ".")


@nox.session
def lint(session: nox.Session) -> None:
    """Check the format and the lint rules."""
    session.install("ruff>=0.14")
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Check the types."""
    session.install("-e", ".[test]")
    session.run("mypy")


@nox.session
def fast(session: nox.Session) -> None:
    """Run the fast tests: no Docker Engine, no network."""
    session.install("-e", ".[test]")
    session.run("pytest", "-m", "fast", "-n", "auto", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Run all tests. Those that need a Docker Engine are skipped without one."""
    session.install("-e", ".[test]")
    session.run("pytest", "-n", "auto", *session.posargs)


@nox.session
def build(session: nox.Session) -> None:
    """Build the wheel and the source distribution into dist/."""
    session.install("build")
    session.run("python", "-m", "build")


@nox.session
def docs(session: nox.Session) -> None:
    """Write the generated pages and build the documents into site/."""
    session.install("-e", ".[docs]")
    session.run("python", "tools/generate_docs.py")
    session.run("zensical", "build", "--clean", "--strict")


@nox.session
def coverage(session: nox.Session) -> None:
    """Measure which lines and branches the tests run, also in the processes that they start, but not in containers."""
    session.install("-e", ".[test]", "coverage>=7.10")
    session.run("coverage", "run", "-m", "pytest", "-n", "auto", *session.posargs)
    session.run("coverage", "combine", "--quiet")
    session.run("coverage", "report", "--skip-covered", "--show-missing")
