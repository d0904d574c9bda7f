"""HTML pages from jinja2 templates. Each page is one file that asks the network for nothing."""

import base64
import hashlib
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

PACKAGE = Path(__file__).resolve().parents[1]
SIGNATURES = (  # the first bytes of a file, and its media type
    (b"\x89PNG", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"<svg", "image/svg+xml"),
    (b"<?xml", "image/svg+xml"),
)


def render(template: str, **context: Any) -> str:
    """The page as text; equal arguments give equal bytes.

    Every text of `context` is escaped. A template extends pages/base.html and lists in `styles` and
    `scripts` the CSS and JavaScript files that become part of the page.

    Args:
        template: its path below the package, as all paths in templates: "report/page.html".
    """
    page = _environment().get_template(template).render(context)
    # A file name that is not UTF-8 holds lone surrogates, which no file can: show them as \udcff.
    return page.encode("utf-8", "backslashreplace").decode("utf-8")


def data_uri(image: bytes) -> str:
    """An image (PNG, JPEG or SVG) as an address that holds it."""
    for signature, media_type in SIGNATURES:
        if image.startswith(signature):
            return f"data:{media_type};base64,{base64.b64encode(image).decode('ascii')}"
    raise ValueError(f"an image must be PNG, JPEG or SVG, but it starts with {image[:8]!r}")


def pack(data: bytes) -> str:
    """Zlib, then base64: what `DecompressionStream("deflate")` of a browser reads back."""
    return base64.b64encode(zlib.compress(data, 9)).decode("ascii")


def file_text(name: str) -> Markup:
    """The text of a file of the package, not escaped."""
    return Markup((PACKAGE / name).read_text(encoding="utf-8"))


def allowed_sources(names: Sequence[str]) -> Markup:
    """For a Content-Security-Policy: allows these files' texts inside the page and nothing else."""
    if not names:
        return Markup("'none'")
    return Markup(" ").join(allowed_text(file_text(name)) for name in names)


def allowed_text(text: str) -> Markup:
    """For a Content-Security-Policy: allows this text as a script or a style sheet of the page."""
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return Markup(f"'sha256-{base64.b64encode(digest).decode('ascii')}'")


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(PACKAGE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["data_uri"] = data_uri
    environment.globals["file_text"] = file_text
    environment.globals["allowed_sources"] = allowed_sources
    environment.globals["allowed_text"] = allowed_text
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False}
    return environment
