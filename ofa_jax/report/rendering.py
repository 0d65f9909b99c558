"""HTML pages from the templates beside the code that fills them; every value is escaped."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from ofa_jax.report import labels
from ofa_jax.report.images import data_uri

if TYPE_CHECKING:
    import jinja2


@functools.cache
def environment() -> jinja2.Environment:
    """Templates as "<room>/<file>", of `report/templates` and `inspection/templates`."""
    import jinja2  # here, because processes that make no page need none of it

    rooms = ("report", "inspection")
    found = jinja2.Environment(
        loader=jinja2.PrefixLoader(
            {room: jinja2.PackageLoader("ofa_jax", f"{room}/templates") for room in rooms}
        ),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {
        "data_uri": data_uri,
        "metric": labels.format_metric,
        "metric_label": labels.metric_label,
    }
    return found


def page(template: str, **values: object) -> str:
    """A whole page.

    Args:
      template: its name.
      **values: what the template names; texts are escaped, `markupsafe.Markup` is not.
    """
    return environment().get_template(template).render(**values)
