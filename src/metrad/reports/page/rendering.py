"""A template of a page, filled with its content, script and styles. It imports no matplotlib and no pandas."""

import base64
import hashlib
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import jinja2
from markupsafe import Markup

from metrad import __version__

Functions = Mapping[str, Callable[..., Any]]


def render_template(
    name: str, content: Mapping[str, Any], filters: Functions | None = None, tests: Functions | None = None
) -> str:
    """Return the HTML of the template ``name`` with its script and styles, and ``content`` escaped.

    Args:
        name: ``report`` or ``batch``.
        content: values of the template's variables.
        filters: further filters of the template, by name.
        tests: further tests of the template, by name.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("metrad.reports.page"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(filters or {})
    environment.tests.update(tests or {})
    script, styles = (_static(environment, f"{name}.{kind}") for kind in ("js", "css"))
    return environment.get_template(f"{name}.html.j2").render(
        **content,
        script=Markup(script),  # noqa: S704 (a file of the package, like the next one)
        styles=Markup(styles),  # noqa: S704
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        made=f"metrad {__version__}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    )


def _static(environment: jinja2.Environment, name: str) -> str:
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]
